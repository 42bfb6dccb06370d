"""What the address of the explorer says, and which choices go together. Everything shown can be linked to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from metering.contexts.address import (
    CUSTOM_RANGE,
    EARLIEST_DAY,
    GRANULARITY_DAYS,
    RANGES,
    DayRange,
    NamedRange,
    clean_text,
    filter_parameters,
    offered_granularities,
    parse_choice,
    parse_filters,
    parse_range,
)
from metering.domain import Granularity, Mode
from metering.models import Metric
from metering.queries.windows import GRANULARITIES
from metering.sql.usage import CUSTOMER

MAX_GROUPINGS = 3
MODE_LABELS = {
    Mode.INCREMENTAL: "Incremental",
    Mode.MONTH_TO_DATE: "Month to date",
    Mode.ROLLING_30D: "Rolling 30 days",
}
EXPLORER_RANGES = (
    *RANGES,
    NamedRange("this_month", "This month", lambda today: (today.replace(day=1), today)),
    NamedRange("last_month", "Last month", lambda today: _month_before(today)),
)


def _month_before(today: date) -> tuple[date, date]:
    last_day = today.replace(day=1) - timedelta(days=1)
    return last_day.replace(day=1), last_day


@dataclass(frozen=True)
class ExplorerAddress(DayRange):
    """The parsed address. Mode and granularity go together, whatever was asked for."""

    metric_code: str = ""
    mode: Mode = Mode.INCREMENTAL
    # Empty: as wide as suits the range and the mode.
    chosen_granularity: str = ""
    customer: str = ""
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group_by: tuple[str, ...] = ()

    @property
    def granularity(self) -> Granularity:
        if self.chosen_granularity:
            return Granularity(self.chosen_granularity)
        return self.fitting_granularity if self.mode == Mode.INCREMENTAL else Granularity.DAY

    @property
    def is_narrowed(self) -> bool:
        return bool(self.customer or self.filters)

    def parameters(self) -> list[tuple[str, str]]:
        chosen = [
            ("metric", self.metric_code),
            *self.range_parameters(),
            ("mode", self.mode if self.mode != Mode.INCREMENTAL else ""),
            ("granularity", self.chosen_granularity),
            ("customer", self.customer),
            *filter_parameters(self.filters),
            *(("group_by", key) for key in self.group_by),
        ]
        return [(name, value) for name, value in chosen if value]

    def url(self, **changes: Any) -> str:
        """Return the address, relative to the page, with something changed.

        A granularity that no longer fits is left out, so that no link leads to what is refused.
        """
        changed = replace(self, **changes)
        if why_not_mode(changed.mode, changed.day_count):
            changed = replace(changed, mode=Mode.INCREMENTAL)
        if changed.chosen_granularity and why_not_granularity(
            Granularity(changed.chosen_granularity), changed.mode, changed.day_count
        ):
            changed = replace(changed, chosen_granularity="")
        return "?" + urlencode(changed.parameters())

    def url_until(self, last_day: date) -> str:
        """Return the address of as many days that end with `last_day`."""
        first_day = max(last_day - timedelta(days=self.day_count - 1), EARLIEST_DAY)
        return self.url(range_name=CUSTOM_RANGE, first_day=first_day, last_day=last_day)


def parse_address(query: QueryDict, metric: Metric, *, today: date) -> tuple[ExplorerAddress, list[str]]:
    """Read the query. What makes no sense is left out and told in a sentence, so that an old link still works."""
    problems: list[str] = []
    days = _end_by(today, parse_range(query, EXPLORER_RANGES, today, problems), problems)
    mode = _parse_mode(query, days.day_count, problems)
    keys = [dimension["key"] for dimension in metric.dimensions]
    address = ExplorerAddress(
        range_name=days.range_name,
        first_day=days.first_day,
        last_day=days.last_day,
        metric_code=metric.code,
        mode=mode,
        chosen_granularity=_parse_granularity(query, mode, days.day_count, problems),
        customer=clean_text(query.get("customer", "")),
        filters=dict(parse_filters(query, keys, problems)),
        group_by=_parse_groupings(query, [CUSTOMER, *keys], problems),
    )
    return address, problems


def _end_by(today: date, days: DayRange, problems: list[str]) -> DayRange:
    """Cut off what has not begun: windows that look back would be drawn into days of which nothing is known."""
    if days.first_day > today:
        problems.append("That range has not begun; showing today.")
        return replace(days, first_day=today, last_day=today)
    return replace(days, last_day=min(days.last_day, today))


def _parse_mode(query: QueryDict, day_count: int, problems: list[str]) -> Mode:
    mode = Mode(parse_choice(query, "mode", list(Mode), problems) or Mode.INCREMENTAL)
    reason = why_not_mode(mode, day_count)
    if not reason:
        return mode
    problems.append(f"{reason} Showing what each bucket adds.")
    return Mode.INCREMENTAL


def _parse_granularity(query: QueryDict, mode: Mode, day_count: int, problems: list[str]) -> str:
    chosen = parse_choice(query, "granularity", list(GRANULARITY_DAYS), problems)
    if not chosen:
        return ""
    reason = why_not_granularity(Granularity(chosen), mode, day_count)
    if reason:
        problems.append(f"{reason} Showing a width that fits.")
        return ""
    return chosen


def _parse_groupings(query: QueryDict, offered: list[str], problems: list[str]) -> tuple[str, ...]:
    asked = list(dict.fromkeys(clean_text(key) for key in query.getlist("group_by") if key))
    for key in asked:
        if key not in offered:
            problems.append(f"The metric has no dimension “{key}” to group by.")
    known = [key for key in asked if key in offered]
    if len(known) > MAX_GROUPINGS:
        problems.append(f"At most {MAX_GROUPINGS} groupings at a time; showing the first {MAX_GROUPINGS}.")
    return tuple(known[:MAX_GROUPINGS])


def why_not_mode(mode: Mode, day_count: int) -> str:
    """Return why a mode cannot be chosen for a range of so many days; empty where it can."""
    if mode == Mode.INCREMENTAL or GRANULARITIES[mode].intersection(offered_granularities(day_count)):
        return ""
    return f"{MODE_LABELS[mode]} is counted by day, for up to {GRANULARITY_DAYS[Granularity.DAY][1]} days."


def why_not_granularity(granularity: Granularity, mode: Mode, day_count: int) -> str:
    """Return why a bucket width cannot be chosen; empty where it can."""
    if granularity not in GRANULARITIES[mode]:
        offered = " or ".join(width for width in GRANULARITY_DAYS if width in GRANULARITIES[mode])
        return f"{MODE_LABELS[mode]} is counted by {offered}."
    least, most = GRANULARITY_DAYS[granularity]
    if day_count < least:
        return f"By {granularity} is for {least} days or more."
    return f"By {granularity} is for up to {most} days." if day_count > most else ""
