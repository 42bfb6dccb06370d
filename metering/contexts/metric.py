"""The page of one metric: its chart, its breakdown, its definition, and the API call that gives the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.models import Customer, Organization
from common.errors import InvalidInput
from metering.charts import Chart
from metering.contexts.address import MetricAddress, filter_parameters, parse_address
from metering.contexts.api_call import usage_call
from metering.contexts.breakdown import BreakdownTable, breakdown_key, get_breakdown_table
from metering.contexts.filters import MetricFilters, get_metric_filters
from metering.contexts.first_event import FirstEvent, get_first_event
from metering.contexts.instant import one_instant
from metering.contexts.lines import SeriesTable, draw_lines, read_lines, tabulate
from metering.contexts.view import MetricView
from metering.contexts.words import AGGREGATION_LABELS, metric_name, over_customers_note, period_label
from metering.domain import Span
from metering.models import Aggregation, Metric
from metering.queries import BreakdownRow, Usage, current_period, get_usage, list_breakdown
from metering.queries.periods import usage_zone
from metering.sql.usage import CUSTOMER


@dataclass(frozen=True, slots=True)
class Figure:
    """One headline: a number, or a time that is told as how long ago."""

    label: str
    value: Decimal | None = None
    unit: str = ""
    at: datetime | None = None
    note: str = ""
    note_class: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    label: str
    text: str
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class MetricPage:
    metric: Metric
    name: str
    filters: MetricFilters
    problems: list[str]
    figures: list[Figure]
    chart: Chart
    table: SeriesTable
    breakdown: BreakdownTable | None
    definition: list[Fact]
    note: str
    api_call: str
    data_through: datetime
    events_url: str
    explorer_url: str
    first_event: FirstEvent | None


def get_metric_page(request: HttpRequest, caller: Caller, metric: Metric) -> MetricPage:
    """Raises `InvalidInput` for a range whose edges need raw events that are no longer kept."""
    now = timezone.now()
    zone = ZoneInfo(caller.organization.zone)
    address, problems = parse_address(request.GET, metric, today=now.astimezone(zone).date())
    customer = _find_customer(caller.organization, address, problems)
    if customer and address.group_by == CUSTOMER:
        address = replace(address, group_by="")  # one customer is no grouping
    view = MetricView(caller.organization, metric, address, customer, zone, now)
    with one_instant():
        total = _read_total(view, view.span)
        key = breakdown_key(view)
        rows = _read_breakdown(view, key) if key else []
        lines = read_lines(view, rows if key == address.group_by else [])
        filters = get_metric_filters(view)
        figures = _figures(view, total)
    return MetricPage(
        metric=metric,
        name=metric_name(metric),
        filters=filters,
        problems=problems,
        figures=figures,
        chart=draw_lines(view, lines),
        table=tabulate(view, lines),
        breakdown=get_breakdown_table(view, key, rows, total) if key else None,
        definition=_definition(metric),
        note=over_customers_note(metric, has_customer=customer is not None),
        api_call=usage_call(request, view),
        data_through=min(now, view.span.end),
        events_url=_events_url(view),
        explorer_url=_explorer_url(view),
        first_event=None if total.count or _is_narrowed(address) else get_first_event(request, metric),
    )


def _find_customer(organization: Organization, address: MetricAddress, problems: list[str]) -> Customer | None:
    if not address.customer:
        return None
    customer = Customer.objects.for_organization(organization).filter(external_id=address.customer).first()
    if customer is None:
        problems.append(f"There is no customer “{address.customer}”; showing all customers.")
    return customer


def _read_total(view: MetricView, span: Span) -> Usage:
    return get_usage(
        organization=view.organization,
        metric=view.metric,
        start=span.start,
        end=span.end,
        customer_id=view.customer_id,
        filters=view.address.filters,
    )


def _read_breakdown(view: MetricView, key: str) -> list[BreakdownRow]:
    return list_breakdown(
        organization=view.organization,
        metric=view.metric,
        start=view.span.start,
        end=view.span.end,
        group_by=(key,),
        customer_id=view.customer_id,
        filters=view.address.filters,
    )


def _figures(view: MetricView, total: Usage) -> list[Figure]:
    period = current_period(metric=view.metric, organization=view.organization, customer=view.customer, at=view.now)
    # The period's edges are the customer's; the chart's days are the organization's.
    zone = usage_zone(organization=view.organization, customer=view.customer)
    note, note_class = _change_note(view, total)
    return [
        Figure("In this range", total.value, view.metric.unit, note=note, note_class=note_class),
        Figure(
            "This period",
            _read_total(view, period).value,
            view.metric.unit,
            note=f"since {period.start.astimezone(zone):%-d %b %Y}",
        ),
        Figure("Events", Decimal(total.count)),
        Figure("Last event", at=total.last_event_at),
    ]


def _change_note(view: MetricView, total: Usage) -> tuple[str, str]:
    """Compare with as much time just before; a range that is still running is compared up to the same moment."""
    span = view.span
    length = span.end - span.start
    before = Span(span.start - length, min(span.end, view.now) - length)
    if before.end <= before.start:
        return "", ""
    try:
        earlier = _read_total(view, before).value
    except InvalidInput:
        return "", ""  # the ragged edge of that time is no longer kept; the comparison is only a courtesy
    if earlier <= 0 or total.value < 0:
        return "", ""
    percent = round((total.value - earlier) / earlier * 100, 1)
    if percent == 0:
        return f"as in the {view.address.day_count} days before", ""
    sign, css_class = ("+", "is-up") if percent > 0 else ("\u2212", "is-down")
    return f"{sign}{abs(percent)}\u202f% against the {view.address.day_count} days before", css_class


def _definition(metric: Metric) -> list[Fact]:
    facts = [
        Fact("Code", metric.code, is_code=True),
        Fact("Aggregation", AGGREGATION_LABELS[metric.aggregation]),
        Fact("Event type", metric.event_type, is_code=True),
        *_value_facts(metric),
        *(Fact("Dimension", _dimension_text(dimension)) for dimension in metric.dimensions),
        Fact("Period", period_label(metric)),
    ]
    if metric.unit:
        facts.insert(2, Fact("Unit", metric.unit))
    if metric.catalog:
        facts.append(Fact("Catalog", metric.catalog))
    return facts


def _value_facts(metric: Metric) -> list[Fact]:
    if metric.aggregation == Aggregation.COUNT:
        return [Fact("Only with", metric.value_property, is_code=True)] if metric.value_property else []
    return [Fact("Value", metric.value_property or "the event's value", is_code=bool(metric.value_property))]


def _dimension_text(dimension: dict[str, object]) -> str:
    values = dimension.get("values")
    if not isinstance(values, Sequence) or not values:
        return str(dimension["key"])
    rule = " only" if dimension.get("strict") else ""
    return f"{dimension['key']}: {', '.join(map(str, values))}{rule}"


def _events_url(view: MetricView) -> str:
    parameters = {"metric": view.metric.code}
    if view.customer:
        parameters["customer"] = view.customer.external_id
    return f"{reverse('metering:event_list', args=[view.organization.pk])}?{urlencode(parameters)}"


def _explorer_url(view: MetricView) -> str:
    """Return where the explorer shows the same."""
    address = view.address
    parameters = [
        ("metric", view.metric.code),
        *address.range_parameters(),
        ("granularity", address.chosen_granularity),
        ("customer", view.customer.external_id if view.customer else ""),
        *filter_parameters(address.filters),
        ("group_by", address.group_by),
    ]
    query = urlencode([(name, value) for name, value in parameters if value])
    return f"{reverse('usage_reports:explorer', args=[view.organization.pk])}?{query}"


def _is_narrowed(address: MetricAddress) -> bool:
    return bool(address.customer or address.filters)
