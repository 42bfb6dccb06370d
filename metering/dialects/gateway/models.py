"""What an organization says about its API gateway: how each route is metered, and what is kept of a request.

Owns no usage: what was requested are events and rollups like any others.
"""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from accounts.models import Organization
from common.models import TenantManager
from metering.dialects.gateway.domain import ANY_METHOD
from metering.models import Metric


class MeteringMode(models.TextChoices):
    REQUEST = "request"
    BYTES = "bytes"
    RESPONSE_FIELD = "response_field"
    CUSTOM = "custom"


class ErrorPolicy(models.TextChoices):
    """What becomes of a request whose expression gives no usable number."""

    REJECT = "reject"
    ZERO = "zero"
    ONE = "one"


class IpStorage(models.TextChoices):
    OFF = "off"
    TRUNCATED = "truncated"
    FULL = "full"


class Route(models.Model):
    """How the requests of one route are metered. Identity for people and for records: `code`, shown as `id`."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="gateway_routes")
    code = models.CharField(max_length=64, db_collation="C")
    name = models.CharField(max_length=200)
    # In capitals; "*": every method.
    method = models.CharField(max_length=32, default=ANY_METHOD)
    # Empty: only records that name the route are its requests.
    path_pattern = models.CharField(max_length=512, blank=True)
    # The pattern without the names of its parameters: two routes of one shape would match the same requests.
    path_shape = models.CharField(max_length=512, blank=True, db_collation="C")
    metering_mode = models.CharField(max_length=16, choices=MeteringMode.choices, default=MeteringMode.REQUEST)
    # Only for the modes that evaluate one.
    metering_expr = models.CharField(max_length=1000, blank=True)
    # A sum that takes the units too, under the property that it names; null: the gateway's own metrics alone.
    metric = models.ForeignKey(Metric, on_delete=models.RESTRICT, null=True, blank=True, related_name="+")
    on_metering_error = models.CharField(max_length=8, choices=ErrorPolicy.choices, default=ErrorPolicy.REJECT)
    # How often it was changed: tells whoever remembers an organization's routes that they are others now.
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "code"], name="gateway_route_code_once"),
            models.UniqueConstraint(
                fields=["organization", "method", "path_shape"],
                condition=~models.Q(path_shape=""),
                name="gateway_route_path_once",
            ),
        ]

    def __str__(self) -> str:
        return self.code


class GatewaySettings(models.Model):
    """What an organization keeps of requests and how its middleware sends them. No row: the defaults."""

    organization = models.OneToOneField(Organization, on_delete=models.CASCADE, primary_key=True, related_name="+")
    usage_tracking_enabled = models.BooleanField(default=True)
    usage_store_ip = models.CharField(max_length=16, choices=IpStorage.choices, default=IpStorage.TRUNCATED)
    usage_store_path = models.BooleanField(default=True)
    # How the middleware buffers.
    usage_batch_size = models.PositiveIntegerField(default=100)
    usage_flush_interval_ms = models.PositiveIntegerField(default=1000)
    usage_compression = models.BooleanField(default=True)
    # Raw requests, and what was counted of them.
    usage_retention_days = models.PositiveIntegerField(default=30)
    usage_aggregate_retention_days = models.PositiveIntegerField(default=365)
    updated_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        verbose_name_plural = "gateway settings"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(usage_retention_days__gte=1), name="gateway_settings_retention_positive"
            ),
        ]

    def __str__(self) -> str:
        return f"gateway settings of {self.organization_id}"
