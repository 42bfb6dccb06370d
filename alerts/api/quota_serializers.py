"""Shapes of the quota API: what is accepted and what is answered. Meaning is checked by the services."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import inline_serializer
from rest_framework import serializers

from alerts.domain import QuotaMode
from alerts.models import DEFAULT_RESERVATION, MAX_RESERVATION, Quota, Reservation
from alerts.queries.quotas import QuotaCheck
from alerts.services.quotas import MAX_WARNING_PERCENT, MAX_WARNINGS
from alerts.services.reservations import Held
from common.api import ListQuery, Moment, StrictSerializer, Text, WholeNumber
from common.numbers import exact_text
from metering.api.serializers import ExactText, Quantity

MAX_KEY_CHARACTERS = 256
UNLIMITED = "unlimited"


# --- settings -------------------------------------------------------------------------------------------------


class QuotaFields(StrictSerializer):
    limit = Quantity(min_value=0, allow_null=True, help_text="Null: unlimited; 0: none.")
    mode = serializers.ChoiceField(choices=QuotaMode.choices, required=False)
    grace = Quantity(min_value=0, required=False, help_text="How much a soft quota lets through beyond its limit.")
    warning_percents = serializers.ListField(
        child=WholeNumber(min_value=1, max_value=MAX_WARNING_PERCENT),
        required=False,
        max_length=MAX_WARNINGS,
        help_text="Each is told once per period, as an alert `quota_<percent>`.",
    )


class QuotaWrite(QuotaFields):
    metric = ExactText(max_length=64)
    customer = ExactText(max_length=256, required=False, allow_null=True)


class QuotaChange(QuotaFields):
    """The fields that change; whose usage of which metric it limits stays."""


class QuotaRead(serializers.Serializer):
    id = serializers.CharField()
    metric = serializers.CharField()
    customer = serializers.CharField(allow_null=True, help_text="Null: every customer without a quota of its own.")
    limit = serializers.CharField(allow_null=True)
    mode = serializers.ChoiceField(choices=QuotaMode.choices)
    grace = serializers.CharField()
    warning_percents = serializers.ListField(child=serializers.IntegerField())
    created_at = serializers.DateTimeField()

    def to_representation(self, quota: Quota) -> dict[str, Any]:
        return quota_json(quota)


def quota_json(quota: Quota) -> dict[str, Any]:
    return {
        "id": str(quota.pk),
        "metric": quota.metric.code,
        "customer": quota.customer.external_id if quota.customer else None,
        "limit": None if quota.limit is None else exact_text(quota.limit),
        "mode": quota.mode,
        "grace": exact_text(quota.grace),
        "warning_percents": quota.warning_percents,
        "created_at": quota.created_at,
    }


class QuotaListQuery(ListQuery):
    metric = Text(required=False, max_length=64)
    customer = Text(required=False, max_length=256)


# --- amounts --------------------------------------------------------------------------------------------------


class CheckWrite(StrictSerializer):
    customer = ExactText(max_length=256)
    metric = ExactText(max_length=64)
    amount = Quantity(min_value=0)


class ReserveWrite(CheckWrite):
    ttl_seconds = WholeNumber(
        min_value=1,
        max_value=int(MAX_RESERVATION.total_seconds()),
        default=int(DEFAULT_RESERVATION.total_seconds()),
    )
    idempotency_key = ExactText(
        max_length=MAX_KEY_CHARACTERS,
        required=False,
        help_text="A repeated request answers with the same reservation.",
    )


class CommitWrite(StrictSerializer):
    amount = Quantity(required=False, help_text="At most what was reserved; default: all of it.")
    properties = serializers.DictField(required=False, help_text="Of the event that records the usage.")
    timestamp = Moment(required=False, help_text="When it was used; default: now.")


class CheckRead(serializers.Serializer):
    allowed = serializers.BooleanField()
    limit = serializers.CharField(allow_null=True)
    used = serializers.CharField(help_text="In the metric's current period, open reservations included.")
    remaining = serializers.CharField(allow_null=True, help_text="To the limit, a grace left out.")
    reset_at = serializers.DateTimeField()
    level = serializers.ChoiceField(choices=["ok", "warning", "grace", "exceeded"])


class ReservationRead(serializers.Serializer):
    id = serializers.CharField()
    customer = serializers.CharField()
    metric = serializers.CharField()
    amount = serializers.CharField()
    state = serializers.CharField(help_text="open, expired, committed or released")
    committed_amount = serializers.CharField(allow_null=True)
    expires_at = serializers.DateTimeField()
    quota = CheckRead()


# Beside what every refusal says.
EXCEEDED = inline_serializer(
    "QuotaExceeded", {"code": serializers.CharField(), "message": serializers.CharField(), "quota": CheckRead()}
)


def check_json(check: QuotaCheck) -> dict[str, Any]:
    verdict = check.verdict
    return {
        "allowed": verdict.is_allowed,
        "limit": None if verdict.limit is None else exact_text(verdict.limit),
        "used": exact_text(verdict.used),
        "remaining": None if verdict.remaining is None else exact_text(verdict.remaining),
        "reset_at": check.reset_at,
        "level": verdict.level,
    }


def check_headers(check: QuotaCheck) -> dict[str, str]:
    """Return what a gateway passes on to its own caller. The reset is in Unix seconds, as rate limits tell it."""
    verdict = check.verdict
    return {
        "X-Quota-Limit": UNLIMITED if verdict.limit is None else exact_text(verdict.limit),
        "X-Quota-Used": exact_text(verdict.used),
        "X-Quota-Remaining": UNLIMITED if verdict.remaining is None else exact_text(verdict.remaining),
        "X-Quota-Reset": str(int(check.reset_at.timestamp())),
    }


def held_json(held: Held, *, state: str) -> dict[str, Any]:
    reservation: Reservation = held.reservation
    committed = reservation.committed_amount
    return {
        "id": reservation.public_id,
        "customer": reservation.customer.external_id,
        "metric": reservation.metric.code,
        "amount": exact_text(reservation.amount),
        "state": state,
        "committed_amount": None if committed is None else exact_text(committed),
        "expires_at": reservation.expires_at,
        "quota": check_json(held.check),
    }
