"""Thresholds: their list, one with its standing and its trace, the form, and those of one metric or customer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import Count, Max, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.models import Customer, Organization
from accounts.pages import page_before, text_parameter, with_parameters
from accounts.queries import suggest_customers
from alerts.contexts.log import AlertRow, list_recent, metric_options, read_filters
from alerts.contexts.words import filter_texts, level_text, period_text, share_width
from alerts.domain import ThresholdKind, ThresholdOrigin
from alerts.forms import ThresholdForm
from alerts.models import Crossing, Threshold, ThresholdState
from alerts.queries import list_thresholds
from alerts.queries.trace import Trace, trace_threshold
from common.errors import InvalidInput
from common.numbers import WIDE
from metering.contexts.filters import Option
from metering.contexts.words import metric_name
from metering.queries.periods import usage_zone

PAGE_SIZE = 30
# The customers nearest to a threshold, on its page.
NEAREST_COUNT = 20

KIND_LABELS: dict[str, str] = {
    ThresholdKind.VALUE: "value",
    ThresholdKind.PERCENT: "percent of included",
    ThresholdKind.PROJECTED: "projected",
    ThresholdKind.SILENCE: "silence",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a threshold stands in the current period: of its customer or, counted, of all."""

    label: str
    css_class: str
    note: str = ""
    # The newest alert of the period; 0: none.
    offset: int = 0
    alert_url: str = ""


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    pk: int
    code: str
    url: str
    metric_name: str
    metric_url: str
    # Empty: each customer on its own.
    customer: str
    customer_url: str
    everybody: str
    kind_label: str
    level: str
    filters: list[str]
    is_recurring: bool
    # "metric" or "quota" with the place to change it; empty: a threshold of its own.
    declared_by: str
    declared_url: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class ThresholdListPage:
    rows: list[ThresholdRow]
    customer: str
    customers: list[str]
    metrics: list[Option]
    is_filtered: bool
    has_metrics: bool
    new_url: str
    problems: list[str]
    next_url: str
    first_url: str


def get_threshold_list(request: HttpRequest, caller: Caller) -> ThresholdListPage:
    """A page of the live thresholds, newest first."""
    organization = caller.organization
    wanted = read_filters(request, organization)
    thresholds = list_thresholds(organization=organization)
    if wanted.metric:
        thresholds = thresholds.filter(metric=wanted.metric)
    if wanted.customer:
        thresholds = thresholds.filter(Q(customer=wanted.customer) | Q(customer__isnull=True))
    page = page_before(request, thresholds, size=PAGE_SIZE, parameters=wanted.parameters)
    metrics = metric_options(organization, wanted.metric)
    return ThresholdListPage(
        rows=threshold_rows(organization, page.rows, wanted.customer),
        customer=text_parameter(request, "customer"),
        customers=suggest_customers(organization),
        metrics=metrics,
        is_filtered=bool(wanted.parameters or wanted.problems),
        has_metrics=bool(metrics),
        new_url=with_parameters(reverse("alerts:new_threshold", args=[organization.pk]), wanted.parameters),
        problems=wanted.problems,
        next_url=page.next_url,
        first_url=page.first_url,
    )


# --- where they stand -----------------------------------------------------------------------------------------


def threshold_rows(
    organization: Organization, thresholds: Sequence[Threshold], customer: Customer | None
) -> list[ThresholdRow]:
    """Two queries, however many thresholds. `customer` given: how each stands for that one."""
    now = timezone.now()
    states = _count_states(organization, thresholds, customer, now)
    crossings = _find_newest(organization, thresholds, customer, now)
    return [
        _threshold_row(organization, threshold, customer, states.get(threshold.pk), crossings.get(threshold.pk))
        for threshold in thresholds
    ]


@dataclass(frozen=True, slots=True)
class _Measured:
    """How many customers were measured in the current period, of how many there was nothing to compare with, and for
    how many it fired."""

    count: int
    baseless_count: int
    fired_count: int


@dataclass(frozen=True, slots=True)
class _Newest:
    offset: int
    at: datetime


def _count_states(
    organization: Organization, thresholds: Sequence[Threshold], customer: Customer | None, now: datetime
) -> dict[int, _Measured]:
    states = ThresholdState.objects.for_organization(organization).filter(
        threshold__in=[threshold.pk for threshold in thresholds], period_start__lte=now, period_end__gt=now
    )
    if customer is not None:
        states = states.filter(customer=customer)
    counted = states.values_list("threshold").annotate(
        measured=Count("pk"),
        baseless=Count("pk", filter=Q(level__isnull=True)),
        having_fired=Count("pk", filter=Q(fired__gt=0)),
    )
    return {threshold_id: _Measured(*counts) for threshold_id, *counts in counted.order_by()}


def _find_newest(
    organization: Organization, thresholds: Sequence[Threshold], customer: Customer | None, now: datetime
) -> dict[int, _Newest]:
    """Return each threshold's newest crossing of the current period; for silences the newest of all."""
    silences = [threshold.pk for threshold in thresholds if threshold.kind == ThresholdKind.SILENCE]
    others = [threshold.pk for threshold in thresholds if threshold.kind != ThresholdKind.SILENCE]
    crossings = Crossing.objects.for_organization(organization).filter(
        Q(threshold__in=silences) | Q(threshold__in=others, period_start__lte=now, period_end__gt=now)
    )
    if customer is not None:
        crossings = crossings.filter(Q(customer=customer) | Q(customer__isnull=True))
    newest = crossings.values_list("threshold").annotate(last=Max("offset"), at=Max("triggered_at"))
    return {threshold_id: _Newest(offset, at) for threshold_id, offset, at in newest.order_by()}


def _threshold_row(
    organization: Organization,
    threshold: Threshold,
    customer: Customer | None,
    measured: _Measured | None,
    newest: _Newest | None,
) -> ThresholdRow:
    watched, metric = threshold.customer, threshold.metric
    url = reverse("alerts:threshold", args=[organization.pk, threshold.pk])
    asked = customer or watched
    return ThresholdRow(
        pk=threshold.pk,
        code=threshold.code,
        url=with_parameters(url, {"customer": asked.external_id} if asked else {}),
        metric_name=metric_name(metric),
        metric_url=reverse("alerts:metric_alerts", args=[organization.pk, metric.code]),
        customer=watched.external_id if watched else "",
        customer_url=reverse("alerts:customer_alerts", args=[organization.pk, watched.pk]) if watched else "",
        everybody="all together" if threshold.kind == ThresholdKind.SILENCE else "each customer",
        kind_label=KIND_LABELS[threshold.kind],
        level=level_text(threshold),
        filters=filter_texts(threshold.filters),
        is_recurring=threshold.is_recurring,
        declared_by="" if threshold.origin == ThresholdOrigin.OWN else threshold.get_origin_display().lower(),
        declared_url=_declared_url(organization, threshold),
        standing=_standing(organization, threshold, asked is not None, measured, newest),
    )


def _declared_url(organization: Organization, threshold: Threshold) -> str:
    if threshold.origin == ThresholdOrigin.METRIC:
        return reverse("metering:edit_metric", args=[organization.pk, threshold.metric.code])
    if threshold.origin == ThresholdOrigin.QUOTA:
        return with_parameters(reverse("alerts:quota_list", args=[organization.pk]), {"metric": threshold.metric.code})
    return ""


def _standing(
    organization: Organization,
    threshold: Threshold,
    is_of_one: bool,
    measured: _Measured | None,
    newest: _Newest | None,
) -> Standing:
    offset = newest.offset if newest else 0
    alert_url = reverse("alerts:alert", args=[organization.pk, offset]) if newest else ""
    if threshold.kind == ThresholdKind.SILENCE:
        if newest is None:
            return Standing("armed", "is-success", "not silent so far")
        return Standing("told", "is-warning", "for the last silence", offset, alert_url)
    if threshold.is_due:
        return Standing("new", "is-accent", "looked at within seconds", offset, alert_url)
    if measured is None:
        return Standing("armed", "is-success", "nothing used in this period")
    if measured.baseless_count == measured.count:
        return Standing("nothing to compare", "", "no plan includes the metric")
    if not measured.fired_count:
        return Standing("armed", "is-success", "armed again by a void" if newest else "", offset, alert_url)
    whose = "" if is_of_one else f"for {measured.fired_count} of {measured.count} customers"
    return Standing("fired", "is-warning", whose, offset, alert_url)


# --- one threshold --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NearRow:
    """A customer, and how far it is on the way to the threshold, as the last evaluation saw it."""

    customer: str
    url: str
    value: Decimal
    level: Decimal | None
    share: str
    # How often; more than once only where it recurs.
    fired: int
    is_full: bool
    evaluated_at: datetime


@dataclass(frozen=True, slots=True)
class TraceAnswer:
    """Why the threshold fired, or did not, for one customer in its current period."""

    trace: Trace
    customer: str
    badge: str
    badge_class: str
    period: str
    is_silence: bool
    next_level: Decimal | None
    share: str


@dataclass(frozen=True, slots=True)
class ThresholdPage:
    threshold: Threshold
    row: ThresholdRow
    nearest: list[NearRow]
    # Whether a customer has to be named to ask.
    asks_customer: bool
    customer: str
    customers: list[str]
    answer: TraceAnswer | None
    problem: str
    recent: list[AlertRow]
    all_url: str


# (label, class) of `Trace.outcome`.
OUTCOMES: dict[str, tuple[str, str]] = {
    "fired": ("fired", "is-warning"),
    "below": ("not reached", "is-success"),
    "waiting": ("about to fire", "is-accent"),
    "silent": ("silent", "is-warning"),
    "sending": ("sending", "is-success"),
    "no_included_quantity": ("nothing to compare", ""),
    "too_early_to_project": ("too early", ""),
    "overruled": ("overruled", ""),
}


def get_threshold_page(request: HttpRequest, caller: Caller, threshold: Threshold) -> ThresholdPage:
    organization = caller.organization
    external_id = text_parameter(request, "customer")
    customer, problem = _find_customer(organization, threshold, external_id)
    asks_customer = threshold.customer_id is None and threshold.kind != ThresholdKind.SILENCE
    answer = None
    if not problem and not (asks_customer and customer is None):
        answer, problem = _answer(organization, threshold, customer if asks_customer else None)
    [row] = threshold_rows(organization, [threshold], None)
    return ThresholdPage(
        threshold=threshold,
        row=row,
        nearest=_nearest_rows(organization, threshold) if asks_customer else [],
        asks_customer=asks_customer,
        customer=external_id,
        customers=suggest_customers(organization) if asks_customer else [],
        answer=answer,
        problem=problem,
        recent=list_recent(organization, threshold=threshold),
        all_url=with_parameters(reverse("alerts:alert_list", args=[organization.pk]), {"threshold": threshold.pk}),
    )


def _find_customer(organization: Organization, threshold: Threshold, external_id: str) -> tuple[Customer | None, str]:
    if not external_id:
        return None, ""
    customer = Customer.objects.for_organization(organization).filter(external_id=external_id).first()
    if customer is None:
        return None, f"There is no customer “{external_id}”."
    if threshold.customer is not None and threshold.customer_id != customer.pk:
        return None, f"The threshold watches {threshold.customer.external_id} alone, so it says nothing about this one."
    return customer, ""


def _answer(
    organization: Organization, threshold: Threshold, customer: Customer | None
) -> tuple[TraceAnswer | None, str]:
    try:
        trace = trace_threshold(threshold=threshold, customer=customer, now=timezone.now())
    except InvalidInput as error:
        return None, error.message
    label, css_class = OUTCOMES.get(trace.outcome, (trace.outcome, ""))
    is_silence = threshold.kind == ThresholdKind.SILENCE
    next_level = _next_level(threshold, trace.level, trace.state.fired if trace.state else 0)
    zone = usage_zone(organization=organization, customer=trace.customer)
    return (
        TraceAnswer(
            trace=trace,
            customer=trace.customer.external_id if trace.customer else "",
            badge=label,
            badge_class=css_class,
            period=f"{trace.period.start.astimezone(zone):%-d %b %Y, %H:%M}"
            if is_silence
            else period_text(trace.period.start, trace.period.end, zone),
            is_silence=is_silence,
            next_level=next_level,
            share=share_width(trace.value, next_level) if trace.value is not None and next_level else "",
        ),
        "",
    )


def _next_level(threshold: Threshold, level: Decimal | None, fired: int) -> Decimal | None:
    """Return the value at which it fires next; where it has fired and does not recur, where it did."""
    if level is None:
        return None
    return WIDE.multiply(level, Decimal(fired + 1)) if threshold.is_recurring else level


def _nearest_rows(organization: Organization, threshold: Threshold) -> list[NearRow]:
    now = timezone.now()
    url = reverse("alerts:threshold", args=[organization.pk, threshold.pk])
    states = ThresholdState.objects.for_organization(organization).filter(
        threshold=threshold, period_start__lte=now, period_end__gt=now
    )
    customers = states.select_related("customer").order_by("-value", "customer__external_id")
    return [
        NearRow(
            customer=customer.external_id,
            url=f"{with_parameters(url, {'customer': customer.external_id})}#why",
            value=state.value,
            level=state.level,
            share=share_width(state.value, next_level) if next_level else "",
            fired=state.fired,
            is_full=next_level is not None and state.value >= next_level,
            evaluated_at=state.evaluated_at,
        )
        for state in customers[:NEAREST_COUNT]
        if (customer := state.customer) is not None
        for next_level in [_next_level(threshold, state.level, state.fired)]
    ]


# --- the form -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ThresholdFormPage:
    title: str
    submit_label: str
    cancel_url: str
    form: ThresholdForm
    customers: list[str]
    # None: a new one.
    threshold: Threshold | None = None
    whose: str = ""


def get_threshold_form_page(
    request: HttpRequest, caller: Caller, form: ThresholdForm, threshold: Threshold | None = None
) -> ThresholdFormPage:
    organization = caller.organization
    if threshold is None:
        return ThresholdFormPage(
            title="New threshold",
            submit_label="Create threshold",
            cancel_url=reverse("alerts:threshold_list", args=[organization.pk]),
            form=form,
            customers=suggest_customers(organization),
        )
    customer = threshold.customer.external_id if threshold.customer else "each customer"
    return ThresholdFormPage(
        title=f"Edit {threshold.code}",
        submit_label="Save",
        cancel_url=reverse("alerts:threshold", args=[organization.pk, threshold.pk]),
        form=form,
        customers=[],
        threshold=threshold,
        whose=f"{metric_name(threshold.metric)}, {customer}",
    )
