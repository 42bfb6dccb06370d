"""Forms of what invoices need besides usage: settings, tax rates, profiles, credits. The services judge the meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from django import forms
from django.forms.models import model_to_dict

from billing.domain.currencies import EXPONENTS
from billing.models import BillingProfile, BillingSettings, GrantKind, TaxRate
from billing.services.credits import DEFAULT_PRIORITY, MAX_AMOUNT_MINOR, MAX_PRIORITY
from billing.services.settings import MAX_ADJUSTMENT_DAYS, MAX_GRACE_HOURS, MAX_PAYMENT_DAYS
from billing.services.tax_rates import MAX_PERCENT_PLACES
from metering.domain import local_midnight

ONE_DAY = timedelta(days=1)
FIRST_DAY, LAST_DAY = date(1970, 1, 2), date(9000, 1, 1)


SETTINGS_GROUPS = (
    ("Seller", ("seller_name", "seller_tax_id", "seller_address", "footer")),
    ("When", ("grace_hours", "payment_days", "adjustment_days")),
    ("Numbers", ("invoice_prefix", "credit_note_prefix")),
    ("Where to", ("is_mailed", "is_pushed_to_stripe")),
)


class DayField(forms.DateField):
    """A day that calendars can be reckoned with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, widget=forms.DateInput(attrs={"type": "date"}), **options)

    def validate(self, value: Any) -> None:
        super().validate(value)
        if value is not None and not FIRST_DAY <= value <= LAST_DAY:
            raise forms.ValidationError("A day of this or the last century.", "out_of_range")


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


class ProfileForm(forms.ModelForm):
    class Meta:
        model = BillingProfile
        fields = ("name", "email", "address", "country", "region", "tax_id", "is_tax_exempt")
        labels = {"email": "Email", "tax_id": "Tax number", "is_tax_exempt": "Pays no taxes"}
        help_texts = {
            "name": "Who pays, as invoices print it.",
            "email": "Where invoices are mailed to.",
            "country": "Two capitals, like DE.",
            "region": "As the tax rates spell it.",
        }
        widgets = {"address": forms.Textarea(attrs={"rows": 3})}


class GrantForm(forms.Form):
    """A grant of credit, in major units and whole days, as people speak of it."""

    amount = forms.DecimalField(
        max_digits=24, decimal_places=max(EXPONENTS.values()), help_text="In the major unit: 50, or 49.90."
    )
    currency = forms.ChoiceField(choices=[(code, code) for code in sorted(EXPONENTS)])
    kind = forms.ChoiceField(
        choices=[(GrantKind.PREPAID, "Prepaid: paid for ahead"), (GrantKind.PROMOTIONAL, "Promotional: given")]
    )
    name = forms.CharField(max_length=200, required=False)
    first_day = DayField(help_text="It pays periods that end on this day or later. Empty: from now on.")
    last_day = DayField(help_text="It pays periods that end by then. Empty: it does not expire.")
    priority = forms.IntegerField(
        min_value=0, max_value=MAX_PRIORITY, initial=DEFAULT_PRIORITY, help_text="The lower the sooner it is used."
    )
    # So that a form that is sent twice grants once.
    idempotency_key = forms.CharField(max_length=64, widget=forms.HiddenInput)

    def __init__(self, data: Mapping[str, Any] | None = None, *, currency: str) -> None:
        super().__init__(data, initial={"currency": currency, "idempotency_key": f"page:{uuid4()}"})

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        amount, currency = values.get("amount"), values.get("currency")
        if amount is not None and currency is not None:
            minor = amount.scaleb(EXPONENTS[currency])
            if minor != minor.to_integral_value():
                self.add_error("amount", f"{currency} has {EXPONENTS[currency]} decimals.")
            elif not 1 <= minor <= MAX_AMOUNT_MINOR:
                self.add_error("amount", "More than nothing, and not beyond measure.")
            values["amount_minor"] = int(minor)
        first, last = values.get("first_day"), values.get("last_day")
        if first is not None and last is not None and last < first:
            self.add_error("last_day", "The last day is not before the first.")
        return values

    def effective_at(self, zone: ZoneInfo) -> datetime | None:
        day: date | None = self.cleaned_data["first_day"]
        return None if day is None else local_midnight(day, zone)

    def expires_at(self, zone: ZoneInfo) -> datetime | None:
        """Return the moment after the midnight at which the last day ends.

        A period of which it is the last day ends at that very midnight, and is still paid.
        """
        day: date | None = self.cleaned_data["last_day"]
        return None if day is None else local_midnight(day + ONE_DAY, zone) + timedelta.resolution


def last_day_of(expires_at: datetime) -> datetime:
    """Return a time of the last day on which a period may end that is still paid."""
    return expires_at - 2 * timedelta.resolution


def percent_text(percent: Decimal) -> str:
    text = f"{percent.normalize():f}"
    return f"{text}\u202f%"
