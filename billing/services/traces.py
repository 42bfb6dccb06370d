"""What billing keeps of a customer (`metering.traces`): what they are called at Stripe, and what was reported there.

An erased customer's subscriptions stay, under the name that is left: they are what was billed. What Stripe calls them
goes with their name, after their usage up to that moment was planned: a planned report carries the name by itself, and
keeps it until none of theirs is on its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import chain

from django.db import models

from accounts.models import AuditEntry, Customer, Organization
from billing.domain.reporting import UNSETTLED
from billing.models import StripeCustomer, SubscriptionPhase, UsageReport
from billing.services.reporting import plan_reports
from common.models import TenantQuerySet
from metering.models import Erasure


def iterate_rows(*, organization: Organization, customer: Customer) -> Iterator[models.Model]:
    phases = SubscriptionPhase.objects.for_organization(organization).filter(subscription__customer=customer)
    reports = UsageReport.objects.for_organization(organization).filter(subscription__customer=customer)
    yield from chain(phases.order_by("pk").iterator(), reports.order_by("pk").iterator())


def let_go(*, organization: Organization, customer: Customer, by: str, now: datetime) -> None:
    """Plan what is not reported yet, then forget what Stripe calls them."""
    names = StripeCustomer.objects.for_organization(organization).filter(customer=customer)
    if names.exists():
        plan_reports(organization=organization, months=None, now=now, only_customer_id=customer.pk)
        names.delete()
    entries = AuditEntry.objects.for_organization(organization)
    entries.filter(action__startswith="stripe_customer.", target=customer.external_id).update(target=by, details={})
    reports = UsageReport.objects.for_organization(organization).filter(subscription__customer=customer)
    # With the error they quote what Stripe said, which may be the name.
    entries.filter(action="usage_report.retried", target__in=reports.values("identifier")).update(details={})
    if not reports.filter(state__in=UNSETTLED).exists():
        _forget_names(reports)


def forget_settled_names() -> int:
    """Forget what Stripe called erased customers none of whose reports is on its way; return in how many reports."""
    unsettled = UsageReport.objects.all_tenants().filter(state__in=UNSETTLED)
    reports = UsageReport.objects.all_tenants().filter(
        subscription__customer__in=Erasure.objects.all_tenants().values("customer")
    )
    return _forget_names(reports.exclude(subscription__customer__in=unsettled.values("subscription__customer")))


def _forget_names(reports: TenantQuerySet) -> int:
    return reports.exclude(stripe_customer_id="").update(stripe_customer_id="", last_error="")
