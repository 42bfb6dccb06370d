"""Which time each point of a series covers, by its mode, and what has to be read for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from operator import or_
from typing import Self, TypeVar
from zoneinfo import ZoneInfo

from pyroaring import BitMap

from metering.domain import (
    Cell,
    Granularity,
    Mode,
    Span,
    calendar_period,
    day_period,
    list_buckets,
    running_merges,
    sliding_merges,
)
from metering.queries.members import MemberCell

ROLLING_DAYS = 30
# Windows are made of whole buckets.
GRANULARITIES = {
    Mode.INCREMENTAL: frozenset(Granularity),
    Mode.MONTH_TO_DATE: frozenset({Granularity.HOUR, Granularity.DAY}),
    Mode.ROLLING_30D: frozenset({Granularity.DAY}),
}

Summary = TypeVar("Summary", Cell, MemberCell)


@dataclass(frozen=True, slots=True)
class Windows:
    """The points of a series: what they cover, and which contiguous pieces of time to read for them."""

    mode: Mode
    zone: ZoneInfo
    # The asked range: it cuts incremental points on both sides and all others at its end.
    span: Span
    # One per point, whole.
    buckets: Sequence[Span]
    # What lies before the first bucket and matters, then the buckets, cut.
    read: Sequence[Span]

    @classmethod
    def of(cls, buckets: Sequence[Span], *, span: Span, mode: Mode, zone: ZoneInfo) -> Self:
        cut = [Span(bucket.start, min(bucket.end, span.end)) for bucket in buckets]
        if mode == Mode.INCREMENTAL:
            cut[0] = Span(max(cut[0].start, span.start), cut[0].end)
        return cls(mode, zone, span, buckets, [*_list_before(buckets[0].start, mode, zone), *cut])

    def part(self, first: int, stop: int) -> Self:
        """Return the windows of the points `[first, stop)` alone."""
        buckets = self.buckets[first:stop]
        span = Span(max(self.span.start, buckets[0].start), min(self.span.end, buckets[-1].end))
        return type(self).of(buckets, span=span, mode=self.mode, zone=self.zone)

    def count(self, sets: Sequence[BitMap]) -> list[int]:
        """Return for each point how many are in the sets of its window together: `merge` without any removal."""
        counts = list(map(len, sets)) if self.mode == Mode.INCREMENTAL else []
        if self.mode == Mode.MONTH_TO_DATE:
            counts = _running_counts(sets, self._month_starts())
        elif self.mode == Mode.ROLLING_30D:
            counts = _sliding_counts(sets, ROLLING_DAYS)
        return counts[len(self.read) - len(self.buckets) :]

    def merge(self, pieces: Sequence[Summary]) -> Sequence[Summary]:
        """Return for each point what the pieces of its window, as they were read, come to."""
        merged = pieces
        if self.mode == Mode.MONTH_TO_DATE:
            merged = running_merges(pieces, self._month_starts())
        elif self.mode == Mode.ROLLING_30D:
            merged = sliding_merges(pieces, ROLLING_DAYS)
        return merged[len(self.read) - len(self.buckets) :]

    def _month_starts(self) -> list[bool]:
        """Tell of each piece read whether a month begins with it."""
        whole = Span(self.read[0].start, self.read[-1].end)
        months = {month.start for month in list_buckets(whole, Granularity.MONTH, self.zone)}
        return [piece.start in months for piece in self.read]


def _running_counts(sets: Sequence[BitMap], restarts: Sequence[bool]) -> list[int]:
    counts, running = [], BitMap()
    for added, is_restart in zip(sets, restarts, strict=True):
        if is_restart:
            running = BitMap()
        running |= added
        counts.append(len(running))
    return counts


def _sliding_counts(sets: Sequence[BitMap], width: int) -> list[int]:
    """As `sliding_merges`, a third of its work: only the ends of blocks are kept, and windows are not made at all."""
    counts: list[int] = []
    ends = [BitMap()] * width
    for first in range(0, len(sets), width):
        block = sets[first : first + width]
        beginning = BitMap()
        for added, end in zip(block, [*ends[1:], BitMap()], strict=False):
            beginning |= added
            counts.append(beginning.union_cardinality(end))
        ends = list(accumulate(reversed(block), or_))[::-1]
    return counts


def _list_before(first: datetime, mode: Mode, zone: ZoneInfo) -> list[Span]:
    """Return the pieces before the first bucket that its window covers: the month so far as one, other days apart."""
    if mode == Mode.MONTH_TO_DATE:
        month = calendar_period(first, cycle_day=1, zone=zone)
        return [Span(month.start, first)] if month.start < first else []
    if mode == Mode.ROLLING_30D:
        # Day by day: where a zone changed sides of the date line, a date is missing.
        days: list[Span] = []
        for _ in range(ROLLING_DAYS - 1):
            days.append(day_period(first - timedelta(microseconds=1), zone=zone))
            first = days[-1].start
        return days[::-1]
    return []
