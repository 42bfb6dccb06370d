"""Reads of the credit ledger: what is left of grants, and what became of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, F, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce, Least

from accounts.models import Customer, Organization
from billing.domain.credits import Grant
from billing.models import BillingPeriod, CreditEntry, CreditGrant, PeriodState, Subscription
from common.models import TenantQuerySet


@dataclass(frozen=True, slots=True)
class CreditBalance:
    """What a customer has in one currency: all that is left, and what of it is in force now."""

    currency: str
    balance_minor: int
    available_minor: int


def list_grants(*, organization: Organization | int) -> TenantQuerySet:
    """Return grants, each with `remaining_minor`, which is looked up for the rows that are read alone."""
    # Uses the index of the entries by their grant, of one grant at a time.
    entries = CreditEntry.objects.for_organization(organization).filter(grant=OuterRef("pk"))
    total = entries.order_by().values("grant").annotate(total=Sum("amount_minor")).values("total")
    grants = CreditGrant.objects.for_organization(organization).annotate(remaining_minor=Coalesce(Subquery(total), 0))
    return grants.select_related("customer")


def get_grant(*, organization: Organization, grant_id: int, customer_id: int | None = None) -> CreditGrant:
    """Return the grant with `remaining_minor`. Raises `NotFound`, for a foreign id like for an absent one.

    `customer_id` is the one whose a bound key may see; None: anybody's.
    """
    rows = list_grants(organization=organization)
    rows = rows if customer_id is None else rows.filter(customer_id=customer_id)
    return rows.get_by_id(grant_id, "There is no such grant of credit.")


def list_usable_grants(
    *, organization: Organization | int, customer_ids: Collection[int]
) -> dict[tuple[int, str], list[Grant]]:
    """Return what has something left and is not voided, by customer and currency. One query.

    Whether a grant is in force depends on the end of the period that it would pay: `domain.credits` decides that.
    """
    rows = list_grants(organization=organization).filter(
        customer_id__in=customer_ids, voided_at__isnull=True, remaining_minor__gt=0
    )
    usable: dict[tuple[int, str], list[Grant]] = defaultdict(list)
    for row in rows.select_related(None).order_by("pk"):
        usable[row.customer_id, row.currency].append(
            Grant(row.pk, row.remaining_minor, row.priority, row.effective_at, row.expires_at, row.created_at)
        )
    return dict(usable)


def list_balances(*, customer: Customer, now: datetime) -> list[CreditBalance]:
    """Return the balance of each currency in which the customer was ever granted something, by currency. One query."""
    in_force = Q(grant__effective_at__lte=now) & (Q(grant__expires_at__isnull=True) | Q(grant__expires_at__gt=now))
    rows = CreditEntry.objects.for_organization(customer.organization_id).filter(customer=customer)
    totals = rows.values("grant__currency").annotate(
        balance_minor=Sum("amount_minor"), available_minor=Coalesce(Sum("amount_minor", filter=in_force), 0)
    )
    return [
        CreditBalance(total["grant__currency"], int(total["balance_minor"]), int(total["available_minor"]))
        for total in totals.order_by("grant__currency")
    ]


def list_entries(*, customer: Customer) -> TenantQuerySet:
    """Return everything that happened to the customer's credits."""
    rows = CreditEntry.objects.for_organization(customer.organization_id).filter(customer=customer)
    return rows.select_related("grant", "invoice")


def list_grants_to_expire(*, organization: Organization | int, now: datetime) -> TenantQuerySet:
    """Return grants that have expired, have something left, and can pay no invoice any more.

    One that has expired still pays the invoices of periods that ended before: as long as such a period is not
    finalised, or not even opened, what is left of the grant stays.
    """
    of_customer = {"subscription__customer": OuterRef("customer")}
    unbilled = (
        BillingPeriod.objects.for_organization(organization)
        .filter(**of_customer, ends_at__lt=OuterRef("expires_at"))
        .exclude(state=PeriodState.FINALISED)
    )
    periods = BillingPeriod.objects.for_organization(organization).filter(subscription=OuterRef("pk"))
    opened_until = periods.order_by("-ends_at").values("ends_at")[:1]
    unopened = (
        Subscription.objects.for_organization(organization)
        .filter(customer=OuterRef("customer"), starts_at__lt=OuterRef("expires_at"))
        .exclude(ends_at__lte=F("starts_at"))
        .annotate(opened_until=Subquery(opened_until))
        .filter(Q(opened_until__isnull=True) | Q(opened_until__lt=Least("ends_at", OuterRef("expires_at"))))
    )
    rows = list_grants(organization=organization).filter(expires_at__lte=now, voided_at__isnull=True)
    return rows.filter(~Exists(unbilled), ~Exists(unopened), remaining_minor__gt=0)


def list_organizations_with_expired_grants(*, now: datetime) -> list[Organization]:
    rows = CreditGrant.objects.all_tenants().filter(expires_at__lte=now, voided_at__isnull=True)
    return list(Organization.objects.filter(pk__in=rows.values("organization")).order_by("pk"))
