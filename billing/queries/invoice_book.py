"""Everything that the invoices of some periods are made of, read at once: terms, rated usage, what was billed.

Decides which earlier periods are adjusted, and what counts towards a commitment. Owns no line and no total of an
invoice (`billing.queries.invoicing`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile

from django.db.models import Q, Sum

from accounts.models import Organization
from billing.domain import periods as period_domain
from billing.domain.commitments import Term, list_terms, true_up
from billing.domain.taxes import TaxRule
from billing.models import (
    BillingPeriod,
    BillingProfile,
    BillingSettings,
    Commitment,
    InvoiceKind,
    InvoiceLine,
    InvoiceState,
    PeriodState,
)
from billing.queries.commitments import list_commitments_of
from billing.queries.profiles import list_profiles
from billing.queries.settings import get_settings
from billing.queries.spend import RatedPeriod, rate_terms
from billing.queries.tax_rates import list_tax_rules
from billing.queries.terms import PeriodTerms, list_period_terms
from common.numbers import exact_text
from metering.domain import Cutoff
from metering.queries.reading import RangeNotKept


@dataclass(frozen=True, slots=True)
class Adjustment:
    """An earlier period, what it comes to now, what was billed of it and what credit notes gave back of that."""

    period: BillingPeriod
    rated: RatedPeriod
    total_minor: int
    billed: Sequence[tuple[str, int]]
    credited: Sequence[tuple[str, int]]
    quantities: list[str]

    @property
    def difference_minor(self) -> int:
        """What was given back is not charged again; nor given back again, where the period comes to less by itself."""
        difference = self.total_minor - sum(amount for _, amount in self.billed)
        return difference if difference >= 0 else min(0, difference + sum(amount for _, amount in self.credited))

    @property
    def currency(self) -> str:
        return self.rated.terms.currency


@dataclass(slots=True)
class Book:
    """Everything that some periods' invoices are made of, read at once."""

    organization: Organization
    settings: BillingSettings
    profiles: Mapping[int, BillingProfile]
    rules: Sequence[TaxRule]
    known_at: datetime
    # By the period's id; what is rated is less: the usage of some is not kept any more.
    terms: Mapping[int, PeriodTerms]
    rated: Mapping[int, RatedPeriod]
    # Finalised periods that are adjusted, by subscription, in order; and those that are not, as nothing tells any more
    # what they come to.
    earlier: Mapping[int, list[BillingPeriod]]
    not_kept: Sequence[BillingPeriod]
    # The periods in terms of commitments, in order, and those commitments.
    history: Mapping[int, list[BillingPeriod]]
    commitments: Mapping[int, list[Commitment]]
    # What was billed of a period already, and what was given back of it: by invoice and by credit note.
    billed: Mapping[int, list[tuple[str, int]]] = field(default_factory=dict)
    credited: Mapping[int, list[tuple[str, int]]] = field(default_factory=dict)

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

    def adjustments(self, period: BillingPeriod) -> list[Adjustment]:
        """Return how the earlier periods differ from what was billed of them."""
        return [
            Adjustment(
                row,
                self.rated[row.pk],
                self.total(row),
                self.billed.get(row.pk, []),
                self.credited.get(row.pk, []),
                self.quantities(row),
            )
            for row in self.earlier.get(period.subscription_id, ())
            if row.billed_quantities is None
            or row.subscription_id in self.commitments
            or row.billed_quantities != self.quantities(row)
        ]


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


def read_book(
    periods: Sequence[BillingPeriod],
    organization: Organization,
    now: datetime,
    known_at: datetime,
    as_of: Cutoff | None,
    *,
    is_after: bool = False,
) -> Book:
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
    placed = [(subscriptions[row.subscription_id], as_domain(row)) for row in rows.values()]
    terms = dict(zip(rows, list_period_terms(placed, organization=organization), strict=True))
    required = [] if is_after else [period.pk for period in periods]
    optional = [pk for pk, row in rows.items() if pk not in required and not _is_settled(row, adjusted_from)]
    rated = dict(
        zip(required, rate_terms([terms[pk] for pk in required], organization=organization, as_of=as_of), strict=True)
    )
    kept = _rate_kept([terms[pk] for pk in optional], organization, as_of)
    rated |= {pk: each for pk, each in zip(optional, kept, strict=True) if each is not None}
    book = Book(
        organization=organization,
        settings=settings,
        profiles=list_profiles(organization, {each.customer_id for each in subscriptions.values()}),
        rules=list_tax_rules(organization),
        known_at=known_at,
        terms=terms,
        rated=rated,
        earlier={pk: [row for row in of_one if row.pk in rated] for pk, of_one in earlier.items()},
        not_kept=[row for row in adjusted if row.pk not in rated],
        history=history,
        commitments=commitments,
    )
    changed = {each.period.pk for period in periods for each in book.adjustments(period)}
    book.billed, book.credited = _read_billed(changed.union(required, rows.keys() - rated.keys()), organization)
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


def _read_billed(
    period_ids: Collection[int], organization: Organization
) -> tuple[dict[int, list[tuple[str, int]]], dict[int, list[tuple[str, int]]]]:
    """Return what stands on invoices of some periods, by invoice, and what was given back of it, by credit note.

    Where a note takes an adjustment back that was itself below nothing, it gives nothing of that period.
    """
    billed: dict[int, list[tuple[str, int]]] = defaultdict(list)
    credited: dict[int, list[tuple[str, int]]] = defaultdict(list)
    if not period_ids:
        return billed, credited
    rows = InvoiceLine.objects.for_organization(organization).filter(
        period__in=period_ids, invoice__state=InvoiceState.FINALISED
    )
    rows = rows.filter(~Q(invoice__kind=InvoiceKind.CREDIT_NOTE) | Q(amount_minor__lt=0))
    sums = rows.values("period", "invoice__number", "invoice__kind").annotate(amount=Sum("amount_minor"))
    for row in sums.order_by("invoice"):
        number, amount = row["invoice__number"], int(row["amount"])
        if row["invoice__kind"] == InvoiceKind.CREDIT_NOTE:
            credited[row["period"]].append((number, -amount))
        else:
            billed[row["period"]].append((number, amount))
    return billed, credited


def as_domain(period: BillingPeriod) -> period_domain.BillingPeriod:
    return period_domain.BillingPeriod(period.starts_at, period.ends_at, period.is_trial)
