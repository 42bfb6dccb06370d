"""What is printed of an invoice: every text of it, in order. How it is laid out is the template's (`invoice.typ`).

Amounts are written by their currency's exponent, days in the subscription's time zone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from billing.documents.words import day_text, span_text, stored_step_text
from billing.domain.currencies import money_text
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.domain.rating import StepKind
from billing.models import Invoice, InvoiceKind, InvoiceState, LineKind
from common.numbers import readable_text

# Of one line's steps; the page on the web has them all.
MAX_STEPS = 8
# Steps that say nothing that the line itself does not.
UNPRINTED_STEPS = frozenset({StepKind.FLAT, StepKind.ROUNDING, "credit"})


@dataclass(frozen=True, slots=True)
class Party:
    """Who sells or buys: a name, and what stands below it."""

    name: str
    lines: list[str]


@dataclass(frozen=True, slots=True)
class PrintedLine:
    name: str
    notes: list[str]
    # Empty: it has none, as a fee.
    quantity: str
    unit: str
    amount: str


@dataclass(frozen=True, slots=True)
class PrintedTotal:
    label: str
    amount: str
    is_strong: bool = False


@dataclass(frozen=True, slots=True)
class PrintedInvoice:
    title: str
    # Empty: a draft.
    number: str
    # Across every page; empty: none.
    watermark: str
    facts: list[tuple[str, str]]
    seller: Party
    customer: Party
    lines: list[PrintedLine]
    totals: list[PrintedTotal]
    notes: list[str]
    footer: list[str]


def print_invoice(invoice: Invoice, content: InvoiceContent) -> PrintedInvoice:
    """Return the texts. Those of a finalised invoice stay the same until it is voided: payment is not told."""
    snapshot, currency = content.snapshot, content.currency
    zone = ZoneInfo(snapshot["subscription"]["zone"])
    is_void = invoice.state == InvoiceState.VOID
    return PrintedInvoice(
        title=document_title(invoice),
        number=invoice.number,
        watermark="Void" if is_void else "Draft" if invoice.state == InvoiceState.DRAFT else "",
        facts=list(_facts(invoice, snapshot, zone)),
        seller=_seller(snapshot["seller"]),
        customer=_customer(snapshot["customer"]),
        lines=[_line(line, currency, zone) for line in content.lines],
        totals=list(_totals(invoice, content)),
        notes=list(_notes(invoice, content, zone)),
        footer=_text_lines(snapshot.get("footer", "")),
    )


def document_title(invoice: Invoice) -> str:
    if invoice.kind == InvoiceKind.CREDIT_NOTE:
        return "Credit note"
    return "Draft invoice" if invoice.state == InvoiceState.DRAFT else "Invoice"


def document_name(invoice: Invoice, extension: str) -> str:
    """Return a file name that every file system and header takes."""
    name = invoice.number or f"draft-{invoice.pk}"
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.{extension}"


def printed_period(snapshot: Mapping[str, Any]) -> str:
    period, zone = snapshot["period"], ZoneInfo(snapshot["subscription"]["zone"])
    return span_text(datetime.fromisoformat(period["start"]), datetime.fromisoformat(period["end"]), zone)


def _facts(invoice: Invoice, snapshot: Mapping[str, Any], zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    if invoice.number:
        yield "Number", invoice.number
    if invoice.credited_invoice is not None:
        yield "For invoice", invoice.credited_invoice.number
    if invoice.issued_at is not None:
        yield "Date", day_text(invoice.issued_at, zone)
    yield "Billing period", printed_period(snapshot)
    plans = [f"{plan['name']} v{plan['version']}" for plan in snapshot.get("plans", ())]
    if plans:
        yield "Plan", ", ".join(plans)
    if invoice.due_at is not None and invoice.due_minor:
        yield "Due", day_text(invoice.due_at, zone)


def _seller(seller: Mapping[str, Any]) -> Party:
    return Party(seller["name"], [*_text_lines(seller["address"]), *_tax_id(seller)])


def _customer(customer: Mapping[str, Any]) -> Party:
    place = ", ".join(filter(None, (customer["region"], customer["country"])))
    lines = [*_text_lines(customer["address"]), place, customer["email"], *_tax_id(customer)]
    name = customer["name"] or customer["external_id"]
    if name != customer["external_id"]:
        lines.append(f"Customer {customer['external_id']}")
    return Party(name, [line for line in lines if line])


def _tax_id(party: Mapping[str, Any]) -> list[str]:
    return [f"Tax ID {party['tax_id']}"] if party["tax_id"] else []


def _text_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _line(line: InvoiceLineContent, currency: str, zone: ZoneInfo) -> PrintedLine:
    is_counted = line.kind == LineKind.USAGE
    return PrintedLine(
        name=line.name,
        notes=list(_line_notes(line, currency, zone)),
        quantity=readable_text(line.quantity) if is_counted else "",
        unit=line.unit if is_counted else "",
        amount=money_text(line.amount_minor, currency),
    )


def _line_notes(line: InvoiceLineContent, currency: str, zone: ZoneInfo) -> Iterator[str]:
    yield span_text(line.starts_at, line.ends_at, zone)
    steps = [step for step in line.steps if step["kind"] not in UNPRINTED_STEPS]
    for step in steps[:MAX_STEPS]:
        told = stored_step_text(step, currency)
        yield told.text if step["kind"] == StepKind.INCLUDED else f"{told.text}: {told.amount}"
    if len(steps) > MAX_STEPS:
        yield f"and {len(steps) - MAX_STEPS} more steps"


def _totals(invoice: Invoice, content: InvoiceContent) -> Iterator[PrintedTotal]:
    currency = content.currency
    if content.taxes:
        yield PrintedTotal("Subtotal", money_text(content.subtotal_minor, currency))
    for tax in content.taxes:
        base = money_text(tax.base_minor, currency)
        label = f"{tax.name}, {readable_text(tax.percent)}\u202f% of {base}"
        yield PrintedTotal(label, money_text(tax.amount_minor, currency))
    total = money_text(content.total_minor, currency)
    if invoice.kind == InvoiceKind.CREDIT_NOTE:
        yield PrintedTotal("Total credited", total, is_strong=True)
        yield from _use_of_credit(invoice, content)
        return
    yield PrintedTotal("Total", total, is_strong=True)
    if content.credits_minor:
        yield PrintedTotal("Paid with credits", money_text(-content.credits_minor, currency))
    yield PrintedTotal("Amount due", money_text(content.due_minor, currency), is_strong=True)


def _use_of_credit(invoice: Invoice, content: InvoiceContent) -> Iterator[PrintedTotal]:
    """Say what of a credit note settles the invoice, and what is kept for later ones."""
    settled, kept = content.credits_minor, -content.total_minor - content.credits_minor
    number = invoice.credited_invoice.number if invoice.credited_invoice else "the invoice"
    if settled:
        yield PrintedTotal(f"Settles of {number}", money_text(settled, content.currency))
    if kept > 0:
        yield PrintedTotal("Credit for later invoices", money_text(kept, content.currency))


def _notes(invoice: Invoice, content: InvoiceContent, zone: ZoneInfo) -> Iterator[str]:
    if invoice.state == InvoiceState.DRAFT:
        yield f"A draft, with the usage known on {content.known_at.astimezone(zone):%-d %b %Y, %H:%M}. It may change."
    if invoice.state == InvoiceState.VOID and invoice.voided_at is not None:
        yield f"Voided on {day_text(invoice.voided_at, zone)}. Nothing is owed on it."
    if reason := content.snapshot.get("reason"):
        yield f"Reason: {reason}"
    if content.snapshot["customer"]["is_tax_exempt"]:
        yield "The customer is exempt from tax."
