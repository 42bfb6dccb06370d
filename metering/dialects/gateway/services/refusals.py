"""Requests that were refused because their expression gave no number: kept in the inbox, so that somebody learns of it.

Owns how many are kept, and for how long. Their bodies are not: nothing here can meter them again. To replay one is to
count its request without units, as if the policy of its route had been `zero`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from accounts.models import Organization
from common.models import TenantQuerySet
from metering.admission import EventError
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.recording import METERING_ERROR
from metering.dialects.gateway.services.settings import get_settings
from metering.incoming import IncomingEvent
from metering.models import InboxEvent
from metering.services.inbox import keep_unmatched
from metering.services.ingest import IngestLimits, examine_events

# Of an organization; the newest stay.
MAX_KEPT = 10_000


def keep_refused(
    *,
    organization: Organization,
    refused: Mapping[int, IncomingEvent],
    errors: Sequence[EventError],
    now: datetime,
    limits: IngestLimits,
) -> set[int]:
    """Keep the refused requests of a batch, by index; return the indexes of those that were not known before.

    A retry of the sender adds no row. What would be refused even with units, for its time or for a bound key, is not
    kept. No query where nothing was refused.
    """
    if not refused:
        return set()
    indexes, events = list(refused), list(refused.values())
    messages = {error.index: error.message for error in errors}
    admitted, _, _ = examine_events(organization=organization, events=events, now=now, limits=limits)
    for each in admitted:
        events[each.index].timestamp = each.occurred_at.isoformat()  # one form, for whoever reads the row
    known = set(
        _rows(organization)
        .filter(idempotency_key__in=[each.key for each in admitted])
        .values_list("idempotency_key", flat=True)
    )
    kept = [each for each in admitted if each.key not in known]
    keep_unmatched(
        organization=organization,
        events=events,
        errors=[
            EventError(each.index, each.key, METERING_ERROR, "metering_expr", messages[indexes[each.index]])
            for each in kept
        ],
        now=now,
        codes=frozenset({METERING_ERROR}),
    )
    if kept:
        _drop_old(organization, now)
    return refused.keys() - {indexes[each.index] for each in admitted if each.key in known}


def _drop_old(organization: Organization, now: datetime) -> None:
    """Let go of what is older than single requests are kept, and of what is too much."""
    rows = _rows(organization)
    days = get_settings(organization).usage_retention_days
    rows.filter(received_at__lt=now - timedelta(days=days)).delete()
    newest = rows.order_by("-pk").values_list("pk", flat=True)
    for excess in newest[MAX_KEPT : MAX_KEPT + 1]:
        rows.filter(pk__lte=excess).delete()


def _rows(organization: Organization) -> TenantQuerySet:
    return InboxEvent.objects.for_organization(organization).filter(event_type=EVENT_TYPE, code=METERING_ERROR)
