"""What the invoices of billing periods say: lines, adjustments of earlier periods, true-ups, taxes, totals.

Computed, not stored: drafts show it, `billing.services.invoicing` makes it final, and a later comparison derives it
again from what was known then. Money comes from `billing.queries.spend` alone; this module adds up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import takewhile
from typing import Any

from django.db.models import Q, Sum

from accounts.models import Organization
from billing.domain import periods as period_domain
from billing.domain.commitments import Term, list_terms, true_up
from billing.domain.credits import apply_credits
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.domain.rating import RatedLine, Step
from billing.domain.taxes import TaxRule, applicable_rules, total_up
from billing.models import (
    BillingPeriod,
    BillingProfile,
    BillingSettings,
    Commitment,
    Invoice,
    InvoiceKind,
    InvoiceLine,
    InvoiceState,
    LineKind,
    PeriodState,
)
from billing.queries.charges import ONCE
from billing.queries.commitments import list_commitments_of
from billing.queries.credits import list_usable_grants
from billing.queries.profiles import list_profiles
from billing.queries.settings import get_settings
from billing.queries.spend import RatedCharge, RatedPeriod, rate_terms
from billing.queries.tax_rates import list_tax_rules
from billing.queries.terms import PeriodTerms, list_period_terms
from common.moments import rfc3339
from common.numbers import exact_text
from metering.domain import Cutoff, local_date
from metering.queries.reading import RangeNotKept

NONE = Decimal(0)
MICROSECOND = timedelta(microseconds=1)


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
    """What becomes of a period: its own invoice (None: it has nothing to charge, as it was paused throughout), and
    adjustments that do not fit on it, being in another currency."""

    period: BillingPeriod
    invoice: ComputedInvoice | None
    others: list[ComputedInvoice]
    # Of periods that come to the same amount by other quantities.
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
    the usage of one of them is not kept; an earlier period of which that is so is not adjusted any more.
    """
    if not periods:
        return []
    book = _read_book(periods, organization, now, known_at, as_of)
    return [_compute(period, book) for period in periods]


def compute_leftovers(
    subscription_ids: Collection[int], *, organization: Organization, now: datetime, known_at: datetime
) -> list[ComputedInvoice]:
    """Compute the adjustments of subscriptions that have no period any more on whose invoice they could stand."""
    anchors = list(
        BillingPeriod.objects.for_organization(organization)
        .filter(subscription__in=subscription_ids, state=PeriodState.FINALISED)
        .select_related("subscription__customer", "subscription__organization")
        .order_by("subscription", "-starts_at")
        .distinct("subscription")
    )
    if not anchors:
        return []
    book = _read_book(anchors, organization, now, known_at, None, is_after=True)
    return [invoice for anchor in anchors for invoice in _separate(book, book.adjustments(anchor))]


def draft_content(*, invoice: Invoice, now: datetime) -> InvoiceContent:
    """Return what a draft comes to now, its customer's credits included."""
    rows = BillingPeriod.objects.for_organization(invoice.organization_id)
    period = rows.select_related("subscription__customer", "subscription__organization").get(pk=invoice.period_id)
    return preview_period(period=period, now=now)


def preview_period(*, period: BillingPeriod, now: datetime) -> InvoiceContent:
    """Return what the invoice of a period would say now, whether it is over or goes on."""
    organization = period.subscription.organization
    [computed] = compute_periods([period], organization=organization, now=now, known_at=min(now, period.ends_at))
    content = computed.invoice.content if computed.invoice else _empty_content(period, organization, now)
    customer_id = period.subscription.customer_id
    grants = list_usable_grants(organization=organization, customer_ids=[customer_id])
    usable = grants.get((customer_id, content.currency), [])
    credits_minor = sum(amount for _, amount in apply_credits(content.total_minor, usable, at=period.ends_at))
    return with_credits(content, credits_minor)


def with_credits(content: InvoiceContent, credits_minor: int) -> InvoiceContent:
    """Return the same, so much of it paid with credits."""
    return InvoiceContent(
        currency=content.currency,
        lines=content.lines,
        taxes=content.taxes,
        subtotal_minor=content.subtotal_minor,
        tax_minor=content.tax_minor,
        total_minor=content.total_minor,
        credits_minor=credits_minor,
        due_minor=max(0, content.total_minor - credits_minor),
        snapshot=content.snapshot,
        known_at=content.known_at,
    )


def _empty_content(period: BillingPeriod, organization: Organization, now: datetime) -> InvoiceContent:
    """What a period says that is paused throughout."""
    book = _read_book([period], organization, now, min(now, period.ends_at), None)
    return book.content(period, book.rated[period.pk].terms, [])


# --- everything that is read ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Book:
    """Everything that some periods' invoices are made of, read at once."""

    organization: Organization
    settings: BillingSettings
    profiles: Mapping[int, BillingProfile]
    rules: Sequence[TaxRule]
    known_at: datetime
    # By the period's id; what is rated is less: the usage of some is not kept any more.
    terms: Mapping[int, PeriodTerms]
    rated: Mapping[int, RatedPeriod]
    # Finalised periods that are adjusted, by subscription, in order.
    earlier: Mapping[int, list[BillingPeriod]]
    # The periods in terms of commitments, in order, and those commitments.
    history: Mapping[int, list[BillingPeriod]]
    commitments: Mapping[int, list[Commitment]]
    # What was billed of a period already: by invoice.
    billed: Mapping[int, list[tuple[str, int]]] = field(default_factory=dict)

    def quantities(self, period: BillingPeriod) -> list[str]:
        return [exact_text(line.rated.quantity) for line in self.rated[period.pk].lines]

    def true_ups(self, period: BillingPeriod) -> Iterator[tuple[Commitment, int]]:
        """Yield what is lacking to each commitment whose term ends with the period."""
        currency = self.terms[period.pk].currency
        for commitment in self.commitments.get(period.subscription_id, ()):
            term = _term_that_ends(commitment, period)
            # In another currency nothing counts towards it, and nothing can be charged.
            if term is not None and commitment.currency == currency:
                rows = _within(self.history.get(period.subscription_id, ()), term)
                yield commitment, true_up(commitment.amount_minor, [self.spent(row, currency) for row in rows])

    def spent(self, period: BillingPeriod, currency: str) -> int:
        """Return what of a period counts towards a commitment; what was billed, of one that is adjusted no more."""
        if self.terms[period.pk].currency != currency:
            return 0
        rated = self.rated.get(period.pk)
        return sum(amount for _, amount in self.billed.get(period.pk, ())) if rated is None else rated.total_minor

    def total(self, period: BillingPeriod) -> int:
        """Return what a period comes to now."""
        return self.rated[period.pk].total_minor + sum(amount for _, amount in self.true_ups(period))

    def adjustments(self, period: BillingPeriod) -> list[_Adjustment]:
        """Return how the earlier periods differ from what was billed of them."""
        return [
            _Adjustment(row, self.rated[row.pk], self.total(row), self.billed.get(row.pk, []), self.quantities(row))
            for row in self.earlier.get(period.subscription_id, ())
            if row.billed_quantities is None
            or row.subscription_id in self.commitments
            or row.billed_quantities != self.quantities(row)
        ]

    def content(
        self, period: BillingPeriod, terms: PeriodTerms, lines: Sequence[InvoiceLineContent], currency: str = ""
    ) -> InvoiceContent:
        """Add up lines and taxes; the snapshot says the rest."""
        customer = period.subscription.customer
        profile = self.profiles.get(customer.pk) or BillingProfile(customer=customer)
        last_day = local_date(period.ends_at - MICROSECOND, period.subscription.cycle.zone)
        rules = (
            []
            if profile.is_tax_exempt
            else applicable_rules(self.rules, country=profile.country, region=profile.region, on=last_day)
        )
        totals = total_up((line.amount_minor for line in lines), rules)
        return InvoiceContent(
            currency=currency or terms.currency,
            lines=lines,
            taxes=totals.taxes,
            subtotal_minor=totals.subtotal_minor,
            tax_minor=totals.tax_minor,
            total_minor=totals.total_minor,
            credits_minor=0,
            due_minor=max(0, totals.total_minor),
            snapshot=_snapshot(period, terms, self.settings, profile),
            known_at=self.known_at,
        )


def _term_that_ends(commitment: Commitment, period: BillingPeriod) -> Term | None:
    terms = list_terms(
        period.subscription.cycle,
        starts_at=commitment.starts_at,
        period_count=commitment.period_count,
        is_recurring=commitment.is_recurring,
        ended_at=commitment.ended_at,
    )
    until = takewhile(lambda term: term.end <= period.ends_at, terms)
    return next((term for term in until if term.end == period.ends_at), None)


def _within(rows: Iterable[BillingPeriod], term: Term) -> list[BillingPeriod]:
    return [row for row in rows if row.starts_at >= term.start and row.ends_at <= term.end]


def _read_book(
    periods: Sequence[BillingPeriod],
    organization: Organization,
    now: datetime,
    known_at: datetime,
    as_of: Cutoff | None,
    *,
    is_after: bool = False,
) -> _Book:
    """Read it all. With `is_after` the periods themselves are adjusted too, as the last ones of their subscriptions."""
    settings = get_settings(organization)
    subscriptions = {period.subscription_id: period.subscription for period in periods}
    commitments = list_commitments_of(subscriptions, organization=organization)
    commitments = {pk: rows for pk, rows in commitments.items() if rows}
    adjusted_from = now - timedelta(days=settings.adjustment_days)
    # Who derives an invoice again looks at what it says of other periods in the invoice itself.
    earlier = _list_earlier(periods, adjusted_from, organization, is_after=is_after) if as_of is None else {}
    adjusted = [row for of_one in earlier.values() for row in of_one]
    history = _list_history([*periods, *adjusted], commitments, organization)
    in_terms = [row for of_one in history.values() for row in of_one]
    rows = {row.pk: row for row in (*in_terms, *adjusted, *periods)}
    placed = [(subscriptions[row.subscription_id], _as_domain(row)) for row in rows.values()]
    terms = dict(zip(rows, list_period_terms(placed, organization=organization), strict=True))
    required = [] if is_after else [period.pk for period in periods]
    optional = [pk for pk, row in rows.items() if pk not in required and not _is_settled(row, adjusted_from)]
    rated = dict(
        zip(required, rate_terms([terms[pk] for pk in required], organization=organization, as_of=as_of), strict=True)
    )
    kept = _rate_kept([terms[pk] for pk in optional], organization, as_of)
    rated |= {pk: each for pk, each in zip(optional, kept, strict=True) if each is not None}
    book = _Book(
        organization=organization,
        settings=settings,
        profiles=list_profiles(organization, {each.customer_id for each in subscriptions.values()}),
        rules=list_tax_rules(organization),
        known_at=known_at,
        terms=terms,
        rated=rated,
        earlier={pk: [row for row in of_one if row.pk in rated] for pk, of_one in earlier.items()},
        history=history,
        commitments=commitments,
    )
    changed = {each.period.pk for period in periods for each in book.adjustments(period)}
    book.billed = _read_billed(changed.union(required, rows.keys() - rated.keys()), organization)
    return book


def _rate_kept(
    terms: Sequence[PeriodTerms], organization: Organization, as_of: Cutoff | None
) -> list[RatedPeriod | None]:
    """Rate what can be rated; None where the usage is not kept any more. Halves find those in few steps."""
    try:
        return [*rate_terms(terms, organization=organization, as_of=as_of)]
    except RangeNotKept:
        middle = len(terms) // 2
        if not middle:
            return [None]
        return [part for half in (terms[:middle], terms[middle:]) for part in _rate_kept(half, organization, as_of)]


def _list_earlier(
    periods: Sequence[BillingPeriod], adjusted_from: datetime, organization: Organization, *, is_after: bool
) -> dict[int, list[BillingPeriod]]:
    """Return the finalised periods that are still adjusted, by subscription, in order.

    One of which an adjustment was voided is, whatever its age.
    """
    last = {period.subscription_id: period for period in periods}
    rows = BillingPeriod.objects.for_organization(organization).filter(
        Q(ends_at__gte=adjusted_from) | Q(billed_quantities__isnull=True),
        subscription__in=last,
        state=PeriodState.FINALISED,
        is_waived=False,
    )
    earlier: dict[int, list[BillingPeriod]] = defaultdict(list)
    for row in rows.order_by("starts_at"):
        of_one = last[row.subscription_id]
        if row.ends_at <= (of_one.ends_at if is_after else of_one.starts_at):
            # One object each, with its customer.
            row.subscription = of_one.subscription
            earlier[row.subscription_id].append(row)
    return earlier


def _list_history(
    periods: Sequence[BillingPeriod], commitments: Mapping[int, Sequence[Commitment]], organization: Organization
) -> dict[int, list[BillingPeriod]]:
    """Return the periods in those terms of commitments that end with one of the periods given."""
    if not commitments:
        return {}
    ending = [
        (period, term)
        for period in periods
        for commitment in commitments.get(period.subscription_id, ())
        if (term := _term_that_ends(commitment, period)) is not None
    ]
    rows = BillingPeriod.objects.for_organization(organization).filter(subscription__in=commitments)
    of_subscriptions: dict[int, list[BillingPeriod]] = defaultdict(list)
    # What is previewed may not be written down yet.
    for row in (*rows.order_by("starts_at"), *(period for period in periods if period.pk is None)):
        of_subscriptions[row.subscription_id].append(row)
    found: dict[int, dict[int, BillingPeriod]] = defaultdict(dict)
    for period, term in ending:
        within = _within(of_subscriptions[period.subscription_id], term)
        found[period.subscription_id] |= {row.pk: row for row in within}
    return {pk: list(of_one.values()) for pk, of_one in found.items()}


def _is_settled(period: BillingPeriod, adjusted_from: datetime) -> bool:
    """Whether what was billed of a period is what it costs, whatever comes to be known of it."""
    is_billed = period.state == PeriodState.FINALISED and period.billed_quantities is not None
    return is_billed and not period.is_waived and period.ends_at < adjusted_from


def _read_billed(period_ids: Collection[int], organization: Organization) -> dict[int, list[tuple[str, int]]]:
    """Return what stands on invoices of some periods, by invoice. Credit notes are gifts, and not among them."""
    if not period_ids:
        return {}
    rows = InvoiceLine.objects.for_organization(organization).filter(
        period__in=period_ids,
        invoice__state=InvoiceState.FINALISED,
        invoice__kind__in=(InvoiceKind.PERIOD, InvoiceKind.ADJUSTMENT),
    )
    sums = rows.values("period", "invoice__number").annotate(amount=Sum("amount_minor")).order_by("invoice")
    billed: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in sums:
        billed[row["period"]].append((row["invoice__number"], int(row["amount"])))
    return billed


def _as_domain(period: BillingPeriod) -> period_domain.BillingPeriod:
    return period_domain.BillingPeriod(period.starts_at, period.ends_at, period.is_trial)


# --- invoices -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Adjustment:
    """An earlier period, what it comes to now and what was billed of it."""

    period: BillingPeriod
    rated: RatedPeriod
    total_minor: int
    billed: Sequence[tuple[str, int]]
    quantities: list[str]

    @property
    def difference_minor(self) -> int:
        return self.total_minor - sum(amount for _, amount in self.billed)

    @property
    def currency(self) -> str:
        return self.rated.terms.currency


def _compute(period: BillingPeriod, book: _Book) -> ComputedPeriod:
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
    content = book.content(period, rated.terms, lines)
    own = ComputedInvoice(InvoiceKind.PERIOD, period, content, billed)
    return ComputedPeriod(period, own, _separate(book, others), unchanged)


def _separate(book: _Book, adjustments: Sequence[_Adjustment]) -> list[ComputedInvoice]:
    """Return an invoice of adjustments alone for each currency; it belongs to the last period that it adjusts."""
    of_currencies: dict[str, list[_Adjustment]] = defaultdict(list)
    for each in adjustments:
        if each.difference_minor:
            of_currencies[each.currency].append(each)
    return [
        ComputedInvoice(
            InvoiceKind.ADJUSTMENT,
            of_one[-1].period,
            book.content(
                of_one[-1].period, of_one[-1].rated.terms, [_adjustment_line(each) for each in of_one], currency
            ),
            {each.period.pk: each.quantities for each in of_one},
        )
        for currency, of_one in of_currencies.items()
    ]


def _own_lines(period: BillingPeriod, book: _Book) -> Iterator[InvoiceLineContent]:
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
                period=_as_domain(period),
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
    plan = f"{version.plan.name}: " if names_plan and version is not None else ""
    return InvoiceLineContent(
        kind=LineKind.USAGE if metric else LineKind.FEE,
        name=f"{plan}{charge.label}",
        period=_as_domain(period),
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


def _adjustment_line(adjustment: _Adjustment) -> InvoiceLineContent:
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
    return InvoiceLineContent(
        kind=LineKind.ADJUSTMENT,
        name="Adjustment of an earlier billing period",
        period=_as_domain(period),
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
