"""The rows of invoices: drafts, lines, numbers without gaps. For services that own the transaction and its locks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Max

from accounts.models import Organization
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.domain.notices import NoticeType
from billing.models import (
    BillingPeriod,
    BillingSettings,
    Invoice,
    InvoiceKind,
    InvoiceLine,
    InvoiceState,
    NumberSeries,
)
from billing.queries.invoicing import ComputedInvoice
from billing.services.credits import apply_grants_to, carry_over
from billing.services.notices import NewNotice, write_notices
from common.moments import rfc3339
from metering.domain import Cutoff

# "INV-000001"
SERIAL_DIGITS = 6


def store_invoices(
    organization: Organization,
    settings: BillingSettings,
    computed: Sequence[ComputedInvoice],
    cutoff: Cutoff,
    now: datetime,
) -> list[Invoice]:
    if not computed:
        return []
    drafts = _write_drafts(organization, computed, cutoff, now)
    lines = (
        make_line(invoice, position, content)
        for invoice, each in zip(drafts, computed, strict=True)
        for position, content in enumerate(each.content.lines, start=1)
    )
    InvoiceLine.objects.bulk_create(lines, batch_size=2_000)
    paid = apply_grants_to(drafts, now=now)
    number_invoices(organization, settings, settings.invoice_prefix, drafts, paid, now)
    for invoice in drafts:
        if invoice.total_minor < 0:
            carry_over(invoice=invoice, now=now)
    write_notices([invoice_notice(invoice, NoticeType.INVOICE_FINALISED, now) for invoice in drafts])
    return drafts


def _write_drafts(
    organization: Organization, computed: Sequence[ComputedInvoice], cutoff: Cutoff, now: datetime
) -> list[Invoice]:
    """Write invoices as drafts with their final amounts; the draft that a period has already keeps its id."""
    period_ids = [each.period.pk for each in computed]
    rows = Invoice.objects.for_organization(organization).filter(period__in=period_ids)
    known = dict(
        rows.filter(kind=InvoiceKind.PERIOD, state=InvoiceState.DRAFT).values_list("period", "pk", named=False)
    )
    taken = dict(
        rows.filter(kind=InvoiceKind.ADJUSTMENT).values_list("period").annotate(last=Max("sequence")).order_by()
    )
    invoices = []
    for each in computed:
        invoice = make_invoice(each.kind, each.period, each.content, now)
        invoice.cutoff_id = cutoff.id
        if each.kind == InvoiceKind.PERIOD:
            invoice.pk = known.get(each.period.pk)
        else:
            invoice.sequence = taken.get(each.period.pk, -1) + 1
        invoices.append(invoice)
    Invoice.objects.bulk_create([invoice for invoice in invoices if invoice.pk is None], batch_size=1_000)
    update_drafts([invoice for invoice in invoices if invoice.pk in known.values()])
    return invoices


def update_drafts(invoices: Sequence[Invoice]) -> None:
    """Give drafts that have a row new amounts."""
    if invoices:
        fields = ["subtotal_minor", "taxes", "tax_minor", "total_minor", "credits_minor", "due_minor"]
        Invoice.objects.bulk_create(
            invoices,
            update_conflicts=True,
            unique_fields=["id"],
            update_fields=[*fields, "currency", "snapshot", "known_at", "cutoff_id"],
            batch_size=1_000,
        )


def make_invoice(kind: InvoiceKind, period: BillingPeriod, content: InvoiceContent, now: datetime) -> Invoice:
    """Return an unsaved draft that says what was computed."""
    return Invoice(
        organization_id=period.organization_id,
        customer_id=period.subscription.customer_id,
        subscription_id=period.subscription_id,
        period=period,
        kind=kind,
        currency=content.currency,
        subtotal_minor=content.subtotal_minor,
        taxes=[
            {
                "code": tax.code,
                "name": tax.name,
                "percent": str(tax.percent),
                "base_minor": str(tax.base_minor),
                "amount_minor": str(tax.amount_minor),
            }
            for tax in content.taxes
        ],
        tax_minor=content.tax_minor,
        total_minor=content.total_minor,
        credits_minor=content.credits_minor,
        due_minor=content.due_minor,
        snapshot=content.snapshot,
        known_at=content.known_at,
        created_at=now,
    )


def make_line(invoice: Invoice, position: int, content: InvoiceLineContent) -> InvoiceLine:
    """Return an unsaved line."""
    return InvoiceLine(
        organization_id=invoice.organization_id,
        invoice=invoice,
        position=position,
        kind=content.kind,
        period_id=content.period_id,
        price_id=content.price_id,
        name=content.name,
        metric_code=content.metric_code,
        unit=content.unit,
        starts_at=content.starts_at,
        ends_at=content.ends_at,
        quantity=content.quantity,
        included_quantity=content.included_quantity,
        amount_minor=content.amount_minor,
        steps=list(content.steps),
    )


# One update of a chunk of drafts into final invoices.
_MAKE_FINAL = """
UPDATE billing_invoice AS invoice
SET state = 'finalised', number = given.number, credits_minor = given.credits_minor, due_minor = given.due_minor,
    issued_at = %(now)s, due_at = %(due_at)s
FROM unnest(%(ids)s::bigint[], %(numbers)s::text[], %(credits)s::bigint[], %(dues)s::bigint[])
    AS given (id, number, credits_minor, due_minor)
WHERE invoice.organization_id = %(organization)s AND invoice.id = given.id
"""


def number_invoices(
    organization: Organization,
    settings: BillingSettings,
    prefix: str,
    invoices: Sequence[Invoice],
    paid: Mapping[int, int],
    now: datetime,
) -> None:
    """Give drafts the next numbers and make them final. Last of all: until the commit nobody else gets a number."""
    due_at = now + timedelta(days=settings.payment_days)
    for invoice, serial in zip(invoices, _next_serials(organization, prefix, len(invoices)), strict=True):
        invoice.state, invoice.number = InvoiceState.FINALISED, f"{prefix}{serial:0{SERIAL_DIGITS}}"
        invoice.credits_minor = paid.get(invoice.pk, 0)
        invoice.due_minor = max(0, invoice.total_minor - invoice.credits_minor)
        invoice.issued_at, invoice.due_at = now, due_at
    names: dict[str, Any] = {
        "organization": organization.pk,
        "now": now,
        "due_at": due_at,
        "ids": [invoice.pk for invoice in invoices],
        "numbers": [invoice.number for invoice in invoices],
        "credits": [invoice.credits_minor for invoice in invoices],
        "dues": [invoice.due_minor for invoice in invoices],
    }
    with connection.cursor() as cursor:
        cursor.execute(_MAKE_FINAL, names)


def _next_serials(organization: Organization, prefix: str, count: int) -> range:
    series = NumberSeries.objects.for_organization(organization)
    NumberSeries.objects.bulk_create([NumberSeries(organization=organization, prefix=prefix)], ignore_conflicts=True)
    last = series.select_for_update().get(prefix=prefix).last_serial
    series.filter(prefix=prefix).update(last_serial=last + count)
    return range(last + 1, last + count + 1)


_SET_BILLED = """
UPDATE billing_billingperiod AS period
SET billed_quantities = given.quantities::jsonb
FROM unnest(%(ids)s::bigint[], %(quantities)s::text[]) AS given (id, quantities)
WHERE period.organization_id = %(organization)s AND period.id = given.id
"""


def set_billed(organization: Organization, billed: Mapping[int, Sequence[str]]) -> None:
    """Note what was billed of periods, so that the next run sees at a glance where nothing has changed."""
    # Plain numbers need no escaping.
    texts = ["[" + ", ".join(f'"{quantity}"' for quantity in of_one) + "]" for of_one in billed.values()]
    names: dict[str, Any] = {"organization": organization.pk, "ids": list(billed), "quantities": texts}
    with connection.cursor() as cursor:
        cursor.execute(_SET_BILLED, names)


def invoice_notice(invoice: Invoice, type: NoticeType, now: datetime) -> NewNotice:
    payload = {
        "invoice": str(invoice.pk),
        "number": invoice.number,
        "kind": invoice.kind,
        "customer": invoice.snapshot["customer"]["external_id"],
        "subscription": str(invoice.subscription_id),
        "currency": invoice.currency,
        "total_minor": str(invoice.total_minor),
        "due_minor": str(invoice.due_minor),
        "period": invoice.snapshot["period"],
        "at": rfc3339(now),
    }
    return NewNotice(organization_id=invoice.organization_id, type=type, payload=payload, at=now)
