"""The lines of a chart: one, or the greatest groups with the rest where groups add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from accounts.models import Customer
from metering.charts import REST, SERIES_COUNT, Bucket, Chart, ChartLine, multi_line, stacked_bars, total_of
from metering.contexts.view import MetricView, UsageView
from metering.contexts.words import NO_VALUE, bucket_tick, bucket_title, metric_name
from metering.domain import EXACT, Granularity
from metering.models import ADDITIVE
from metering.queries import BreakdownRow, Point, UsageSeries, get_series
from metering.sql.usage import CUSTOMER

REST_LABEL = "everything else"
TOTAL_LABEL = "Total"


@dataclass(frozen=True, slots=True)
class Lines:
    """The points of the whole, which give the time axis, and the lines to draw."""

    whole: Sequence[Point]
    drawn: Sequence[ChartLine]


@dataclass(frozen=True, slots=True)
class TableRow:
    label: str
    # As of a chart's bucket.
    caveat: str
    values: list[Decimal]


@dataclass(frozen=True, slots=True)
class SeriesTable:
    heading: str
    columns: list[str]
    # The newest bucket first.
    rows: list[TableRow]


def read_lines(view: MetricView, breakdown: Sequence[BreakdownRow]) -> Lines:
    """Read the whole and, of the grouping's `breakdown` (greatest first), the lines of its first groups.

    Only the groups that are drawn are read, so that a grouping by a thousand customers costs no more than by seven.
    """
    whole = _read_series(view).lines[0].points
    group_by = view.address.group_by
    if not group_by:
        return Lines(whole, [ChartLine(metric_name(view.metric), "1", [point.value for point in whole])])
    groups = [value for row in breakdown if (value := row.group[group_by]) is not None][:SERIES_COUNT]
    read = _read_customer_lines if group_by == CUSTOMER else _read_dimension_lines
    values = read(view, groups)
    lines = [
        ChartLine(group, str(number), values[group]) for number, group in enumerate(groups, start=1) if group in values
    ]
    if view.metric.aggregation in ADDITIVE and len(breakdown) > len(lines):
        lines.append(ChartLine(REST_LABEL, REST, rest_of(whole, lines)))
    return Lines(whole, lines)


def draw_lines(view: MetricView, lines: Lines) -> Chart:
    granularity = view.address.granularity
    buckets = list_chart_buckets(view, granularity, lines.whole)
    is_stackable = view.metric.aggregation in ADDITIVE and (
        len(lines.drawn) <= 1 or all(value >= 0 for line in lines.drawn for value in line.values)
    )
    draw = stacked_bars if is_stackable else multi_line
    grouping = f" and {view.address.group_by}" if view.address.group_by else ""
    unit = f", in {view.metric.unit}" if view.metric.unit else ""
    first, last = view.address.first_day, view.address.last_day
    return draw(
        title=f"{metric_name(view.metric)} by {granularity.value}{grouping}",
        summary=f"{len(buckets)} buckets from {first:%-d %b %Y} to {last:%-d %b %Y}{unit}; the table holds the numbers",
        buckets=buckets,
        lines=lines.drawn,
    )


def tabulate(view: MetricView, lines: Lines) -> SeriesTable:
    is_grouped = bool(view.address.group_by)
    return tabulate_lines(view, view.address.granularity, lines, has_total=is_grouped)


def list_chart_buckets(view: UsageView, granularity: Granularity, whole: Sequence[Point]) -> list[Bucket]:
    return [
        Bucket(
            bucket_tick(point.start, granularity, view.zone),
            bucket_title(point.start, granularity, view.zone),
            _caveat(point, view),
        )
        for point in whole
    ]


def tabulate_lines(view: UsageView, granularity: Granularity, lines: Lines, *, has_total: bool) -> SeriesTable:
    """Put the chart into rows. The total is the whole, which is a sum of the lines only where groups add up."""
    columns = [line.label for line in lines.drawn] + ([TOTAL_LABEL] if has_total else [])
    rows = [
        TableRow(
            label=bucket_title(point.start, granularity, view.zone),
            caveat=_caveat(point, view),
            values=[line.values[place] for line in lines.drawn] + ([point.value] if has_total else []),
        )
        for place, point in enumerate(lines.whole)
    ]
    return SeriesTable(granularity.value.capitalize(), columns, rows[::-1])


def _caveat(point: Point, view: UsageView) -> str:
    if not point.is_partial:
        return ""
    return "so far" if point.start <= view.now < view.span.end and point.start >= view.span.start else "in part"


def _read_series(
    view: MetricView,
    *,
    group_by: tuple[str, ...] = (),
    customer_id: int | None = None,
    filters: Mapping[str, tuple[str, ...]] | None = None,
) -> UsageSeries:
    return get_series(
        organization=view.organization,
        metric=view.metric,
        start=view.span.start,
        end=view.span.end,
        granularity=view.address.granularity,
        zone=str(view.zone),
        now=view.now,
        group_by=group_by,
        customer_id=customer_id or view.customer_id,
        filters=view.address.filters if filters is None else filters,
    )


def _read_dimension_lines(view: MetricView, groups: Sequence[str]) -> dict[str, list[Decimal]]:
    if not groups:
        return {}
    key = view.address.group_by
    series = _read_series(view, group_by=(key,), filters={**view.address.filters, key: tuple(groups)})
    return {str(line.group[key]): [point.value for point in line.points] for line in series.lines}


def _read_customer_lines(view: MetricView, groups: Sequence[str]) -> dict[str, list[Decimal]]:
    """One read per customer: the usage query takes one customer or all of them."""
    customers = Customer.objects.for_organization(view.organization).filter(external_id__in=groups)
    ids = dict(customers.values_list("external_id", "pk"))
    return {
        group: [point.value for point in _read_series(view, customer_id=ids[group]).lines[0].points] for group in groups
    }


def rest_of(whole: Sequence[Point], lines: Sequence[ChartLine]) -> list[Decimal]:
    """Return what the whole has beyond the lines. Only where groups add up."""
    return [
        EXACT.subtract(point.value, total_of(line.values[place] for line in lines)) for place, point in enumerate(whole)
    ]


def group_label(value: str | None) -> str:
    return NO_VALUE if value is None else value or "(empty)"
