"""What the explorer shows of the usage it read: headline figures, the chart, and its numbers as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from metering.charts import REST, Chart, ChartLine, multi_line, stacked_bars
from metering.contexts.lines import (
    Lines,
    SeriesTable,
    group_label,
    list_chart_buckets,
    rest_of,
    tabulate_lines,
)
from metering.contexts.words import AGGREGATION_LABELS, bucket_title, metric_name
from metering.domain import Mode
from metering.models import ADDITIVE
from metering.sql.usage import CUSTOMER
from usage_reports.contexts.explorer.address import MODE_LABELS
from usage_reports.contexts.explorer.view import ExploredUsage, ExplorerView, Group, GroupUsage

# What a browser still scrolls without effort; the export has the rest.
MAX_GROUP_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Figure:
    """One headline: a number, or a time that is told as how long ago."""

    label: str
    value: Decimal | None = None
    unit: str = ""
    at: datetime | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class GroupCell:
    label: str
    is_absent: bool


@dataclass(frozen=True, slots=True)
class GroupRow:
    name: str
    cells: list[GroupCell]
    # The colour of its line; empty where none is drawn.
    colour: str
    # Where the explorer shows this group alone; empty where no filter says that.
    url: str
    value: Decimal
    share_text: str
    share_width: str
    count: int
    last_event_at: datetime | None


@dataclass(frozen=True, slots=True)
class GroupTable:
    keys: tuple[str, ...]
    value_label: str
    rows: list[GroupRow]
    row_count: int
    has_shares: bool
    # Over everything, which for maxima and distinct counts is not the sum of the rows.
    total: Decimal
    count: int
    note: str


@dataclass(frozen=True, slots=True)
class Results:
    title: str
    figures: list[Figure]
    chart: Chart
    table: SeriesTable
    groups: GroupTable | None
    # Which groups the chart draws and what it does with the others; empty where it draws all.
    drawn_note: str


def get_results(view: ExplorerView, usage: ExploredUsage) -> Results:
    lines = _name_lines(view, usage)
    is_grouped = bool(view.address.group_by)
    return Results(
        title=_title(view),
        figures=_figures(view, usage),
        chart=_draw(view, lines),
        table=tabulate_lines(view, view.address.granularity, lines, has_total=is_grouped),
        groups=_group_table(view, usage) if is_grouped else None,
        drawn_note=_drawn_note(view, usage),
    )


def describe(view: ExplorerView, usage: ExploredUsage) -> str:
    """Return in one sentence what is shown now, for who cannot see that it changed."""
    days = f"{view.address.first_day:%-d %b %Y} to {view.address.last_day:%-d %b %Y}"
    if usage.is_empty:
        return f"{_title(view)}, {days}: nothing was counted."
    groups = f", {len(usage.groups)} groups" if view.address.group_by else ""
    return f"{_title(view)}, {days}: {len(usage.whole)} points{groups}."


def _title(view: ExplorerView) -> str:
    mode = view.address.mode
    window = f", {MODE_LABELS[mode].lower()}," if mode != Mode.INCREMENTAL else ""
    return f"{metric_name(view.metric)}{window} {_by(view)}"


def _by(view: ExplorerView) -> str:
    keys = [view.address.granularity.value, *view.address.group_by]
    return "by " + (", ".join(keys[:-1]) + f" and {keys[-1]}" if len(keys) > 1 else keys[0])


# --- figures --------------------------------------------------------------------------------------------------


def _figures(view: ExplorerView, usage: ExploredUsage) -> list[Figure]:
    address, unit = view.address, view.metric.unit
    last, peak = usage.whole[-1], max(usage.whole, key=lambda point: point.value)
    day_count = f"{address.day_count} days" if address.day_count > 1 else "1 day"
    if address.mode == Mode.INCREMENTAL:
        main = Figure("In this range", usage.total.value, unit, note=day_count)
    else:
        at = bucket_title(last.start, address.granularity, view.zone)
        main = Figure(MODE_LABELS[address.mode], last.value, unit, note=f"{'so far, ' if last.is_partial else ''}{at}")
    highest = f"Highest {address.granularity}" if address.mode == Mode.INCREMENTAL else "Highest"
    figures = [
        main,
        Figure(highest, peak.value, unit, note=bucket_title(peak.start, address.granularity, view.zone)),
        Figure(
            "Events", Decimal(usage.total.count), note=f"in {day_count}" if address.mode != Mode.INCREMENTAL else ""
        ),
    ]
    if address.group_by:
        return [*figures, Figure("Groups", Decimal(len(usage.groups)), note=f"by {', '.join(address.group_by)}")]
    return [*figures, Figure("Last event", at=usage.total.last_event_at)]


# --- chart ----------------------------------------------------------------------------------------------------


def _name_lines(view: ExplorerView, usage: ExploredUsage) -> Lines:
    if not view.address.group_by:
        return Lines(usage.whole, [ChartLine(metric_name(view.metric), "1", [point.value for point in usage.whole])])
    lines = [
        ChartLine(_group_name(group.group), str(number), values)
        for number, (group, values) in enumerate(zip(usage.groups, usage.lines, strict=False), start=1)
    ]
    other_count = len(usage.groups) - len(lines)
    if other_count and view.metric.aggregation in ADDITIVE:
        lines.append(ChartLine(f"Other ({other_count})", REST, rest_of(usage.whole, lines)))
    return Lines(usage.whole, lines)


def _draw(view: ExplorerView, lines: Lines) -> Chart:
    """Draw bars where the parts add up to a bucket; a window that looks back is a level, and so a line."""
    address = view.address
    is_stackable = (
        address.mode == Mode.INCREMENTAL
        and view.metric.aggregation in ADDITIVE
        and (len(lines.drawn) <= 1 or all(value >= 0 for line in lines.drawn for value in line.values))
    )
    buckets = list_chart_buckets(view, address.granularity, lines.whole)
    unit = f", in {view.metric.unit}" if view.metric.unit else ""
    days = f"from {address.first_day:%-d %b %Y} to {address.last_day:%-d %b %Y}"
    return (stacked_bars if is_stackable else multi_line)(
        title=_title(view),
        summary=f"{len(buckets)} points {days}{unit}; the tables below hold the numbers",
        buckets=buckets,
        lines=lines.drawn,
    )


def _drawn_note(view: ExplorerView, usage: ExploredUsage) -> str:
    drawn_count, other_count = len(usage.lines), len(usage.groups) - len(usage.lines)
    if other_count <= 0:
        return ""
    drawn = f"The chart draws the {drawn_count} greatest of {len(usage.groups):,} groups"
    if view.metric.aggregation in ADDITIVE:
        return f"{drawn} and sums the other {other_count:,} as “Other”. The table of groups lists each."
    kind = AGGREGATION_LABELS[view.metric.aggregation]
    return f"{drawn}; a {kind} of several groups is not their sum, so the other {other_count:,} are in the table alone."


# --- groups ---------------------------------------------------------------------------------------------------


def _group_table(view: ExplorerView, usage: ExploredUsage) -> GroupTable:
    total = usage.total.value if view.address.mode == Mode.INCREMENTAL else usage.whole[-1].value
    has_shares = view.metric.aggregation in ADDITIVE and total > 0 and all(group.value >= 0 for group in usage.groups)
    hidden_count = len(usage.groups) - MAX_GROUP_ROWS
    return GroupTable(
        keys=view.address.group_by,
        value_label=_value_label(view, usage),
        rows=[
            _group_row(view, group, colour, total if has_shares else None)
            for group, colour in zip(usage.groups[:MAX_GROUP_ROWS], _colours(usage), strict=False)
        ],
        row_count=len(usage.groups),
        has_shares=has_shares,
        total=total,
        count=usage.total.count,
        note=f"{hidden_count:,} smaller ones are not listed; the total and the export hold them."
        if hidden_count > 0
        else "",
    )


def _value_label(view: ExplorerView, usage: ExploredUsage) -> str:
    unit = view.metric.unit.capitalize() or "Value"
    if view.address.mode == Mode.INCREMENTAL:
        return unit
    at = bucket_title(usage.whole[-1].start, view.address.granularity, view.zone)
    return f"{unit}, {MODE_LABELS[view.address.mode].lower()}, {at}"


def _colours(usage: ExploredUsage) -> list[str]:
    drawn = [str(number) for number in range(1, len(usage.lines) + 1)]
    return drawn + [""] * (len(usage.groups) - len(drawn))


def _group_row(view: ExplorerView, usage: GroupUsage, colour: str, total: Decimal | None) -> GroupRow:
    share = usage.value / total * 100 if total else Decimal(0)
    return GroupRow(
        name=_group_name(usage.group),
        cells=[GroupCell(group_label(value), value is None) for value in usage.group],
        colour=colour,
        url=_narrowed_url(view, usage.group),
        value=usage.value,
        share_text=f"{share:.1f}\u202f%" if total else "",
        share_width=f"{share:.2f}%" if total else "",
        count=usage.count,
        last_event_at=usage.last_event_at,
    )


def _narrowed_url(view: ExplorerView, group: Group) -> str:
    if None in group:
        return ""
    chosen = dict(zip(view.address.group_by, map(str, group), strict=True))
    customer = chosen.pop(CUSTOMER, view.address.customer)
    filters = {**view.address.filters, **{key: (value,) for key, value in chosen.items()}}
    return view.address.url(customer=customer, filters=filters, group_by=())


def _group_name(group: Sequence[str | None]) -> str:
    return " · ".join(group_label(value) for value in group)
