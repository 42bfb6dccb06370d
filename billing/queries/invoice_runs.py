"""Reads of invoice runs."""

from __future__ import annotations

from accounts.models import Organization
from billing.models import BillingPeriod, InvoiceRun
from common.errors import NotFound
from common.models import TenantQuerySet

MAX_ID = 2**63 - 1


def list_runs(*, organization: Organization) -> TenantQuerySet:
    return InvoiceRun.objects.for_organization(organization)


def find_latest_run(*, organization: Organization) -> InvoiceRun | None:
    latest: InvoiceRun | None = list_runs(organization=organization).order_by("-pk").first()
    return latest


def get_run(*, organization: Organization, run_id: int) -> InvoiceRun:
    """Return the run. Raises `NotFound`, for a foreign id like for an absent one."""
    found: InvoiceRun | None = None
    if run_id <= MAX_ID:
        found = list_runs(organization=organization).filter(pk=run_id).first()
    if found is None:
        raise NotFound("There is no such invoice run.")
    return found


def list_problems(*, organization: Organization) -> TenantQuerySet:
    """Return the periods that could not be invoiced the last time, which say why."""
    rows = BillingPeriod.objects.for_organization(organization).exclude(problem="")
    return rows.select_related("subscription__customer")
