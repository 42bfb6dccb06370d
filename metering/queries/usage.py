"""THE usage query, the only place where a usage number is computed. Every page, report, alert and invoice calls it.

Guarantee: every answer equals the same computed from raw events (voids taken out) at the instant of the read, for
any half-open range to the microsecond, any subset of filters, whether or not the worker has caught up. How: rollups
answer whole days, hours and minutes, raw events the ragged edges, and the events of pending batches the rest, all in
one snapshot.

Over several customers, aggregations that do not add up are taken per customer first: max, min and latest are then
summed (two customers with peaks 100 and 10 use 110), count_unique counts the members that any customer has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import repeat
from operator import attrgetter
from typing import TypeVar
from zoneinfo import ZoneInfo

import msgspec
from pyroaring import BitMap

from accounts.models import Customer, Organization
from common.errors import InvalidInput
from metering.domain import (
    EXACT,
    Cell,
    Granularity,
    Mode,
    Span,
    calendar_period,
    day_period,
    list_buckets,
    merge_cells,
    running_merges,
    sliding_merges,
)
from metering.models import Aggregation, Metric
from metering.queries.members import MemberCell, list_members, union
from metering.queries.reading import Filters, LineKey, Reading, snapshot
from metering.sql.usage import CUSTOMER

# More points than a chart can show or a person can read; `queries.exports` reads longer series in pieces.
MAX_POINTS = 50_000
ROLLING_DAYS = 30
# Windows are made of whole buckets.
GRANULARITIES = {
    Mode.INCREMENTAL: frozenset(Granularity),
    Mode.MONTH_TO_DATE: frozenset({Granularity.HOUR, Granularity.DAY}),
    Mode.ROLLING_30D: frozenset({Granularity.DAY}),
}
# Calendars end with the year 9999: the first day of a range needs an end, and every bucket of a series one of its
# own, in any zone. A range may end later ("for ever").
CALENDAR_END = datetime(9999, 1, 1, tzinfo=UTC)
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Usage:
    """A metric over one range. `value` is the metric's own aggregation, zero without events; the rest describes the
    events: `sum`, `min`, `max` and `last_value` are None without quantities, `unique` is None unless members count."""

    value: Decimal
    count: int = 0
    sum: Decimal | None = None
    min: Decimal | None = None
    max: Decimal | None = None
    unique: int | None = None
    last_value: Decimal | None = None
    last_event_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BreakdownRow:
    """The usage of one group; `group` maps each key of `group_by` to its value (None: events without it)."""

    group: dict[str, str | None]
    usage: Usage


class Point(msgspec.Struct, frozen=True):
    """One bucket, named by its aligned start. `is_partial`: the range or the present cuts it short."""

    start: datetime
    value: Decimal
    is_partial: bool


@dataclass(frozen=True, slots=True)
class SeriesLine:
    group: dict[str, str | None]
    points: list[Point]


@dataclass(frozen=True, slots=True)
class UsageSeries:
    """Dense lines on one shared time axis. `complete_through`: events known by then are all counted."""

    start: datetime
    end: datetime
    granularity: Granularity
    zone: str
    complete_through: datetime
    lines: list[SeriesLine]


# --- the three reads ------------------------------------------------------------------------------------------


def get_usage(
    *,
    organization: Organization,
    metric: Metric,
    start: datetime,
    end: datetime,
    customer_id: int | None = None,
    filters: Filters | None = None,
    as_of: datetime | None = None,
) -> Usage:
    """Return the usage over `[start, end)`."""
    rows = list_breakdown(
        organization=organization,
        metric=metric,
        start=start,
        end=end,
        group_by=(),
        customer_id=customer_id,
        filters=filters,
        as_of=as_of,
    )
    return rows[0].usage if rows else _usage(metric, [], BitMap())


def list_breakdown(
    *,
    organization: Organization,
    metric: Metric,
    start: datetime,
    end: datetime,
    group_by: Sequence[str],
    customer_id: int | None = None,
    filters: Filters | None = None,
    as_of: datetime | None = None,
) -> list[BreakdownRow]:
    """Return one row per group that has events, the greatest value first. `customer` is a key like any dimension."""
    if start > CALENDAR_END:
        raise InvalidInput.of("from", f"A range begins by {CALENDAR_END:%Y-%m-%d}.", "out_of_range")
    reading = Reading.prepare(organization, metric, customer_id, filters, group_by, as_of)
    span = Span(start, end)
    with snapshot(metric):
        cells = reading.list_cells([span])
        members = list_members(reading, [span]) if reading.counts_members else {}
    lines, member_lines = _group_lines(cells, group_by), _group_lines(members, group_by)
    names = _customer_names(organization, lines, group_by)
    rows = [
        BreakdownRow(
            _name_group(group, group_by, names),
            _usage(
                metric,
                [cells[key][0] for key in keys],
                union(members[key][0].added for key in member_lines.get(group, ())),
            ),
        )
        for group, keys in lines.items()
    ]
    rows = [row for row in rows if row.usage.count]
    return sorted(rows, key=lambda row: (-row.usage.value, [value or "" for value in row.group.values()]))


def get_series(
    *,
    organization: Organization,
    metric: Metric,
    start: datetime,
    end: datetime,
    granularity: Granularity,
    zone: str,
    now: datetime,
    mode: Mode = Mode.INCREMENTAL,
    group_by: Sequence[str] = (),
    customer_id: int | None = None,
    filters: Filters | None = None,
    as_of: datetime | None = None,
) -> UsageSeries:
    """Return dense lines of one point per bucket that overlaps `[start, end)`.

    Incremental points count only what lies in the range. The points of the other modes look back before it (to
    their month's start, or 30 days), so they do not depend on `start`; they need the buckets of `GRANULARITIES`.
    """
    if end > CALENDAR_END:
        raise InvalidInput.of("to", f"A series ends by {CALENDAR_END:%Y-%m-%d}.", "out_of_range")
    tz = ZoneInfo(zone)
    if granularity not in GRANULARITIES[mode]:
        needed = " or ".join(sorted(GRANULARITIES[mode]))
        raise InvalidInput.of("mode", f"{mode} needs granularity={needed}.", "invalid_combination")
    buckets = _list_bounded_buckets(Span(start, end), granularity, tz)
    reach = _reach(buckets, mode, tz)
    read = [Span(max(bucket.start, start), min(bucket.end, end)) for bucket in buckets]
    if mode != Mode.INCREMENTAL:
        read = _list_before(Span(reach, buckets[0].start), mode, tz)
        read += [Span(bucket.start, min(bucket.end, end)) for bucket in buckets]
    reading = Reading.prepare(organization, metric, customer_id, filters, group_by, as_of)
    with snapshot(metric):
        # Every event that counts names a member, so the members alone know all lines.
        members = list_members(reading, read) if reading.counts_members else {}
        cells = {} if reading.counts_members else reading.list_cells(read, is_own_aggregate_only=True)
    months = {month.start for month in list_buckets(Span(read[0].start, read[-1].end), Granularity.MONTH, tz)}
    is_month_start = [bucket.start in months for bucket in read]
    windows = {key: _windows(line, mode, is_month_start) for key, line in cells.items()}
    member_windows = {key: _windows(line, mode, is_month_start) for key, line in members.items()}
    lines = _group_lines(windows or member_windows, group_by) or ({(): []} if not group_by else {})
    names = _customer_names(organization, lines, group_by)
    if len(lines) * len(buckets) > MAX_POINTS:
        raise _too_many_points(len(lines) * len(buckets))
    shown = slice(len(read) - len(buckets), None)
    partial = [is_partial(bucket, start, end, now, mode) for bucket in buckets]
    return UsageSeries(
        start=start,
        end=end,
        granularity=granularity,
        zone=zone,
        complete_through=min(end, as_of or now),
        lines=[
            SeriesLine(
                _name_group(group, group_by, names),
                [
                    Point(bucket.start, value, is_cut)
                    for bucket, is_cut, value in zip(
                        buckets,
                        partial,
                        _list_values(
                            metric,
                            [windows[key][shown] for key in keys if windows],
                            [member_windows[key][shown] for key in keys if member_windows],
                            len(buckets),
                        ),
                        strict=True,
                    )
                ],
            )
            for group, keys in lines.items()
        ],
    )


def _list_bounded_buckets(span: Span, granularity: Granularity, zone: ZoneInfo) -> list[Span]:
    buckets: list[Span] = []
    for bucket in list_buckets(span, granularity, zone):
        buckets.append(bucket)
        if len(buckets) > MAX_POINTS:
            raise _too_many_points(len(buckets))
    return buckets


def _too_many_points(count: int) -> InvalidInput:
    return InvalidInput.of(
        "granularity",
        f"The answer would have {count} points or more; at most {MAX_POINTS}. Shorten the range or widen the buckets.",
        "too_many_points",
    )


def _reach(buckets: Sequence[Span], mode: Mode, zone: ZoneInfo) -> datetime:
    """Return how far back the first point looks."""
    first = buckets[0].start
    if mode == Mode.MONTH_TO_DATE:
        return calendar_period(first, cycle_day=1, zone=zone).start
    if mode == Mode.ROLLING_30D:
        # Day by day: where a zone changed sides of the date line, a date is missing.
        for _ in range(ROLLING_DAYS - 1):
            first = day_period(first - timedelta(microseconds=1), zone=zone).start
    return first


def _list_before(before: Span, mode: Mode, zone: ZoneInfo) -> list[Span]:
    """Return the buckets to read before the first one shown: the month so far as one piece, other windows by day."""
    if before.start == before.end:
        return []
    return [before] if mode == Mode.MONTH_TO_DATE else list(list_buckets(before, Granularity.DAY, zone))


Window = TypeVar("Window", Cell, MemberCell)


def _windows(line: Sequence[Window], mode: Mode, is_month_start: Sequence[bool]) -> Sequence[Window]:
    if mode == Mode.MONTH_TO_DATE:
        return running_merges(line, is_month_start)
    if mode == Mode.ROLLING_30D:
        return sliding_merges(line, ROLLING_DAYS)
    return line


def is_partial(bucket: Span, start: datetime, end: datetime, now: datetime, mode: Mode) -> bool:
    """Tell whether the series' range or the present cuts the bucket short."""
    return bucket.end > min(end, now) or (mode == Mode.INCREMENTAL and bucket.start < start)


# --- numbers --------------------------------------------------------------------------------------------------


# What a cell holds of a metric by its aggregation; None where it holds no such quantity.
_QUANTITIES: Mapping[Aggregation, Callable[[Cell], Decimal | None]] = {
    Aggregation.COUNT: lambda cell: Decimal(cell.count),
    Aggregation.SUM: attrgetter("sum"),
    Aggregation.MAX: attrgetter("max"),
    Aggregation.MIN: attrgetter("min"),
    Aggregation.LATEST: attrgetter("last_value"),
}


def _value(metric: Metric, cells: Sequence[Cell], members: Iterable[BitMap]) -> Decimal:
    """Return the metric's own aggregation over cells that are one per customer, or one for all where that is exact."""
    if metric.aggregation == Aggregation.COUNT_UNIQUE:
        return Decimal(len(union(members)))
    return _sum(map(_QUANTITIES[Aggregation(metric.aggregation)], cells))


def _list_values(
    metric: Metric, cells: Sequence[Sequence[Cell]], members: Sequence[Sequence[MemberCell]], count: int
) -> list[Decimal]:
    """Return what `_value` makes of each place of some lines, which share one time axis of `count` places."""
    if metric.aggregation == Aggregation.COUNT_UNIQUE:
        if len(members) == 1:
            return [Decimal(len(cell.added)) for cell in members[0]]
        at_place = zip(*members, strict=True) if members else repeat((), count)
        return [_value(metric, (), (cell.added for cell in column)) for column in at_place]
    quantity = _QUANTITIES[Aggregation(metric.aggregation)]
    if len(cells) == 1:  # the usual case, and thousands of points
        return [quantity(cell) or ZERO for cell in cells[0]]
    columns = zip(*cells, strict=True) if cells else repeat((), count)
    return [_sum(map(quantity, column)) for column in columns]


def _usage(metric: Metric, cells: Sequence[Cell], members: BitMap) -> Usage:
    total = merge_cells(cells)
    counts_members = metric.aggregation == Aggregation.COUNT_UNIQUE
    return Usage(
        value=_value(metric, cells, [members]),
        count=total.count,
        sum=total.sum,
        min=total.min,
        max=total.max,
        unique=len(members) if counts_members else None,
        last_value=total.last_value,
        last_event_at=total.last_at,
    )


def _sum(values: Iterable[Decimal | None]) -> Decimal:
    return reduce(EXACT.add, (value for value in values if value is not None), ZERO)


# --- groups ---------------------------------------------------------------------------------------------------


# The values of `group_by` in its order; a customer stands as its id.
Group = tuple[str | int | None, ...]


def _group_lines(cells: Mapping[LineKey, object], group_by: Sequence[str]) -> dict[Group, list[LineKey]]:
    """Return the lines of each group; lines of several customers join unless the customer is a group key."""
    groups: dict[Group, list[LineKey]] = {}
    for key in cells:
        customer_id, values = key
        rest = iter(values)
        group = tuple(customer_id if name == CUSTOMER else next(rest) for name in group_by)
        groups.setdefault(group, []).append(key)
    return groups


def _customer_names(organization: Organization, groups: Iterable[Group], group_by: Sequence[str]) -> dict[int, str]:
    if CUSTOMER not in group_by:
        return {}
    place = list(group_by).index(CUSTOMER)
    ids = {customer_id for group in groups if isinstance(customer_id := group[place], int)}
    return dict(Customer.objects.for_organization(organization).filter(pk__in=ids).values_list("pk", "external_id"))


def _name_group(group: Group, group_by: Sequence[str], names: Mapping[int, str]) -> dict[str, str | None]:
    return {key: names[value] if isinstance(value, int) else value for key, value in zip(group_by, group, strict=True)}
