"""Whose records arrive at the forward port: the instances that are mapped, and the records that could not be counted.

Owns no usage: what is counted is an ordinary event of the organization.
"""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from accounts.models import Organization
from common.models import TenantManager
from metering.dialects.weave.domain import MAX_WORD_CHARACTERS


class QuarantineReason(models.TextChoices):
    """Why a record is not an event. The codes of refused events (`metering.admission`) come beside these."""

    UNKNOWN_INSTANCE = "unknown_instance", "No organization has mapped the instance"
    UNKNOWN_AMOUNT_TYPE = "unknown_metric", "No active metric listens to the amount type"
    CONFLICT = "conflict", "Another record with this key was counted"
    MALFORMED = "malformed_record", "The record is not one of the billing-client's"
    OVERSIZED = "record_too_large", "The record is too large to be read"


class WeaveSettings(models.Model):
    """How an organization takes in records. Without a row: the defaults."""

    organization = models.OneToOneField(Organization, on_delete=models.CASCADE, primary_key=True, related_name="+")
    # True: a sum metric is created for an amount type that no metric listens to; False: its records are quarantined.
    is_metric_auto_created = models.BooleanField(default=True)

    objects = TenantManager()

    class Meta:
        verbose_name_plural = "weave settings"

    def __str__(self) -> str:
        return f"weave settings of {self.organization_id}"


class Instance(models.Model):
    """A sender's `internal_instance_id`, and the customer of the organization for whom its amounts are counted."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="weave_instances")
    # Unique in the whole installation: the port is not authenticated, and this is all that names a tenant there.
    internal_instance_id = models.CharField(max_length=MAX_WORD_CHARACTERS, unique=True, db_collation="C")
    customer_external_id = models.CharField(max_length=MAX_WORD_CHARACTERS, db_collation="C")
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        # The list of an organization's instances, in the order of their ids.
        indexes = [models.Index(fields=["organization", "internal_instance_id"], name="weave_instance_by_id")]

    def __str__(self) -> str:
        return self.internal_instance_id


class QuarantinedRecord(models.Model):
    """A record that waits: until its instance is mapped, or until the cause of its refusal is fixed.

    Released or discarded, the row goes. It belongs to no organization while its instance is unknown.
    """

    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, null=True, blank=True, related_name="weave_quarantined_records"
    )
    # Empty where the record does not tell.
    internal_instance_id = models.CharField(max_length=MAX_WORD_CHARACTERS, blank=True, db_collation="C")
    unique_key = models.CharField(max_length=MAX_WORD_CHARACTERS, blank=True, db_collation="C")
    amount_type = models.CharField(max_length=MAX_WORD_CHARACTERS, blank=True, db_collation="C")
    # One of `QuarantineReason` or a code of `metering.admission`.
    reason = models.CharField(max_length=64)
    message = models.TextField()
    # The record as JSON text, not jsonb: it was not examined, so it may hold what jsonb refuses.
    record = models.TextField()
    # False: the text is only the beginning of the record, or not JSON, and cannot be released.
    is_whole = models.BooleanField(default=True)
    # SHA-256 of the record: a sender's retry of a waiting record is the same row, not a second one.
    digest = models.BinaryField(max_length=32, unique=True)
    # Who sent it: `address:port`.
    peer = models.CharField(max_length=64)
    received_at = models.DateTimeField()

    objects = TenantManager()

    class Meta:
        indexes = [
            # The list of an organization's records, and of those of nobody (null), newest first.
            models.Index(fields=["organization", "-id"], name="weave_quarantine_by_tenant"),
            # Everything that waits for one instance.
            models.Index(fields=["internal_instance_id", "id"], name="weave_quarantine_by_instance"),
        ]

    def __str__(self) -> str:
        return f"{self.reason}: {self.unique_key}"
