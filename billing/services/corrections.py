"""What happens to an invoice after it was made final: it is voided, credited, paid. Never edited."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Max

from accounts.services import record_audit
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.domain.notices import NoticeType
from billing.domain.periods import BillingPeriod as Span
from billing.domain.taxes import TaxLine, TaxRule, tax_lines
from billing.models import BillingPeriod, Invoice, InvoiceKind, InvoiceLine, InvoiceState, LineKind, PeriodState
from billing.models import Subscription as SubscriptionRow
from billing.queries.invoices import NotFinalised
from billing.queries.settings import get_settings
from billing.queries.usage_checks import adjusted_from
from billing.services.credits import carry_over, return_credits
from billing.services.invoice_rows import invoice_notice, make_invoice, make_line, number_invoices
from billing.services.notices import write_notices
from billing.services.reasons import MAX_REASON_CHARACTERS, check_text
from billing.services.subscriptions import KeyReused
from common.errors import Conflict, InvalidInput

MAX_REFERENCE_CHARACTERS = 255


class HasCreditNotes(Conflict):
    code = "has_credit_notes"


class AlreadyPaid(Conflict):
    code = "already_paid"


class NothingLeft(Conflict):
    code = "nothing_left_to_credit"


@dataclass(frozen=True, slots=True)
class Credited:
    """`is_new` is False where the request was a repeated one."""

    note: Invoice
    is_new: bool


@transaction.atomic
def void_invoice(*, invoice: Invoice, reason: str, is_reissued: bool, actor: str, now: datetime) -> Invoice:
    """Take a final invoice back; it keeps its number, and what credits paid of it goes back to them.

    Reissued, its period is invoiced anew by the next run. Otherwise its own period is waived for good. The adjustments
    of other periods that stood on it come back on the next invoice in both cases. Raises `NotFinalised`, `AlreadyPaid`,
    `HasCreditNotes`, and `CreditSpent` where it gave credit that was used.
    """
    check_text("reason", reason, MAX_REASON_CHARACTERS)
    locked = _lock(invoice)
    if locked.paid_at is not None:
        raise AlreadyPaid("The invoice is paid; issue a credit note instead.")
    if locked.credit_notes.filter(state=InvoiceState.FINALISED).exists():
        raise HasCreditNotes("The invoice has credit notes; void those first.")
    return_credits(invoice=locked, now=now)
    locked.state, locked.voided_at, locked.void_reason = InvoiceState.VOID, now, reason
    locked.save(update_fields=["state", "voided_at", "void_reason"])
    _release_periods(locked, now, is_reissued=is_reissued)
    if locked.kind == InvoiceKind.CREDIT_NOTE:
        _unsettle(locked)
    write_notices([invoice_notice(locked, NoticeType.INVOICE_VOIDED, now)])
    _record(locked, "invoice.voided", actor, {"reason": reason, "is_reissued": is_reissued})
    return locked


def _release_periods(invoice: Invoice, now: datetime, *, is_reissued: bool) -> None:
    """Have all that the invoice billed or gave back of looked at again, and its own period billed again or never."""
    rows = BillingPeriod.objects.for_organization(invoice.organization_id)
    lines = InvoiceLine.objects.for_organization(invoice.organization_id).filter(invoice=invoice)
    told = rows.filter(pk__in=lines.values("period"))
    if invoice.kind == InvoiceKind.CREDIT_NOTE:
        # It counts in adjustments alone, and what came too late for those stays uncharged.
        told = told.filter(ends_at__gte=adjusted_from(organization=invoice.organization, now=now))
    told.update(billed_quantities=None)
    if invoice.kind == InvoiceKind.PERIOD:
        own = rows.filter(pk=invoice.period_id)
        if is_reissued:
            own.update(state=PeriodState.GRACE, grace_ends_at=now, finalised_at=None)
        else:
            own.update(is_waived=True)


@transaction.atomic
def issue_credit_note(
    *,
    invoice: Invoice,
    amounts: Mapping[int, int] | None,
    reason: str,
    actor: str,
    now: datetime,
    idempotency_key: str = "",
) -> Credited:
    """Give back of a final invoice: so many minor units of some lines by position, or (None) all that is left of it.

    Taxes go back in proportion, to the cent what was charged once everything is given back. It first settles what is
    open on the invoice; the rest becomes credit for the next one. What is given back is not charged again by a later
    adjustment. Raises `NotFinalised`, `NothingLeft`, or `InvalidInput` for more than a line has left.

    Repeating a request under its idempotency key answers with the same note, whatever became of it. Raises `KeyReused`
    for a key of another request.
    """
    check_text("reason", reason, MAX_REASON_CHARACTERS)
    locked = _lock_row(invoice)
    digest = _digest(locked, amounts, reason)
    earlier = _find_earlier(locked, idempotency_key, digest)
    if earlier is not None:
        return Credited(earlier, is_new=False)
    _refuse_unfinal(locked)
    if locked.kind == InvoiceKind.CREDIT_NOTE:
        raise NotFinalised("A credit note is voided, not credited.")
    notes = list(locked.credit_notes.filter(state=InvoiceState.FINALISED).order_by("pk"))
    lines = _credited_lines(locked, notes, amounts)
    content = _note_content(locked, notes, lines, now)
    _refuse_more_than_is_left(locked, notes, content)
    note = make_invoice(InvoiceKind.CREDIT_NOTE, locked.period, content, now)
    note.credited_invoice = locked
    note.snapshot = {**note.snapshot, "reason": reason, "credits": locked.number}
    if idempotency_key:
        note.idempotency_key, note.request_digest = idempotency_key, digest
    _store(note)
    InvoiceLine.objects.bulk_create(make_line(note, place, line) for place, line in enumerate(lines, start=1))
    settled = max(0, min(outstanding_minor(locked, notes), -note.total_minor))
    settings = get_settings(locked.organization_id)
    number_invoices(locked.organization, settings, settings.credit_note_prefix, [note], {note.pk: settled}, now)
    carry_over(invoice=note, now=now)
    _settle(locked, [*notes, note], note, now)
    write_notices([invoice_notice(note, NoticeType.CREDIT_NOTE_ISSUED, now)])
    _record(note, "credit_note.issued", actor, {"reason": reason, "credits": locked.number})
    return Credited(note, is_new=True)


def _digest(invoice: Invoice, amounts: Mapping[int, int] | None, reason: str) -> str:
    """Return what tells two requests apart that have the same key."""
    given = [invoice.pk, None if amounts is None else sorted(amounts.items()), reason]
    return sha256(json.dumps(given).encode()).hexdigest()


def _find_earlier(invoice: Invoice, key: str, digest: str) -> Invoice | None:
    """Return the note that was issued under the same key. Raises `KeyReused` if it is of something else."""
    if not key:
        return None
    rows = Invoice.objects.for_organization(invoice.organization_id)
    earlier: Invoice | None = rows.filter(idempotency_key=key).first()
    if earlier is not None and earlier.request_digest != digest:
        raise KeyReused("This idempotency key was used for another credit note.")
    return earlier


def _store(note: Invoice) -> None:
    """Store a note's draft as the next one of its period."""
    rows = Invoice.objects.for_organization(note.organization_id).filter(period=note.period)
    last = rows.filter(kind=InvoiceKind.CREDIT_NOTE).aggregate(last=Max("sequence"))["last"]
    note.sequence = 0 if last is None else last + 1
    try:
        with transaction.atomic():
            note.save()
    except IntegrityError:
        # Of the same subscription `_find_earlier` would have found it, and nobody else numbers the notes of a period.
        raise KeyReused("This idempotency key was used for another invoice's credit note.") from None


def outstanding_minor(invoice: Invoice, notes: list[Invoice]) -> int:
    """Return what is still open on a final invoice: what is due, less what its credit notes have settled of it."""
    if invoice.paid_at is not None:
        return 0
    return invoice.due_minor - sum(note.credits_minor for note in notes)


def _settle(invoice: Invoice, notes: list[Invoice], note: Invoice, now: datetime) -> None:
    """An invoice of which nothing is open any more is paid: by the note that gave the last of it back."""
    if invoice.paid_at is None and invoice.due_minor and outstanding_minor(invoice, notes) == 0:
        invoice.paid_at, invoice.payment_reference = now, note.number
        invoice.save(update_fields=["paid_at", "payment_reference"])


def _unsettle(note: Invoice) -> None:
    """What was paid by credit notes alone, of which one is void now, is open again."""
    invoice = note.credited_invoice
    if invoice is not None and invoice.credit_notes.filter(number=invoice.payment_reference).exists():
        invoice.paid_at, invoice.payment_reference = None, ""
        invoice.save(update_fields=["paid_at", "payment_reference"])


def _credited_lines(
    invoice: Invoice, notes: list[Invoice], amounts: Mapping[int, int] | None
) -> list[InvoiceLineContent]:
    """Return the lines of a credit note. Each says in its one step which line it gives back of."""
    credited: Counter[int] = Counter()
    given = InvoiceLine.objects.for_organization(invoice.organization_id).filter(invoice__in=notes)
    for line in given:
        credited[line.steps[0]["line"]] -= line.amount_minor
    rows = InvoiceLine.objects.for_organization(invoice.organization_id).filter(invoice=invoice)
    lines = {line.position: line for line in rows.select_related("period").order_by("position")}
    left = {position: line.amount_minor - credited[position] for position, line in lines.items()}
    if amounts is None:
        wanted: dict[int, int] = {position: amount for position, amount in left.items() if amount}
    else:
        wanted = dict(amounts)
        for position, amount in wanted.items():
            if position not in lines:
                raise InvalidInput.of(f"lines.{position}", "The invoice has no such line.", "unknown_line")
            if not 0 < amount <= left[position]:
                message = f"From 1 to {max(0, left[position])}: what is left of the line."
                raise InvalidInput.of(f"lines.{position}", message, "out_of_range")
    if not wanted:
        raise NothingLeft("Nothing of the invoice is left to be given back.")
    return [_credit_line(lines[position], amount) for position, amount in sorted(wanted.items())]


def _refuse_more_than_is_left(invoice: Invoice, notes: list[Invoice], content: InvoiceContent) -> None:
    """Lines below nothing (adjustments) make an invoice less than what single lines of it come to."""
    left = invoice.subtotal_minor + sum(note.subtotal_minor for note in notes)
    if left <= 0 or content.subtotal_minor >= 0:
        raise NothingLeft("Nothing of the invoice is left to be given back.")
    if left + content.subtotal_minor < 0:
        raise InvalidInput.of("lines", f"At most {left} in sum: what is left of the invoice.", "out_of_range")


def _credit_line(line: InvoiceLine, amount_minor: int) -> InvoiceLineContent:
    return InvoiceLineContent(
        kind=LineKind.CREDIT,
        name=line.name,
        period=Span(line.period.starts_at, line.period.ends_at, line.period.is_trial),
        period_id=line.period_id,
        starts_at=line.starts_at,
        ends_at=line.ends_at,
        quantity=Decimal(1),
        included_quantity=Decimal(0),
        amount_minor=-amount_minor,
        steps=[{"kind": "credit", "line": line.position, "amount": str(-amount_minor)}],
        metric_code=line.metric_code,
        unit="",
    )


def _note_content(
    invoice: Invoice, notes: list[Invoice], lines: list[InvoiceLineContent], now: datetime
) -> InvoiceContent:
    subtotal = sum(line.amount_minor for line in lines)
    before = invoice.subtotal_minor + sum(note.subtotal_minor for note in notes)
    taxes = [_credited_tax(tax, before, subtotal) for tax in invoice.taxes]
    total = subtotal + sum(tax.amount_minor for tax in taxes)
    return InvoiceContent(
        currency=invoice.currency,
        lines=lines,
        taxes=taxes,
        subtotal_minor=subtotal,
        tax_minor=total - subtotal,
        total_minor=total,
        credits_minor=0,
        due_minor=0,
        snapshot=invoice.snapshot,
        known_at=now,
    )


def _credited_tax(tax: Mapping[str, Any], before: int, subtotal: int) -> TaxLine:
    """Return what a tax goes down by when its base does: so that in the end nothing is left of it."""
    rule = TaxRule(tax["code"], tax["name"], Decimal(tax["percent"]))
    was, remains = (tax_lines(base, [rule])[0].amount_minor for base in (before, before + subtotal))
    return TaxLine(rule.code, rule.name, rule.percent, subtotal, remains - was)


@transaction.atomic
def mark_paid(*, invoice: Invoice, reference: str, actor: str, now: datetime) -> Invoice:
    """Note that a final invoice was paid, and how. Raises `NotFinalised`, `AlreadyPaid`."""
    if len(reference) > MAX_REFERENCE_CHARACTERS or "\x00" in reference:
        raise InvalidInput.of("reference", f"At most {MAX_REFERENCE_CHARACTERS} characters.", "too_long")
    locked = _lock(invoice)
    if locked.paid_at is not None:
        raise AlreadyPaid("The invoice is paid already.")
    if locked.kind == InvoiceKind.CREDIT_NOTE:
        raise NotFinalised("A credit note is not paid.")
    locked.paid_at, locked.payment_reference = now, reference
    locked.save(update_fields=["paid_at", "payment_reference"])
    _record(locked, "invoice.paid", actor, {"reference": reference})
    return locked


def _lock(invoice: Invoice) -> Invoice:
    """Lock the subscription and then the invoice, as runs do. Raises `NotFinalised` for drafts and void ones."""
    locked = _lock_row(invoice)
    _refuse_unfinal(locked)
    return locked


def _lock_row(invoice: Invoice) -> Invoice:
    subscriptions = SubscriptionRow.objects.for_organization(invoice.organization_id)
    subscriptions.select_for_update(no_key=True).get(pk=invoice.subscription_id)
    subscriptions.filter(pk=invoice.subscription_id).update(revision=F("revision") + 1)
    rows = Invoice.objects.for_organization(invoice.organization_id)
    locked: Invoice = (
        rows.select_related(
            "organization", "customer", "subscription__customer", "period__subscription", "credited_invoice"
        )
        .select_for_update(of=("self",))
        .get(pk=invoice.pk)
    )
    return locked


def _refuse_unfinal(invoice: Invoice) -> None:
    if invoice.state != InvoiceState.FINALISED:
        raise NotFinalised(f"The invoice is {'a draft' if invoice.state == InvoiceState.DRAFT else 'void'}.")


def _record(invoice: Invoice, action: str, actor: str, details: dict[str, Any]) -> None:
    record_audit(organization=invoice.organization, actor=actor, action=action, target=invoice.number, details=details)
