"""Reads of webhook endpoints and their deliveries."""

from accounts.models import Organization
from alerts.models import Delivery, DeliveryAttempt, WebhookEndpoint
from common.models import TenantQuerySet

# An endpoint that fails for three days has some twenty; replays add to them.
MAX_ATTEMPTS = 200


def list_endpoints(*, organization: Organization) -> TenantQuerySet:
    return WebhookEndpoint.objects.for_organization(organization)


def get_endpoint(*, organization: Organization, endpoint_id: int) -> WebhookEndpoint:
    """Return the endpoint. Raises `NotFound`, for a foreign id like for an absent one."""
    return list_endpoints(organization=organization).get_by_id(endpoint_id, "There is no such webhook endpoint.")


def list_deliveries(*, endpoint: WebhookEndpoint, state: str | None = None) -> TenantQuerySet:
    """Return what was, is and will be sent to the endpoint."""
    deliveries = Delivery.objects.for_organization(endpoint.organization_id).filter(endpoint=endpoint)
    return deliveries if state is None else deliveries.filter(state=state)


def get_delivery(*, endpoint: WebhookEndpoint, delivery_id: int) -> Delivery:
    """Return a delivery of this endpoint, with the endpoint. Raises `NotFound`."""
    deliveries = list_deliveries(endpoint=endpoint).select_related("endpoint")
    return deliveries.get_by_id(delivery_id, "There is no such delivery.")


def list_attempts(*, delivery: Delivery) -> list[DeliveryAttempt]:
    """Return the last attempts, in order."""
    attempts = DeliveryAttempt.objects.for_organization(delivery.organization_id).filter(delivery=delivery)
    return list(attempts.order_by("-pk")[:MAX_ATTEMPTS])[::-1]
