"""Reads of raw events and of the inbox. Lists are keyset pages, newest first; nothing here counts usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from django.db import connection
from psycopg.sql import SQL, Composable, Literal

from accounts.models import Organization
from common.models import TenantQuerySet
from metering.feeds import list_feed_ids
from metering.models import InboxEvent, InboxState, Metric
from metering.sql import expressions
from metering.sql.usage import KeptFrom, find_horizon

# One row per event. Uses event_by_customer_time or event_by_time, backwards.
_EVENTS = """
SELECT event.idempotency_key, customer.external_id, feed.event_type, event.value, event.member, event.occurred_at,
       event.received_at, event.properties::text, event.operation, event."offset", feed.metric_ids,
       void.voided_at, void.reason, void.replacement_key
FROM metering_event AS event
JOIN accounts_customer AS customer ON customer.id = event.customer_id
JOIN metering_feed AS feed ON feed.id = event.feed_id
LEFT JOIN metering_eventvoid AS void
  ON void.organization_id = event.organization_id AND void.idempotency_key = event.idempotency_key
WHERE event.organization_id = %(organization)s AND {conditions}
ORDER BY event.occurred_at DESC, event."offset" DESC
LIMIT %(limit)s
"""

_properties = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


class EventRow(NamedTuple):
    """One stored event with what became of it. `properties` hold exact numbers; `voided_at` is None while it counts."""

    idempotency_key: str
    customer: str
    type: str
    value: Decimal | None
    member: str | None
    timestamp: datetime
    received_at: datetime
    properties: dict[str, Any]
    operation: str
    offset: int
    metric_ids: list[int]
    voided_at: datetime | None
    void_reason: str | None
    replacement_key: str | None

    @property
    def is_voided(self) -> bool:
        return self.voided_at is not None


class EventPosition(NamedTuple):
    """Where a page ended: the next one goes on with what is older."""

    timestamp: datetime
    offset: int


def list_events(
    *,
    organization: Organization,
    limit: int,
    customer_id: int | None = None,
    metric: Metric | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    properties: Mapping[str, str | Sequence[str]] | None = None,
    before: EventPosition | None = None,
    idempotency_keys: Sequence[str] | None = None,
) -> list[EventRow]:
    """Return events of `[start, end)`, newest first. `metric` narrows to the feeds of that metric.

    A property is one of the values that are given for it, or the one.
    """
    conditions: list[Composable] = [SQL("TRUE")]
    if idempotency_keys is not None:
        conditions.append(SQL("event.idempotency_key = ANY({})").format(expressions.Constant(list(idempotency_keys))))
    if customer_id is not None:
        conditions.append(SQL("event.customer_id = {}").format(Literal(customer_id)))
    if metric is not None:
        conditions.append(SQL("event.feed_id = ANY({})").format(Literal(list_feed_ids(metric))))
        conditions.append(expressions.is_fed(metric))
    if start is not None:
        conditions.append(SQL("event.occurred_at >= {}").format(Literal(start)))
    if end is not None:
        conditions.append(SQL("event.occurred_at < {}").format(Literal(end)))
    for key, value in (properties or {}).items():
        text = SQL("(event.properties ->> {})").format(expressions.Constant(key))
        conditions.append(expressions.is_one_of(text, [value] if isinstance(value, str) else value))
    if before is not None:
        conditions.append(
            # The first half lets the index bound the scan; the second orders equal times by arrival.
            SQL('event.occurred_at <= {at} AND (event.occurred_at, event."offset") < ({at}, {offset})').format(
                at=Literal(before.timestamp), offset=Literal(before.offset)
            )
        )
    return _select(organization, conditions, limit)


def find_kept_from(*, organization: Organization, event_type: str) -> KeptFrom | None:
    """Return from when on raw events of the type and what was counted of them are kept; None: all of it is."""
    return find_horizon(organization_id=organization.pk, event_type=event_type)


def find_event(*, organization: Organization, idempotency_key: str) -> EventRow | None:
    if "\x00" in idempotency_key:
        return None
    rows = _select(organization, [SQL("event.idempotency_key = {}").format(expressions.Constant(idempotency_key))], 1)
    return rows[0] if rows else None


def _select(organization: Organization, conditions: list[Composable], limit: int) -> list[EventRow]:
    statement = SQL(_EVENTS).format(conditions=expressions.conjunction(conditions))
    with connection.cursor() as cursor:
        cursor.execute(statement, {"organization": organization.pk, "limit": limit})
        return [_to_row(row) for row in cursor.fetchall()]


def _to_row(row: tuple[Any, ...]) -> EventRow:
    event = EventRow(*row)
    return event._replace(
        properties=_properties.decode(row[7]) if row[7] else {}, operation="remove" if row[8] else "add"
    )


def list_inbox(*, organization: Organization, state: str = InboxState.WAITING) -> TenantQuerySet:
    """Return the inbox rows in one state, newest first."""
    return InboxEvent.objects.for_organization(organization).filter(state=state).order_by("-received_at", "-pk")
