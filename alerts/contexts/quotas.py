"""Quotas: their list with what is used of them, one with its customers, and the form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.models import Customer, Organization
from accounts.pages import page_before, text_parameter, with_parameters
from accounts.queries import suggest_customers
from alerts.contexts.log import metric_options, read_filters
from alerts.contexts.words import period_text, share_width, with_unit
from alerts.domain import QuotaMode, judge_quota
from alerts.forms import QuotaForm
from alerts.models import Quota
from alerts.queries.quotas import list_own_quotas, list_quotas, read_standing
from common.errors import InvalidInput
from metering.contexts.filters import Option
from metering.contexts.instant import one_instant
from metering.contexts.words import metric_name
from metering.models import Metric
from metering.queries import current_period, list_breakdown
from metering.queries.periods import usage_zone

# A row of one customer costs a read of its usage, so a page has few rows and its cost an upper limit.
PAGE_SIZE = 15
# The customers that use most of a quota, on its page.
GREATEST_COUNT = 20

MODE_LABELS: dict[str, str] = {QuotaMode.HARD: "hard", QuotaMode.SOFT: "soft", QuotaMode.WARN: "warns only"}
LEVEL_CLASSES = {"ok": "is-success", "warning": "is-warning", "grace": "is-warning", "exceeded": "is-danger"}


@dataclass(frozen=True, slots=True)
class Use:
    """What one customer uses of a quota, open reservations included. Without a limit nothing is full."""

    used: Decimal
    level: str
    level_class: str
    share: str
    is_over: bool


@dataclass(frozen=True, slots=True)
class QuotaRow:
    pk: int
    url: str
    metric_name: str
    metric_url: str
    # Empty: every customer without a quota of its own.
    customer: str
    customer_url: str
    limit: str
    mode: str
    grace: str
    warnings: str
    # None: about many customers; the quota's page has them.
    use: Use | None


@dataclass(frozen=True, slots=True)
class QuotaListPage:
    rows: list[QuotaRow]
    customer: str
    customers: list[str]
    metrics: list[Option]
    is_filtered: bool
    has_metrics: bool
    new_url: str
    problems: list[str]
    data_through: datetime
    next_url: str
    first_url: str


def get_quota_list(request: HttpRequest, caller: Caller) -> QuotaListPage:
    """A page of quotas, newest first."""
    now = timezone.now()
    organization = caller.organization
    wanted = read_filters(request, organization)
    quotas = list_quotas(organization=organization)
    if wanted.metric:
        quotas = quotas.filter(metric=wanted.metric)
    if wanted.customer:
        quotas = quotas.filter(Q(customer=wanted.customer) | Q(customer__isnull=True))
    parameters = wanted.parameters
    page = page_before(request, quotas, size=PAGE_SIZE, parameters=parameters)
    metrics = metric_options(organization, wanted.metric)
    with one_instant():
        rows = [_quota_row(organization, quota, quota.customer, now) for quota in page.rows]
    return QuotaListPage(
        rows=rows,
        customer=text_parameter(request, "customer"),
        customers=suggest_customers(organization),
        metrics=metrics,
        is_filtered=bool(parameters or wanted.problems),
        has_metrics=bool(metrics),
        new_url=with_parameters(reverse("alerts:new_quota", args=[organization.pk]), parameters),
        problems=wanted.problems,
        data_through=now,
        next_url=page.next_url,
        first_url=page.first_url,
    )


def list_customer_quotas(organization: Organization, customer: Customer) -> list[QuotaRow]:
    """Return the quotas that hold for a customer, each with what it uses: its own before the metrics'."""
    now = timezone.now()
    quotas = list_quotas(organization=organization).filter(Q(customer=customer) | Q(customer__isnull=True))
    own = list_own_quotas(organization=organization, customer_ids=[customer.pk])
    overruled = Q(customer__isnull=True, metric__in=[metric_id for metric_id, _ in own])
    applying = quotas.filter(metric__archived_at__isnull=True).exclude(overruled).order_by("metric__code")
    with one_instant():
        return [_quota_row(organization, quota, customer, now) for quota in applying[:PAGE_SIZE]]


def list_metric_quotas(organization: Organization, metric: Metric) -> list[QuotaRow]:
    """Return the metric's newest quotas; that of every customer first."""
    now = timezone.now()
    quotas = list_quotas(organization=organization).filter(metric=metric)
    first = quotas.filter(customer__isnull=True)
    with one_instant():
        own = quotas.filter(customer__isnull=False).order_by("-pk")[: PAGE_SIZE - 1]
        return [_quota_row(organization, quota, quota.customer, now) for quota in [*first, *own]]


def _quota_row(organization: Organization, quota: Quota, customer: Customer | None, now: datetime) -> QuotaRow:
    own, metric = quota.customer, quota.metric
    return QuotaRow(
        pk=quota.pk,
        url=reverse("alerts:quota", args=[organization.pk, quota.pk]),
        metric_name=metric_name(metric),
        metric_url=reverse("alerts:metric_alerts", args=[organization.pk, metric.code]),
        customer=own.external_id if own else "",
        customer_url=reverse("alerts:customer_alerts", args=[organization.pk, own.pk]) if own else "",
        limit="unlimited" if quota.limit is None else with_unit(quota.limit, metric),
        mode=MODE_LABELS[quota.mode],
        grace=with_unit(quota.grace, metric) if quota.grace else "",
        # Percentages of nothing are never told.
        warnings=", ".join(f"{percent}\u202f%" for percent in quota.warning_percents) if quota.limit else "",
        use=_read_use(organization, quota, customer, now) if customer else None,
    )


def _read_use(organization: Organization, quota: Quota, customer: Customer, now: datetime) -> Use | None:
    try:
        standing = read_standing(organization=organization, metric=quota.metric, customer=customer, now=now)
    except InvalidInput:
        return None  # a period that cuts an hour whose raw events are gone
    return _use(quota, standing.used)


def _use(quota: Quota, used: Decimal) -> Use:
    verdict = judge_quota(
        mode=QuotaMode(quota.mode),
        limit=quota.limit,
        grace=quota.grace,
        warning_percents=quota.warning_percents,
        used=used,
        after=used,
    )
    return Use(
        used=used,
        level=verdict.level,
        level_class=LEVEL_CLASSES.get(verdict.level, ""),
        share="" if quota.limit is None else share_width(used, quota.limit),
        is_over=verdict.level in {"grace", "exceeded"},
    )


# --- one quota ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CustomerUse:
    customer: str
    url: str
    use: Use


@dataclass(frozen=True, slots=True)
class QuotaPage:
    row: QuotaRow
    title: str
    unit: str
    period: str
    # Those that use most; empty for a customer's own quota.
    greatest: list[CustomerUse]
    problem: str
    data_through: datetime


def get_quota_page(caller: Caller, quota: Quota) -> QuotaPage:
    now = timezone.now()
    organization = caller.organization
    period = current_period(metric=quota.metric, organization=organization, customer=quota.customer, at=now)
    zone = usage_zone(organization=organization, customer=quota.customer)
    problem, greatest = "", []
    with one_instant():
        row = _quota_row(organization, quota, quota.customer, now)
        if quota.customer is None:
            try:
                greatest = _greatest_uses(organization, quota, now)
            except InvalidInput as error:
                problem = error.message
    return QuotaPage(
        row=row,
        title=f"Quota of {row.metric_name}",
        unit=quota.metric.unit,
        period=period_text(period.start, period.end, zone),
        greatest=greatest,
        problem=problem,
        data_through=now,
    )


def _greatest_uses(organization: Organization, quota: Quota, now: datetime) -> list[CustomerUse]:
    """Return the customers under this quota that use most, in the organization's period: one read for all."""
    period = current_period(metric=quota.metric, organization=organization, customer=None, at=now)
    rows = list_breakdown(
        organization=organization, metric=quota.metric, start=period.start, end=period.end, group_by=("customer",)
    )
    by_id = _customers_of(organization, [row.group["customer"] or "" for row in rows[: GREATEST_COUNT * 2]])
    own = list_own_quotas(organization=organization, customer_ids=[customer.pk for customer in by_id.values()])
    overruled = {customer_id for metric_id, customer_id in own if metric_id == quota.metric_id}
    uses = [
        (customer, row.usage.value)
        for row in rows
        if (customer := by_id.get(row.group["customer"] or "")) is not None and customer.pk not in overruled
    ]
    return [
        CustomerUse(
            customer=customer.external_id,
            url=reverse("alerts:customer_alerts", args=[organization.pk, customer.pk]),
            use=_use(quota, used),
        )
        for customer, used in uses[:GREATEST_COUNT]
    ]


def _customers_of(organization: Organization, external_ids: Sequence[str]) -> dict[str, Customer]:
    customers = Customer.objects.for_organization(organization).filter(external_id__in=external_ids)
    return {customer.external_id: customer for customer in customers}


# --- the form -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QuotaFormPage:
    title: str
    submit_label: str
    cancel_url: str
    form: QuotaForm
    customers: list[str]
    # None: a new one.
    quota: Quota | None = None
    whose: str = ""


def get_quota_form_page(caller: Caller, form: QuotaForm, quota: Quota | None = None) -> QuotaFormPage:
    organization = caller.organization
    if quota is None:
        return QuotaFormPage(
            title="New quota",
            submit_label="Create quota",
            cancel_url=reverse("alerts:quota_list", args=[organization.pk]),
            form=form,
            customers=suggest_customers(organization),
        )
    whose = quota.customer.external_id if quota.customer else "every customer without its own"
    return QuotaFormPage(
        title=f"Edit the quota of {metric_name(quota.metric)}",
        submit_label="Save",
        cancel_url=reverse("alerts:quota", args=[organization.pk, quota.pk]),
        form=form,
        customers=[],
        quota=quota,
        whose=whose,
    )
