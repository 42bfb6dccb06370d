"""The explorer's page: controls, results, exports and calls, or why there is nothing to show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.models import Customer
from common.errors import ApplicationError, InvalidInput, NotFound
from metering.contexts.filters import Option
from metering.contexts.first_event import FirstEvent, get_first_event
from metering.contexts.instant import one_instant
from metering.contexts.words import over_customers_note
from metering.domain import local_date
from metering.export_formats import FORMATS
from metering.models import Metric
from metering.queries import get_metric, list_active_metrics
from metering.queries.exports import MAX_ROWS, ExportSelection, UsageTable, series_table
from metering.sql.usage import CUSTOMER
from usage_reports.contexts.explorer.address import parse_address
from usage_reports.contexts.explorer.calls import ApiCalls, get_api_calls
from usage_reports.contexts.explorer.controls import ExplorerControls, get_controls, list_metric_options
from usage_reports.contexts.explorer.results import Results, describe, get_results
from usage_reports.contexts.explorer.view import ExplorerView, read_last_event_at, read_usage

FORMAT_LABELS = {"csv": "CSV", "ndjson": "NDJSON", "parquet": "Parquet"}


@dataclass(frozen=True, slots=True)
class ExportLink:
    label: str
    url: str


@dataclass(frozen=True, slots=True)
class EmptyRange:
    """Nothing was counted. Where something was, `url` leads there; `first_event` where nothing ever was."""

    last_event_at: datetime | None
    url: str
    clear_url: str
    first_event: FirstEvent | None


@dataclass(frozen=True, slots=True)
class ExplorerPage:
    """With `metric` None nothing is chosen that could be shown; `refusal` says why usage cannot be."""

    status: int
    metrics: list[Option]
    metric: Metric | None
    share_url: str
    announcement: str
    problems: list[str]
    refusal: ApplicationError | None = None
    controls: ExplorerControls | None = None
    results: Results | None = None
    empty: EmptyRange | None = None
    exports: list[ExportLink] | None = None
    calls: ApiCalls | None = None
    note: str = ""
    data_through: datetime | None = None


def get_explorer_page(request: HttpRequest, caller: Caller) -> ExplorerPage:
    """Show the metric that the address names or, without a name, the first one."""
    try:
        metric = _find_metric(request.GET, caller)
    except NotFound as error:
        return _page_without_metric(request, caller, error)
    if metric is None:
        return _page_without_metric(request, caller, None)
    view, problems = get_view(request.GET, caller, metric)
    share_url = request.build_absolute_uri(
        reverse("usage_reports:explorer", args=[caller.organization.pk]) + view.address.url()
    )
    today = local_date(view.now, view.zone)
    with one_instant():
        controls = get_controls(view, list_metric_options(caller.organization, metric), today)
        try:
            usage = read_usage(view)
        except InvalidInput as error:
            return ExplorerPage(
                status=error.status,
                metrics=controls.metrics,
                metric=metric,
                share_url=share_url,
                announcement=error.message,
                problems=problems,
                refusal=error,
                controls=controls,
            )
        empty = _get_empty_range(request, view) if usage.is_empty else None
    point_count = max(len(usage.groups), 1) * len(usage.whole)
    return ExplorerPage(
        status=200,
        metrics=controls.metrics,
        metric=metric,
        share_url=share_url,
        announcement=describe(view, usage),
        problems=problems,
        controls=controls,
        results=get_results(view, usage),
        empty=empty,
        exports=_export_links(view) if point_count <= MAX_ROWS else [],
        calls=get_api_calls(request, view, point_count=point_count),
        note=over_customers_note(metric, has_customer=view.customer is not None),
        data_through=min(view.now, view.span.end),
    )


def get_view(query: QueryDict, caller: Caller, metric: Metric) -> tuple[ExplorerView, list[str]]:
    """Resolve the address. One query, where it names a customer."""
    now = timezone.now()
    zone = ZoneInfo(caller.organization.zone)
    address, problems = parse_address(query, metric, today=local_date(now, zone))
    customer = None
    if address.customer:
        customers = Customer.objects.for_organization(caller.organization)
        customer = customers.filter(external_id=address.customer).first()
        if customer is None:
            problems.append(f"There is no customer “{address.customer}”; showing all customers.")
            address = replace(address, customer="")
        elif CUSTOMER in address.group_by:
            # One customer is no grouping.
            address = replace(address, group_by=tuple(key for key in address.group_by if key != CUSTOMER))
    return ExplorerView(caller.organization, metric, address, customer, zone, now), problems


def get_export(query: QueryDict, caller: Caller) -> tuple[ExportSelection, UsageTable]:
    """Return the series that the address shows, with all groups.

    Raises `NotFound` for an absent metric, and `InvalidInput` where the page would show something else than asked for:
    it says so, a file does not.
    """
    metric = _find_metric(query, caller)
    if metric is None:
        raise NotFound("There is no metric to export.")
    view, problems = get_view(query, caller, metric)
    if problems:
        raise InvalidInput(problems[0])
    is_customer_known = view.customer is not None and CUSTOMER not in view.address.group_by
    selection = ExportSelection(
        **view.selection(),
        span=view.span,
        customer_name=view.customer.external_id if view.customer and is_customer_known else None,
        group_by=view.address.group_by,
    )
    table = series_table(
        selection,
        granularity=view.address.granularity,
        zone=str(view.zone),
        mode=view.address.mode,
        now=view.now,
    )
    return selection, table


def _find_metric(query: QueryDict, caller: Caller) -> Metric | None:
    code = query.get("metric", "")
    if code:
        return get_metric(organization=caller.organization, code=code)
    return list_active_metrics(organization=caller.organization).first()


def _page_without_metric(request: HttpRequest, caller: Caller, error: NotFound | None) -> ExplorerPage:
    return ExplorerPage(
        status=error.status if error else 200,
        metrics=list_metric_options(caller.organization, None),
        metric=None,
        share_url=request.build_absolute_uri(reverse("usage_reports:explorer", args=[caller.organization.pk])),
        announcement=error.message if error else "There is no metric yet.",
        problems=[],
        refusal=error,
    )


def _get_empty_range(request: HttpRequest, view: ExplorerView) -> EmptyRange:
    """Find where there is usage of what was asked for."""
    address = view.address
    last_event_at = read_last_event_at(view)
    is_narrowed = address.is_narrowed
    return EmptyRange(
        last_event_at=last_event_at,
        url=address.url_until(local_date(last_event_at, view.zone)) if last_event_at else "",
        clear_url=address.url(customer="", filters={}) if is_narrowed else "",
        first_event=None if last_event_at or is_narrowed else get_first_event(request, view.metric),
    )


def _export_links(view: ExplorerView) -> list[ExportLink]:
    url = reverse("usage_reports:explorer_export", args=[view.organization.pk])
    return [
        ExportLink(FORMAT_LABELS[name], f"{url}?{urlencode([*view.address.parameters(), ('format', name)])}")
        for name in FORMATS
    ]
