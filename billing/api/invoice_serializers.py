"""Shapes of invoices: what is accepted and what is answered. Meaning is checked by the services.

Money is in minor units, as text; every name of it ends in `_minor`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from billing.api.fields import IdempotencyKey, PeriodRead, period_json
from billing.api.plan_serializers import decimal_text
from billing.api.spend_serializers import StepAmountsRead
from billing.domain.currencies import EXPONENTS
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.domain.periods import BillingPeriod
from billing.domain.taxes import TaxLine
from billing.models import Invoice, InvoiceKind, InvoiceState, LineKind
from billing.queries.invoices import Standing, read_tax, standing_of
from billing.services.corrections import MAX_REFERENCE_CHARACTERS
from billing.services.reasons import MAX_REASON_CHARACTERS
from common.api import Flag, ListQuery, StrictSerializer, Text, WholeNumber
from common.errors import FieldError, InvalidInput
from metering.api.serializers import ExactText, QueryMoment

MAX_NUMBER_CHARACTERS = 32
MAX_CREDITED_LINES = 1000
STEP_NUMBERS = ("from_quantity", "to_quantity", "quantity", "unit_amount", "flat_amount")


class InvoiceListQuery(ListQuery):
    customer = Text(required=False, max_length=256)
    subscription = WholeNumber(required=False, min_value=1)
    state = serializers.ChoiceField(choices=InvoiceState.values, required=False)
    kind = serializers.ChoiceField(choices=InvoiceKind.values, required=False)
    status = serializers.ChoiceField(choices=[each.value for each in Standing], required=False)
    number = ExactText(required=False, max_length=MAX_NUMBER_CHARACTERS)


class InvoiceExportQuery(StrictSerializer):
    customer = Text(required=False, max_length=256)

    def get_fields(self) -> dict[str, Any]:
        """`from` is no name that a class can have."""
        return {**super().get_fields(), "from": QueryMoment(), "to": QueryMoment()}


class InvoiceVoidWrite(StrictSerializer):
    reason = Text(max_length=MAX_REASON_CHARACTERS)
    reissue = Flag(
        help_text="Whether the period is invoiced anew; false: nothing of it is charged or adjusted any more."
    )


class CreditedLineWrite(StrictSerializer):
    position = WholeNumber(min_value=1)
    amount_minor = WholeNumber(min_value=1, help_text="What is given back of the line, before tax; not negative.")


class InvoiceCreditWrite(StrictSerializer):
    reason = Text(max_length=MAX_REASON_CHARACTERS)
    lines = serializers.ListField(
        child=CreditedLineWrite(),
        required=False,
        min_length=1,
        max_length=MAX_CREDITED_LINES,
        help_text="Default: everything that was not credited yet.",
    )
    idempotency_key = IdempotencyKey(
        required=False, help_text="Or the header Idempotency-Key. The same request again answers with the same note."
    )


class InvoicePaidWrite(StrictSerializer):
    reference = Text(max_length=MAX_REFERENCE_CHARACTERS, help_text="What says so: a bank's reference, a note.")


def credited_amounts(lines: Sequence[Mapping[str, int]] | None) -> dict[int, int] | None:
    """Return the amount of each position; None: everything. Raises `InvalidInput` for a position that comes twice."""
    if lines is None:
        return None
    amounts = {line["position"]: line["amount_minor"] for line in lines}
    if len(amounts) < len(lines):
        problem = FieldError("lines", "repeated", "Name each line once.")
        raise InvalidInput(f"lines: {problem.message}", errors=[problem])
    return amounts


# --- answers --------------------------------------------------------------------------------------------------


class InvoiceTaxRead(serializers.Serializer):
    code = serializers.CharField()
    name = serializers.CharField()
    percent = serializers.CharField()
    base_minor = serializers.CharField()
    amount_minor = serializers.CharField()


class InvoiceStripeRead(serializers.Serializer):
    id = serializers.CharField(allow_null=True, help_text="Null: Stripe has not taken it yet.")
    status = serializers.CharField(allow_null=True, help_text="What Stripe says of it.")
    url = serializers.CharField(allow_null=True)
    state = serializers.CharField(help_text="How far it is on its way there.")


class InvoiceRead(serializers.Serializer):
    id = serializers.CharField()
    number = serializers.CharField(allow_null=True, help_text="Null: a draft.")
    kind = serializers.ChoiceField(choices=InvoiceKind.values)
    state = serializers.ChoiceField(choices=InvoiceState.values)
    status = serializers.ChoiceField(
        choices=[each.value for each in Standing], help_text="How it stands with the customer, at this moment."
    )
    customer = serializers.CharField()
    subscription = serializers.CharField()
    period = PeriodRead()
    currency = serializers.CharField()
    currency_exponent = serializers.IntegerField()
    subtotal_minor = serializers.CharField()
    taxes = InvoiceTaxRead(many=True)
    tax_minor = serializers.CharField()
    total_minor = serializers.CharField(help_text="Lines and taxes.")
    credits_minor = serializers.CharField(
        help_text="What credits paid of it, of a draft would pay now; what a credit note settles."
    )
    due_minor = serializers.CharField()
    credited_invoice = serializers.CharField(allow_null=True, help_text="The id of what a credit note gives back of.")
    known_at = serializers.DateTimeField(help_text="Every event known then is in it.")
    grace_ends_at = serializers.DateTimeField(allow_null=True, help_text="When a draft is finalised; null: it is not.")
    issued_at = serializers.DateTimeField(allow_null=True)
    due_at = serializers.DateTimeField(allow_null=True)
    paid_at = serializers.DateTimeField(allow_null=True)
    payment_reference = serializers.CharField()
    voided_at = serializers.DateTimeField(allow_null=True)
    void_reason = serializers.CharField()
    mailed_at = serializers.DateTimeField(allow_null=True)
    stripe = InvoiceStripeRead(allow_null=True, help_text="Null: it is not pushed there.")
    created_at = serializers.DateTimeField()


class InvoiceStepRead(StepAmountsRead):
    """What one rule added; the amounts of all steps add up to the line's."""

    kind = serializers.CharField(
        help_text="As of a spend's steps. An adjustment has what is known now (recomputed), what was billed and what "
        "credit notes gave back of that (credited); "
        "a true-up has the commitment and what was billed of it; a line of a credit note has credit."
    )
    name = serializers.CharField(allow_null=True, help_text="Of an adjustment: the price, or the invoice's number.")
    line = serializers.IntegerField(allow_null=True, help_text="Of a credit: the position of what it gives back of.")


class InvoiceLineRead(serializers.Serializer):
    position = serializers.IntegerField()
    kind = serializers.ChoiceField(choices=LineKind.values)
    name = serializers.CharField()
    metric = serializers.CharField(allow_null=True)
    unit = serializers.CharField()
    period = PeriodRead(help_text="What it charges; of an adjustment an earlier period than the invoice's.")
    start = serializers.DateTimeField(help_text="The part of the period in which usage was counted.")
    end = serializers.DateTimeField()
    quantity = serializers.CharField()
    included_quantity = serializers.CharField()
    amount_minor = serializers.CharField()
    steps = InvoiceStepRead(many=True)


class InvoiceDetailRead(InvoiceRead):
    lines = InvoiceLineRead(many=True)
    snapshot = serializers.DictField(help_text="What is printed besides: seller, customer, plans, period, footer.")
    credit_notes = InvoiceRead(many=True)


def invoice_json(invoice: Invoice, now: datetime) -> dict[str, Any]:
    """Return an invoice without its lines. A draft's amounts are those of `known_at`."""
    period = invoice.period
    is_draft = invoice.state == InvoiceState.DRAFT
    return {
        "id": str(invoice.pk),
        "number": invoice.number or None,
        "kind": invoice.kind,
        "state": invoice.state,
        "status": standing_of(invoice, now),
        "customer": invoice.customer.external_id,
        "subscription": str(invoice.subscription_id),
        "period": period_json(BillingPeriod(period.starts_at, period.ends_at, period.is_trial)),
        "currency": invoice.currency,
        "currency_exponent": EXPONENTS[invoice.currency],
        "subtotal_minor": str(invoice.subtotal_minor),
        "taxes": [_tax_json(read_tax(tax)) for tax in invoice.taxes],
        "tax_minor": str(invoice.tax_minor),
        "total_minor": str(invoice.total_minor),
        "credits_minor": str(invoice.credits_minor),
        "due_minor": str(invoice.due_minor),
        "credited_invoice": None if invoice.credited_invoice_id is None else str(invoice.credited_invoice_id),
        "known_at": invoice.known_at,
        "grace_ends_at": period.grace_ends_at if is_draft else None,
        "issued_at": invoice.issued_at,
        "due_at": invoice.due_at,
        "paid_at": invoice.paid_at,
        "payment_reference": invoice.payment_reference,
        "voided_at": invoice.voided_at,
        "void_reason": invoice.void_reason,
        "mailed_at": invoice.mailed_at,
        "stripe": _stripe_json(invoice),
        "created_at": invoice.created_at,
    }


def invoice_detail_json(
    invoice: Invoice, content: InvoiceContent, credit_notes: Sequence[Invoice], now: datetime
) -> dict[str, Any]:
    """Return an invoice with all it says. A draft's amounts are those of the content."""
    return {
        **invoice_json(invoice, now),
        **content_json(content),
        "credit_notes": [invoice_json(note, now) for note in credit_notes],
    }


def content_json(content: InvoiceContent) -> dict[str, Any]:
    """Return what an invoice says, whichever invoice it is."""
    return {
        "currency": content.currency,
        "currency_exponent": EXPONENTS[content.currency],
        "subtotal_minor": str(content.subtotal_minor),
        "taxes": [_tax_json(tax) for tax in content.taxes],
        "tax_minor": str(content.tax_minor),
        "total_minor": str(content.total_minor),
        "credits_minor": str(content.credits_minor),
        "due_minor": str(content.due_minor),
        "known_at": content.known_at,
        "lines": [line_json(position, line) for position, line in enumerate(content.lines, start=1)],
        "snapshot": content.snapshot,
    }


def line_json(position: int, line: InvoiceLineContent) -> dict[str, Any]:
    return {
        "position": position,
        "kind": line.kind,
        "name": line.name,
        "metric": line.metric_code or None,
        "unit": line.unit,
        "period": period_json(line.period),
        "start": line.starts_at,
        "end": line.ends_at,
        "quantity": decimal_text(line.quantity),
        "included_quantity": decimal_text(line.included_quantity),
        "amount_minor": str(line.amount_minor),
        "steps": [_step_json(step) for step in line.steps],
    }


def _step_json(step: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": step["kind"],
        "name": step.get("name"),
        "line": step.get("line"),
        "amount_minor": decimal_text(Decimal(step["amount"])),
        **{name: step.get(name) for name in STEP_NUMBERS},
    }


def _tax_json(tax: TaxLine) -> dict[str, Any]:
    return {
        "code": tax.code,
        "name": tax.name,
        "percent": decimal_text(tax.percent),
        "base_minor": str(tax.base_minor),
        "amount_minor": str(tax.amount_minor),
    }


def _stripe_json(invoice: Invoice) -> dict[str, Any] | None:
    pushed = getattr(invoice, "stripe_invoice", None)
    if pushed is None:
        return None
    return {
        "id": pushed.stripe_invoice_id or None,
        "status": pushed.stripe_status or None,
        "url": pushed.hosted_url or None,
        "state": pushed.state,
    }
