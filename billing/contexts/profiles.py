"""The billing profile on the billing page of a customer."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import reverse

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Customer
from billing.forms.profiles import ProfileForm
from billing.models import BillingProfile
from billing.queries.profiles import get_profile


@dataclass(frozen=True, slots=True)
class ProfileBlock:
    profile: BillingProfile
    is_empty: bool
    # None: the role may not change it.
    form: ProfileForm | None
    save_url: str


def get_profile_block(caller: Caller, customer: Customer, form: ProfileForm | None) -> ProfileBlock:
    profile = get_profile(customer=customer)
    return ProfileBlock(
        profile=profile,
        is_empty=profile.pk is None,
        form=(form or ProfileForm(instance=profile)) if caller.has(Scope.BILLING_WRITE) else None,
        save_url=reverse("billing:save_profile", args=[caller.organization.pk, customer.pk]),
    )
