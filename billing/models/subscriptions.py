"""To whom it is sold: subscriptions, the plan version from each time on, pauses and commitments."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from django.db import models
from django.utils import timezone

from accounts.models import Customer, Organization
from billing.domain.periods import Cycle
from billing.models.plans import PlanVersion
from common.models import TenantManager


class Subscription(models.Model):
    """A customer on a plan, from a time on. A customer may have several. Ended, never deleted."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="subscriptions")
    customer = models.ForeignKey(Customer, on_delete=models.RESTRICT, related_name="subscriptions")
    # What its periods follow from (`billing.domain.periods`). None of it changes: a period that was billed stays.
    starts_at = models.DateTimeField()
    # 1-31; in shorter months the last day.
    anchor_day = models.PositiveSmallIntegerField()
    zone = models.CharField(max_length=64)
    trial_ends_at = models.DateTimeField(null=True, blank=True)
    # When it ends, which may be to come; null: it goes on.
    ends_at = models.DateTimeField(null=True, blank=True)
    # When somebody said so.
    canceled_at = models.DateTimeField(null=True, blank=True)
    # Whether a fee holds in proportion to the time where a period is short, changes its plan or is paused.
    is_prorated = models.BooleanField(default=True)
    # Goes up with everything that changes what its periods cost or were billed: what was computed before does not
    # become an invoice after it.
    revision = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)
    # Under which name it was asked for, and a digest of what was: the same again answers with this one. Or empty.
    idempotency_key = models.CharField(max_length=255, blank=True, db_collation="C")
    request_digest = models.CharField(max_length=64, blank=True, db_collation="C")

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "idempotency_key"],
                condition=~models.Q(idempotency_key=""),
                name="subscription_key_once",
            ),
            models.CheckConstraint(condition=models.Q(anchor_day__range=(1, 31)), name="subscription_anchor_1_to_31"),
            models.CheckConstraint(
                condition=models.Q(ends_at__isnull=True) | models.Q(ends_at__gte=models.F("starts_at")),
                name="subscription_ends_after_start",
            ),
            models.CheckConstraint(
                condition=models.Q(trial_ends_at__isnull=True) | models.Q(trial_ends_at__gt=models.F("starts_at")),
                name="subscription_trial_after_start",
            ),
        ]
        indexes = [
            # The subscriptions of one customer: their page, GET /v1/billing/usage.
            models.Index(fields=["organization", "customer", "id"], name="subscription_of_customer"),
        ]

    def __str__(self) -> str:
        return f"subscription {self.pk} of {self.customer_id}"

    @property
    def cycle(self) -> Cycle:
        return Cycle(self.starts_at, self.anchor_day, ZoneInfo(self.zone), self.trial_ends_at, self.ends_at)

    def status_at(self, at: datetime, pause: SubscriptionPause | None = None) -> str:
        """Return scheduled, trial, active, paused, canceling (it will end) or ended.

        Paused only where it is in the given pause.
        """
        if self.ends_at is not None and (at >= self.ends_at or self.ends_at <= self.starts_at):
            return "ended"
        if at < self.starts_at:
            return "scheduled"
        if pause is not None and pause.starts_at <= at and (pause.ends_at is None or at < pause.ends_at):
            return "paused"
        if self.ends_at is not None:
            return "canceling"
        return "trial" if self.trial_ends_at is not None and at < self.trial_ends_at else "active"


class SubscriptionPhase(models.Model):
    """The plan version of a subscription from `starts_at` on, until the next phase."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="phases")
    version = models.ForeignKey(PlanVersion, on_delete=models.RESTRICT, related_name="phases")
    starts_at = models.DateTimeField()
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "subscription", "starts_at"], name="subscription_phase_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version_id} from {self.starts_at}"


class SubscriptionPause(models.Model):
    """A time in which a subscription charges nothing: no fees, and no usage. Half-open; without an end it goes on."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="pauses")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "subscription"],
                condition=models.Q(ends_at__isnull=True),
                name="pause_open_once",
            ),
            models.CheckConstraint(
                condition=models.Q(ends_at__isnull=True) | models.Q(ends_at__gt=models.F("starts_at")),
                name="pause_ends_after_start",
            ),
        ]
        indexes = [models.Index(fields=["organization", "subscription", "starts_at"], name="pause_of_subscription")]

    def __str__(self) -> str:
        return f"pause of {self.subscription_id} from {self.starts_at}"


class Commitment(models.Model):
    """What a customer promised to spend over some billing periods; the last one's invoice charges what is lacking."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="commitments")
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    # The term: so many billing periods, from the one that begins here.
    starts_at = models.DateTimeField()
    period_count = models.PositiveSmallIntegerField(default=1)
    # Whether another term of the same length follows, and another.
    is_recurring = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    # No term that ends later is charged.
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "subscription", "starts_at"], name="commitment_once"),
            models.CheckConstraint(condition=models.Q(amount_minor__gt=0), name="commitment_positive"),
            models.CheckConstraint(
                condition=models.Q(period_count__range=(1, 120)), name="commitment_up_to_120_periods"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_minor} {self.currency} of {self.subscription_id}"
