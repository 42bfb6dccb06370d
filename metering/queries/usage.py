"""THE usage query, the only place where a usage number is computed. Every page, report, alert and invoice calls it.

Guarantee: every answer equals the same computed from raw events (voids taken out) at the instant of the read, for
any half-open range to the microsecond, any subset of filters, whether or not the worker has caught up. How: rollups
answer whole days, hours and minutes, raw events the ragged edges, and the events of pending batches the rest, all in
one snapshot.

Over several customers, aggregations that do not add up are taken per customer first: max, min and latest are then
summed (two customers with peaks 100 and 10 use 110), count_unique counts the members that any customer has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from itertools import pairwise, starmap
from operator import attrgetter
from zoneinfo import ZoneInfo

import msgspec
from django.db import connection
from pyroaring import BitMap

from accounts.models import Organization
from common.errors import InvalidInput
from metering.domain import (
    EXACT,
    Cell,
    Cutoff,
    Granularity,
    Mode,
    Span,
    list_buckets,
    merge_cells,
    running_merges,
)
from metering.models import Aggregation, Metric
from metering.queries.member_counts import count_members
from metering.queries.members import list_members, union
from metering.queries.reading import Filters, Group, LineKey, Reading, group_lines, snapshot
from metering.queries.windows import GRANULARITIES, Windows
from metering.sql.usage import CUSTOMER

# More points than a chart can show or a person can read; `queries.exports` reads longer series in pieces.
MAX_POINTS = 50_000
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
    as_of: datetime | Cutoff | None = None,
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
    customer_ids: Collection[int] | None = None,
    filters: Filters | None = None,
    as_of: datetime | Cutoff | None = None,
) -> list[BreakdownRow]:
    """Return one row per group that has events, the greatest value first. `customer` is a key like any dimension.

    `customer_ids` are several instead of one.
    """
    if start > CALENDAR_END:
        raise InvalidInput.of("from", f"A range begins by {CALENDAR_END:%Y-%m-%d}.", "out_of_range")
    reading = Reading.prepare(organization, metric, customer_id, filters, group_by, as_of)
    if customer_ids is not None and customer_id is None:
        reading = replace(reading, selection=replace(reading.selection, customer_ids=list(customer_ids)))
    span = Span(start, end)
    with snapshot(metric):
        cells = reading.list_cells([span])
        members = list_members(reading, [span]) if reading.counts_members else {}
    lines, member_lines = group_lines(cells, group_by), group_lines(members, group_by)
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


def list_values(
    *,
    organization: Organization,
    metric: Metric,
    start: datetime,
    end: datetime,
    group_by: Sequence[str],
    customer_id: int | None = None,
    customer_ids: Collection[int] | None = None,
    filters: Filters | None = None,
) -> list[tuple[tuple[str | None, ...], Decimal]]:
    """Return the groups of a breakdown with their values alone, in its order and in half its time.

    For metrics that do not count members.
    """
    reading = Reading.prepare(organization, metric, customer_id, filters, group_by, None)
    assert not reading.counts_members
    if customer_ids is not None and customer_id is None:
        reading = replace(reading, selection=replace(reading.selection, customer_ids=list(customer_ids)))
    cells = reading.list_cells([Span(start, end)], is_own_aggregate_only=True)
    lines = group_lines(cells, group_by)
    names = _customer_names(organization, lines, group_by)
    values = [
        (tuple(_name_group(group, group_by, names).values()), _value(metric, [cells[key][0] for key in keys], ()))
        for group, keys in lines.items()
    ]
    return sorted((line for line in values if line[1]), key=lambda line: (-line[1], [name or "" for name in line[0]]))


def list_customer_groups(
    *,
    organization: Organization,
    metric: Metric,
    start: datetime,
    end: datetime,
    group_by: Sequence[str],
    customer_ids: Collection[int],
    filters: Filters | None = None,
    as_of: datetime | Cutoff | None = None,
) -> dict[int, list[tuple[dict[str, str | None], Decimal]]]:
    """Return, by their ids, the groups of each of the customers and the metric's value in them, in no order.

    The same as a breakdown of each customer, in one read. `group_by` are dimensions; without any, a customer has one
    group, `{}`. Who has no events there is not in the answer. Two statements where whole buckets answer and members
    do not count, whoever is asked for.
    """
    assert CUSTOMER not in group_by
    reading = Reading.prepare(organization, metric, None, filters, (CUSTOMER, *group_by), as_of)
    reading = replace(reading, selection=replace(reading.selection, customer_ids=list(customer_ids)))
    spans = [Span(start, end)]
    with snapshot(metric):
        values = _count_lines(reading, spans) if reading.counts_members else _read_lines(reading, spans)
    customers: dict[int, list[tuple[dict[str, str | None], Decimal]]] = {}
    for (customer_id, group), value in values.items():
        assert customer_id is not None  # lines are per customer
        customers.setdefault(customer_id, []).append((dict(zip(group_by, group, strict=True)), value))
    return customers


def _count_lines(reading: Reading, spans: Sequence[Span]) -> dict[LineKey, Decimal]:
    """Return how many members each line has that has events: every event that counts adds or removes one."""
    members = list_members(reading, spans)
    return {key: Decimal(len(cell.added)) for key, [cell] in members.items() if cell.added or cell.removed}


def _read_lines(reading: Reading, spans: Sequence[Span]) -> dict[LineKey, Decimal]:
    """Return the value of each line that has events: a bucket without any has no row."""
    cells = reading.list_cells(spans, is_own_aggregate_only=True)
    return {key: _value(reading.selection.metric, line, ()) for key, line in cells.items()}


def list_running_groups(
    *,
    organization: Organization,
    metric: Metric,
    edges: Sequence[datetime],
    group_by: Sequence[str],
    customer_id: int,
    filters: Filters | None = None,
) -> list[tuple[dict[str, str | None], list[Decimal]]]:
    """Return the groups of a customer, in no order, with the metric's value from the first edge up to each later one.

    What `list_customer_groups` says of each of these ranges, in one read of the whole; zero where a group has no
    events yet.
    """
    assert CUSTOMER not in group_by
    reading = Reading.prepare(organization, metric, customer_id, filters, (CUSTOMER, *group_by), None)
    pieces = list(starmap(Span, pairwise(edges)))
    restarts = [place == 0 for place in range(len(pieces))]
    with snapshot(metric):
        lines: dict[LineKey, list[Decimal]]
        if reading.counts_members:
            members = list_members(reading, pieces)
            lines = {
                key: [Decimal(len(cell.added)) for cell in running_merges(line, restarts)]
                for key, line in members.items()
            }
        else:
            cells = reading.list_cells(pieces, is_own_aggregate_only=True)
            lines = {key: _list_values(metric, [running_merges(line, restarts)]) for key, line in cells.items()}
    return [(dict(zip(group_by, group, strict=True)), values) for (_, group), values in lines.items()]


def list_customer_values(
    *,
    organization: Organization,
    metric: Metric,
    start: datetime,
    end: datetime,
    customer_ids: Collection[int],
    filters: Filters | None = None,
    as_of: datetime | Cutoff | None = None,
) -> dict[int, Decimal]:
    """Return the value over `[start, end)` of each of the customers by its id: the same as `get_usage`, in one read."""
    customers = list_customer_groups(
        organization=organization,
        metric=metric,
        start=start,
        end=end,
        group_by=(),
        customer_ids=customer_ids,
        filters=filters,
        as_of=as_of,
    )
    return {
        customer_id: customers[customer_id][0][1] if customer_id in customers else ZERO for customer_id in customer_ids
    }


def list_groups(
    *,
    organization: Organization,
    metric: Metric,
    start: datetime,
    end: datetime,
    group_by: Sequence[str],
    customer_id: int | None = None,
    filters: Filters | None = None,
) -> list[dict[str, str | None]]:
    """Return the groups that have events in `[start, end)`, in no order: the keys of a breakdown without its numbers.

    Cheaper than a breakdown where members count, because no member is read.
    """
    reading = Reading.prepare(organization, metric, customer_id, filters, group_by, None)
    cells = reading.list_cells([Span(start, end)], is_own_aggregate_only=True)
    groups = group_lines(cells, group_by)
    names = _customer_names(organization, groups, group_by)
    return [_name_group(group, group_by, names) for group in groups]


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
    as_of: datetime | Cutoff | None = None,
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
    windows = Windows.of(buckets, span=Span(start, end), mode=mode, zone=tz)
    reading = Reading.prepare(organization, metric, customer_id, filters, group_by, as_of)
    with snapshot(metric):
        lines = _list_lines(reading, windows, group_by)
    if len(lines) * len(buckets) > MAX_POINTS:
        raise _too_many_points(len(lines) * len(buckets))
    names = _customer_names(organization, lines, group_by)
    partial = [is_partial(bucket, start, end, now, mode) for bucket in buckets]
    return UsageSeries(
        start=start,
        end=end,
        granularity=granularity,
        zone=zone,
        complete_through=min(end, as_of.at if isinstance(as_of, Cutoff) else as_of or now),
        lines=[
            SeriesLine(
                _name_group(group, group_by, names),
                [
                    Point(bucket.start, value, is_cut)
                    for bucket, is_cut, value in zip(buckets, partial, values, strict=True)
                ],
            )
            for group, values in lines.items()
        ],
    )


def _list_lines(reading: Reading, windows: Windows, group_by: Sequence[str]) -> dict[Group, list[Decimal]]:
    """Return one value per point for each group that has events; without groups there is always one line."""
    if reading.counts_members:
        # Every event that counts names a member, so the members alone know all lines.
        counts = count_members(reading, windows, group_by)
        lines = {group: list(map(Decimal, line)) for group, line in counts.items()}
    else:
        cells = reading.list_cells(windows.read, is_own_aggregate_only=True)
        merged = {key: windows.merge(line) for key, line in cells.items()}
        groups = group_lines(merged, group_by)
        lines = {
            group: _list_values(reading.selection.metric, [merged[key] for key in keys])
            for group, keys in groups.items()
        }
    return lines or ({} if group_by else {(): [ZERO] * len(windows.buckets)})


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


def _list_values(metric: Metric, lines: Sequence[Sequence[Cell]]) -> list[Decimal]:
    """Return what `_value` makes of each place of some lines, which share one time axis."""
    quantity = _QUANTITIES[Aggregation(metric.aggregation)]
    if len(lines) == 1:  # the usual case, and thousands of points
        return [quantity(cell) or ZERO for cell in lines[0]]
    return [_sum(map(quantity, column)) for column in zip(*lines, strict=True)]


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


# Of ten thousand ids the ORM makes as many parameters, which takes five times as long as all else.
_CUSTOMER_NAMES = """
SELECT id, external_id
FROM accounts_customer
WHERE organization_id = %(organization)s AND id = ANY(%(ids)s::bigint[])
"""


def _customer_names(organization: Organization, groups: Iterable[Group], group_by: Sequence[str]) -> dict[int, str]:
    if CUSTOMER not in group_by:
        return {}
    place = list(group_by).index(CUSTOMER)
    ids = {customer_id for group in groups if isinstance(customer_id := group[place], int)}
    with connection.cursor() as cursor:
        cursor.execute(_CUSTOMER_NAMES, {"organization": organization.pk, "ids": list(ids)})
        return dict(cursor.fetchall())


def _name_group(group: Group, group_by: Sequence[str], names: Mapping[int, str]) -> dict[str, str | None]:
    return {key: names[value] if isinstance(value, int) else value for key, value in zip(group_by, group, strict=True)}
