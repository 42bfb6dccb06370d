"""What the processes count about themselves, and the middleware that counts requests and names each one.

Owns the metric objects; `config.health` answers `/metrics`. Every label has a small, fixed set of values: never an
organization, customer, path or message. Does not own anything that is billed: that is `metering.queries`.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponse
from prometheus_client import Counter, Histogram

REQUESTS = Counter("meterbook_http_requests", "HTTP requests answered.", ["method", "status"])
REQUEST_SECONDS = Histogram(
    "meterbook_http_request_seconds",
    "Time to answer an HTTP request.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
INGEST_EVENTS = Counter("meterbook_ingest_events", "Events received, by what became of them.", ["verdict"])
METERING_ERRORS = Counter(
    "meterbook_metering_errors",
    "Requests whose metering expression gave no usable number, by why, and by what their route does then.",
    ["code", "policy"],
)
ROLLUP_BATCHES = Counter("meterbook_rollup_batches", "Ingest batches added to the rollups.")
ROLLUP_EVENTS = Counter("meterbook_rollup_events", "Events added to the rollups.")
CROSSINGS = Counter("meterbook_alerts_fired", "Crossings of thresholds recorded.")
DELIVERIES = Counter("meterbook_webhook_attempts", "Webhook requests sent, by what came of them.", ["outcome"])
STRIPE_REPORTS = Counter("meterbook_stripe_reports", "Usage reports sent to Stripe, by what it answered.", ["answer"])
STRIPE_DRIFTS = Counter("meterbook_stripe_drifts", "Days found of which Stripe counts something else than the ledger.")
USAGE_MISMATCHES = Counter(
    "meterbook_usage_mismatches", "Billed usages found to differ between events, rollups, invoices and reports."
)
TASKS = Counter("meterbook_tasks", "Background tasks finished, by name and outcome.", ["task", "outcome"])

REQUEST_ID_HEADER = "X-Request-Id"
SLOW_REQUEST_SECONDS = 5.0
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# No id: of letters alone, and short.
_PLAIN_WORD = re.compile(r"[a-z]{1,12}\Z")
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")

logger = structlog.get_logger("meterbook.request")


class RequestTelemetryMiddleware:
    """Give the request an id (the caller's own, if sane), echo it, count the answer, and log what went wrong.

    Costs about 20 µs, which matters at batch size 1; django-structlog's costs ten times that. A request is logged
    only if it failed or was slow: the counters tell the rest.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        started = time.perf_counter()
        sent_id = request.META.get("HTTP_X_REQUEST_ID", "")
        request_id = sent_id if _ACCEPTABLE_ID.match(sent_id) else secrets.token_hex(8)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)

        response = self.get_response(request)

        seconds = time.perf_counter() - started
        method = request.method if request.method in _METHODS else "other"
        REQUESTS.labels(method, response.status_code).inc()
        REQUEST_SECONDS.labels(method).observe(seconds)
        response.headers[REQUEST_ID_HEADER] = request_id
        if response.status_code >= 500 or seconds >= SLOW_REQUEST_SECONDS:
            logger.warning(
                "request failed" if response.status_code >= 500 else "request was slow",
                method=method,
                route=_route_of(request),
                status=response.status_code,
                ms=round(seconds * 1000),
            )
        return response


def _route_of(request: HttpRequest) -> str:
    """Return the pattern that the path matched: the path itself may name a person. Unmatched, its first word alone."""
    match = request.resolver_match
    if match is not None:
        return f"/{match.route}"
    word = request.path.split("/", 2)[1:2]
    return f"/{word[0]}/…" if word and _PLAIN_WORD.match(word[0]) else "/…"


class RouteInsteadOfPath(logging.Filter):
    """Write the pattern for the path also where Django itself logs that a request failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = getattr(record, "request", None)
        if isinstance(request, HttpRequest) and isinstance(record.args, tuple):
            record.args = tuple(_route_of(request) if value == request.path else value for value in record.args)
        return True
