"""Pure time and number rules of metering: periods, buckets, how a range is cut into rollups, and the merging of cells.

No ORM, no clock, no I/O. All times are aware UTC; all intervals are half-open `[start, end)`; local calendars
(a customer's or organization's zone) appear only where a boundary is computed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_FLOOR, Context, Decimal
from enum import StrEnum
from functools import reduce
from typing import NamedTuple, Protocol, Self, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from common.numbers import WIDE

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A quantity has at most 48 digits, so sums of them are exact far beyond any number of events; Python's default
# context would round at 28.
EXACT = Context(prec=200)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

# Before this much of a period has passed, a projection would multiply noise.
LEAST_PROJECTED_PERCENT = 5
PROJECTED_DIGITS = 12

# An event's offset is its batch's id shifted by this, plus its place in the batch.
OFFSET_BITS = 13
MAX_BATCH_EVENTS = 5000  # below 2 ** OFFSET_BITS; the contract's limit


@dataclass(frozen=True, slots=True)
class Cutoff:
    """A point in an organization's history of commits, drawn by `metering.services.cutoffs`.

    Known at it is exactly what was committed before it: the events of batches, and the voids, with a lesser id.
    """

    id: int
    # When it was drawn: for people to read. No number depends on it.
    at: datetime

    @property
    def offset(self) -> int:
        """The first offset that is not known."""
        return self.id << OFFSET_BITS


class Granularity(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Mode(StrEnum):
    """What a point of a series covers: its own bucket, its month so far, or the 30 days that end with it."""

    INCREMENTAL = "incremental"
    MONTH_TO_DATE = "month_to_date"
    ROLLING_30D = "rolling_30d"


class Span(NamedTuple):
    """A half-open interval of time."""

    start: datetime
    end: datetime


# --- local calendars -----------------------------------------------------------------------------------------


def local_midnight(day: date, zone: ZoneInfo) -> datetime:
    """Return the instant at which a local day begins.

    Where clocks skip midnight this is the instant of the jump; where midnight happens twice, the first.
    """
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)


def month_start(year: int, month: int, cycle_day: int, zone: ZoneInfo) -> datetime:
    """Return where the cycle of a month begins; `month` may run past 12 or below 1."""
    years, month_index = divmod(month - 1, 12)
    return local_midnight(date(year + years, month_index + 1, cycle_day), zone)


def local_date(at: datetime, zone: ZoneInfo) -> date:
    """Return the local day that holds `at`.

    Where clocks are set back across midnight, the old date shows again for a while; that while is the new day's.
    """
    shown = at.astimezone(zone).date()
    return shown + DAY if local_midnight(shown + DAY, zone) <= at else shown


def calendar_period(at: datetime, *, cycle_day: int, zone: ZoneInfo) -> Span:
    local = local_date(at, zone)
    start = month_start(local.year, local.month, cycle_day, zone)
    if at < start:
        return Span(month_start(local.year, local.month - 1, cycle_day, zone), start)
    return Span(start, month_start(local.year, local.month + 1, cycle_day, zone))


def fixed_period(at: datetime, *, days: int) -> Span:
    """Return the window of so many days that holds `at`; windows are counted from the Unix epoch, in UTC."""
    width = timedelta(days=days)
    start = EPOCH + (at - EPOCH) // width * width
    return Span(start, start + width)


def day_period(at: datetime, *, zone: ZoneInfo) -> Span:
    today = local_date(at, zone)
    return Span(local_midnight(today, zone), local_midnight(today + DAY, zone))


def week_period(at: datetime, *, zone: ZoneInfo) -> Span:
    """Return the ISO week, Monday to Monday."""
    today = local_date(at, zone)
    monday = today - timedelta(days=today.weekday())
    return Span(local_midnight(monday, zone), local_midnight(monday + timedelta(days=7), zone))


# --- buckets of a series --------------------------------------------------------------------------------------


def bucket_at(at: datetime, granularity: Granularity, zone: ZoneInfo) -> Span:
    """Return the aligned bucket that holds `at`."""
    match granularity:
        case Granularity.MINUTE:
            start = floor_time(at, MINUTE)
            return Span(start, start + MINUTE)
        case Granularity.HOUR:
            start = _local_hour(at, zone)
            return Span(start, _next_local_hour(start, zone))
        case Granularity.DAY:
            return day_period(at, zone=zone)
        case Granularity.WEEK:
            return week_period(at, zone=zone)
        case Granularity.MONTH:
            return calendar_period(at, cycle_day=1, zone=zone)


def list_buckets(span: Span, granularity: Granularity, zone: ZoneInfo) -> Iterator[Span]:
    """Yield the aligned buckets that overlap the span, in order and without gaps. The outer two may reach beyond it."""
    bucket = bucket_at(span.start, granularity, zone)
    while bucket.start < span.end:
        yield bucket
        bucket = Span(bucket.end, bucket_at(bucket.end, granularity, zone).end)


def _local_hour(at: datetime, zone: ZoneInfo) -> datetime:
    """Return the last instant up to `at` at which a local clock showed a full hour or jumped past one."""
    local = at.astimezone(zone)
    past_hour = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    start = at - past_hour
    if start.astimezone(zone).utcoffset() == local.utcoffset():
        return start
    # A clock change lies between: the bucket begins where the change happened.
    return _offset_change(start, at, zone)


def _next_local_hour(start: datetime, zone: ZoneInfo) -> datetime:
    local = start.astimezone(zone)
    following = start + HOUR - timedelta(minutes=local.minute, seconds=local.second)
    if (following - SECOND).astimezone(zone).utcoffset() == local.utcoffset():
        return following
    # The clock changes before it shows the next full hour, as on the Chatham Islands at a quarter to.
    return _offset_change(start, following, zone)


def _offset_change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the second in `(before, after]` at which the zone's offset changes, by bisection."""
    old = before.astimezone(zone).utcoffset()
    low, high = 0, (floor_time(after, SECOND) - before) // SECOND + 1
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == old:
            low = middle
        else:
            high = middle
    return floor_time(before, SECOND) + timedelta(seconds=high)


def floor_time(at: datetime, width: timedelta) -> datetime:
    return at - (at - EPOCH) % width


def ceil_time(at: datetime, width: timedelta) -> datetime:
    return at + (EPOCH - at) % width


# --- projections ----------------------------------------------------------------------------------------------


def project(value: Decimal, *, period: Span, now: datetime) -> Decimal | None:
    """Return the value at the period's end if it goes on as so far; None while it is too early to tell.

    An estimate: of a division without end it keeps the whole and so many digits, never rounded up to a level.
    """
    length, elapsed = _microseconds(period.end - period.start), _microseconds(now - period.start)
    if elapsed >= length:
        return value
    if elapsed * 100 < length * LEAST_PROJECTED_PERCENT:
        return None
    estimate = WIDE.divide(WIDE.multiply(value, Decimal(length)), Decimal(elapsed))
    last_place = Decimal(1).scaleb(min(0, estimate.adjusted() - PROJECTED_DIGITS + 1))
    return estimate.quantize(last_place, rounding=ROUND_FLOOR, context=WIDE)


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


# --- cutting a range into rollups -----------------------------------------------------------------------------


@dataclass(slots=True)
class Cut:
    """Which part of a range each store answers: whole UTC days, whole hours, whole minutes, and raw events."""

    days: list[Span] = field(default_factory=list)
    hours: list[Span] = field(default_factory=list)
    minutes: list[Span] = field(default_factory=list)
    raw: list[Span] = field(default_factory=list)


def cut_range(
    buckets: Iterable[Span], *, minutes_from: datetime, has_hours: bool = True, has_minutes: bool = True
) -> Cut:
    """Cut contiguous buckets so that no piece crosses a bucket's edge, always preferring the widest rollup.

    `minutes_from` is the watermark from which on minute rollups are complete.
    """
    cut = Cut()
    for bucket in buckets:
        for outside_days in _take_whole(bucket, DAY, cut.days):
            for outside_hours in _take_whole(outside_days, HOUR, cut.hours) if has_hours else (outside_days,):
                is_minute_kept = has_minutes and ceil_time(outside_hours.start, MINUTE) >= minutes_from
                outside = _take_whole(outside_hours, MINUTE, cut.minutes) if is_minute_kept else (outside_hours,)
                for span in outside:
                    _append_span(cut.raw, span)
    return cut


def _take_whole(span: Span, width: timedelta, taken: list[Span]) -> Iterator[Span]:
    """Move the aligned inside of the span to `taken` and yield what is left on its two sides."""
    start, end = ceil_time(span.start, width), floor_time(span.end, width)
    if start >= end:
        yield span
        return
    if span.start < start:
        yield Span(span.start, start)
    _append_span(taken, Span(start, end))
    if end < span.end:
        yield Span(end, span.end)


def _append_span(spans: list[Span], span: Span) -> None:
    """Append, joining with the last span where they touch: fewer spans are fewer index scans."""
    if spans and spans[-1].end == span.start:
        spans[-1] = Span(spans[-1].start, span.end)
    else:
        spans.append(span)


# --- cells ----------------------------------------------------------------------------------------------------


class Cell(msgspec.Struct, frozen=True):  # made by the thousand: a struct costs a fifth of a frozen dataclass
    """The aggregates of some events. Cells of disjoint events merge into the cell of all of them."""

    count: int = 0
    sum: Decimal | None = None
    min: Decimal | None = None
    max: Decimal | None = None
    last_at: datetime | None = None
    last_offset: int = -1
    last_value: Decimal | None = None

    def merged(self, later: Cell) -> Cell:
        last = later if self.last_at is None or _place(later) > _place(self) else self
        return Cell(
            self.count + later.count,
            _either(self.sum, later.sum, EXACT.add),
            _either(self.min, later.min, min),
            _either(self.max, later.max, max),
            last.last_at,
            last.last_offset,
            last.last_value,
        )


def _place(cell: Cell) -> tuple[datetime, int]:
    """Return where the cell's last reading stands in the order of readings; an empty cell's is before all."""
    return (cell.last_at or EPOCH, cell.last_offset)


def _either(
    left: Decimal | None, right: Decimal | None, combine: Callable[[Decimal, Decimal], Decimal]
) -> Decimal | None:
    if left is None:
        return right
    return left if right is None else combine(left, right)


def merge_cells(cells: Iterable[Cell]) -> Cell:
    return reduce(Cell.merged, cells, Cell())


class SortedSpans:
    """Finds the span that holds a time, among disjoint spans."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._spans = sorted(spans)
        self._starts = [span.start for span in self._spans]

    def find(self, at: datetime) -> Span | None:
        place = bisect_right(self._starts, at) - 1
        return self._spans[place] if place >= 0 and at < self._spans[place].end else None


# --- windows over mergeable cells -----------------------------------------------------------------------------


class Mergeable(Protocol):
    """A summary of a piece of time. `merged(later)` summarises both; it is associative, in the order of time."""

    def merged(self, later: Self) -> Self: ...


CellType = TypeVar("CellType", bound=Mergeable)


def running_merges(cells: Sequence[CellType], restarts: Sequence[bool]) -> list[CellType]:
    """Return for each cell the merge of all cells since the last restart, itself included."""
    running: list[CellType] = []
    for cell, is_restart in zip(cells, restarts, strict=True):
        running.append(cell if is_restart or not running else running[-1].merged(cell))
    return running


def sliding_merges(cells: Sequence[CellType], width: int) -> list[CellType]:
    """Return for each cell the merge of the window of `width` cells that ends with it (shorter at the beginning).

    Three merges per cell whatever the width: in blocks of the width, a window is the end of one block and the
    beginning of the next (van Herk and Gil-Werman).
    """
    prefix = running_merges(cells, [place % width == 0 for place in range(len(cells))])
    suffix: list[CellType] = list(cells)
    for place in range(len(cells) - 2, -1, -1):
        if (place + 1) % width:
            suffix[place] = cells[place].merged(suffix[place + 1])
    merged: list[CellType] = []
    for place in range(len(cells)):
        first = place - width + 1
        if first <= 0 or first % width == 0:
            # The window is the beginning of one block (or, at the start, all there is so far).
            merged.append(prefix[place])
        else:
            merged.append(suffix[first].merged(prefix[place]))
    return merged
