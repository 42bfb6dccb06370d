"""Letting go of what is no longer kept: old minute rollups, and raw events beyond an organization's retention.

In two steps an hour apart: a run first deletes what lies before the horizon that the last run set, then moves the
horizon on. A read that looked up the horizon just before the move therefore still finds everything it counts on.
Every delete is a small transaction of its own, so that ingest never waits behind one.

Raw events of a time that is not billed yet stay, however short the retention (`settings.UNBILLED_FROM`). Those that
only an adjustment or an explanation of a final invoice would read go by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils.module_loading import import_string

from accounts.models import Organization
from metering.domain import DAY, floor_time
from metering.models import Horizon
from metering.services.rollup import MINUTE_RETENTION, ensure_horizon
from metering.sql import roll_up

logger = structlog.get_logger(__name__)

DELETE_ROWS = 5_000

# Events that are rolled, older than the horizon, and known for as long: a late arrival keeps its full time, so that
# its retry is still recognised. Uses event_by_time.
_DELETE_EVENTS = """
DELETE FROM metering_event
WHERE organization_id = %(organization)s AND idempotency_key IN (
    SELECT event.idempotency_key FROM metering_event AS event
    WHERE event.organization_id = %(organization)s
      AND event.occurred_at < %(before)s AND event.received_at < %(before)s
      AND NOT EXISTS (
          SELECT FROM metering_ingestbatch AS batch
          WHERE batch.organization_id = event.organization_id AND batch.id = event."offset" >> 13 AND batch.state = 0
      )
    LIMIT %(limit)s
)
"""

_DELETE_MINUTES = """
DELETE FROM metering_rollup_minute
WHERE organization_id = %(organization)s AND (series_id, bucket_start) IN (
    SELECT series_id, bucket_start FROM metering_rollup_minute
    WHERE organization_id = %(organization)s AND bucket_start < %(before)s
    LIMIT %(limit)s
)
"""

# Rolled batches without events left: nothing refers to them any more.
_DELETE_BATCHES = """
DELETE FROM metering_ingestbatch AS batch
WHERE batch.organization_id = %(organization)s AND batch.id IN (
    SELECT id FROM metering_ingestbatch AS old
    WHERE old.organization_id = %(organization)s AND old.state = 1 AND old.received_at < %(before)s
    LIMIT %(limit)s
)
"""

# Voids whose event is gone, however young: a new event under the same key is not the one that was taken back.
_DELETE_VOIDS = """
DELETE FROM metering_eventvoid AS void
WHERE void.organization_id = %(organization)s AND void.idempotency_key IN (
    SELECT old.idempotency_key FROM metering_eventvoid AS old
    WHERE old.organization_id = %(organization)s
      AND NOT EXISTS (
          SELECT FROM metering_event AS event
          WHERE event.organization_id = old.organization_id AND event.idempotency_key = old.idempotency_key
      )
    LIMIT %(limit)s
)
"""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows of each kind one run deleted."""

    events: int
    minutes: int
    batches: int
    voids: int


def prune_organization(*, organization: Organization, now: datetime) -> Pruned:
    """Delete what lies before the horizon in bounded batches, then move the horizon on. Safe to repeat."""
    horizon = ensure_horizon(organization_id=organization.pk, now=now)
    minutes = _delete(_DELETE_MINUTES, organization, horizon.minutes_from)
    events = batches = voids = 0
    if horizon.raw_from is not None:
        events = _delete(_DELETE_EVENTS, organization, horizon.raw_from)
        batches = _delete(_DELETE_BATCHES, organization, horizon.raw_from)
        voids = _delete(_DELETE_VOIDS, organization, horizon.raw_from)
    _advance(organization, now)
    return Pruned(events, minutes, batches, voids)


@transaction.atomic
def _advance(organization: Organization, now: datetime) -> None:
    # Under the rollup lock: a rollup under way has decided by the old horizon which minutes to write.
    roll_up.lock(organization_id=organization.pk)
    horizon = Horizon.objects.for_organization(organization).select_for_update().get()
    horizon.minutes_from = max(horizon.minutes_from, floor_time(now - MINUTE_RETENTION, DAY))
    if organization.raw_retention_days is not None:
        age = timedelta(days=organization.raw_retention_days)
        kept_from = _hold_back(organization, floor_time(now - age, DAY), horizon.raw_from)
        horizon.raw_from = max(horizon.raw_from or kept_from, kept_from)
    horizon.save()


def _hold_back(organization: Organization, kept_from: datetime, gone_before: datetime | None) -> datetime:
    """Return where raw events are kept from, however short the setting: what is not billed yet needs them.

    They tell what lies on which side of an edge that cuts an hour, as where a period begins or a plan changes.
    """
    if settings.UNBILLED_FROM is None:
        return kept_from
    tell: Callable[[Organization, datetime | None], datetime | None] = import_string(settings.UNBILLED_FROM)
    unbilled_from = tell(organization, gone_before)
    # A day earlier, so that whatever else the edge touches is whole too.
    if unbilled_from is None or (needed_from := floor_time(unbilled_from, DAY) - DAY) >= kept_from:
        return kept_from
    logger.info(
        "raw events are kept for what is not billed yet",
        organization=organization.pk,
        kept_from=needed_from.isoformat(),
        by_setting=kept_from.isoformat(),
    )
    return needed_from


def _delete(statement: str, organization: Organization, before: datetime) -> int:
    total = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(statement, {"organization": organization.pk, "before": before, "limit": DELETE_ROWS})
            deleted = cursor.rowcount
        total += deleted
        if deleted < DELETE_ROWS:
            return total
