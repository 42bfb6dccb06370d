"""The form of a billing profile: who pays, as invoices print it."""

from __future__ import annotations

from django import forms

from billing.models import BillingProfile


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
