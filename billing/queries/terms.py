"""Under which prices usage is charged when: the segments of billing periods, each with its plan version's prices.

The one home of that answer, for one subscription or ten thousand. Which parts a period has, `billing.domain.segments`
rules; the default plan holds where no subscription runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import reduce

from accounts.models import Customer, Organization
from billing.domain.periods import (
    BillingPeriod,
    calendar_month,
    list_gaps,
    list_periods_of_month,
    nominal_period,
    period_at,
)
from billing.domain.proration import WHOLE, Part, part_of, share_quantity
from billing.domain.segments import Pause, PhaseStart, Segment, list_segments
from billing.models import PlanVersion, Subscription, SubscriptionPause, SubscriptionPhase
from billing.queries.charges import Charge, list_charges_of
from billing.queries.plans import find_default_version
from billing.queries.subscriptions import list_of_customer, list_pauses_of, list_phases_of, version_of_period
from metering import queries
from metering.domain import EXACT, local_date, local_midnight
from metering.models import Metric


@dataclass(frozen=True, slots=True)
class SegmentTerms:
    """A half-open span with the prices that hold in it, and which part of the nominal period it is.

    `version` None: a draft's, which is stored nowhere.
    """

    start: datetime
    end: datetime
    part: Part
    version: PlanVersion | None
    charges: list[Charge]


@dataclass(frozen=True, slots=True)
class PeriodTerms:
    """A billing period of a customer with its segments, in order; none where it is paused throughout.

    `subscription` None: the default plan's, or a draft's.
    """

    customer_id: int
    period: BillingPeriod
    currency: str
    segments: list[SegmentTerms]
    # What holds at the end of the period, or would if it were not paused.
    version: PlanVersion | None = None
    subscription: Subscription | None = None

    @property
    def charges(self) -> list[Charge]:
        return [charge for segment in self.segments for charge in segment.charges]

    @property
    def included_quantity(self) -> Decimal:
        """What the prices include, each in proportion; those of parts of a metric include what their parts include."""
        shares = (
            share_quantity(charge.price.included_quantity, segment.part)
            for segment in self.segments
            for charge in segment.charges
        )
        return reduce(EXACT.add, shares, Decimal(0))

    def of_metric(self, metric: Metric) -> PeriodTerms:
        """Return the same with the prices of one metric alone, which may be none."""
        segments = [
            replace(segment, charges=[charge for charge in segment.charges if charge.metric == metric])
            for segment in self.segments
        ]
        return replace(self, segments=segments)


def whole_terms(
    *,
    customer_id: int,
    period: BillingPeriod,
    charges: list[Charge],
    currency: str,
    version: PlanVersion | None = None,
) -> PeriodTerms:
    """Return a period that is charged under one set of prices and is no subscription's."""
    segment = SegmentTerms(period.start, period.end, WHOLE, version, charges)
    return PeriodTerms(customer_id, period, currency, [segment], version)


def list_period_terms(
    placed: Sequence[tuple[Subscription, BillingPeriod]], *, organization: Organization
) -> list[PeriodTerms]:
    """Return the terms of some periods, in their order. Three queries, however many there are."""
    subscriptions = {subscription.pk: subscription for subscription, _ in placed}
    phases = list_phases_of(subscriptions.values(), organization=organization)
    pauses = list_pauses_of(subscriptions, organization=organization)
    versions = {phase.version_id: phase.version for of_one in phases.values() for phase in of_one}
    charges = list_charges_of(versions.values(), organization_id=organization.pk)
    found = []
    for subscription, period in placed:
        of_one = phases[subscription.pk]
        last = version_of_period(of_one, period, is_at_end=subscription.is_prorated)
        segments = _list_segments(subscription, period, of_one, pauses.get(subscription.pk, []))
        terms = [
            SegmentTerms(each.start, each.end, each.part, versions[each.version_id], charges[each.version_id])
            for each in segments
        ]
        found.append(PeriodTerms(subscription.customer_id, period, last.currency, terms, last, subscription))
    return found


def _list_segments(
    subscription: Subscription,
    period: BillingPeriod,
    phases: Sequence[SubscriptionPhase],
    pauses: Sequence[SubscriptionPause],
) -> list[Segment]:
    """Cut a period. The day on which charging begins counts whole: who starts at ten pays the same as at midnight."""
    cycle = subscription.cycle
    whole = nominal_period(cycle, period)
    segments = list_segments(
        period=period,
        whole=whole,
        phases=[PhaseStart(phase.starts_at, phase.version_id) for phase in phases],
        pauses=[Pause(pause.starts_at, pause.ends_at) for pause in pauses],
        is_prorated=subscription.is_prorated,
    )
    if not segments or segments[0].part == WHOLE or segments[0].start != cycle.charged_from or period.is_trial:
        return segments
    midnight = local_midnight(local_date(cycle.charged_from, cycle.zone), cycle.zone)
    first = replace(segments[0], part=part_of(whole, max(whole.start, midnight), segments[0].end))
    return [first, *segments[1:]]


def list_terms_of_month(*, customer: Customer, metric: Metric, year: int, month: int) -> list[PeriodTerms]:
    """Return the periods that begin in a month, of all the customer's subscriptions, in order, for one metric.

    The default plan holds for those parts of the calendar month in which no subscription runs. So whatever is used
    under a plan belongs to exactly one month. At most seven queries, however many subscriptions there are.
    """
    subscriptions = list_of_customer(organization=customer.organization, customer=customer)
    placed = [
        (subscription, period)
        for subscription in reversed(subscriptions)
        for period in list_periods_of_month(subscription.cycle, year=year, month=month)
    ]
    zone = queries.usage_zone(organization=customer.organization, customer=customer)
    whole = calendar_month(year=year, month=month, zone=zone)
    gaps = list_gaps([subscription.cycle for subscription in subscriptions], whole)
    return _list_terms(customer, metric, placed, gaps)


def list_terms_at(*, customer: Customer, metric: Metric, at: datetime) -> list[PeriodTerms]:
    """Return the period that holds `at` of each of the customer's subscriptions; without any the default plan's."""
    placed = [
        (subscription, period)
        for subscription in reversed(list_of_customer(organization=customer.organization, customer=customer))
        if (period := period_at(subscription.cycle, at)) is not None
    ]
    if placed:
        return _list_terms(customer, metric, placed, [])
    zone = queries.usage_zone(organization=customer.organization, customer=customer)
    day = local_date(at, zone)
    return _list_terms(customer, metric, [], [calendar_month(year=day.year, month=day.month, zone=zone)])


def _list_terms(
    customer: Customer,
    metric: Metric,
    placed: Sequence[tuple[Subscription, BillingPeriod]],
    unsubscribed: Sequence[BillingPeriod],
) -> list[PeriodTerms]:
    found = list_period_terms(placed, organization=customer.organization)
    default = find_default_version(organization=customer.organization) if unsubscribed else None
    if default is not None:
        charges = list_charges_of([default], organization_id=customer.organization_id)[default.pk]
        found += [
            whole_terms(
                customer_id=customer.pk, period=period, charges=charges, currency=default.currency, version=default
            )
            for period in unsubscribed
        ]
    of_metric = (terms.of_metric(metric) for terms in found)
    return sorted(of_metric, key=lambda terms: (terms.period.start, terms.subscription is not None))
