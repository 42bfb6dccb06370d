"""The breakdown table of a metric's page: the usage of the range, split by one key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from metering.contexts.lines import group_label
from metering.contexts.view import MetricView
from metering.models import ADDITIVE
from metering.queries import BreakdownRow, Usage
from metering.sql.usage import CUSTOMER

# What a person scrolls through; an export has the rest.
MAX_ROWS = 200


@dataclass(frozen=True, slots=True)
class Link:
    label: str
    url: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class BreakdownLine:
    label: str
    # Where the page is narrowed to this group; empty where it cannot be.
    url: str
    value: Decimal
    count: int
    last_event_at: datetime | None
    share_text: str = ""
    share_width: str = ""


@dataclass(frozen=True, slots=True)
class BreakdownTable:
    label: str
    value_label: str
    choices: list[Link]
    rows: list[BreakdownLine]
    row_count: int
    has_shares: bool
    # Over everything, which for maxima and distinct counts is not the sum of the rows.
    total: Decimal
    count: int
    note: str


def breakdown_key(view: MetricView) -> str:
    """Return what the table splits by: the chart's grouping, else what was chosen, else the first offered."""
    keys = _breakdown_keys(view)
    wanted = view.address.group_by or view.address.breakdown_by
    return wanted if wanted in keys else (keys[0] if keys else "")


def get_breakdown_table(view: MetricView, key: str, rows: Sequence[BreakdownRow], total: Usage) -> BreakdownTable:
    has_shares = view.metric.aggregation in ADDITIVE and total.value > 0 and all(row.usage.value >= 0 for row in rows)
    hidden_count = len(rows) - MAX_ROWS
    return BreakdownTable(
        label=key,
        value_label=view.metric.unit.capitalize() or "Value",
        # A grouped chart and its table show the same split.
        choices=[] if view.address.group_by else _choices(view, key),
        rows=[_line(view, key, row, total if has_shares else None) for row in rows[:MAX_ROWS]],
        row_count=len(rows),
        has_shares=has_shares,
        total=total.value,
        count=total.count,
        note=f"{hidden_count} smaller ones are not shown; the total holds them." if hidden_count > 0 else "",
    )


def _breakdown_keys(view: MetricView) -> list[str]:
    keys = [dimension["key"] for dimension in view.metric.dimensions]
    return keys if view.customer else [CUSTOMER, *keys]


def _choices(view: MetricView, key: str) -> list[Link]:
    keys = _breakdown_keys(view)
    if len(keys) < 2:
        return []
    return [Link(choice, view.address.url(breakdown_by=choice), choice == key) for choice in keys]


def _line(view: MetricView, key: str, row: BreakdownRow, total: Usage | None) -> BreakdownLine:
    value = row.group[key]
    share = row.usage.value / total.value * 100 if total else Decimal(0)
    return BreakdownLine(
        label=group_label(value),
        url=_narrowed_url(view, key, value),
        value=row.usage.value,
        count=row.usage.count,
        last_event_at=row.usage.last_event_at,
        share_text=f"{share:.1f}\u202f%" if total else "",
        share_width=f"{share:.2f}%" if total else "",
    )


def _narrowed_url(view: MetricView, key: str, value: str | None) -> str:
    if value is None:
        return ""
    if key == CUSTOMER:
        return view.address.url(customer=value, group_by="", breakdown_by="")
    return view.address.url(filters={**view.address.filters, key: (value,)})
