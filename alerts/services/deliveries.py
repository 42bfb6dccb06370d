"""Deliveries: one message per endpoint, written with the crossing and sent by the courier."""

from __future__ import annotations

from collections.abc import Sequence

from accounts.models import Organization
from alerts.models import Crossing, Delivery, WebhookEndpoint
from alerts.payloads import crossing_json


def enqueue_crossings(*, organization: Organization, crossings: Sequence[Crossing]) -> None:
    """Write the deliveries that the crossings cause, in the transaction of the crossings."""
    endpoints = WebhookEndpoint.objects.for_organization(organization).filter(disabled_at__isnull=True)
    deliveries = [
        Delivery(
            organization=organization,
            endpoint=endpoint,
            message_type="alert.crossed",
            crossing=crossing,
            payload=crossing_json(crossing),
            next_attempt_at=crossing.triggered_at,
        )
        for endpoint in endpoints
        if not endpoint.message_types or "alert.crossed" in endpoint.message_types
        for crossing in crossings
        if not endpoint.metric_codes or crossing.metric.code in endpoint.metric_codes
    ]
    Delivery.objects.bulk_create(deliveries)
