"""What billing watches over: budgets, the daily check of events, rollups, invoices and reports, and what to tell."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from accounts.models import Customer, Organization
from billing.models.invoices import BillingPeriod
from billing.models.subscriptions import Subscription
from common.models import TenantManager
from metering.models import Metric, QuantityField


def default_levels() -> list[int]:
    return [50, 80, 100]


class Budget(models.Model):
    """What a subscription is meant to cost in a billing period at most, told at some percentages. Stops nothing."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    subscription = models.OneToOneField(Subscription, on_delete=models.CASCADE, related_name="budget")
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="+")
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    # Percentages of it, ascending.
    levels = ArrayField(models.PositiveSmallIntegerField(), default=default_levels, size=10)
    # Who is written to besides the webhooks; empty: the billing profile's address.
    email = models.EmailField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    # Null: not since it was made or changed, and only the current period is looked at.
    evaluated_at = models.DateTimeField(null=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "subscription"], name="budget_once"),
            models.CheckConstraint(condition=models.Q(amount_minor__gt=0), name="budget_positive"),
        ]
        indexes = [
            # The next to evaluate: the one that waits longest.
            models.Index(fields=["organization", "evaluated_at"], name="budget_next"),
        ]

    def __str__(self) -> str:
        return f"budget of {self.subscription_id}"


class BudgetCrossing(models.Model):
    """A level of a budget that the spend of a billing period has reached. At most once per budget, period and level."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="crossings")
    period_start = models.DateTimeField()
    level = models.PositiveSmallIntegerField()
    spend_minor = models.BigIntegerField()
    # As it was then.
    budget_minor = models.BigIntegerField()
    crossed_at = models.DateTimeField()
    # When the mail of it is due; while it is sent, the end of that lease. Null: sent, given up, or nobody to write to.
    mail_due_at = models.DateTimeField(null=True)
    mailed_at = models.DateTimeField(null=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "budget", "period_start", "level"], name="budget_crossing_once"
            ),
        ]
        indexes = [
            # The mails that are due: a few rows.
            models.Index(
                fields=["organization", "mail_due_at"],
                condition=models.Q(mail_due_at__isnull=False),
                name="budget_crossing_to_mail",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.level} % of budget {self.budget_id}"


class UsageCheck(models.Model):
    """Whether a billed period's usage of a metric is the same everywhere: raw events, rollups, invoices, reports.

    One row per period and metric, as last compared. A number that cannot be told (events that are no longer kept, a
    customer who is not reported) is null and disagrees with nobody.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    period = models.ForeignKey(BillingPeriod, on_delete=models.CASCADE, related_name="checks")
    metric = models.ForeignKey(Metric, on_delete=models.CASCADE, related_name="+")
    events_quantity = QuantityField(null=True)
    rollups_quantity = QuantityField(null=True)
    invoiced_quantity = QuantityField(null=True)
    reported_quantity = QuantityField(null=True)
    agrees = models.BooleanField()
    checked_at = models.DateTimeField()
    # Since when it has not agreed; null while it does.
    differs_since = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "period", "metric"], name="usage_check_once"),
        ]
        indexes = [
            models.Index(
                fields=["organization", "period"], condition=models.Q(agrees=False), name="usage_check_differs"
            ),
        ]

    def __str__(self) -> str:
        return f"check of {self.metric_id} in {self.period_id}"


class Notice(models.Model):
    """Something that happened in billing and is to be told: the outbox that the alerts app empties into webhooks.

    Written in the transaction in which it happened; deleted in the one that takes it over.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    # "invoice.finalised", "budget.crossed", …
    type = models.CharField(max_length=64)
    payload = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        indexes = [models.Index(fields=["organization", "id"], name="notice_in_order")]

    def __str__(self) -> str:
        return f"{self.type} {self.pk}"
