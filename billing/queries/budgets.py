"""Reads of budgets: whose there are, which wait to be evaluated, and how one stands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import F, Q

from accounts.models import Organization
from billing.domain.budgets import percent_used
from billing.domain.periods import BillingPeriod
from billing.models import Budget, BudgetCrossing, Subscription, SubscriptionPhase
from billing.queries.spend import Spend
from billing.queries.subscriptions import current_phase, list_phases
from common.errors import NotFound


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """A budget against what the current period costs so far. `crossings` are the period's, by level."""

    budget: Budget
    period: BillingPeriod
    spend_minor: int
    spend_currency: str
    crossings: list[BudgetCrossing]

    @property
    def is_comparable(self) -> bool:
        """Tell whether both are in one currency; a plan in another one leaves the budget without a meaning."""
        return self.spend_currency == self.budget.currency

    @property
    def percent(self) -> Decimal | None:
        if not self.is_comparable:
            return None
        return percent_used(self.spend_minor, budget_minor=self.budget.amount_minor)


def find_budget(*, subscription: Subscription) -> Budget | None:
    return find_budgets([subscription], organization=subscription.organization_id).get(subscription.pk)


def get_budget(*, subscription: Subscription) -> Budget:
    """Return the subscription's budget. Raises `NotFound`."""
    found = find_budget(subscription=subscription)
    if found is None:
        raise NotFound("This subscription has no budget.")
    return found


def find_budgets(subscriptions: Collection[Subscription], *, organization: Organization | int) -> dict[int, Budget]:
    """Return the budgets by their subscription's id. One query."""
    budgets = Budget.objects.for_organization(organization).filter(subscription__in=subscriptions)
    return {budget.subscription_id: budget for budget in budgets}


def get_standing(*, budget: Budget, spend: Spend) -> BudgetStanding:
    """Compare a budget with its subscription's current spend."""
    crossings = BudgetCrossing.objects.for_organization(budget.organization_id).filter(
        budget=budget, period_start=spend.period.start
    )
    return BudgetStanding(budget, spend.period, spend.total_minor, spend.currency, list(crossings.order_by("level")))


def current_currency(
    subscription: Subscription, now: datetime, *, phases: Sequence[SubscriptionPhase] | None = None
) -> str:
    """Return the currency of the plan version that holds now; of a subscription that is to come, the first one's.

    `phases` are the subscription's, where they have been read already.
    """
    phases = list_phases(subscription) if phases is None else phases
    currency: str = current_phase(phases, subscription, now).version.currency
    return currency


# --- evaluation -----------------------------------------------------------------------------------------------


def list_organizations_with_budgets() -> list[int]:
    return list(Budget.objects.all_tenants().order_by().values_list("organization_id", flat=True).distinct())


def list_budgets_to_evaluate(*, organization: Organization, now: datetime, limit: int) -> list[Budget]:
    """Return budgets of subscriptions that run, or have ended since they were last looked at.

    Those that wait longest come first, so that a bounded run leaves out nobody for good.
    """
    is_running = Q(subscription__ends_at__isnull=True) | Q(subscription__ends_at__gt=now)
    # One that was ended before it began has no period.
    is_to_close = Q(evaluated_at__lt=F("subscription__ends_at")) & Q(
        subscription__ends_at__gt=F("subscription__starts_at")
    )
    budgets = Budget.objects.for_organization(organization).filter(
        is_running | is_to_close, subscription__starts_at__lte=now
    )
    return list(
        budgets.select_related("subscription__customer", "subscription__organization").order_by(
            F("evaluated_at").asc(nulls_first=True), "pk"
        )[:limit]
    )


def list_told_levels(
    budgets: Sequence[Budget], *, organization: Organization, since: datetime
) -> dict[tuple[int, datetime], set[int]]:
    """Return the levels that were told, by budget and period, of the periods that began since then. One query."""
    rows = BudgetCrossing.objects.for_organization(organization).filter(budget__in=budgets, period_start__gte=since)
    told: dict[tuple[int, datetime], set[int]] = defaultdict(set)
    for budget_id, period_start, level in rows.values_list("budget_id", "period_start", "level"):
        told[budget_id, period_start].add(level)
    return told


def list_crossings_to_mail(*, now: datetime, limit: int) -> list[BudgetCrossing]:
    """Return crossings of all organizations whose mail is due and that nobody is at, the longest waiting first."""
    crossings = BudgetCrossing.objects.all_tenants().filter(mail_due_at__lte=now)
    return list(crossings.order_by("mail_due_at", "pk")[:limit])
