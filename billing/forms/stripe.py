"""Forms of the Stripe pages: who and what is called how there. The services judge the meaning."""

from __future__ import annotations

from collections.abc import Sequence

from django import forms

from metering.forms import metric_choices
from metering.models import Metric

CUSTOMER_NAME = r"\Acus_[A-Za-z0-9_]{1,200}\Z"


class StripeCustomerForm(forms.Form):
    customer = forms.CharField(
        max_length=256, widget=forms.TextInput(attrs={"list": "customer-ids", "autocomplete": "off"})
    )
    stripe_customer_id = forms.RegexField(
        CUSTOMER_NAME,
        label="At Stripe",
        max_length=204,
        error_messages={"invalid": "A customer of Stripe is named like cus_Q4sh1m2."},
        widget=forms.TextInput(attrs={"placeholder": "cus_Q4sh1m2", "autocomplete": "off"}),
    )


class StripeMeterForm(forms.Form):
    metric = forms.ChoiceField()
    event_name = forms.CharField(
        max_length=100,
        label="Event name of the meter",
        help_text="Of a meter that sums, without a time window. “Compare with Stripe” makes one that is lacking there.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

    def __init__(self, *args: object, metrics: Sequence[Metric], **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # Django's own
        self.fields["metric"].choices = metric_choices(metrics)  # type: ignore[attr-defined]  # a ChoiceField
