"""Reads the numbers of recorded requests, by any groups. Every one of them is `metering.queries`'s.

The gateway's metrics add up over routes, users and time, and so does the histogram of latencies that percentiles are
read from; what is left to do here is to put the metrics of one group beside each other. Where the catalog is not
installed, or a metric of its name is another, nothing was requested.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from accounts.models import Customer, Organization
from common.errors import FieldError, InvalidInput, NotFound
from metering import queries
from metering.catalogs import MetricDefinition
from metering.catalogs.api_gateway import API_GATEWAY, EVENT_TYPE
from metering.dialects.gateway.latency import MAX_BUCKET, MIN_BUCKET, find_percentile
from metering.dialects.gateway.queries.refusals import count_refused
from metering.domain import DAY, Granularity, Mode, Span, list_buckets, local_date, local_midnight
from metering.models import Metric
from metering.queries.events import find_kept_from
from metering.queries.exports import PIECE_POINTS, export_snapshot
from metering.queries.raw_groups import GroupUsage, Measure, list_raw_groups
from metering.queries.reading import Filters, RangeNotKept, TotalsNotKept
from metering.queries.usage import MAX_POINTS, is_partial
from usage_reports.gateway.domain import (
    ERROR_STATUSES,
    KEYS,
    MOST_REQUESTS_FIRST,
    PERCENTILE_DIGITS,
    PERCENTS,
    TIMES,
    Grouping,
    Key,
    Order,
    Percentiles,
    Row,
    Sort,
    Totals,
    list_statuses,
    status_class,
    take_rows,
)

REQUESTS, UNITS, BYTES, ERRORS = "api_requests", "api_units", "api_bytes", "errors"
LATENCY_SUM, LATENCIES, METERING_ERRORS = "api_latency_ms", "api_latency", "api_metering_errors"
CODES = frozenset(definition.code for definition in API_GATEWAY.metrics)
CUSTOMER, STATUS, LATENCY_BUCKET = KEYS[Grouping.USER], KEYS[Grouping.STATUS], "latency_bucket"
# Beside the requests of a row: which fields hold what its metrics come to, and which of them each order goes by.
_FIELDS = {UNITS: "units", BYTES: "bytes", LATENCY_SUM: "latency_ms"}
_SUMS = (ERRORS, *_FIELDS)
_RANKED_BY: dict[Order, tuple[str, ...]] = {
    Order.REQUESTS: (),
    Order.ERRORS: (ERRORS,),
    Order.LATENCY: (LATENCY_SUM,),
    Order.UNITS: (UNITS,),
    Order.BYTES: (BYTES,),
}
# Paths are not a dimension: grouping by them reads every raw request of the range.
MAX_RAW_REQUESTS = 1_000_000
SHOWN = Context(prec=PERCENTILE_DIGITS)
_BUCKETS = {str(bucket): bucket for bucket in range(MIN_BUCKET, MAX_BUCKET + 1)}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which requests are asked about. `zone` is the organization's: its days and hours are meant."""

    organization: Organization
    span: Span
    zone: ZoneInfo
    now: datetime
    customer_id: int | None = None
    route: str | None = None
    # `404` or `5xx`; empty: any.
    status: str = ""

    @property
    def filters(self) -> dict[str, Sequence[str | None]]:
        filters: dict[str, Sequence[str | None]] = {}
        if self.route is not None:
            filters[KEYS[Grouping.ROUTE]] = [self.route]
        if self.status:
            filters[STATUS] = list_statuses(self.status)
        return filters

    @property
    def error_filters(self) -> dict[str, Sequence[str | None]]:
        wanted = self.filters.get(STATUS, ERROR_STATUSES)
        return self.filters | {STATUS: [status for status in wanted if status in ERROR_STATUSES]}


@dataclass(frozen=True, slots=True)
class RowList:
    """The rows to show, and how many there are."""

    rows: list[Row]
    total: int


@dataclass(frozen=True, slots=True)
class Summary:
    """All requests of a selection. By code, and None with a status, which they are not counted by: `metering_errors`
    among the requests, and those `refused` for one, which are none of them."""

    totals: Totals
    percentiles: Percentiles
    by_status: dict[str, int]
    metering_errors: dict[str, int] | None
    refused: dict[str, int] | None


def find_metrics(organization: Organization) -> dict[str, Metric]:
    """Return the metrics of the catalog by code, as far as they are installed. `organization` is fresh."""
    found: dict[str, Metric] = {}
    for definition in API_GATEWAY.metrics:
        try:
            metric = queries.get_known_metric(organization=organization, code=definition.code)
        except NotFound:
            continue
        if _is_as_defined(metric, definition):
            found[definition.code] = metric
    return found


def _is_as_defined(metric: Metric, definition: MetricDefinition) -> bool:
    return (
        metric.event_type == definition.event_type
        and metric.aggregation == definition.aggregation
        and metric.value_property == definition.value_property
        and {entry["key"] for entry in definition.dimensions} <= {entry["key"] for entry in metric.dimensions}
    )


# --- rows -----------------------------------------------------------------------------------------------------


def list_rows(
    selection: Selection, groups: Sequence[Grouping], *, sort: Sort | None, limit: int, is_dense: bool = False
) -> RowList:
    """Return one row per group with requests or, `is_dense`, per piece of time with or without.

    At most one of the groups is of time. Without `sort` they are in the order of time, and the newest stay within
    the limit. Raises `InvalidInput` for more pieces of time than can be read, and `RangeNotKept`.
    """
    if Grouping.PATH in groups:
        return _list_paths(selection, sort or MOST_REQUESTS_FIRST, limit)
    reader = _Reader.of(selection, groups)
    total = len(reader.buckets)
    if is_dense and sort is None:
        reader = reader.of_newest(limit)  # no others are shown, whatever there is of them
    with export_snapshot():
        totals = reader.read_requests()
        if is_dense:
            totals = {Key(bucket.start, ()): Totals() for bucket in reader.buckets} | totals
        else:
            total = len(totals)
        ranked = () if sort is None else _RANKED_BY[sort.order]
        reader.add_sums(totals, ranked)
        shown = take_rows(totals, sort=sort, limit=limit)
        is_all = len(shown) == len(totals)
        rest = [name for name in _SUMS if name not in ranked]
        reader.add_sums({key: totals[key] for key in shown}, rest, is_all=is_all)
        percentiles = reader.read_percentiles(shown, is_all=is_all)
    cut = reader.list_partial_starts()
    return RowList(
        [Row(key, totals[key], percentiles.get(key, Percentiles()), key.start in cut) for key in shown], total
    )


# Of what the measures of a path are called, what each order goes by.
_PATH_ORDERS: dict[Order, tuple[str, str | None]] = {
    Order.REQUESTS: ("requests", None),
    Order.ERRORS: ("errors", None),
    Order.LATENCY: ("latency_ms", "requests"),
    Order.UNITS: ("units", None),
    Order.BYTES: ("bytes", None),
}


def _list_paths(selection: Selection, sort: Sort, limit: int) -> RowList:
    """Return one row per path, read from raw requests: in the order, and within the limit, of the database."""
    require_raw(selection)
    metrics = find_metrics(selection.organization)
    if REQUESTS not in metrics:
        return RowList([], 0)
    counted = {"requests": REQUESTS, "errors": REQUESTS, "units": UNITS, "bytes": BYTES, "latency_ms": LATENCY_SUM}
    # Where a metric is another, its column is nothing: so many requests of no status.
    measures = {
        name: Measure(metrics[code], selection.filters) if code in metrics else Measure(metrics[REQUESTS], {STATUS: []})
        for name, code in counted.items()
    }
    measures["errors"] = Measure(metrics[REQUESTS], selection.error_filters)
    latencies = metrics.get(LATENCIES)
    numerator, denominator = _PATH_ORDERS[sort.order]
    found = list_raw_groups(
        organization=selection.organization,
        span=selection.span,
        property_name=KEYS[Grouping.PATH],
        measures=measures,
        histogram=None if latencies is None else (Measure(latencies, selection.filters), LATENCY_BUCKET),
        order_by=numerator,
        divided_by=denominator,
        is_descending=sort.is_descending,
        limit=limit,
        customer_id=selection.customer_id,
    )
    return RowList([_path_row(group) for group in found.groups], found.total)


def _path_row(group: GroupUsage) -> Row:
    values = group.values
    totals = Totals(
        requests=int(values["requests"]),
        errors=int(values["errors"]),
        units=values["units"],
        bytes=values["bytes"],
        latency_ms=values["latency_ms"],
    )
    histogram = {_BUCKETS[bucket]: count for bucket, count in group.bins.items() if bucket in _BUCKETS}
    return Row(Key(None, (group.name,)), totals, _percentiles(histogram) if histogram else Percentiles())


def get_summary(selection: Selection) -> Summary:
    reader = _Reader.of(selection, ())
    with export_snapshot():
        by_status: dict[str, int] = {}
        totals = Totals()
        for key, value in reader.read(REQUESTS, keys=(STATUS,)):
            [status] = key.group
            totals.requests += int(value)
            totals.errors += int(value) if status in ERROR_STATUSES else 0
            by_status[status_class(status)] = by_status.get(status_class(status), 0) + int(value)
        reader.add_sums({WHOLE: totals}, (UNITS, BYTES, LATENCY_SUM))
        percentiles = reader.read_percentiles([WHOLE], is_all=True).get(WHOLE, Percentiles())
        errors = None if selection.status else reader.read_metering_errors()
        refused = None if selection.status else _count_refused(selection)
    return Summary(totals, percentiles, dict(sorted(by_status.items())), errors, refused)


def _count_refused(selection: Selection) -> dict[str, int]:
    return count_refused(
        organization=selection.organization,
        span=selection.span,
        customer_id=selection.customer_id,
        route=selection.route,
    )


def count_by(selection: Selection, group: Grouping) -> dict[str | None, int]:
    """Return the number of requests of each group, the most first."""
    return {key.group[0]: int(value) for key, value in _Reader.of(selection, ()).read(REQUESTS, keys=(KEYS[group],))}


# The one row of a read without groups.
WHOLE = Key(None, ())


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the metrics of one selection by one set of groups."""

    selection: Selection
    metrics: Mapping[str, Metric]
    keys: tuple[str, ...]
    granularity: Granularity | None
    # The pieces of time that rows are of; empty without such.
    buckets: list[Span]

    @classmethod
    def of(cls, selection: Selection, groups: Sequence[Grouping]) -> _Reader:
        granularity = next((TIMES[group] for group in groups if group in TIMES), None)
        buckets = _list_buckets(selection, granularity) if granularity else []
        keys = tuple(KEYS[group] for group in groups if group in KEYS)
        metrics = find_metrics(selection.organization)
        return cls(selection, metrics, keys, granularity, buckets)

    def of_newest(self, count: int) -> _Reader:
        """Return a reader of the newest pieces of time alone."""
        buckets, span = self.buckets[-count:], self.selection.span
        narrowed = replace(self.selection, span=Span(max(span.start, buckets[0].start), span.end))
        return replace(self, selection=narrowed, buckets=buckets)

    def read_requests(self) -> dict[Key, Totals]:
        """Return the requests of every key that has any."""
        return {key: Totals(requests=int(value)) for key, value in self.read(REQUESTS)}

    def add_sums(self, totals: dict[Key, Totals], names: Iterable[str], *, is_all: bool = True) -> None:
        """Add to the requests of these keys what they come to; `is_all`: there are no others."""
        nothing = Totals()  # takes what a metric changed by hand counts beyond the requests
        shown = None if is_all else totals
        for name in names:
            if name == ERRORS:
                for key, value in self.read(REQUESTS, filters=self.selection.error_filters, shown=shown):
                    totals.get(key, nothing).errors = int(value)
            else:
                for key, value in self.read(name, shown=shown):
                    setattr(totals.get(key, nothing), _FIELDS[name], value)

    def read_percentiles(self, shown: Collection[Key], *, is_all: bool) -> dict[Key, Percentiles]:
        """Return the percentiles of the shown keys; `is_all`: there are no others."""
        if not shown:
            return {}
        counts: dict[Key, dict[int, int]] = {}
        for (start, group), value in self._read_histograms(shown, is_all=is_all):
            *names, bucket = group
            if bucket in _BUCKETS:
                counts.setdefault(Key(start, tuple(names)), {})[_BUCKETS[bucket]] = int(value)
        return {key: _percentiles(line) for key, line in counts.items()}

    def read_metering_errors(self) -> dict[str, int]:
        found = self.read(METERING_ERRORS, keys=("metering_error",))
        return {code: int(value) for key, value in found if (code := key.group[0]) is not None}

    def list_partial_starts(self) -> set[datetime]:
        span, now = self.selection.span, self.selection.now
        cut = (bucket for bucket in self.buckets if is_partial(bucket, span.start, span.end, now, Mode.INCREMENTAL))
        return {bucket.start for bucket in cut}

    # --- one metric -------------------------------------------------------------------------------------------

    def read(
        self,
        code: str,
        *,
        keys: Sequence[str] | None = None,
        filters: Filters | None = None,
        shown: Collection[Key] | None = None,
    ) -> Iterator[tuple[Key, Decimal]]:
        """Yield the metric's value for each key that has one other than zero; of shown keys at least."""
        metric = self.metrics.get(code)
        if metric is None:
            return iter(())
        wanted = self.keys if keys is None else tuple(keys)
        filters = self.selection.filters if filters is None else filters
        if not filters.get(STATUS, [None]):
            return iter(())  # of no status
        if self.granularity is None:
            filters, customer_ids = (filters, None) if shown is None else self._narrow(filters, shown)
            return self._read_breakdown(metric, wanted, filters, self.selection.span, None, customer_ids)
        return self._read_series(metric, wanted, filters, range(len(self.buckets)))

    def _read_histograms(self, shown: Collection[Key], *, is_all: bool) -> Iterator[tuple[Key, Decimal]]:
        """Yield the number of requests of each latency bucket, the bucket last in the group; of shown keys at least."""
        metric = self.metrics.get(LATENCIES)
        if metric is None:
            return
        keys, filters = (*self.keys, LATENCY_BUCKET), self.selection.filters
        if self.granularity is not None and not self.keys:
            starts = {key.start for key in shown}
            places = [place for place, bucket in enumerate(self.buckets) if bucket.start in starts]
            yield from self._read_series(metric, keys, filters, places)
            return
        for start, of_time in _by_start(shown).items():
            narrowed, customer_ids = (filters, None) if is_all else self._narrow(filters, of_time)
            yield from self._read_breakdown(metric, keys, narrowed, self._span_of(start), start, customer_ids)

    def _narrow(self, filters: Filters, shown: Collection[Key]) -> tuple[Filters, list[int] | None]:
        """Return filters, and customers, that let through what is shown, and little else."""
        narrowed, customer_ids = dict(filters), None
        for place, name in enumerate(self.keys):
            values = {key.group[place] for key in shown}
            if name == CUSTOMER:
                customer_ids = _customer_ids(self.selection.organization, values)
            else:
                narrowed[name] = [value for value in values if value in filters.get(name, values)]
        return narrowed, customer_ids

    def _span_of(self, start: datetime | None) -> Span:
        """Return the part of the range that a piece of time holds."""
        if start is None:
            return self.selection.span
        bucket = next(bucket for bucket in self.buckets if bucket.start == start)
        return _cut(bucket, self.selection.span)

    def _read_breakdown(
        self,
        metric: Metric,
        keys: Sequence[str],
        filters: Filters,
        span: Span,
        start: datetime | None,
        customer_ids: Collection[int] | None = None,
    ) -> Iterator[tuple[Key, Decimal]]:
        rows = queries.list_values(
            **self._names(metric, keys, filters),
            start=span.start,
            end=span.end,
            customer_ids=customer_ids,
        )
        return ((Key(start, group), value) for group, value in rows)

    def _read_series(
        self, metric: Metric, keys: Sequence[str], filters: Filters, places: Sequence[int]
    ) -> Iterator[tuple[Key, Decimal]]:
        """Read the pieces of time at these places, so many at once as one series may have."""
        assert self.granularity is not None
        names = self._names(metric, keys, filters)
        span = self.selection.span
        line_count = len(queries.list_groups(**names, start=span.start, end=span.end)) if keys else 1
        if line_count > PIECE_POINTS:
            raise _too_many_rows(f"more than {PIECE_POINTS} groups")
        for first, last in _runs(places, PIECE_POINTS // max(line_count, 1)):
            piece = _cut(Span(self.buckets[first].start, self.buckets[last].end), span)
            series = queries.get_series(
                **names,
                start=piece.start,
                end=piece.end,
                granularity=self.granularity,
                zone=self.selection.zone.key,
                now=self.selection.now,
            )
            for line in series.lines:
                group = tuple(line.group.values())
                yield from ((Key(point.start, group), point.value) for point in line.points if point.value)

    def _names(self, metric: Metric, keys: Sequence[str], filters: Filters) -> dict[str, Any]:
        return {
            "organization": self.selection.organization,
            "metric": metric,
            "group_by": keys,
            "customer_id": self.selection.customer_id,
            "filters": filters,
        }


def _customer_ids(organization: Organization, names: Collection[str | None]) -> list[int]:
    customers = Customer.objects.for_organization(organization).filter(external_id__in=names)
    return list(customers.values_list("pk", flat=True))


def _percentiles(counts: Mapping[int, int]) -> Percentiles:
    return Percentiles(*(_percentile(counts, percent) for percent in PERCENTS))


def _percentile(counts: Mapping[int, int], percent: Decimal) -> Decimal | None:
    value = find_percentile(counts, percent)
    return None if value is None else SHOWN.plus(value)


def _by_start(keys: Iterable[Key]) -> dict[datetime | None, list[Key]]:
    by_start: dict[datetime | None, list[Key]] = {}
    for key in keys:
        by_start.setdefault(key.start, []).append(key)
    return by_start


def _runs(places: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last of each run of places, which lies within the width; places are ascending."""
    first = last = -1
    for place in places:
        if first >= 0 and place >= first + width:
            yield first, last
            first = -1
        first, last = (place if first < 0 else first), place
    if first >= 0:
        yield first, last


def _cut(piece: Span, span: Span) -> Span:
    return Span(max(piece.start, span.start), min(piece.end, span.end))


# --- bounds ---------------------------------------------------------------------------------------------------


def _list_buckets(selection: Selection, granularity: Granularity) -> list[Span]:
    buckets = list(islice(list_buckets(selection.span, granularity, selection.zone), MAX_POINTS + 1))
    if len(buckets) > MAX_POINTS:
        raise _too_many_rows(f"more than {MAX_POINTS} {granularity}s")
    return buckets


def _too_many_rows(what: str) -> InvalidInput:
    return InvalidInput.of("from", f"The range has {what}; shorten it.", "too_many_rows")


def require_raw(selection: Selection) -> None:
    """Raise `InvalidInput` unless the raw requests of the whole range are kept, and few enough."""
    raw_from = _raw_start(selection)
    if raw_from is not None and selection.span.start < raw_from:
        raise range_not_kept("Requests", "one by one", raw_from, selection.zone)
    metrics = find_metrics(selection.organization)
    count = sum(int(value) for _, value in _Reader(selection, metrics, (), None, []).read(REQUESTS))
    if count > MAX_RAW_REQUESTS:
        message = f"The range has {count} requests; at most {MAX_RAW_REQUESTS} are read one by one. Shorten it."
        raise InvalidInput.of("from", message, "too_many_requests")


def begin_where_kept(selection: Selection, *, is_raw: bool) -> Selection:
    """Return the selection without what lies before the first day of which all that is read is kept."""
    kept = find_kept_from(organization=selection.organization, event_type=EVENT_TYPE)
    edges = [kept.rollups_from, kept.raw_from if is_raw else None] if kept else []
    kept_from = max((edge for edge in edges if edge is not None), default=selection.span.start)
    if kept_from <= selection.span.start:
        return selection
    start = local_midnight(_first_whole_day(kept_from, selection.zone), selection.zone)
    return replace(selection, span=Span(min(start, selection.span.end - timedelta.resolution), selection.span.end))


def explain(refusal: RangeNotKept, organization: Organization, *, field: str = "from") -> InvalidInput:
    """Return why a range cannot be read as a refusal of its beginning, with the first day that can be asked for.

    `field` is the parameter that says where the range begins.
    """
    kept = find_kept_from(organization=organization, event_type=EVENT_TYPE)
    zone = ZoneInfo(organization.zone)
    if isinstance(refusal, TotalsNotKept):
        if kept is None or kept.rollups_from is None:
            return InvalidInput.of(field, refusal.message, refusal.code)
        return range_not_kept("Totals", "", kept.rollups_from, zone, field=field)
    assert kept is not None  # a range is refused only where something was let go
    assert kept.raw_from is not None
    return range_not_kept("Parts of an hour", "", kept.raw_from, zone, field=field)


def range_not_kept(what: str, how: str, kept_from: datetime, zone: ZoneInfo, *, field: str = "from") -> InvalidInput:
    earliest = _first_whole_day(kept_from, zone)
    message = f"{what} before {earliest} are no longer kept{f' {how}' if how else ''}; begin there."
    return InvalidInput(
        f"{field}: {message}",
        code="range_not_kept",
        errors=[FieldError(field, "range_not_kept", message)],
        extra={"earliest": earliest.isoformat()},
    )


def _raw_start(selection: Selection) -> datetime | None:
    kept = find_kept_from(organization=selection.organization, event_type=EVENT_TYPE)
    return kept.raw_from if kept else None


def _first_whole_day(kept_from: datetime, zone: ZoneInfo) -> date:
    day = local_date(kept_from, zone)
    return day if local_midnight(day, zone) >= kept_from else day + DAY
