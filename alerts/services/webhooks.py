"""What people do to webhook endpoints: create, change, rotate the secret, test, replay, delete.

Every change is in the audit log. What the courier does to them is in `alerts.services.deliveries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F

from accounts.models import Organization
from accounts.services import record_audit
from alerts.addresses import read_target
from alerts.models import MESSAGE_TYPES, AlertLog, Delivery, DeliveryState, WebhookEndpoint
from alerts.services.deliveries import (
    TEST,
    begin_again,
    delete_deliveries,
    disable_endpoint,
    enqueue_message,
)
from alerts.services.log import announce, ensure_log
from alerts.signatures import SecretUnreadable, make_secret, open_secret, seal_secret
from common.errors import Conflict, InvalidInput, NotFound
from common.moments import rfc3339
from metering.models import Metric

MAX_ENDPOINTS = 50
MAX_METRICS = 100
# The secret before a rotation signs, too, for as long.
ROTATION_GRACE = timedelta(hours=24)
DELETED_ROWS = 2_000


class EndpointDisabled(Conflict):
    code = "endpoint_disabled"


@dataclass(frozen=True, slots=True)
class EndpointDefinition:
    """Where messages go, and which: of `MESSAGE_TYPES` (empty: all but billing's) and of metrics by code."""

    url: str
    description: str = ""
    message_types: Sequence[str] = ()
    metric_codes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class IssuedEndpoint:
    """A new endpoint together with the only copy of its secret that is ever shown."""

    endpoint: WebhookEndpoint
    secret: str


@dataclass(frozen=True, slots=True)
class RotatedSecret:
    """The new secret, shown once; the previous one signs along until then (None: it could not be read)."""

    secret: str
    previous_secret_until: datetime | None


@transaction.atomic
def create_endpoint(*, organization: Organization, definition: EndpointDefinition, actor: str) -> IssuedEndpoint:
    """Create an enabled endpoint, which gets what crosses from now on.

    Raises `InvalidInput` for an unusable URL, unknown types or metrics, and beyond `MAX_ENDPOINTS`.
    """
    # Not the key, which everything else of the organization refers to: of two who create at once, one waits.
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    endpoints = WebhookEndpoint.objects.for_organization(organization)
    if endpoints[MAX_ENDPOINTS - 1 :].exists():
        raise InvalidInput.of("url", f"At most {MAX_ENDPOINTS} webhook endpoints.", "too_many")
    secret = make_secret()
    endpoint = WebhookEndpoint(
        organization=organization,
        url=definition.url,
        description=definition.description,
        message_types=_known_types(definition.message_types),
        metric_codes=_known_metrics(organization, definition.metric_codes),
        secret=seal_secret(secret),
    )
    _refuse_unreachable(endpoint.url)
    endpoint.save()
    _record(endpoint, "webhook_endpoint.created", actor)
    return IssuedEndpoint(endpoint, secret)


@transaction.atomic
def update_endpoint(
    *, endpoint: WebhookEndpoint, changes: Mapping[str, Any], actor: str, now: datetime
) -> WebhookEndpoint:
    """Change url, description, message_types, metric_codes, or `is_enabled`. Messages under way go to the new URL.

    Enabling forgets that the endpoint failed; what had failed can be replayed.
    """
    locked = _lock(endpoint)
    fields = {name: value for name, value in changes.items() if name != "is_enabled"}
    if "url" in fields:
        _refuse_unreachable(fields["url"])
    if "message_types" in fields:
        fields["message_types"] = _known_types(fields["message_types"])
    if "metric_codes" in fields:
        fields["metric_codes"] = _known_metrics(locked.organization, fields["metric_codes"])
    _change(locked, fields, actor)
    is_enabled = changes.get("is_enabled")
    if is_enabled is True and locked.disabled_at is not None:
        _enable(locked, actor)
    elif is_enabled is False and locked.disabled_at is None:
        disable_endpoint(locked, reason="", now=now)
        _record(locked, "webhook_endpoint.disabled", actor)
    return locked


def delete_endpoint(*, endpoint: WebhookEndpoint, actor: str, now: datetime) -> None:
    """Delete an endpoint with all that was sent to it.

    Its deliveries go first, in small transactions. The end of the log is touched along with the endpoint, so that
    an evaluation under way, which may be writing deliveries for it, begins again and does not see it any more.
    """
    update_endpoint(endpoint=endpoint, changes={"is_enabled": False}, actor=actor, now=now)
    deliveries = Delivery.objects.for_organization(endpoint.organization_id).filter(endpoint=endpoint)
    while _delete_some(deliveries):
        pass
    ensure_log(endpoint.organization)
    with transaction.atomic():
        AlertLog.objects.for_organization(endpoint.organization_id).update(last_offset=F("last_offset"))
        locked = _lock(endpoint)
        _record(locked, "webhook_endpoint.deleted", actor)
        locked.delete()


@transaction.atomic
def rotate_secret(*, endpoint: WebhookEndpoint, actor: str, now: datetime) -> RotatedSecret:
    """Sign with a new secret from now on, and with the one before as well for `ROTATION_GRACE`."""
    locked = _lock(endpoint)
    secret = make_secret()
    locked.previous_secret, locked.previous_secret_until = locked.secret, now + ROTATION_GRACE
    try:
        open_secret(bytes(locked.secret))
    except SecretUnreadable:
        locked.previous_secret, locked.previous_secret_until = None, None
    locked.secret = seal_secret(secret)
    locked.save(update_fields=["secret", "previous_secret", "previous_secret_until"])
    _record(locked, "webhook_endpoint.secret_rotated", actor)
    return RotatedSecret(secret, locked.previous_secret_until)


@transaction.atomic
def send_test(*, endpoint: WebhookEndpoint, now: datetime) -> Delivery:
    """Send a message of the type `alert.test` with sample data. Raises `EndpointDisabled`."""
    locked = _lock(endpoint)
    _require_enabled(locked)
    delivery = enqueue_message(endpoint=locked, message_type=TEST, data=_sample(now), now=now)
    announce(organization_id=locked.organization_id)
    return delivery


@transaction.atomic
def replay_delivery(*, delivery: Delivery, actor: str, now: datetime) -> Delivery:
    """Send a message once more, under its id, now and for as long as a new one; also one that was delivered.

    One that is being sent at this moment goes on. Raises `EndpointDisabled`.
    """
    endpoint = _lock(delivery.endpoint)
    _require_enabled(endpoint)
    deliveries = Delivery.objects.for_organization(delivery.organization_id).select_for_update(no_key=True)
    locked: Delivery | None = deliveries.filter(pk=delivery.pk).first()
    if locked is None:
        raise NotFound("There is no such delivery.")
    is_being_sent = locked.leased_until is not None and locked.leased_until > now
    if not (locked.state == DeliveryState.PENDING and is_being_sent):
        begin_again(locked, now=now)
        record_audit(
            organization=endpoint.organization,
            actor=actor,
            action="webhook_delivery.replayed",
            target=_name(endpoint),
            details={"message_id": locked.message_id},
        )
        announce(organization_id=locked.organization_id)
    return locked


def _lock(endpoint: WebhookEndpoint) -> WebhookEndpoint:
    """Return the endpoint as it is now, ours until the end. Raises `NotFound`. Locked before its deliveries, always."""
    endpoints = WebhookEndpoint.objects.for_organization(endpoint.organization_id)
    found: WebhookEndpoint | None = (
        endpoints.select_for_update(of=("self",), no_key=True)
        .select_related("organization")
        .filter(pk=endpoint.pk)
        .first()
    )
    if found is None:
        raise NotFound("There is no such webhook endpoint.")
    return found


def _change(endpoint: WebhookEndpoint, fields: Mapping[str, Any], actor: str) -> None:
    details = {
        name: {"from": getattr(endpoint, name), "to": value}
        for name, value in fields.items()
        if getattr(endpoint, name) != value
    }
    if not details:
        return
    for name in details:
        setattr(endpoint, name, fields[name])
    endpoint.save(update_fields=list(details))
    _record(endpoint, "webhook_endpoint.updated", actor, details)


def _enable(endpoint: WebhookEndpoint, actor: str) -> None:
    endpoint.disabled_at, endpoint.disabled_reason = None, ""
    endpoint.failing_since, endpoint.is_notice_due = None, False
    endpoint.save(update_fields=["disabled_at", "disabled_reason", "failing_since", "is_notice_due"])
    _record(endpoint, "webhook_endpoint.enabled", actor)
    announce(organization_id=endpoint.organization_id)


@transaction.atomic
def _delete_some(deliveries: Any) -> int:
    return delete_deliveries(deliveries, limit=DELETED_ROWS)


def _require_enabled(endpoint: WebhookEndpoint) -> None:
    if endpoint.disabled_at is not None:
        raise EndpointDisabled("This endpoint is disabled; enable it first.")


def _refuse_unreachable(url: str) -> None:
    read_target(url, may_be_private=settings.WEBHOOKS_MAY_BE_PRIVATE)


def _known_types(message_types: Sequence[str]) -> list[str]:
    unknown = sorted(set(message_types) - set(MESSAGE_TYPES))
    if unknown:
        message = f"Unknown: {', '.join(unknown)[:200]}. Known are {', '.join(MESSAGE_TYPES)}."
        raise InvalidInput.of("message_types", message, "unknown_message_type")
    return sorted(set(message_types))


def _known_metrics(organization: Organization, codes: Sequence[str]) -> list[str]:
    wanted = set(codes)
    if len(wanted) > MAX_METRICS:
        raise InvalidInput.of("metrics", f"At most {MAX_METRICS} metrics; leave them out for all.", "too_many")
    metrics = Metric.objects.for_organization(organization).filter(code__in=wanted)
    unknown = sorted(wanted - set(metrics.values_list("code", flat=True)))
    if unknown:
        raise InvalidInput.of("metrics", f"There is no metric {unknown[0]!r}.", "unknown_metric")
    return sorted(wanted)


def _sample(now: datetime) -> dict[str, Any]:
    """Return an alert as `alert.crossed` carries it; its offset is of no alert."""
    moment = rfc3339(now)
    return {
        "offset": "0",
        "customer": "sample_customer",
        "metric": "sample_metric",
        "threshold_code": "sample_threshold",
        "threshold_value": "100",
        "value_at_cross": "101.5",
        "period": {"start": moment, "end": moment},
        "triggered_at": moment,
    }


def _name(endpoint: WebhookEndpoint) -> str:
    return f"{endpoint.pk} {endpoint.url}"[:320]


def _record(endpoint: WebhookEndpoint, action: str, actor: str, details: dict[str, Any] | None = None) -> None:
    record_audit(
        organization=endpoint.organization, actor=actor, action=action, target=_name(endpoint), details=details
    )
