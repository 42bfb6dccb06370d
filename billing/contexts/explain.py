"""The pages of trust: an invoice line from its amount down to its events, and what the daily check found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.access import Caller
from accounts.pages import text_parameter, with_parameters
from billing.contexts.words import filter_texts, price_text, tier_texts
from billing.documents.words import StepText, span_text, stored_step_text
from billing.domain.currencies import money_text
from billing.domain.proration import WHOLE
from billing.models import Invoice, LineKind, UsageCheck
from billing.queries.explain import explain_line
from billing.queries.explanations import (
    AdjustmentExplanation,
    Agreement,
    CreditExplanation,
    LineEvent,
    LineExplanation,
    MetricChanges,
    TrueUpExplanation,
    UsageExplanation,
)
from billing.queries.rederivation import Rederivation, rederive_invoice
from billing.queries.usage_checks import (
    CheckSummary,
    adjusted_from,
    list_checks,
    summarise_checks,
    unbilled_quantity,
)
from common.api import decode_cursor, encode_cursor, take_page
from common.errors import InvalidInput
from metering.charts import Bucket, Chart, ChartLine, stacked_bars
from metering.queries import CountedEvent

EVENTS_SHOWN = 50
CHECKS_SHOWN = 50
# Days of a longer segment are in the API; a bar of less than three pixels shows nothing.
MAX_BARS = 366


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage on the way and whether it says what the line says; `badge` is of the stylesheet."""

    label: str
    answer: str
    badge: str


@dataclass(frozen=True, slots=True)
class EventRow:
    url: str
    key: str
    occurred_at: datetime
    quantity: Decimal | None
    member: str
    is_removal: bool
    dimensions: list[str]
    adds: Decimal | None
    is_deciding: bool


@dataclass(frozen=True, slots=True)
class NamedQuantity:
    name: str
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class UsagePart:
    title: str
    # What the events make, and what the line says.
    quantity: Decimal
    charged: Decimal
    unit: str
    # How the events make it, in words.
    rule: str
    chart: Chart | None
    groups: list[NamedQuantity]
    event_count: int | None
    events: list[EventRow]
    does_add_up: bool
    # What came since; empty: nothing, or it cannot be told.
    changed_since: Decimal | None
    next_url: str
    first_url: str


@dataclass(frozen=True, slots=True)
class PriceChangeRow:
    name: str
    before_quantity: Decimal | None
    before: str
    now_quantity: Decimal | None
    now: str


@dataclass(frozen=True, slots=True)
class ChangeRows:
    metric: str
    arrived: list[EventRow]
    taken_back: list[EventRow]
    note: str


@dataclass(frozen=True, slots=True)
class AdjustmentPart:
    prices: list[PriceChangeRow]
    former_known_at: datetime | None
    # None: they are too many, or not kept.
    changes: list[ChangeRows] | None


@dataclass(frozen=True, slots=True)
class TermRow:
    period: str
    total: str


@dataclass(frozen=True, slots=True)
class TrueUpPart:
    commitment: str
    periods: list[TermRow]


@dataclass(frozen=True, slots=True)
class CreditPart:
    number: str
    url: str
    name: str
    amount: str


@dataclass(frozen=True, slots=True)
class LinePage:
    title: str
    name: str
    invoice_number: str
    invoice_url: str
    span: str
    zone: str
    amount: str
    known_at: datetime
    stages: list[Stage]
    problem: str
    steps: list[StepText]
    plan: str
    terms: list[str]
    usage: UsagePart | None
    adjustment: AdjustmentPart | None
    true_up: TrueUpPart | None
    credit: CreditPart | None


def get_line_page(request: HttpRequest, caller: Caller, invoice: Invoice, position: int) -> LinePage:
    """Raises `NotFound`, and `NotFinalised` for a draft."""
    cursor = text_parameter(request, "cursor")
    found = explain_line(invoice=invoice, position=position, after=_offset(cursor), limit=EVENTS_SHOWN)
    line, currency = found.line, invoice.currency
    here = reverse("billing:invoice_line", args=[invoice.organization_id, invoice.pk, position])
    return LinePage(
        title=f"Line {position} of {invoice.number}",
        name=line.name,
        invoice_number=invoice.number,
        invoice_url=reverse("billing:invoice", args=[invoice.organization_id, invoice.pk]),
        span=span_text(line.starts_at, line.ends_at, found.zone),
        zone=found.zone.key,
        amount=money_text(line.amount_minor, currency),
        known_at=invoice.known_at,
        stages=_stages(found.agrees, line.kind),
        problem=found.problem,
        steps=[stored_step_text(step, currency) for step in line.steps],
        plan=f"{found.version.plan.name} v{found.version.number}" if found.version else "",
        terms=_terms(found),
        usage=_usage(found.usage, found, here, cursor) if found.usage else None,
        adjustment=_adjustment(found.adjustment, invoice) if found.adjustment else None,
        true_up=_true_up(found.true_up, found) if found.true_up else None,
        credit=_credit(found.credit, currency) if found.credit else None,
    )


def _offset(cursor: str) -> int | None:
    if not cursor:
        return None
    [offset] = decode_cursor(cursor, length=1)
    if not isinstance(offset, int):
        raise InvalidInput.of("cursor", "Use a link of the page before, unchanged.", "invalid_cursor")
    return offset


def _stages(agrees: Agreement, kind: str) -> list[Stage]:
    said = {"Events": agrees.events, "Rollups": agrees.rollups, "Steps": agrees.steps}
    is_counted = kind in {LineKind.USAGE, LineKind.ADJUSTMENT}
    return [
        _stage(label, answer)
        for label, answer in said.items()
        if answer is not None or (is_counted and label != "Steps")
    ]


def _stage(label: str, answer: bool | None) -> Stage:
    match answer:
        case True:
            return Stage(label, "agree", "is-success")
        case False:
            return Stage(label, "differ", "is-danger")
    return Stage(label, "not kept", "")


def _terms(found: LineExplanation) -> list[str]:
    if found.charge is None:
        return []
    texts = [price_text(found.charge), *tier_texts(found.charge.price), *filter_texts(found.charge)]
    if found.part != WHOLE:
        share = found.part.end - found.part.start
        percent = Decimal(100) * share.numerator / share.denominator
        texts.append(f"for {percent:.2f}\u202f% of the billing period")
    return texts


# --- usage ----------------------------------------------------------------------------------------------------

RULES = {
    "sum": "The sum of their quantities",
    "count": "Each event counts one",
    "max": "The greatest quantity",
    "min": "The least quantity",
    "latest": "The quantity of the last one",
    "count_unique": "The members that were added and not removed again",
}


def _usage(usage: UsageExplanation, found: LineExplanation, here: str, cursor: str) -> UsagePart:
    organization_id = found.invoice.organization_id
    return UsagePart(
        title=usage.metric.name or usage.metric.code,
        quantity=usage.quantity,
        charged=found.line.quantity,
        unit=found.line.unit,
        rule=RULES[usage.metric.aggregation],
        chart=_chart(usage, found),
        groups=[NamedQuantity(_group_text(row.group), row.quantity) for row in usage.groups],
        event_count=usage.event_count,
        events=[_event_row(each, organization_id) for each in usage.events],
        does_add_up=usage.does_add_up,
        changed_since=usage.changed_since or None,
        next_url=f"{with_parameters(here, {'cursor': encode_cursor(usage.next_after)})}#events"
        if usage.next_after
        else "",
        first_url=f"{here}#events" if cursor else "",
    )


def _chart(usage: UsageExplanation, found: LineExplanation) -> Chart | None:
    """Draw a bar for every day of the segment; None where it is longer than that shows, or where nothing was folded."""
    first = found.line.starts_at.astimezone(found.zone).date()
    last = (found.line.ends_at - timedelta(microseconds=1)).astimezone(found.zone).date()
    count = (last - first).days + 1
    if count > MAX_BARS or not usage.days:
        return None
    values = {row.day: row.quantity for row in usage.days}
    days = [first + timedelta(days=number) for number in range(count)]
    return stacked_bars(
        title=f"{usage.metric.name or usage.metric.code} by day",
        summary=f"{count} days from {first:%-d %b %Y} to {last:%-d %b %Y}",
        buckets=[_bucket(day) for day in days],
        lines=[ChartLine(usage.metric.code, "1", [values.get(day, Decimal(0)) for day in days])],
    )


def _bucket(day: date) -> Bucket:
    return Bucket(f"{day:%-d %b}", f"{day:%a %-d %b %Y}")


def _group_text(group: dict[str, str | None]) -> str:
    return ", ".join(f"{key}: {value if value is not None else '(none)'}" for key, value in group.items())


def _event_row(each: LineEvent, organization_id: int) -> EventRow:
    return _row(each.event, organization_id, each.adds, is_deciding=each.is_deciding)


def _row(
    event: CountedEvent, organization_id: int, adds: Decimal | None = None, *, is_deciding: bool = False
) -> EventRow:
    return EventRow(
        url=with_parameters(reverse("metering:event", args=[organization_id]), {"key": event.idempotency_key}),
        key=event.idempotency_key,
        occurred_at=event.occurred_at,
        quantity=event.quantity,
        member=event.member or "",
        is_removal=event.operation == "remove",
        dimensions=[f"{key}: {value}" for key, value in event.dimensions.items() if value is not None],
        adds=adds,
        is_deciding=is_deciding,
    )


# --- the others -----------------------------------------------------------------------------------------------


def _adjustment(found: AdjustmentExplanation, invoice: Invoice) -> AdjustmentPart:
    def money(amount: Decimal | None) -> str:
        return "" if amount is None else money_text(amount, invoice.currency)

    return AdjustmentPart(
        prices=[
            PriceChangeRow(
                each.name, each.before_quantity, money(each.before_minor), each.now_quantity, money(each.now_minor)
            )
            for each in found.prices
        ],
        former_known_at=found.former_known_at,
        changes=None if found.changes is None else [_changes(each, invoice.organization_id) for each in found.changes],
    )


def _changes(changes: MetricChanges, organization_id: int) -> ChangeRows:
    hidden = changes.arrived_count + changes.taken_back_count - len(changes.arrived) - len(changes.taken_back)
    return ChangeRows(
        metric=changes.metric.name or changes.metric.code,
        arrived=[_row(event, organization_id) for event in changes.arrived],
        taken_back=[_row(event, organization_id) for event in changes.taken_back],
        note=f"and {hidden} more" if hidden else "",
    )


def _true_up(found: TrueUpExplanation, line: LineExplanation) -> TrueUpPart:
    currency = line.invoice.currency
    return TrueUpPart(
        commitment=money_text(found.commitment_minor, currency),
        periods=[
            TermRow(span_text(row.starts_at, row.ends_at, line.zone), money_text(total, currency))
            for row, total in found.periods
        ],
    )


def _credit(found: CreditExplanation, currency: str) -> CreditPart:
    line = found.line
    arguments = [found.invoice.organization_id, found.invoice.pk]
    if line is None:
        return CreditPart(found.invoice.number, reverse("billing:invoice", args=arguments), "", "")
    url = reverse("billing:invoice_line", args=[*arguments, line.position])
    return CreditPart(found.invoice.number, url, line.name, money_text(line.amount_minor, currency))


# --- verifying ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DerivedRow:
    name: str
    url: str
    stored: str
    derived: str
    agrees: bool


@dataclass(frozen=True, slots=True)
class VerifyPage:
    title: str
    number: str
    invoice_url: str
    agrees: bool | None
    stored_total: str
    derived_total: str
    rows: list[DerivedRow]
    problem: str
    known_at: datetime


def get_verify_page(invoice: Invoice) -> VerifyPage:
    """Derive the invoice again, now. Raises `NotFinalised`."""
    found = rederive_invoice(invoice=invoice)
    return VerifyPage(
        title=f"{invoice.number} derived again",
        number=invoice.number,
        invoice_url=reverse("billing:invoice", args=[invoice.organization_id, invoice.pk]),
        agrees=found.agrees,
        stored_total=money_text(found.stored_total_minor, invoice.currency),
        derived_total=_money(found.derived_total_minor, invoice.currency),
        rows=_derived_rows(found),
        problem=found.problem,
        known_at=invoice.known_at,
    )


def _derived_rows(found: Rederivation) -> list[DerivedRow]:
    invoice = found.invoice

    def url(position: int | None) -> str:
        if position is None:
            return ""
        return reverse("billing:invoice_line", args=[invoice.organization_id, invoice.pk, position])

    rows = [
        DerivedRow(
            line.name,
            url(line.position),
            _money(line.stored_minor, invoice.currency),
            _money(line.derived_minor, invoice.currency),
            line.agrees,
        )
        for line in found.lines
    ]
    if found.stored_tax_minor or found.derived_tax_minor:
        stored, derived = found.stored_tax_minor, found.derived_tax_minor
        row = DerivedRow(
            "Tax", "", _money(stored, invoice.currency), _money(derived, invoice.currency), stored == derived
        )
        rows.append(row)
    return rows


def _money(amount: int | None, currency: str) -> str:
    return "" if amount is None else money_text(amount, currency)


# --- the daily check ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckedQuantity:
    label: str
    # None: it cannot be told.
    quantity: Decimal | None


@dataclass(frozen=True, slots=True)
class CheckRow:
    customer: str
    customer_url: str
    metric: str
    period: str
    quantities: list[CheckedQuantity]
    # What came too late for any invoice; None: an invoice may still charge it.
    unbilled: Decimal | None
    differs_since: datetime | None


@dataclass(frozen=True, slots=True)
class CheckPage:
    summary: CheckSummary
    agreeing_count: int
    rows: list[CheckRow]
    next_url: str
    first_url: str


def get_check_page(request: HttpRequest, caller: Caller) -> CheckPage:
    """What differs, in pages. Four queries."""
    cursor = text_parameter(request, "cursor")
    page = take_page(list_checks(organization=caller.organization, agrees=False), limit=CHECKS_SHOWN, cursor=cursor)
    summary = summarise_checks(organization=caller.organization)
    since = adjusted_from(organization=caller.organization, now=timezone.now())
    here = reverse("billing:usage_checks", args=[caller.organization.pk])
    return CheckPage(
        summary=summary,
        agreeing_count=summary.checked_count - summary.differing_count,
        rows=[_check_row(row, since) for row in page.rows],
        next_url=with_parameters(here, {"cursor": page.next_cursor}) if page.next_cursor else "",
        first_url=here if cursor else "",
    )


def _check_row(row: UsageCheck, adjusted_since: datetime) -> CheckRow:
    subscription = row.period.subscription
    return CheckRow(
        customer=subscription.customer.name or subscription.customer.external_id,
        customer_url=reverse("billing:customer_billing", args=[row.organization_id, subscription.customer_id]),
        metric=row.metric.name or row.metric.code,
        period=span_text(row.period.starts_at, row.period.ends_at, ZoneInfo(subscription.zone)),
        quantities=[
            CheckedQuantity("events", row.events_quantity),
            CheckedQuantity("rollups", row.rollups_quantity),
            CheckedQuantity("invoiced", row.invoiced_quantity),
            CheckedQuantity("reported", row.reported_quantity),
        ],
        unbilled=unbilled_quantity(row, adjusted_since),
        differs_since=row.differs_since,
    )
