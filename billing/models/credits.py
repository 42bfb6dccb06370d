"""What customers have paid ahead or been given: grants, and the ledger of everything that happened to them."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from accounts.models import Customer, Organization
from billing.models.invoices import Invoice
from common.models import TenantManager


class GrantKind(models.TextChoices):
    # Paid for ahead.
    PREPAID = "prepaid"
    # Given for nothing.
    PROMOTIONAL = "promotional"
    # An invoice that came to less than nothing.
    CARRIED_OVER = "carried_over", "carried over"


class CreditGrant(models.Model):
    """An amount that pays a customer's invoices in its currency. What is left of it is the sum of its entries."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    customer = models.ForeignKey(Customer, on_delete=models.RESTRICT, related_name="+")
    kind = models.CharField(max_length=16, choices=GrantKind.choices)
    name = models.CharField(max_length=200, blank=True)
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    # The lower the sooner it is used.
    priority = models.PositiveSmallIntegerField(default=100)
    # It pays the invoices of periods that end from here on and before `expires_at`.
    effective_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    voided_at = models.DateTimeField(null=True, blank=True)
    # The invoice that it carries over.
    source_invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    idempotency_key = models.CharField(max_length=255, blank=True, db_collation="C")
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(amount_minor__gt=0), name="credit_grant_positive"),
            models.CheckConstraint(
                condition=models.Q(expires_at__isnull=True) | models.Q(expires_at__gt=models.F("effective_at")),
                name="credit_grant_expires_after_start",
            ),
            models.UniqueConstraint(
                fields=["organization", "idempotency_key"],
                condition=~models.Q(idempotency_key=""),
                name="credit_grant_key_once",
            ),
            models.UniqueConstraint(
                fields=["organization", "source_invoice"],
                condition=models.Q(source_invoice__isnull=False),
                name="credit_grant_of_invoice_once",
            ),
        ]
        indexes = [models.Index(fields=["organization", "customer", "id"], name="credit_grant_of_customer")]

    def __str__(self) -> str:
        return f"{self.amount_minor} {self.currency} of {self.customer_id}"


class EntryKind(models.TextChoices):
    GRANTED = "granted"
    # An invoice was paid with it; negative.
    APPLIED = "applied"
    # That invoice was voided.
    RETURNED = "returned"
    EXPIRED = "expired"
    VOIDED = "voided"


class CreditEntry(models.Model):
    """One thing that happened to a grant. Append-only; the entries of a grant add up to what is left of it."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    grant = models.ForeignKey(CreditGrant, on_delete=models.CASCADE, related_name="entries")
    customer = models.ForeignKey(Customer, on_delete=models.RESTRICT, related_name="+")
    kind = models.CharField(max_length=10, choices=EntryKind.choices)
    amount_minor = models.BigIntegerField()
    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, null=True, blank=True, related_name="credit_entries")
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            # Exactly once, whoever repeats it; but what a void gives back to an expired grant expires once more.
            models.UniqueConstraint(
                fields=["organization", "grant", "kind", "invoice"],
                condition=~models.Q(kind=EntryKind.EXPIRED),
                nulls_distinct=False,
                name="credit_entry_once",
            ),
        ]
        indexes = [models.Index(fields=["organization", "customer", "id"], name="credit_entry_of_customer")]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount_minor} of grant {self.grant_id}"
