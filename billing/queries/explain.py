"""Why a line of an invoice is what it is: from the events known at its cut-off, over quantity and steps, to the amount.

Computes no amount of its own: the quantity is folded once more, event by event (`billing.queries.folding`), so that it
does not rest on what it checks, and rating is `billing.domain.rating`. Does not own what an invoice would come to
(`billing.queries.invoicing`), nor comparing whole invoices (`billing.queries.rederivation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from itertools import zip_longest
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from accounts.models import Organization
from billing.domain.commitments import list_terms, true_up
from billing.domain.periods import BillingPeriod as Span
from billing.domain.proration import WHOLE
from billing.domain.rating import rate
from billing.models import BillingPeriod, Invoice, InvoiceLine, InvoiceState, LineKind, PlanVersion
from billing.queries.charges import ONCE, Charge, list_charges
from billing.queries.commitments import list_commitments_of
from billing.queries.explanations import (
    AdjustmentExplanation,
    Agreement,
    CreditExplanation,
    Kept,
    LineEvent,
    LineExplanation,
    MetricChanges,
    PriceChange,
    TrueUpExplanation,
    UsageExplanation,
)
from billing.queries.folding import (
    Fold,
    added_by,
    fold_by_day,
    fold_by_group,
    fold_events,
    take_events,
)
from billing.queries.invoices import NotFinalised
from billing.queries.invoicing import step_rows
from billing.queries.quantities import read_quantities
from billing.queries.spend import rate_terms
from billing.queries.terms import PeriodTerms, SegmentTerms, list_period_terms
from common.errors import NotFound
from common.numbers import exact_text
from metering import queries
from metering.domain import EXACT, Cutoff
from metering.models import ADDITIVE, Metric
from metering.queries import CountedEvent
from metering.queries.counted_events import MAX_COUNTED_EVENTS
from metering.queries.reading import RangeNotKept

ZERO = Decimal(0)
# Of one metric in one segment that are folded one by one: a second or two. Of more the database adds up, and days,
# groups and deciding events are not told.
MAX_FOLDED_EVENTS = 2 * MAX_COUNTED_EVENTS
# Deciding events, groups, and changes of an adjustment: the rest is counted and not named.
MAX_NAMED = 100
# Reading by it is reading the raw events that count now, and no rollup.
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


def explain_line(
    *, invoice: Invoice, position: int, after: int | None = None, limit: int = MAX_NAMED
) -> LineExplanation:
    """Explain one line of a finalised or void invoice, with a page of its events from the offset `after` on.

    Reads the raw events of one metric and segment, at most `MAX_FOLDED_EVENTS` of them one by one; of an adjustment
    those of every metric of the period, at both cut-offs. Raises `NotFinalised` and `NotFound`.
    """
    basis = _read_basis(invoice)
    line = basis.lines.get(position)
    if line is None:
        raise NotFound("The invoice has no such line.")
    return _explain(basis, line, after, limit)


# --- what is read once ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Basis:
    """An invoice with its lines and what was read for them so far."""

    invoice: Invoice
    organization: Organization
    lines: dict[int, InvoiceLine]
    cutoff: Cutoff | None
    zone: ZoneInfo
    terms: dict[int, PeriodTerms]
    # By metric, segment and cut-off; None: too many.
    folded: dict[tuple[int, datetime, datetime, int], list[CountedEvent] | None] = field(default_factory=dict)
    # By metric and segment, in the order of the metric's charges: by rollups and by raw events, now.
    kept: dict[tuple[int, datetime, datetime], tuple[list[Decimal], list[Decimal] | None]] = field(default_factory=dict)

    @property
    def known(self) -> Cutoff:
        if self.cutoff is None:
            raise RangeNotKept("Nothing says up to which event the invoice charges.")
        return self.cutoff


def _read_basis(invoice: Invoice) -> _Basis:
    if invoice.state == InvoiceState.DRAFT:
        raise NotFinalised("The invoice is a draft; what it says changes until it is final.")
    rows = InvoiceLine.objects.for_organization(invoice.organization_id).filter(invoice=invoice)
    lines = list(rows.select_related("period", "price__version__plan").order_by("position"))
    periods = {line.period_id: line.period for line in lines if line.kind != LineKind.CREDIT}
    placed = [(invoice.subscription, Span(row.starts_at, row.ends_at, row.is_trial)) for row in periods.values()]
    terms = list_period_terms(placed, organization=invoice.organization) if placed else []
    return _Basis(
        invoice=invoice,
        organization=invoice.organization,
        lines={line.position: line for line in lines},
        cutoff=None if invoice.cutoff_id is None else Cutoff(invoice.cutoff_id, invoice.known_at),
        zone=invoice.subscription.cycle.zone,
        terms=dict(zip(periods, terms, strict=True)),
    )


@contextmanager
def _one_snapshot() -> Iterator[None]:
    """Have rollups and raw events read as of one moment; inside a transaction as it reads."""
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _list_events(basis: _Basis, metric: Metric, segment: SegmentTerms, cutoff: Cutoff) -> list[CountedEvent] | None:
    """Return what the metric counts in a segment as of a cut-off; None: more than are folded."""
    key = (metric.pk, segment.start, segment.end, cutoff.id)
    if key not in basis.folded:
        found: list[CountedEvent] = []
        while len(found) < MAX_FOLDED_EVENTS:
            page = _read_page(basis, metric, segment, cutoff, found[-1].offset if found else None)
            found += page
            if len(page) < MAX_COUNTED_EVENTS:
                break
        basis.folded[key] = found if len(found) < MAX_FOLDED_EVENTS else None
    return basis.folded[key]


def _read_page(
    basis: _Basis, metric: Metric, segment: SegmentTerms, cutoff: Cutoff, after: int | None
) -> list[CountedEvent]:
    return queries.iterate_counted_events(
        organization=basis.organization,
        metric=metric,
        customer_id=basis.invoice.customer_id,
        start=segment.start,
        end=segment.end,
        as_of=cutoff,
        after=after,
        limit=MAX_COUNTED_EVENTS,
    )


def _of_metric(segment: SegmentTerms, metric: Metric) -> SegmentTerms:
    return replace(segment, charges=[charge for charge in segment.charges if charge.metric == metric])


def _read(
    basis: _Basis, terms: PeriodTerms, segment: SegmentTerms, metric: Metric, as_of: datetime | Cutoff | None
) -> list[Decimal]:
    """Return the quantities of a metric's charges in a segment, by the engine."""
    alone = replace(terms, segments=[_of_metric(segment, metric)])
    [[quantities]] = read_quantities([alone], organization=basis.organization, as_of=as_of)
    return quantities.of_charges


def _read_kept(basis: _Basis, terms: PeriodTerms, segment: SegmentTerms, charge: Charge) -> Kept | None:
    """Return what is counted of a charge now, by rollups and by events, in one moment; None: it is not kept."""
    assert charge.metric is not None
    key = (charge.metric.pk, segment.start, segment.end)
    if key not in basis.kept:
        with _one_snapshot():
            try:
                rollups = _read(basis, terms, segment, charge.metric, None)
            except RangeNotKept:
                return None
            try:
                events = _read(basis, terms, segment, charge.metric, FOREVER)
            except RangeNotKept:
                events = None
        basis.kept[key] = rollups, events
    rollups, events = basis.kept[key]
    place = [each.price_id for each in _of_metric(segment, charge.metric).charges].index(charge.price_id)
    return Kept(rollups[place], None if events is None else events[place])


# --- lines ----------------------------------------------------------------------------------------------------


def _explain(basis: _Basis, line: InvoiceLine, after: int | None, limit: int) -> LineExplanation:
    match line.kind:
        case LineKind.USAGE | LineKind.FEE:
            return _explain_priced(basis, line, after, limit)
        case LineKind.ADJUSTMENT:
            return _explain_adjustment(basis, line)
        case LineKind.TRUE_UP:
            return _explain_true_up(basis, line)
    return _explain_credit(basis, line)


def _bare(basis: _Basis, line: InvoiceLine, **said: Any) -> LineExplanation:
    return LineExplanation(invoice=basis.invoice, line=line, zone=basis.zone, **said)


def adds_up(line: InvoiceLine) -> bool:
    """Tell whether the steps that were stored come to the amount that was."""
    return reduce(EXACT.add, (Decimal(step["amount"]) for step in line.steps), ZERO) == line.amount_minor


def _find_charge(basis: _Basis, line: InvoiceLine, version: PlanVersion) -> tuple[PeriodTerms, SegmentTerms, Charge]:
    """Return under which terms a line was charged."""
    terms = basis.terms[line.period_id]
    for segment in terms.segments:
        if (segment.start, segment.end) == (line.starts_at, line.ends_at):
            for charge in segment.charges:
                if charge.price_id == line.price_id:
                    return terms, segment, charge
    # What the subscription says of the time has changed; the price never does.
    charges = list_charges(version)
    segment = SegmentTerms(line.starts_at, line.ends_at, WHOLE, version, charges)
    return terms, segment, next(charge for charge in charges if charge.price_id == line.price_id)


def _explain_priced(basis: _Basis, line: InvoiceLine, after: int | None, limit: int) -> LineExplanation:
    if line.price is None:
        return _bare(basis, line, agrees=Agreement(steps=adds_up(line)))
    version = line.price.version
    terms, segment, charge = _find_charge(basis, line, version)
    rated = rate(charge.price, line.quantity, is_trial=terms.period.is_trial, part=segment.part)
    steps = adds_up(line) and rated.amount_minor == line.amount_minor and step_rows(rated) == list(line.steps)
    said = {"charge": charge, "version": version, "part": segment.part}
    if charge.metric is None:
        return _bare(basis, line, agrees=Agreement(steps=steps), **said)
    kept = _read_kept(basis, terms, segment, charge)
    try:
        usage = _explain_usage(basis, terms, segment, charge, kept, after, limit)
    except RangeNotKept as error:
        rollups = True if kept is not None and kept.rollups_quantity == line.quantity else None
        return _bare(basis, line, agrees=Agreement(None, rollups, steps), problem=error.message, **said)
    return _bare(
        basis,
        line,
        agrees=Agreement(usage.quantity == line.quantity, _do_rollups_agree(kept), steps),
        usage=usage,
        **said,
    )


def _do_rollups_agree(kept: Kept | None) -> bool | None:
    if kept is None or kept.events_quantity is None:
        return None
    return kept.rollups_quantity == kept.events_quantity


def _explain_usage(
    basis: _Basis,
    terms: PeriodTerms,
    segment: SegmentTerms,
    charge: Charge,
    kept: Kept | None,
    after: int | None,
    limit: int,
) -> UsageExplanation:
    metric = charge.metric
    assert metric is not None
    charges = _of_metric(segment, metric).charges
    read = _list_events(basis, metric, segment, basis.known)
    taken = None if read is None else take_events(read, charges, charge)
    if taken is None:
        fold = Fold(_read(basis, terms, segment, metric, basis.known)[charges.index(charge)], set())
    else:
        fold = fold_events(metric, taken)
    keys = sorted({key for each in charges for key in each.filters})
    deciding = [event for event in taken or () if event.offset in fold.deciding]
    page, next_after = _page(basis, segment, charge, charges, taken, after, limit)
    changed = None
    if kept is not None and kept.events_quantity is not None:
        changed = EXACT.subtract(kept.events_quantity, fold.quantity)
    return UsageExplanation(
        metric=metric,
        quantity=fold.quantity,
        event_count=None if taken is None else len(taken),
        is_folded=taken is not None,
        does_add_up=metric.aggregation in ADDITIVE,
        days=fold_by_day(metric, taken or (), basis.zone),
        groups=fold_by_group(metric, taken or (), keys) if keys else [],
        deciding=deciding[:MAX_NAMED],
        deciding_count=len(deciding),
        events=[LineEvent(event, added_by(metric, event), event.offset in fold.deciding) for event in page],
        next_after=next_after,
        kept=kept,
        changed_since=changed,
    )


def _page(
    basis: _Basis,
    segment: SegmentTerms,
    charge: Charge,
    charges: Sequence[Charge],
    taken: Sequence[CountedEvent] | None,
    after: int | None,
    limit: int,
) -> tuple[list[CountedEvent], int | None]:
    """Return the next events of the line and the offset to go on after.

    Where too many were read to be folded, one pass over them: a page may then be short, or empty, and yet not the last.
    """
    if taken is not None:
        found = [event for event in taken if after is None or event.offset > after]
        return found[:limit], found[limit - 1].offset if len(found) > limit else None
    assert charge.metric is not None
    read = _read_page(basis, charge.metric, segment, basis.known, after)
    found = take_events(read, charges, charge)
    if len(found) > limit:
        return found[:limit], found[limit - 1].offset
    return found, read[-1].offset if len(read) == MAX_COUNTED_EVENTS else None


# --- what is no price's ---------------------------------------------------------------------------------------


def _explain_adjustment(basis: _Basis, line: InvoiceLine) -> LineExplanation:
    """Explain a difference of totals: what the period was billed at last, what it comes to, and what came between."""
    terms = basis.terms[line.period_id]
    billed = [(step["name"], Decimal(step["amount"])) for step in line.steps if step["kind"] == "billed"]
    former = _list_former(basis, line, [number for number, _ in billed])
    last = max((each.invoice for each in former), key=lambda invoice: invoice.cutoff_id or 0, default=None)
    before = [] if last is None else [each for each in former if each.invoice_id == last.pk]
    said: dict[str, Any] = {}
    credited = [(step["name"], Decimal(step["amount"])) for step in line.steps if step["kind"] == "credited"]
    stands = _is_billed(billed, former) and _is_credited(basis, line, credited)
    agrees = Agreement(steps=adds_up(line) and stands)
    try:
        quantities, rollups = _recount(basis, terms)
        now = [step for step in line.steps if step["kind"] == "recomputed" and "quantity" in step]
        agrees = replace(
            agrees, events=[exact_text(quantity) for quantity in quantities] == [step["quantity"] for step in now]
        )
        agrees = replace(agrees, rollups=rollups, steps=bool(agrees.steps) and _is_rated(terms, now))
        changes = None if last is None else _list_changes(basis, terms, last)
    except RangeNotKept as error:
        changes, said = None, {"problem": error.message}
    explanation = AdjustmentExplanation(
        billed=[(number, -amount) for number, amount in billed],
        credited=credited,
        former_known_at=None if last is None else last.known_at,
        prices=_list_price_changes(before, line),
        changes=changes,
    )
    return _bare(basis, line, agrees=agrees, adjustment=explanation, **said)


def _list_former(basis: _Basis, line: InvoiceLine, numbers: Sequence[str]) -> list[InvoiceLine]:
    """Return what stood on the named invoices of the adjusted period, in order."""
    rows = InvoiceLine.objects.for_organization(basis.organization).filter(
        period=line.period_id, invoice__number__in=numbers
    )
    return list(rows.select_related("invoice").order_by("invoice", "position"))


def _is_billed(billed: Sequence[tuple[str, Decimal]], former: Sequence[InvoiceLine]) -> bool:
    """Tell whether the line takes off exactly what the invoices that it names say."""
    sums = {number: 0 for number, _ in billed}
    for each in former:
        sums[each.invoice.number] += each.amount_minor
    return sums == {number: -amount for number, amount in billed}


def _is_credited(basis: _Basis, line: InvoiceLine, credited: Sequence[tuple[str, Decimal]]) -> bool:
    """Tell whether the line counts exactly what the credit notes that it names gave back of the period."""
    rows = InvoiceLine.objects.for_organization(basis.organization).filter(
        period=line.period_id, kind=LineKind.CREDIT, invoice__number__in=[number for number, _ in credited]
    )
    sums = {number: 0 for number, _ in credited}
    for number, amount in rows.values_list("invoice__number", "amount_minor"):
        sums[number] -= amount
    return sums == dict(credited)


def _recount(basis: _Basis, terms: PeriodTerms) -> tuple[list[Decimal], bool | None]:
    """Return the quantity of every price of a period as of the cut-off, and whether rollups and events agree now."""
    quantities: list[Decimal] = []
    agreements: list[bool | None] = []
    for segment in terms.segments:
        for charge in segment.charges:
            if charge.metric is None:
                quantities.append(ONCE)
                continue
            charges = _of_metric(segment, charge.metric).charges
            read = _list_events(basis, charge.metric, segment, basis.known)
            if read is None:
                known = _read(basis, terms, segment, charge.metric, basis.known)
                quantities.append(known[charges.index(charge)])
            else:
                quantities.append(fold_events(charge.metric, take_events(read, charges, charge)).quantity)
            agreements.append(_do_rollups_agree(_read_kept(basis, terms, segment, charge)))
    if False in agreements:
        return quantities, False
    return quantities, None if None in agreements or not agreements else True


def _is_rated(terms: PeriodTerms, now: Sequence[dict[str, Any]]) -> bool:
    """Tell whether the quantities of an adjustment come to the amounts beside them."""
    placed = [(segment, charge) for segment in terms.segments for charge in segment.charges]
    return len(placed) == len(now) and all(
        rate(charge.price, Decimal(step["quantity"]), is_trial=terms.period.is_trial, part=segment.part).amount_minor
        == Decimal(step["amount"])
        for (segment, charge), step in zip(placed, now, strict=True)
    )


def _list_price_changes(before: Sequence[InvoiceLine], line: InvoiceLine) -> list[PriceChange]:
    """Pair what the last invoice said of each price with what the adjustment says, in the order of the prices."""
    said: list[tuple[str, Decimal | None, Decimal]] = []
    for each in before:
        if each.kind == LineKind.ADJUSTMENT:
            said += _recomputed(each)
        else:
            is_price = each.kind in {LineKind.FEE, LineKind.USAGE}
            said.append((each.name, each.quantity if is_price else None, Decimal(each.amount_minor)))
    now = _recomputed(line)
    changes = []
    for is_price in (True, False):
        old = [row for row in said if (row[1] is not None) == is_price]
        new = [row for row in now if (row[1] is not None) == is_price]
        for was, comes in zip_longest(old, new):
            # A plan's name stands before the price where a period had several plans.
            name = (was or comes)[0]
            changes.append(PriceChange(name, *((was or (None, None, None))[1:]), *((comes or (None, None, None))[1:])))
    return changes


def _recomputed(line: InvoiceLine) -> list[tuple[str, Decimal | None, Decimal]]:
    return [
        (step["name"], Decimal(step["quantity"]) if "quantity" in step else None, Decimal(step["amount"]))
        for step in line.steps
        if step["kind"] == "recomputed"
    ]


def _list_changes(basis: _Basis, terms: PeriodTerms, last: Invoice) -> list[MetricChanges] | None:
    """Return, per metric, what is known at the invoice's cut-off and was not at the former one, and the other way."""
    if last.cutoff_id is None:
        return None
    former = Cutoff(last.cutoff_id, last.known_at)
    found: dict[Metric, tuple[list[CountedEvent], list[CountedEvent]]] = {}
    for segment in terms.segments:
        for metric in dict.fromkeys(charge.metric for charge in segment.charges if charge.metric is not None):
            then = _list_events(basis, metric, segment, former)
            now = _list_events(basis, metric, segment, basis.known)
            if then is None or now is None:
                return None
            were, are = {event.offset for event in then}, {event.offset for event in now}
            arrived, taken_back = found.setdefault(metric, ([], []))
            arrived += [event for event in now if event.offset not in were]
            taken_back += [event for event in then if event.offset not in are]
    return [
        MetricChanges(metric, arrived[:MAX_NAMED], taken_back[:MAX_NAMED], len(arrived), len(taken_back))
        for metric, (arrived, taken_back) in found.items()
        if arrived or taken_back
    ]


def _explain_true_up(basis: _Basis, line: InvoiceLine) -> LineExplanation:
    """Explain what was lacking to a commitment: by what the periods of its term came to at the cut-off."""
    amount = int(Decimal(next(step["amount"] for step in line.steps if step["kind"] == "commitment")))
    periods = _list_term(basis, line, amount)
    placed = [(basis.invoice.subscription, Span(row.starts_at, row.ends_at, row.is_trial)) for row in periods]
    terms = list_period_terms(placed, organization=basis.organization) if placed else []
    try:
        rated = rate_terms(terms, organization=basis.organization, as_of=basis.known)
    except RangeNotKept as error:
        explanation = TrueUpExplanation(amount, [])
        return _bare(basis, line, agrees=Agreement(steps=adds_up(line)), problem=error.message, true_up=explanation)
    totals = [each.total_minor for each in rated]
    explanation = TrueUpExplanation(amount, list(zip(periods, totals, strict=True)))
    is_lacking = bool(periods) and true_up(amount, totals) == line.amount_minor
    return _bare(basis, line, agrees=Agreement(events=is_lacking, steps=adds_up(line)), true_up=explanation)


def _list_term(basis: _Basis, line: InvoiceLine, amount_minor: int) -> list[BillingPeriod]:
    """Return the periods of the commitment's term that ends with the line's, in order; none where there is no such."""
    subscription = basis.invoice.subscription
    commitments = list_commitments_of([subscription.pk], organization=basis.organization)
    for commitment in commitments.get(subscription.pk, ()):
        if commitment.amount_minor != amount_minor:
            continue
        for term in list_terms(
            subscription.cycle,
            starts_at=commitment.starts_at,
            period_count=commitment.period_count,
            is_recurring=commitment.is_recurring,
            ended_at=commitment.ended_at,
        ):
            if term.end > line.period.ends_at:
                break
            if term.end == line.period.ends_at:
                rows = BillingPeriod.objects.for_organization(basis.organization).filter(
                    subscription=subscription, starts_at__gte=term.start, ends_at__lte=term.end
                )
                return list(rows.order_by("starts_at"))
    return []


def _explain_credit(basis: _Basis, line: InvoiceLine) -> LineExplanation:
    """Explain what a credit note gives back: of which line of which invoice."""
    credited = basis.invoice.credited_invoice
    assert credited is not None  # it is a credit note
    rows = InvoiceLine.objects.for_organization(basis.organization).filter(invoice=credited)
    found = rows.select_related("period").filter(position=line.steps[0]["line"]).first()
    given = -line.amount_minor
    # Of an adjustment below nothing it gives back what is below nothing too.
    is_part = found is not None and (0 < given <= found.amount_minor or found.amount_minor <= given < 0)
    steps = adds_up(line) and is_part
    return _bare(basis, line, agrees=Agreement(steps=steps), credit=CreditExplanation(credited, found))
