"""The analytics page: headlines, charts, tables, and the requests that arrive while it is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Context, Decimal
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.utils import timezone

from accounts.access import Caller
from accounts.models import Customer, Organization
from metering.charts import Bucket, Chart, ChartLine, multi_line, stacked_bars
from metering.contexts.address import CUSTOM_RANGE, RANGES
from metering.contexts.breakdown import Link
from metering.contexts.filters import HiddenField, Option, list_customer_options
from metering.contexts.instant import one_instant
from metering.contexts.words import bucket_tick, bucket_title
from metering.domain import Span, local_date
from metering.queries.dimensions import list_dimension_values
from usage_reports.gateway.contexts.address import AnalyticsAddress, parse_address
from usage_reports.gateway.contexts.first_request import FirstRequest, get_first_request
from usage_reports.gateway.contexts.live import LiveRow, list_live_rows, rows_url, stream_url
from usage_reports.gateway.domain import KEYS, MOST_REQUESTS_FIRST, PERCENT_STEP, TIMES, Grouping, Row, divide
from usage_reports.gateway.engine import (
    REQUESTS,
    Selection,
    Summary,
    begin_where_kept,
    find_metrics,
    get_summary,
    list_rows,
)
from usage_reports.gateway.user_usage import route_names

TOP_ROWS = 10
MAX_STATUS_ROWS = 30
MAX_LISTED_ROUTES = 200
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")
MAX_POINTS = 1000
ZERO = Decimal(0)
THREE_DIGITS = Context(prec=3)
DATA_UNITS = (("TB", Decimal(10**12)), ("GB", Decimal(10**9)), ("MB", Decimal(10**6)), ("kB", Decimal(10**3)))


@dataclass(frozen=True, slots=True)
class Figure:
    label: str
    value: Decimal | None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class TableLine:
    label: str
    note: str
    # Where the page is narrowed to this group; empty where it cannot be.
    url: str
    requests: int
    errors: int
    error_percent: Decimal | None
    p95: Decimal | None
    units: Decimal


@dataclass(frozen=True, slots=True)
class TopTable:
    title: str
    heading: str
    rows: list[TableLine]
    # How many there are beside those.
    more_count: int


@dataclass(frozen=True, slots=True)
class AnalyticsPage:
    address: AnalyticsAddress
    is_custom_range: bool
    ranges: list[Link]
    # What the form of the dates, and that of the filters, carry along of the other.
    filter_fields: list[HiddenField]
    range_fields: list[HiddenField]
    # None: too many to list, the id is typed.
    users: list[Option] | None
    routes: list[Option]
    statuses: list[Option]
    clear_url: str
    problems: list[str]
    figures: list[Figure]
    charts: list[Chart]
    tables: list[TopTable]
    live_rows: list[LiveRow]
    stream_url: str
    rows_url: str
    data_through: datetime
    # Where nothing was ever recorded.
    first_request: FirstRequest | None


def get_analytics_page(request: HttpRequest, caller: Caller) -> AnalyticsPage:
    """Raises `RangeNotKept` where the range cuts an hour of which only the total is kept."""
    organization, now = caller.organization, timezone.now()
    selection, address, problems = read_page_address(request, organization, now)
    names = route_names(organization)
    with one_instant():
        summary = get_summary(selection)
        points = list_rows(selection, [address.time], sort=None, limit=MAX_POINTS, is_dense=True).rows
        tables = [
            _top_table(selection, address, Grouping.USER, "Top users", {}),
            _top_table(selection, address, Grouping.ROUTE, "Top routes", names),
            _top_table(selection, address, Grouping.STATUS, "Statuses", {}),
        ]
        live_rows = list_live_rows(selection)
    is_first_time = not (live_rows or summary.totals.requests or address.is_narrowed)
    return AnalyticsPage(
        address=address,
        is_custom_range=address.range_name == CUSTOM_RANGE,
        ranges=[
            Link(named.label, address.url(range_name=named.name), named.name == address.range_name) for named in RANGES
        ],
        filter_fields=[HiddenField(*pair) for pair in address.filter_parameters()],
        range_fields=[HiddenField(*pair) for pair in address.range_parameters()],
        users=list_customer_options(organization, address.user),
        routes=_route_options(selection, address, names),
        statuses=_status_options(address),
        clear_url=address.url(user="", route="", status="") if address.is_narrowed else "",
        problems=problems,
        figures=_figures(summary),
        charts=_draw(selection, address, points),
        tables=tables,
        live_rows=live_rows,
        stream_url=stream_url(organization, address),
        rows_url=rows_url(organization, address),
        data_through=min(now, selection.span.end),
        first_request=get_first_request(request) if is_first_time else None,
    )


def read_page_address(
    request: HttpRequest, organization: Organization, now: datetime
) -> tuple[Selection, AnalyticsAddress, list[str]]:
    """Resolve the address, without the days of which nothing is kept any more."""
    zone = ZoneInfo(organization.zone)
    address, problems = parse_address(request.GET, today=local_date(now, zone))
    customer = None
    if address.user:
        customer = Customer.objects.for_organization(organization).filter(external_id=address.user).first()
        if customer is None:
            problems.append(f"There is no user “{address.user}”; showing all.")
            address = replace(address, user="")
    asked = Selection(
        organization=organization,
        span=Span(address.start(zone), address.end(zone)),
        zone=zone,
        now=now,
        customer_id=customer.pk if customer else None,
        route=address.route or None,
        status=address.status,
    )
    selection = begin_where_kept(asked, is_raw=False)
    if selection is not asked:
        problems.append(f"Totals before {selection.span.start.astimezone(zone):%-d %b %Y} are no longer kept.")
    return selection, address, problems


# --- choices --------------------------------------------------------------------------------------------------


def _route_options(selection: Selection, address: AnalyticsAddress, names: Mapping[str | None, str]) -> list[Option]:
    """Return the routes that are defined or were requested, and the chosen one whatever it is."""
    metric = find_metrics(selection.organization).get(REQUESTS)
    key = KEYS[Grouping.ROUTE]
    requested = (
        list_dimension_values(organization=selection.organization, metric=metric, key=key, limit=MAX_LISTED_ROUTES)
        if metric
        else []
    )
    chosen = [address.route] if address.route else []
    codes = sorted({*chosen, *requested, *(code for code in names if code)})
    options = [Option(code, names.get(code) or code, code == address.route) for code in codes]
    return [Option("", "All routes", not address.route), *options]


def _status_options(address: AnalyticsAddress) -> list[Option]:
    classes = [Option(name, name, name == address.status) for name in STATUS_CLASSES]
    single = [Option(address.status, address.status, True)] if address.status not in {"", *STATUS_CLASSES} else []
    return [Option("", "All statuses", not address.status), *classes, *single]


# --- figures --------------------------------------------------------------------------------------------------


def _figures(summary: Summary) -> list[Figure]:
    totals, latency = summary.totals, summary.percentiles
    classes = ", ".join(f"{count:,} {name}" for name, count in summary.by_status.items())
    return [
        Figure("Requests", Decimal(totals.requests), note=classes),
        Figure(
            "Error rate", _error_percent(totals.errors, totals.requests), "%", f"{totals.errors:,} answered 4xx or 5xx"
        ),
        Figure("p50 latency", _shown(latency.p50), "ms", "the median"),
        Figure("p95 latency", _shown(latency.p95), "ms", "within 2\u202f%"),
        Figure("p99 latency", _shown(latency.p99), "ms", "within 2\u202f%"),
        Figure("Metered units", totals.units, note=_failures(summary)),
        _data_figure(totals.bytes),
    ]


def _failures(summary: Summary) -> str:
    """Return how many requests could not be metered as their routes say: those that count, and those refused."""
    counted, refused = (sum((counts or {}).values()) for counts in (summary.metering_errors, summary.refused))
    notes = [f"{counted:,} metering errors"] if counted else []
    return ", ".join([*notes, f"{refused:,} requests refused unmetered"] if refused else notes)


def _shown(latency: Decimal | None) -> Decimal | None:
    """Return as many digits of a percentile as its error makes worth reading."""
    return None if latency is None else THREE_DIGITS.plus(latency)


def _data_figure(total: Decimal) -> Figure:
    unit, size = next(((unit, size) for unit, size in DATA_UNITS if total >= size), ("bytes", Decimal(1)))
    note = f"{total:,} bytes" if size > 1 else ""
    return Figure("Data", THREE_DIGITS.divide(total, size) if size > 1 else total, unit, note)


def _error_percent(errors: int, requests: int) -> Decimal | None:
    return divide(Decimal(errors) * 100, Decimal(requests), PERCENT_STEP)


# --- charts ---------------------------------------------------------------------------------------------------


def _draw(selection: Selection, address: AnalyticsAddress, points: Sequence[Row]) -> list[Chart]:
    buckets = _chart_buckets(selection, address, points)
    span = f"{len(buckets)} points from {address.first_day:%-d %b %Y} to {address.last_day:%-d %b %Y}"

    def line(label: str, colour: str, value: Callable[[Row], Decimal | None]) -> ChartLine:
        return ChartLine(label, colour, [value(row) or ZERO for row in points])

    return [
        stacked_bars(
            title=f"Requests by {address.time}",
            summary=span,
            buckets=buckets,
            lines=[
                line("Succeeded", "1", lambda row: Decimal(row.totals.requests - row.totals.errors)),
                line("Errors", "5", lambda row: Decimal(row.totals.errors)),
            ],
        ),
        multi_line(
            title=f"Latency by {address.time}, in ms",
            summary=f"{span}; those without requests are at zero",
            buckets=buckets,
            lines=[
                line("p50", "1", lambda row: row.percentiles.p50),
                line("p95", "2", lambda row: row.percentiles.p95),
                line("p99", "3", lambda row: row.percentiles.p99),
            ],
        ),
        multi_line(
            title=f"Error rate by {address.time}, in %",
            summary=span,
            buckets=buckets,
            lines=[line("Error rate", "5", lambda row: _error_percent(row.totals.errors, row.totals.requests))],
        ),
    ]


def _chart_buckets(selection: Selection, address: AnalyticsAddress, points: Sequence[Row]) -> list[Bucket]:
    granularity, zone, now = TIMES[address.time], selection.zone, selection.now
    buckets = []
    for row in points:
        start = row.key.start
        assert start is not None  # the rows are of time
        caveat = ("so far" if selection.span.start <= start <= now else "in part") if row.is_partial else ""
        buckets.append(Bucket(bucket_tick(start, granularity, zone), bucket_title(start, granularity, zone), caveat))
    return buckets


# --- tables ---------------------------------------------------------------------------------------------------


def _top_table(
    selection: Selection,
    address: AnalyticsAddress,
    group: Grouping,
    title: str,
    names: Mapping[str | None, str],
) -> TopTable:
    limit = MAX_STATUS_ROWS if group == Grouping.STATUS else TOP_ROWS
    found = list_rows(selection, [group], sort=MOST_REQUESTS_FIRST, limit=limit)
    return TopTable(
        title=title,
        heading=group.value.capitalize(),
        rows=[_table_line(address, group, row, names) for row in found.rows],
        more_count=found.total - len(found.rows),
    )


def _table_line(address: AnalyticsAddress, group: Grouping, row: Row, names: Mapping[str | None, str]) -> TableLine:
    [value] = row.key.group
    name = names.get(value)
    return TableLine(
        label=name or value or f"no {group}",
        note=value if name and value and name != value else "",
        url=address.url(**{group.value: value}) if value else "",
        requests=row.totals.requests,
        errors=row.totals.errors,
        error_percent=_error_percent(row.totals.errors, row.totals.requests),
        p95=_shown(row.percentiles.p95),
        units=row.totals.units,
    )
