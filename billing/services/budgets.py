"""Budgets: set, removed, and evaluated: each level is told once per billing period. A budget stops nothing.

Owns when a level counts as crossed. Does not own what is spent (`billing.queries.spend`), nor the mails
(`billing.services.budget_mails`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import structlog
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from accounts.models import Organization
from accounts.services import record_audit
from billing.domain.budgets import MAX_LEVEL, MAX_LEVELS, reached_levels
from billing.domain.currencies import MAX_MINOR
from billing.domain.notices import NoticeType
from billing.domain.periods import BillingPeriod, period_at
from billing.models import Budget, BudgetCrossing, Subscription
from billing.models.watching import default_levels
from billing.queries.budgets import current_currency, list_budgets_to_evaluate, list_told_levels
from billing.queries.spend import RatedPeriod, rate_terms
from billing.queries.subscriptions import nearest_period
from billing.queries.terms import list_period_terms
from billing.services.notices import NewNotice, write_notices
from billing.services.subscriptions import SubscriptionEnded
from common.errors import ApplicationError, InvalidInput, NotFound
from common.moments import rfc3339

# Well inside a BIGINT, and above what any currency's budget comes to.
MAX_AMOUNT_MINOR = 10**15
MAX_EMAIL_CHARACTERS = 254
# A run stops beginning evaluations after this, and the next one goes on where it stopped.
RUN_SECONDS = 40.0
MAX_BUDGETS_PER_RUN = 10_000
# Read together.
CHUNK = 200
# Longer than the longest period: what was told of the current one and of the one before is found.
TWO_PERIODS = timedelta(days=3_660)

logger = structlog.get_logger(__name__)


# --- setting --------------------------------------------------------------------------------------------------


@transaction.atomic
def set_budget(
    *,
    subscription: Subscription,
    amount_minor: int,
    levels: Sequence[int] | None = None,
    email: str = "",
    actor: str,
    now: datetime,
) -> Budget:
    """Give the subscription a budget in the currency of its plan, or change the one it has. Idempotent.

    Another amount, or currency, is another question: levels of the current period that were told are told again once
    they are reached. Raises `InvalidInput`, and `SubscriptionEnded`.
    """
    levels = default_levels() if levels is None else list(levels)
    _require_valid(amount_minor, levels, email)
    locked = _lock(subscription)
    if locked.status_at(now) == "ended":
        raise SubscriptionEnded("The subscription has ended; a budget would watch nothing.")
    wanted = {
        "amount_minor": amount_minor,
        "currency": current_currency(locked, now),
        "levels": levels,
        "email": email,
    }
    budget = _lock_budget(locked)
    if budget is None:
        budget = Budget.objects.create(
            organization_id=locked.organization_id,
            subscription=locked,
            customer_id=locked.customer_id,
            created_at=now,
            **wanted,
        )
        _record(locked, "budget.set", actor, _without_address(wanted))
    else:
        _change(budget, wanted, locked, actor, now)
    return budget


@transaction.atomic
def remove_budget(*, subscription: Subscription, actor: str) -> None:
    """Delete the budget with what was told of it. Raises `NotFound` where there is none."""
    locked = _lock(subscription)
    budget = _lock_budget(locked)
    if budget is None:
        raise NotFound("This subscription has no budget.")
    budget.delete()
    _record(locked, "budget.removed", actor, {})


def _change(budget: Budget, wanted: Mapping[str, Any], subscription: Subscription, actor: str, now: datetime) -> None:
    changes = {
        name: {"from": getattr(budget, name), "to": value}
        for name, value in wanted.items()
        if getattr(budget, name) != value
    }
    if not changes:
        return
    for name in changes:
        setattr(budget, name, wanted[name])
    if changes.keys() & {"amount_minor", "currency"}:
        period = nearest_period(subscription, now)
        BudgetCrossing.objects.for_organization(budget.organization_id).filter(
            budget=budget, period_start=period.start
        ).delete()
    budget.evaluated_at = None
    budget.save(update_fields=[*changes, "evaluated_at"])
    _record(subscription, "budget.changed", actor, _without_address(changes))


def _require_valid(amount_minor: int, levels: Sequence[int], email: str) -> None:
    if not 1 <= amount_minor <= MAX_AMOUNT_MINOR:
        raise InvalidInput.of("amount_minor", f"A whole number from 1 to {MAX_AMOUNT_MINOR}.", "out_of_range")
    if not 1 <= len(levels) <= MAX_LEVELS:
        raise InvalidInput.of("levels", f"Give 1 to {MAX_LEVELS} levels.", "invalid_length")
    if not all(1 <= level <= MAX_LEVEL for level in levels):
        raise InvalidInput.of("levels", f"Each a percentage from 1 to {MAX_LEVEL}.", "out_of_range")
    if not all(lower < higher for lower, higher in pairwise(levels)):
        raise InvalidInput.of("levels", "Give them ascending, each once.", "not_ascending")
    if email:
        _require_address(email)


def _require_address(email: str) -> None:
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidInput.of("email", "Give one e-mail address.", "invalid") from None
    if len(email) > MAX_EMAIL_CHARACTERS:
        raise InvalidInput.of("email", f"At most {MAX_EMAIL_CHARACTERS} characters.", "too_long")


def _lock(subscription: Subscription) -> Subscription:
    rows = Subscription.objects.for_organization(subscription.organization_id)
    locked: Subscription = (
        rows.select_related("organization", "customer")
        .select_for_update(of=("self",), no_key=True)
        .get(pk=subscription.pk)
    )
    return locked


def _lock_budget(subscription: Subscription) -> Budget | None:
    """Return the budget with its row locked: who is writing crossings of it has finished."""
    budgets = Budget.objects.for_organization(subscription.organization_id).select_for_update()
    found: Budget | None = budgets.filter(subscription=subscription).first()
    return found


def _without_address(details: Mapping[str, Any]) -> dict[str, Any]:
    """The log says that somebody else is written to, not who."""
    return {name: value for name, value in details.items() if name != "email"}


def _record(subscription: Subscription, action: str, actor: str, details: dict[str, Any]) -> None:
    record_audit(
        organization=subscription.organization,
        actor=actor,
        action=action,
        target=f"{subscription.pk} of {subscription.customer.external_id}"[:320],
        details=details,
    )


# --- evaluation -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class EvaluatedBudgets:
    """What one run did."""

    budgets: int = 0
    crossings: int = 0
    # There was no time for all; the next run begins with the others.
    is_unfinished: bool = False


def evaluate_budgets(*, organization: Organization, now: datetime, seconds: float = RUN_SECONDS) -> EvaluatedBudgets:
    """Compare the budgets with what is spent, and tell each level that was reached since. Safe twice and at once.

    Cost: the reads of `rate_terms` for each chunk of budgets; nothing for those all of whose levels were told.
    """
    deadline = time.monotonic() + seconds
    evaluated = EvaluatedBudgets()
    budgets = list_budgets_to_evaluate(organization=organization, now=now, limit=MAX_BUDGETS_PER_RUN)
    told = list_told_levels(budgets, organization=organization, since=now - TWO_PERIODS)
    begun: list[int] = []
    try:
        while len(begun) < len(budgets) and time.monotonic() < deadline:
            chunk = budgets[len(begun) : len(begun) + CHUNK]
            # Also those whose evaluation fails go to the end of the queue.
            begun += [budget.pk for budget in chunk]
            looks = [look for budget in chunk for look in _list_looks(budget, told, now)]
            for look, rated in zip(looks, _rate(looks, organization), strict=True):
                evaluated.crossings += 0 if rated is None else _judge(look, rated, now)
    finally:
        Budget.objects.for_organization(organization).filter(pk__in=begun).update(evaluated_at=now)
    evaluated.budgets = len(begun)
    evaluated.is_unfinished = len(begun) < len(budgets) or len(budgets) == MAX_BUDGETS_PER_RUN
    return evaluated


@dataclass(frozen=True, slots=True)
class _Look:
    """A budget and a period to compare it with, where something is left to tell."""

    budget: Budget
    period: BillingPeriod
    untold: list[int]


def _list_looks(budget: Budget, told: Mapping[tuple[int, datetime], set[int]], now: datetime) -> Iterator[_Look]:
    for period in _list_periods(budget, now):
        untold = sorted(set(budget.levels) - told.get((budget.pk, period.start), set()))
        if untold:
            yield _Look(budget, period, untold)


def _list_periods(budget: Budget, now: datetime) -> Iterator[BillingPeriod]:
    """Yield the current period and, where it began or the last one ended since the last look, the one before.

    So what was spent between the last look and that end is told too.
    """
    cycle = budget.subscription.cycle
    current = period_at(cycle, now)
    turned_at = cycle.ends_at if current is None else current.start
    if turned_at is not None and budget.evaluated_at is not None and budget.evaluated_at < turned_at:
        before = period_at(cycle, turned_at - turned_at.resolution)
        if before is not None:
            yield before
    if current is not None:
        yield current


def _rate(looks: Sequence[_Look], organization: Organization) -> list[RatedPeriod | None]:
    """Return what each period comes to, in order; None where that cannot be told, its usage being no longer kept, say.

    What one of them lacks does not hide the others: then they are read one by one.
    """
    placed = [(look.budget.subscription, look.period) for look in looks]
    try:
        return [*rate_terms(list_period_terms(placed, organization=organization), organization=organization)]
    except ApplicationError as error:
        if len(looks) > 1:
            return [rated for look in looks for rated in _rate([look], organization)]
        logger.warning("budget not evaluated", budget=looks[0].budget.pk, reason=error.message)
        return [None]


def _judge(look: _Look, rated: RatedPeriod, now: datetime) -> int:
    """Tell what is reached; return how many levels."""
    budget = look.budget
    if rated.terms.currency != budget.currency:
        return 0
    reached = reached_levels(rated.total_minor, budget_minor=budget.amount_minor, levels=look.untold)
    return _tell(budget, rated, reached, now) if reached else 0


@transaction.atomic
def _tell(budget: Budget, rated: RatedPeriod, levels: Sequence[int], now: datetime) -> int:
    """Write the crossings that nobody has written yet, each with its notice; return how many.

    The budget is locked, so of several at once each sees what the one before wrote; and nothing is told of a budget
    that was changed or removed while its spend was read.
    """
    budgets = Budget.objects.for_organization(budget.organization_id).select_for_update(no_key=True)
    unchanged = {"amount_minor": budget.amount_minor, "currency": budget.currency, "levels": budget.levels}
    if budgets.filter(pk=budget.pk, **unchanged).first() is None:
        return 0
    written = BudgetCrossing.objects.for_organization(budget.organization_id).filter(
        budget=budget, period_start=rated.terms.period.start
    )
    known = set(written.values_list("level", flat=True))
    crossings = [
        BudgetCrossing(
            organization_id=budget.organization_id,
            budget=budget,
            period_start=rated.terms.period.start,
            level=level,
            # What is beyond all amounts is told as the largest.
            spend_minor=min(rated.total_minor, MAX_MINOR),
            budget_minor=budget.amount_minor,
            crossed_at=now,
            mail_due_at=now,
        )
        for level in levels
        if level not in known
    ]
    BudgetCrossing.objects.bulk_create(crossings)
    write_notices([_notice(budget, rated.terms.period, crossing) for crossing in crossings])
    return len(crossings)


def _notice(budget: Budget, period: BillingPeriod, crossing: BudgetCrossing) -> NewNotice:
    return NewNotice(
        organization_id=budget.organization_id,
        type=NoticeType.BUDGET_CROSSED,
        payload={
            "subscription": str(budget.subscription_id),
            "customer": budget.subscription.customer.external_id,
            "level": crossing.level,
            "budget_minor": str(crossing.budget_minor),
            "spend_minor": str(crossing.spend_minor),
            "currency": budget.currency,
            "period": {"start": rfc3339(period.start), "end": rfc3339(period.end)},
            "crossed_at": rfc3339(crossing.crossed_at),
        },
        at=crossing.crossed_at,
    )
