"""What the address of the analytics page says: the days, and which requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from metering.contexts.address import RANGES, DayRange, clean_text, parse_range
from usage_reports.gateway.api.serializers import STATUS
from usage_reports.gateway.domain import Grouping

# Up to so many days the charts are by hour, then by day.
MAX_DAYS_BY_HOUR = 2
MAX_DAYS_BY_DAY = 100


@dataclass(frozen=True)
class AnalyticsAddress(DayRange):
    """The parsed address. Empty: any."""

    user: str = ""
    route: str = ""
    status: str = ""

    @property
    def is_narrowed(self) -> bool:
        return bool(self.user or self.route or self.status)

    @property
    def time(self) -> Grouping:
        """Of what the charts' points are."""
        if self.day_count <= MAX_DAYS_BY_HOUR:
            return Grouping.HOUR
        return Grouping.DAY if self.day_count <= MAX_DAYS_BY_DAY else Grouping.MONTH

    def filter_parameters(self) -> list[tuple[str, str]]:
        chosen = (("user", self.user), ("route", self.route), ("status", self.status))
        return [(name, value) for name, value in chosen if value]

    def url(self, **changes: Any) -> str:
        """Return the address, relative to the page, with something changed."""
        changed = replace(self, **changes)
        return "?" + urlencode(changed.range_parameters() + changed.filter_parameters())


def parse_address(query: QueryDict, *, today: date) -> tuple[AnalyticsAddress, list[str]]:
    """Read the query. What makes no sense is left out and told in a sentence, so that an old link still works."""
    problems: list[str] = []
    days = parse_range(query, RANGES, today, problems)
    status = clean_text(query.get("status", ""))
    if status and not STATUS.match(status):
        problems.append(f"“{status}” is no status; use one like 404, or 5xx.")
        status = ""
    address = AnalyticsAddress(
        range_name=days.range_name,
        first_day=days.first_day,
        last_day=days.last_day,
        user=clean_text(query.get("user", "")),
        route=clean_text(query.get("route", "")),
        status=status,
    )
    return address, problems
