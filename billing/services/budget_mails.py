"""Mails of budgets: what one evaluation told of a budget is one mail, sent once, and again while no server takes it.

A crossing says by itself when its mail is due. Whoever sends it moves that time to the end of a lease first, so that
one worker sends and a killed one is followed by another; the same message then has the same Message-ID.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.db import transaction

from billing.domain.budgets import percent_used
from billing.domain.currencies import money_text
from billing.models import BillingProfile, Budget, BudgetCrossing
from billing.queries.budgets import list_crossings_to_mail
from billing.queries.subscriptions import nearest_period
from common.mail import MailRun, render_texts
from common.numbers import exact_text

# Longer than a mail server may take for one mail.
LEASE = timedelta(minutes=2)
PUT_OFF = timedelta(minutes=10)
# What nobody took for so long is not worth reading any more.
LIFETIME = timedelta(days=1)
RUN_SECONDS = 40.0
MAX_CROSSINGS_PER_RUN = 1_000

logger = structlog.get_logger("meterbook.mail")


@dataclass(frozen=True, slots=True)
class _Claim:
    """The crossings of one budget and period whose mail is ours to send until the lease ends."""

    budget: Budget
    crossings: list[BudgetCrossing]
    leased_until: datetime

    @property
    def last(self) -> BudgetCrossing:
        return max(self.crossings, key=lambda crossing: crossing.level)

    def settle(self, **changes: Any) -> None:
        """Write down what came of it, as long as the lease is ours."""
        rows = BudgetCrossing.objects.for_organization(self.budget.organization_id)
        ids = [crossing.pk for crossing in self.crossings]
        rows.filter(pk__in=ids, mail_due_at=self.leased_until).update(**changes)


def send_due_mails(*, now: datetime) -> int:
    """Send the mails that are due, one after the other; return how many were sent. Several at once share the work."""
    deadline = time.monotonic() + RUN_SECONDS
    due = list_crossings_to_mail(now=now, limit=MAX_CROSSINGS_PER_RUN)
    sent = 0
    with MailRun() as run:
        for budget_id, period_start in dict.fromkeys((each.budget_id, each.period_start) for each in due):
            if time.monotonic() >= deadline:
                break
            claim = _claim(budget_id, period_start, now)
            if claim is not None:
                sent += _send(claim, run, now)
    return sent


def _claim(budget_id: int, period_start: datetime, now: datetime) -> _Claim | None:
    """Take what is due of one budget; None: somebody else has, or it is gone."""
    # By the clock and not by `now`, which a long run has left behind.
    leased_until = datetime.now(UTC) + LEASE
    with transaction.atomic():
        rows = BudgetCrossing.objects.all_tenants()
        due = rows.filter(budget=budget_id, period_start=period_start, mail_due_at__lte=now)
        crossings = list(due.select_for_update(skip_locked=True).order_by("level"))
        rows.filter(pk__in=[crossing.pk for crossing in crossings]).update(mail_due_at=leased_until)
    budgets = Budget.objects.all_tenants().select_related("subscription__customer", "organization")
    budget = budgets.filter(pk=budget_id).first() if crossings else None
    return None if budget is None else _Claim(budget, crossings, leased_until)


def _send(claim: _Claim, run: MailRun, now: datetime) -> bool:
    address = _address(claim.budget)
    if not address or claim.last.crossed_at < now - LIFETIME:
        claim.settle(mail_due_at=None)
        return False
    try:
        run.send(to=[address], **_write(claim))
    except OSError as error:
        logger.warning("budget mail not sent", budget=claim.budget.pk, reason=type(error).__name__)
        claim.settle(mail_due_at=now + PUT_OFF)
        return False
    claim.settle(mail_due_at=None, mailed_at=datetime.now(UTC))
    return True


def _address(budget: Budget) -> str:
    """Return who is written to: the budget's own address, else the payer's; empty: nobody."""
    if budget.email:
        return budget.email
    profiles = BillingProfile.objects.for_organization(budget.organization_id).filter(customer=budget.customer_id)
    return profiles.values_list("email", flat=True).first() or ""


def _write(claim: _Claim) -> dict[str, Any]:
    """Return subject, texts and headers, as `MailRun.send` takes them. Times are in the subscription's zone."""
    budget, last, subscription = claim.budget, claim.last, claim.budget.subscription
    zone = ZoneInfo(subscription.zone)
    period_end = nearest_period(subscription, last.period_start).end
    customer = subscription.customer.name or subscription.customer.external_id
    context = {
        "organization": budget.organization,
        "customer": customer,
        "level": last.level,
        "spend": money_text(last.spend_minor, budget.currency),
        "budget": money_text(last.budget_minor, budget.currency),
        "percent": exact_text(percent_used(last.spend_minor, budget_minor=last.budget_minor)),
        "first_day": _day(last.period_start, zone),
        "last_day": _day(period_end - period_end.resolution, zone),
    }
    host = urlsplit(settings.PUBLIC_URL).hostname or "localhost"
    return {
        "subject": f"{customer}: {last.level} % of the budget is spent ({budget.organization.name})",
        **render_texts("billing/email/budget_crossed", context),
        "headers": {"Message-ID": f"<budget-crossing-{last.pk}@{host}>"},
    }


def _day(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):%-d %B %Y}"
