"""The rollup worker's work: add pending batches to the rollups, exactly once.

One transaction claims batches, adds their events, and marks them rolled; a crash anywhere undoes all three. The
organization's rollup lock keeps two workers, a void and a rebuild from touching the same rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from time import monotonic, sleep
from typing import Protocol

from django.db import transaction
from django.db.models import Max

from common.telemetry import ROLLUP_BATCHES, ROLLUP_EVENTS
from metering.domain import DAY, floor_time
from metering.models import Aggregation, BatchState, Feed, Horizon, IngestBatch, Metric
from metering.services.wake import ROLL_UP_TASK, Turn, clear_rollup_mark, is_rollup_asked, wake_followers
from metering.sql import changes, member_sets, roll_up
from metering.sql.usage import find_horizon

# A chunk is large enough that the cost per statement vanishes and small enough that a read which waits for
# nothing still finds a short tail, and that a void waits a fraction of a second for the lock.
MAX_CHUNK_EVENTS = 50_000
MAX_CHUNK_BATCHES = 1_000
# Minute rollups serve the charts of the last hours; older ranges cut hours and read at most two raw edges.
MINUTE_RETENTION = timedelta(days=3)
# Until somebody who waits for the lock looks again.
BUSY_SECONDS = 0.05


class RollupBusy(Exception):
    """Another worker, a void or a rebuild holds the organization's rollups; come back in a moment."""


@dataclass(slots=True)
class RolledUp:
    """What one call did, for the log."""

    batches: int = 0
    events: int = 0
    # It stopped although more may be pending: the chunks were used up, or somebody else took the lock in between.
    is_unfinished: bool = False


class TellFollowers(Protocol):
    """Tells the followers that the organization's usage has changed, after the change is committed."""

    def __call__(self, *, organization_id: int) -> None: ...


def roll_up_in_turn(*, organization_id: int, now: datetime, max_chunks: int, tell_followers: TellFollowers) -> RolledUp:
    """Roll up like `roll_up_organization`, unless another worker is at it: that one then sees to what is left.

    For the worker, which is woken again and again while events come: of its threads one is at an organization's
    work, and no other waits for it.
    """
    turn = Turn(task=ROLL_UP_TASK, organization_id=organization_id)

    def tell_and_keep(*, organization_id: int) -> None:
        tell_followers(organization_id=organization_id)
        turn.keep()

    rolled = RolledUp()
    while turn.take():
        try:
            rolled = roll_up_organization(
                organization_id=organization_id, now=now, max_chunks=max_chunks, tell_followers=tell_and_keep
            )
        finally:
            turn.give_back()
        if rolled.is_unfinished or not is_rollup_asked(organization_id=organization_id):
            break
    return rolled


def roll_up_organization(
    *,
    organization_id: int,
    now: datetime,
    max_chunks: int | None = None,
    tell_followers: TellFollowers = wake_followers,
) -> RolledUp:
    """Roll up chunk after chunk until nothing is pending. Raises `RollupBusy` if the lock is taken at the start.

    While events keep coming this may take for ever; a worker that has other organizations to serve says `max_chunks`.
    """
    rolled = RolledUp()
    for _ in count() if max_chunks is None else range(max_chunks):
        try:
            if not roll_up_chunk(organization_id=organization_id, now=now, rolled=rolled):
                return rolled
        except RollupBusy:
            if not rolled.batches:
                raise
            break
        tell_followers(organization_id=organization_id)
    rolled.is_unfinished = True
    return rolled


def roll_up_known(*, organization_id: int, now: datetime, patience: timedelta) -> None:
    """Roll up every batch that is pending at the call, taking turns with the worker. Raises `RollupBusy`.

    What arrives meanwhile may stay pending: unlike `roll_up_organization` this comes to an end however much it is.
    """
    pending = IngestBatch.objects.for_organization(organization_id).filter(state=BatchState.PENDING)
    known = pending.filter(id__lte=pending.aggregate(Max("id"))["id__max"] or 0)
    rolled = RolledUp()
    give_up_at = monotonic() + patience.total_seconds()
    while known.exists():
        try:
            roll_up_chunk(organization_id=organization_id, now=now, rolled=rolled)
        except RollupBusy:
            if monotonic() > give_up_at:
                raise
            sleep(BUSY_SECONDS)
    if rolled.batches:
        wake_followers(organization_id=organization_id)


@transaction.atomic
def roll_up_chunk(*, organization_id: int, now: datetime, rolled: RolledUp) -> bool:
    """Add one chunk of pending batches; return whether more may wait."""
    if not roll_up.try_lock(organization_id=organization_id):
        raise RollupBusy
    batches = _claim_batches(organization_id)
    if not batches:
        # Under the lock, and not before there is nothing to do: until then no commit needs to wake anybody.
        clear_rollup_mark(organization_id=organization_id)
        batches = _claim_batches(organization_id)
    if not batches:
        return False
    batch_ids = [batch.id for batch in batches]
    feed_ids = {feed_id for batch in batches for feed_id in batch.feed_ids}
    horizon = ensure_horizon(organization_id=organization_id, now=now)
    minutes_from = horizon.minutes_from

    metrics = _metrics_of_feeds(organization_id, feed_ids)
    roll_up.create_stage()
    for metric, its_feeds in metrics:
        roll_up.stage_metric(metric=metric, batch_ids=batch_ids, feed_ids=its_feeds, minutes_from=minutes_from)
    roll_up.create_series(organization_id=organization_id)
    roll_up.upsert_rollups(organization_id=organization_id, minutes_from=minutes_from)
    for metric, its_feeds in metrics:
        if metric.aggregation == Aggregation.COUNT_UNIQUE:
            kept = find_horizon(organization_id=organization_id, event_type=metric.event_type)
            member_sets.add_batches(
                metric=metric, batch_ids=batch_ids, feed_ids=its_feeds, raw_from=kept.raw_from if kept else None
            )
    changes.record_stage(organization_id=organization_id)
    roll_up.mark_rolled(organization_id=organization_id, batch_ids=batch_ids, now=now)

    events = sum(batch.event_count for batch in batches)
    rolled.batches += len(batches)
    rolled.events += events
    ROLLUP_BATCHES.inc(len(batches))
    ROLLUP_EVENTS.inc(events)
    return True


def _claim_batches(organization_id: int) -> Sequence[roll_up.ClaimedBatch]:
    return roll_up.claim_batches(
        organization_id=organization_id, max_batches=MAX_CHUNK_BATCHES, max_events=MAX_CHUNK_EVENTS
    )


def ensure_horizon(*, organization_id: int, now: datetime) -> Horizon:
    """Return the organization's horizon, created before its first rollup so that minutes are complete from there."""
    horizon, _ = Horizon.objects.get_or_create(
        organization_id=organization_id, defaults={"minutes_from": floor_time(now - MINUTE_RETENTION, DAY)}
    )
    return horizon


def _metrics_of_feeds(organization_id: int, feed_ids: set[int]) -> Sequence[tuple[Metric, list[int]]]:
    """Return every metric that the feeds name, with those of the feeds that name it; archived metrics too."""
    feeds_of_metric: dict[int, list[int]] = {}
    for feed in Feed.objects.for_organization(organization_id).filter(pk__in=feed_ids):
        for metric_id in feed.metric_ids:
            feeds_of_metric.setdefault(metric_id, []).append(feed.pk)
    metrics = Metric.objects.for_organization(organization_id).filter(pk__in=feeds_of_metric).order_by("pk")
    return [(metric, feeds_of_metric[metric.pk]) for metric in metrics]
