"""Reads of invoices: which there are, how each stands, and what each says.

Computes no amount: a draft's content comes from `billing.queries.invoicing`, anything else is read as it was stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from django.db.models import Q

from accounts.models import Organization
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.domain.periods import BillingPeriod
from billing.domain.taxes import TaxLine
from billing.models import Invoice, InvoiceKind, InvoiceLine, InvoiceState
from billing.queries.invoicing import draft_content
from common.errors import Conflict
from common.models import TenantQuerySet

# Invoices whose lines an export reads at once.
EXPORTED_AT_ONCE = 100


class NotFinalised(Conflict):
    """A draft, or a void one, has no number to explain, to give back or to pay."""

    code = "not_finalised"


class Standing(StrEnum):
    """How an invoice stands with its customer. Follows from the row and the time; nothing stores it."""

    DRAFT = "draft"
    OPEN = "open"
    OVERDUE = "overdue"
    # Or nothing was due.
    PAID = "paid"
    VOID = "void"
    # A credit note; nobody owes it.
    CREDIT_NOTE = "credit_note"


def list_invoices(
    *,
    organization: Organization,
    customer_id: int | None = None,
    subscription_id: int | None = None,
    state: str | None = None,
    kind: str | None = None,
    number: str | None = None,
) -> TenantQuerySet:
    """Return the invoices that are all of what is named. Ids grow, so the newest first are those by falling id."""
    named = {
        "customer_id": customer_id,
        "subscription_id": subscription_id,
        "state": state,
        "kind": kind,
        "number": number,
    }
    rows = Invoice.objects.for_organization(organization).select_related(
        "organization", "customer", "subscription", "period__subscription", "credited_invoice", "stripe_invoice"
    )
    return rows.filter(**{name: value for name, value in named.items() if value is not None})


def get_invoice(*, organization: Organization, invoice_id: int, customer_id: int | None = None) -> Invoice:
    """Return the invoice. Raises `NotFound`, for a foreign id like for an absent one.

    `customer_id` is the one whose a bound key may see; None: anybody's.
    """
    rows = list_invoices(organization=organization, customer_id=customer_id)
    return rows.get_by_id(invoice_id, "There is no such invoice.")


def list_credit_notes(invoice: Invoice) -> TenantQuerySet:
    """Return what was credited of an invoice, the oldest first; also what was voided since."""
    return list_invoices(organization=invoice.organization).filter(credited_invoice=invoice).order_by("pk")


# --- how they stand -------------------------------------------------------------------------------------------


def standing_of(invoice: Invoice, now: datetime) -> Standing:
    if invoice.state in {InvoiceState.DRAFT, InvoiceState.VOID}:
        return Standing(invoice.state)
    if invoice.kind == InvoiceKind.CREDIT_NOTE:
        return Standing.CREDIT_NOTE
    if invoice.paid_at is not None or invoice.due_minor == 0:
        return Standing.PAID
    return Standing.OVERDUE if invoice.is_overdue(now) else Standing.OPEN


def with_standing(rows: TenantQuerySet, standing: Standing, now: datetime) -> TenantQuerySet:
    """Return those of the rows that stand so: the same rule as `standing_of`, for the database."""
    match standing:
        case Standing.DRAFT | Standing.VOID:
            return rows.filter(state=standing.value)
        case Standing.CREDIT_NOTE:
            return rows.filter(state=InvoiceState.FINALISED, kind=InvoiceKind.CREDIT_NOTE)
    issued = rows.filter(state=InvoiceState.FINALISED).exclude(kind=InvoiceKind.CREDIT_NOTE)
    is_paid = Q(paid_at__isnull=False) | Q(due_minor=0)
    match standing:
        case Standing.PAID:
            return issued.filter(is_paid)
        case Standing.OVERDUE:
            return issued.exclude(is_paid).filter(due_at__lte=now)
    return issued.exclude(is_paid).filter(Q(due_at__isnull=True) | Q(due_at__gt=now))


# --- what they say --------------------------------------------------------------------------------------------


def get_content(*, invoice: Invoice, now: datetime) -> InvoiceContent:
    """Return what an invoice says: of a draft what it comes to now, of any other what was stored. One query for that.

    Raises, for a draft alone, what the engine does: metering's `RangeNotKept`, for instance.
    """
    if invoice.state == InvoiceState.DRAFT:
        return draft_content(invoice=invoice, now=now)
    rows = InvoiceLine.objects.for_organization(invoice.organization_id).filter(invoice=invoice)
    return InvoiceContent(
        currency=invoice.currency,
        lines=[read_line(line) for line in rows.select_related("period").order_by("position")],
        taxes=[read_tax(tax) for tax in invoice.taxes],
        subtotal_minor=invoice.subtotal_minor,
        tax_minor=invoice.tax_minor,
        total_minor=invoice.total_minor,
        credits_minor=invoice.credits_minor,
        due_minor=invoice.due_minor,
        snapshot=invoice.snapshot,
        known_at=invoice.known_at,
    )


def read_line(line: InvoiceLine) -> InvoiceLineContent:
    """Return a stored line, with its period selected, as content."""
    period = line.period
    return InvoiceLineContent(
        kind=line.kind,
        name=line.name,
        period=BillingPeriod(period.starts_at, period.ends_at, period.is_trial),
        period_id=period.pk,
        starts_at=line.starts_at,
        ends_at=line.ends_at,
        quantity=line.quantity,
        included_quantity=line.included_quantity,
        amount_minor=line.amount_minor,
        steps=line.steps,
        metric_code=line.metric_code,
        unit=line.unit,
        price_id=line.price_id,
    )


def read_tax(tax: dict[str, Any]) -> TaxLine:
    """Return a tax as an invoice's row has it, as content."""
    return TaxLine(tax["code"], tax["name"], Decimal(tax["percent"]), int(tax["base_minor"]), int(tax["amount_minor"]))


def iterate_issued_lines(
    *, organization: Organization, start: datetime, end: datetime, customer_id: int | None = None
) -> Iterator[InvoiceLine]:
    """Yield the lines of the invoices and credit notes that were issued in `[start, end)` and are not void, in order.

    Each carries its invoice and period. Two queries for every hundred invoices; holds no more of them at once.
    """
    issued = list_invoices(organization=organization, customer_id=customer_id, state=InvoiceState.FINALISED)
    issued = issued.filter(issued_at__gte=start, issued_at__lt=end).order_by("pk")
    last = 0
    while invoices := {invoice.pk: invoice for invoice in issued.filter(pk__gt=last)[:EXPORTED_AT_ONCE]}:
        last = max(invoices)
        lines = InvoiceLine.objects.for_organization(organization).filter(invoice__in=invoices)
        for line in lines.select_related("period").order_by("invoice_id", "position"):
            line.invoice = invoices[line.invoice_id]
            yield line
