"""What is watched, limited and told of one metric, and of one customer: the tabs beside their usage."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse

from accounts.access import Caller
from accounts.models import Customer
from accounts.pages import page_before, with_parameters
from alerts.contexts.log import AlertRow, list_recent
from alerts.contexts.quotas import QuotaRow, list_customer_quotas, list_metric_quotas
from alerts.contexts.thresholds import PAGE_SIZE, ThresholdRow, threshold_rows
from alerts.domain import ThresholdKind, ThresholdOrigin
from alerts.queries import list_thresholds
from alerts.queries.quotas import list_own_quotas
from metering.contexts.words import metric_name
from metering.models import Metric


@dataclass(frozen=True, slots=True)
class MetricAlertsPage:
    metric: Metric
    name: str
    rows: list[ThresholdRow]
    quotas: list[QuotaRow]
    recent: list[AlertRow]
    all_url: str
    new_url: str
    next_url: str
    first_url: str


def get_metric_alerts(request: HttpRequest, caller: Caller, metric: Metric) -> MetricAlertsPage:
    organization = caller.organization
    thresholds = list_thresholds(organization=organization).filter(metric=metric)
    page = page_before(request, thresholds, size=PAGE_SIZE)
    about = {"metric": metric.code}
    return MetricAlertsPage(
        metric=metric,
        name=metric_name(metric),
        rows=threshold_rows(organization, page.rows, None),
        quotas=list_metric_quotas(organization, metric),
        recent=list_recent(organization, metric=metric),
        all_url=with_parameters(reverse("alerts:alert_list", args=[organization.pk]), about),
        new_url=with_parameters(reverse("alerts:new_threshold", args=[organization.pk]), about),
        next_url=page.next_url,
        first_url=page.first_url,
    )


@dataclass(frozen=True, slots=True)
class CustomerAlertsPage:
    customer: Customer
    title: str
    rows: list[ThresholdRow]
    quotas: list[QuotaRow]
    recent: list[AlertRow]
    all_url: str
    new_url: str
    next_url: str
    first_url: str


def get_customer_alerts(request: HttpRequest, caller: Caller, customer: Customer) -> CustomerAlertsPage:
    """The thresholds that watch the customer: its own, and those on each."""
    organization = caller.organization
    thresholds = list_thresholds(organization=organization).filter(Q(customer=customer) | Q(customer__isnull=True))
    # A silence without a customer is about the metric as a whole; a quota's warnings yield to the customer's own quota.
    own = list_own_quotas(organization=organization, customer_ids=[customer.pk])
    thresholds = thresholds.exclude(customer__isnull=True, kind=ThresholdKind.SILENCE).exclude(
        customer__isnull=True, origin=ThresholdOrigin.QUOTA, metric__in=[metric_id for metric_id, _ in own]
    )
    page = page_before(request, thresholds, size=PAGE_SIZE)
    about = {"customer": customer.external_id}
    return CustomerAlertsPage(
        customer=customer,
        title=customer.name or customer.external_id,
        rows=threshold_rows(organization, page.rows, customer),
        quotas=list_customer_quotas(organization, customer),
        recent=list_recent(organization, customer=customer),
        all_url=with_parameters(reverse("alerts:alert_list", args=[organization.pk]), about),
        new_url=with_parameters(reverse("alerts:new_threshold", args=[organization.pk]), about),
        next_url=page.next_url,
        first_url=page.first_url,
    )
