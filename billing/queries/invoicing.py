"""What the invoices of billing periods say: lines, adjustments of earlier periods, true-ups, taxes, totals.

Computed, not stored: drafts show it, `billing.services.invoicing` makes it final, and a later comparison derives it
again from what was known then. Money comes from `billing.queries.spend` alone; this module adds up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from accounts.models import Organization
from billing.domain.credits import apply_credits
from billing.domain.currencies import MAX_MINOR
from billing.domain.invoices import MAX_NAME_CHARACTERS, InvoiceContent, InvoiceLineContent
from billing.domain.rating import RatedLine, Step
from billing.domain.taxes import Totals, applicable_rules, total_up
from billing.models import (
    BillingPeriod,
    BillingProfile,
    BillingSettings,
    Invoice,
    InvoiceKind,
    LineKind,
    PeriodState,
    PlanVersion,
)
from billing.queries.charges import ONCE, Charge
from billing.queries.credits import list_usable_grants
from billing.queries.invoice_book import Adjustment, Book, as_domain, read_book
from billing.queries.spend import RatedCharge
from billing.queries.terms import PeriodTerms
from common.errors import Conflict
from common.moments import rfc3339
from common.numbers import exact_text
from metering.domain import Cutoff, local_date

NONE = Decimal(0)
MICROSECOND = timedelta(microseconds=1)


class AmountTooLarge(Conflict):
    """Values of thirty digits and prices of as many come to more than an amount can hold: most likely a mistake."""

    code = "amount_too_large"


@dataclass(frozen=True, slots=True)
class ComputedInvoice:
    """One invoice as it would be made. Its adjustments are in `lines` like everything else.

    `quantities`: what it bills of each period, by the period's id, in the order of that period's lines.
    """

    kind: InvoiceKind
    period: BillingPeriod
    content: InvoiceContent
    quantities: Mapping[int, list[str]]


@dataclass(frozen=True, slots=True)
class ComputedPeriod:
    """What becomes of a period: its own invoice (None: it has nothing to charge, as it was paused throughout or is
    final), and adjustments that do not fit on it, being in another currency or of periods up to it."""

    period: BillingPeriod
    invoice: ComputedInvoice | None
    others: list[ComputedInvoice]
    # Of periods that come to the same amount by other quantities; none, where that cannot be told any more.
    unchanged: Mapping[int, list[str]]


def compute_periods(
    periods: Sequence[BillingPeriod],
    *,
    organization: Organization,
    now: datetime,
    known_at: datetime,
    as_of: Cutoff | None = None,
) -> list[ComputedPeriod]:
    """Compute the invoices of some periods, at most one of a subscription, in their order.

    The periods come with `subscription`, its `customer` and `organization`. Reads usage once per metric and span,
    however many subscriptions have the same; `as_of` is what was known then. Raises metering's `RangeNotKept` where
    the usage of one of them is not kept; an earlier period of which that is so is not adjusted any more. Raises
    `AmountTooLarge`.
    """
    if not periods:
        return []
    book = read_book(periods, organization, now, known_at, as_of)
    return [_compute(period, book) for period in periods]


def compute_leftovers(
    subscription_ids: Collection[int], *, organization: Organization, now: datetime, known_at: datetime
) -> list[ComputedPeriod]:
    """Compute the adjustments of subscriptions that have no period any more on whose invoice they could stand.

    One each, of its last period. What is not kept is looked at once, and then stays as it was billed.
    """
    anchors = list(
        BillingPeriod.objects.for_organization(organization)
        .filter(subscription__in=subscription_ids, state=PeriodState.FINALISED)
        .select_related("subscription__customer", "subscription__organization")
        .order_by("subscription", "-starts_at")
        .distinct("subscription")
    )
    if not anchors:
        return []
    book = read_book(anchors, organization, now, known_at, None, is_after=True)
    return [_compute_leftovers(anchor, book) for anchor in anchors]


def draft_content(*, invoice: Invoice, now: datetime) -> InvoiceContent:
    """Return what a draft comes to now, its customer's credits included."""
    rows = BillingPeriod.objects.for_organization(invoice.organization_id)
    period = rows.select_related("subscription__customer", "subscription__organization").get(pk=invoice.period_id)
    return preview_period(period=period, now=now)


def preview_period(*, period: BillingPeriod, now: datetime) -> InvoiceContent:
    """Return what the invoice of a period would say now, whether it is over or goes on."""
    organization = period.subscription.organization
    [computed] = compute_periods([period], organization=organization, now=now, known_at=now)
    content = computed.invoice.content if computed.invoice else _empty_content(period, organization, now)
    customer_id = period.subscription.customer_id
    grants = list_usable_grants(organization=organization, customer_ids=[customer_id])
    usable = grants.get((customer_id, content.currency), [])
    credits_minor = sum(amount for _, amount in apply_credits(content.total_minor, usable, at=period.ends_at))
    return with_credits(content, credits_minor)


def with_credits(content: InvoiceContent, credits_minor: int) -> InvoiceContent:
    """Return the same, so much of it paid with credits."""
    return replace(content, credits_minor=credits_minor, due_minor=max(0, content.total_minor - credits_minor))


def _empty_content(period: BillingPeriod, organization: Organization, now: datetime) -> InvoiceContent:
    """What a period says that is paused throughout."""
    book = read_book([period], organization, now, now, None)
    return _content(book, period, book.rated[period.pk].terms, [])


# --- invoices -------------------------------------------------------------------------------------------------


def _compute(period: BillingPeriod, book: Book) -> ComputedPeriod:
    rated = book.rated[period.pk]
    adjustments = book.adjustments(period)
    fitting = [each for each in adjustments if each.difference_minor and each.currency == rated.terms.currency]
    lines = [*_own_lines(period, book), *map(_adjustment_line, fitting)]
    others = [each for each in adjustments if each.difference_minor and each.currency != rated.terms.currency]
    unchanged = {each.period.pk: each.quantities for each in adjustments if not each.difference_minor}
    # What is billed anew, while an adjustment of it stands on another invoice, is set right by the next one.
    own_quantities = {} if book.billed.get(period.pk) else {period.pk: book.quantities(period)}
    if not lines:
        return ComputedPeriod(period, None, _separate(book, others), unchanged | own_quantities)
    billed = own_quantities | {each.period.pk: each.quantities for each in fitting}
    content = _content(book, period, rated.terms, lines)
    own = ComputedInvoice(InvoiceKind.PERIOD, period, content, billed)
    return ComputedPeriod(period, own, _separate(book, others), unchanged)


def _compute_leftovers(anchor: BillingPeriod, book: Book) -> ComputedPeriod:
    adjustments = book.adjustments(anchor)
    unchanged = {
        each.period.pk: each.quantities
        for each in adjustments
        if not each.difference_minor and each.period.billed_quantities != each.quantities
    }
    of_one = [row for row in book.not_kept if row.subscription_id == anchor.subscription_id]
    unchanged |= {row.pk: [] for row in of_one if row.billed_quantities is None}
    return ComputedPeriod(anchor, None, _separate(book, adjustments), unchanged)


def _separate(book: Book, adjustments: Sequence[Adjustment]) -> list[ComputedInvoice]:
    """Return an invoice of adjustments alone for each currency; it belongs to the last period that it adjusts."""
    of_currencies: dict[str, list[Adjustment]] = defaultdict(list)
    for each in adjustments:
        if each.difference_minor:
            of_currencies[each.currency].append(each)
    return [
        ComputedInvoice(
            InvoiceKind.ADJUSTMENT,
            of_one[-1].period,
            _content(
                book, of_one[-1].period, of_one[-1].rated.terms, [_adjustment_line(each) for each in of_one], currency
            ),
            {each.period.pk: each.quantities for each in of_one},
        )
        for currency, of_one in of_currencies.items()
    ]


def _content(
    book: Book, period: BillingPeriod, terms: PeriodTerms, lines: Sequence[InvoiceLineContent], currency: str = ""
) -> InvoiceContent:
    """Add up lines and taxes; the snapshot says the rest."""
    customer = period.subscription.customer
    profile = book.profiles.get(customer.pk) or BillingProfile(customer=customer)
    last_day = local_date(period.ends_at - MICROSECOND, period.subscription.cycle.zone)
    rules = (
        []
        if profile.is_tax_exempt
        else applicable_rules(book.rules, country=profile.country, region=profile.region, on=last_day)
    )
    totals = total_up((line.amount_minor for line in lines), rules)
    _refuse_too_large(lines, totals)
    return InvoiceContent(
        currency=currency or terms.currency,
        lines=lines,
        taxes=totals.taxes,
        subtotal_minor=totals.subtotal_minor,
        tax_minor=totals.tax_minor,
        total_minor=totals.total_minor,
        credits_minor=0,
        due_minor=max(0, totals.total_minor),
        snapshot=_snapshot(period, terms, book.settings, profile),
        known_at=book.known_at,
    )


def _refuse_too_large(lines: Sequence[InvoiceLineContent], totals: Totals) -> None:
    parts = [*(line.amount_minor for line in lines), *(tax.amount_minor for tax in totals.taxes)]
    amounts = [*parts, totals.subtotal_minor, totals.tax_minor, totals.total_minor]
    if max(map(abs, amounts)) > MAX_MINOR:
        raise AmountTooLarge(
            f"The invoice comes to more than {MAX_MINOR} minor units. Take back the events that do it."
        )


def _own_lines(period: BillingPeriod, book: Book) -> Iterator[InvoiceLineContent]:
    """Yield a line for every price of every segment, then the true-ups."""
    rated = book.rated[period.pk]
    versions = {line.segment.version.pk for line in rated.lines if line.segment.version}
    for line in rated.lines:
        yield _rated_line(period, line, names_plan=len(versions) > 1)
    for commitment, lacking in book.true_ups(period):
        if lacking:
            yield InvoiceLineContent(
                kind=LineKind.TRUE_UP,
                name="True-up to the commitment",
                period=as_domain(period),
                period_id=period.pk,
                starts_at=period.starts_at,
                ends_at=period.ends_at,
                quantity=ONCE,
                included_quantity=NONE,
                amount_minor=lacking,
                steps=[
                    {"kind": "commitment", "amount": str(commitment.amount_minor)},
                    {"kind": "billed", "amount": str(lacking - commitment.amount_minor)},
                ],
            )


def _rated_line(period: BillingPeriod, line: RatedCharge, *, names_plan: bool) -> InvoiceLineContent:
    charge, metric, version = line.charge, line.charge.metric, line.segment.version
    plan = _plan_prefix(version, charge) if names_plan and version is not None else ""
    return InvoiceLineContent(
        kind=LineKind.USAGE if metric else LineKind.FEE,
        name=f"{plan}{charge.label}",
        period=as_domain(period),
        period_id=period.pk,
        starts_at=line.segment.start,
        ends_at=line.segment.end,
        quantity=line.rated.quantity,
        included_quantity=line.rated.included_quantity,
        amount_minor=line.rated.amount_minor,
        steps=step_rows(line.rated),
        metric_code=metric.code if metric else "",
        unit=metric.unit if metric else "",
        price_id=charge.price_id,
    )


def _plan_prefix(version: PlanVersion, charge: Charge) -> str:
    """Return the plan's name to stand before the price's: as much of it as a line has room for."""
    name, room = version.plan.name, MAX_NAME_CHARACTERS - len(charge.label) - len(": ")
    return f"{name if len(name) <= room else name[: room - 1] + '…'}: "


def _adjustment_line(adjustment: Adjustment) -> InvoiceLineContent:
    """One line for a whole period: the difference of totals, so that minimums and tiers come out right."""
    period = adjustment.period
    steps: list[dict[str, Any]] = [
        {
            "kind": "recomputed",
            "name": line.charge.label,
            "quantity": exact_text(line.rated.quantity),
            "amount": str(line.rated.amount_minor),
        }
        for line in adjustment.rated.lines
    ]
    true_ups = adjustment.total_minor - adjustment.rated.total_minor
    if true_ups:
        steps.append({"kind": "recomputed", "name": "True-up to the commitment", "amount": str(true_ups)})
    steps += [{"kind": "billed", "name": number, "amount": str(-amount)} for number, amount in adjustment.billed]
    if adjustment.difference_minor < 0:
        steps += [{"kind": "credited", "name": number, "amount": str(given)} for number, given in adjustment.credited]
    return InvoiceLineContent(
        kind=LineKind.ADJUSTMENT,
        name="Adjustment of an earlier billing period",
        period=as_domain(period),
        period_id=period.pk,
        starts_at=period.starts_at,
        ends_at=period.ends_at,
        quantity=ONCE,
        included_quantity=NONE,
        amount_minor=adjustment.difference_minor,
        steps=steps,
    )


def step_rows(rated: RatedLine) -> list[dict[str, Any]]:
    """Return the steps of a rating as they are stored: decimals as text, and nothing that is not said."""
    return [_step_row(step) for step in rated.steps]


def _step_row(step: Step) -> dict[str, Any]:
    numbers = {
        "from_quantity": step.from_quantity,
        "to_quantity": step.to_quantity,
        "quantity": step.quantity,
        "unit_amount": step.unit_amount,
        "flat_amount": step.flat_amount,
    }
    said = {name: exact_text(number) for name, number in numbers.items() if number is not None}
    return {"kind": str(step.kind), "amount": exact_text(step.amount), **said}


def _snapshot(
    period: BillingPeriod, terms: PeriodTerms, settings: BillingSettings, profile: BillingProfile
) -> dict[str, Any]:
    subscription, customer = period.subscription, period.subscription.customer
    versions = {each.version.pk: each.version for each in terms.segments if each.version is not None}
    if not versions and terms.version is not None:
        versions = {terms.version.pk: terms.version}
    return {
        "seller": {
            "name": settings.seller_name or period.subscription.organization.name,
            "address": settings.seller_address,
            "tax_id": settings.seller_tax_id,
        },
        "customer": {
            "external_id": customer.external_id,
            "name": profile.name or customer.name or customer.external_id,
            "email": profile.email,
            "address": profile.address,
            "country": profile.country,
            "region": profile.region,
            "tax_id": profile.tax_id,
            "is_tax_exempt": profile.is_tax_exempt,
        },
        "subscription": {"id": str(subscription.pk), "zone": subscription.zone},
        "plans": [
            {"code": version.plan.code, "name": version.plan.name, "version": version.number}
            for version in versions.values()
        ],
        "period": {
            "start": rfc3339(period.starts_at),
            "end": rfc3339(period.ends_at),
            "is_trial": period.is_trial,
        },
        "footer": settings.footer,
    }
