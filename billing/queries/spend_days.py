"""What each day adds to what a subscription's current period costs.

A day's amount is the running total at its end less the one at its start, and the running total is the period up to
then, rated by the one engine. So the days add up to the current spend, exactly. What is due without any usage, like a
fee or a minimum, is so from the first day of its segment; a day can be below zero, as where a volume price falls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise

from accounts.models import Organization
from billing.domain.periods import BillingPeriod
from billing.domain.rating import rate
from billing.models import Subscription
from billing.queries.quantities import read_running_quantities
from billing.queries.subscriptions import nearest_period
from billing.queries.terms import PeriodTerms, SegmentTerms, list_period_terms
from metering.domain import Granularity, Span, list_buckets, local_date


@dataclass(frozen=True, slots=True)
class DaySpend:
    """A day of the subscription's zone. The first and the last of a period may be days in part."""

    day: date
    start: datetime
    amount_minor: int


@dataclass(frozen=True, slots=True)
class SpendDays:
    """The days from the period's start to today, and any later one that something is booked on already, in order."""

    subscription: Subscription
    currency: str
    period: BillingPeriod
    # Every event known then is counted.
    complete_through: datetime
    days: list[DaySpend]

    @property
    def total_minor(self) -> int:
        return sum(day.amount_minor for day in self.days)


def get_spend_days(*, subscription: Subscription, now: datetime) -> SpendDays:
    """Return the days of the period of `get_current_spend`. As many reads of usage as that, however many days.

    Raises `NeverCharged`, and metering's `RangeNotKept` also where a day cuts usage that is kept in wider pieces.
    """
    period = nearest_period(subscription, now)
    [terms] = list_period_terms([(subscription, period)], organization=subscription.organization)
    days = list(list_buckets(Span(period.start, period.end), Granularity.DAY, subscription.cycle.zone))
    totals = _running_totals(terms, [day.end for day in days], subscription.organization)
    amounts = [total - before for before, total in pairwise([0, *totals])]
    # An event may be of a moment to come, and so may a segment with its fee, after a pause.
    shown = [place for place, day in enumerate(days) if day.start <= now or amounts[place]]
    zone = subscription.cycle.zone
    return SpendDays(
        subscription=subscription,
        currency=terms.currency,
        period=period,
        complete_through=min(now, period.end),
        days=[
            DaySpend(local_date(day.start, zone), day.start, amount)
            for day, amount in zip(days[: max(shown, default=-1) + 1], amounts, strict=False)
        ],
    )


def _running_totals(terms: PeriodTerms, ends: Sequence[datetime], organization: Organization) -> list[int]:
    """Return what the period comes to by the end of each day."""
    if terms.period.is_trial:  # which costs nothing, and may be long
        return [0] * len(ends)
    segments = [_segment_totals(segment, ends, organization, terms.customer_id) for segment in terms.segments]
    return [sum(column) for column in zip(*segments, strict=True)] if segments else [0] * len(ends)


def _segment_totals(
    segment: SegmentTerms, ends: Sequence[datetime], organization: Organization, customer_id: int
) -> list[int]:
    stops = [*(end for end in ends if segment.start < end < segment.end), segment.end]
    quantities = read_running_quantities(
        segment, [segment.start, *stops], organization=organization, customer_id=customer_id
    )
    totals = [0] * len(stops)
    for charge, column in zip(segment.charges, quantities, strict=True):
        # Most days leave most quantities as they are.
        amounts = {quantity: rate(charge.price, quantity, part=segment.part).amount_minor for quantity in set(column)}
        totals = [total + amounts[quantity] for total, quantity in zip(totals, column, strict=True)]
    return [0 if end <= segment.start else totals[min(bisect_left(stops, end), len(stops) - 1)] for end in ends]
