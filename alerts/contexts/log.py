"""The alert history: its list, the rows of a live update, and one alert with everything known about it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.models import Customer, Organization
from accounts.pages import page_before, read_id, text_parameter, with_parameters
from accounts.queries import suggest_customers
from alerts.contexts.webhooks import DELIVERY_CLASSES, endpoint_name
from alerts.contexts.words import crossed_text, filter_texts, period_text
from alerts.domain import ThresholdKind
from alerts.models import Crossing, Delivery, EmailSubscription, Threshold
from alerts.payloads import crossing_json
from alerts.queries import list_crossings
from alerts.queries.trace import trace_threshold
from common.errors import InvalidInput, NotFound
from common.models import TenantQuerySet
from metering.contexts.filters import Option
from metering.contexts.words import metric_name
from metering.models import Metric
from metering.queries import list_active_metrics
from metering.queries.periods import usage_zone

PAGE_SIZE = 50
# What a page about something else shows of the history.
RECENT_COUNT = 10


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One crossing as a line of the table."""

    offset: int
    url: str
    triggered_at: datetime
    # Empty: about the metric as a whole.
    customer: str
    customer_url: str
    metric_name: str
    metric_url: str
    code: str
    crossed: str
    value: Decimal
    unit: str
    is_silence: bool
    period: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """The list's filters, resolved; `problems` tells which were left out."""

    customer: Customer | None
    metric: Metric | None
    threshold: Threshold | None
    parameters: dict[str, str]
    problems: list[str]


@dataclass(frozen=True, slots=True)
class AlertListPage:
    rows: list[AlertRow]
    customer: str
    customers: list[str]
    metrics: list[Option]
    # None: of every threshold.
    threshold: Threshold | None
    is_filtered: bool
    # False on older pages, which do not change.
    is_newest: bool
    # Where the stream and the live rows begin: the end of the log when the page was made.
    last_offset: int
    stream_url: str
    rows_url: str
    has_thresholds: bool
    problems: list[str]
    next_url: str
    first_url: str


def get_alert_list(request: HttpRequest, caller: Caller) -> AlertListPage:
    """A page of the log, newest first."""
    organization = caller.organization
    wanted = read_filters(request, organization)
    # Read before the rows: what comes in between is then shown and streamed, and the page knows its offset.
    last_offset = _last_offset(organization)
    parameters = wanted.parameters
    crossings = _list_wanted(organization, wanted)
    page = page_before(request, crossings, size=PAGE_SIZE, parameters=parameters, position="offset")
    streamed = {name: value for name, value in parameters.items() if name != "threshold"}
    return AlertListPage(
        rows=alert_rows(organization, page.rows),
        customer=text_parameter(request, "customer"),
        customers=suggest_customers(organization),
        metrics=metric_options(organization, wanted.metric),
        threshold=wanted.threshold,
        is_filtered=bool(parameters or wanted.problems),
        is_newest=not page.first_url,
        last_offset=last_offset,
        stream_url=with_parameters("/v1/alerts/stream", {"organization": organization.pk, **streamed}),
        rows_url=with_parameters(reverse("alerts:alert_rows", args=[organization.pk]), parameters),
        has_thresholds=bool(page.rows) or Threshold.objects.for_organization(organization).exists(),
        problems=wanted.problems,
        next_url=page.next_url,
        first_url=page.first_url,
    )


def get_alert_rows(request: HttpRequest, caller: Caller) -> list[AlertRow]:
    """Return the rows of a live update: what came after the offset `since`; of more than a page the newest."""
    wanted = read_filters(request, caller.organization)
    since = read_id(text_parameter(request, "since")) or 0
    crossings = _list_wanted(caller.organization, wanted).filter(offset__gt=since).order_by("-offset")
    return alert_rows(caller.organization, list(crossings[:PAGE_SIZE]))


def list_recent(
    organization: Organization,
    *,
    metric: Metric | None = None,
    customer: Customer | None = None,
    threshold: Threshold | None = None,
) -> list[AlertRow]:
    """Return the newest rows about something, for the page of that."""
    wanted = Wanted(customer, metric, threshold, {}, [])
    return alert_rows(organization, list(_list_wanted(organization, wanted).order_by("-offset")[:RECENT_COUNT]))


def alert_rows(organization: Organization, crossings: Iterable[Crossing]) -> list[AlertRow]:
    return [_alert_row(organization, crossing) for crossing in crossings]


def _alert_row(organization: Organization, crossing: Crossing) -> AlertRow:
    customer, metric = crossing.customer, crossing.metric
    is_silence = crossing.threshold.kind == ThresholdKind.SILENCE
    zone = usage_zone(organization=organization, customer=customer)
    return AlertRow(
        offset=crossing.offset,
        url=reverse("alerts:alert", args=[organization.pk, crossing.offset]),
        triggered_at=crossing.triggered_at,
        customer=customer.external_id if customer else "",
        customer_url=reverse("metering:customer", args=[organization.pk, customer.pk]) if customer else "",
        metric_name=metric_name(metric),
        metric_url=reverse("metering:metric", args=[organization.pk, metric.code]),
        code=crossing.threshold_code,
        crossed=crossed_text(crossing),
        value=crossing.value_at_cross,
        unit="s" if is_silence else metric.unit,
        is_silence=is_silence,
        period=f"since {crossing.period_start.astimezone(zone):%-d %b %Y, %H:%M}"
        if is_silence
        else period_text(crossing.period_start, crossing.period_end, zone),
    )


def read_filters(request: HttpRequest, organization: Organization) -> Wanted:
    external_id, code = text_parameter(request, "customer"), text_parameter(request, "metric")
    threshold_id = text_parameter(request, "threshold")
    problems: list[str] = []
    parameters: dict[str, str] = {}
    customer = metric = threshold = None
    if external_id:
        customer = Customer.objects.for_organization(organization).filter(external_id=external_id).first()
        if customer is None:
            problems.append(f"There is no customer “{external_id}”; showing all.")
        else:
            parameters["customer"] = customer.external_id
    if code:
        metric = Metric.objects.for_organization(organization).filter(code=code).first()
        if metric is None:
            problems.append(f"There is no metric “{code}”; showing all.")
        else:
            parameters["metric"] = metric.code
    if threshold_id:
        thresholds = Threshold.objects.for_organization(organization).select_related("metric", "customer")
        threshold = thresholds.filter(pk=read_id(threshold_id) or 0).first()
        if threshold is None:
            problems.append("There is no such threshold; showing all.")
        else:
            parameters["threshold"] = str(threshold.pk)
    return Wanted(customer, metric, threshold, parameters, problems)


def metric_options(organization: Organization, chosen: Metric | None) -> list[Option]:
    metrics = list(list_active_metrics(organization=organization))
    # A chosen one that is archived stays in the list, so that it can be unchosen.
    if chosen is not None and chosen.pk not in {metric.pk for metric in metrics}:
        metrics.append(chosen)
    return [
        Option(metric.code, metric_name(metric), chosen is not None and metric.pk == chosen.pk) for metric in metrics
    ]


def _list_wanted(organization: Organization, wanted: Wanted) -> TenantQuerySet:
    crossings = list_crossings(organization=organization).select_related("customer", "metric", "threshold")
    if wanted.customer:
        crossings = crossings.filter(customer=wanted.customer)
    if wanted.metric:
        crossings = crossings.filter(metric=wanted.metric)
    if wanted.threshold:
        crossings = crossings.filter(threshold=wanted.threshold)
    return crossings


def _last_offset(organization: Organization) -> int:
    newest = Crossing.objects.for_organization(organization).order_by("-offset")
    return newest.values_list("offset", flat=True).first() or 0


# --- one alert ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToldRow:
    """An endpoint that was to be told, and how that went."""

    url: str
    endpoint: str
    state: str
    state_class: str
    attempt_count: int
    at: datetime | None


@dataclass(frozen=True, slots=True)
class AlertPage:
    row: AlertRow
    threshold: Threshold
    # Empty: archived since.
    threshold_url: str
    # The page that goes on asking: the same threshold and customer, now.
    why_url: str
    previous_value: Decimal
    multiple: int
    filters: list[str]
    told: list[ToldRow]
    mailed_to: list[str]
    # What the threshold says now about the same customer; empty where it is not asked any more.
    sentence_now: str
    payload_text: str


def get_alert_page(caller: Caller, offset: int) -> AlertPage:
    """Raises `NotFound`."""
    organization = caller.organization
    crossings = list_crossings(organization=organization).select_related("customer", "metric", "threshold__metric")
    crossing: Crossing | None = crossings.filter(offset=offset).first()
    if crossing is None:
        raise NotFound("There is no such alert.")
    threshold = crossing.threshold
    is_live = threshold.archived_at is None and crossing.metric.archived_at is None
    threshold_url = reverse("alerts:threshold", args=[organization.pk, threshold.pk]) if is_live else ""
    asked = {"customer": crossing.customer.external_id} if crossing.customer else {}
    return AlertPage(
        row=_alert_row(organization, crossing),
        threshold=threshold,
        threshold_url=threshold_url,
        why_url=f"{with_parameters(threshold_url, asked)}#why" if is_live else "",
        previous_value=crossing.previous_value,
        multiple=crossing.multiple,
        filters=filter_texts(threshold.filters),
        told=_told_rows(caller, crossing),
        mailed_to=_list_mailed(organization, crossing),
        sentence_now=_sentence_now(crossing) if is_live else "",
        payload_text=json.dumps(crossing_json(crossing), indent=2, ensure_ascii=False),
    )


def _told_rows(caller: Caller, crossing: Crossing) -> list[ToldRow]:
    deliveries = Delivery.objects.for_organization(caller.organization).filter(crossing=crossing)
    return [
        ToldRow(
            url=reverse("alerts:delivery", args=[caller.organization.pk, delivery.endpoint_id, delivery.pk]),
            endpoint=endpoint_name(caller, delivery.endpoint),
            state=delivery.state,
            state_class=DELIVERY_CLASSES.get(delivery.state, ""),
            attempt_count=delivery.attempt_count,
            at=delivery.settled_at,
        )
        for delivery in deliveries.select_related("endpoint").order_by("-pk")[:PAGE_SIZE]
    ]


def _list_mailed(organization: Organization, crossing: Crossing) -> list[str]:
    subscriptions = EmailSubscription.objects.for_organization(organization).filter(
        sent_through_offset__gte=crossing.offset, created_at__lte=crossing.triggered_at
    )
    return list(subscriptions.order_by("membership__user__email").values_list("membership__user__email", flat=True))


def _sentence_now(crossing: Crossing) -> str:
    threshold = crossing.threshold
    threshold.organization = crossing.organization
    try:
        return trace_threshold(threshold=threshold, customer=crossing.customer, now=timezone.now()).explanation
    except InvalidInput as error:
        return error.message  # a dimension that is gone, or a period whose raw events are
