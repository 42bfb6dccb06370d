"""THE usage query, the only place where a usage number is computed. Every page, report, alert and invoice calls it.

Guarantee: every answer equals the same computed from raw events (voids taken out) at the instant of the read, for
any half-open range to the microsecond, any subset of filters, whether or not the worker has caught up. How: rollups
answer whole days, hours and minutes, raw events the ragged edges, and the events of pending batches the rest, all in
one snapshot.

Over several customers, aggregations that do not add up are taken per customer first: max, min and latest are then
summed (two customers with peaks 100 and 10 use 110), count_unique counts the members that any customer has.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import TypeVar
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from pyroaring import BitMap

from accounts.models import Customer, Organization
from common.errors import InvalidInput
from metering.domain import (
    DAY,
    EXACT,
    HOUR,
    Cell,
    Cut,
    Granularity,
    Mode,
    SortedSpans,
    Span,
    bucket_at,
    calendar_period,
    cut_range,
    day_period,
    fixed_period,
    list_buckets,
    merge_cells,
    month_start,
    running_merges,
    sliding_merges,
    week_period,
)
from metering.feeds import list_feed_ids
from metering.models import Aggregation, Horizon, Metric, Operation, PeriodType
from metering.sql import usage as usage_sql
from metering.sql.usage import CUSTOMER, Selection

Filters = Mapping[str, Sequence[str]]
GroupKey = tuple[str | None, ...]
# A customer (None: all together, where that is exact) and the values of the grouping dimensions.
LineKey = tuple[int | None, GroupKey]

# More points than a chart can show or a person can read; an export asks for shorter ranges.
MAX_POINTS = 50_000
ROLLING_DAYS = 30
ZERO = Decimal(0)
# Before an organization's first rollup there are no minutes to read.
NEVER = datetime.max.replace(tzinfo=UTC)


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


@dataclass(frozen=True, slots=True)
class Point:
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


class RangeNotKept(InvalidInput):
    """The range cuts an hour whose raw events are no longer kept."""

    code = "range_not_kept"


# --- periods --------------------------------------------------------------------------------------------------


def usage_zone(*, organization: Organization, customer: Customer | None) -> ZoneInfo:
    return ZoneInfo((customer and customer.zone) or organization.zone)


def current_period(*, metric: Metric, organization: Organization, customer: Customer | None, at: datetime) -> Span:
    """Return the metric's period that holds `at`, in the customer's (else organization's) zone and cycle."""
    zone = usage_zone(organization=organization, customer=customer)
    match PeriodType(metric.period_type):
        case PeriodType.CALENDAR:
            return calendar_period(at, cycle_day=_cycle_day(metric, customer), zone=zone)
        case PeriodType.FIXED:
            return fixed_period(at, days=metric.period_days)
        case PeriodType.DAY:
            return day_period(at, zone=zone)
        case PeriodType.WEEK:
            return week_period(at, zone=zone)


def previous_period(*, metric: Metric, organization: Organization, customer: Customer | None, at: datetime) -> Span:
    current = current_period(metric=metric, organization=organization, customer=customer, at=at)
    before = current.start - timedelta(microseconds=1)
    return current_period(metric=metric, organization=organization, customer=customer, at=before)


def period_of_month(
    *, metric: Metric, organization: Organization, customer: Customer | None, year: int, month: int
) -> Span:
    """Return the cycle that begins in a month; for metrics without a monthly cycle, the calendar month."""
    zone = usage_zone(organization=organization, customer=customer)
    day = _cycle_day(metric, customer) if metric.period_type == PeriodType.CALENDAR else 1
    return Span(month_start(year, month, day, zone), month_start(year, month + 1, day, zone))


def _cycle_day(metric: Metric, customer: Customer | None) -> int:
    return (customer and customer.billing_cycle_day) or metric.billing_cycle_day


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
    reading = _Reading.prepare(organization, metric, customer_id, filters, group_by, as_of)
    span = Span(start, end)
    with _snapshot(metric):
        cells = reading.list_cells([span])
        members = reading.list_members([span]) if reading.counts_members else {}
    lines, member_lines = _group_lines(cells, group_by), _group_lines(members, group_by)
    names = _customer_names(organization, lines, group_by)
    rows = [
        BreakdownRow(
            _name_group(group, group_by, names),
            _usage(
                metric,
                [cells[key][0] for key in keys],
                _union(members[key][0].added for key in member_lines.get(group, ())),
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
    their month's start, or 30 days), so they do not depend on `start`; they need daily buckets.
    """
    tz = ZoneInfo(zone)
    if mode != Mode.INCREMENTAL and granularity != Granularity.DAY:
        raise InvalidInput.of("mode", f"{mode} needs granularity=day.", "invalid_combination")
    buckets = _list_bounded_buckets(Span(start, end), granularity, tz)
    reach = _reach(buckets, mode, tz)
    read = [Span(max(bucket.start, start), min(bucket.end, end)) for bucket in buckets]
    if mode != Mode.INCREMENTAL:
        read = list(list_buckets(Span(reach, buckets[0].start), granularity, tz)) if reach < buckets[0].start else []
        read += [Span(bucket.start, min(bucket.end, end)) for bucket in buckets]
    reading = _Reading.prepare(organization, metric, customer_id, filters, group_by, as_of)
    with _snapshot(metric):
        cells = reading.list_cells(read)
        members = reading.list_members(read) if reading.counts_members else {}
    windows = {key: _windows(line, read, mode, tz) for key, line in cells.items()}
    member_windows = {key: _windows(line, read, mode, tz) for key, line in members.items()}
    lines = _group_lines(cells, group_by) or ({(): []} if not group_by else {})
    member_lines = _group_lines(members, group_by)
    names = _customer_names(organization, lines, group_by)
    if len(lines) * len(buckets) > MAX_POINTS:
        raise _too_many_points(len(lines) * len(buckets))
    skipped = len(read) - len(buckets)
    partial = [_is_partial(bucket, start, end, now, mode) for bucket in buckets]
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
                    Point(
                        bucket.start,
                        _value(
                            metric,
                            [windows[key][skipped + place] for key in keys],
                            (member_windows[key][skipped + place].added for key in member_lines.get(group, ())),
                        ),
                        partial[place],
                    )
                    for place, bucket in enumerate(buckets)
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
        day = first.astimezone(zone).date() - timedelta(days=ROLLING_DAYS - 1)
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=zone)
        return bucket_at(noon, Granularity.DAY, zone).start
    return first


def _windows(line: Sequence[Window], read: Sequence[Span], mode: Mode, zone: ZoneInfo) -> Sequence[Window]:
    if mode == Mode.MONTH_TO_DATE:
        return running_merges(line, [bucket.start.astimezone(zone).day == 1 for bucket in read])
    if mode == Mode.ROLLING_30D:
        return sliding_merges(line, ROLLING_DAYS)
    return line


def _is_partial(bucket: Span, start: datetime, end: datetime, now: datetime, mode: Mode) -> bool:
    return bucket.end > min(end, now) or (mode == Mode.INCREMENTAL and bucket.start < start)


# --- reading --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberCell:
    """Who was last added and who was last removed in a piece of time; disjoint."""

    added: BitMap
    removed: BitMap

    def merged(self, later: MemberCell) -> MemberCell:
        return MemberCell(
            (self.added - later.removed) | later.added,
            (self.removed - later.added) | later.removed,
        )


Window = TypeVar("Window", Cell, MemberCell)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One read: its selection and how far back the finer data reaches."""

    selection: Selection
    horizon: Horizon | None

    @classmethod
    def prepare(
        cls,
        organization: Organization,
        metric: Metric,
        customer_id: int | None,
        filters: Filters | None,
        group_by: Sequence[str],
        as_of: datetime | None,
    ) -> _Reading:
        is_summed_per_customer = metric.aggregation in {Aggregation.MAX, Aggregation.MIN, Aggregation.LATEST}
        selection = Selection(
            metric=metric,
            feed_ids=list_feed_ids(metric),
            customer_ids=None if customer_id is None else [customer_id],
            filters=dict(filters or {}),
            group_by=[key for key in group_by if key != CUSTOMER],
            is_per_customer=CUSTOMER in group_by or (is_summed_per_customer and customer_id is None),
            as_of=as_of,
        )
        return cls(selection, Horizon.objects.for_organization(organization).first())

    @property
    def counts_members(self) -> bool:
        return self.selection.metric.aggregation == Aggregation.COUNT_UNIQUE

    def list_cells(self, buckets: Sequence[Span]) -> dict[LineKey, list[Cell]]:
        """Return the dense cells of each line that has events. The buckets are contiguous."""
        cut = self._cut(buckets)
        span = Span(buckets[0].start, buckets[-1].end)
        edges = [bucket.start for bucket in buckets]
        empty = Cell()
        lines: dict[LineKey, list[Cell]] = {}
        for row in usage_sql.list_cells(self.selection, span=span, edges=edges, cut=cut):
            line = lines.setdefault((row.customer_id, tuple(row.group)), [empty] * len(buckets))
            line[row.bucket - 1] = Cell(
                row.count, row.sum, row.min, row.max, row.last_at, row.last_offset, row.last_value
            )
        return lines

    def _cut(self, buckets: Sequence[Span], *, is_for_members: bool = False) -> Cut:
        if self.selection.as_of is not None:
            cut = Cut(raw=[Span(buckets[0].start, buckets[-1].end)])
        else:
            cut = cut_range(
                buckets,
                minutes_from=self.horizon.minutes_from if self.horizon else NEVER,
                # Hourly sets exist for the customers' totals alone.
                has_hours=not (is_for_members and self.selection.uses_dimensions),
                has_minutes=not is_for_members,
            )
        raw_from = self.horizon.raw_from if self.horizon else None
        if raw_from is not None and any(span.start < raw_from for span in cut.raw):
            raise RangeNotKept(
                f"Raw events before {raw_from.isoformat()} are no longer kept; ask for whole UTC hours there.",
            )
        return cut

    # --- members ---

    def list_members(self, buckets: Sequence[Span]) -> dict[LineKey, list[MemberCell]]:
        """Return the dense member cells of each line that has any, keyed like the cells of `list_cells`."""
        per_customer = _MemberSteps.collect(self, buckets).fold(len(buckets))
        if self.selection.is_per_customer:
            return dict(per_customer)
        return _join_customers(per_customer, len(buckets))


def _join_customers(
    per_customer: Mapping[LineKey, list[MemberCell]], bucket_count: int
) -> dict[LineKey, list[MemberCell]]:
    """Join the customers of each group into one line, numbering (customer, member) apart where removes occur.

    Without removes the union of the customers' sets is exact at every step. With removes it is not (a remove takes
    a member from its own customer alone), so each customer keeps a line and the caller unites their final sets.
    """
    joined: dict[LineKey, list[MemberCell]] = {}
    has_removes = any(cell.removed for line in per_customer.values() for cell in line)
    if has_removes:
        return dict(per_customer)
    for (_, group), line in per_customer.items():
        target = joined.setdefault((None, group), [MemberCell(BitMap(), BitMap()) for _ in range(bucket_count)])
        for place, cell in enumerate(line):
            target[place].added.update(cell.added)
    return joined


Steps = dict[datetime, list[MemberCell]]


@dataclass(slots=True)
class _MemberSteps:
    """The member changes of each (customer, group), by bucket and, within it, by the start of their piece of time.

    A piece that several sources report (series of several dimension values, the tail beside a set) is their union,
    unless a member is added by one and removed by another: then the raw events of the piece decide.
    """

    reading: _Reading
    buckets: Sequence[Span]
    pieces: SortedSpans
    steps: dict[LineKey, dict[Span, list[MemberCell]]]
    # Members that the dictionary lacks yet (their batch is pending), numbered from the top.
    fresh: dict[str, int]

    @classmethod
    def collect(cls, reading: _Reading, buckets: Sequence[Span]) -> _MemberSteps:
        cut = reading._cut(buckets, is_for_members=True)
        pieces = [piece for span in cut.days for piece in _slices(span, DAY)]
        pieces += [piece for span in cut.hours for piece in _slices(span, HOUR)]
        pieces += _split_at(cut.raw, [bucket.start for bucket in buckets])
        collected = cls(reading, buckets, SortedSpans(pieces), defaultdict(lambda: defaultdict(list)), {})
        span = Span(buckets[0].start, buckets[-1].end)
        if reading.selection.as_of is None:
            collected._add_sets(span, cut)
        collected._add_operations(usage_sql.list_operations(reading.selection, span=span, raw=cut.raw))
        return collected

    def _add_sets(self, span: Span, cut: Cut) -> None:
        for row in usage_sql.list_sets(self.reading.selection, span=span, days=cut.days, hours=cut.hours):
            piece = self.pieces.find(row.bucket_start)
            assert piece is not None  # only buckets of the cut were read
            removed = BitMap() if row.removed is None else BitMap.deserialize(bytes(row.removed))
            cell = MemberCell(BitMap.deserialize(bytes(row.added)), removed)
            self.steps[row.customer_id, tuple(row.group)][piece].append(cell)

    def _add_operations(self, rows: Iterable[usage_sql.OperationRow]) -> None:
        for key, piece, cell in self._last_operations(rows):
            self.steps[key][piece].append(cell)

    def _last_operations(self, rows: Iterable[usage_sql.OperationRow]) -> Iterator[tuple[LineKey, Span, MemberCell]]:
        """Yield per line and piece what the operations come to; rows are in the order of time and arrival."""
        last: dict[tuple[LineKey, Span], dict[int, int]] = defaultdict(dict)
        for row in rows:
            piece = self.pieces.find(row.occurred_at)
            assert piece is not None  # the cut covers the range
            last[(row.customer_id, tuple(row.group)), piece][self._number(row)] = row.operation
        for (key, piece), operations in last.items():
            yield (
                key,
                piece,
                MemberCell(
                    BitMap([number for number, operation in operations.items() if operation == Operation.ADD]),
                    BitMap([number for number, operation in operations.items() if operation == Operation.REMOVE]),
                ),
            )

    def _number(self, row: usage_sql.OperationRow) -> int:
        if row.number is not None:
            return row.number
        return self.fresh.setdefault(row.member, 2**32 - 1 - len(self.fresh))

    def fold(self, bucket_count: int) -> dict[LineKey, list[MemberCell]]:
        """Return one cell per bucket and line: its pieces merged in the order of time."""
        starts = [bucket.start for bucket in self.buckets]
        lines: dict[LineKey, list[MemberCell]] = {}
        for key, pieces in self.steps.items():
            line = lines.setdefault(key, [MemberCell(BitMap(), BitMap()) for _ in range(bucket_count)])
            for piece in sorted(pieces):
                place = bisect_right(starts, piece.start) - 1
                line[place] = line[place].merged(self._settle(key, piece, pieces[piece]))
        return lines

    def _settle(self, key: LineKey, piece: Span, cells: Sequence[MemberCell]) -> MemberCell:
        if len(cells) == 1:
            return cells[0]
        added, removed = _union(cell.added for cell in cells), _union(cell.removed for cell in cells)
        if not added & removed:
            return MemberCell(added, removed)
        return self._read_raw(key, piece)

    def _read_raw(self, key: LineKey, piece: Span) -> MemberCell:
        """Return what the raw events of one customer's piece come to: the arbiter where sets contradict each other."""
        customer_id, group = key
        assert customer_id is not None
        selection = replace(self.reading.selection, customer_ids=[customer_id])
        rows = usage_sql.list_operations(selection, span=piece, raw=[piece])
        own = (row for row in rows if tuple(row.group) == group)
        return next((cell for _, _, cell in self._last_operations(own)), MemberCell(BitMap(), BitMap()))


def _slices(span: Span, width: timedelta) -> Iterator[Span]:
    start = span.start
    while start < span.end:
        yield Span(start, start + width)
        start += width


def _split_at(spans: Iterable[Span], edges: Sequence[datetime]) -> Iterator[Span]:
    """Yield the spans cut at every edge that lies inside one."""
    for span in spans:
        start = span.start
        for edge in edges[bisect_right(edges, start) :]:
            if edge >= span.end:
                break
            yield Span(start, edge)
            start = edge
        yield Span(start, span.end)


@contextmanager
def _snapshot(metric: Metric) -> Iterator[None]:
    """Give the statements of a read one snapshot, where it takes several: members come from two tables."""
    if metric.aggregation != Aggregation.COUNT_UNIQUE or connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


# --- numbers --------------------------------------------------------------------------------------------------


def _value(metric: Metric, cells: Sequence[Cell], members: Iterable[BitMap]) -> Decimal:
    """Return the metric's own aggregation over cells that are one per customer, or one for all where that is exact."""
    match Aggregation(metric.aggregation):
        case Aggregation.COUNT:
            return Decimal(sum(cell.count for cell in cells))
        case Aggregation.SUM:
            return _sum(cell.sum for cell in cells)
        case Aggregation.MAX:
            return _sum(cell.max for cell in cells)
        case Aggregation.MIN:
            return _sum(cell.min for cell in cells)
        case Aggregation.LATEST:
            return _sum(cell.last_value for cell in cells)
        case Aggregation.COUNT_UNIQUE:
            return Decimal(len(_union(members)))


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


def _union(bitmaps: Iterable[BitMap]) -> BitMap:
    united = BitMap()
    for bitmap in bitmaps:
        united |= bitmap
    return united


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
    ids = {group[place] for group in groups}
    return dict(Customer.objects.for_organization(organization).filter(pk__in=ids).values_list("pk", "external_id"))


def _name_group(group: Group, group_by: Sequence[str], names: Mapping[int, str]) -> dict[str, str | None]:
    return {key: names[value] if isinstance(value, int) else value for key, value in zip(group_by, group, strict=True)}
