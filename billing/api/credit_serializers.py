"""Shapes of the credit ledger. Amounts are whole minor units; they leave as text."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import inline_serializer
from rest_framework import serializers

from billing.api.fields import IdempotencyKey
from billing.models import CreditEntry, CreditGrant, EntryKind, GrantKind
from billing.queries.credits import CreditBalance
from billing.services.credits import DEFAULT_PRIORITY, MAX_AMOUNT_MINOR, MAX_PRIORITY
from common.api import ListQuery, Moment, StrictSerializer, Text, WholeNumber
from metering.api.serializers import ExactText

GRANTED_KINDS = [GrantKind.PREPAID.value, GrantKind.PROMOTIONAL.value]


class CreditWrite(StrictSerializer):
    customer = ExactText(max_length=256)
    currency = ExactText(max_length=3, help_text="ISO 4217; it pays invoices in this currency alone.")
    amount_minor = WholeNumber(min_value=1, max_value=MAX_AMOUNT_MINOR)
    kind = serializers.ChoiceField(choices=GRANTED_KINDS, default=GrantKind.PREPAID.value)
    name = Text(max_length=200, required=False, allow_blank=True)
    priority = WholeNumber(
        min_value=0, max_value=MAX_PRIORITY, default=DEFAULT_PRIORITY, help_text="The lower the sooner it is used."
    )
    effective_at = Moment(required=False, help_text="Default: now. It pays periods that end from here on.")
    expires_at = Moment(
        required=False, allow_null=True, help_text="It pays periods that end before. Default: it does not expire."
    )
    idempotency_key = IdempotencyKey(
        required=False, help_text="Or the header Idempotency-Key. The same request again answers with the same grant."
    )


class CreditListQuery(ListQuery):
    customer = Text(required=False, max_length=256)
    currency = Text(required=False, max_length=3)


class CreditRead(serializers.Serializer):
    id = serializers.CharField()
    customer = serializers.CharField()
    kind = serializers.ChoiceField(choices=GrantKind.choices)
    name = serializers.CharField()
    currency = serializers.CharField()
    amount_minor = serializers.CharField()
    remaining_minor = serializers.CharField(help_text="What is left: the sum of the grant's entries.")
    priority = serializers.IntegerField()
    effective_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    voided_at = serializers.DateTimeField(allow_null=True)
    source_invoice = serializers.CharField(allow_null=True, help_text="The id of the invoice that was carried over.")
    created_at = serializers.DateTimeField()


class CreditBalanceRead(serializers.Serializer):
    currency = serializers.CharField()
    balance_minor = serializers.CharField(help_text="All that is left.")
    available_minor = serializers.CharField(help_text="What of it is in force now.")


class CreditEntryRead(serializers.Serializer):
    id = serializers.CharField()
    grant = serializers.CharField()
    kind = serializers.ChoiceField(choices=EntryKind.choices)
    currency = serializers.CharField()
    amount_minor = serializers.CharField(help_text="Negative where it was taken from the grant.")
    invoice = serializers.CharField(allow_null=True)
    invoice_number = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()


CUSTOMER_CREDITS = inline_serializer(
    "CustomerCredits",
    {
        "customer": serializers.CharField(),
        "balances": CreditBalanceRead(many=True),
        "data": CreditEntryRead(many=True, help_text="Everything that happened, the newest first."),
        "next_cursor": serializers.CharField(allow_null=True),
    },
)


def credit_json(grant: CreditGrant) -> dict[str, Any]:
    """Return a grant that was read with what is left of it."""
    source = grant.source_invoice_id
    return {
        "id": str(grant.pk),
        "customer": grant.customer.external_id,
        "kind": grant.kind,
        "name": grant.name,
        "currency": grant.currency,
        "amount_minor": str(grant.amount_minor),
        "remaining_minor": str(grant.remaining_minor),  # type: ignore[attr-defined]  # annotated
        "priority": grant.priority,
        "effective_at": grant.effective_at,
        "expires_at": grant.expires_at,
        "voided_at": grant.voided_at,
        "source_invoice": None if source is None else str(source),
        "created_at": grant.created_at,
    }


def balance_json(balance: CreditBalance) -> dict[str, str]:
    return {
        "currency": balance.currency,
        "balance_minor": str(balance.balance_minor),
        "available_minor": str(balance.available_minor),
    }


def entry_json(entry: CreditEntry) -> dict[str, Any]:
    invoice = entry.invoice
    return {
        "id": str(entry.pk),
        "grant": str(entry.grant_id),
        "kind": entry.kind,
        "currency": entry.grant.currency,
        "amount_minor": str(entry.amount_minor),
        "invoice": None if invoice is None else str(invoice.pk),
        "invoice_number": None if invoice is None else invoice.number or None,
        "created_at": entry.created_at,
    }
