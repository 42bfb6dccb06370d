"""The inbox of events that could not be counted: keep, replay after the cause is fixed, discard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from django.db import connection, transaction

from accounts.models import Organization
from accounts.services import record_audit
from metering.admission import EventError
from metering.dialects.native import decode_one
from metering.domain import MAX_BATCH_EVENTS
from metering.incoming import IncomingEvent, MalformedEvent, QueuedEvent
from metering.models import InboxEvent, InboxState

# What does not fit is only reported: the inbox must not become a way to store megabytes.
MAX_PAYLOAD_BYTES = 16_384
MAX_TYPE_CHARACTERS = 256

_encoder = msgspec.json.Encoder(decimal_format="number")

_KEEP = """
INSERT INTO metering_inboxevent (
    organization_id, idempotency_key, payload, event_type, code, message, received_at, state
)
SELECT %(organization)s, kept.*, %(now)s, 'waiting'
FROM unnest(%(keys)s::text[], %(payloads)s::text[], %(types)s::text[], %(codes)s::text[], %(messages)s::text[]) AS kept
ORDER BY 1
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did: how many events are now counted (or were already), and how many still wait."""

    counted: int
    still_waiting: int


def keep_unmatched(
    *,
    organization: Organization,
    events: Sequence[IncomingEvent | MalformedEvent],
    errors: Sequence[EventError],
    now: datetime,
    codes: frozenset[str] = frozenset({"unknown_metric"}),
) -> None:
    """Keep the refused events with one of the codes. Idempotent: a retry of the sender adds no row."""
    columns: tuple[list[str], ...] = ([], [], [], [], [])
    for error in errors:
        event = events[error.index]
        row = _to_row(event, error) if error.code in codes and isinstance(event, IncomingEvent) else None
        if row:
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    if columns[0]:
        names = ("keys", "payloads", "types", "codes", "messages")
        with connection.cursor() as cursor:
            cursor.execute(
                _KEEP, {"organization": organization.pk, "now": now, **dict(zip(names, columns, strict=True))}
            )


def replay_inbox(*, organization: Organization, ids: Sequence[int] | None, actor: str, now: datetime) -> ReplayResult:
    """Ingest waiting events again (all when `ids` is None); those that are counted now leave the inbox.

    An event without a time of its own keeps its first arrival as its time. Safe to repeat.
    """
    from metering.services.ingest import ingest_events  # ingest keeps what it refuses here: the one mutual call

    counted = still_waiting = 0
    waiting = InboxEvent.objects.for_organization(organization).filter(state=InboxState.WAITING)
    if ids is not None:
        waiting = waiting.filter(pk__in=ids)
    after = 0
    while rows := list(waiting.filter(pk__gt=after).order_by("pk")[:MAX_BATCH_EVENTS]):
        after = rows[-1].pk
        events = [_from_row(row) for row in rows]
        result = ingest_events(organization=organization, events=events, now=now)
        refused = {error.index: error for error in result.errors}
        done = [row.pk for index, row in enumerate(rows) if index not in refused]
        InboxEvent.objects.for_organization(organization).filter(pk__in=done).update(
            state=InboxState.REPLAYED, settled_at=now
        )
        for index, error in refused.items():
            rows[index].message = error.message
            rows[index].save(update_fields=["message"])
        counted += len(done)
        still_waiting += len(refused)
    if counted:
        record_audit(
            organization=organization,
            actor=actor,
            action="inbox.replayed",
            target=f"{counted} events",
            details={"still_waiting": still_waiting},
        )
    return ReplayResult(counted, still_waiting)


@transaction.atomic
def discard_inbox(*, organization: Organization, ids: Sequence[int], actor: str, now: datetime) -> int:
    """Settle waiting events without counting them; return how many."""
    discarded = (
        InboxEvent.objects.for_organization(organization)
        .filter(pk__in=ids, state=InboxState.WAITING)
        .update(state=InboxState.DISCARDED, settled_at=now)
    )
    if discarded:
        record_audit(organization=organization, actor=actor, action="inbox.discarded", target=f"{discarded} events")
    return discarded


def _from_row(row: InboxEvent) -> QueuedEvent | MalformedEvent:
    event = decode_one(row.payload.encode())
    if isinstance(event, MalformedEvent):
        return event
    return QueuedEvent(**msgspec.structs.asdict(event), arrived_at=row.received_at)


def _to_row(event: IncomingEvent, error: EventError) -> tuple[str, str, str, str, str] | None:
    named = event.type or event.metric or ""
    # Without the arrival of a queued event: the row has it.
    payload = _encoder.encode(IncomingEvent(**{name: getattr(event, name) for name in IncomingEvent.__struct_fields__}))
    if len(payload) > MAX_PAYLOAD_BYTES or len(named) > MAX_TYPE_CHARACTERS or b"\\u0000" in payload:
        return None
    return (event.idempotency_key or "", payload.decode(), named, error.code, error.message)
