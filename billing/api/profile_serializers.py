"""Shapes of billing profiles."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing.models import BillingProfile
from common.api import Flag, StrictSerializer, Text
from metering.api.serializers import ExactText

FIELDS = ("name", "email", "address", "country", "region", "tax_id", "is_tax_exempt")


class Email(serializers.EmailField):
    """An address, as JSON text: a number is none."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class ProfileWrite(StrictSerializer):
    """A profile as a whole; what is left out is empty."""

    name = Text(max_length=200, default="", allow_blank=True, help_text="Who pays, as invoices print it.")
    email = Email(max_length=254, default="", allow_blank=True, help_text="Where invoices are mailed to.")
    address = Text(max_length=1000, default="", allow_blank=True)
    country = ExactText(max_length=2, default="", allow_blank=True, help_text="ISO 3166-1, two capitals.")
    region = Text(max_length=64, default="", allow_blank=True, help_text="As the rate table spells it.")
    tax_id = Text(max_length=64, default="", allow_blank=True)
    is_tax_exempt = Flag(default=False)


class ProfileRead(serializers.Serializer):
    customer = serializers.CharField()
    name = serializers.CharField()
    email = serializers.CharField()
    address = serializers.CharField()
    country = serializers.CharField()
    region = serializers.CharField()
    tax_id = serializers.CharField()
    is_tax_exempt = serializers.BooleanField()


def profile_json(profile: BillingProfile) -> dict[str, Any]:
    return {"customer": profile.customer.external_id, **{name: getattr(profile, name) for name in FIELDS}}
