"""From a request to columns of points. Counts nothing itself: every number is a sum, a difference or a mean of series
that `metering.queries` answers.

A bucket is in an answer if it overlaps the range and has begun, and it is always counted whole; so the numbers do not
depend on the range. Columns are dense and in the order of their groups; a group without usage in the answer has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import partial, reduce
from itertools import islice, pairwise

from accounts.models import Organization
from common.errors import BadRequest, InvalidInput
from metering import queries
from metering.domain import DAY, EXACT, HOUR, Granularity, Mode, Span, calendar_period, ceil_time, floor_time
from metering.domain import list_buckets as list_calendar_buckets
from metering.models import Aggregation, Metric
from metering.queries.reading import Filters
from metering.queries.usage import MAX_POINTS
from usage_reports.launchdarkly.endpoints import AggregationType
from usage_reports.launchdarkly.parameters import MICROSECOND, UTC_ZONE, ReportRequest
from usage_reports.launchdarkly.split import Key, Raw, Shown, Split, show_value

# The kind of context that a month without contexts counts, and the first among equals.
USUAL_KIND = "user"
# How `metering.queries` refuses a series of too many lines.
TOO_MANY_POINTS = "too_many_points"
# In how many reads a series is read that has too many lines for one.
PIECES = 8
ZERO = Decimal(0)

Values = list[Decimal]


class TooLong(BadRequest):
    def __init__(self) -> None:
        super().__init__(
            f"The answer would have more than {MAX_POINTS} values (points times groups). "
            "Shorten the range, widen the granularity, filter, or group by less."
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """What a report is about: a metric of one organization, of one customer or (None) of all."""

    organization: Organization
    metric: Metric
    customer_id: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """One value per bucket and column; `metadata` says of each column which group it is."""

    starts: list[datetime]
    metadata: list[dict[str, str]]
    columns: list[Sequence[int | Decimal]]

    @property
    def is_empty(self) -> bool:
        return not any(map(any, self.columns))


def get_report(subject: Subject, request: ReportRequest) -> Report:
    """Return the answer to a request for a series. Raises `BadRequest` where it would be too long.

    One read of usage, and another where the primary kind of context matters or several kinds of "Unknown" meet.
    """
    buckets = list_buckets(request)
    names = [group.name for group in request.groups]
    columns = _read_columns(subject, request, buckets) if buckets else {}
    shown = _complete(columns, request, len(buckets))
    if len(shown) * len(buckets) > MAX_POINTS:
        raise TooLong
    finish = _exact if request.endpoint.has_fractions else _whole
    return Report(
        starts=[bucket.start for bucket in buckets],
        metadata=[dict(zip(names, group, strict=True)) for group in shown],
        columns=[finish(values) for values in shown.values()],
    )


def list_buckets(request: ReportRequest) -> list[Span]:
    """Return the buckets that overlap the range and have begun."""
    begun = Span(request.span.start, min(request.span.end, request.now + MICROSECOND))
    buckets = list(islice(list_calendar_buckets(begun, request.granularity, request.zone), MAX_POINTS + 1))
    if len(buckets) > MAX_POINTS:
        raise TooLong
    return buckets


# --- columns --------------------------------------------------------------------------------------------------


def _read_columns(subject: Subject, request: ReportRequest, buckets: Sequence[Span]) -> dict[Shown, Values]:
    """Return the values of each group as reports show it."""
    if not request.endpoint.counts_primary_kind:
        apart = request.endpoint.added_up_over
        return _join(_read_lines(subject, request, buckets, apart, request.filters))
    kinds = _list_primary_kinds(subject, buckets)
    filters = request.filters | {"contextKind": sorted(set(kinds), key=show_value)}
    if len(filters["contextKind"]) == 1:
        return _join(_read_lines(subject, request, buckets, (), filters))
    lines = _read_lines(subject, request, buckets, ("contextKind",), filters)
    return _join({key: _only_where(values, key.apart[0], kinds) for key, values in lines.items()})


def _join(lines: Mapping[Key, Values]) -> dict[Shown, Values]:
    """Add up the lines of each group that were read apart."""
    columns: dict[Shown, Values] = {}
    for key, values in lines.items():
        before = columns.get(key.shown)
        columns[key.shown] = values if before is None else _add(before, values)
    return columns


def _complete(columns: Mapping[Shown, Values], request: ReportRequest, count: int) -> dict[Shown, Values]:
    """Return the columns that the answer has, in its order."""
    nothing = [ZERO] * count
    if not request.groups:
        return {(): columns.get((), nothing)}
    if request.endpoint.columns:
        return {(name,): columns.get((name,), nothing) for name in request.endpoint.columns}
    return {group: columns[group] for group in sorted(columns) if any(columns[group])}


def _read_lines(
    subject: Subject, request: ReportRequest, buckets: Sequence[Span], apart: Sequence[str], filters: Filters
) -> dict[Key, Values]:
    """Return a line for each group as shown and each combination of values of the dimensions to keep apart.

    Several combinations of values may show as one group: "Unknown" stands for no value and for itself, and an
    environment that is unknown is so in any project. Amounts add up; members are counted again, all together.
    """
    split = Split.of(subject.organization, request.groups, apart)
    found: dict[Key, list[Values]] = {}
    count = _count_in_pieces if apart else _count
    for raw, values in count(subject, request, buckets, split.dimensions, filters).items():
        found.setdefault(split.show(raw), []).append(values)
    if subject.metric.aggregation != Aggregation.COUNT_UNIQUE:
        return {key: reduce(_add, several) for key, several in found.items()}
    lines = {key: several[0] for key, several in found.items()}
    contested = [key for key, several in found.items() if len(several) > 1]
    nothing = [ZERO] * len(buckets)  # where all was voided in between
    for unknown in {split.list_unknown(key) for key in contested}:
        rest = split.without(unknown)
        narrowed = split.narrow(filters, unknown)
        counted = count(subject, request, buckets, rest.dimensions, narrowed)
        together = {rest.show(raw): values for raw, values in counted.items()}
        for key in contested:
            if split.list_unknown(key) == unknown:
                lines[key] = together.get(key.without(unknown), nothing)
    return lines


def _add(left: Values, right: Values) -> Values:
    return list(map(EXACT.add, left, right))


# --- the primary kind of context ------------------------------------------------------------------------------


def _list_primary_kinds(subject: Subject, buckets: Sequence[Span]) -> list[str | None]:
    """Return for each bucket the kind of which its month has most distinct keys from client-side SDKs.

    Whole months, whatever the request filters by: the kind belongs to the account and not to the question.
    """
    first, last = calendar_month(buckets[0].start), calendar_month(buckets[-1].start)
    lines = _read(
        subject,
        Span(first.start, last.end),
        Granularity.MONTH,
        Mode.INCREMENTAL,
        ["contextKind"],
        {"sdkType": ["client"]},
        now=last.end,
    )
    months = [month.start for month in list_calendar_buckets(Span(first.start, last.end), Granularity.MONTH, UTC_ZONE)]
    kinds = {
        month: _primary_kind({raw[0]: line[place] for raw, line in lines.items()}) for place, month in enumerate(months)
    }
    return [kinds[calendar_month(bucket.start).start] for bucket in buckets]


def _primary_kind(counts: Mapping[str | None, Decimal]) -> str | None:
    counted = {kind: count for kind, count in counts.items() if count > 0}
    if not counted:
        return USUAL_KIND
    return min(counted, key=lambda kind: (-counted[kind], kind != USUAL_KIND, show_value(kind)))


def calendar_month(at: datetime) -> Span:
    return calendar_period(at, cycle_day=1, zone=UTC_ZONE)


def _only_where(values: Values, kind: str | None, kinds: Sequence[str | None]) -> Values:
    return [value if primary == kind else ZERO for value, primary in zip(values, kinds, strict=True)]


# --- reads ----------------------------------------------------------------------------------------------------


def _count_in_pieces(
    subject: Subject, request: ReportRequest, buckets: Sequence[Span], dimensions: Sequence[str], filters: Filters
) -> dict[Raw, Values]:
    """Return the same as `_count`, also where there are far more lines than the answer will have."""
    try:
        return _count(subject, request, buckets, dimensions, filters)
    except TooLong:
        width = -(-len(buckets) // PIECES)
    lines: dict[Raw, Values] = {}
    for start in range(0, len(buckets), width):
        piece = _count(subject, request, buckets[start : start + width], dimensions, filters)
        for raw, values in piece.items():
            lines.setdefault(raw, [ZERO] * len(buckets))[start : start + width] = values
    return lines


def _count(
    subject: Subject, request: ReportRequest, buckets: Sequence[Span], dimensions: Sequence[str], filters: Filters
) -> dict[Raw, Values]:
    """Return what each combination of values counts in each bucket, by the request's aggregation type."""
    granularity, whole = request.granularity, Span(buckets[0].start, buckets[-1].end)
    read = partial(_read, subject, group_by=dimensions, filters=filters, now=request.now, zone=request.zone.key)
    match request.aggregation:
        case AggregationType.ROLLING_30D:
            return read(whole, granularity, Mode.ROLLING_30D)
        case AggregationType.MONTH_TO_DATE if granularity != Granularity.MONTH:
            return read(whole, granularity, Mode.MONTH_TO_DATE)
        case AggregationType.INCREMENTAL if subject.metric.aggregation == Aggregation.COUNT_UNIQUE:
            return _read_newly_seen(read, buckets, granularity)
        case AggregationType.AVERAGE:
            hours = [_count_hours(bucket, request.now) for bucket in buckets]
            lines = read(whole, granularity, Mode.INCREMENTAL)
            return {raw: list(map(EXACT.divide, values, hours)) for raw, values in lines.items()}
    return read(whole, granularity, Mode.INCREMENTAL)


def _read_newly_seen(
    read: Callable[[Span, Granularity, Mode], dict[Raw, Values]], buckets: Sequence[Span], granularity: Granularity
) -> dict[Raw, Values]:
    """Return how many members each bucket saw first in its month: by how much the month to date grew."""
    begins_month = [calendar_month(bucket.start).start == bucket.start for bucket in buckets]
    first = buckets[0] if begins_month[0] else _bucket_before(buckets[0], granularity)
    lines = read(Span(first.start, buckets[-1].end), granularity, Mode.MONTH_TO_DATE)
    if begins_month[0]:
        lines = {raw: [ZERO, *values] for raw, values in lines.items()}
    return {
        raw: [
            after if is_reset else after - before
            for (before, after), is_reset in zip(pairwise(values), begins_month, strict=True)
        ]
        for raw, values in lines.items()
    }


def _bucket_before(bucket: Span, granularity: Granularity) -> Span:
    width = HOUR if granularity == Granularity.HOUR else DAY
    return Span(bucket.start - width, bucket.start)


def _count_hours(bucket: Span, now: datetime) -> Decimal:
    """Return how many hours of the bucket have begun."""
    until = min(bucket.end, ceil_time(now + MICROSECOND, HOUR))
    return Decimal((until - bucket.start) // HOUR)


def _read(
    subject: Subject,
    span: Span,
    granularity: Granularity,
    mode: Mode,
    group_by: Sequence[str],
    filters: Filters,
    *,
    now: datetime,
    zone: str = "UTC",
) -> dict[Raw, Values]:
    try:
        series = queries.get_series(
            organization=subject.organization,
            metric=subject.metric,
            start=span.start,
            end=span.end,
            granularity=granularity,
            zone=zone,
            now=now,
            mode=mode,
            group_by=group_by,
            customer_id=subject.customer_id,
            filters=filters,
        )
    except InvalidInput as error:
        if error.code == TOO_MANY_POINTS:
            raise TooLong from None
        raise
    return {tuple(line.group.values()): [point.value for point in line.points] for line in series.lines}


# --- lists ----------------------------------------------------------------------------------------------------


def list_values(subject: Subject, request: ReportRequest) -> list[Shown]:
    """Return the groups that have events on the days of the range, in order. One read."""
    names = [name for group in request.groups for name in group.dimensions]
    groups = queries.list_groups(
        organization=subject.organization,
        metric=subject.metric,
        start=floor_time(request.span.start, DAY),
        end=ceil_time(request.span.end, DAY),
        group_by=names,
        customer_id=subject.customer_id,
        filters=request.filters,
    )
    return sorted({tuple(map(show_value, group.values())) for group in groups})


# --- numbers --------------------------------------------------------------------------------------------------


def _whole(values: Iterable[Decimal]) -> list[int]:
    return [int(value.to_integral_value(ROUND_HALF_EVEN)) for value in values]


def _exact(values: Iterable[Decimal]) -> list[int | Decimal]:
    return [value or 0 for value in values]
