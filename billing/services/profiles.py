"""Writes of who pays a customer's invoices. What is finalised keeps what was printed."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from django.db import transaction

from accounts.models import Customer
from accounts.services import record_audit
from accounts.services.audit import refuse_invalid
from billing.models import BillingProfile
from billing.services.tax_rates import list_place_problems
from common.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ProfileDefinition:
    """A profile as a whole; what is not given is empty."""

    name: str = ""
    email: str = ""
    address: str = ""
    country: str = ""
    region: str = ""
    tax_id: str = ""
    is_tax_exempt: bool = False


@transaction.atomic
def replace_profile(*, customer: Customer, definition: ProfileDefinition, actor: str) -> BillingProfile:
    """Write the profile as a whole. Raises `InvalidInput`.

    The audit log names the fields that changed, not what they say: that is about a person.
    """
    problems = list(list_place_problems(definition.country, definition.region))
    if problems:
        raise InvalidInput(f"{problems[0].field}: {problems[0].message}", errors=problems)
    # The row that two editors wait for has to be there; nobody edits one that is just being erased.
    Customer.objects.for_organization(customer.organization_id).select_for_update(no_key=True).get(pk=customer.pk)
    rows = BillingProfile.objects.for_organization(customer.organization_id)
    row: BillingProfile = rows.filter(customer=customer).first() or BillingProfile(
        organization_id=customer.organization_id, customer=customer
    )
    values = asdict(definition)
    changed = sorted(name for name, value in values.items() if getattr(row, name) != value)
    for name, value in values.items():
        setattr(row, name, value)
    refuse_invalid(row)
    row.save()
    if changed:
        record_audit(
            organization=customer.organization,
            actor=actor,
            action="billing_profile.changed",
            target=customer.external_id[:320],
            details={"fields": changed},
        )
    return row
