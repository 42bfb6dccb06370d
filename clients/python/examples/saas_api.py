"""An HTTP API with several tenants, whose middleware records every request with its endpoint and status.

Recording costs the request nothing: a buffer sends in the background. The request's id is the event's key, so a
request that a proxy repeats, or a second run of this program, counts once.
"""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

from meterbook import AlreadyExistsError, BufferedIngest, Client, Event, current_month

METRIC = "http_requests"
# Tenant, path and how often.
TRAFFIC = [("initech", "/search", 5), ("initech", "/reports", 2), ("hooli", "/search", 3), ("hooli", "/missing", 1)]


class Metering:
    """WSGI middleware: one event per request, recorded when the status is known."""

    def __init__(self, application: Callable[..., Iterable[bytes]], buffer: BufferedIngest) -> None:
        self.application = application
        self.buffer = buffer

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def record_and_start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            self.buffer.add(
                Event(
                    idempotency_key=environ["HTTP_X_REQUEST_ID"],
                    customer=environ["HTTP_X_TENANT"],
                    metric=METRIC,
                    timestamp=current_month().start,  # so that a second run sends the same; leave it out in earnest
                    properties={"endpoint": environ["PATH_INFO"], "status": status.partition(" ")[0]},
                )
            )
            return start_response(status, headers, *more)

        return self.application(environ, record_and_start)


def api(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    known = environ["PATH_INFO"] in {"/search", "/reports"}
    start_response("200 OK" if known else "404 Not Found", [("Content-Type", "text/plain")])
    return [b"found\n" if known else b"nothing here\n"]


def play_traffic(application: Callable[..., Iterable[bytes]]) -> None:
    """Call the application as a web server would."""
    for tenant, path, count in TRAFFIC:
        for number in range(count):
            request_id = f"{current_month().start:%Y-%m}:{tenant}:{path}:{number}"
            environ: dict[str, Any] = {"PATH_INFO": path, "HTTP_X_TENANT": tenant, "HTTP_X_REQUEST_ID": request_id}
            setup_testing_defaults(environ)
            b"".join(application(environ, lambda status, headers, error=None: None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("METERBOOK_URL", "http://localhost:8000"))
    parser.add_argument("--api-key", default=os.environ.get("METERBOOK_API_KEY"), help="METERBOOK_API_KEY")
    options = parser.parse_args()

    with Client(options.url, options.api_key) as client:
        with contextlib.suppress(AlreadyExistsError):
            client.metrics.create(METRIC, "count", unit="request", dimensions=["endpoint", "status"])

        with client.buffered() as buffer:
            play_traffic(Metering(api, buffer))

        rows = client.breakdown(metric=METRIC, group_by=["customer", "endpoint"], filters={"status": "200"})
        served = {f"{row.group['customer']} {row.group['endpoint']}": str(row.value) for row in rows}
        total = client.query(metric=METRIC)
        print(json.dumps({"served": served, "all_requests": str(total.value), "rejected": buffer.counters.rejected}))


if __name__ == "__main__":
    main()
