"""Taking events back. An event is never edited: a void is a row beside it, a replacement a void and a new event.

The void corrects the rollups in its own transaction, under the rollup lock, so that no read ever sees a voided
event counted. An event whose batch is still pending needs no correction: the worker passes over voided events.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import IntegrityError, transaction

from accounts.models import Organization
from accounts.services import record_audit
from common.errors import Conflict, InvalidInput, NotFound
from metering.domain import OFFSET_BITS
from metering.incoming import IncomingEvent, MalformedEvent
from metering.models import BatchState, Erasure, Event, EventVoid, Feed, IngestBatch, Metric
from metering.services.ingest import IngestLimits, IngestResult, ingest_events
from metering.services.wake import wake_followers
from metering.sql import changes, cutoffs, recount, roll_up
from metering.sql.usage import KeptFrom, find_horizon

MAX_REASON_CHARACTERS = 1000


class AlreadyVoided(Conflict):
    code = "already_voided"


class TooOldToVoid(Conflict):
    code = "too_old_to_void"


@dataclass(frozen=True, slots=True)
class Replacement:
    """The void and the verdict on the event that took its place."""

    void: EventVoid
    result: IngestResult


@transaction.atomic
def void_event(
    *,
    organization: Organization,
    idempotency_key: str,
    reason: str,
    actor: str,
    now: datetime,
) -> EventVoid:
    """Take an event back. Raises `NotFound`, `AlreadyVoided`, or `TooOldToVoid` where its hour is no longer kept.

    Takes effect for every read that begins after the commit. Waits for a rollup under way, a fraction of a second.
    """
    check_reason(reason)
    roll_up.lock(organization_id=organization.pk)
    events = Event.objects.for_organization(organization).filter(idempotency_key=idempotency_key)
    event = None if "\x00" in idempotency_key else events.first()
    if event is None:
        raise NotFound("There is no such event.")
    feed = Feed.objects.for_organization(organization).get(pk=event.feed_id)
    horizon = find_horizon(organization_id=organization.pk, event_type=feed.event_type)
    if horizon and horizon.raw_from and event.occurred_at < horizon.raw_from:
        raise TooOldToVoid("Raw events of that time are no longer kept, so its totals cannot be recounted.")
    if Erasure.objects.for_organization(organization).filter(customer_id=event.customer_id).exists():
        raise NotFound("There is no such event.")  # any more, in a moment
    void = EventVoid(
        organization=organization,
        idempotency_key=idempotency_key,
        reason=reason,
        actor=actor,
        voided_at=now,
        known_id=cutoffs.draw_id(),
    )
    try:
        with transaction.atomic():
            void.save(force_insert=True)
    except IntegrityError:
        raise AlreadyVoided("This event was voided before.") from None
    if _is_rolled(event):
        _recount(event, feed, horizon)
    changes.record_void(
        organization_id=organization.pk,
        metric_ids=feed.metric_ids,
        customer_id=event.customer_id,
        occurred_at=event.occurred_at,
    )
    wake_followers(organization_id=organization.pk)
    record_audit(
        organization=organization,
        actor=actor,
        action="event.voided",
        target=idempotency_key,
        details={"reason": reason},
    )
    return void


def replace_event(
    *,
    organization: Organization,
    idempotency_key: str,
    event: IncomingEvent | MalformedEvent,
    reason: str,
    actor: str,
    now: datetime,
    limits: IngestLimits | None = None,
) -> Replacement:
    """Void an event and store another in its place, both or neither. Raises as both do, with atomic ingest's errors."""
    with transaction.atomic():
        if event.idempotency_key == idempotency_key:
            raise InvalidInput.of("event.idempotency_key", "A replacement has a key of its own.", "invalid_key")
        # First the void: it checks that the event exists, and its lock keeps the rollup away from the new event.
        void = void_event(
            organization=organization,
            idempotency_key=idempotency_key,
            reason=reason,
            actor=actor,
            now=now,
        )
        result = ingest_events(organization=organization, events=[event], now=now, limits=limits, is_atomic=True)
        if result.duplicates:
            raise Conflict("The replacement's key is stored already.", code="conflict")
        EventVoid.objects.for_organization(organization).filter(idempotency_key=idempotency_key).update(
            replacement_key=event.idempotency_key
        )
    void.replacement_key = event.idempotency_key or ""
    return Replacement(void, result)


def check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > MAX_REASON_CHARACTERS or "\x00" in reason:
        raise InvalidInput.of("reason", f"Say why, in 1 to {MAX_REASON_CHARACTERS} characters.", "reason_required")


def _is_rolled(event: Event) -> bool:
    batch = IngestBatch.objects.for_organization(event.organization_id).filter(id=event.offset >> OFFSET_BITS)
    return not batch.filter(state=BatchState.PENDING).exists()


def _recount(event: Event, feed: Feed, horizon: KeptFrom | None) -> None:
    for metric in Metric.objects.for_organization(event.organization_id).filter(pk__in=feed.metric_ids):
        recount.recount_event(metric=metric, event=event, minutes_from=horizon.minutes_from if horizon else None)
