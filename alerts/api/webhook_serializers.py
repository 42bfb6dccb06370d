"""Shapes of webhook endpoints, deliveries and e-mail subscriptions: what is accepted and what is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rest_framework import serializers

from alerts.domain import DigestFrequency
from alerts.models import MESSAGE_TYPES, Delivery, DeliveryAttempt, DeliveryState, EmailSubscription, WebhookEndpoint
from alerts.services.webhooks import MAX_METRICS
from common.api import Flag, ListQuery, StrictSerializer, Text
from metering.api.serializers import ExactText


class EndpointWrite(StrictSerializer):
    url = ExactText(max_length=2000, help_text="https://…; a public address, without credentials.")
    description = Text(required=False, allow_blank=True, max_length=200)
    message_types = serializers.ListField(
        child=ExactText(max_length=64),
        required=False,
        max_length=len(MESSAGE_TYPES),
        help_text=f"Of {', '.join(MESSAGE_TYPES)}; empty: those of alerts. Those of billing have to be named, by "
        "somebody with billing:read.",
    )
    metrics = serializers.ListField(
        child=ExactText(max_length=64), required=False, max_length=MAX_METRICS, help_text="Codes; empty: all."
    )

    @staticmethod
    def changes_of(attributes: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes in the words of the services."""
        names = {"metrics": "metric_codes", "enabled": "is_enabled"}
        return {names.get(name, name): value for name, value in attributes.items()}


class EndpointChange(EndpointWrite):
    enabled = Flag(help_text="Enabling forgets past failures.")


class EndpointRead(serializers.Serializer):
    id = serializers.CharField()
    url = serializers.CharField()
    description = serializers.CharField()
    message_types = serializers.ListField(child=serializers.CharField())
    metrics = serializers.ListField(child=serializers.CharField())
    enabled = serializers.BooleanField()
    disabled_reason = serializers.CharField(help_text="Why it switched itself off; empty: a member did, or it is on.")
    failing_since = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()

    def to_representation(self, endpoint: WebhookEndpoint) -> dict[str, Any]:
        return endpoint_json(endpoint)


class IssuedEndpointRead(EndpointRead):
    secret = serializers.CharField(help_text="whsec_…; shown this once.")


class RotatedSecretRead(serializers.Serializer):
    secret = serializers.CharField(help_text="whsec_…; shown this once.")
    previous_secret_until = serializers.DateTimeField(allow_null=True, help_text="Until then both secrets sign.")


class DeliveryListQuery(ListQuery):
    state = serializers.ChoiceField(choices=DeliveryState.choices, required=False)


class DeliveryRead(serializers.Serializer):
    id = serializers.CharField()
    message_id = serializers.CharField(help_text="`webhook-id` of every attempt and replay.")
    type = serializers.CharField()
    state = serializers.ChoiceField(choices=DeliveryState.choices)
    attempt_count = serializers.IntegerField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    settled_at = serializers.DateTimeField(allow_null=True)
    payload = serializers.DictField(help_text="The message as it is sent.")

    def to_representation(self, delivery: Delivery) -> dict[str, Any]:
        return delivery_json(delivery)


class AttemptRead(serializers.Serializer):
    attempted_at = serializers.DateTimeField()
    duration_ms = serializers.IntegerField()
    status_code = serializers.IntegerField(allow_null=True, help_text="Null: no answer came.")
    error = serializers.CharField()
    answer = serializers.CharField(help_text="The beginning of the answer's body.")


class DeliveryDetailRead(DeliveryRead):
    attempts = AttemptRead(many=True)


class EmailSubscriptionWrite(StrictSerializer):
    frequency = serializers.ChoiceField(choices=DigestFrequency.choices)


class EmailSubscriptionRead(serializers.Serializer):
    email = serializers.CharField()
    frequency = serializers.ChoiceField(choices=DigestFrequency.choices)
    last_sent_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


def endpoint_json(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": str(endpoint.pk),
        "url": endpoint.url,
        "description": endpoint.description,
        "message_types": endpoint.message_types,
        "metrics": endpoint.metric_codes,
        "enabled": endpoint.disabled_at is None,
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": endpoint.failing_since,
        "created_at": endpoint.created_at,
    }


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    is_pending = delivery.state == DeliveryState.PENDING
    return {
        "id": str(delivery.pk),
        "message_id": delivery.message_id,
        "type": delivery.message_type,
        "state": delivery.state,
        "attempt_count": delivery.attempt_count,
        "next_attempt_at": delivery.next_attempt_at if is_pending else None,
        "created_at": delivery.created_at,
        "settled_at": delivery.settled_at,
        "payload": delivery.payload,
    }


def detailed_delivery_json(delivery: Delivery, attempts: Sequence[DeliveryAttempt]) -> dict[str, Any]:
    fields = ("attempted_at", "duration_ms", "status_code", "error", "answer")
    return delivery_json(delivery) | {
        "attempts": [{name: getattr(attempt, name) for name in fields} for attempt in attempts]
    }


def subscription_json(subscription: EmailSubscription) -> dict[str, Any]:
    return {
        "email": subscription.membership.user.email,
        "frequency": subscription.frequency,
        "last_sent_at": subscription.last_sent_at,
        "created_at": subscription.created_at,
    }
