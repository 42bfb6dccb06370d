"""The pages of raw events: the tail, one event, and the inbox of those that could not be counted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
from django.forms import Form
from django.http import HttpRequest
from django.urls import reverse

from accounts.access import Caller
from accounts.models import Customer, Organization
from accounts.pages import page_before, read_id, text_parameter, with_parameters
from common.errors import NotFound
from common.numbers import exact_text
from metering.contexts.filters import Option
from metering.contexts.first_event import FirstEvent, get_first_event
from metering.contexts.words import metric_name
from metering.models import Aggregation, EventVoid, InboxEvent, Metric
from metering.queries import EventRow, find_event, list_active_metrics, list_events, list_inbox
from metering.queries.events import EventPosition

TAIL_SIZE = 50
# What one live update fetches; of a larger burst the newest.
MAX_KEYS_PER_UPDATE = 20
INBOX_PAGE_SIZE = 50
# The table shows the first properties; the event's own page has all.
MAX_LISTED_PROPERTIES = 4
MAX_PROPERTY_CHARACTERS = 40
# Enough up to the year 2286.
MAX_MICROSECOND_DIGITS = 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Property:
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class TailRow:
    """One event as a line of the table."""

    key: str
    customer: str
    type: str
    value: Decimal | None
    member: str | None
    occurred_at: datetime
    received_at: datetime
    is_removal: bool
    is_voided: bool
    properties: list[Property]
    # Properties beyond those shown.
    more_count: int
    url: str


@dataclass(frozen=True, slots=True)
class EventListPage:
    rows: list[TailRow]
    customer: str
    metrics: list[Option]
    is_filtered: bool
    # False on older pages, which do not change.
    is_tail: bool
    stream_url: str
    rows_url: str
    problems: list[str]
    next_url: str
    first_url: str
    first_event: FirstEvent | None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The list's filters, resolved; `problems` tells which were left out."""

    customer: Customer | None
    metric: Metric | None
    parameters: dict[str, str]
    problems: list[str]


def get_event_list(request: HttpRequest, caller: Caller) -> EventListPage:
    organization = caller.organization
    wanted = _read_filters(request, organization)
    before = _parse_position(text_parameter(request, "before"))
    found = list_events(
        organization=organization,
        limit=TAIL_SIZE + 1,
        customer_id=wanted.customer.pk if wanted.customer else None,
        metric=wanted.metric,
        before=before,
    )
    shown = found[:TAIL_SIZE]
    active_metrics = list(list_active_metrics(organization=organization))
    is_filtered = bool(wanted.parameters or wanted.problems)
    is_first_time = not (shown or is_filtered or before)
    return EventListPage(
        rows=_tail_rows(organization, shown),
        customer=text_parameter(request, "customer"),
        metrics=[_metric_option(metric, wanted.metric) for metric in active_metrics],
        is_filtered=is_filtered,
        is_tail=before is None,
        stream_url=with_parameters("/v1/events/stream", {"organization": str(organization.pk), **wanted.parameters}),
        rows_url=with_parameters(reverse("metering:event_rows", args=[organization.pk]), wanted.parameters),
        problems=wanted.problems,
        next_url=_next_url(wanted, shown) if len(found) > TAIL_SIZE else "",
        first_url=with_parameters("", wanted.parameters) or "?" if before else "",
        first_event=get_first_event(request, active_metrics[0] if active_metrics else None) if is_first_time else None,
    )


def get_event_rows(request: HttpRequest, caller: Caller) -> list[TailRow]:
    """Return the rows of a live update: the named events or, without names, the newest that fit the filters."""
    keys = [key.replace("\x00", "") for key in request.GET.getlist("key")][:MAX_KEYS_PER_UPDATE]
    wanted = _read_filters(request, caller.organization)
    found = list_events(
        organization=caller.organization,
        limit=TAIL_SIZE,
        customer_id=wanted.customer.pk if wanted.customer else None,
        metric=wanted.metric,
        idempotency_keys=keys or None,
    )
    return _tail_rows(caller.organization, found)


def _read_filters(request: HttpRequest, organization: Organization) -> _Wanted:
    external_id, code = text_parameter(request, "customer"), text_parameter(request, "metric")
    problems: list[str] = []
    customer = metric = None
    if external_id:
        customer = Customer.objects.for_organization(organization).filter(external_id=external_id).first()
        if customer is None:
            problems.append(f"There is no customer “{external_id}”; showing all.")
    if code:
        metric = Metric.objects.for_organization(organization).filter(code=code).first()
        if metric is None:
            problems.append(f"There is no metric “{code}”; showing all.")
    parameters = {}
    if customer:
        parameters["customer"] = customer.external_id
    if metric:
        parameters["metric"] = metric.code
    return _Wanted(customer, metric, parameters, problems)


def _next_url(wanted: _Wanted, shown: Sequence[EventRow]) -> str:
    last = shown[-1]
    position = f"{(last.timestamp - EPOCH) // MICROSECOND}.{last.offset}"
    return with_parameters("", {**wanted.parameters, "before": position})


def _parse_position(text: str) -> EventPosition | None:
    """Read `<microseconds since the epoch>.<offset>`; anything else is the newest page."""
    time, _, place = text.partition(".")
    is_time = time.isascii() and time.isdigit() and len(time) <= MAX_MICROSECOND_DIGITS
    offset = read_id(place)
    return EventPosition(EPOCH + int(time) * MICROSECOND, offset) if is_time and offset is not None else None


def _tail_rows(organization: Organization, events: Iterable[EventRow]) -> list[TailRow]:
    event_url = reverse("metering:event", args=[organization.pk])
    return [_tail_row(event, event_url) for event in events]


def _tail_row(event: EventRow, event_url: str) -> TailRow:
    properties = [
        Property(name, _shortened(property_text(value)))
        for name, value in list(event.properties.items())[:MAX_LISTED_PROPERTIES]
    ]
    return TailRow(
        key=event.idempotency_key,
        customer=event.customer,
        type=event.type,
        value=event.value,
        member=event.member,
        occurred_at=event.timestamp,
        received_at=event.received_at,
        is_removal=event.operation == "remove",
        is_voided=event.is_voided,
        properties=properties,
        more_count=len(event.properties) - len(properties),
        url=with_parameters(event_url, {"key": event.idempotency_key}),
    )


def property_text(value: Any) -> str:
    """Return a property as it was sent: exact numbers, `true` and `false` as in JSON, strings bare."""
    if isinstance(value, Decimal):
        return exact_text(value)
    return value if isinstance(value, str) else json.dumps(value)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_PROPERTY_CHARACTERS else f"{text[: MAX_PROPERTY_CHARACTERS - 1]}…"


def _metric_option(metric: Metric, chosen: Metric | None) -> Option:
    return Option(metric.code, metric_name(metric), chosen is not None and chosen.pk == metric.pk)


# --- one event ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FedMetric:
    """A metric that listened to the event's type when it arrived, and what it counted of the event."""

    name: str
    url: str
    contribution: str


@dataclass(frozen=True, slots=True)
class EventPage:
    row: TailRow
    customer_url: str
    properties: list[Property]
    metrics: list[FedMetric]
    void: EventVoid | None
    replacement_url: str
    can_void: bool
    form: Form


def get_event_page(caller: Caller, idempotency_key: str, *, form: Form, can_void: bool) -> EventPage:
    """Raises `NotFound`."""
    organization = caller.organization
    event = find_event(organization=organization, idempotency_key=idempotency_key)
    if event is None:
        raise NotFound("There is no such event.")
    event_url = reverse("metering:event", args=[organization.pk])
    void = EventVoid.objects.for_organization(organization).filter(idempotency_key=idempotency_key).first()
    metrics = Metric.objects.for_organization(organization).filter(pk__in=event.metric_ids).order_by("code")
    customer = Customer.objects.for_organization(organization).get(external_id=event.customer)
    return EventPage(
        row=_tail_row(event, event_url),
        customer_url=reverse("metering:customer", args=[organization.pk, customer.pk]),
        properties=[Property(name, property_text(value)) for name, value in event.properties.items()],
        metrics=[
            FedMetric(
                metric_name(metric),
                reverse("metering:metric", args=[organization.pk, metric.code]),
                contribution(metric, event),
            )
            for metric in metrics
        ],
        void=void,
        replacement_url=with_parameters(event_url, {"key": void.replacement_key})
        if void and void.replacement_key
        else "",
        can_void=can_void and void is None,
        form=form,
    )


def contribution(metric: Metric, event: EventRow) -> str:
    """Say what of the event the metric takes, in the words of its definition."""
    if event.is_voided:
        return "taken back"
    if metric.value_property:
        if metric.value_property not in event.properties:
            return f"nothing: it has no {metric.value_property}"
        text = property_text(event.properties[metric.value_property])
    elif metric.aggregation == Aggregation.COUNT_UNIQUE:
        text = event.member or ""
    else:
        text = exact_text(event.value) if event.value is not None else ""
    if metric.aggregation == Aggregation.COUNT:
        return "one event"
    return " ".join(filter(None, (text, metric.unit if metric.aggregation != Aggregation.COUNT_UNIQUE else "")))


# --- the inbox ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InboxRow:
    pk: int
    event_type: str
    code: str
    message: str
    received_at: datetime
    idempotency_key: str
    payload_text: str


@dataclass(frozen=True, slots=True)
class InboxPage:
    rows: list[InboxRow]
    is_kept: bool
    next_url: str
    first_url: str


def get_inbox_page(request: HttpRequest, caller: Caller) -> InboxPage:
    """A page of what waits, newest first."""
    page = page_before(request, list_inbox(organization=caller.organization), size=INBOX_PAGE_SIZE)
    return InboxPage(
        rows=[_inbox_row(event) for event in page.rows],
        is_kept=caller.organization.is_unmatched_kept,
        next_url=page.next_url,
        first_url=page.first_url,
    )


def _inbox_row(event: InboxEvent) -> InboxRow:
    return InboxRow(
        pk=event.pk,
        event_type=event.event_type,
        code=event.code,
        message=event.message,
        received_at=event.received_at,
        idempotency_key=event.idempotency_key,
        # Reformatted as text: parsing would round the numbers.
        payload_text=msgspec.json.format(event.payload, indent=2),
    )
