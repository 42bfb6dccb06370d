"""One server: what it is, what it reports now, and the history of one of its fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from metering.charts import X_TICK_COUNT, Bucket, Chart, ChartLine, multi_line
from metering.contexts.address import (
    RANGES,
    DayRange,
    clean_text,
    offered_granularities,
    parse_choice,
    parse_range,
)
from metering.contexts.breakdown import Link
from metering.contexts.instant import one_instant
from metering.contexts.lines import SeriesTable, TableRow
from metering.contexts.words import bucket_tick, bucket_title
from metering.dialects.influx.contexts.fleet import is_silent, server_name
from metering.dialects.influx.domain import patience_with, usual_interval
from metering.dialects.influx.models import Server
from metering.dialects.influx.queries.history import (
    LatestValue,
    Reported,
    find_metric,
    list_history,
    list_latest_values,
)
from metering.domain import DAY, HOUR, MINUTE, Granularity, Span
from metering.models import Metric

# A table of more is not read; the metric's own page has all fields.
MAX_VALUES_SHOWN = 500
# As wide as a day of a server that reports once an hour needs.
DEFAULT_RANGE = "7d"
# (from how long on, the unit, its name): a day and a half is 36 hours, not 2 days.
UNITS = ((2 * DAY, DAY, "day"), (2 * HOUR, HOUR, "hour"), (timedelta(0), MINUTE, "minute"))


@dataclass(frozen=True)
class ServerAddress(DayRange):
    """The parsed address: a range, and the field whose history is shown."""

    series: str = ""
    field: str = ""
    # Empty: as wide as suits the range.
    chosen_granularity: str = ""

    @property
    def granularity(self) -> Granularity:
        """By the hour where that can be read: reports are rarer than events, and a day may hold many readings."""
        if self.chosen_granularity:
            return Granularity(self.chosen_granularity)
        offered = offered_granularities(self.day_count)
        return Granularity.HOUR if Granularity.HOUR in offered else self.fitting_granularity

    def url(self, **changes: Any) -> str:
        """Return the address, relative to the page, with something changed."""
        changed = replace(self, **changes)
        chosen = {"series": changed.series, "field": changed.field, "by": changed.chosen_granularity}
        given = [(name, value) for name, value in chosen.items() if value]
        return "?" + urlencode([*changed.range_parameters(), *given])


@dataclass(frozen=True, slots=True)
class Fact:
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class ValueRow:
    value: LatestValue
    url: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class History:
    """The chart of one field, and the same as a table of what was really reported."""

    series: str
    field: str
    # None: nothing was reported in the range.
    chart: Chart | None
    table: SeriesTable
    granularities: list[Link]
    width: str


@dataclass(frozen=True, slots=True)
class ServerPage:
    server: Server
    name: str
    is_silent: bool
    customer_url: str
    usual_interval_text: str
    patience_text: str
    facts: list[Fact]
    values: list[ValueRow]
    is_cut: bool
    history: History | None
    ranges: list[Link]
    metric_url: str
    problems: list[str]
    data_through: datetime


def get_server_page(request: HttpRequest, caller: Caller, server: Server) -> ServerPage:
    """Raises `RangeNotKept` for a range whose edges need raw events that are no longer kept."""
    now = timezone.now()
    zone = ZoneInfo(caller.organization.zone)
    server.organization = caller.organization
    metric = find_metric(server)
    with one_instant():
        values = list_latest_values(server=server, metric=metric) if metric else []
        address, problems = _parse_address(request.GET, values, today=now.astimezone(zone).date())
        history = _history(server, metric, address, zone, now) if metric and address.field else None
    customer = server.customer
    return ServerPage(
        server=server,
        name=server_name(server),
        is_silent=is_silent(server, None, now),
        customer_url=reverse("metering:customer", args=[caller.organization.pk, customer.pk]) if customer else "",
        usual_interval_text=_duration_text(usual_interval(server.gap_seconds)),
        patience_text=_duration_text(patience_with(server.gap_seconds)),
        facts=[Fact(name, text) for name, text in sorted(server.facts.items())],
        values=[_value_row(value, address) for value in values[:MAX_VALUES_SHOWN]],
        is_cut=len(values) > MAX_VALUES_SHOWN,
        history=history,
        ranges=[
            Link(
                named.label, address.url(range_name=named.name, chosen_granularity=""), named.name == address.range_name
            )
            for named in RANGES
        ],
        metric_url=_metric_url(server, metric) if metric else "",
        problems=problems,
        data_through=now,
    )


def _parse_address(query: QueryDict, values: Sequence[LatestValue], *, today: date) -> tuple[ServerAddress, list[str]]:
    """Read the query; without a field in it the first one that is reported."""
    problems: list[str] = []
    if "range" not in query:
        query = query.copy()
        query["range"] = DEFAULT_RANGE
    days = parse_range(query, RANGES, today, problems)
    series, field = clean_text(query.get("series", "")), clean_text(query.get("field", ""))
    if not field and values:
        series, field = values[0].series, values[0].field
    address = ServerAddress(days.range_name, days.first_day, days.last_day, series, field)
    granularity = parse_choice(query, "by", [width.value for width in Granularity], problems)
    if granularity in offered_granularities(address.day_count):
        address = replace(address, chosen_granularity=granularity)
    return address, problems


def _value_row(value: LatestValue, address: ServerAddress) -> ValueRow:
    is_current = (value.series, value.field) == (address.series, address.field)
    return ValueRow(value, address.url(series=value.series, field=value.field), is_current)


def _history(server: Server, metric: Metric, address: ServerAddress, zone: ZoneInfo, now: datetime) -> History:
    granularity = address.granularity
    history = list_history(
        server=server,
        metric=metric,
        series=address.series,
        field=address.field,
        span=Span(address.start(zone), address.end(zone)),
        granularity=granularity,
        zone=zone,
        now=now,
    )
    known = between_reports(history)
    return History(
        series=address.series,
        field=address.field,
        chart=_draw(known, address, granularity, zone) if known else None,
        table=_tabulate(known, address.field, granularity, zone),
        granularities=[
            Link(width.value.capitalize(), address.url(chosen_granularity=width.value), width == granularity)
            for width in offered_granularities(address.day_count)
        ],
        width=granularity.value,
    )


def between_reports(history: Sequence[Reported]) -> list[Reported]:
    """Return the buckets from the first that has a report to the last: of the rest nobody knows the value."""
    places = [place for place, bucket in enumerate(history) if bucket.value is not None]
    return list(history[places[0] : places[-1] + 1]) if places else []


def held_values(history: Sequence[Reported]) -> list[Decimal]:
    """Return a value per bucket: a gauge stands where it was last read until it is read again."""
    held: list[Decimal] = []
    for bucket in history:
        held.append(held[-1] if bucket.value is None else bucket.value)
    return held


def _draw(history: Sequence[Reported], address: ServerAddress, granularity: Granularity, zone: ZoneInfo) -> Chart:
    ticks = hour_ticks([bucket.start.astimezone(zone) for bucket in history])
    buckets = [
        Bucket(
            tick if granularity is Granularity.HOUR else bucket_tick(bucket.start, granularity, zone),
            bucket_title(bucket.start, granularity, zone),
            _caveat(bucket),
        )
        for tick, bucket in zip(ticks, history, strict=True)
    ]
    line = ChartLine(address.field, "1", held_values(history))
    return multi_line(
        title=f"{address.field} by {granularity.value}",
        summary=f"the last reading of each {granularity.value}; the table holds the numbers",
        buckets=buckets,
        lines=[line],
    )


def hour_ticks(hours: Sequence[datetime]) -> list[str]:
    """Return a label for each local hour: the day at the first of its hours that the axis labels, else the time.

    The axis begins at the first report and labels every so many buckets, which may never be a midnight.
    """
    every = -(-len(hours) // X_TICK_COUNT) or 1
    days_before = {place: hours[place - every].date() for place in range(every, len(hours))}
    return [
        f"{hour:%H:%M}" if days_before.get(place) == hour.date() else f"{hour:%-d %b}"
        for place, hour in enumerate(hours)
    ]


def _tabulate(history: Sequence[Reported], field: str, granularity: Granularity, zone: ZoneInfo) -> SeriesTable:
    rows = [
        TableRow(bucket_title(bucket.start, granularity, zone), _caveat(bucket), [bucket.value])
        for bucket in history
        if bucket.value is not None
    ]
    return SeriesTable(granularity.value.capitalize(), [field], rows[::-1])


def _duration_text(duration: timedelta | None) -> str:
    """Say a duration by its greatest unit: `12 hours`."""
    if duration is None:
        return "unknown"
    unit, name = next((unit, name) for least, unit, name in UNITS if duration >= least)
    count = round(duration / unit)
    return f"{count} {name}{'' if count == 1 else 's'}"


def _caveat(bucket: Reported) -> str:
    return "so far" if bucket.is_partial else ""


def _metric_url(server: Server, metric: Metric) -> str:
    filters = {"product": server.product, "cluster": server.cluster_id, "server": server.server_id}
    parameters = [(f"filter[{key}]", value) for key, value in filters.items() if value]
    url = reverse("metering:metric", args=[server.organization_id, metric.code])
    return f"{url}?{urlencode([*parameters, ('group_by', 'field')])}"
