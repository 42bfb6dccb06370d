"""A server of one's own that behaves like Stripe's meter and invoice endpoints, over real HTTP on loopback.

It keeps state, and it keeps to the rules that reporting and pushing depend on, each with its source. Faults are planned
by a test in the order in which calls meet them. What it was not written for it answers with 404, so that no test can
pass on an endpoint that it does not know.

Sources:
[create]      https://docs.stripe.com/api/billing/meter-event/create (as in `stripe` 16.1.0's own docstrings)
[recording]   https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api
[digits]      https://docs.stripe.com/changelog/dahlia/2026-04-22/billing-meter-event-values-validation
[idempotency] https://docs.stripe.com/api/idempotent_requests
[errors]      https://docs.stripe.com/api/errors
[duplicate]   what Stripe answered to others: https://github.com/langfuse/langfuse/pull/16292
[summaries]   https://docs.stripe.com/api/billing/meter-event-summary/list
[meters]      https://docs.stripe.com/api/billing/meter/create
[invoices]    https://docs.stripe.com/api/invoices/create (as in `stripe` 16.1.0's own docstrings)
[items]       https://docs.stripe.com/api/invoiceitems/create
[pay]         https://docs.stripe.com/api/invoices/pay
[lifecycle]   https://docs.stripe.com/invoicing/integration/workflow-transitions
[grace]       https://docs.stripe.com/billing/subscriptions/usage-based/configure-grace-period and
              https://docs.stripe.com/invoicing/scheduled-finalization
[pages]       https://docs.stripe.com/api/pagination
[thin]        https://docs.stripe.com/api/v2/core/events/retrieve
[later]       https://docs.stripe.com/api/v2/core/events/event-types (v1.billing.meter.error_report_triggered)
              and, for an example, https://docs.stripe.com/api/v2/core/events/object
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

DAY = timedelta(hours=24)
MAX_ITEMS = 250
# What writes, and is met by planned faults.
EVENTS, INVOICES, METERS = ("/v1/billing/meter_events",), ("/v1/invoices", "/v1/invoiceitems"), ("/v1/billing/meters",)


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
        # Which writes, or else reads, they meet, by the beginning of their paths.
        self.fault_paths: tuple[str, ...] = EVENTS
        self.are_reads_met = False
        # Invoices and items by id; an item without an invoice waits for one that includes it. [items]
        self.invoices: dict[str, dict[str, Any]] = {}
        self.items: dict[str, dict[str, Any]] = {}
        # Percentages off for a customer, which invoices inherit unless they say otherwise. [invoices]
        self.discounts: dict[str, int] = {}
        # Why events that are accepted are rejected afterwards: one code for each of the next ones, in order. [later]
        self.rejections: list[str] = []
        # Those that were, by whose call, with the code.
        self.rejected: list[tuple[StoredEvent, str, str]] = []
        # The data of thin events, by id. [thin]
        self.thin_events: dict[str, dict[str, Any]] = {}
        # For how long what a subscription's period made stays a draft. [grace]
        self.grace = timedelta(hours=1)
        # Summaries show only events received so long ago.
        self.summary_lag = timedelta(0)
        self.before_answer: Callable[[Call], None] = lambda call: None
        self._replies: dict[str, tuple[datetime, dict[str, str], Reply]] = {}
        self._numbers = count(1)
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

            def do_DELETE(self) -> None:
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
        text = handler.rfile.read(length).decode() if length else target.query
        pairs = parse_qs(text, keep_blank_values=True)
        call = Call(
            method=handler.command,
            path=target.path,
            form={name: values[-1] for name, values in pairs.items()},
            idempotency_key=handler.headers.get("Idempotency-Key", ""),
            authorization=handler.headers.get("Authorization", ""),
        )
        with self._lock:
            self.calls.append(call)
            is_met = (call.method == "GET") == self.are_reads_met and call.path.startswith(self.fault_paths)
            fault = self.faults.pop(0) if self.faults and is_met else None
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
                store = partial(self._store, key=call.idempotency_key)
                return self._execute_once(call, fault, self._validate, store)
            case "POST", ["billing", "meters"]:
                return self._execute_once(call, fault, self._validate_meter, self._create_meter)
            case "GET", ["billing", "meters"]:
                return _list(self.meters.values())
            case "GET", ["billing", "meters", meter, "event_summaries"]:
                return self._summarize(meter, call.form)
            case "GET", ["customers", customer] if customer in self.customers:
                return Reply(200, {"id": customer, "object": "customer"})
            case "GET", ["core", "events", event] if event in self.thin_events:
                return Reply(200, self.thin_events[event])
            case _, ["invoices" | "invoiceitems", *_]:
                return self._execute_invoicing(call, fault)
        return refuse(404, f"Unrecognized request URL or no such object: {call.path}", code="resource_missing")

    def _execute_invoicing(self, call: Call, fault: Fault | None) -> Reply:
        match call.method, call.path.split("/")[2:]:
            case "POST", ["invoices"]:
                return self._execute_once(call, fault, self._validate_invoice, self._create_invoice)
            case "GET", ["invoices"]:
                return self._list_invoices(call.form)
            case "POST", ["invoiceitems"]:
                return self._execute_once(call, fault, self._validate_item, self._create_item)
            case "GET", ["invoiceitems"]:
                return _page(
                    [item for item in self.items.values() if item["invoice"] == call.form["invoice"]], call.form
                )
            case "GET", ["invoices", invoice] if invoice in self.invoices:
                return Reply(200, self._shown(invoice))
            case "POST", ["invoices", invoice, "finalize"] if invoice in self.invoices:
                return self._execute_once(call, fault, self._must_be(invoice, "draft"), self._finalise(invoice))
            case "POST", ["invoices", invoice, "void"] if invoice in self.invoices:
                is_open = self._must_be(invoice, "open", "uncollectible")
                return self._execute_once(call, fault, is_open, lambda form: self._move(invoice, "void"))
            case "POST", ["invoices", invoice, "pay"] if invoice in self.invoices:
                is_open = self._must_be(invoice, "open", "uncollectible")
                return self._execute_once(call, fault, is_open, lambda form: self._pay_elsewhere(invoice, form))
            case "DELETE", ["invoices", invoice] if invoice in self.invoices:
                # Deleting bears no key, since it may be repeated. [idempotency]
                return self._execute_once(
                    call, fault, self._must_be(invoice, "draft"), lambda form: self._drop(invoice)
                )
        return refuse(404, f"No such object: {call.path}", code="resource_missing")

    def _execute_once(
        self,
        call: Call,
        fault: Fault | None,
        validate: Callable[[dict[str, str]], Reply | None],
        commit: Callable[[dict[str, str]], Reply],
    ) -> Reply:
        """A key seen within 24 hours repeats its first answer, also a 500, and refuses other parameters. Refusals that
        come before the work begins are not kept. [idempotency]"""
        known = self._replies.get(call.idempotency_key)
        if known is not None and self.now() - known[0] < DAY:
            if known[1] != {**call.form, "path": call.path}:
                return refuse(400, "Keys for idempotent requests can only be used once.", kind="idempotency_error")
            return known[2]
        refused = validate(call.form)
        if refused is not None:
            return refused
        reply = Reply(500, {"error": {"type": "api_error", "message": "Something went wrong."}})
        if fault != Fault.ERROR_BEFORE:
            stored = commit(call.form)
            reply = stored if fault != Fault.ERROR_AFTER else reply
        if call.idempotency_key:
            self._replies[call.idempotency_key] = (self.now(), {**call.form, "path": call.path}, reply)
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
        accepted = [*self.events, *(event for event, *_ in self.rejected)]
        if any(event.identifier == identifier and self.now() - event.received_at < DAY for event in accepted):
            return refuse(400, f"An event already exists with identifier {identifier}.")
        return None

    def _store(self, form: dict[str, str], key: str) -> Reply:
        """The answer is the same for what is rejected afterwards, which then counts nowhere. [later]"""
        event = StoredEvent(
            identifier=form.get("identifier") or f"generated-{len(self.events)}",  # [create]
            event_name=form["event_name"],
            customer=form["payload[stripe_customer_id]"],
            value=Decimal(form["payload[value]"]),
            timestamp=int(form.get("timestamp") or self.now().timestamp()),  # [create]
            received_at=self.now(),
        )
        if self.rejections:
            self.rejected.append((event, key, self.rejections.pop(0)))
        else:
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

    def report_rejections(self, name: str, event_name: str) -> dict[str, Any]:
        """Make the event that tells what a meter has rejected, with samples that say the calls' idempotency keys.

        Returns what is delivered of it; its data are fetched. [later] [thin]
        """
        of_meter = [(key, code) for event, key, code in self.rejected if event.event_name == event_name]
        types = [
            {
                "code": code,
                "error_count": len(keys),
                "sample_errors": [{"error_message": f"It is {code}.", "request": {"identifier": key}} for key in keys],
            }
            for code in sorted({code for _, code in of_meter})
            if (keys := [key for key, found in of_meter if found == code])
        ]
        meter = f"mtr_{event_name}"
        told = {
            "id": name,
            "object": "v2.core.event",
            "type": "v1.billing.meter.error_report_triggered",
            "created": f"{self.now():%Y-%m-%dT%H:%M:%S.000Z}",
            "livemode": False,
            "related_object": {"id": meter, "type": "billing.meter", "url": f"/v1/billing/meters/{meter}"},
        }
        data = {
            "developer_message_summary": f"There are {len(of_meter)} invalid events",
            "reason": {"error_count": len(of_meter), "error_types": types},
            "validation_start": f"{self.now() - timedelta(seconds=10):%Y-%m-%dT%H:%M:%S.000Z}",
            "validation_end": told["created"],
        }
        self.thin_events[name] = told | {"data": data}
        return told

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

    # --- meters -----------------------------------------------------------------------------------

    def _validate_meter(self, form: dict[str, str]) -> Reply | None:
        """One active meter of an event name; a name to show and a way to count are required. [meters]"""
        for name in ("display_name", "event_name", "default_aggregation[formula]"):
            if not form.get(name):
                return refuse(400, f"Missing required param: {name}.", param=name)
        known = self.meters.get(form["event_name"])
        if known is not None and known["status"] == "active":
            return refuse(400, f"There is already an active meter with the event name {form['event_name']}.")
        return None

    def _create_meter(self, form: dict[str, str]) -> Reply:
        self.add_meter(form["event_name"], formula=form["default_aggregation[formula]"])
        meter = self.meters[form["event_name"]]
        meter["display_name"] = form["display_name"]
        meter["customer_mapping"]["event_payload_key"] = form["customer_mapping[event_payload_key]"]
        meter["value_settings"]["event_payload_key"] = form["value_settings[event_payload_key]"]
        return Reply(200, meter)

    # --- invoices ---------------------------------------------------------------------------------

    def pay(self, invoice: str) -> None:
        """What a customer does."""
        self.invoices[invoice]["status"] = "paid"
        self.invoices[invoice]["status_transitions"]["paid_at"] = int(self.now().timestamp())

    def renew(self, customer: str) -> None:
        """What Stripe makes when a period of a subscription there ends: a draft that becomes final by itself, when the
        account's grace period is over. [grace]"""
        made = self._create_invoice({"customer": customer, "auto_advance": "true"}).body
        self.invoices[made["id"]] |= {
            "billing_reason": "subscription_cycle",
            "automatically_finalizes_at": made["created"] + int(self.grace.total_seconds()),
        }

    def add_pending_item(self, customer: str, amount: int, *, invoice: str | None = None) -> None:
        """What somebody else adds; without an invoice it waits for one."""
        self._add_item({"customer": customer, "amount": str(amount), "currency": "usd"}, invoice)

    def items_of(self, invoice: str) -> list[tuple[str, int]]:
        return [(item["description"], item["amount"]) for item in self.items.values() if item["invoice"] == invoice]

    def _validate_invoice(self, form: dict[str, str]) -> Reply | None:
        if form.get("customer") not in self.customers:
            return refuse(400, f"No such customer: '{form.get('customer')}'", code="resource_missing", param="customer")
        if form.get("collection_method") == "send_invoice" and not {"days_until_due", "due_date"} & form.keys():
            return refuse(400, "A due date is required of an invoice that is sent.", param="days_until_due")
        return None

    def _create_invoice(self, form: dict[str, str]) -> Reply:
        """A draft, without what waits unless it is to be included, with the customer's discounts unless told not to
        inherit them. [invoices]"""
        name = f"in_{next(self._numbers)}"
        self.invoices[name] = {
            "id": name,
            "object": "invoice",
            "customer": form["customer"],
            "status": "draft",
            "currency": form.get("currency", "usd"),
            "created": int(self.now().timestamp()),
            "auto_advance": form.get("auto_advance") == "true",
            "days_until_due": form.get("days_until_due"),
            "metadata": _metadata(form),
            "hosted_invoice_url": None,
            "billing_reason": "manual",
            "automatically_finalizes_at": None,
            "status_transitions": {"finalized_at": None, "paid_at": None, "voided_at": None},
            "percent_off": 0 if "discounts" in form else self.discounts.get(form["customer"], 0),
        }
        if form.get("pending_invoice_items_behavior") == "include":
            for item in self.items.values():
                if item["invoice"] is None and item["customer"] == form["customer"]:
                    item["invoice"] = name
        return Reply(200, self._shown(name))

    def _validate_item(self, form: dict[str, str]) -> Reply | None:
        """Only drafts take items, of their customer and currency, and 250 at most. [items]"""
        if "invoice" not in form:
            return None
        invoice = self.invoices.get(form["invoice"])
        if invoice is None:
            return refuse(404, f"No such invoice: '{form['invoice']}'", code="resource_missing", param="invoice")
        if invoice["status"] != "draft":
            return refuse(400, "This invoice is no longer editable.", code="invoice_not_editable")
        if (invoice["customer"], invoice["currency"]) != (form["customer"], form["currency"]):
            return refuse(400, "The item is of another customer or currency than the invoice.")
        if len(self.items_of(form["invoice"])) >= MAX_ITEMS:
            return refuse(400, "An invoice can have at most 250 items.")
        return None

    def _create_item(self, form: dict[str, str]) -> Reply:
        return Reply(200, self._add_item(form, form.get("invoice")))

    def _add_item(self, form: dict[str, str], invoice: str | None) -> dict[str, Any]:
        name = f"ii_{next(self._numbers)}"
        self.items[name] = {
            "id": name,
            "object": "invoiceitem",
            "customer": form["customer"],
            "invoice": invoice,
            "amount": int(form["amount"]),
            "currency": form["currency"],
            "description": form.get("description", ""),
            "metadata": _metadata(form),
        }
        return self.items[name]

    def _list_invoices(self, form: dict[str, str]) -> Reply:
        """The newest first, of a customer or a status, made since a time. [pages]"""
        since = int(form.get("created[gte]", 0))
        found = [
            self._shown(name)
            for name, invoice in reversed(self.invoices.items())
            if invoice["customer"] == form.get("customer", invoice["customer"])
            and invoice["status"] == form.get("status", invoice["status"])
            and invoice["created"] >= since
        ]
        return _page(found, form)

    def _must_be(self, invoice: str, *statuses: str) -> Callable[[dict[str, str]], Reply | None]:
        """Drafts alone are finalised and deleted, open invoices alone voided. [lifecycle]"""

        def validate(form: dict[str, str]) -> Reply | None:
            status = self.invoices[invoice]["status"]
            return None if status in statuses else refuse(400, f"The invoice is {status}.", code="invoice_not_editable")

        return validate

    def _finalise(self, invoice: str) -> Callable[[dict[str, str]], Reply]:
        """It is open then, with a page to pay on; one of nothing is paid. [lifecycle]"""

        def commit(form: dict[str, str]) -> Reply:
            row = self.invoices[invoice]
            row["hosted_invoice_url"] = f"https://invoice.stripe.test/{invoice}"
            row["status_transitions"]["finalized_at"] = int(self.now().timestamp())
            return self._move(invoice, "open" if self._shown(invoice)["total"] else "paid")

        return commit

    def _move(self, invoice: str, status: str) -> Reply:
        self.invoices[invoice]["status"] = status
        return Reply(200, self._shown(invoice))

    def _pay_elsewhere(self, invoice: str, form: dict[str, str]) -> Reply:
        """Without a way to pay it is paid only by saying that it was, elsewhere. [pay]"""
        if form.get("paid_out_of_band") != "true":
            return refuse(402, "The customer has no way to pay.", kind="card_error")
        self.pay(invoice)
        return Reply(200, self._shown(invoice))

    def _drop(self, invoice: str) -> Reply:
        """It is gone with its items, and is no longer found. [lifecycle]"""
        del self.invoices[invoice]
        self.items = {name: item for name, item in self.items.items() if item["invoice"] != invoice}
        return Reply(200, {"id": invoice, "object": "invoice", "deleted": True})

    def _shown(self, name: str) -> dict[str, Any]:
        invoice = self.invoices[name]
        whole = sum(amount for _, amount in self.items_of(name))
        total = whole - whole * invoice["percent_off"] // 100
        return {**invoice, "total": total, "amount_due": max(total, 0), "lines": {"object": "list", "data": []}}


def _metadata(form: dict[str, str]) -> dict[str, str]:
    return {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")}


def _page(rows: list[dict[str, Any]], form: dict[str, str]) -> Reply:
    """So many rows, those after the last one of the page before. [pages]"""
    ids = [row["id"] for row in rows]
    first = ids.index(form["starting_after"]) + 1 if "starting_after" in form else 0
    last = first + int(form.get("limit", 10))
    body = {"object": "list", "url": "/v1/list", "has_more": last < len(rows), "data": rows[first:last]}
    return Reply(200, body)


def _list(rows: Any) -> Reply:
    return Reply(200, {"object": "list", "url": "/v1/list", "has_more": False, "data": list(rows)})
