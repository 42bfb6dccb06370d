"""What is watched for and what came of it: thresholds, their states, crossings, deliveries, quotas, reservations.

Owns no usage number: every one of them comes from `metering.queries`.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from decimal import Decimal

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from accounts.models import Customer, Membership, Organization
from alerts.domain import DigestFrequency, QuotaMode, ThresholdKind, ThresholdOrigin
from billing.domain.notices import NoticeType
from common.models import TenantManager
from metering.models import Metric, QuantityField

# What billing tells (`billing.services.notices`): only to endpoints that name it.
BILLING_TYPES = frozenset(notice.value for notice in NoticeType)
MESSAGE_TYPES = ("alert.crossed", "alert.test", "endpoint.disabled", *(notice.value for notice in NoticeType))


class Threshold(models.Model):
    """A value whose crossing is worth telling: of one customer's usage in a period, or of every customer's.

    Identity for people: its code, within its metric and customer. Archived, never deleted: crossings refer to it.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="thresholds")
    metric = models.ForeignKey(Metric, on_delete=models.CASCADE, related_name="+")
    # Null: each customer on its own. For silence: the metric as a whole.
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    code = models.CharField(max_length=64, db_collation="C")
    kind = models.CharField(max_length=32, choices=ThresholdKind.choices, default=ThresholdKind.VALUE)
    # By kind: the quantity; percent of the included quantity; the quantity the projection reaches; seconds of silence.
    value = QuantityField()
    # {"region": ["us", "eu"]}: only usage with one of the values, for every dimension named.
    filters = models.JSONField(default=dict, blank=True)
    # Fires again at every further multiple of the value.
    is_recurring = models.BooleanField(default=False)
    # Those that a metric or a quota declares change with it and not by themselves.
    origin = models.CharField(max_length=8, choices=ThresholdOrigin.choices, default=ThresholdOrigin.OWN)
    # New or changed: the next evaluation looks at everybody, not only at who sent something.
    is_due = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)
    archived_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "metric", "customer", "code"],
                condition=models.Q(archived_at__isnull=True),
                nulls_distinct=False,
                name="threshold_live_code_once",
            ),
            models.CheckConstraint(condition=models.Q(value__gt=0), name="threshold_value_positive"),
        ]

    def __str__(self) -> str:
        return self.code


class ThresholdState(models.Model):
    """What the last evaluation of a threshold saw, for one customer and one period: the trace of firing or not."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    threshold = models.ForeignKey(Threshold, on_delete=models.CASCADE, related_name="states")
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, null=True, related_name="+")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    # The usage (for projections: the projected usage) then.
    value = QuantityField()
    # The value that fires next was measured against; null: there was nothing to compare with.
    level = QuantityField(null=True)
    # The greatest multiple that has fired; 0: armed.
    fired = models.BigIntegerField(default=0)
    # How often a void, or a change of the threshold, has armed it again.
    arming = models.IntegerField(default=0)
    evaluated_at = models.DateTimeField()

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "threshold", "customer", "period_start"],
                nulls_distinct=False,
                name="threshold_state_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.threshold_id} for {self.customer_id} from {self.period_start}"


class AlertLog(models.Model):
    """The end of an organization's crossing log. Its row lock orders the offsets by commit, without gaps."""

    organization = models.OneToOneField(Organization, on_delete=models.CASCADE, primary_key=True, related_name="+")
    last_offset = models.BigIntegerField(default=0)
    # The organization's `metrics_version` up to which the thresholds that metrics declare are rows here.
    metrics_version = models.BigIntegerField(default=-1)

    objects = TenantManager()

    def __str__(self) -> str:
        return f"log of {self.organization_id}"


class Crossing(models.Model):
    """A recorded move past a threshold. Append-only; it repeats what it needs, so that a later change of the
    threshold changes nothing that was told."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="crossings")
    # Per organization 1, 2, 3 …, in the order of commits.
    offset = models.BigIntegerField()
    threshold = models.ForeignKey(Threshold, on_delete=models.CASCADE, related_name="crossings")
    metric = models.ForeignKey(Metric, on_delete=models.CASCADE, related_name="+")
    # Null: the metric as a whole (silence).
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, null=True, related_name="+")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    # Which multiple of the threshold's value; 1 unless it recurs.
    multiple = models.BigIntegerField(default=1)
    arming = models.IntegerField(default=0)
    threshold_code = models.CharField(max_length=64)
    # The value that was crossed, in the metric's unit (for silence: seconds).
    threshold_value = QuantityField()
    previous_value = QuantityField()
    value_at_cross = QuantityField()
    triggered_at = models.DateTimeField()

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "offset"], name="crossing_offset_once"),
            # Exactly once, whoever evaluates and however often.
            models.UniqueConstraint(
                fields=["organization", "threshold", "customer", "period_start", "arming", "multiple"],
                nulls_distinct=False,
                name="crossing_once",
            ),
        ]
        indexes = [
            # The alert flags of a realtime read; the history of one customer.
            models.Index(fields=["organization", "metric", "customer", "period_start"], name="crossing_by_period"),
        ]

    def __str__(self) -> str:
        return f"{self.threshold_code} at {self.offset}"


# --- delivery -------------------------------------------------------------------------------------------------


def new_message_id() -> str:
    return f"msg_{secrets.token_urlsafe(18)}"


class WebhookEndpoint(models.Model):
    """An address that is told of crossings, and of what happened in billing.

    Secrets are stored encrypted, since signing needs them.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="webhook_endpoints")
    url = models.CharField(max_length=2000)
    description = models.CharField(max_length=200, blank=True)
    # Of `MESSAGE_TYPES`; empty: all but `BILLING_TYPES`.
    message_types = ArrayField(models.CharField(max_length=64), default=list, blank=True)
    # Codes of metrics; empty: all.
    metric_codes = ArrayField(models.CharField(max_length=64), default=list, blank=True)
    secret = models.BinaryField()
    # The secret before the last rotation: both sign until then.
    previous_secret = models.BinaryField(null=True)
    previous_secret_until = models.DateTimeField(null=True)
    # Since when every attempt has failed; null: the last one succeeded, or there was none.
    failing_since = models.DateTimeField(null=True)
    # Off: by a member, or by itself after failing for days (then with a reason).
    disabled_at = models.DateTimeField(null=True, blank=True)
    disabled_reason = models.CharField(max_length=200, blank=True)
    # It switched itself off, and the organization's owners and admins have not been told by e-mail yet.
    is_notice_due = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    def __str__(self) -> str:
        return self.url


class DeliveryState(models.TextChoices):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Delivery(models.Model):
    """One message for one endpoint, from its cause's own transaction until the endpoint took it or we gave up."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries")
    # The same for every attempt and replay, so that the receiver knows a repetition.
    message_id = models.CharField(max_length=64, default=new_message_id)
    message_type = models.CharField(max_length=64)
    crossing = models.ForeignKey(Crossing, on_delete=models.CASCADE, null=True, related_name="deliveries")
    payload = models.JSONField()
    state = models.CharField(max_length=16, choices=DeliveryState.choices, default=DeliveryState.PENDING)
    attempt_count = models.PositiveIntegerField(default=0)
    # Since when it is tried; a replay begins anew.
    first_attempt_at = models.DateTimeField(null=True)
    # When it is due. While a courier is at it, the end of its lease.
    next_attempt_at = models.DateTimeField()
    # The lease of the courier that is at it, by which it proves that the delivery is still its own.
    leased_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    settled_at = models.DateTimeField(null=True)

    objects = TenantManager()

    class Meta:
        indexes = [
            # What the courier looks for: which endpoints have something due, and what.
            models.Index(
                fields=["organization", "endpoint", "next_attempt_at"],
                condition=models.Q(state=DeliveryState.PENDING),
                name="delivery_pending",
            ),
            # What is old enough to be forgotten.
            models.Index(
                fields=["organization", "settled_at"],
                condition=models.Q(settled_at__isnull=False),
                name="delivery_settled",
            ),
            # The deliveries of one endpoint, newest first.
            models.Index(fields=["organization", "endpoint", "-id"], name="delivery_of_endpoint"),
        ]
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return self.message_id


class DeliveryAttempt(models.Model):
    """One request to an endpoint and what came back."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempts")
    attempted_at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField()
    # Null: no answer came; `error` says why.
    status_code = models.PositiveSmallIntegerField(null=True)
    error = models.CharField(max_length=500, blank=True)
    # The beginning of the answer's body, for whoever looks for the cause.
    answer = models.CharField(max_length=1000, blank=True)

    objects = TenantManager()

    def __str__(self) -> str:
        return f"attempt at {self.attempted_at}"


class EmailSubscription(models.Model):
    """A member who gets crossings by e-mail, one digest at a time."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    membership = models.ForeignKey(Membership, on_delete=models.CASCADE, related_name="email_subscriptions")
    frequency = models.CharField(max_length=16, choices=DigestFrequency.choices, default=DigestFrequency.SOON)
    # Every crossing up to here was mailed, or came before the subscription.
    sent_through_offset = models.BigIntegerField(default=0)
    last_sent_at = models.DateTimeField(null=True)
    # While a digest is being sent, or is put off because sending failed: nobody else tries before this moment.
    leased_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "membership"], name="email_subscription_once"),
        ]

    def __str__(self) -> str:
        return f"{self.membership_id} {self.frequency}"


# --- quotas ---------------------------------------------------------------------------------------------------


class Quota(models.Model):
    """How much of a metric a customer may use in a period. A customer's own quota comes before the metric's."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="quotas")
    metric = models.ForeignKey(Metric, on_delete=models.CASCADE, related_name="+")
    # Null: every customer without a quota of its own.
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    mode = models.CharField(max_length=8, choices=QuotaMode.choices, default=QuotaMode.HARD)
    # Null: unlimited; 0: none.
    limit = QuantityField(null=True)
    # How much beyond the limit a soft quota still lets through.
    grace = QuantityField(default=Decimal(0))
    # Each is told once per period, through a threshold that the quota declares.
    warning_percents = ArrayField(models.PositiveSmallIntegerField(), default=list, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "metric", "customer"], nulls_distinct=False, name="quota_once"
            ),
            models.CheckConstraint(
                condition=models.Q(limit__isnull=True) | models.Q(limit__gte=0), name="quota_limit_not_negative"
            ),
            models.CheckConstraint(condition=models.Q(grace__gte=0), name="quota_grace_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.metric_id}: {self.limit}"


def new_reservation_id() -> str:
    return f"res_{secrets.token_hex(12)}"


class ReservationState(models.TextChoices):
    OPEN = "open"
    COMMITTED = "committed"
    RELEASED = "released"


class Reservation(models.Model):
    """An amount held for a customer until it is used or given back. Open and past its time, it holds nothing."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    public_id = models.CharField(max_length=64, default=new_reservation_id)
    metric = models.ForeignKey(Metric, on_delete=models.CASCADE, related_name="+")
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="+")
    amount = QuantityField()
    state = models.CharField(max_length=16, choices=ReservationState.choices, default=ReservationState.OPEN)
    # What was used in the end; null until committed.
    committed_amount = QuantityField(null=True)
    # The caller's own name for the request, so that a retry gets the same reservation; empty: none.
    idempotency_key = models.CharField(max_length=256, blank=True, db_collation="C")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "public_id"], name="reservation_public_id_once"),
            models.UniqueConstraint(
                fields=["organization", "idempotency_key"],
                condition=~models.Q(idempotency_key=""),
                name="reservation_idempotency_key_once",
            ),
        ]
        indexes = [
            # What is held for one customer now.
            models.Index(
                fields=["organization", "metric", "customer", "expires_at"],
                condition=models.Q(state=ReservationState.OPEN),
                name="reservation_open",
            ),
            # What the pruning takes.
            models.Index(fields=["organization", "expires_at"], name="reservation_by_expiry"),
        ]

    def __str__(self) -> str:
        return self.public_id

    def state_at(self, now: datetime) -> str:
        """Return `open`, `committed`, `released` or `expired`."""
        if self.state == ReservationState.OPEN and self.expires_at <= now:
            return "expired"
        return str(self.state)


DEFAULT_RESERVATION = timedelta(minutes=1)
MAX_RESERVATION = timedelta(days=1)
