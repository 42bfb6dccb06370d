"""Reads of what Stripe has told: the inbox, and whose each thing is that an event names.

The account is the installation's: a thing of Stripe's is looked for in every organization that may use the account.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Q

from accounts.models import Organization
from billing.domain.reporting import delay
from billing.models import InboxState, StripeCustomer, StripeEvent, StripeInvoice, StripeMeter, UsageReport
from common.models import TenantQuerySet

# So many times an event is handled until it is left to people.
MAX_ATTEMPTS = 10


def list_events(*, organization: Organization) -> TenantQuerySet:
    """Return the events that turned out to be an organization's."""
    return StripeEvent.objects.for_organization(organization)


def get_event(*, organization: Organization, event_id: int) -> StripeEvent:
    """Return one event. Raises `NotFound`, for a foreign id like for an absent one."""
    found: StripeEvent = list_events(organization=organization).get_by_id(event_id, "There is no such event.")
    return found


def count_failed_events(*, organization: Organization | None) -> int:
    """Return how many events of an organization failed at their last attempt; None: of nobody, as far as is known."""
    return StripeEvent.objects.all_tenants().filter(organization=organization, state=InboxState.FAILED).count()


def list_due_events(*, now: datetime) -> TenantQuerySet:
    """Return the events to be handled, in order: new ones, and failed ones after a pause that doubles."""
    due = Q(state=InboxState.RECEIVED)
    for attempts in range(1, MAX_ATTEMPTS):
        due |= Q(state=InboxState.FAILED, attempts=attempts, handled_at__lte=now - delay(attempts, jitter=1.0))
    return StripeEvent.objects.all_tenants().filter(due).order_by("id")


def find_push(*, stripe_invoice_id: str, customer_id: str, organization_id: int, invoice_id: int) -> Any:
    """Return the row of an invoice at Stripe; by what its metadata say where Stripe's answer has not arrived yet."""
    rows = _of_account(StripeInvoice.objects.all_tenants()).select_related("organization")
    found = rows.filter(stripe_invoice_id=stripe_invoice_id).first()
    return found or (
        rows.filter(
            stripe_invoice_id="",
            stripe_customer_id=customer_id,
            organization_id=organization_id,
            invoice_id=invoice_id,
        ).first()
        if organization_id
        else None
    )


def list_named_customers(*, stripe_customer_id: str) -> TenantQuerySet:
    rows = _of_account(StripeCustomer.objects.all_tenants()).select_related("organization", "customer")
    return rows.filter(stripe_customer_id=stripe_customer_id).order_by("id")


def list_named_meters(*, event_name: str) -> TenantQuerySet:
    rows = _of_account(StripeMeter.objects.all_tenants()).select_related("organization", "metric")
    return rows.filter(event_name=event_name).order_by("id")


def list_identified_reports(*, identifiers: Collection[str]) -> TenantQuerySet:
    rows = _of_account(UsageReport.objects.all_tenants()).select_related("organization", "metric")
    return rows.filter(identifier__in=identifiers).order_by("id")


def _of_account(rows: TenantQuerySet) -> TenantQuerySet:
    allowed = settings.STRIPE_ORGANIZATIONS
    return rows.filter(organization_id__in=allowed) if allowed else rows
