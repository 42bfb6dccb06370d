"""The billing page of a customer: subscriptions, what each costs so far, and what it is heading for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Customer
from billing.contexts.budgets import BudgetBlock, get_budget_block
from billing.contexts.credits import CreditsBlock, get_credits_block
from billing.contexts.preview import StepRow, list_steps
from billing.contexts.profiles import ProfileBlock, get_profile_block
from billing.contexts.spend_days import find_cost_chart
from billing.contexts.words import STATUS_BADGES, filter_texts, price_text
from billing.documents.words import span_text
from billing.domain.currencies import money_text
from billing.domain.periods import BillingPeriod
from billing.forms.credits import GrantForm
from billing.forms.profiles import ProfileForm
from billing.forms.subscriptions import SubscribeForm, plan_choices
from billing.models import Budget, Plan, Subscription, SubscriptionPause, SubscriptionPhase
from billing.queries.budgets import current_currency, find_budgets
from billing.queries.plans import list_current_versions, list_plans
from billing.queries.spend import Spend, SpendLine, get_current_spend
from billing.queries.subscriptions import (
    current_phase,
    list_of_customer,
    list_pauses_of,
    list_phases_of,
    next_phase,
    pause_from,
)
from common.errors import ApplicationError
from metering.charts import Chart

# Each costs a read of usage per metric; more of them are in the API.
MAX_SHOWN = 20
MAX_PLANS = 200


@dataclass(frozen=True, slots=True)
class LineRow:
    label: str
    terms: str
    filters: list[str]
    quantity: Decimal | None
    unit: str
    amount: str
    # Of which part of the period, where prices hold for parts of it; else empty.
    span: str
    # Empty: too early to tell.
    projected: str
    steps: list[StepRow]


@dataclass(frozen=True, slots=True)
class SpendCard:
    period: str
    is_trial: bool
    total: str
    projected: str
    lines: list[LineRow]
    unpriced: list[str]
    data_through: datetime


@dataclass(frozen=True, slots=True)
class SubscriptionCard:
    id: int
    plan: str
    plan_url: str
    version: int
    status: str
    badge: str
    anchor_day: int
    zone: str
    started_at: datetime
    ends_at: datetime | None
    change: str
    # "from …", "until …"; empty: it is not paused.
    pause: str
    # None: it cannot be told; `problem` says why.
    spend: SpendCard | None
    problem: str
    # None: there is nothing to draw, or it has ended.
    chart: Chart | None
    budget: BudgetBlock | None
    cancel_url: str
    change_url: str
    pause_url: str
    resume_url: str
    can_change: bool


@dataclass(frozen=True, slots=True)
class CustomerBillingPage:
    customer: Customer
    title: str
    cards: list[SubscriptionCard]
    is_cut: bool
    form: SubscribeForm | None
    plans: list[tuple[str, str]]
    has_plans: bool
    plans_url: str
    profile: ProfileBlock
    credits: CreditsBlock


def list_offered_plans(caller: Caller) -> list[Plan]:
    """Return the plans that somebody can subscribe to now."""
    plans = list(
        list_plans(organization=caller.organization).filter(archived_at__isnull=True).order_by("code")[:MAX_PLANS]
    )
    current = list_current_versions(plans, organization_id=caller.organization.pk)
    return [plan for plan in plans if plan.pk in current]


def get_customer_billing(
    caller: Caller,
    customer: Customer,
    plans: list[Plan],
    form: SubscribeForm | None,
    profile_form: ProfileForm | None = None,
    grant_form: GrantForm | None = None,
) -> CustomerBillingPage:
    now = timezone.now()
    subscriptions = list_of_customer(organization=caller.organization, customer=customer)
    shown = subscriptions[:MAX_SHOWN]
    phases = list_phases_of(shown, organization=caller.organization)
    pauses = list_pauses_of([subscription.pk for subscription in shown], organization=caller.organization)
    budgets = find_budgets(shown, organization=caller.organization)
    return CustomerBillingPage(
        customer=customer,
        title=customer.name or customer.external_id,
        cards=[
            _card(
                caller,
                subscription,
                phases[subscription.pk],
                pauses.get(subscription.pk, []),
                budgets.get(subscription.pk),
                now,
            )
            for subscription in shown
        ],
        is_cut=len(subscriptions) > MAX_SHOWN,
        form=form if plans else None,
        plans=plan_choices(plans),
        has_plans=bool(plans),
        plans_url=reverse("billing:plan_list", args=[caller.organization.pk]),
        profile=get_profile_block(caller, customer, profile_form),
        credits=get_credits_block(caller, customer, now, grant_form),
    )


def _card(
    caller: Caller,
    subscription: Subscription,
    phases: list[SubscriptionPhase],
    pauses: list[SubscriptionPause],
    budget: Budget | None,
    now: datetime,
) -> SubscriptionCard:
    current, coming = current_phase(phases, subscription, now), next_phase(phases, subscription, now)
    zone, pause = ZoneInfo(subscription.zone), pause_from(pauses, now)
    status, arguments = subscription.status_at(now, pause), [caller.organization.pk, subscription.pk]
    spend, problem = try_spend(subscription, now)
    can_change = caller.has(Scope.BILLING_WRITE) and status != "ended"
    change = ""
    if coming is not None:
        change = (
            f"{coming.version.plan.name} v{coming.version.number} from {coming.starts_at.astimezone(zone):%-d %b %Y}"
        )
    return SubscriptionCard(
        id=subscription.pk,
        plan=current.version.plan.name,
        plan_url=reverse("billing:plan", args=[caller.organization.pk, current.version.plan.code]),
        version=current.version.number,
        status=status,
        badge=STATUS_BADGES[status],
        anchor_day=subscription.anchor_day,
        zone=subscription.zone,
        started_at=subscription.starts_at,
        ends_at=subscription.ends_at,
        change=change,
        pause="" if pause is None else _pause_text(pause, zone, now),
        spend=None if spend is None else spend_card(spend, zone),
        problem=problem,
        chart=None if spend is None or status == "ended" else find_cost_chart(subscription, now),
        budget=get_budget_block(
            subscription,
            budget,
            spend,
            currency=current_currency(subscription, now, phases=phases) if can_change else None,
        ),
        cancel_url=reverse("billing:cancel_subscription", args=arguments),
        change_url=reverse("billing:change_plan", args=arguments),
        pause_url=reverse("billing:pause_subscription", args=arguments),
        resume_url=reverse("billing:resume_subscription", args=arguments),
        can_change=can_change,
    )


def _pause_text(pause: SubscriptionPause, zone: ZoneInfo, now: datetime) -> str:
    end = "" if pause.ends_at is None else f" until {pause.ends_at.astimezone(zone):%-d %b %Y}"
    start = pause.starts_at.astimezone(zone)
    return f"Paused since {start:%-d %b %Y}{end}" if pause.starts_at <= now else f"Pauses on {start:%-d %b %Y}{end}"


def try_spend(subscription: Subscription, now: datetime) -> tuple[Spend | None, str]:
    """One subscription whose usage is no longer kept must not hide the others."""
    try:
        found = get_current_spend(subscription=subscription, now=now)
    except ApplicationError as error:
        return None, error.message
    return found.spend, ""


def spend_card(spend: Spend, zone: ZoneInfo) -> SpendCard:
    projected = spend.projected_total_minor
    return SpendCard(
        period=period_text(spend.period, zone),
        is_trial=spend.period.is_trial,
        total=money_text(spend.total_minor, spend.currency),
        projected="" if projected is None else money_text(projected, spend.currency),
        lines=[_line_row(line, zone, has_span=spend.has_segments) for line in spend.lines],
        unpriced=[rest.metric.name or rest.metric.code for rest in spend.unpriced],
        data_through=spend.complete_through,
    )


def _line_row(line: SpendLine, zone: ZoneInfo, *, has_span: bool) -> LineRow:
    charge, currency = line.charge, line.rated.currency
    return LineRow(
        label=charge.label,
        terms=price_text(charge),
        filters=filter_texts(charge),
        quantity=line.rated.quantity if charge.metric else None,
        unit=charge.metric.unit if charge.metric else "",
        amount=money_text(line.rated.amount_minor, currency),
        span=span_text(line.segment.start, line.segment.end, zone) if has_span else "",
        projected="" if line.projected is None else money_text(line.projected.amount_minor, currency),
        steps=list_steps(line.rated),
    )


def period_text(period: BillingPeriod, zone: ZoneInfo) -> str:
    """Name a period by its first and last day, as its subscription reckons days."""
    first, last = period.start.astimezone(zone), (period.end - timedelta(microseconds=1)).astimezone(zone)
    return f"{first:%-d %b %Y} \u2013 {last:%-d %b %Y}"
