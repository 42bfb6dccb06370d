"""Stored invoices for tests of what is read and shown of them, made row by row. Computes nothing but sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing.models import BillingPeriod, Invoice, InvoiceKind, InvoiceLine, InvoiceState, LineKind, Subscription

START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
ISSUED_AT = datetime(2026, 11, 2, 0, 0, tzinfo=UTC)
DUE_AT = ISSUED_AT + timedelta(days=14)


@dataclass(frozen=True)
class Line:
    """One line to store. A usage line has a metric."""

    name: str
    amount_minor: int
    quantity: Any = 1
    metric: str = ""
    unit: str = ""
    kind: str = ""
    steps: Sequence[dict[str, Any]] = field(default_factory=list)
    starts_at: datetime = START
    ends_at: datetime = END


FEE = Line("Base fee", 4900, steps=[{"kind": "flat", "amount": "4900", "flat_amount": "4900"}])
USAGE = Line(
    "API calls",
    375,
    quantity=Decimal("130"),
    metric="calls",
    unit="call",
    steps=[
        {"kind": "included", "amount": "0", "from_quantity": "0", "to_quantity": "100", "quantity": "100"},
        {
            "kind": "units",
            "amount": "375",
            "from_quantity": "0",
            "to_quantity": "30",
            "quantity": "30",
            "unit_amount": "12.5",
        },
    ],
)


def snapshot_of(subscription: Subscription, **changes: Any) -> dict[str, Any]:
    """Return a snapshot; a change names a part of it (`customer`, `seller`, …) and what differs there."""
    snapshot: dict[str, Any] = {
        "seller": {"name": "Initech Ltd.", "address": "1 Main Street\nAustin", "tax_id": "US-1"},
        "customer": {
            "external_id": subscription.customer.external_id,
            "name": "Acme AG",
            "email": "billing@acme.test",
            "address": "Ring 2\n1010 Wien",
            "country": "AT",
            "region": "",
            "tax_id": "ATU1",
            "is_tax_exempt": False,
        },
        "subscription": {"id": str(subscription.pk), "zone": subscription.zone},
        "plans": [{"code": "pro", "name": "Pro", "version": 1}],
        "period": {"start": "2026-10-01T00:00:00Z", "end": "2026-11-01T00:00:00Z", "is_trial": False},
        "footer": "Thank you.",
    }
    for name, value in changes.items():
        snapshot[name] = snapshot[name] | value if isinstance(value, dict) else value
    return snapshot


def store_invoice(
    subscription: Subscription,
    number: str,
    *lines: Line,
    tax_percent: int = 0,
    currency: str = "USD",
    state: str = InvoiceState.FINALISED,
    snapshot: dict[str, Any] | None = None,
    **fields: Any,
) -> Invoice:
    """Store an invoice of October 2026; a draft without a number and lines."""
    is_draft = state == InvoiceState.DRAFT
    organization = subscription.organization
    starts_at = fields.pop("starts_at", START)
    period, _ = BillingPeriod.objects.get_or_create(
        organization=organization,
        subscription=subscription,
        starts_at=starts_at,
        defaults={
            "ends_at": starts_at + (END - START),
            "state": "grace" if is_draft else "finalised",
            "grace_ends_at": ISSUED_AT,
        },
    )
    subtotal = sum(line.amount_minor for line in lines)
    tax = subtotal * tax_percent // 100
    taxes = [
        {"code": "vat", "name": "VAT", "percent": str(tax_percent), "base_minor": subtotal, "amount_minor": tax}
    ] * bool(tax_percent)
    credits = fields.pop("credits_minor", 0)
    kind = fields.pop("kind", InvoiceKind.PERIOD)
    is_credit_note = kind == InvoiceKind.CREDIT_NOTE
    issued_at = fields.pop("issued_at", ISSUED_AT)
    due_at = fields.pop("due_at", None if is_credit_note else DUE_AT)
    invoice = Invoice.objects.create(
        organization=organization,
        customer=subscription.customer,
        subscription=subscription,
        period=period,
        kind=kind,
        state=InvoiceState.DRAFT,
        currency=currency,
        subtotal_minor=subtotal,
        taxes=taxes,
        tax_minor=tax,
        total_minor=subtotal + tax,
        credits_minor=credits,
        due_minor=0 if is_credit_note else subtotal + tax - credits,
        snapshot=snapshot or snapshot_of(subscription),
        known_at=fields.pop("known_at", ISSUED_AT),
        **fields,
    )
    if not is_draft:
        InvoiceLine.objects.bulk_create(
            InvoiceLine(
                organization=organization,
                invoice=invoice,
                position=position,
                kind=line.kind or (LineKind.USAGE if line.metric else LineKind.FEE),
                period=period,
                name=line.name,
                metric_code=line.metric,
                unit=line.unit,
                starts_at=line.starts_at,
                ends_at=line.ends_at,
                quantity=line.quantity,
                amount_minor=line.amount_minor,
                steps=list(line.steps),
            )
            for position, line in enumerate(lines, start=1)
        )
        invoice.state, invoice.number = InvoiceState.FINALISED, number
        invoice.issued_at, invoice.due_at = issued_at, due_at
        invoice.save()
    if state == InvoiceState.VOID:
        invoice.state, invoice.voided_at, invoice.void_reason = InvoiceState.VOID, ISSUED_AT, "wrong"
        invoice.save(update_fields=["state", "voided_at", "void_reason"])
    return invoice
