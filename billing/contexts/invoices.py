"""Pages of invoices: the list with how each stands, and one with its lines, history and what may become of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Organization
from accounts.pages import text_parameter, with_parameters
from accounts.queries import list_audit_entries, suggest_customers
from accounts.sql.known_customer import find_customer
from billing.documents.printed import document_title
from billing.documents.words import StepText, day_text, span_text, stored_step_text
from billing.domain.currencies import money_text
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.forms.invoices import CreditForm, PaidForm, VoidForm, WaiveForm
from billing.models import BillingPeriod, Invoice, InvoiceKind, InvoiceState, LineKind, PeriodState, Subscription
from billing.queries.invoice_runs import find_latest_run, list_problems
from billing.queries.invoices import (
    Standing,
    get_content,
    list_credit_notes,
    list_invoices,
    standing_of,
    with_standing,
)
from billing.services.corrections import outstanding_minor
from common.api import take_page
from common.numbers import readable_text
from metering.contexts.filters import Option

PAGE_SIZE = 50
# The newest of them; the audit log has all.
MAX_HISTORY = 50
MAX_PROBLEMS = 10
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
BADGES = {
    Standing.DRAFT: "",
    Standing.OPEN: "is-accent",
    Standing.OVERDUE: "is-danger",
    Standing.PAID: "is-success",
    Standing.VOID: "",
    Standing.CREDIT_NOTE: "is-warning",
}
LABELS = {standing: standing.replace("_", " ") for standing in Standing}
HAPPENINGS = {
    "invoice.finalised": "made final",
    "invoice.voided": "voided",
    "invoice.paid": "marked as paid",
    "credit_note.issued": "issued",
}


@dataclass(frozen=True, slots=True)
class InvoiceRow:
    url: str
    # Empty: a draft.
    number: str
    customer: str
    customer_url: str
    period: str
    standing: str
    badge: str
    # What comes next, or came last: "final in 5 h", "due 16 Nov 2026".
    note: str
    amount: str
    is_faded: bool


@dataclass(frozen=True, slots=True)
class RunCard:
    """The last run over everything that is due."""

    is_over: bool
    # "12 of 40 billing periods", "nothing was due"; those that became due meanwhile are done too.
    progress: str
    failed: int
    started_by: str
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Problem:
    text: str
    # Of a period that may be waived.
    period_id: int | None = None
    waive_form: WaiveForm | None = None


@dataclass(frozen=True, slots=True)
class InvoiceListPage:
    rows: list[InvoiceRow]
    # None: there was none.
    run: RunCard | None
    standings: list[Option]
    customer: str
    customers: list[str]
    is_filtered: bool
    # What is wrong with the filters, and periods that could not be invoiced.
    problems: list[Problem]
    # Of an empty list: when the first invoice comes; empty: nobody is subscribed.
    first_comes: str
    # Whether there may be anything to invoice.
    can_run: bool
    next_url: str
    first_url: str


def get_invoice_list(request: HttpRequest, caller: Caller) -> InvoiceListPage:
    """The same number of queries, however many invoices there are."""
    now, organization = timezone.now(), caller.organization
    named = {name: text_parameter(request, name) for name in ("status", "customer")}
    parameters = {name: value for name, value in named.items() if value}
    cursor = text_parameter(request, "cursor")
    rows, problem = list_invoices(organization=organization), ""
    if named["customer"]:
        customer = find_customer(organization=organization, external_id=named["customer"], customer_id=None)
        problem = "" if customer else f"There is no customer {named['customer']}."
        rows = rows.filter(customer=customer) if customer else rows.none()
    if named["status"] in set(Standing):
        rows = with_standing(rows, Standing(named["status"]), now)
    page = take_page(rows, limit=PAGE_SIZE, cursor=cursor, is_newest_first=True)
    here = reverse("billing:invoice_list", args=[organization.pk])
    first_comes = "" if page.rows or parameters else _first_comes(organization)
    return InvoiceListPage(
        rows=[_row(invoice, now) for invoice in page.rows],
        run=_last_run(organization),
        standings=[Option(each, LABELS[each], each == named["status"]) for each in Standing],
        customer=named["customer"],
        customers=suggest_customers(organization),
        is_filtered=bool(parameters),
        problems=[Problem(problem)] * bool(problem) + _list_problems(caller),
        first_comes=first_comes,
        can_run=bool(page.rows or parameters or first_comes),
        next_url=with_parameters(here, {**parameters, "cursor": page.next_cursor}) if page.next_cursor else "",
        first_url=with_parameters(here, parameters) if cursor else "",
    )


def _row(invoice: Invoice, now: datetime) -> InvoiceRow:
    standing = standing_of(invoice, now)
    organization_id = invoice.organization_id
    return InvoiceRow(
        url=reverse("billing:invoice", args=[organization_id, invoice.pk]),
        number=invoice.number,
        customer=invoice.customer.name or invoice.customer.external_id,
        customer_url=reverse("billing:customer_billing", args=[organization_id, invoice.customer_id]),
        period=_span_of(invoice.period),
        standing=LABELS[standing],
        badge=BADGES[standing],
        note=_standing_note(invoice, standing, now),
        amount=money_text(invoice.total_minor, invoice.currency),
        is_faded=standing == Standing.VOID,
    )


def _last_run(organization: Organization) -> RunCard | None:
    run = find_latest_run(organization=organization)
    if run is None:
        return None
    done = run.drafted + run.finalised + run.failed
    count = max(done, run.total)
    return RunCard(
        is_over=run.finished_at is not None,
        progress=f"{done} of {count} billing period{'s' * (count != 1)}" if count else "nothing was due",
        failed=run.failed,
        started_by=run.started_by,
        seen_at=run.finished_at or run.seen_at,
    )


def _list_problems(caller: Caller) -> list[Problem]:
    """Say of some periods why the last run could not invoice them; the next one tries again."""
    periods = list_problems(organization=caller.organization).order_by("pk")[:MAX_PROBLEMS]
    return [_problem(each, can_write=caller.has(Scope.BILLING_WRITE)) for each in periods]


def _problem(period: BillingPeriod, *, can_write: bool) -> Problem:
    text = f"{period.subscription.customer.external_id}, {_span_of(period)}: {period.problem}"
    if can_write and period.state == PeriodState.GRACE:
        return Problem(text, period.pk, WaiveForm(auto_id=f"waive-{period.pk}-%s"))
    return Problem(text)


def _standing_note(invoice: Invoice, standing: Standing, now: datetime) -> str:
    zone = ZoneInfo(invoice.subscription.zone)
    match standing:
        case Standing.DRAFT:
            return grace_text(invoice.period, now)
        case Standing.OPEN | Standing.OVERDUE:
            return f"due {day_text(invoice.due_at, zone)}" if invoice.due_at else ""
        case Standing.PAID:
            return day_text(invoice.paid_at, zone) if invoice.paid_at else "nothing due"
        case Standing.VOID:
            return day_text(invoice.voided_at, zone) if invoice.voided_at else ""
        case Standing.CREDIT_NOTE:
            return f"for {invoice.credited_invoice.number}" if invoice.credited_invoice else ""


def grace_text(period: BillingPeriod, now: datetime) -> str:
    """Say when a draft is made final: "final in 5 h"; why it is not, where that failed."""
    if period.problem:
        return f"not made final: {period.problem}"
    left = (period.grace_ends_at or now) - now
    if left <= timedelta(0):
        return "final with the next run"
    size, unit = next((each for each in ((2 * DAY, "d"), (HOUR, "h")) if left >= each[0]), (MINUTE, "min"))
    count = left // (DAY if unit == "d" else size)
    return f"final in {count}\u202f{unit}" if count else "final within the minute"


def _first_comes(organization: Organization) -> str:
    periods = BillingPeriod.objects.for_organization(organization).exclude(state=PeriodState.FINALISED)
    first = periods.order_by("ends_at").select_related("subscription").first()
    if first is not None:
        ends_on = day_text(first.ends_at, ZoneInfo(first.subscription.zone))
        return f"The first one comes on {ends_on}, when a billing period ends. It is a draft until its grace is over."
    if Subscription.objects.for_organization(organization).exists():
        return "The first one comes when a billing period ends. It is a draft until its grace is over."
    return ""


def _span_of(period: BillingPeriod) -> str:
    return span_text(period.starts_at, period.ends_at, ZoneInfo(period.subscription.zone))


# --- one invoice ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShownLine:
    name: str
    # To its explanation; empty: a draft's lines have none.
    url: str
    kind: str
    span: str
    quantity: Decimal | None
    unit: str
    amount: str
    steps: list[StepText]


@dataclass(frozen=True, slots=True)
class ShownTotal:
    label: str
    amount: str


@dataclass(frozen=True, slots=True)
class CreditNoteRow:
    url: str
    number: str
    issued_at: datetime | None
    amount: str
    is_void: bool


@dataclass(frozen=True, slots=True)
class HistoryRow:
    at: datetime
    what: str
    who: str
    details: str


@dataclass(frozen=True, slots=True)
class InvoicePage:
    invoice: Invoice
    title: str
    standing: str
    badge: str
    note: str
    period: str
    zone: str
    total: str
    # Empty: nothing is owed on its like.
    outstanding: str
    customer: str
    customer_url: str
    # Empty: it credits nothing.
    credited_url: str
    printed: list[str]
    plans: str
    lines: list[ShownLine]
    totals: list[ShownTotal]
    known_at: datetime
    credit_notes: list[CreditNoteRow]
    history: list[HistoryRow]
    can_finalise: bool
    # None: that may not become of it, or not by this person.
    void_form: VoidForm | None
    credit_form: CreditForm | None
    paid_form: PaidForm | None


def get_invoice_page(caller: Caller, invoice: Invoice) -> InvoicePage:
    """A draft is computed now. Raises what keeps it from being computed."""
    now = timezone.now()
    content = get_content(invoice=invoice, now=now)
    notes = list(list_credit_notes(invoice))
    standing, zone = standing_of(invoice, now), ZoneInfo(invoice.subscription.zone)
    is_billing, live = caller.has(Scope.BILLING_WRITE), [note for note in notes if note.state != InvoiceState.VOID]
    is_final = is_billing and invoice.state == InvoiceState.FINALISED
    is_credit_note = invoice.kind == InvoiceKind.CREDIT_NOTE
    return InvoicePage(
        invoice=invoice,
        title=f"{document_title(invoice)} {invoice.number}".strip(),
        standing=LABELS[standing],
        badge=BADGES[standing],
        note=_standing_note(invoice, standing, now),
        period=_span_of(invoice.period),
        zone=zone.key,
        total=money_text(content.total_minor, content.currency),
        outstanding=_outstanding(invoice, content, live),
        customer=content.snapshot["customer"]["name"] or invoice.customer.external_id,
        customer_url=reverse("billing:customer_billing", args=[invoice.organization_id, invoice.customer_id]),
        credited_url=_url(invoice.credited_invoice) if invoice.credited_invoice else "",
        printed=_printed_lines(content),
        plans=", ".join(f"{plan['name']} v{plan['version']}" for plan in content.snapshot["plans"]),
        lines=[
            _line(line, _line_url(invoice, place), content, zone) for place, line in enumerate(content.lines, start=1)
        ],
        totals=_totals(content, is_credit_note=is_credit_note),
        known_at=content.known_at,
        credit_notes=[_credit_note(note) for note in notes],
        history=_history(invoice, caller.organization) if invoice.number else [],
        can_finalise=is_billing and invoice.state == InvoiceState.DRAFT,
        void_form=VoidForm(auto_id="void_%s") if is_final and invoice.paid_at is None and not live else None,
        credit_form=CreditForm(lines=content.lines, currency=content.currency)
        if is_final and not is_credit_note and invoice.subtotal_minor + sum(note.subtotal_minor for note in live)
        else None,
        paid_form=PaidForm(auto_id="paid_%s")
        if is_final and not is_credit_note and standing in {Standing.OPEN, Standing.OVERDUE}
        else None,
    )


def _url(invoice: Invoice) -> str:
    return reverse("billing:invoice", args=[invoice.organization_id, invoice.pk])


def _outstanding(invoice: Invoice, content: InvoiceContent, notes: list[Invoice]) -> str:
    """Say what is left to pay: of a draft what would be."""
    if invoice.kind == InvoiceKind.CREDIT_NOTE or invoice.state == InvoiceState.VOID:
        return ""
    is_draft = invoice.state == InvoiceState.DRAFT
    return money_text(content.due_minor if is_draft else outstanding_minor(invoice, notes), content.currency)


def _printed_lines(content: InvoiceContent) -> list[str]:
    """Return how the customer is addressed."""
    customer = content.snapshot["customer"]
    place = ", ".join(filter(None, (customer["region"], customer["country"])))
    tax_id = f"Tax ID {customer['tax_id']}" if customer["tax_id"] else ""
    return [text for text in (*customer["address"].splitlines(), place, customer["email"], tax_id) if text]


def _line_url(invoice: Invoice, position: int) -> str:
    if invoice.state == InvoiceState.DRAFT:
        return ""
    return reverse("billing:invoice_line", args=[invoice.organization_id, invoice.pk, position])


def _line(line: InvoiceLineContent, url: str, content: InvoiceContent, zone: ZoneInfo) -> ShownLine:
    is_counted, currency = line.kind == LineKind.USAGE, content.currency
    return ShownLine(
        name=line.name,
        url=url,
        kind="" if line.kind in {LineKind.FEE, LineKind.USAGE} else LineKind(line.kind).label,
        span=span_text(line.starts_at, line.ends_at, zone),
        quantity=line.quantity if is_counted else None,
        unit=line.unit if is_counted else "",
        amount=money_text(line.amount_minor, currency),
        steps=[stored_step_text(step, currency) for step in line.steps],
    )


def _totals(content: InvoiceContent, *, is_credit_note: bool) -> list[ShownTotal]:
    currency = content.currency
    totals = []
    if content.taxes:
        totals.append(ShownTotal("Subtotal", money_text(content.subtotal_minor, currency)))
    totals += [
        ShownTotal(f"{tax.name}, {readable_text(tax.percent)}\u202f%", money_text(tax.amount_minor, currency))
        for tax in content.taxes
    ]
    totals.append(ShownTotal("Total", money_text(content.total_minor, currency)))
    if is_credit_note:
        if content.credits_minor:
            totals.append(ShownTotal("Settles of the invoice", money_text(content.credits_minor, currency)))
        return totals
    if content.credits_minor:
        totals.append(ShownTotal("Paid with credits", money_text(-content.credits_minor, currency)))
    return [*totals, ShownTotal("Due", money_text(content.due_minor, currency))]


def _credit_note(note: Invoice) -> CreditNoteRow:
    return CreditNoteRow(
        url=_url(note),
        number=note.number,
        issued_at=note.issued_at,
        amount=money_text(note.total_minor, note.currency),
        is_void=note.state == InvoiceState.VOID,
    )


def _history(invoice: Invoice, organization: Organization) -> list[HistoryRow]:
    """Return who did what to the invoice, and when it was issued and mailed, the newest first."""
    entries = list_audit_entries(organization).filter(target=invoice.number, action__in=list(HAPPENINGS))
    rows = [
        HistoryRow(
            entry.created_at,
            HAPPENINGS[entry.action],
            entry.actor,
            str(entry.details.get("reason") or entry.details.get("reference") or ""),
        )
        for entry in entries.order_by("-id")[:MAX_HISTORY]
    ]
    if invoice.issued_at is not None:
        rows.append(HistoryRow(invoice.issued_at, "given its number", "", ""))
    if invoice.mailed_at is not None:
        rows.append(HistoryRow(invoice.mailed_at, "mailed", "", ""))
    return sorted(rows, key=lambda row: row.at, reverse=True)
