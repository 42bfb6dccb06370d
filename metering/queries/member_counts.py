"""Distinct counts of a series' points, with a memory for whole UTC months that do not change any more.

The sets of a year are tens of thousands of bitmaps, and those of all but the newest month say what they said
yesterday. What a month came to is remembered in Redis, under a name that contains the versions of all months that it
depends on. Every transaction that writes a set gives its month a new version (`metering.sql.member_sets`), and a month
that an event of a pending batch belongs to is counted anew, so a remembered count is the one that counting would
give. Without Redis everything is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

import msgspec
import redis
import structlog

from common.redis import redis_client
from metering.domain import DAY, Mode, Span, calendar_period, floor_time
from metering.queries.members import MemberCell, list_members, union
from metering.queries.reading import Group, LineKey, Reading, group_lines
from metering.queries.windows import ROLLING_DAYS, Windows
from metering.sql import member_sets
from metering.sql import usage as usage_sql

logger = structlog.get_logger(__name__)

# Per group one number per point.
Counts = dict[Group, list[int]]

KEPT_SECONDS = 7 * 24 * 3600
# A month of more numbers is counted anew each time: the memory serves charts and is no copy of the sets.
MAX_KEPT_NUMBERS = 20_000
# The number changes with the form of what is kept.
PREFIX = "meterbook:members:1:"


@dataclass(frozen=True, slots=True)
class _Month:
    """The points `[first, stop)` of one month, and the name of their counts where these can be remembered."""

    first: int
    stop: int
    name: str | None


def count_members(reading: Reading, windows: Windows, group_by: Sequence[str]) -> Counts:
    """Return the counts of every group that has members. Inside the read's snapshot."""
    months = _list_months(reading, windows, group_by)
    known = _recall([month.name for month in months if month.name])
    counts: Counts = {}
    for is_known, run in groupby(months, key=lambda month: month.name in known):
        if is_known:
            parts = [(month.first, known[month.name]) for month in run if month.name]
        else:
            parts = [_count_run(reading, windows, group_by, list(run))]
        for first, part in parts:
            for group, line in part.items():
                counts.setdefault(group, [0] * len(windows.buckets))[first : first + len(line)] = line
    return counts


def _count_run(
    reading: Reading, windows: Windows, group_by: Sequence[str], run: Sequence[_Month]
) -> tuple[int, Counts]:
    """Count successive months together, remember those with a name, and return the first place and the counts."""
    first = run[0].first
    part = windows.part(first, run[-1].stop)
    members = list_members(reading, part.read)
    groups = group_lines(members, group_by)
    if any(len(keys) > 1 for keys in groups.values()) or any(
        cell.removed for line in members.values() for cell in line
    ):
        # Members were removed. A group may have had some and yet count none, which numbers do not tell: not remembered.
        return first, _count_with_removals(members, part, group_by)
    counts = {group: part.count([cell.added for cell in members[key]]) for group, [key] in groups.items()}
    _remember({month.name: _slice(counts, month.first - first, month.stop - first) for month in run if month.name})
    return first, counts


def _count_with_removals(
    members: Mapping[LineKey, Sequence[MemberCell]], windows: Windows, group_by: Sequence[str]
) -> Counts:
    merged = {key: windows.merge(line) for key, line in members.items()}
    return {
        group: [len(union(cell.added for cell in cells)) for cells in zip(*(merged[key] for key in keys), strict=True)]
        for group, keys in group_lines(merged, group_by).items()
    }


def _slice(counts: Counts, first: int, stop: int) -> Counts:
    """Return some of the points, of the groups that have members in them."""
    return {group: line[first:stop] for group, line in counts.items() if any(line[first:stop])}


# --- which months can be remembered ---------------------------------------------------------------------------


def _list_months(reading: Reading, windows: Windows, group_by: Sequence[str]) -> list[_Month]:
    """Cut the points by their month; all of them are one piece where no month can be remembered."""
    spans = _list_whole_months(windows) if reading.selection.as_of is None else {}
    if not any(spans.values()):
        return [_Month(0, len(windows.buckets), None)]
    whole = Span(windows.read[0].start, windows.read[-1].end)
    pending = {row.occurred_at for row in usage_sql.list_operations(reading.selection, span=whole, raw=[])}
    versions = member_sets.list_month_versions(metric=reading.selection.metric)
    reach = timedelta(days=ROLLING_DAYS - 1 if windows.mode == Mode.ROLLING_30D else 0)
    months = []
    for (first, stop), month in spans.items():
        name = None
        if month is not None and not any(month.start - reach <= at < month.end for at in pending):
            relevant = [version for start, version in versions if month.start - reach - MONTH < start < month.end]
            name = _name(reading, windows, group_by, month, stop - first, relevant)
        months.append(_Month(first, stop, name))
    return months


# More than the longest month: whatever begins within it before a time may still reach that time.
MONTH = timedelta(days=32)
UTC_ZONE = ZoneInfo("UTC")


def _list_whole_months(windows: Windows) -> dict[tuple[int, int], Span | None]:
    """Return for the places of each month's points the month, or None where they do not cover exactly all of it."""
    found: dict[tuple[int, int], Span | None] = {}
    if any(floor_time(piece.start, DAY) != piece.start for piece in windows.buckets):
        return found
    first = 0
    for _, run in groupby(
        windows.buckets, key=lambda bucket: (bucket.start.astimezone(UTC).year, bucket.start.astimezone(UTC).month)
    ):
        buckets = list(run)
        month = calendar_period(buckets[0].start, cycle_day=1, zone=UTC_ZONE)
        is_whole = (
            buckets[0].start == month.start
            and buckets[-1].end == month.end <= windows.span.end
            and (windows.mode != Mode.INCREMENTAL or windows.span.start <= month.start)
        )
        found[first, first + len(buckets)] = month if is_whole else None
        first += len(buckets)
    return found


def _name(
    reading: Reading,
    windows: Windows,
    group_by: Sequence[str],
    month: Span,
    point_count: int,
    versions: Sequence[str],
) -> str:
    """Return a name that no other question has, nor the same one of other data."""
    selection = reading.selection
    metric = selection.metric
    question = [
        metric.organization_id,
        metric.pk,
        metric.dimensions,
        selection.customer_ids,
        sorted((key, sorted(values, key=str)) for key, values in selection.filters.items()),
        list(group_by),
        windows.mode,
        month.start,
        point_count,
        versions,
    ]
    return PREFIX + hashlib.sha256(msgspec.json.encode(question)).hexdigest()


# --- the memory -----------------------------------------------------------------------------------------------

_Kept = list[tuple[list[str | int | None], list[int]]]


def _recall(names: Sequence[str]) -> dict[str | None, Counts]:
    if not names:
        return {}
    try:
        contents = redis_client().mget(names)
    except redis.RedisError as error:
        logger.warning("memory_unreadable", reason=str(error))
        return {}
    return {
        name: {tuple(group): line for group, line in msgspec.json.decode(content, type=_Kept)}
        for name, content in zip(names, contents, strict=True)
        if content is not None
    }


def _remember(counts: Mapping[str, Counts]) -> None:
    try:
        with redis_client().pipeline(transaction=False) as pipeline:
            for name, part in counts.items():
                if sum(map(len, part.values())) <= MAX_KEPT_NUMBERS:
                    pipeline.set(name, msgspec.json.encode(list(part.items())), ex=KEPT_SECONDS)
            pipeline.execute()
    except redis.RedisError as error:
        logger.warning("memory_unwritable", reason=str(error))
