"""Deriving a finalised invoice again: to the cent, from the raw events that its cut-off knows, and stored rates.

The same engine that made it (`billing.queries.invoicing`), reading raw events instead of rollups. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import Q, Sum

from billing.domain.invoices import InvoiceLineContent
from billing.domain.taxes import TaxRule, tax_lines
from billing.models import BillingPeriod, Invoice, InvoiceKind, InvoiceLine, InvoiceState, LineKind
from billing.queries.explain import adds_up
from billing.queries.invoices import NotFinalised
from billing.queries.invoicing import compute_periods
from metering.domain import Cutoff
from metering.queries.reading import RangeNotKept

# Steps of an adjustment that name an invoice, or a credit note.
_STANDING = {"billed", "credited"}


@dataclass(frozen=True, slots=True)
class DerivedLine:
    """One line as it is stored and as it comes out. None: it is there on one side alone."""

    # Of the stored line.
    position: int | None
    name: str
    stored_quantity: Decimal | None
    derived_quantity: Decimal | None
    stored_minor: int | None
    derived_minor: int | None
    # Whether the steps that are stored come to the amount, and of an adjustment: to what the invoices before say.
    has_steps: bool

    @property
    def agrees(self) -> bool:
        is_same = self.stored_minor == self.derived_minor and self.stored_quantity == self.derived_quantity
        return is_same and self.has_steps


@dataclass(frozen=True, slots=True)
class Rederivation:
    """What an invoice says, and what it comes to when it is derived again.

    `problem`: why that cannot be done any more; then nothing is derived and `agrees` is None.
    """

    invoice: Invoice
    lines: list[DerivedLine]
    stored_tax_minor: int
    derived_tax_minor: int | None
    stored_total_minor: int
    derived_total_minor: int | None
    problem: str = ""

    @property
    def agrees(self) -> bool | None:
        if self.problem:
            return None
        is_same = (self.stored_total_minor, self.stored_tax_minor) == (self.derived_total_minor, self.derived_tax_minor)
        return is_same and all(line.agrees for line in self.lines)


def rederive_invoice(*, invoice: Invoice) -> Rederivation:
    """Derive a finalised or void invoice again. Reads the raw events of its period, and of every one that it adjusts.

    Raises `NotFinalised`.
    """
    if invoice.state == InvoiceState.DRAFT:
        raise NotFinalised("The invoice is a draft; what it says changes until it is final.")
    rows = InvoiceLine.objects.for_organization(invoice.organization_id).filter(invoice=invoice)
    stored = list(rows.order_by("position"))
    if invoice.kind == InvoiceKind.CREDIT_NOTE:
        return _answer(invoice, list(_credited(invoice, stored)), _credited_tax)
    try:
        lines = list(_derive(invoice, stored))
    except RangeNotKept as error:
        return Rederivation(
            invoice, [], invoice.tax_minor, None, invoice.total_minor, None, error.message or "Not kept."
        )
    return _answer(invoice, lines, _tax_on)


def _derive(invoice: Invoice, stored: list[InvoiceLine]) -> Iterator[DerivedLine]:
    if invoice.cutoff_id is None:
        raise RangeNotKept("Nothing says up to which event the invoice charges.")
    cutoff = Cutoff(invoice.cutoff_id, invoice.known_at)
    adjusted = [line for line in stored if line.kind == LineKind.ADJUSTMENT]
    rows = BillingPeriod.objects.for_organization(invoice.organization_id).filter(
        pk__in={invoice.period_id, *(line.period_id for line in adjusted)}
    )
    periods = list(rows.select_related("subscription__customer", "subscription__organization").order_by("pk"))
    computed = compute_periods(
        periods, organization=invoice.organization, now=invoice.known_at, known_at=invoice.known_at, as_of=cutoff
    )
    derived = {each.period.pk: list(each.invoice.content.lines) if each.invoice else [] for each in computed}
    own = [line for line in stored if line.kind != LineKind.ADJUSTMENT]
    if invoice.kind == InvoiceKind.PERIOD:
        yield from _compare(own, derived[invoice.period_id])
    billed = _read_billed(invoice, adjusted)
    for line in adjusted:
        yield _compare_adjustment(line, derived[line.period_id], billed)


def _compare(stored: list[InvoiceLine], derived: list[InvoiceLineContent]) -> Iterator[DerivedLine]:
    """Pair lines in their order, which is that of prices and segments."""
    for place in range(max(len(stored), len(derived))):
        line = stored[place] if place < len(stored) else None
        content = derived[place] if place < len(derived) else None
        yield DerivedLine(
            position=line.position if line else None,
            name=line.name if line else content.name if content else "",
            stored_quantity=line.quantity if line else None,
            derived_quantity=content.quantity if content else None,
            stored_minor=line.amount_minor if line else None,
            derived_minor=content.amount_minor if content else None,
            has_steps=line is not None and content is not None and list(line.steps) == list(content.steps),
        )


def _compare_adjustment(
    line: InvoiceLine, derived: list[InvoiceLineContent], billed: Mapping[tuple[int, str], int]
) -> DerivedLine:
    """What the period comes to, less what the line says that was billed and not given back; and that must stand on
    those invoices and credit notes."""
    said = {step["name"]: -int(Decimal(step["amount"])) for step in line.steps if step["kind"] in _STANDING}
    does_stand = all(billed.get((line.period_id, number)) == amount for number, amount in said.items())
    return DerivedLine(
        position=line.position,
        name=line.name,
        stored_quantity=line.quantity,
        derived_quantity=line.quantity,
        stored_minor=line.amount_minor,
        derived_minor=sum(each.amount_minor for each in derived) - sum(said.values()),
        has_steps=does_stand and adds_up(line),
    )


def _read_billed(invoice: Invoice, adjusted: list[InvoiceLine]) -> dict[tuple[int, str], int]:
    """Return what stands of each adjusted period on the documents that the adjustments name. One query, if any."""
    wanted = Q(pk__in=[])
    for line in adjusted:
        numbers = [step["name"] for step in line.steps if step["kind"] in _STANDING]
        wanted |= Q(period=line.period_id, invoice__number__in=numbers)
    if not adjusted:
        return {}
    rows = InvoiceLine.objects.for_organization(invoice.organization_id).filter(wanted)
    sums = rows.values_list("period", "invoice__number").annotate(amount=Sum("amount_minor")).order_by()
    return {(period, number): int(amount) for period, number, amount in sums}


# --- credit notes, taxes --------------------------------------------------------------------------------------


def _credited(invoice: Invoice, stored: list[InvoiceLine]) -> Iterator[DerivedLine]:
    """A line of a credit note says itself how much it gives back; it must stand on the line that it names, and more
    than that was never given back of it."""
    rows = InvoiceLine.objects.for_organization(invoice.organization_id)
    credited = {line.position: line.amount_minor for line in rows.filter(invoice=invoice.credited_invoice_id)}
    given: dict[int, int] = {}
    for line in rows.filter(invoice__in=_list_earlier_notes(invoice)):
        given[line.steps[0]["line"]] = given.get(line.steps[0]["line"], 0) - line.amount_minor
    for line in stored:
        step = line.steps[0]
        was = credited.get(step["line"], 0)
        # Of a line below nothing what is given back is above it.
        limit = max if was >= 0 else min
        yield DerivedLine(
            position=line.position,
            name=line.name,
            stored_quantity=line.quantity,
            derived_quantity=line.quantity,
            stored_minor=line.amount_minor,
            derived_minor=limit(int(Decimal(step["amount"])), given.get(step["line"], 0) - was),
            has_steps=adds_up(line),
        )


def _list_earlier_notes(note: Invoice) -> list[Invoice]:
    """Return the credit notes of the same invoice that held when this one was issued, in order."""
    rows = Invoice.objects.for_organization(note.organization_id).filter(
        credited_invoice=note.credited_invoice_id, pk__lt=note.pk
    )
    held = Q(state=InvoiceState.FINALISED) | Q(voided_at__gt=note.issued_at)
    return list(rows.filter(held).order_by("pk"))


def _credited_tax(invoice: Invoice, subtotal: int) -> int:
    """What the tax goes down by when its base does."""
    credited = invoice.credited_invoice
    assert credited is not None  # it is a credit note
    before = credited.subtotal_minor + sum(note.subtotal_minor for note in _list_earlier_notes(invoice))
    return _tax_on(invoice, before + subtotal) - _tax_on(invoice, before)


def _tax_on(invoice: Invoice, base: int) -> int:
    """Return the tax on an amount at the rates that the invoice says."""
    rules = [TaxRule(tax["code"], tax["name"], Decimal(tax["percent"])) for tax in invoice.taxes]
    return sum(line.amount_minor for line in tax_lines(base, rules))


def _answer(invoice: Invoice, lines: list[DerivedLine], tax_of: Callable[[Invoice, int], int]) -> Rederivation:
    subtotal = sum(line.derived_minor or 0 for line in lines)
    tax = tax_of(invoice, subtotal)
    return Rederivation(invoice, lines, invoice.tax_minor, tax, invoice.total_minor, subtotal + tax)
