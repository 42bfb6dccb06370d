"""The comparison of a billed period's usage as it stands in four places: raw events, rollups, invoices, reports.

All four are the quantities that the period's prices take, per price and segment; a row shows their sums.

- Events and rollups are read as of one cut-off and agree when every price's quantity is the same in both.
- Invoiced is what was billed last (`BillingPeriod.billed_quantities`). It agrees when it is what the events say now,
  or what they said at the newest cut-off of the subscription's invoices: that run looked at the period last, and what
  came since is an adjustment that its next run makes. Null after a void, and where a run looked at the period without
  making an invoice, so that no cut-off is known.
- Reported is the sum of the reports that are not superseded. Null unless none is on its way and everything that is
  reported is priced: an additive metric, in a period without pauses and without unpriced usage, of a customer's only
  subscription, since its customer and metric have names at Stripe. It agrees when it is what the events say now, or
  said before the last hours; what comes later than Stripe takes is not expected there.

Of a period that is adjusted no more, rollups and what was billed are compared alone: what came or was taken back since
is on no invoice, and no run will find it.

Reads alone; `billing.services.usage_checks` writes the rows down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce

from django.db.models import Count, Max, Q, Sum

from accounts.models import Organization
from billing.domain.periods import BillingPeriod as Span
from billing.domain.reporting import MAX_AGE, ReportState
from billing.models import (
    BillingPeriod,
    Invoice,
    InvoiceKind,
    InvoiceState,
    PeriodState,
    StripeCustomer,
    StripeMeter,
    Subscription,
    UsageCheck,
    UsageReport,
)
from billing.queries.charges import Charge
from billing.queries.quantities import Quantities, read_quantities
from billing.queries.reporting import on_their_way
from billing.queries.settings import get_settings
from billing.queries.terms import PeriodTerms, list_period_terms
from common.models import TenantQuerySet
from common.numbers import exact_text
from metering.domain import EXACT, Cutoff
from metering.models import ADDITIVE, Metric
from metering.queries.reading import RangeNotKept

# Reports go out every hour and are looked at again for as long: what came in the last hours may be on its way.
REPORT_LAG = timedelta(hours=2)
ZERO = Decimal(0)
# So long after the time for adjustments is over, what still comes is told. Else the check would grow with history.
LATE_IS_TOLD_FOR = timedelta(days=732)
# Of the charges of a metric over all segments of a period, in order.
Amounts = tuple[Decimal, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one period in the four places. None: it cannot be told, and disagrees with nobody."""

    period: BillingPeriod
    metric: Metric
    events_quantity: Decimal | None
    rollups_quantity: Decimal | None
    invoiced_quantity: Decimal | None
    reported_quantity: Decimal | None
    agrees: bool
    # False: the time for adjustments is over, and whatever differs is charged by nobody.
    is_adjusted: bool = True


@dataclass(frozen=True, slots=True)
class CheckSummary:
    last_checked_at: datetime | None
    checked_count: int
    differing_count: int


def adjusted_from(*, organization: Organization, now: datetime) -> datetime:
    """Return the time: periods that ended before it are adjusted no more."""
    return now - timedelta(days=get_settings(organization).adjustment_days)


def unbilled_quantity(row: UsageCheck, adjusted_since: datetime) -> Decimal | None:
    """Return what came (negative: was taken back) too late for any invoice; None while the period is adjusted."""
    if row.agrees or row.period.ends_at >= adjusted_since:
        return None
    if row.rollups_quantity is None or row.invoiced_quantity is None:
        return None
    return EXACT.subtract(row.rollups_quantity, row.invoiced_quantity)


def list_checked_periods(
    *, organization: Organization, now: datetime, from_period_id: int = 0, limit: int
) -> list[BillingPeriod]:
    """Return the next periods to be compared, by their ids: billed, not waived, and not over for very long."""
    rows = BillingPeriod.objects.for_organization(organization).filter(
        pk__gte=from_period_id,
        state=PeriodState.FINALISED,
        is_waived=False,
        ends_at__gte=adjusted_from(organization=organization, now=now) - LATE_IS_TOLD_FOR,
    )
    return list(rows.select_related("subscription__customer").order_by("pk")[:limit])


def list_organizations_with_billed_periods() -> list[int]:
    rows = BillingPeriod.objects.all_tenants().filter(state=PeriodState.FINALISED)
    return list(rows.order_by("organization").values_list("organization", flat=True).distinct())


def list_checks(*, organization: Organization, agrees: bool | None = None) -> TenantQuerySet:
    """Return what was compared last; `agrees`: only what does, or does not."""
    rows = UsageCheck.objects.for_organization(organization).select_related("period__subscription__customer", "metric")
    return rows if agrees is None else rows.filter(agrees=agrees)


def summarise_checks(*, organization: Organization) -> CheckSummary:
    rows = UsageCheck.objects.for_organization(organization)
    found = rows.aggregate(last=Max("checked_at"), checked=Count("pk"), differing=Count("pk", filter=Q(agrees=False)))
    return CheckSummary(found["last"], found["checked"], found["differing"])


# --- comparing ------------------------------------------------------------------------------------------------


def compare_periods(
    periods: Sequence[BillingPeriod], *, organization: Organization, cutoff: Cutoff, now: datetime
) -> Iterator[Comparison]:
    """Yield a comparison for each metric of each period; of those adjusted no more, where it can be told.

    In the cut-off's own snapshot. Reads usage twice per metric and span (once of those adjusted no more), however many
    periods have the same; more where something differs.
    """
    since = adjusted_from(organization=organization, now=now)
    settled = {row.pk for row in periods if row.ends_at < since}
    placed = [(row.subscription, Span(row.starts_at, row.ends_at, row.is_trial)) for row in periods]
    terms = dict(zip((row.pk for row in periods), list_period_terms(placed, organization=organization), strict=True))
    rows = {row.pk: row for row in periods}
    metrics = {charge.metric for each in terms.values() for charge in each.charges if charge.metric is not None}
    for metric in sorted(metrics, key=lambda metric: metric.pk):
        of_metric = _of_metric(terms, metric)
        adjusted = {pk: each for pk, each in of_metric.items() if pk not in settled}
        yield from _compare_metric(metric, rows, adjusted, terms, organization, cutoff, now)
        late = {pk: each for pk, each in of_metric.items() if pk in settled}
        yield from _compare_settled(metric, rows, late, terms, organization)


def _compare_settled(
    metric: Metric,
    rows: Mapping[int, BillingPeriod],
    of_metric: Mapping[int, PeriodTerms],
    terms: Mapping[int, PeriodTerms],
    organization: Organization,
) -> Iterator[Comparison]:
    if not of_metric:
        return
    for pk, kept in _read(of_metric, organization, None).items():
        billed = _billed(rows[pk], terms[pk], metric)
        if billed is not None and kept is not None:
            yield Comparison(
                period=rows[pk],
                metric=metric,
                events_quantity=None,
                rollups_quantity=_priced(kept),
                invoiced_quantity=_add_up(billed),
                reported_quantity=None,
                agrees=_is_same(billed, kept),
                is_adjusted=False,
            )


def _of_metric(terms: Mapping[int, PeriodTerms], metric: Metric) -> dict[int, PeriodTerms]:
    """Return the periods that price a metric, with its charges alone; periods under one version share one list."""
    lists: dict[int, list[Charge]] = {}

    def cut(charges: list[Charge]) -> list[Charge]:
        if id(charges) not in lists:
            lists[id(charges)] = [charge for charge in charges if charge.metric == metric]
        return lists[id(charges)]

    found = {
        pk: replace(each, segments=[replace(segment, charges=cut(segment.charges)) for segment in each.segments])
        for pk, each in terms.items()
    }
    return {pk: each for pk, each in found.items() if each.charges}


def _compare_metric(
    metric: Metric,
    rows: Mapping[int, BillingPeriod],
    of_metric: Mapping[int, PeriodTerms],
    terms: Mapping[int, PeriodTerms],
    organization: Organization,
    cutoff: Cutoff,
    now: datetime,
) -> Iterator[Comparison]:
    if not of_metric:
        return
    rollups = _read(of_metric, organization, None)
    events = _read(of_metric, organization, cutoff)
    invoiced = {pk: _billed(rows[pk], terms[pk], metric) for pk in of_metric}
    wrong = _list_wrongly_invoiced(rows, of_metric, events, invoiced, organization)
    reported = _read_reported(metric, rows, of_metric, events, organization, now)
    unreported = _list_wrongly_reported(rows, of_metric, events, reported, organization, now)
    for pk in of_metric:
        counted, kept, billed = events[pk], rollups[pk], invoiced[pk]
        do_rollups_agree = counted is None or kept is None or counted == kept
        yield Comparison(
            period=rows[pk],
            metric=metric,
            events_quantity=_priced(counted),
            rollups_quantity=_priced(kept),
            invoiced_quantity=None if billed is None or wrong.get(pk, False) is None else _add_up(billed),
            reported_quantity=None if unreported.get(pk, False) is None else reported.get(pk),
            agrees=do_rollups_agree and not wrong.get(pk) and not unreported.get(pk),
        )


@dataclass(frozen=True, slots=True)
class _Used:
    """What the charges of a metric take of a period, in order, and what none of them does."""

    of_charges: Amounts
    unpriced: Decimal


def _read(
    terms: Mapping[int, PeriodTerms], organization: Organization, as_of: datetime | Cutoff | None
) -> dict[int, _Used | None]:
    """Read some periods at once. Where not all are kept, halves are read until those that are not stand alone."""
    try:
        read = read_quantities(list(terms.values()), organization=organization, as_of=as_of)
    except RangeNotKept:
        if len(terms) == 1:
            return dict.fromkeys(terms)
        items = sorted(terms.items(), key=lambda item: item[1].period.start)
        halves = dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])
        return _read(halves[0], organization, as_of) | _read(halves[1], organization, as_of)
    return {pk: _join(segments) for pk, segments in zip(terms, read, strict=True)}


def _join(segments: Sequence[Quantities]) -> _Used:
    return _Used(
        tuple(quantity for segment in segments for quantity in segment.of_charges),
        _add_up(rest.quantity for segment in segments for rest in segment.unpriced),
    )


def _add_up(quantities: Iterator[Decimal] | Amounts) -> Decimal:
    return reduce(EXACT.add, quantities, ZERO)


def _priced(used: _Used | None) -> Decimal | None:
    return None if used is None else _add_up(used.of_charges)


# --- invoiced -------------------------------------------------------------------------------------------------


def _billed(period: BillingPeriod, terms: PeriodTerms, metric: Metric) -> Amounts | None:
    """Return what was billed last of a metric; None after a void, or where the period has other prices since."""
    billed, charges = period.billed_quantities, terms.charges
    if billed is None or len(billed) != len(charges):
        return None
    return tuple(Decimal(quantity) for quantity, charge in zip(billed, charges, strict=True) if charge.metric == metric)


def _is_same(billed: Amounts | None, used: _Used | None) -> bool:
    """Compare as texts, as a run does: only what it would see too is a difference."""
    if billed is None or used is None:
        return True
    return [exact_text(each) for each in billed] == [exact_text(each) for each in used.of_charges]


def _list_wrongly_invoiced(
    rows: Mapping[int, BillingPeriod],
    terms: Mapping[int, PeriodTerms],
    events: Mapping[int, _Used | None],
    invoiced: Mapping[int, Amounts | None],
    organization: Organization,
) -> dict[int, bool | None]:
    """Return, of the periods that differ from the events of now, whether they did when they were billed last too.

    None: when that was is not known.
    """
    differing = {pk: rows[pk] for pk in terms if not _is_same(invoiced[pk], events[pk])}
    if not differing:
        return {}
    newest = _list_newest_cutoffs(differing, organization)
    of_cutoffs: dict[Cutoff, list[int]] = defaultdict(list)
    for pk in differing:
        if newest[pk] is not None:
            of_cutoffs[newest[pk]].append(pk)  # type: ignore[index]  # it is not None
    wrong: dict[int, bool | None] = dict.fromkeys(differing)
    for cutoff, pks in of_cutoffs.items():
        then = _read({pk: terms[pk] for pk in pks}, organization, cutoff)
        wrong |= {pk: not _is_same(invoiced[pk], then[pk]) for pk in pks}
    return wrong


def _list_newest_cutoffs(periods: Mapping[int, BillingPeriod], organization: Organization) -> dict[int, Cutoff | None]:
    """Return the newest cut-off at which an invoice of each period's subscription was made; None: a run has looked at
    the subscription since and made none. Two queries."""
    subscriptions = {row.subscription_id for row in periods.values()}
    invoices = Invoice.objects.for_organization(organization).filter(
        subscription__in=subscriptions,
        kind__in=(InvoiceKind.PERIOD, InvoiceKind.ADJUSTMENT),
        cutoff_id__isnull=False,
    )
    made = {
        row.subscription_id: row
        for row in invoices.exclude(state=InvoiceState.DRAFT)
        .order_by("subscription", "-cutoff_id")
        .distinct("subscription")
    }
    finalised = BillingPeriod.objects.for_organization(organization).filter(
        subscription__in=subscriptions, state=PeriodState.FINALISED
    )
    looked = dict(finalised.values_list("subscription").annotate(last=Max("finalised_at")).order_by())
    found: dict[int, Cutoff | None] = {}
    for pk, row in periods.items():
        invoice, last = made.get(row.subscription_id), looked.get(row.subscription_id)
        found[pk] = None
        if invoice is not None and invoice.cutoff_id is not None and (last is None or last <= invoice.issued_at):
            found[pk] = Cutoff(invoice.cutoff_id, invoice.known_at)
    return found


# --- reported -------------------------------------------------------------------------------------------------


def _read_reported(
    metric: Metric,
    rows: Mapping[int, BillingPeriod],
    terms: Mapping[int, PeriodTerms],
    events: Mapping[int, _Used | None],
    organization: Organization,
    now: datetime,
) -> dict[int, Decimal]:
    """Return what was reported of those periods of which that can be compared. At most four queries."""
    meter = StripeMeter.objects.for_organization(organization).filter(metric=metric).first()
    if meter is None or metric.aggregation not in ADDITIVE:
        return {}
    customers = {rows[pk].subscription.customer_id for pk in terms}
    named = StripeCustomer.objects.for_organization(organization).filter(customer__in=customers)
    since = dict(named.values_list("customer", "created_at"))
    several = _list_customers_with_several(since, organization)
    comparable = {
        (rows[pk].subscription_id, rows[pk].starts_at): pk
        for pk, each in terms.items()
        if (customer := rows[pk].subscription.customer_id) in since
        and customer not in several
        and rows[pk].starts_at >= max(since[customer], meter.created_at) - MAX_AGE
        and _is_all_priced(each, events[pk])
    }
    reports = UsageReport.objects.for_organization(organization).filter(
        metric=metric,
        subscription__in={subscription for subscription, _ in comparable},
        period_start__in={start for _, start in comparable},
    )
    sums = reports.values_list("subscription", "period_start").annotate(
        unsettled=Count("pk", filter=on_their_way(now)),
        quantity=Sum("quantity", filter=~Q(state=ReportState.SUPERSEDED)),
    )
    return {
        comparable[subscription, start]: quantity or ZERO
        for subscription, start, unsettled, quantity in sums.order_by()
        if not unsettled and (subscription, start) in comparable
    }


def _list_customers_with_several(customers: Mapping[int, datetime], organization: Organization) -> set[int]:
    """Return the customers with several subscriptions: a moment is reported by one of them alone."""
    rows = Subscription.objects.for_organization(organization).filter(customer__in=customers)
    counts = rows.values_list("customer").annotate(count=Count("pk")).order_by()
    return {customer for customer, count in counts if count > 1}


def _is_all_priced(terms: PeriodTerms, used: _Used | None) -> bool:
    """Tell whether the prices take the whole usage of a period."""
    edges = [terms.period.start, *(segment.end for segment in terms.segments)]
    is_covered = [segment.start for segment in terms.segments] == edges[:-1] and edges[-1] == terms.period.end
    return used is not None and not used.unpriced and is_covered and all(each.charges for each in terms.segments)


def _list_wrongly_reported(
    rows: Mapping[int, BillingPeriod],
    terms: Mapping[int, PeriodTerms],
    events: Mapping[int, _Used | None],
    reported: Mapping[int, Decimal],
    organization: Organization,
    now: datetime,
) -> dict[int, bool | None]:
    """Return, of the periods that differ from the events of now, whether that is wrong; None: it may be on its way."""
    of_times: dict[datetime, list[int]] = defaultdict(list)
    for pk, quantity in reported.items():
        if quantity != _priced(events[pk]):
            of_times[min(now - REPORT_LAG, rows[pk].ends_at + MAX_AGE)].append(pk)
    wrong: dict[int, bool | None] = {}
    for at, pks in of_times.items():
        then = _read({pk: terms[pk] for pk in pks}, organization, at)
        for pk in pks:
            if _priced(then[pk]) == reported[pk]:
                wrong[pk] = False
            else:
                wrong[pk] = True if then[pk] == events[pk] else None
    return wrong
