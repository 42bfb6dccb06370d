"""The page on how an organization invoices, with its tax rates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from django.urls import reverse

from accounts.access import Caller
from accounts.domain import Scope
from billing.contexts.words import percent_text
from billing.forms.settings import BillingSettingsForm, TaxRateForm
from billing.models import TaxRate
from billing.queries.settings import get_settings
from billing.queries.tax_rates import list_tax_rates

# More of them are in the API.
MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class TaxRateRow:
    code: str
    name: str
    percent: str
    place: str
    valid_from: date | None
    valid_until: date | None
    archive_url: str


@dataclass(frozen=True, slots=True)
class BillingSettingsPage:
    form: BillingSettingsForm
    rates: list[TaxRateRow]
    is_cut: bool
    # None: the role may not add any.
    rate_form: TaxRateForm | None
    new_rate_url: str


def list_shown_rates(caller: Caller) -> list[TaxRate]:
    """Return one more than are shown, if there are more."""
    rows = list_tax_rates(organization=caller.organization)
    return list(rows.order_by("country", "region", "valid_from", "code")[: MAX_SHOWN + 1])


def get_billing_settings_page(
    caller: Caller,
    rates: list[TaxRate],
    *,
    form: BillingSettingsForm | None = None,
    rate_form: TaxRateForm | None = None,
) -> BillingSettingsPage:
    can_bill = caller.has(Scope.BILLING_WRITE)
    organization = caller.organization
    return BillingSettingsPage(
        form=form or BillingSettingsForm(settings=get_settings(organization), is_editable=can_bill),
        rates=[_row(caller, rate) for rate in rates[:MAX_SHOWN]],
        is_cut=len(rates) > MAX_SHOWN,
        rate_form=(rate_form or TaxRateForm(rates=rates)) if can_bill else None,
        new_rate_url=reverse("billing:new_tax_rate", args=[organization.pk]),
    )


def _row(caller: Caller, rate: TaxRate) -> TaxRateRow:
    return TaxRateRow(
        code=rate.code,
        name=rate.name,
        percent=percent_text(rate.percent),
        place=", ".join(filter(None, (rate.country, rate.region))) or "anywhere else",
        valid_from=rate.valid_from,
        valid_until=rate.valid_until,
        archive_url=reverse("billing:archive_tax_rate", args=[caller.organization.pk, rate.code]),
    )
