"""Reads of the rate table."""

from __future__ import annotations

from accounts.models import Organization
from billing.domain.taxes import TaxRule
from billing.models import TaxRate
from common.errors import NotFound
from common.models import TenantQuerySet


def list_tax_rates(*, organization: Organization | int) -> TenantQuerySet:
    """Return the rows that are not archived."""
    return TaxRate.objects.for_organization(organization).filter(archived_at__isnull=True)


def get_tax_rate(*, organization: Organization, code: str) -> TaxRate:
    """Return the row that has the code now. Raises `NotFound`, for a foreign code like for an archived one."""
    found: TaxRate | None = None
    if "\x00" not in code:
        found = list_tax_rates(organization=organization).filter(code=code).first()
    if found is None:
        raise NotFound("There is no such tax rate.")
    return found


def list_tax_rules(organization: Organization | int) -> list[TaxRule]:
    """Return the table as the domain has it, by code. One query."""
    return [tax_rule(rate) for rate in list_tax_rates(organization=organization).order_by("code")]


def tax_rule(rate: TaxRate) -> TaxRule:
    """Return one row as a rule."""
    return TaxRule(rate.code, rate.name, rate.percent, rate.country, rate.region, rate.valid_from, rate.valid_until)
