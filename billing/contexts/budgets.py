"""A subscription's budget on a page: a bar of what is spent with the levels on it, and the form that sets it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.urls import reverse

from billing.domain.currencies import money_text
from billing.forms.budgets import BudgetForm
from billing.models import Budget, Subscription
from billing.queries.budgets import BudgetStanding, get_standing
from billing.queries.spend import Spend
from common.numbers import exact_text, readable_text

WHOLE = Decimal(100)


@dataclass(frozen=True, slots=True)
class LevelMark:
    """One level. `place` is where it stands on the bar: `80.00%`."""

    percent: int
    place: str
    # None: not in this period.
    told_at: datetime | None


@dataclass(frozen=True, slots=True)
class BudgetBar:
    """The bar reaches to the budget, or to what lies beyond it: a higher level, the spend. Shares are of the bar."""

    spend: str
    amount: str
    # Empty: the two are not comparable, and there is no bar.
    percent: str
    fill: str
    is_over: bool
    levels: list[LevelMark]
    email: str


@dataclass(frozen=True, slots=True)
class BudgetBlock:
    id: int
    # None: no budget is set, or what is spent cannot be told.
    bar: BudgetBar | None
    is_set: bool
    # None: whoever looks may not change it.
    form: BudgetForm | None
    set_url: str
    remove_url: str


def get_budget_block(
    subscription: Subscription, budget: Budget | None, spend: Spend | None, *, currency: str | None
) -> BudgetBlock | None:
    """Return what the page shows of the budget; None: nothing, for there is none and nobody here may set one.

    `currency` is what a budget would be set in; None: whoever looks may not set one.
    """
    if budget is None and currency is None:
        return None
    arguments = [subscription.organization_id, subscription.pk]
    return BudgetBlock(
        id=subscription.pk,
        bar=None if budget is None or spend is None else budget_bar(get_standing(budget=budget, spend=spend)),
        is_set=budget is not None,
        form=None if currency is None else BudgetForm(currency=currency, budget=budget),
        set_url=reverse("billing:set_budget", args=arguments),
        remove_url=reverse("billing:remove_budget", args=arguments),
    )


def budget_bar(standing: BudgetStanding) -> BudgetBar:
    budget, percent = standing.budget, standing.percent
    used = max(Decimal(0), percent or Decimal(0))
    reach = max(WHOLE, used, Decimal(max(budget.levels)))
    told = {crossing.level: crossing.crossed_at for crossing in standing.crossings}
    return BudgetBar(
        spend=money_text(standing.spend_minor, standing.spend_currency),
        amount=money_text(budget.amount_minor, budget.currency),
        percent="" if percent is None else readable_text(percent),
        fill=_share(used, reach),
        is_over=used >= WHOLE,
        levels=[LevelMark(level, _share(Decimal(level), reach), told.get(level)) for level in budget.levels],
        email=budget.email,
    )


def _share(percent: Decimal, reach: Decimal) -> str:
    return exact_text((percent * 100 / reach).quantize(Decimal("0.01"))) + "%"
