"""Taking in events: examine, store in one transaction, answer a verdict per event.

Guarantees: what is answered as stored is committed; an event is stored at most once for as long as its row is
kept; a batch is stored by one COPY and one INSERT; racing twins neither deadlock nor count twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection, transaction

from accounts.models import Customer, Organization
from accounts.services import ensure_customers
from common.errors import FieldError, InvalidInput, TooLarge
from common.telemetry import INGEST_EVENTS
from metering.admission import AdmissionRules, AdmittedEvent, EventError, FeedPlan, admit_events
from metering.domain import MAX_BATCH_EVENTS, OFFSET_BITS
from metering.feeds import FeedBook, get_feed_book
from metering.incoming import IncomingEvent, MalformedEvent
from metering.models import Erasure
from metering.services.inbox import keep_unmatched
from metering.services.wake import wake_rollup
from metering.sql import store_events

MAX_CACHED_CUSTOMERS = 200_000
# Each retry means that the organization's metrics changed while a batch was under way.
MAX_METRIC_RACES = 10
# How the names begin that customers have once they were erased.
ERASED_PREFIX = "deleted-"

# The ids of customers, per organization and `metrics_version`: with a customer's erasure the version changes, and all
# that was remembered before is forgotten. Who read an old id just before is told by the version under the fence.
_customer_ids: dict[tuple[int, int, str], int] = {}


@dataclass(slots=True)
class IngestResult:
    """The verdicts of one request. `errors` are in the order of the request; conflicts are among the rejected."""

    stored: int = 0
    duplicate_indexes: list[int] = field(default_factory=list)
    errors: list[EventError] = field(default_factory=list)
    first_offset: int | None = None
    last_offset: int | None = None
    # Keys that the server made, by index: a sender without keys learns them here.
    generated_keys: dict[int, str] = field(default_factory=dict)

    @property
    def duplicates(self) -> int:
        return len(self.duplicate_indexes)

    @property
    def rejected(self) -> int:
        return len(self.errors)


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """What a bound API key may send; the default is everything."""

    only_customer: str | None = None
    only_metrics: frozenset[str] = frozenset()


class _MetricsChanged(Exception):
    """The metrics changed, or a customer was erased, between examining and storing; carries the version to examine
    against."""

    def __init__(self, version: int) -> None:
        self.version = version


class _AllOrNothing(Exception):
    """Rolls back an atomic batch that has a conflict."""


def ingest_events(
    *,
    organization: Organization,
    events: Sequence[IncomingEvent | MalformedEvent],
    now: datetime,
    limits: IngestLimits | None = None,
    is_atomic: bool = False,
) -> IngestResult:
    """Store a batch and return its verdicts; returns after the commit.

    `now` is when the events become known: the `received_at` of all, and the time of those that have none and did
    not arrive earlier. Safe to repeat: the second time every event is a duplicate. Raises `TooLarge` beyond
    `MAX_BATCH_EVENTS` and, with `is_atomic`, `InvalidInput` (nothing stored) when any event is refused.
    """
    check_batch_size(events)
    result = _ingest_against_current_metrics(organization, events, now, limits or IngestLimits(), is_atomic)
    _count_verdicts(result)
    return result


def validate_events(
    *,
    organization: Organization,
    events: Sequence[IncomingEvent | MalformedEvent],
    now: datetime,
    limits: IngestLimits | None = None,
) -> IngestResult:
    """Return the verdicts that `ingest_events` would give, by doing all of it and rolling it back."""
    check_batch_size(events)
    with transaction.atomic():
        result = _ingest_against_current_metrics(organization, events, now, limits or IngestLimits(), False)
        transaction.set_rollback(True)
    return result


def _ingest_against_current_metrics(
    organization: Organization,
    events: Sequence[IncomingEvent | MalformedEvent],
    now: datetime,
    limits: IngestLimits,
    is_atomic: bool,
) -> IngestResult:
    for _ in range(MAX_METRIC_RACES):
        try:
            return _ingest_once(organization, events, now, limits, is_atomic)
        except _MetricsChanged as change:
            organization.metrics_version = change.version
    raise RuntimeError("The organization's metrics change faster than a batch can be stored.")


def check_batch_size(events: Sequence[object]) -> None:
    if len(events) > MAX_BATCH_EVENTS:
        raise TooLarge(
            f"A request holds at most {MAX_BATCH_EVENTS} events; this one has {len(events)}. Nothing was stored.",
            code="batch_too_large",
        )
    if not events:
        raise InvalidInput.of("body", "Send at least one event.", "empty_batch")


def examine_events(
    *,
    organization: Organization,
    events: Sequence[IncomingEvent | MalformedEvent],
    now: datetime,
    limits: IngestLimits | None = None,
) -> tuple[list[AdmittedEvent], list[EventError], dict[int, FeedPlan]]:
    """Examine without storing; also return the feeds by id, which tell the metrics that each event would change."""
    book = get_feed_book(organization)
    admitted, errors = admit_events(events, _rules(organization, book, now, limits or IngestLimits()))
    admitted, errors, _ = _resolve_customers(organization, admitted, errors, is_dry_run=True)
    return admitted, errors, {plan.feed_id: plan for plan in book.plans.values()}


def _ingest_once(
    organization: Organization,
    events: Sequence[IncomingEvent | MalformedEvent],
    now: datetime,
    limits: IngestLimits,
    is_atomic: bool,
) -> IngestResult:
    book = get_feed_book(organization)
    generated = [index for index, event in enumerate(events) if event.idempotency_key is None]
    admitted, errors = admit_events(events, _rules(organization, book, now, limits))
    admitted, errors, customer_ids = _resolve_customers(organization, admitted, errors)
    if is_atomic and errors:
        raise _atomic_refusal(errors)
    # Not from a bound key: a replay has no bounds, and would count what the key may not send.
    is_kept = organization.is_unmatched_kept and limits == IngestLimits()
    if is_kept and any(error.code == "unknown_metric" for error in errors):
        keep_unmatched(organization=organization, events=events, errors=errors, now=now)
    result = IngestResult(errors=errors)
    if admitted:
        try:
            _store(organization, book, admitted, customer_ids, now, is_atomic, result)
        except _AllOrNothing:
            raise _atomic_refusal(result.errors) from None
    result.errors.sort(key=lambda error: error.index)
    result.generated_keys = {index: key for index in generated if (key := events[index].idempotency_key)}
    return result


def _store(
    organization: Organization,
    book: FeedBook,
    events: list[AdmittedEvent],
    customer_ids: dict[str, int],
    now: datetime,
    is_atomic: bool,
    result: IngestResult,
) -> None:
    with transaction.atomic():
        batch_id = store_events.open_batch(organization_id=organization.pk)
        if book.kept_from:
            events = _without_forgotten(organization, book, events, result)
            if is_atomic and result.errors:
                raise _AllOrNothing
        store_events.stage_events(events, customer_ids=customer_ids, batch_id=batch_id)
        stored = store_events.store_staged(
            organization_id=organization.pk,
            batch_id=batch_id,
            feed_ids=sorted({event.feed_id for event in events}),
            received_at=now,
        )
        if stored.metrics_version != book.version:
            raise _MetricsChanged(stored.metrics_version)
        if stored.event_count < len(events):
            _settle_known(organization, events, result)
            if is_atomic and result.errors:
                raise _AllOrNothing
    result.stored, result.first_offset, result.last_offset = stored.event_count, stored.first_offset, stored.last_offset
    if stored.event_count:
        wake_rollup(organization_id=organization.pk)


def _without_forgotten(
    organization: Organization, book: FeedBook, events: list[AdmittedEvent], result: IngestResult
) -> list[AdmittedEvent]:
    """Refuse events of a time whose raw events were let go, but for those that are known all the same.

    Whether such an event was counted before nobody can tell any more, and to count it twice would be billed. The book
    is compared with the database under the fence, and horizons move alone at it: nobody stores by an old one.
    """
    suspects = [event for event in events if _is_let_go(event, book)]
    if not suspects:
        return events
    known = store_events.hold_known(organization_id=organization.pk, keys=[event.key for event in suspects])
    forgotten = {event.index for event in suspects if event.key not in known}
    message = "Events of that time are not kept any more, so this one could not be told from a repetition."
    result.errors += [
        EventError(event.index, event.key, "event_too_old", "timestamp", message)
        for event in suspects
        if event.index in forgotten
    ]
    return [event for event in events if event.index not in forgotten]


def _is_let_go(event: AdmittedEvent, book: FeedBook) -> bool:
    kept_from = book.kept_from.get(event.feed_id)
    return kept_from is not None and event.occurred_at < kept_from


def _settle_known(organization: Organization, events: list[AdmittedEvent], result: IngestResult) -> None:
    """Tell staged events whose key was stored before, or stands earlier in the request: duplicates and conflicts."""
    for comparison in store_events.compare_staged(organization_id=organization.pk):
        event = events[comparison.offset & ((1 << OFFSET_BITS) - 1)]
        if comparison.is_same:
            result.duplicate_indexes.append(event.index)
        else:
            message = "An event with this key and other content is stored already."
            result.errors.append(EventError(event.index, event.key, "conflict", "idempotency_key", message))


def _resolve_customers(
    organization: Organization, events: list[AdmittedEvent], errors: list[EventError], *, is_dry_run: bool = False
) -> tuple[list[AdmittedEvent], list[EventError], dict[str, int]]:
    """Return the ids of all customers, creating new ones where that is allowed; refuse the events of the others."""
    wanted = {event.customer for event in events}
    scope = organization.pk, organization.metrics_version
    known = {name: found for name in wanted if (found := _customer_ids.get((*scope, name))) is not None}
    missing = wanted - known.keys()
    if missing:
        found_ids = _without_erased(organization, _find_or_create_customers(organization, missing, is_dry_run))
        known |= found_ids
        if not connection.in_atomic_block:  # inside one, a new customer may yet be rolled back
            _remember_customers(organization, found_ids)
    if len(known) == len(wanted) or (is_dry_run and organization.is_customer_auto_created):
        return events, errors, known
    refused = [
        EventError(event.index, event.key, "invalid_customer", "customer", "There is no such customer.")
        for event in events
        if event.customer not in known
    ]
    return [event for event in events if event.customer in known], errors + refused, known


def _remember_customers(organization: Organization, ids: dict[str, int]) -> None:
    if len(_customer_ids) + len(ids) > MAX_CACHED_CUSTOMERS:
        _customer_ids.clear()
    scope = organization.pk, organization.metrics_version
    _customer_ids.update({(*scope, name): customer_id for name, customer_id in ids.items()})


def _find_or_create_customers(organization: Organization, names: set[str], is_dry_run: bool) -> dict[str, int]:
    if organization.is_customer_auto_created and not is_dry_run:
        # Before the batch's transaction: a customer that outlives a failed batch is harmless.
        return ensure_customers(organization=organization, external_ids=names)
    rows = Customer.objects.for_organization(organization).filter(external_id__in=names)
    return dict(rows.values_list("external_id", "pk"))


def _without_erased(organization: Organization, ids: dict[str, int]) -> dict[str, int]:
    """Leave out customers that were erased: nobody may send events in the name that stands for nobody."""
    suspects = {name: customer_id for name, customer_id in ids.items() if name.startswith(ERASED_PREFIX)}
    if not suspects:
        return ids
    erasures = Erasure.objects.for_organization(organization).filter(customer_id__in=suspects.values())
    erased = set(erasures.values_list("customer_id", flat=True))
    return {name: customer_id for name, customer_id in ids.items() if customer_id not in erased}


def _rules(organization: Organization, book: FeedBook, now: datetime, limits: IngestLimits) -> AdmissionRules:
    late_days = organization.late_limit_days
    return AdmissionRules(
        plans=book.plans,
        now=now,
        late_limit=None if late_days is None else timedelta(days=late_days),
        only_customer=limits.only_customer,
        only_metrics=limits.only_metrics,
    )


def _atomic_refusal(errors: list[EventError]) -> InvalidInput:
    ordered = sorted(errors, key=lambda error: error.index)
    return InvalidInput(
        f"{len(ordered)} of the events were refused, so nothing was stored (atomic).",
        code="atomic_batch_refused",
        errors=[FieldError(error.field, error.code, error.message, error.index) for error in ordered],
    )


def _count_verdicts(result: IngestResult) -> None:
    conflicts = sum(error.code == "conflict" for error in result.errors)
    for verdict, count in (
        ("stored", result.stored),
        ("duplicate", result.duplicates),
        ("conflict", conflicts),
        ("rejected", result.rejected - conflicts),
    ):
        if count:
            INGEST_EVENTS.labels(verdict=verdict).inc(count)
