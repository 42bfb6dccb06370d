"""Deliveries: one message per endpoint, written with its cause, sent by the courier, settled by what came of it.

Owns the life of a delivery from its row to its end. Does not own the sending (`alerts.courier`, `alerts.clients`),
nor what people do to endpoints (`alerts.services.webhooks`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from django.db import transaction
from django.db.models import Q

from accounts.models import Organization
from accounts.services import record_audit
from alerts.domain import GIVE_UP_AFTER, Answer, plan_retry
from alerts.models import Crossing, Delivery, DeliveryAttempt, DeliveryState, WebhookEndpoint
from alerts.payloads import crossing_json
from alerts.sql.due_deliveries import ClaimedDelivery
from common.moments import rfc3339

CROSSED, TEST, DISABLED = "alert.crossed", "alert.test", "endpoint.disabled"
ACTOR = "courier"
GONE = 410
# Of an endpoint that is switched off, at once; the rest with the next pruning.
SETTLE_AT_ONCE = 1_000
PRUNED_ROWS = 2_000
KEEP_SETTLED = timedelta(days=30)


# --- messages -------------------------------------------------------------------------------------------------


def enqueue_crossings(*, organization: Organization, crossings: Sequence[Crossing]) -> None:
    """Write the deliveries that the crossings cause, in the transaction of the crossings."""
    Delivery.objects.bulk_create(
        new_delivery(endpoint, CROSSED, crossing_json(crossing), crossing.triggered_at, crossing=crossing)
        for endpoint in _list_listening(organization.pk, CROSSED)
        for crossing in crossings
        if not endpoint.metric_codes or crossing.metric.code in endpoint.metric_codes
    )


def enqueue_message(*, endpoint: WebhookEndpoint, message_type: str, data: dict[str, Any], now: datetime) -> Delivery:
    """Write one message for one endpoint, whatever it subscribes to."""
    delivery = new_delivery(endpoint, message_type, data, now)
    delivery.save()
    return delivery


def _list_listening(organization_id: int, message_type: str) -> list[WebhookEndpoint]:
    endpoints = WebhookEndpoint.objects.for_organization(organization_id).filter(disabled_at__isnull=True)
    return list(endpoints.filter(Q(message_types=[]) | Q(message_types__contains=[message_type])).order_by("pk"))


def new_delivery(
    endpoint: WebhookEndpoint,
    message_type: str,
    data: dict[str, Any],
    at: datetime,
    *,
    crossing: Crossing | None = None,
) -> Delivery:
    """Return a message that is due at once, to be saved with its cause."""
    return Delivery(
        organization_id=endpoint.organization_id,
        endpoint=endpoint,
        message_type=message_type,
        crossing=crossing,
        payload={"type": message_type, "timestamp": rfc3339(at), "data": data},
        next_attempt_at=at,
    )


# --- what came of an attempt ----------------------------------------------------------------------------------


def record_attempt(
    *, claimed: ClaimedDelivery, attempted_at: datetime, answer: Answer, now: datetime, jitter: Fraction
) -> bool:
    """Log the attempt, and settle the delivery or plan the next one. Return False where the lease is lost.

    Then somebody else answers for the delivery, or nobody wants it any more; nothing is written. The endpoint is
    locked before the delivery, as everywhere.
    """
    with transaction.atomic():
        endpoint = _lock_endpoint(claimed.organization_id, claimed.endpoint_id)
        delivery = _lock_claimed(claimed)
        if endpoint is None or delivery is None:
            return False
        DeliveryAttempt.objects.create(
            organization_id=claimed.organization_id,
            delivery=delivery,
            attempted_at=attempted_at,
            duration_ms=answer.duration_ms,
            status_code=answer.status_code,
            error=answer.error,
            answer=answer.text,
        )
        delivery.attempt_count += 1
        delivery.first_attempt_at = delivery.first_attempt_at or attempted_at
        delivery.leased_until = None
        if answer.is_success:
            _settle(delivery, DeliveryState.DELIVERED, now)
            _note_success(endpoint)
        else:
            _note_failure(endpoint, attempted_at, answer, now)
            _plan_next(delivery, endpoint, answer, now, jitter)
        delivery.save()
    return True


def release_claims(claims: Iterable[ClaimedDelivery], *, now: datetime) -> None:
    """Give back what was taken and not sent, so that another courier need not wait for the lease to end."""
    for claimed in claims:
        Delivery.objects.for_organization(claimed.organization_id).filter(
            pk=claimed.id, state=DeliveryState.PENDING, leased_until=claimed.leased_until
        ).update(leased_until=None, next_attempt_at=now)


def _lock_endpoint(organization_id: int, endpoint_id: int) -> WebhookEndpoint | None:
    # Not the key: a transaction that is writing crossings must not wait for us.
    endpoints = WebhookEndpoint.objects.for_organization(organization_id).select_for_update(no_key=True)
    found: WebhookEndpoint | None = endpoints.filter(pk=endpoint_id).first()
    return found


def _lock_claimed(claimed: ClaimedDelivery) -> Delivery | None:
    deliveries = Delivery.objects.for_organization(claimed.organization_id).select_for_update(no_key=True)
    found: Delivery | None = deliveries.filter(
        pk=claimed.id, state=DeliveryState.PENDING, leased_until=claimed.leased_until
    ).first()
    return found


def _settle(delivery: Delivery, state: DeliveryState, now: datetime) -> None:
    delivery.state, delivery.settled_at = state, now


def _plan_next(delivery: Delivery, endpoint: WebhookEndpoint, answer: Answer, now: datetime, jitter: Fraction) -> None:
    assert delivery.first_attempt_at is not None  # the caller has set it
    failures = delivery.attempts.filter(attempted_at__gte=delivery.first_attempt_at).count()
    next_attempt_at = plan_retry(
        failures=failures,
        first_attempt_at=delivery.first_attempt_at,
        now=now,
        jitter=jitter,
        retry_after=answer.retry_after,
    )
    if next_attempt_at is None or endpoint.disabled_at is not None:
        _settle(delivery, DeliveryState.FAILED, now)
    else:
        delivery.next_attempt_at = next_attempt_at


def _note_success(endpoint: WebhookEndpoint) -> None:
    if endpoint.failing_since is not None:
        endpoint.failing_since = None
        endpoint.save(update_fields=["failing_since"])


def _note_failure(endpoint: WebhookEndpoint, attempted_at: datetime, answer: Answer, now: datetime) -> None:
    if endpoint.failing_since is None:
        endpoint.failing_since = attempted_at
        endpoint.save(update_fields=["failing_since"])
    if endpoint.disabled_at is not None:
        return
    if answer.status_code == GONE:
        _switch_off(endpoint, "It answered 410 Gone.", now)
    elif attempted_at - endpoint.failing_since >= GIVE_UP_AFTER:
        _switch_off(endpoint, f"Every attempt of {GIVE_UP_AFTER.days} days failed.", now)


# --- switching off --------------------------------------------------------------------------------------------


def _switch_off(endpoint: WebhookEndpoint, reason: str, now: datetime) -> None:
    """Disable an endpoint that failed for good, and see to it that people learn of it."""
    disable_endpoint(endpoint, reason=reason, now=now)
    endpoint.is_notice_due = True
    endpoint.save(update_fields=["is_notice_due"])
    record_audit(
        organization=endpoint.organization,
        actor=ACTOR,
        action="webhook_endpoint.disabled",
        target=f"{endpoint.pk} {endpoint.url}"[:320],
        details={"reason": reason},
    )
    data = {"id": str(endpoint.pk), "description": endpoint.description, "reason": reason}
    for other in _list_listening(endpoint.organization_id, DISABLED):
        enqueue_message(endpoint=other, message_type=DISABLED, data=data, now=now)


def disable_endpoint(endpoint: WebhookEndpoint, *, reason: str, now: datetime) -> None:
    """Send it nothing more. The caller holds the endpoint's lock.

    What is pending fails, and can be replayed once the endpoint is enabled again; what is being sent just now is
    settled by its own answer.
    """
    endpoint.disabled_at, endpoint.disabled_reason = now, reason
    endpoint.save(update_fields=["disabled_at", "disabled_reason"])
    settle_pending_of(endpoint, now=now, limit=SETTLE_AT_ONCE)


def settle_pending_of(endpoint: WebhookEndpoint, *, now: datetime, limit: int) -> int:
    """Give up on pending deliveries of a disabled endpoint that nobody is sending; return how many."""
    deliveries = Delivery.objects.for_organization(endpoint.organization_id)
    pending = deliveries.filter(
        Q(leased_until__isnull=True) | Q(leased_until__lte=now), endpoint=endpoint, state=DeliveryState.PENDING
    )
    ids = list(pending.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True)[:limit])
    settled: int = deliveries.filter(pk__in=ids).update(state=DeliveryState.FAILED, settled_at=now, leased_until=None)
    return settled


# --- replay and pruning ---------------------------------------------------------------------------------------


def begin_again(delivery: Delivery, *, now: datetime) -> None:
    """Make a locked delivery due now, for another three days, under the same message id."""
    delivery.state, delivery.settled_at = DeliveryState.PENDING, None
    delivery.first_attempt_at, delivery.next_attempt_at, delivery.leased_until = None, now, None
    delivery.save()


def prune_deliveries(*, organization: Organization, now: datetime) -> int:
    """Delete deliveries that were settled long ago with their attempts, and give up on what disabled endpoints left.

    In small transactions, so that nothing waits behind them. Return how many deliveries were deleted.
    """
    for endpoint in WebhookEndpoint.objects.for_organization(organization).filter(disabled_at__lte=now):
        while _settle_step(endpoint, now) == PRUNED_ROWS:
            pass
    deleted = 0
    while step := _prune_step(organization, now - KEEP_SETTLED):
        deleted += step
    return deleted


@transaction.atomic
def _settle_step(endpoint: WebhookEndpoint, now: datetime) -> int:
    return settle_pending_of(endpoint, now=now, limit=PRUNED_ROWS)


@transaction.atomic
def _prune_step(organization: Organization, before: datetime) -> int:
    old = Delivery.objects.for_organization(organization).filter(settled_at__lt=before)
    return delete_deliveries(old, limit=PRUNED_ROWS)


def delete_deliveries(deliveries: Any, *, limit: int) -> int:
    """Delete some of the deliveries with their attempts; return how many."""
    ids = list(deliveries.values_list("pk", flat=True)[:limit])
    DeliveryAttempt.objects.all_tenants().filter(delivery__in=ids).delete()
    Delivery.objects.all_tenants().filter(pk__in=ids).delete()
    return len(ids)
