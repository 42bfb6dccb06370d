"""The credits on the billing page of a customer: balances, and grants with what is left of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.urls import reverse

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Customer
from billing.contexts.words import last_day_of
from billing.domain.currencies import money_text
from billing.forms.credits import GrantForm
from billing.models import CreditGrant, GrantKind, SubscriptionPhase
from billing.queries.credits import list_balances, list_grants

# More of them are in the API.
MAX_SHOWN = 20
FALLBACK_CURRENCY = "USD"


@dataclass(frozen=True, slots=True)
class BalanceFigure:
    currency: str
    balance: str
    # Empty: all of it.
    available: str


@dataclass(frozen=True, slots=True)
class GrantRow:
    name: str
    kind: str
    amount: str
    remaining: str
    status: str
    badge: str
    effective_at: datetime
    # A time of the last day; None: it does not expire.
    lasts_until: datetime | None
    priority: int
    # Empty: there is nothing to take back, or the role may not.
    void_url: str


@dataclass(frozen=True, slots=True)
class CreditsBlock:
    balances: list[BalanceFigure]
    grants: list[GrantRow]
    is_cut: bool
    # None: the role may not grant any.
    form: GrantForm | None
    grant_url: str


def get_credits_block(caller: Caller, customer: Customer, now: datetime, form: GrantForm | None) -> CreditsBlock:
    grants = list(
        list_grants(organization=caller.organization)
        .filter(customer=customer)
        .select_related("source_invoice")
        .order_by("-id")[: MAX_SHOWN + 1]
    )
    can_bill = caller.has(Scope.BILLING_WRITE)
    return CreditsBlock(
        balances=[
            BalanceFigure(
                currency=each.currency,
                balance=money_text(each.balance_minor, each.currency),
                available=""
                if each.available_minor == each.balance_minor
                else money_text(each.available_minor, each.currency),
            )
            for each in list_balances(customer=customer, now=now)
        ],
        grants=[_row(caller, grant, now, can_bill=can_bill) for grant in grants[:MAX_SHOWN]],
        is_cut=len(grants) > MAX_SHOWN,
        form=(form or make_grant_form(caller, customer)) if can_bill else None,
        grant_url=reverse("billing:grant_credit", args=[caller.organization.pk, customer.pk]),
    )


def make_grant_form(caller: Caller, customer: Customer, data: dict[str, Any] | None = None) -> GrantForm:
    """Return the form, which begins with the currency of what the customer subscribed to last."""
    phases = SubscriptionPhase.objects.for_organization(caller.organization).filter(subscription__customer=customer)
    currency = phases.order_by("-id").values_list("version__currency", flat=True).first()
    return GrantForm(data, currency=currency or FALLBACK_CURRENCY)


def _row(caller: Caller, grant: CreditGrant, now: datetime, *, can_bill: bool) -> GrantRow:
    left: int = grant.remaining_minor  # type: ignore[attr-defined]  # annotated
    status, badge = _status(grant, left, now)
    is_voidable = can_bill and left > 0 and grant.voided_at is None
    arguments = [caller.organization.pk, grant.customer_id, grant.pk]
    name = grant.name
    if grant.kind == GrantKind.CARRIED_OVER and grant.source_invoice is not None:
        name = f"from {grant.source_invoice.number}"
    return GrantRow(
        name=name,
        kind=grant.get_kind_display(),
        amount=money_text(grant.amount_minor, grant.currency),
        remaining=money_text(left, grant.currency),
        status=status,
        badge=badge,
        effective_at=grant.effective_at,
        lasts_until=None if grant.expires_at is None else last_day_of(grant.expires_at),
        priority=grant.priority,
        void_url=reverse("billing:void_credit", args=arguments) if is_voidable else "",
    )


def _status(grant: CreditGrant, left: int, now: datetime) -> tuple[str, str]:
    """Return what has become of a grant, and the look of its badge."""
    if grant.voided_at is not None:
        return "voided", ""
    if grant.expires_at is not None and now >= grant.expires_at:
        return "expired", ""
    if left == 0:
        return "used up", ""
    return ("scheduled", "is-accent") if now < grant.effective_at else ("in force", "is-success")
