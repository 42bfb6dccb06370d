"""Servers that reported, and the reports that belong to nobody.

Owns what a server is: its names, its host and version, when it was heard of. Does not own what it counts: its numbers
are events like all others, and read through `metering.queries`.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from accounts.models import Customer, Organization
from common.models import TenantManager
from metering.dialects.influx.domain import MAX_NAME_CHARACTERS, MAX_PRODUCT_CHARACTERS, ReportKind

KINDS = [(kind.value, kind.value) for kind in ReportKind]


class Server(models.Model):
    """One server of an organization's fleet, as it last described itself."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="influx_servers")
    product = models.CharField(max_length=MAX_PRODUCT_CHARACTERS, db_collation="C")
    # Empty where its reports have none.
    cluster_id = models.CharField(max_length=MAX_NAME_CHARACTERS, blank=True, db_collation="C")
    server_id = models.CharField(max_length=MAX_NAME_CHARACTERS, blank=True, db_collation="C")
    # Whose its numbers are; null until it sent one.
    customer = models.ForeignKey(Customer, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    host = models.CharField(max_length=MAX_NAME_CHARACTERS, blank=True)
    version = models.CharField(max_length=MAX_NAME_CHARACTERS, blank=True, db_collation="C")
    # What else it said that is no quantity: {field: text}.
    facts = models.JSONField(default=dict, blank=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    # The newest report that was a minute or more after the one before (see `domain.BEAT`), and the gaps between such.
    beat_at = models.DateTimeField()
    gap_seconds = ArrayField(models.PositiveIntegerField(), default=list, blank=True)
    # When it counts as silent if nothing more comes: its last report, and twice its usual interval.
    silent_at = models.DateTimeField()

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "product", "cluster_id", "server_id"], name="influx_server_once"
            )
        ]
        # The fleet page: one organization's servers, heard of last first.
        indexes = [models.Index(fields=["organization", "-last_seen_at", "-id"], name="influx_server_by_last_seen")]

    def __str__(self) -> str:
        return f"{self.product} {self.server_id or self.cluster_id}".strip()


class AnonymousReport(models.Model):
    """A report that came without a token, kept for the operator for a while. Belongs to no organization.

    Where it came from is not kept.
    """

    kind = models.CharField(max_length=8, choices=KINDS)
    product = models.CharField(max_length=MAX_PRODUCT_CHARACTERS, db_collation="C")
    cluster_id = models.CharField(max_length=MAX_NAME_CHARACTERS, blank=True, db_collation="C")
    server_id = models.CharField(max_length=MAX_NAME_CHARACTERS, blank=True, db_collation="C")
    value_count = models.PositiveIntegerField()
    # The body as it came; empty where it was long.
    payload = models.TextField(blank=True)
    received_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.kind} of {self.product}"
