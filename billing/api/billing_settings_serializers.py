"""Shapes of how an organization invoices."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing.models import BillingSettings
from billing.services.settings import CHANGEABLE, MAX_ADJUSTMENT_DAYS, MAX_GRACE_HOURS, MAX_PAYMENT_DAYS
from common.api import Flag, StrictSerializer, Text, WholeNumber
from metering.api.serializers import ExactText


class BillingSettingsChange(StrictSerializer):
    grace_hours = WholeNumber(
        min_value=0,
        max_value=MAX_GRACE_HOURS,
        help_text="For so long after a period's end its invoice is a draft, and late usage still enters it.",
    )
    payment_days = WholeNumber(min_value=0, max_value=MAX_PAYMENT_DAYS)
    adjustment_days = WholeNumber(
        min_value=0,
        max_value=MAX_ADJUSTMENT_DAYS,
        help_text="Periods that ended so many days ago are still adjusted to what came to be known.",
    )
    invoice_prefix = ExactText(
        max_length=16, allow_blank=True, help_text="Another prefix begins a series of its own, at 1."
    )
    credit_note_prefix = ExactText(max_length=16, allow_blank=True)
    seller_name = Text(max_length=200, allow_blank=True)
    seller_address = Text(max_length=1000, allow_blank=True)
    seller_tax_id = Text(max_length=64, allow_blank=True)
    footer = Text(max_length=2000, allow_blank=True)
    is_mailed = Flag(help_text="On finalisation, to the address of the customer's billing profile.")
    is_pushed_to_stripe = Flag(help_text="On finalisation, as an invoice at Stripe.")


class BillingSettingsRead(serializers.Serializer):
    grace_hours = serializers.IntegerField()
    payment_days = serializers.IntegerField()
    adjustment_days = serializers.IntegerField()
    invoice_prefix = serializers.CharField()
    credit_note_prefix = serializers.CharField()
    seller_name = serializers.CharField()
    seller_address = serializers.CharField()
    seller_tax_id = serializers.CharField()
    footer = serializers.CharField()
    is_mailed = serializers.BooleanField()
    is_pushed_to_stripe = serializers.BooleanField()


def billing_settings_json(settings: BillingSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in sorted(CHANGEABLE)}
