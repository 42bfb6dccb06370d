"""Invoices at Stripe, and what Stripe tells us: the push of finalised invoices and the inbox of webhooks."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from accounts.models import Organization
from billing.domain.reporting import UNSETTLED, ReportState
from billing.models.invoices import Invoice
from billing.models.reports import MAX_ERROR_CHARACTERS
from common.models import TenantManager


class StripeInvoice(models.Model):
    """A finalised invoice on its way to Stripe, step by step; the outbox, with the states of usage reports."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    invoice = models.OneToOneField(Invoice, on_delete=models.CASCADE, related_name="stripe_invoice")
    # As it was when the push was planned.
    stripe_customer_id = models.CharField(max_length=255, db_collation="C")
    # Empty until Stripe has answered.
    stripe_invoice_id = models.CharField(max_length=255, blank=True, db_collation="C")
    # What Stripe says of it: draft, open, paid, uncollectible, void.
    stripe_status = models.CharField(max_length=32, blank=True)
    hosted_url = models.CharField(max_length=1000, blank=True)
    state = models.CharField(max_length=10, choices=[(state, state) for state in ReportState])
    attempts = models.PositiveIntegerField(default=0)
    # Since when its calls bear the idempotency keys that they do; null: the next attempt makes new ones.
    keyed_at = models.DateTimeField(null=True, blank=True)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=MAX_ERROR_CHARACTERS, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "stripe_invoice_id"],
                condition=~models.Q(stripe_invoice_id=""),
                name="stripe_invoice_id_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["organization", "next_attempt_at", "id"],
                condition=models.Q(state__in=UNSETTLED),
                name="stripe_invoice_due",
            ),
        ]

    def __str__(self) -> str:
        return self.stripe_invoice_id or f"push of {self.invoice_id}"


class InboxState(models.TextChoices):
    RECEIVED = "received"
    DONE = "done"
    # Nothing here handles its type.
    IGNORED = "ignored"
    FAILED = "failed"


class StripeEvent(models.Model):
    """A webhook of Stripe's as it arrived, before anything was made of it. Its id tells repetitions.

    The account at Stripe is the installation's, so whose event it is turns out when it is handled.
    """

    stripe_event_id = models.CharField(max_length=255, unique=True, db_collation="C")
    type = models.CharField(max_length=255, db_collation="C")
    payload = models.JSONField()
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    state = models.CharField(max_length=10, choices=InboxState.choices, default=InboxState.RECEIVED)
    attempts = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=MAX_ERROR_CHARACTERS, blank=True)
    received_at = models.DateTimeField(default=timezone.now)
    handled_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        indexes = [
            models.Index(
                fields=["id"],
                condition=models.Q(state__in=(InboxState.RECEIVED, InboxState.FAILED)),
                name="stripe_event_to_be_handled",
            ),
            # What is forgotten after some months.
            models.Index(fields=["received_at"], name="stripe_event_by_age"),
            # What a page shows of one organization, the newest first.
            models.Index(fields=["organization", "-id"], name="stripe_event_newest"),
        ]

    def __str__(self) -> str:
        return self.stripe_event_id
