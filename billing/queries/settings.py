"""Reads of how an organization invoices."""

from __future__ import annotations

from accounts.models import Organization
from billing.models import BillingSettings


def get_settings(organization: Organization | int) -> BillingSettings:
    """Return the organization's settings; without a row, unsaved ones with the defaults. One query."""
    found: BillingSettings | None = BillingSettings.objects.for_organization(organization).first()
    return found or BillingSettings(organization_id=getattr(organization, "pk", organization))
