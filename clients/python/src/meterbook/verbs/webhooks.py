"""Addresses that are told of crossings: `client.webhooks.*`. Receivers use `meterbook.verify_webhook`."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from meterbook.webhooks import RotatedSecret, WebhookDelivery, WebhookEndpoint
from meterbook.wire import Call, Listing, Plan, one_object

ENDPOINTS_PATH = "/v1/webhook-endpoints"


def create(
    url: str, *, description: str | None = None, message_types: Iterable[str] = (), metrics: Iterable[str] = ()
) -> Plan[WebhookEndpoint]:
    """Register an address, for all messages or for these types and metrics.

    The answer's `secret` verifies the messages and is not shown again.
    """
    body = {
        "url": url,
        "description": description,
        "message_types": list(message_types) or None,
        "metrics": list(metrics) or None,
    }
    given = {name: value for name, value in body.items() if value is not None}
    return WebhookEndpoint.from_json((yield from one_object(Call.post(ENDPOINTS_PATH, given))))


def list_all() -> Plan[list[WebhookEndpoint]]:
    """Return the registered addresses."""
    return (yield from Listing(Call.get(ENDPOINTS_PATH, limit=1000), WebhookEndpoint.from_json).all())


def get(endpoint_id: str) -> Plan[WebhookEndpoint]:
    """Return one address. Raises `NotFoundError`."""
    return WebhookEndpoint.from_json((yield from one_object(Call.get(_path(endpoint_id)))))


def update(
    endpoint_id: str,
    *,
    url: str | None = None,
    description: str | None = None,
    message_types: Iterable[str] | None = None,
    metrics: Iterable[str] | None = None,
    enabled: bool | None = None,
) -> Plan[WebhookEndpoint]:
    """Change the given fields; empty `message_types` or `metrics` mean all. `enabled` turns an endpoint off or on."""
    body = {
        "url": url,
        "description": description,
        "message_types": None if message_types is None else list(message_types),
        "metrics": None if metrics is None else list(metrics),
        "enabled": enabled,
    }
    given = {name: value for name, value in body.items() if value is not None}
    call = Call.send("PATCH", _path(endpoint_id), given, is_repeatable=True)
    return WebhookEndpoint.from_json((yield from one_object(call)))


def delete(endpoint_id: str) -> Plan[None]:
    """Forget an address and what was delivered to it."""
    yield Call("DELETE", _path(endpoint_id))


def rotate_secret(endpoint_id: str) -> Plan[RotatedSecret]:
    """Make a new secret. For a while both sign, so give `verify_webhook` both until the old one has ended."""
    return RotatedSecret.from_json((yield from one_object(Call.post(f"{_path(endpoint_id)}/rotate-secret", {}))))


def test(endpoint_id: str) -> Plan[WebhookDelivery]:
    """Send a test message; the answer is the delivery before its first attempt."""
    return WebhookDelivery.from_json((yield from one_object(Call.post(f"{_path(endpoint_id)}/test", {}))))


def deliveries(endpoint_id: str, *, state: str | None = None, page_size: int = 100) -> Listing[WebhookDelivery]:
    """Iterate over an endpoint's deliveries, newest first; pages are fetched as they are needed."""
    call = Call.get(f"{_path(endpoint_id)}/deliveries", state=state, limit=page_size)
    return Listing(call, WebhookDelivery.from_json)


def delivery(endpoint_id: str, delivery_id: str) -> Plan[WebhookDelivery]:
    """Return one delivery with its attempts. Raises `NotFoundError`."""
    return WebhookDelivery.from_json((yield from one_object(Call.get(_delivery_path(endpoint_id, delivery_id)))))


def replay(endpoint_id: str, delivery_id: str) -> Plan[WebhookDelivery]:
    """Deliver a message again, under the same id."""
    call = Call.post(f"{_delivery_path(endpoint_id, delivery_id)}/replay", {})
    return WebhookDelivery.from_json((yield from one_object(call)))


def _path(endpoint_id: str) -> str:
    return f"{ENDPOINTS_PATH}/{quote(str(endpoint_id), safe='')}"


def _delivery_path(endpoint_id: str, delivery_id: str) -> str:
    return f"{_path(endpoint_id)}/deliveries/{quote(str(delivery_id), safe='')}"
