"""An API that stops serving customers at their cap, without asking the server for every request.

The metric declares a hard cap. `UsageCaps` follows the alerts, the middleware answers capped customers 402 and records
the requests of the others. The program serves the API and calls it itself until it is refused.
"""

import argparse
import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable
from http.client import HTTPConnection
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from meterbook import AlreadyExistsError, Client, Threshold
from meterbook.enforcement import Enforcement, UsageCaps, WSGIEnforcement

METRIC = "api_calls"
HARD_CAP = 20


def api(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The product that is sold; it knows nothing of billing."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"42\n"]


def customer_of(environ: dict[str, Any]) -> str | None:
    """Who calls: behind a real gateway, whoever has signed in."""
    return environ.get("HTTP_X_CUSTOMER")


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(application: Any) -> WSGIServer:
    server = make_server("127.0.0.1", 0, application, handler_class=QuietHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def call(port: int, customer: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers={"X-Customer": customer})
    answer = connection.getresponse()
    return answer.status, answer.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("METERBOOK_URL", "http://localhost:8000"))
    parser.add_argument("--api-key", default=os.environ.get("METERBOOK_API_KEY"), help="METERBOOK_API_KEY")
    parser.add_argument("--customer", default="cust_42")
    parser.add_argument("--seconds", type=float, default=60, help="give up after so long")
    options = parser.parse_args()

    with Client(options.url, options.api_key) as client:
        with contextlib.suppress(AlreadyExistsError):
            client.metrics.create(METRIC, "count", thresholds=[Threshold("hard_cap", HARD_CAP)])

        buffer = client.buffered(flush_interval=0.2, when_full="drop_newest")
        with UsageCaps(client, thresholds={"hard_cap"}, metrics=METRIC) as caps:
            caps.wait_until_ready(30)
            enforcement = Enforcement(caps, buffer, metric=METRIC)
            server = serve(WSGIEnforcement(api, enforcement, customer_of=customer_of))

            served, deadline = 0, time.monotonic() + options.seconds
            status, body = call(server.server_port, options.customer)
            while status == 200 and time.monotonic() < deadline:
                served += 1
                time.sleep(0.05)
                status, body = call(server.server_port, options.customer)
            server.shutdown()

        buffer.close()
        usage = client.query_realtime(options.customer, METRIC)
        refusal = json.loads(body) if status == 402 else None
        print(json.dumps({"served": served, "status": status, "refusal": refusal, "usage": str(usage.value)}))


if __name__ == "__main__":
    main()
