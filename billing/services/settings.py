"""Writes of how an organization invoices. Nothing here touches what is finalised: that keeps what was printed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from django.db import transaction

from accounts.models import Organization
from accounts.services import record_audit
from accounts.services.audit import refuse_invalid
from billing.models import BillingSettings, NumberSeries
from common.errors import FieldError, InvalidInput

MAX_GRACE_HOURS = 720
MAX_PAYMENT_DAYS = 365
# Two years: what is older is settled, and is not computed again and again.
MAX_ADJUSTMENT_DAYS = 732
PREFIX = re.compile(r"[A-Za-z0-9._/-]{0,16}\Z")
PREFIXES = ("invoice_prefix", "credit_note_prefix")
BOUNDS = {"grace_hours": MAX_GRACE_HOURS, "payment_days": MAX_PAYMENT_DAYS, "adjustment_days": MAX_ADJUSTMENT_DAYS}
CHANGEABLE = frozenset(
    {
        *BOUNDS,
        *PREFIXES,
        "seller_name",
        "seller_address",
        "seller_tax_id",
        "footer",
        "is_mailed",
        "is_pushed_to_stripe",
    }
)


@transaction.atomic
def update_settings(*, organization: Organization, changes: Mapping[str, Any], actor: str) -> BillingSettings:
    """Change what is named, and record old and new values. Holds for what is finalised from now on.

    A new prefix begins a series of its own, at 1; one that was used before goes on where it was. Raises `InvalidInput`
    naming every field that may not be so.
    """
    assert changes.keys() <= CHANGEABLE, changes.keys()  # the edges name the fields
    # The row that two editors wait for has to be there.
    BillingSettings.objects.bulk_create([BillingSettings(organization=organization)], ignore_conflicts=True)
    row: BillingSettings = BillingSettings.objects.for_organization(organization).select_for_update().get()
    details = {
        name: {"from": getattr(row, name), "to": value}
        for name, value in changes.items()
        if getattr(row, name) != value
    }
    if not details:
        return row
    for name in details:
        setattr(row, name, changes[name])
    _refuse_out_of_bounds(row)
    if details.keys() & set(PREFIXES):
        _refuse_ambiguous_prefixes(row, details.keys())
    refuse_invalid(row)
    row.save(update_fields=list(details))
    record_audit(
        organization=organization,
        actor=actor,
        action="billing_settings.changed",
        target=organization.name[:320],
        details=details,
    )
    return row


def _refuse_out_of_bounds(row: BillingSettings) -> None:
    problems = [
        FieldError(name, "out_of_range", f"From 0 to {bound}.")
        for name, bound in BOUNDS.items()
        if not 0 <= getattr(row, name) <= bound
    ]
    if problems:
        raise InvalidInput(f"{problems[0].field}: {problems[0].message}", errors=problems)


def _refuse_ambiguous_prefixes(row: BillingSettings, changed: Collection[str]) -> None:
    """Raise `InvalidInput` where one number could come of two series: A and 11, A1 and 1."""
    used = set(NumberSeries.objects.for_organization(row.organization_id).values_list("prefix", flat=True))
    for name in PREFIXES:
        if name not in changed:
            continue
        prefix = getattr(row, name)
        if not PREFIX.match(prefix):
            raise InvalidInput.of(name, "Up to 16 letters, digits and . _ / -.", "invalid_prefix")
        other = row.credit_note_prefix if name == "invoice_prefix" else row.invoice_prefix
        if prefix == other:
            raise InvalidInput.of(name, "Invoices and credit notes have different prefixes.", "prefix_in_use")
        for taken in sorted({other, *used} - {prefix}):
            if _do_collide(prefix, taken):
                message = f"With the numbers that begin with {taken!r}, one number could stand for two documents."
                raise InvalidInput.of(name, message, "prefix_in_use")


def _do_collide(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return long.startswith(short) and long[len(short) :].isdigit()
