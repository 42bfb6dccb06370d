"""Who may have to do with which webhook endpoint. What billing tells is for those who may read billing."""

from __future__ import annotations

from collections.abc import Iterable

from accounts.access import Caller
from accounts.domain import Scope
from alerts.models import BILLING_TYPES, Delivery, WebhookEndpoint
from alerts.queries.webhooks import get_endpoint


def require_for_types(caller: Caller, message_types: Iterable[str]) -> None:
    """Raise `PermissionRefused` for who may not read billing and names a message of it."""
    if not BILLING_TYPES.isdisjoint(message_types):
        caller.require(Scope.BILLING_READ)


def get_endpoint_for(caller: Caller, endpoint_id: int) -> WebhookEndpoint:
    """Return the endpoint. Raises `NotFound`, or `PermissionRefused` where it gets or ever got messages of billing
    that the caller may not read."""
    found = get_endpoint(organization=caller.organization, endpoint_id=endpoint_id)
    require_for_types(caller, found.message_types)
    if not caller.has(Scope.BILLING_READ):
        told = Delivery.objects.for_organization(caller.organization).filter(endpoint=found)
        ever = told.filter(message_type__in=BILLING_TYPES).values_list("message_type", flat=True)
        require_for_types(caller, ever[:1])
    return found
