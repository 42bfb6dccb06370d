"""Reads of who pays a customer's invoices."""

from __future__ import annotations

from collections.abc import Collection

from accounts.models import Customer, Organization
from billing.models import BillingProfile


def get_profile(*, customer: Customer) -> BillingProfile:
    """Return the customer's profile; without a row, an unsaved empty one. One query."""
    profiles = list_profiles(customer.organization_id, [customer.pk])
    return profiles.get(customer.pk) or BillingProfile(organization_id=customer.organization_id, customer=customer)


def list_profiles(organization: Organization | int, customer_ids: Collection[int]) -> dict[int, BillingProfile]:
    """Return the profiles that there are, by the customer's id. One query."""
    rows = BillingProfile.objects.for_organization(organization).filter(customer_id__in=customer_ids)
    return {profile.customer_id: profile for profile in rows}
