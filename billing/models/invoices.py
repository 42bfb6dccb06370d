"""What is charged: billing periods, invoices and their lines, the number series, and what an invoice says besides.

A finalised invoice never changes, nor do its lines: a trigger of the database refuses that too. What comes later is
an adjustment on the next one, a credit note, or a void.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import models
from django.utils import timezone

from accounts.models import Customer, Organization
from billing.models.plans import Price
from billing.models.reports import MAX_ERROR_CHARACTERS
from billing.models.subscriptions import Subscription
from common.models import TenantManager
from metering.models import QuantityField


class BillingSettings(models.Model):
    """How an organization invoices. Without a row everything is as the defaults say."""

    organization = models.OneToOneField(Organization, on_delete=models.CASCADE, primary_key=True, related_name="+")
    # For so long after a period's end its invoice is a draft, and late usage still enters it.
    grace_hours = models.PositiveSmallIntegerField(default=24)
    payment_days = models.PositiveSmallIntegerField(default=14)
    # Periods that ended so many days ago are still adjusted to what came to be known.
    adjustment_days = models.PositiveSmallIntegerField(default=92)
    # What the numbers of the two series begin with.
    invoice_prefix = models.CharField(max_length=16, default="INV-", blank=True)
    credit_note_prefix = models.CharField(max_length=16, default="CN-", blank=True)
    seller_name = models.CharField(max_length=200, blank=True)
    seller_address = models.TextField(max_length=1000, blank=True)
    seller_tax_id = models.CharField(max_length=64, blank=True)
    footer = models.TextField(max_length=2000, blank=True)
    # On finalisation, to the address of the customer's billing profile.
    is_mailed = models.BooleanField(default=False)
    # On finalisation, as an invoice at Stripe.
    is_pushed_to_stripe = models.BooleanField(default=False)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(grace_hours__lte=720), name="billing_grace_up_to_720_hours"),
            # One number would stand for two documents.
            models.CheckConstraint(
                condition=~models.Q(invoice_prefix=models.F("credit_note_prefix")), name="billing_prefixes_differ"
            ),
        ]

    def __str__(self) -> str:
        return f"billing settings of {self.organization_id}"

    @property
    def grace(self) -> timedelta:
        return timedelta(hours=self.grace_hours)


class BillingProfile(models.Model):
    """Who pays a customer's invoices, and what decides their taxes."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    customer = models.OneToOneField(Customer, on_delete=models.CASCADE, related_name="billing_profile")
    name = models.CharField(max_length=200, blank=True)
    email = models.EmailField(blank=True)
    address = models.TextField(max_length=1000, blank=True)
    # ISO 3166-1, two capitals, and a part of the country where taxes differ.
    country = models.CharField(max_length=2, blank=True)
    region = models.CharField(max_length=64, blank=True)
    tax_id = models.CharField(max_length=64, blank=True)
    is_tax_exempt = models.BooleanField(default=False)

    objects = TenantManager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization", "customer"], name="billing_profile_once")]

    def __str__(self) -> str:
        return f"billing profile of {self.customer_id}"


class TaxRate(models.Model):
    """One row of the rate table: a tax of a country, of a part of it, or (no country) of wherever no other row is."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    code = models.CharField(max_length=64, db_collation="C")
    name = models.CharField(max_length=100)
    percent = QuantityField()
    country = models.CharField(max_length=2, blank=True)
    region = models.CharField(max_length=64, blank=True)
    # Days, the last one included; of the period's end.
    valid_from = models.DateField(null=True, blank=True)
    valid_until = models.DateField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    archived_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "code"],
                condition=models.Q(archived_at__isnull=True),
                name="tax_rate_live_code_once",
            ),
            models.CheckConstraint(condition=models.Q(percent__range=(0, 100)), name="tax_rate_0_to_100_percent"),
        ]

    def __str__(self) -> str:
        return self.code


class PeriodState(models.TextChoices):
    # It goes on.
    OPEN = "open"
    # It has ended; its invoice is a draft.
    GRACE = "grace"
    # Billed. What becomes known later is an adjustment.
    FINALISED = "finalised"


class BillingPeriod(models.Model):
    """`[starts_at, ends_at)` of one subscription, as it was or will be billed. Contiguous, from first to last."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="periods")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    is_trial = models.BooleanField(default=False)
    state = models.CharField(max_length=10, choices=PeriodState.choices, default=PeriodState.OPEN)
    # When the invoice is due to be finalised; null while the period goes on.
    grace_ends_at = models.DateTimeField(null=True, blank=True)
    finalised_at = models.DateTimeField(null=True, blank=True)
    # Its invoice was voided for good: nothing of it is charged or adjusted any more.
    is_waived = models.BooleanField(default=False)
    # The quantities that were billed last, in the order of its lines, as text: where they are still the same there is
    # nothing to adjust. Null: to be looked at in any case.
    billed_quantities = models.JSONField(null=True, blank=True)
    # Why its invoice could not be made the last time, or empty.
    problem = models.CharField(max_length=MAX_ERROR_CHARACTERS, blank=True)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "subscription", "starts_at"], name="billing_period_once"),
            models.CheckConstraint(
                condition=models.Q(ends_at__gt=models.F("starts_at")), name="billing_period_not_empty"
            ),
            models.CheckConstraint(
                condition=models.Q(state=PeriodState.OPEN) | models.Q(grace_ends_at__isnull=False),
                name="billing_period_grace_known",
            ),
        ]
        indexes = [
            # What an invoice run looks for: periods that have ended, periods whose grace has.
            models.Index(
                fields=["organization", "state", "ends_at"],
                condition=~models.Q(state=PeriodState.FINALISED),
                name="billing_period_due",
            ),
            # What a run adjusts, and until when everything is billed.
            models.Index(fields=["organization", "ends_at"], name="billing_period_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d} of subscription {self.subscription_id}"


class InvoiceKind(models.TextChoices):
    # A billing period, with adjustments of earlier ones.
    PERIOD = "period"
    # Adjustments alone: the subscription has no next period, or it is in another currency.
    ADJUSTMENT = "adjustment"
    # Gives back of an invoice; its amounts are negative.
    CREDIT_NOTE = "credit_note", "credit note"


class InvoiceState(models.TextChoices):
    # May change with every late event; has neither lines nor a number.
    DRAFT = "draft"
    FINALISED = "finalised"
    # Finalised and then taken back; keeps its number.
    VOID = "void"


class Invoice(models.Model):
    """What a customer owes for a billing period. Amounts are whole minor units.

    Guarantee: the lines add up to the subtotal, the taxes to the tax, and those to the total. A draft's amounts are
    those of `known_at`.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    customer = models.ForeignKey(Customer, on_delete=models.RESTRICT, related_name="+")
    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="invoices")
    period = models.ForeignKey(BillingPeriod, on_delete=models.CASCADE, related_name="invoices")
    kind = models.CharField(max_length=12, choices=InvoiceKind.choices, default=InvoiceKind.PERIOD)
    # 0 for a period's own; adjustments and credit notes of one period may be several.
    sequence = models.PositiveSmallIntegerField(default=0)
    # What a credit note gives back of.
    credited_invoice = models.ForeignKey(
        "self", on_delete=models.CASCADE, null=True, blank=True, related_name="credit_notes"
    )
    state = models.CharField(max_length=10, choices=InvoiceState.choices, default=InvoiceState.DRAFT)
    # Prefix and serial; the serials of one prefix have no gaps. Empty while a draft.
    number = models.CharField(max_length=32, blank=True, db_collation="C")
    currency = models.CharField(max_length=3)
    subtotal_minor = models.BigIntegerField()
    # [{"code", "name", "percent", "base_minor", "amount_minor"}]
    taxes = models.JSONField(default=list, blank=True)
    tax_minor = models.BigIntegerField()
    total_minor = models.BigIntegerField()
    # What the customer's credits paid of the total, and what is left to pay; never negative.
    credits_minor = models.BigIntegerField(default=0)
    due_minor = models.BigIntegerField()
    # All that is printed and not an amount: seller, customer, subscription, why (`billing.services.invoicing`).
    snapshot = models.JSONField(default=dict)
    # Exactly the usage known at this cut-off was charged (`metering.services.cutoffs`); null where no usage was read.
    cutoff_id = models.BigIntegerField(null=True, blank=True)
    known_at = models.DateTimeField()
    issued_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    voided_at = models.DateTimeField(null=True, blank=True)
    void_reason = models.CharField(max_length=1000, blank=True)
    paid_at = models.DateTimeField(null=True, blank=True)
    payment_reference = models.CharField(max_length=255, blank=True)
    mailed_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    # Under which name a credit note was asked for, and a digest of what was: the same again answers with this one. Or
    # empty.
    idempotency_key = models.CharField(max_length=255, blank=True, db_collation="C")
    request_digest = models.CharField(max_length=64, blank=True, db_collation="C")

    objects = TenantManager()

    class Meta:
        constraints = [
            # Whoever races: one invoice.
            models.UniqueConstraint(
                fields=["organization", "subscription", "period", "kind", "sequence"],
                condition=~models.Q(state=InvoiceState.VOID),
                name="invoice_once",
            ),
            models.UniqueConstraint(
                fields=["organization", "number"], condition=~models.Q(number=""), name="invoice_number_once"
            ),
            models.UniqueConstraint(
                fields=["organization", "idempotency_key"],
                condition=~models.Q(idempotency_key=""),
                name="invoice_key_once",
            ),
            models.CheckConstraint(
                condition=~models.Q(kind=InvoiceKind.PERIOD) | models.Q(sequence=0), name="invoice_one_per_period"
            ),
            models.CheckConstraint(
                condition=models.Q(state=InvoiceState.DRAFT, number="", issued_at__isnull=True)
                | (~models.Q(state=InvoiceState.DRAFT) & ~models.Q(number="") & models.Q(issued_at__isnull=False)),
                name="invoice_finalised_has_number",
            ),
            models.CheckConstraint(
                condition=models.Q(total_minor=models.F("subtotal_minor") + models.F("tax_minor")),
                name="invoice_total_is_the_sum",
            ),
            models.CheckConstraint(
                condition=models.Q(due_minor__gte=0, credits_minor__gte=0), name="invoice_due_not_negative"
            ),
        ]
        indexes = [
            # The list, newest first; of one customer.
            models.Index(fields=["organization", "-id"], name="invoice_newest"),
            models.Index(fields=["organization", "customer", "-id"], name="invoice_of_customer"),
            # What was issued in a range: the export, and what is still to be mailed.
            models.Index(fields=["organization", "issued_at"], name="invoice_by_issue"),
        ]

    def __str__(self) -> str:
        return self.number or f"draft {self.pk}"

    def is_overdue(self, now: datetime) -> bool:
        is_open = self.state == InvoiceState.FINALISED and self.paid_at is None and self.due_minor > 0
        return is_open and self.due_at is not None and now >= self.due_at


class LineKind(models.TextChoices):
    # A price without a metric.
    FEE = "fee"
    USAGE = "usage"
    # What is lacking to a commitment.
    TRUE_UP = "true_up", "true-up"
    # The difference between what an earlier period comes to now and what was billed of it.
    ADJUSTMENT = "adjustment"
    CREDIT = "credit"


class InvoiceLine(models.Model):
    """One line, with all that it took to make it. Guarantee: the amounts of the steps add up to `amount_minor`."""

    # No index of its own: two others begin with it, and a run writes tens of thousands of lines.
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, db_index=False, related_name="+")
    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="lines")
    # 1, 2, 3 …
    position = models.PositiveIntegerField()
    kind = models.CharField(max_length=12, choices=LineKind.choices)
    # The period that it charges, which for an adjustment is not the invoice's.
    period = models.ForeignKey(BillingPeriod, on_delete=models.CASCADE, related_name="+")
    # Null for what no price says: a true-up, an adjustment, a credit.
    price = models.ForeignKey(Price, on_delete=models.RESTRICT, null=True, blank=True, related_name="+")
    name = models.CharField(max_length=300)
    metric_code = models.CharField(max_length=64, blank=True)
    unit = models.CharField(max_length=64, blank=True)
    # The time in which the usage was counted: the period, or the part of it under this plan.
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    quantity = QuantityField()
    included_quantity = QuantityField(default=0)
    amount_minor = models.BigIntegerField()
    # As `billing.domain.rating.Step`, decimals as text; of an adjustment, what was billed and what it comes to now.
    steps = models.JSONField(default=list)

    objects = TenantManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "invoice", "position"], name="invoice_line_once"),
        ]
        indexes = [
            # What was billed of a period, whichever invoice says it.
            models.Index(fields=["organization", "period"], name="invoice_line_of_period"),
        ]

    def __str__(self) -> str:
        return f"{self.position} of {self.invoice_id}"


class NumberSeries(models.Model):
    """The last serial that was given out under a prefix. Its row lock keeps the numbers without gaps."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    prefix = models.CharField(max_length=16, db_collation="C")
    last_serial = models.BigIntegerField(default=0)

    objects = TenantManager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization", "prefix"], name="number_series_once")]

    def __str__(self) -> str:
        return f"{self.prefix}{self.last_serial}"


class InvoiceRun(models.Model):
    """One run over everything that is due: how far it is, and what came of it."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    started_by = models.CharField(max_length=320)
    # Of the periods that were due when it began; those that ended since are done too.
    total = models.PositiveIntegerField(default=0)
    drafted = models.PositiveIntegerField(default=0)
    finalised = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField()
    # The last sign of life of any of its workers.
    seen_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = TenantManager()

    class Meta:
        indexes = [models.Index(fields=["organization", "-id"], name="invoice_run_newest")]

    def __str__(self) -> str:
        return f"run {self.pk} of {self.organization_id}"
