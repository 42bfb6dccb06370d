"""Forms of the billing settings and of tax rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.forms.models import model_to_dict

from billing.forms.days import DayField
from billing.models import BillingSettings, TaxRate
from billing.services.settings import MAX_ADJUSTMENT_DAYS, MAX_GRACE_HOURS, MAX_PAYMENT_DAYS
from billing.services.tax_rates import MAX_PERCENT_PLACES

SETTINGS_GROUPS = (
    ("Seller", ("seller_name", "seller_tax_id", "seller_address", "footer")),
    ("When", ("grace_hours", "payment_days", "adjustment_days")),
    ("Numbers", ("invoice_prefix", "credit_note_prefix")),
    ("Where to", ("is_mailed", "is_pushed_to_stripe")),
)


class BillingSettingsForm(forms.Form):
    seller_name = forms.CharField(label="Your name", max_length=200, required=False)
    seller_address = forms.CharField(
        label="Your address", max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": 3})
    )
    seller_tax_id = forms.CharField(label="Your tax number", max_length=64, required=False)
    footer = forms.CharField(
        label="Foot of the invoice",
        max_length=2000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Bank details, for one.",
    )
    grace_hours = forms.IntegerField(
        label="Grace, in hours",
        min_value=0,
        max_value=MAX_GRACE_HOURS,
        help_text="A period that ended has a draft for so long, and late usage still enters it.",
    )
    adjustment_days = forms.IntegerField(
        label="Adjust for, in days",
        min_value=0,
        max_value=MAX_ADJUSTMENT_DAYS,
        help_text="What comes to be known of a period so long after its end is on a later invoice.",
    )
    payment_days = forms.IntegerField(label="Days to pay", min_value=0, max_value=MAX_PAYMENT_DAYS)
    invoice_prefix = forms.CharField(
        label="Invoice numbers begin with",
        max_length=16,
        required=False,
        strip=False,
        help_text="Another beginning starts a series of its own, at 1.",
    )
    credit_note_prefix = forms.CharField(
        label="Credit note numbers begin with", max_length=16, required=False, strip=False
    )
    is_mailed = forms.BooleanField(
        label="Mail invoices",
        required=False,
        help_text="When they become final, to the address in the billing profile.",
    )
    is_pushed_to_stripe = forms.BooleanField(
        label="Push invoices to Stripe", required=False, help_text="When they become final, to be paid there."
    )

    def __init__(
        self, data: Mapping[str, Any] | None = None, *, settings: BillingSettings, is_editable: bool = True
    ) -> None:
        super().__init__(data, initial=model_to_dict(settings))
        for field in self.fields.values():
            field.disabled = not is_editable

    @property
    def groups(self) -> list[tuple[str, list[forms.BoundField]]]:
        """The fields as the page has them."""
        return [(title, [self[name] for name in names]) for title, names in SETTINGS_GROUPS]


class TaxRateForm(forms.ModelForm):
    percent = forms.DecimalField(
        min_value=0, max_value=100, max_digits=3 + MAX_PERCENT_PLACES, decimal_places=MAX_PERCENT_PLACES
    )
    valid_from = DayField()
    valid_until = DayField(help_text="The last day.")
    replaces = forms.ChoiceField(required=False, help_text="It then ends the day before.")

    class Meta:
        model = TaxRate
        fields = ("name", "code", "percent", "country", "region", "valid_from", "valid_until")
        labels = {"country": "Country"}
        help_texts = {
            "name": "As invoices print it.",
            "code": "Lower-case letters, digits and _ . : -",
            "country": "Two capitals, like DE. Empty: wherever no rate names the country.",
            "region": "As profiles spell it. Empty: the whole country.",
        }

    def __init__(self, *args: Any, rates: Sequence[TaxRate], **options: Any) -> None:
        super().__init__(*args, **options)
        choices = [("", "None"), *((rate.code, f"{rate.name} ({rate.code})") for rate in rates)]
        self.fields["replaces"].choices = choices  # type: ignore[attr-defined]  # a ChoiceField
