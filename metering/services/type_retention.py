"""Letting go of one event type sooner than of all others: its raw events, and what was counted of them.

Two horizons, each moved under the rollup lock before anything older is deleted (`metering.models.TypeHorizon`):

- before `raw_from` raw events go and rollups stay. A read that relies on raw events looks at the horizon once more
  when it is done (`Reading.confirm`), so what lies before it may go at once.
- before `rollups_from` the rollups go too, and a read that begins earlier is refused. A read does not look twice for
  these, so they go in two steps an hour apart, as in `metering.services.retention`.

Owns how; which days are let go is the caller's to say. Each step is a small transaction of its own: ingest never waits
behind one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import F

from accounts.models import Organization
from metering.domain import DAY, EPOCH, floor_time
from metering.models import Feed, Metric, TypeHorizon
from metering.services.rollup import ensure_horizon
from metering.sql import prune, roll_up
from metering.sql.store_events import FENCE_LOCK

# Of some ten milliseconds: whoever needs the disk meanwhile gets it soon.
STEP_ROWS = 2_000
STEP_SERIES = 500
TWO_STEPS = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Deleted:
    """One step, or all of them added up: how many rows of which kind, and when the first and last raw event was."""

    rows: dict[str, int] = field(default_factory=dict)
    earliest: datetime | None = None
    latest: datetime | None = None

    def __add__(self, other: Deleted) -> Deleted:
        kinds = dict.fromkeys([*self.rows, *other.rows])
        starts = [moment for moment in (self.earliest, other.earliest) if moment]
        ends = [moment for moment in (self.latest, other.latest) if moment]
        return Deleted(
            {kind: self.rows.get(kind, 0) + other.rows.get(kind, 0) for kind in kinds},
            min(starts, default=None),
            max(ends, default=None),
        )


# --- horizons -------------------------------------------------------------------------------------------------


def find_type_horizon(*, organization: Organization, event_type: str) -> TypeHorizon | None:
    found: TypeHorizon | None = TypeHorizon.objects.for_organization(organization).filter(event_type=event_type).first()
    return found


def move_raw_horizon(*, organization: Organization, event_type: str, before: datetime, now: datetime) -> None:
    """Let go of raw events before this day. Moves nothing where there are none, so that a young history stays whole.

    Alone at the ingest fence, with a new `metrics_version`: from then on no event of that time is stored that is not
    known (`metering.services.ingest`), for it could be one that was counted and let go.
    """
    before = floor_time(before, DAY)
    horizon = find_type_horizon(organization=organization, event_type=event_type)
    if horizon and horizon.raw_from and horizon.raw_from >= before:
        return
    # Where there were totals once there were events; else the totals tell, which are quicker asked than all events.
    if (horizon and horizon.rollups_from) or _has_old_days(organization, event_type, before):
        with _moving(organization, event_type, now) as horizon:
            if horizon.raw_from is None or horizon.raw_from < before:
                _fence_off(organization)
                horizon.raw_from, horizon.is_raw_due = before, True
                horizon.save()


def move_rollups_horizon(*, organization: Organization, event_type: str, before: datetime, now: datetime) -> None:
    """Let go of what was counted before this day. Moves nothing where there is none."""
    before = floor_time(before, DAY)
    if _has_old_days(organization, event_type, before):
        with _moving(organization, event_type, now) as horizon:
            if horizon.rollups_from is None or horizon.rollups_from < before:
                horizon.rollups_from, horizon.rollups_moved_at = before, now
                horizon.save()


def _has_old_days(organization: Organization, event_type: str, before: datetime) -> bool:
    metric_ids = _list_metric_ids(organization, event_type)
    return prune.has_old_days(organization_id=organization.pk, metric_ids=metric_ids, before=before)


def _fence_off(organization: Organization) -> None:
    """Have every batch that is not stored yet examined anew, by the horizon that this transaction moves."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [FENCE_LOCK, organization.pk])
    Organization.objects.filter(pk=organization.pk).update(metrics_version=F("metrics_version") + 1)


@contextmanager
def _moving(organization: Organization, event_type: str, now: datetime) -> Iterator[TypeHorizon]:
    """Give the horizon's row under the rollup lock: a void or a rollup under way has decided by the old one."""
    with transaction.atomic():
        roll_up.lock(organization_id=organization.pk)
        ensure_horizon(organization_id=organization.pk, now=now)
        horizon, _ = TypeHorizon.objects.get_or_create(organization=organization, event_type=event_type)
        yield horizon


# --- deleting -------------------------------------------------------------------------------------------------


def delete_raw(*, organization: Organization, event_type: str) -> Iterator[Deleted]:
    """Delete what lies before the raw horizon, one step per turn; once through for each move of it.

    What is not rolled up yet stays until the next. The way leads past all events that are as old, whatever their type.
    """
    horizon = find_type_horizon(organization=organization, event_type=event_type)
    if horizon is None or horizon.raw_from is None or not horizon.is_raw_due:
        return
    feed_ids = _list_feed_ids(organization, event_type)
    names: dict[str, Any] = {"organization_id": organization.pk, "feed_ids": feed_ids, "before": horizon.raw_from}
    has_deleted = False
    after = EPOCH
    while True:
        step = prune.delete_old_events(**names, after=after, limit=STEP_ROWS)
        if step.latest is None:
            break
        # Of one instant there may be more than a step takes; what stays for good is passed by in the end.
        after = step.latest if step.row_count else step.latest + timedelta(microseconds=1)
        has_deleted = has_deleted or step.row_count > 0
        yield Deleted({"events": step.row_count, "voids": len(step.voided_keys)}, step.earliest, step.latest)
    last_id: int | None = 0
    while has_deleted and last_id is not None:
        batches = prune.delete_old_batches(**names, after=last_id, limit=STEP_ROWS)
        last_id = batches.last_id
        yield Deleted({"batches": batches.row_count})
    done = TypeHorizon.objects.for_organization(organization).filter(pk=horizon.pk, raw_from=horizon.raw_from)
    done.update(is_raw_due=False)


def delete_rollups(*, organization: Organization, event_type: str, now: datetime) -> Iterator[Deleted]:
    """Delete what lies before the horizon of rollups, if that has stood for an hour, one step per turn."""
    horizon = find_type_horizon(organization=organization, event_type=event_type)
    if horizon is None or horizon.rollups_from is None or horizon.rollups_moved_at is None:
        return
    if horizon.rollups_moved_at > now - TWO_STEPS:
        return
    metric_ids = _list_metric_ids(organization, event_type)
    after = 0
    while series_ids := prune.list_series_ids(
        organization_id=organization.pk, metric_ids=metric_ids, after=after, limit=STEP_SERIES
    ):
        after = series_ids[-1]
        count = 0
        for step in _delete_buckets(organization, series_ids, horizon.rollups_from):
            count += sum(step.rows.values())
            yield step
        if count:
            yield Deleted({"series": _delete_empty(organization, series_ids)})


def _delete_buckets(organization: Organization, series_ids: list[int], before: datetime) -> Iterator[Deleted]:
    for kind, table in prune.BUCKET_TABLES:
        count = STEP_ROWS
        while count == STEP_ROWS:
            count = prune.delete_buckets(
                organization_id=organization.pk, table=table, series_ids=series_ids, before=before, limit=STEP_ROWS
            )
            if count:
                yield Deleted({kind: count})


@transaction.atomic
def _delete_empty(organization: Organization, series_ids: list[int]) -> int:
    roll_up.lock(organization_id=organization.pk)
    return prune.delete_empty_series(organization_id=organization.pk, series_ids=series_ids)


# --- counting -------------------------------------------------------------------------------------------------


def count_raw(*, organization: Organization, event_type: str, before: datetime) -> Deleted:
    """Count what `delete_raw` would delete with its horizon at this day."""
    counted = prune.count_old_events(
        organization_id=organization.pk,
        feed_ids=_list_feed_ids(organization, event_type),
        before=floor_time(before, DAY),
    )
    return Deleted({"events": counted.row_count}, counted.earliest, counted.latest)


def count_rollups(*, organization: Organization, event_type: str, before: datetime) -> Deleted:
    """Count what `delete_rollups` would delete with its horizon at this day."""
    metric_ids = _list_metric_ids(organization, event_type)
    return Deleted(
        {
            kind: prune.count_buckets(
                organization_id=organization.pk, table=table, metric_ids=metric_ids, before=floor_time(before, DAY)
            )
            for kind, table in prune.BUCKET_TABLES
        }
    )


def _list_feed_ids(organization: Organization, event_type: str) -> list[int]:
    return list(Feed.objects.for_organization(organization).filter(event_type=event_type).values_list("pk", flat=True))


def _list_metric_ids(organization: Organization, event_type: str) -> list[int]:
    metrics = Metric.objects.for_organization(organization).filter(event_type=event_type)
    return list(metrics.values_list("pk", flat=True))
