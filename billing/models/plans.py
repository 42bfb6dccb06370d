"""What is sold: plans, their versions and prices."""

from __future__ import annotations

from decimal import Decimal

from django.db import models
from django.utils import timezone

from accounts.models import Organization
from billing.domain import prices as price_domain
from billing.domain.prices import PriceModel, Tier
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
