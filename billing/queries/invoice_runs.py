"""Reads of invoice runs."""

from __future__ import annotations

from accounts.models import Organization
from billing.models import BillingPeriod, InvoiceRun
from common.models import TenantQuerySet


def list_runs(*, organization: Organization) -> TenantQuerySet:
    return InvoiceRun.objects.for_organization(organization)


def find_latest_run(*, organization: Organization) -> InvoiceRun | None:
    latest: InvoiceRun | None = list_runs(organization=organization).order_by("-pk").first()
    return latest


def get_run(*, organization: Organization, run_id: int) -> InvoiceRun:
    """Return the run. Raises `NotFound`, for a foreign id like for an absent one."""
    return list_runs(organization=organization).get_by_id(run_id, "There is no such invoice run.")


def list_problems(*, organization: Organization) -> TenantQuerySet:
    """Return the periods that could not be invoiced the last time, which say why."""
    rows = BillingPeriod.objects.for_organization(organization).exclude(problem="")
    return rows.select_related("subscription__customer")


def get_period(*, organization: Organization, period_id: int) -> BillingPeriod:
    """Return a billing period, with its customer. Raises `NotFound`, for a foreign id like for an absent one."""
    rows = BillingPeriod.objects.for_organization(organization).select_related("subscription__customer")
    return rows.get_by_id(period_id, "There is no such billing period.")
