"""Reads of plans and their versions."""

from __future__ import annotations

from collections.abc import Collection

from accounts.models import Organization
from billing.models import Plan, PlanVersion, VersionState
from common.errors import NotFound
from common.models import TenantQuerySet

MAX_NUMBER = 2**31 - 1


def list_plans(*, organization: Organization) -> TenantQuerySet:
    return Plan.objects.for_organization(organization)


def get_plan(*, organization: Organization, code: str) -> Plan:
    """Return the plan, archived or not. Raises `NotFound`, for a foreign code like for an absent one."""
    plan: Plan | None = None if "\x00" in code else list_plans(organization=organization).filter(code=code).first()
    if plan is None:
        raise NotFound("There is no such plan.")
    return plan


def list_versions(*, plan: Plan) -> TenantQuerySet:
    return PlanVersion.objects.for_organization(plan.organization_id).filter(plan=plan).select_related("plan")


def list_offered_versions(*, organization: Organization) -> TenantQuerySet:
    """Return the versions of the plans that are not archived, drafts too: by plan, the latest first."""
    rows = PlanVersion.objects.for_organization(organization).filter(plan__archived_at__isnull=True)
    return rows.select_related("plan").order_by("plan__code", "-number")


def get_version(*, plan: Plan, number: int) -> PlanVersion:
    version: PlanVersion | None = None
    if 0 < number <= MAX_NUMBER:
        version = list_versions(plan=plan).filter(number=number).first()
    if version is None:
        raise NotFound("The plan has no such version.")
    return version


def find_current_version(*, plan: Plan) -> PlanVersion | None:
    """Return the version that a new subscription gets: the latest active one."""
    return list_current_versions([plan], organization_id=plan.organization_id).get(plan.pk)


def list_current_versions(plans: Collection[Plan], *, organization_id: int) -> dict[int, PlanVersion]:
    """Return the latest active version of each plan that has one, by the plan's id. One query."""
    rows = PlanVersion.objects.for_organization(organization_id).filter(plan__in=plans, state=VersionState.ACTIVE)
    latest = rows.select_related("plan").order_by("plan", "-number").distinct("plan")
    return {version.plan_id: version for version in latest}


def find_default_version(*, organization: Organization) -> PlanVersion | None:
    """Return what customers without a subscription are priced by; None where the organization has no such plan."""
    plan: Plan | None = list_plans(organization=organization).filter(is_default=True, archived_at__isnull=True).first()
    return None if plan is None else find_current_version(plan=plan)
