"""The usage that the explorer shows: the whole over time, every group, and the lines of the greatest groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from accounts.models import Customer
from metering.charts import SERIES_COUNT
from metering.contexts.view import UsageView
from metering.domain import EPOCH, Mode, Span, bucket_at
from metering.queries import BreakdownRow, Point, Usage, UsageSeries, get_series, get_usage, list_breakdown
from metering.queries.usage import CALENDAR_END
from metering.sql.usage import CUSTOMER
from usage_reports.contexts.explorer.address import ExplorerAddress

# Up to so many points the lines are read at once; beyond, each by itself.
MAX_POINTS_AT_ONCE = 20_000
ZERO = Decimal(0)

# The values of the groupings, in their order; None: events without the dimension.
Group = tuple[str | None, ...]


@dataclass(frozen=True)
class ExplorerView(UsageView):
    """What the explorer looks at."""

    address: ExplorerAddress

    @property
    def span(self) -> Span:
        """Return the range up to the end of the bucket that fills now: of later ones nothing is known."""
        start, end = super().span
        return Span(start, min(end, bucket_at(self.now, self.address.granularity, self.zone).end))

    def selection(self) -> dict[str, Any]:
        """Return what all reads of the page have in common."""
        return {
            "organization": self.organization,
            "metric": self.metric,
            "customer_id": self.customer_id,
            "filters": self.address.filters,
        }


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """One group: `value` is what it used in the range or, of a window that looks back, at the range's end."""

    group: Group
    value: Decimal
    count: int = 0
    last_event_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ExploredUsage:
    total: Usage
    whole: Sequence[Point]
    # The greatest first; all of them.
    groups: Sequence[GroupUsage]
    # The points of the first groups, each as long as `whole`.
    lines: Sequence[Sequence[Decimal]]

    @property
    def is_empty(self) -> bool:
        return not self.total.count and not self.groups and not any(point.value for point in self.whole)


def read_usage(view: ExplorerView) -> ExploredUsage:
    """Read everything that the page shows, as `InvalidInput` where it is too much or no longer kept.

    Three reads without groupings, at most twelve with them, however many groups there are.
    """
    start, end = view.span
    total = get_usage(**view.selection(), start=start, end=end)
    whole = _read_series(view).lines[0].points
    if not view.address.group_by:
        return ExploredUsage(total, whole, [], [])
    groups = _read_groups(view, whole)
    return ExploredUsage(total, whole, groups, _read_lines(view, [usage.group for usage in groups], len(whole)))


def read_last_event_at(view: ExplorerView) -> datetime | None:
    """Return when the metric last had an event that fits customer and filters, whatever the range."""
    return get_usage(**view.selection(), start=EPOCH, end=CALENDAR_END).last_event_at


def _read_series(view: ExplorerView, **changes: Any) -> UsageSeries:
    start, end = view.span
    names = {**view.selection(), "start": start, "end": end, **changes}
    return get_series(
        **names, granularity=view.address.granularity, zone=str(view.zone), mode=view.address.mode, now=view.now
    )


def _read_groups(view: ExplorerView, whole: Sequence[Point]) -> list[GroupUsage]:
    start, end = view.span
    group_by = view.address.group_by
    rows = {_group(row): row for row in list_breakdown(**view.selection(), start=start, end=end, group_by=group_by)}
    if view.address.mode == Mode.INCREMENTAL:
        return [_group_usage(group, row.usage.value, row) for group, row in rows.items()]
    # A window that looks back also holds groups without events in the range; the first point has all of those.
    edges = [
        _read_series(view, start=start, end=whole[1].start if len(whole) > 1 else end, group_by=group_by),
        _read_series(view, start=whole[-1].start, end=end, group_by=group_by),
    ]
    first, last = (_values_by_group(series) for series in edges)
    groups = dict.fromkeys([*rows, *first, *last])
    usages = [_group_usage(group, last[group][0] if group in last else ZERO, rows.get(group)) for group in groups]
    return sorted(usages, key=lambda usage: (-usage.value, -usage.count, [value or "" for value in usage.group]))


def _group_usage(group: Group, value: Decimal, row: BreakdownRow | None) -> GroupUsage:
    if row is None:
        return GroupUsage(group, value)
    return GroupUsage(group, value, row.usage.count, row.usage.last_event_at)


def _group(row: BreakdownRow) -> Group:
    return tuple(row.group.values())


def _values_by_group(series: UsageSeries) -> dict[Group, list[Decimal]]:
    return {tuple(line.group.values()): [point.value for point in line.points] for line in series.lines}


def _read_lines(view: ExplorerView, groups: Sequence[Group], point_count: int) -> list[list[Decimal]]:
    """Read the lines of the first groups: at once, unless what comes with them is too much.

    Filters per key choose all combinations of the values that the drawn groups have, and all customers.
    """
    drawn, keys = groups[:SERIES_COUNT], view.address.group_by
    values = {key: tuple(dict.fromkeys(column)) for key, column in zip(keys, zip(*drawn, strict=True), strict=False)}
    values.pop(CUSTOMER, None)
    chosen = [
        group
        for group in groups
        if all(value in values.get(key, (value,)) for key, value in zip(keys, group, strict=True))
    ]
    if len(chosen) * point_count > MAX_POINTS_AT_ONCE:
        return [_read_line(view, group) for group in drawn]
    series = _read_series(view, group_by=keys, filters={**view.address.filters, **values})
    read = _values_by_group(series)
    return [read[group] for group in drawn]


def _read_line(view: ExplorerView, group: Group) -> list[Decimal]:
    chosen: dict[str, str | None] = dict(zip(view.address.group_by, group, strict=True))
    changes: dict[str, Any] = {}
    if CUSTOMER in chosen:
        customers = Customer.objects.for_organization(view.organization)
        changes["customer_id"] = customers.values_list("pk", flat=True).get(external_id=chosen.pop(CUSTOMER))
    changes["filters"] = {**view.address.filters, **{key: (value,) for key, value in chosen.items()}}
    return [point.value for point in _read_series(view, **changes).lines[0].points]
