"""What is reported to Stripe: who and what is called how there, and the outbox of usage reports."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from accounts.models import Customer, Organization
from billing.domain.reporting import UNSETTLED, Progress, ReportState
from common.models import TenantManager
from metering.models import Metric, QuantityField

# How much of an error the rows of billing keep.
MAX_ERROR_CHARACTERS = 500


class StripeCustomer(models.Model):
    """What a customer is called at Stripe. Only the usage of such customers is reported."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="+")
    stripe_customer_id = models.CharField(max_length=255, db_collation="C")
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "customer"], name="stripe_customer_once"),
            # Two customers under one name there would pay for each other.
            models.UniqueConstraint(fields=["organization", "stripe_customer_id"], name="stripe_customer_id_once"),
        ]

    def __str__(self) -> str:
        return self.stripe_customer_id


class StripeMeter(models.Model):
    """The event name of the Stripe meter that a metric is reported to. Only such metrics are reported."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    metric = models.ForeignKey(Metric, on_delete=models.CASCADE, related_name="+")
    event_name = models.CharField(max_length=100, db_collation="C")
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "metric"], name="stripe_meter_once"),
            models.UniqueConstraint(fields=["organization", "event_name"], name="stripe_event_name_once"),
        ]

    def __str__(self) -> str:
        return self.event_name


class UsageReport(models.Model):
    """One thing to tell Stripe: a signed quantity of one window. What it says never changes, only how far it has come.

    The rows of a window that are not superseded add up to the ledger at the time of the last plan.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    subscription = models.ForeignKey("billing.Subscription", on_delete=models.CASCADE, related_name="+")
    metric = models.ForeignKey(Metric, on_delete=models.RESTRICT, related_name="+")
    # A part of one UTC day and of one billing period.
    window_start = models.DateTimeField()
    window_end = models.DateTimeField()
    # 0 says the window's usage first; each further one corrects what was said before.
    sequence = models.PositiveIntegerField()
    # The local month in which the billing period begins, like 2025-01, and when it begins.
    month = models.CharField(max_length=7)
    period_start = models.DateTimeField()
    quantity = QuantityField()
    # As they were when it was planned: a repetition says the same as the first attempt.
    stripe_customer_id = models.CharField(max_length=255, db_collation="C")
    event_name = models.CharField(max_length=100, db_collation="C")
    # A whole second inside the window.
    event_time = models.DateTimeField()
    identifier = models.CharField(max_length=100, db_collation="C")

    state = models.CharField(max_length=10, choices=[(state, state) for state in ReportState])
    attempts = models.PositiveIntegerField(default=0)
    claimed_at = models.DateTimeField(null=True, blank=True)
    first_sent_at = models.DateTimeField(null=True, blank=True)
    # When to look at it again; null: never, it is settled.
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=MAX_ERROR_CHARACTERS, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "subscription", "metric", "window_start", "sequence"],
                name="usage_report_once",
            ),
            models.UniqueConstraint(fields=["organization", "identifier"], name="usage_report_identifier_once"),
            models.CheckConstraint(
                condition=models.Q(window_end__gt=models.F("window_start")), name="usage_report_window_not_empty"
            ),
            models.CheckConstraint(
                condition=models.Q(state__in=UNSETTLED, next_attempt_at__isnull=False)
                | (~models.Q(state__in=UNSETTLED) & models.Q(next_attempt_at__isnull=True)),
                name="usage_report_unsettled_is_due",
            ),
        ]
        indexes = [
            # What is due, the longest waiting first.
            models.Index(
                fields=["organization", "next_attempt_at", "id"],
                condition=models.Q(state__in=UNSETTLED),
                name="usage_report_due",
            ),
            # The reports of a month, and its list.
            models.Index(fields=["organization", "month", "id"], name="usage_report_of_month"),
            # What a summary of Stripe's is compared with: one customer's minute.
            models.Index(
                fields=["organization", "stripe_customer_id", "event_name", "event_time"], name="usage_report_at_stripe"
            ),
        ]

    def __str__(self) -> str:
        return self.identifier

    @property
    def progress(self) -> Progress:
        return Progress(
            state=ReportState(self.state),
            attempts=self.attempts,
            claimed_at=self.claimed_at,
            first_sent_at=self.first_sent_at,
            next_attempt_at=self.next_attempt_at,
            delivered_at=self.delivered_at,
            last_error=self.last_error,
        )


class StripeDrift(models.Model):
    """A customer's UTC day of which Stripe counts something else than the ledger. Found by comparing, never corrected
    by itself; resolved where a later comparison agrees."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="+")
    metric = models.ForeignKey(Metric, on_delete=models.CASCADE, related_name="+")
    # When the day begins.
    day = models.DateTimeField()
    # As last compared: what was used, and what Stripe counts.
    ledger_quantity = QuantityField()
    stripe_quantity = QuantityField()
    found_at = models.DateTimeField()
    checked_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "customer", "metric", "day"], name="stripe_drift_once"),
        ]

    def __str__(self) -> str:
        return f"{self.day:%Y-%m-%d} of {self.customer_id}"
