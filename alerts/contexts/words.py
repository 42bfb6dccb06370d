"""Words for alerts: how a threshold's value, its filters, a silence and a period read on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from alerts.domain import ThresholdKind
from alerts.models import Crossing, Threshold
from common.numbers import WIDE, readable_text
from metering.models import Metric

UNITS_OF_TIME = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
FULL = Decimal(100)


def level_text(threshold: Threshold) -> str:
    """Say what is reached when the threshold fires: "1 000 GB", "80 % of what is included"."""
    match ThresholdKind(threshold.kind):
        case ThresholdKind.PERCENT:
            return f"{readable_text(threshold.value)}\u202f% of what the plan includes"
        case ThresholdKind.PROJECTED:
            return f"{with_unit(threshold.value, threshold.metric)}, projected for the period's end"
        case ThresholdKind.SILENCE:
            return f"no event for {duration_text(int(threshold.value))}"
        case ThresholdKind.VALUE:
            each = "every " if threshold.is_recurring else ""
            return f"{each}{with_unit(threshold.value, threshold.metric)}"


def crossed_text(crossing: Crossing) -> str:
    """Say what was crossed, in the words of when it happened."""
    if crossing.threshold.kind == ThresholdKind.SILENCE:
        return f"no event for {duration_text(int(crossing.threshold_value))}"
    return with_unit(crossing.threshold_value, crossing.metric)


def with_unit(value: Decimal, metric: Metric) -> str:
    return f"{readable_text(value)} {metric.unit}".rstrip()


def duration_text(seconds: int) -> str:
    """Write seconds in the largest units that lose nothing: "1 d 6 h", "90 s" as "1 min 30 s"."""
    parts = []
    for size, unit in UNITS_OF_TIME:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}\u202f{unit}")
    return " ".join(parts) or "0\u202fs"


def filter_texts(filters: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{key}: {', '.join(values)}" for key, values in sorted(filters.items())]


def period_text(start: datetime, end: datetime, zone: ZoneInfo) -> str:
    """Name a period by its first and last day, as its customer reckons days."""
    first, last = start.astimezone(zone), (end - timedelta(microseconds=1)).astimezone(zone)
    if first.date() == last.date():
        return f"{first:%-d %b %Y}"
    if (first.year, first.month) == (last.year, last.month):
        return f"{first:%-d}\u2013{last:%-d %b %Y}"
    return f"{first:%-d %b}{'' if first.year == last.year else f' {first:%Y}'} \u2013 {last:%-d %b %Y}"


def share_width(part: Decimal, whole: Decimal) -> str:
    """Return how much of a bar is full, as SVG wants it."""
    if whole <= 0:
        return "100%" if part > 0 else "0%"
    percent = WIDE.divide(WIDE.multiply(part, FULL), whole)
    return f"{max(Decimal(0), min(FULL, percent)):.2f}%"
