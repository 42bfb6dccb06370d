"""Reads of invoices on their way to Stripe: which are to be pushed, which are due, what became of each."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import OuterRef, Q, Subquery

from accounts.models import Organization
from billing.domain.reporting import UNSETTLED, ReportState
from billing.models import BillingSettings, Invoice, InvoiceKind, InvoiceState, StripeCustomer, StripeInvoice
from common.models import TenantQuerySet

# Issued so long ago, an invoice is not pushed by itself any more: switching the push on does not collect old debts.
PUSHED_WITHIN = timedelta(days=7)
# What can still be taken back there.
OPEN_THERE = ("draft", "open", "uncollectible")


def list_unpushed(*, organization: Organization, now: datetime) -> TenantQuerySet:
    """Return the invoices that are to be pushed and have no row, each with its `stripe_customer_id`, in order.

    Those with something to pay, of customers that have a name at Stripe; never credit notes.
    """
    rows = Invoice.objects.for_organization(organization)
    if not is_pushed(organization=organization):
        return rows.none()
    names = StripeCustomer.objects.for_organization(organization).filter(customer=OuterRef("customer"))
    rows = rows.filter(
        state=InvoiceState.FINALISED,
        due_minor__gt=0,
        paid_at=None,
        issued_at__gte=now - PUSHED_WITHIN,
        stripe_invoice=None,
    ).exclude(kind=InvoiceKind.CREDIT_NOTE)
    named = rows.annotate(stripe_customer_id=Subquery(names.values("stripe_customer_id")[:1]))
    return named.exclude(stripe_customer_id=None).order_by("id")


def list_settled_pushes(*, organization: Organization) -> TenantQuerySet:
    """Return the rows of invoices that are to be paid there still, and were voided, credited or paid here since."""
    rows = StripeInvoice.objects.for_organization(organization)
    return rows.filter(
        Q(invoice__state=InvoiceState.VOID) | Q(invoice__paid_at__isnull=False),
        state=ReportState.DELIVERED,
        stripe_status__in=OPEN_THERE,
    )


def list_due_pushes(*, organization: Organization, now: datetime) -> TenantQuerySet:
    """Return the rows to be looked at, the longest waiting first."""
    due = StripeInvoice.objects.for_organization(organization).filter(state__in=UNSETTLED, next_attempt_at__lte=now)
    return due.select_related("invoice__customer", "organization").order_by("next_attempt_at", "id")


def is_being_pushed(*, organization: Organization, now: datetime) -> bool:
    """Tell whether a worker is at the organization's rows. One that was killed counts until its lease ends."""
    rows = StripeInvoice.objects.for_organization(organization)
    return rows.filter(state=ReportState.SENDING, next_attempt_at__gt=now).exists()


def list_pushes(*, organization: Organization) -> TenantQuerySet:
    rows = StripeInvoice.objects.for_organization(organization)
    return rows.select_related("organization", "invoice__customer")


def get_push(*, organization: Organization, push_id: int) -> StripeInvoice:
    """Return one row. Raises `NotFound`, for a foreign id like for an absent one."""
    return list_pushes(organization=organization).get_by_id(push_id, "There is no such invoice at Stripe.")


def is_pushed(*, organization: Organization) -> bool:
    return BillingSettings.objects.for_organization(organization).filter(is_pushed_to_stripe=True).exists()


def list_organizations_that_push() -> list[Organization]:
    """Return the organizations whose invoices are pushed, or have been."""
    switched_on = BillingSettings.objects.all_tenants().filter(is_pushed_to_stripe=True)
    known: Any = Q(pk__in=switched_on.values("organization"))
    known |= Q(pk__in=StripeInvoice.objects.all_tenants().values("organization"))
    return list(Organization.objects.filter(known).order_by("pk"))
