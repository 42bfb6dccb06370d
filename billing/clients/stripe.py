"""Stripe's Billing Meters, spoken to through Stripe's own package, and what all calls to Stripe share.

This module and its neighbours `stripe_invoices` and `stripe_events` alone know Stripe's calls and errors. Nothing is
repeated here: the outbox repeats, so that every attempt is written down before it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import stripe
from stripe.params.billing import MeterEventSummaryListParams

from billing.clients.failures import CallFailed
from billing.clients.meters import MeterEvent
from billing.domain.reporting import Answer, Outcome
from common.numbers import exact_text

# To connect, and between two bytes; an attempt is over long before the row's lease.
TIMEOUT_SECONDS = (5.0, 30.0)
MAX_MESSAGE = 400
CONFLICT, FIRST_SERVER_ERROR = 409, 500
# How a meter has to count and to read its events.
SUM, CUSTOMER_KEY, VALUE_KEY = "sum", "stripe_customer_id", "value"
DUPLICATE_CODE = "duplicate_meter_event"


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter as the account has it, as far as reporting depends on it."""

    id: str
    event_name: str
    is_active: bool
    formula: str
    # Not empty: of several events in such a window Stripe counts the last alone.
    event_time_window: str
    customer_key: str
    value_key: str


def connect(*, api_key: str, api_base: str) -> stripe.StripeClient:
    """Return the package's client, which is safe to share between threads and repeats nothing by itself."""
    return stripe.StripeClient(
        api_key,
        base_addresses={"api": api_base} if api_base else None,
        http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
        max_network_retries=0,
    )


@contextmanager
def calls() -> Iterator[None]:
    """Raise `CallFailed` for whatever the package raises."""
    try:
        yield
    except stripe.StripeError as error:
        is_answered = error.http_status not in (None, CONFLICT)
        raise CallFailed(read_answer(error), message_of(error), is_answered=is_answered) from error


class StripeMeters:
    """The account that a key belongs to. Safe to share between threads."""

    def __init__(self, *, api_key: str, api_base: str = "") -> None:
        self._client = connect(api_key=api_key, api_base=api_base)
        self._meters: dict[str, Meter] | None = None

    def send(self, event: MeterEvent) -> Outcome:
        try:
            self._client.v1.billing.meter_events.create(
                {
                    "event_name": event.event_name,
                    "payload": {"stripe_customer_id": event.customer_id, "value": exact_text(event.quantity)},
                    "identifier": event.identifier,
                    "timestamp": int(event.event_time.timestamp()),
                },
                {"idempotency_key": event.attempt_key},
            )
        except stripe.StripeError as error:
            return _outcome(error, event.identifier)
        return Outcome(Answer.ACCEPTED)

    def total(self, *, event_name: str, customer_id: str, start: datetime, end: datetime) -> Decimal:
        selection = _selection(customer_id, start, end)
        return sum((_quantity(row) for row in self._list_summaries(event_name, selection)), Decimal(0))

    def daily_totals(
        self, *, event_name: str, customer_id: str, start: datetime, end: datetime
    ) -> dict[datetime, Decimal]:
        selection = _selection(customer_id, start, end)
        selection["value_grouping_window"] = "day"
        rows = self._list_summaries(event_name, selection)
        return {datetime.fromtimestamp(row.start_time, UTC): _quantity(row) for row in rows}

    def _list_summaries(
        self, event_name: str, selection: MeterEventSummaryListParams
    ) -> list[stripe.billing.MeterEventSummary]:
        meter = self._find_meter(event_name)
        with calls():
            pages = self._client.v1.billing.meters.event_summaries.list(meter.id, selection)
            return list(pages.auto_paging_iter())

    def list_meters(self) -> list[Meter]:
        """Return the account's meters, in no order. Raises `CallFailed`."""
        with calls():
            pages = self._client.v1.billing.meters.list({"limit": 100})
            return [_meter(row) for row in pages.auto_paging_iter()]

    def create_meter(self, event_name: str, *, display_name: str, key: str) -> Meter:
        """Make a meter that sums, with the usual keys. Raises `CallFailed`."""
        with calls():
            row = self._client.v1.billing.meters.create(
                {
                    "display_name": display_name,
                    "event_name": event_name,
                    "default_aggregation": {"formula": SUM},
                    "customer_mapping": {"type": "by_id", "event_payload_key": CUSTOMER_KEY},
                    "value_settings": {"event_payload_key": VALUE_KEY},
                },
                {"idempotency_key": key},
            )
            return _meter(row)

    def has_customer(self, customer_id: str) -> bool:
        """Tell whether the account has the customer. Raises `CallFailed`."""
        with calls():
            try:
                customer = self._client.v1.customers.retrieve(customer_id)
            except stripe.InvalidRequestError:
                return False
            return not getattr(customer, "deleted", False)

    def _find_meter(self, event_name: str) -> Meter:
        if self._meters is None or event_name not in self._meters:
            self._meters = {meter.event_name: meter for meter in self.list_meters() if meter.is_active}
        try:
            return self._meters[event_name]
        except KeyError:
            message = f"Stripe has no active meter of the event name {event_name}."
            raise CallFailed(Answer.REFUSED, message, is_answered=True) from None


def _selection(customer_id: str, start: datetime, end: datetime) -> MeterEventSummaryListParams:
    """Select what was used in whole minutes; with groups by day, in whole UTC days."""
    return {
        "customer": customer_id,
        "start_time": int(start.timestamp()),
        "end_time": int(end.timestamp()),
        "limit": 100,
    }


def _quantity(row: stripe.billing.MeterEventSummary) -> Decimal:
    """Return a summary's number: a float of Stripe's, whose shortest text is what was meant."""
    return Decimal(str(row.aggregated_value))


def _meter(row: stripe.billing.Meter) -> Meter:
    return Meter(
        id=row.id,
        event_name=row.event_name,
        is_active=row.status == "active",
        formula=row.default_aggregation.formula,
        event_time_window=row.event_time_window or "",
        customer_key=row.customer_mapping.event_payload_key,
        value_key=row.value_settings.event_payload_key,
    )


def _outcome(error: stripe.StripeError, identifier: str) -> Outcome:
    """Tell what an error says about the event."""
    message = message_of(error)
    if isinstance(error, stripe.InvalidRequestError) and _is_duplicate(error, identifier):
        return Outcome(Answer.DUPLICATE, message)
    return Outcome(read_answer(error), message)


def read_answer(error: stripe.StripeError) -> Answer:
    """Tell what an error of any call means. What says nothing is unclear, and unclear is never taken for a no."""
    match error:
        case stripe.AuthenticationError() | stripe.PermissionError():
            return Answer.UNAUTHORIZED
        case stripe.RateLimitError():
            return Answer.THROTTLED
    status = error.http_status
    if status is None or status == CONFLICT or status >= FIRST_SERVER_ERROR or status < 400:
        return Answer.UNCLEAR
    return Answer.REFUSED


def _is_duplicate(error: stripe.InvalidRequestError, identifier: str) -> bool:
    """Tell whether Stripe has an event of this identifier. It is a 400 with these words, and only the words tell."""
    return error.code == DUPLICATE_CODE or (
        "event already exists" in str(error.user_message).lower() and identifier in str(error.user_message)
    )


def message_of(error: stripe.StripeError) -> str:
    """Return the error in short. Of a refused key nothing is repeated: Stripe's own words quote a part of it."""
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return "Stripe does not accept the key, or the key may not do this."
    if error.http_status is None:
        return f"No answer from Stripe: {type(error).__name__}."
    return f"{error.http_status}: {error.user_message or 'no message'}"[:MAX_MESSAGE]
