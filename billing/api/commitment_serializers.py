"""Shapes of commitments. Amounts are whole minor units; they leave as text."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing.models import Commitment
from billing.services.commitments import MAX_AMOUNT_MINOR, MAX_PERIODS
from common.api import Flag, Moment, StrictSerializer, WholeNumber


class CommitmentWrite(StrictSerializer):
    amount_minor = WholeNumber(
        min_value=1, max_value=MAX_AMOUNT_MINOR, help_text="In the currency of the plan that holds when it starts."
    )
    starts_at = Moment(
        required=False, help_text="When one of the subscription's billing periods begins. Default: the current one."
    )
    period_count = WholeNumber(min_value=1, max_value=MAX_PERIODS, default=1, help_text="The term's billing periods.")
    is_recurring = Flag(default=False, help_text="Another term of the same length follows, and another.")


class CommitmentRead(serializers.Serializer):
    id = serializers.CharField()
    subscription = serializers.CharField()
    amount_minor = serializers.CharField()
    currency = serializers.CharField()
    starts_at = serializers.DateTimeField()
    period_count = serializers.IntegerField()
    is_recurring = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True, help_text="No term that is over only later is charged.")


def commitment_json(commitment: Commitment) -> dict[str, Any]:
    return {
        "id": str(commitment.pk),
        "subscription": str(commitment.subscription_id),
        "amount_minor": str(commitment.amount_minor),
        "currency": commitment.currency,
        "starts_at": commitment.starts_at,
        "period_count": commitment.period_count,
        "is_recurring": commitment.is_recurring,
        "created_at": commitment.created_at,
        "ended_at": commitment.ended_at,
    }
