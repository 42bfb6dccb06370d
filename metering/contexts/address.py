"""What the address of a page of usage says: range, customer, filters, grouping. Everything shown can be linked to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import QueryDict

from metering.domain import Granularity, local_midnight
from metering.models import Metric
from metering.sql.usage import CUSTOMER


class NamedRange(NamedTuple):
    """A range that moves with the days; `days` returns its first and last day, both inclusive."""

    name: str
    label: str
    days: Callable[[date], tuple[date, date]]


def _last_days(count: int) -> Callable[[date], tuple[date, date]]:
    return lambda today: (today - timedelta(days=count - 1), today)


RANGES = (
    NamedRange("7d", "7 days", _last_days(7)),
    NamedRange("30d", "30 days", _last_days(30)),
    NamedRange("90d", "90 days", _last_days(90)),
    NamedRange("12m", "12 months", _last_days(365)),
)
DEFAULT_RANGE = "30d"
CUSTOM_RANGE = "custom"
# More than any organization has kept; less than what arithmetic with dates survives.
EARLIEST_DAY = date(1970, 1, 2)
LATEST_DAY = date(2200, 1, 1)
# A bucket width is offered for ranges of so many days.
GRANULARITY_DAYS: Mapping[Granularity, tuple[int, int]] = {
    Granularity.HOUR: (1, 14),
    Granularity.DAY: (1, 800),
    Granularity.WEEK: (14, 4000),
    Granularity.MONTH: (59, 40_000),
}
# Up to so many days the chart is by day unless the reader chooses.
MAX_DAYS_BY_DAY = 100
MAX_DAYS_BY_WEEK = 800
MAX_PARAMETER_CHARACTERS = 1000


@dataclass(frozen=True)
class DayRange:
    """Days of a local calendar, both inclusive; `start` and `end` are the half-open range they make."""

    range_name: str
    first_day: date
    last_day: date

    @property
    def day_count(self) -> int:
        return (self.last_day - self.first_day).days + 1

    @property
    def fitting_granularity(self) -> Granularity:
        if self.day_count <= 2:
            return Granularity.HOUR
        if self.day_count <= MAX_DAYS_BY_DAY:
            return Granularity.DAY
        return Granularity.WEEK if self.day_count <= MAX_DAYS_BY_WEEK else Granularity.MONTH

    def start(self, zone: ZoneInfo) -> datetime:
        return local_midnight(self.first_day, zone)

    def end(self, zone: ZoneInfo) -> datetime:
        return local_midnight(self.last_day + timedelta(days=1), zone)

    def range_parameters(self) -> list[tuple[str, str]]:
        if self.range_name == CUSTOM_RANGE:
            return [("first", self.first_day.isoformat()), ("last", self.last_day.isoformat())]
        return [("range", self.range_name)]


@dataclass(frozen=True)
class MetricAddress(DayRange):
    """The parsed address of a metric's page."""

    # Empty: as wide as suits the range.
    chosen_granularity: str = ""
    customer: str = ""
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group_by: str = ""
    breakdown_by: str = ""

    @property
    def granularity(self) -> Granularity:
        return Granularity(self.chosen_granularity) if self.chosen_granularity else self.fitting_granularity

    def other_parameters(self) -> list[tuple[str, str]]:
        chosen = [
            ("by", self.chosen_granularity),
            ("customer", self.customer),
            ("group_by", self.group_by),
            ("breakdown", self.breakdown_by),
        ]
        return [(name, value) for name, value in chosen if value] + filter_parameters(self.filters)

    def url(self, **changes: Any) -> str:
        """Return the address, relative to the page, with something changed."""
        changed = replace(self, **changes)
        return "?" + urlencode(changed.range_parameters() + changed.other_parameters())


def parse_address(query: QueryDict, metric: Metric, *, today: date) -> tuple[MetricAddress, list[str]]:
    """Read the query. What makes no sense is left out and told in a sentence, so that an old link still works."""
    problems: list[str] = []
    dimension_keys = [dimension["key"] for dimension in metric.dimensions]
    days = parse_range(query, RANGES, today, problems)
    address = MetricAddress(
        range_name=days.range_name,
        first_day=days.first_day,
        last_day=days.last_day,
        customer=clean_text(query.get("customer", "")),
        filters=dict(parse_filters(query, dimension_keys, problems)),
        group_by=parse_choice(query, "group_by", [CUSTOMER, *dimension_keys], problems),
        breakdown_by=parse_choice(query, "breakdown", [CUSTOMER, *dimension_keys], problems),
    )
    granularity = parse_choice(query, "by", list(GRANULARITY_DAYS), problems)
    if granularity in offered_granularities(address.day_count):
        address = replace(address, chosen_granularity=granularity)
    return address, problems


def offered_granularities(day_count: int) -> list[Granularity]:
    """Return the bucket widths that make a readable chart of so many days."""
    return [width for width, (least, most) in GRANULARITY_DAYS.items() if least <= day_count <= most]


def filter_parameters(filters: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Return the filters as they stand in an address, of a page as of the API."""
    return [(f"filter[{key}]", value) for key, values in filters.items() for value in values]


def parse_range(query: QueryDict, ranges: Sequence[NamedRange], today: date, problems: list[str]) -> DayRange:
    first, last = query.get("first", ""), query.get("last", "")
    if first or last:
        try:
            first_day, last_day = date.fromisoformat(first), date.fromisoformat(last)
        except ValueError:
            problems.append("A range needs two dates, like 2026-11-01; showing the last 30 days.")
        else:
            if EARLIEST_DAY <= first_day <= last_day <= LATEST_DAY:
                return DayRange(CUSTOM_RANGE, first_day, last_day)
            problems.append("The range ends before it begins; showing the last 30 days.")
    days_of = {named.name: named.days for named in ranges}
    name = query.get("range", DEFAULT_RANGE)
    if name not in days_of:
        problems.append("There is no such range; showing the last 30 days.")
        name = DEFAULT_RANGE
    return DayRange(name, *days_of[name](today))


def parse_filters(
    query: QueryDict, dimension_keys: Iterable[str], problems: list[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the chosen values of each of the metric's dimensions that has some."""
    for key in dimension_keys:
        values = tuple(dict.fromkeys(clean_text(value) for value in query.getlist(f"filter[{key}]") if value))
        if values:
            yield key, values
    asked = {name[len("filter[") : -1] for name in query if name.startswith("filter[")}
    for key in sorted(asked.difference(dimension_keys)):
        problems.append(f"The metric has no dimension “{clean_text(key)}”; that filter is left out.")


def parse_choice(query: QueryDict, name: str, allowed: list[str], problems: list[str]) -> str:
    value = query.get(name, "")
    if value and value not in allowed:
        problems.append(f"“{clean_text(value)}” is not among the choices of {name}.")
        return ""
    return value


def clean_text(value: str) -> str:
    """Return what PostgreSQL can be asked for: no NUL, no novel."""
    return value.replace("\x00", "").strip()[:MAX_PARAMETER_CHARACTERS]
