"""What is sold and to whom: plans, their versions and prices, subscriptions and the plan version of each of their
periods.

Owns no usage number (`metering.queries`) and no rule of money (`billing.domain`).
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db import models
from django.utils import timezone

from accounts.models import Customer, Organization
from billing.domain import prices as price_domain
from billing.domain.periods import Cycle
from billing.domain.prices import PriceModel, Tier
from billing.report_models import StripeCustomer as StripeCustomer
from billing.report_models import StripeDrift as StripeDrift
from billing.report_models import StripeMeter as StripeMeter
from billing.report_models import UsageReport as UsageReport
from common.models import TenantManager
from metering.models import Metric, QuantityField


class Plan(models.Model):
    """What is sold, under one name; its versions say what it costs. Archived, never deleted: subscriptions name it."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="plans")
    code = models.CharField(max_length=64, db_collation="C")
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    # The plan of customers without a subscription, where one is asked for; at most one of an organization's.
    is_default = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    # From then on nobody subscribes to it any more.
    archived_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "code"], name="plan_code_once"),
            models.UniqueConstraint(
                fields=["organization"], condition=models.Q(is_default=True), name="plan_default_once"
            ),
        ]

    def __str__(self) -> str:
        return self.code


class VersionState(models.TextChoices):
    # May be changed; nobody can subscribe to it.
    DRAFT = "draft"
    # Never changes again, nor do its prices: a trigger of the database refuses that too.
    ACTIVE = "active"


class PlanVersion(models.Model):
    """A plan's prices from some time on. Subscriptions keep the version that they were made with."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    plan = models.ForeignKey(Plan, on_delete=models.CASCADE, related_name="versions")
    # 1, 2, 3 … per plan.
    number = models.PositiveIntegerField()
    # ISO 4217; of all its prices.
    currency = models.CharField(max_length=3)
    # The first days of a subscription, which cost nothing.
    trial_days = models.PositiveSmallIntegerField(default=0)
    state = models.CharField(max_length=8, choices=VersionState.choices, default=VersionState.DRAFT)
    created_at = models.DateTimeField(default=timezone.now)
    activated_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "plan", "number"], name="plan_version_once"),
            models.CheckConstraint(
                condition=models.Q(state=VersionState.DRAFT) | models.Q(activated_at__isnull=False),
                name="plan_version_activated_at",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.plan_id} v{self.number}"


class Price(models.Model):
    """How one metric, or a part of it, is charged under a plan version. Amounts are in minor units, with fractions."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    version = models.ForeignKey(PlanVersion, on_delete=models.CASCADE, related_name="prices")
    # Its place among the version's prices, from 0.
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=200, blank=True)
    # Null: a fee of the plan itself, whatever is used.
    metric = models.ForeignKey(Metric, on_delete=models.RESTRICT, null=True, blank=True, related_name="+")
    # {"region": ["us", "eu"]}: only usage with one of the values. Empty: what no other price of the metric charges.
    filters = models.JSONField(default=dict, blank=True)
    model = models.CharField(max_length=32, choices=PriceModel.choices)
    # Of the whole, a unit or a package, or the percentage; null where the tiers say it.
    amount = QuantityField(null=True, blank=True)
    package_size = QuantityField(null=True, blank=True)
    # [{"up_to": "1000" | null, "unit_amount": "0.5", "flat_amount": "0"}], decimals as text.
    tiers = models.JSONField(default=list, blank=True)
    included_quantity = QuantityField(default=Decimal(0))
    minimum = QuantityField(null=True, blank=True)
    maximum = QuantityField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "version", "position"], name="price_position_once"),
            models.CheckConstraint(
                condition=models.Q(amount__isnull=True) | models.Q(amount__gte=0), name="price_amount_not_negative"
            ),
            models.CheckConstraint(
                condition=models.Q(included_quantity__gte=0), name="price_included_quantity_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.position} of {self.version_id}"

    def terms(self, currency: str) -> price_domain.Price:
        """Return what the rating knows of it. `currency` is the version's."""
        return price_domain.Price(
            model=PriceModel(self.model),
            currency=currency,
            amount=self.amount,
            package_size=self.package_size,
            tiers=tuple(
                Tier(
                    up_to=None if tier["up_to"] is None else Decimal(tier["up_to"]),
                    unit_amount=Decimal(tier["unit_amount"]),
                    flat_amount=Decimal(tier["flat_amount"]),
                )
                for tier in self.tiers
            ),
            included_quantity=self.included_quantity,
            minimum=self.minimum,
            maximum=self.maximum,
        )


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

    def status_at(self, at: datetime) -> str:
        """Return scheduled, trial, active, canceling (it will end) or ended."""
        if self.ends_at is not None and (at >= self.ends_at or self.ends_at <= self.starts_at):
            return "ended"
        if at < self.starts_at:
            return "scheduled"
        if self.ends_at is not None:
            return "canceling"
        return "trial" if self.trial_ends_at is not None and at < self.trial_ends_at else "active"


class SubscriptionPhase(models.Model):
    """The plan version of a subscription's periods that begin at `starts_at` or later, until the next phase."""

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
