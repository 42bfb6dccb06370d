"""A server of one's own that behaves like Stripe's meter endpoints, over real HTTP on loopback.

It keeps state, and it keeps to the rules that reporting depends on, each with its source. Faults are planned by a test
in the order in which calls meet them. What it was not written for it answers with 404, so that no test can pass on an
endpoint that it does not know.

Sources:
[create]      https://docs.stripe.com/api/billing/meter-event/create (as in `stripe` 16.1.0's own docstrings)
[recording]   https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api
[digits]      https://docs.stripe.com/changelog/dahlia/2026-04-22/billing-meter-event-values-validation
[idempotency] https://docs.stripe.com/api/idempotent_requests
[errors]      https://docs.stripe.com/api/errors
[duplicate]   what Stripe answered to others: https://github.com/langfuse/langfuse/pull/16292
[summaries]   https://docs.stripe.com/api/billing/meter-event-summary/list
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

DAY = timedelta(hours=24)


class Fault(StrEnum):
    """What goes wrong with one call."""

    # The connection ends before anything is counted; and after it is, before the answer.
    DROP_BEFORE = "drop before"
    DROP_AFTER = "commit, then drop"
    ERROR_BEFORE = "500 and nothing counted"
    ERROR_AFTER = "500 although it was counted"
    THROTTLE = "429"


@dataclass(frozen=True)
class StoredEvent:
    identifier: str
    event_name: str
    customer: str
    value: Decimal
    timestamp: int
    received_at: datetime


@dataclass(frozen=True)
class Reply:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call as it came in."""

    method: str
    path: str
    form: dict[str, str]
    idempotency_key: str
    authorization: str


def refuse(status: int, message: str, *, code: str = "", param: str = "", kind: str = "invalid_request_error") -> Reply:
    error = {"type": kind, "message": message} | ({"code": code} if code else {}) | ({"param": param} if param else {})
    return Reply(status, {"error": error}, {"stripe-should-retry": "false"})


class FakeStripe:
    """One account. `now` is its clock, which a test moves."""

    def __init__(self, *, key: str = "sk_test_fake", now: Callable[[], datetime]) -> None:
        self.key, self.now = key, now
        self.customers: set[str] = set()
        # Event name → the meter.
        self.meters: dict[str, dict[str, Any]] = {}
        self.events: list[StoredEvent] = []
        self.calls: list[Call] = []
        self.faults: list[Fault | None] = []
        # Summaries show only events received so long ago.
        self.summary_lag = timedelta(0)
        self.before_answer: Callable[[Call], None] = lambda call: None
        self._replies: dict[str, tuple[datetime, dict[str, str], Reply]] = {}
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer goes out as a whole: in two pieces the second would wait for the first one's receipt.
            wbufsize = -1

            def do_GET(self) -> None:
                fake._handle(self)

            def do_POST(self) -> None:
                fake._handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeStripe:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # --- what tests set up and look at ------------------------------------------------------------

    def add_customer(self, customer: str) -> None:
        self.customers.add(customer)

    def add_meter(self, event_name: str, *, formula: str = "sum", window: str | None = None) -> None:
        self.meters[event_name] = {
            "id": f"mtr_{event_name}",
            "object": "billing.meter",
            "event_name": event_name,
            "status": "active",
            "default_aggregation": {"formula": formula},
            "event_time_window": window,
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }

    def total(self, customer: str, event_name: str) -> Decimal:
        events = [event for event in self.events if (event.customer, event.event_name) == (customer, event_name)]
        return sum((event.value for event in events), Decimal(0))

    # --- HTTP -------------------------------------------------------------------------------------

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        target = urlsplit(handler.path)
        pairs = parse_qs(handler.rfile.read(length).decode() if length else target.query)
        call = Call(
            method=handler.command,
            path=target.path,
            form={name: values[-1] for name, values in pairs.items()},
            idempotency_key=handler.headers.get("Idempotency-Key", ""),
            authorization=handler.headers.get("Authorization", ""),
        )
        with self._lock:
            self.calls.append(call)
            is_event = call.path == "/v1/billing/meter_events"
            fault = self.faults.pop(0) if self.faults and is_event else None
            reply = self._answer(call, fault)
        self.before_answer(call)
        if reply is None:
            handler.close_connection = True
            handler.connection.close()
            return
        content = json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _answer(self, call: Call, fault: Fault | None) -> Reply | None:
        """Return the answer; None: the connection just ends."""
        if fault == Fault.DROP_BEFORE:
            return None
        if fault == Fault.THROTTLE:
            # Nothing is counted, and the package does not repeat it by itself. [errors] [recording]
            return refuse(429, "Request rate limit exceeded", code="rate_limit")
        if call.authorization != f"Bearer {self.key}":
            return refuse(401, f"Invalid API Key provided: {call.authorization[7:15]}***")  # [errors]
        reply = self._execute(call, fault)
        return None if fault == Fault.DROP_AFTER else reply

    def _execute(self, call: Call, fault: Fault | None) -> Reply:
        match call.method, call.path.split("/")[2:]:
            case "POST", ["billing", "meter_events"]:
                return self._execute_once(call, fault)
            case "GET", ["billing", "meters"]:
                return _list(self.meters.values())
            case "GET", ["billing", "meters", meter, "event_summaries"]:
                return self._summarize(meter, call.form)
            case "GET", ["customers", customer] if customer in self.customers:
                return Reply(200, {"id": customer, "object": "customer"})
        return refuse(404, f"Unrecognized request URL or no such object: {call.path}", code="resource_missing")

    def _execute_once(self, call: Call, fault: Fault | None) -> Reply:
        """A key seen within 24 hours repeats its first answer, also a 500, and refuses other parameters. Refusals that
        come before the work begins are not kept. [idempotency]"""
        known = self._replies.get(call.idempotency_key)
        if known is not None and self.now() - known[0] < DAY:
            if known[1] != call.form:
                return refuse(400, "Keys for idempotent requests can only be used once.", kind="idempotency_error")
            return known[2]
        refused = self._validate(call.form)
        if refused is not None:
            return refused
        reply = Reply(500, {"error": {"type": "api_error", "message": "Something went wrong."}})
        if fault != Fault.ERROR_BEFORE:
            stored = self._store(call.form)
            reply = stored if fault != Fault.ERROR_AFTER else reply
        if call.idempotency_key:
            self._replies[call.idempotency_key] = (self.now(), call.form, reply)
        return reply

    # --- meter events -----------------------------------------------------------------------------

    def _validate(self, form: dict[str, str]) -> Reply | None:
        meter = self.meters.get(form.get("event_name", ""))
        if meter is None or meter["status"] != "active":
            return refuse(400, f"No active meter found for event name {form.get('event_name')}.", param="event_name")
        customer = form.get("payload[stripe_customer_id]", "")
        if customer not in self.customers:
            return refuse(400, f"No such customer: '{customer}'", code="resource_missing", param="payload")
        # At most 15 significant digits; a payload's values are texts. [digits] [create]
        value = form.get("payload[value]", "")
        digits = value.lstrip("-").replace(".", "").lstrip("0")
        if "." not in value:
            digits = digits.rstrip("0")
        if len(digits) > 15:
            message = f"The value in the event payload can have at most 15 digits. Received {value}."
            return refuse(400, message, code="meter_event_value_too_many_digits")
        # Within the past 35 calendar days and up to 5 minutes ahead; without one, now. [create] [recording]
        at = datetime.fromtimestamp(int(form.get("timestamp") or self.now().timestamp()), UTC)
        if at < self.now() - timedelta(days=35):
            return refuse(400, "The timestamp is too far in the past.", code="timestamp_too_far_in_past")
        if at > self.now() + timedelta(minutes=5):
            return refuse(400, "The timestamp is too far in the future.", code="timestamp_in_future")
        # Unique within a rolling period of at least 24 hours, and a repetition is a 400. [create] [duplicate]
        identifier = form.get("identifier")
        if any(event.identifier == identifier and self.now() - event.received_at < DAY for event in self.events):
            return refuse(400, f"An event already exists with identifier {identifier}.")
        return None

    def _store(self, form: dict[str, str]) -> Reply:
        event = StoredEvent(
            identifier=form.get("identifier") or f"generated-{len(self.events)}",  # [create]
            event_name=form["event_name"],
            customer=form["payload[stripe_customer_id]"],
            value=Decimal(form["payload[value]"]),
            timestamp=int(form.get("timestamp") or self.now().timestamp()),  # [create]
            received_at=self.now(),
        )
        self.events.append(event)
        payload = {"stripe_customer_id": event.customer, "value": form["payload[value]"]}
        body = {
            "object": "billing.meter_event",
            "created": int(self.now().timestamp()),
            "event_name": event.event_name,
            "identifier": event.identifier,
            "livemode": False,
            "payload": payload,
            "timestamp": event.timestamp,
        }
        return Reply(200, body)

    def _summarize(self, meter: str, form: dict[str, str]) -> Reply:
        """One number over the range or per day, a float, of what has been aggregated so far. Whole minutes, and whole
        UTC days where it is per day. [summaries]"""
        start, end = int(form["start_time"]), int(form["end_time"])
        if start % 60 or end % 60:
            return refuse(400, "start_time and end_time must be aligned with minute boundaries.")
        width = end - start
        if form.get("value_grouping_window") == "day":
            width = 24 * 60 * 60
            if start % width or end % width:
                return refuse(400, "start_time and end_time must be aligned with UTC day boundaries.")
        windows = [self._summary(meter, form["customer"], at, at + width) for at in range(start, end, width)]
        return _list([window for window in windows if window is not None])

    def _summary(self, meter: str, customer: str, start: int, end: int) -> dict[str, Any] | None:
        seen = [
            event.value
            for event in self.events
            if f"mtr_{event.event_name}" == meter
            and event.customer == customer
            and start <= event.timestamp < end
            and self.now() - event.received_at >= self.summary_lag
        ]
        if not seen:
            return None
        return {
            "id": f"mtrusg_{start}",
            "object": "billing.meter_event_summary",
            "aggregated_value": float(sum(seen, Decimal(0))),
            "start_time": start,
            "end_time": end,
            "meter": meter,
        }


def _list(rows: Any) -> Reply:
    return Reply(200, {"object": "list", "url": "/v1/list", "has_more": False, "data": list(rows)})
