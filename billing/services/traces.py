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
from billing.domain.reporting import UNSETTLED, ReportState
from billing.models import (
    BillingProfile,
    Budget,
    BudgetCrossing,
    StripeCustomer,
    StripeEvent,
    StripeInvoice,
    SubscriptionPhase,
    UsageReport,
)
from billing.services.reporting import plan_reports
from common.models import TenantQuerySet
from metering.models import Erasure

# Pushes of invoices that are not on their way.
SETTLED = {"state__in": [state for state in ReportState if state not in UNSETTLED]}


def iterate_rows(*, organization: Organization, customer: Customer) -> Iterator[models.Model]:
    phases = SubscriptionPhase.objects.for_organization(organization).filter(subscription__customer=customer)
    reports = UsageReport.objects.for_organization(organization).filter(subscription__customer=customer)
    pushes = StripeInvoice.objects.for_organization(organization).filter(invoice__customer=customer)
    crossings = BudgetCrossing.objects.for_organization(organization).filter(budget__customer=customer)
    told = _list_events(_list_names(organization, customer)).filter(organization=organization)
    tables = (phases, reports, pushes, crossings, told)
    yield from chain.from_iterable(rows.order_by("pk").iterator() for rows in tables)


def let_go(*, organization: Organization, customer: Customer, by: str, now: datetime) -> None:
    """Plan what is not reported yet, then forget what Stripe calls them, and what it told of them.

    That goes also where nobody here had the thing: it tells names and addresses too.
    """
    names = StripeCustomer.objects.for_organization(organization).filter(customer=customer)
    if names.exists():
        plan_reports(organization=organization, months=None, now=now, only_customer_id=customer.pk)
    ours = models.Q(organization=organization) | models.Q(organization=None)
    _list_events(_list_names(organization, customer)).filter(ours).delete()
    names.delete()
    # Who pays, and where they live. An invoice that was finalised keeps what was printed on it.
    BillingProfile.objects.for_organization(organization).filter(customer=customer).delete()
    Budget.objects.for_organization(organization).filter(customer=customer).update(email="")
    entries = AuditEntry.objects.for_organization(organization)
    entries.filter(action__startswith="billing_profile.", target=customer.external_id).update(target=by)
    entries.filter(action__startswith="stripe_customer.", target=customer.external_id).update(target=by, details={})
    reports = UsageReport.objects.for_organization(organization).filter(subscription__customer=customer)
    # With the error they quote what Stripe said, which may be the name.
    decided = ("usage_report.retried", "usage_report.confirmed")
    entries.filter(action__in=decided, target__in=reports.values("identifier")).update(details={})
    if not reports.filter(state__in=UNSETTLED).exists():
        _forget_names(reports)
    _forget_names(StripeInvoice.objects.for_organization(organization).filter(invoice__customer=customer, **SETTLED))


def forget_settled_names() -> int:
    """Forget what Stripe called erased customers none of whose reports is on its way; return in how many reports."""
    unsettled = UsageReport.objects.all_tenants().filter(state__in=UNSETTLED)
    reports = UsageReport.objects.all_tenants().filter(
        subscription__customer__in=Erasure.objects.all_tenants().values("customer")
    )
    pushes = StripeInvoice.objects.all_tenants().filter(
        invoice__customer__in=Erasure.objects.all_tenants().values("customer"), **SETTLED
    )
    settled = reports.exclude(subscription__customer__in=unsettled.values("subscription__customer"))
    return _forget_names(settled) + _forget_names(pushes)


def _list_names(organization: Organization, customer: Customer) -> set[str]:
    """Return what Stripe calls the customer, or called them in what was reported or pushed; nothing that is another's.

    A name that was taken away before the erasure is still in what Stripe told.
    """
    named = StripeCustomer.objects.for_organization(organization)
    reports = UsageReport.objects.for_organization(organization).filter(subscription__customer=customer)
    pushes = StripeInvoice.objects.for_organization(organization).filter(invoice__customer=customer)
    sources = (named.filter(customer=customer), reports, pushes)
    names = {name for rows in sources for name in rows.values_list("stripe_customer_id", flat=True).distinct() if name}
    others = named.filter(stripe_customer_id__in=names).exclude(customer=customer)
    return names - set(others.values_list("stripe_customer_id", flat=True))


def _list_events(names: set[str]) -> TenantQuerySet:
    """Return what Stripe told of the customers that it calls so, whosever it is."""
    events = StripeEvent.objects.all_tenants()
    if not names:
        return events.none()
    return events.filter(
        models.Q(payload__data__object__customer__in=names) | models.Q(payload__data__object__id__in=names)
    )


def _forget_names(reports: TenantQuerySet) -> int:
    return reports.exclude(stripe_customer_id="").update(stripe_customer_id="", last_error="")
