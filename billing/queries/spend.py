"""What billing periods cost so far and are heading for: quantities, rated by `billing.domain`.

The one way from usage to money: current spend, previews, simulations, budgets, the gateway's billing usage and
invoices all come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from functools import reduce

from accounts.models import Customer, Organization
from billing.domain.periods import BillingPeriod
from billing.domain.rating import RatedLine, rate
from billing.models import PlanVersion, Subscription
from billing.queries.charges import Charge
from billing.queries.quantities import Unpriced, read_quantities
from billing.queries.subscriptions import nearest_period
from billing.queries.terms import PeriodTerms, SegmentTerms, list_period_terms, whole_terms
from metering.domain import EXACT, Cutoff, Span, project
from metering.models import ADDITIVE, Aggregation, Metric


@dataclass(frozen=True, slots=True)
class RatedCharge:
    """One price in one segment of a period, and what it comes to."""

    segment: SegmentTerms
    charge: Charge
    rated: RatedLine


@dataclass(frozen=True, slots=True)
class RatedPeriod:
    """A period with a line for every price of every segment, in order. Lines are whole minor units."""

    terms: PeriodTerms
    lines: list[RatedCharge]
    unpriced: list[Unpriced]

    @property
    def total_minor(self) -> int:
        return sum(line.rated.amount_minor for line in self.lines)


@dataclass(frozen=True, slots=True)
class SpendLine:
    """One price: what it comes to, and (None: too early to tell) at the segment's end if usage goes on as so far."""

    segment: SegmentTerms
    charge: Charge
    rated: RatedLine
    projected: RatedLine | None


@dataclass(frozen=True, slots=True)
class Spend:
    """Guarantee: the totals are the sums of the lines, which are whole minor units."""

    currency: str
    period: BillingPeriod
    # Every event known then is counted.
    complete_through: datetime
    lines: list[SpendLine]
    unpriced: list[Unpriced]

    @property
    def total_minor(self) -> int:
        return sum(line.rated.amount_minor for line in self.lines)

    @property
    def projected_total_minor(self) -> int | None:
        projected = [line.projected for line in self.lines]
        if any(line is None for line in projected):
            return None
        return sum(line.amount_minor for line in projected if line is not None)

    @property
    def has_segments(self) -> bool:
        """Whether prices hold for parts of the period only, so that a line has to say for which."""
        spans = {(line.segment.start, line.segment.end) for line in self.lines}
        return len(spans) > 1 or any(span != (self.period.start, self.period.end) for span in spans)


@dataclass(frozen=True, slots=True)
class SubscriptionSpend:
    """`version` is what holds at the period's end."""

    subscription: Subscription
    version: PlanVersion
    spend: Spend


def get_current_spend(*, subscription: Subscription, now: datetime) -> SubscriptionSpend:
    """Return what the subscription's current period costs so far; of an ended one the last, of one to come the first.

    Raises `NeverCharged` where it has no period, and metering's `RangeNotKept`.
    """
    return get_period_spend(subscription=subscription, period=nearest_period(subscription, now), now=now)


def get_period_spend(*, subscription: Subscription, period: BillingPeriod, now: datetime) -> SubscriptionSpend:
    """Return what one period of the subscription costs. One read of usage per metric and segment."""
    [terms] = list_period_terms([(subscription, period)], organization=subscription.organization)
    assert terms.version is not None  # it is a subscription's
    spend = get_spend(terms, organization=subscription.organization, now=now)
    return SubscriptionSpend(subscription, terms.version, spend)


def rate_period(
    *,
    organization: Organization,
    customer: Customer,
    charges: list[Charge],
    currency: str,
    period: BillingPeriod,
    now: datetime,
) -> Spend:
    """Rate what a customer used in a period under some charges, whether they are a stored plan's or a draft's."""
    terms = whole_terms(customer_id=customer.pk, period=period, charges=charges, currency=currency)
    return get_spend(terms, organization=organization, now=now)


def get_spend(terms: PeriodTerms, *, organization: Organization, now: datetime) -> Spend:
    """Return what a period under some terms costs so far, and is heading for."""
    [rated] = rate_terms([terms], organization=organization)
    lines = [
        SpendLine(line.segment, line.charge, line.rated, _project(line, terms.period, now)) for line in rated.lines
    ]
    return Spend(terms.currency, terms.period, min(now, terms.period.end), lines, rated.unpriced)


def rate_terms(
    terms: Sequence[PeriodTerms], *, organization: Organization, as_of: datetime | Cutoff | None = None
) -> list[RatedPeriod]:
    """Rate some periods, in their order. As many reads of usage as there are different spans and metrics."""
    found = read_quantities(terms, organization=organization, as_of=as_of)
    rated = []
    for each, quantities in zip(terms, found, strict=True):
        lines = [
            RatedCharge(segment, charge, rate(charge.price, quantity, is_trial=each.period.is_trial, part=segment.part))
            for segment, shared in zip(each.segments, quantities, strict=True)
            for charge, quantity in zip(segment.charges, shared.of_charges, strict=True)
        ]
        rated.append(RatedPeriod(each, lines, _join([rest for shared in quantities for rest in shared.unpriced])))
    return rated


def _join(unpriced: list[Unpriced]) -> list[Unpriced]:
    """Add up what several segments leave of one metric."""
    of_metrics: dict[Metric, list[Decimal]] = {}
    for rest in unpriced:
        of_metrics.setdefault(rest.metric, []).append(rest.quantity)
    return [Unpriced(metric, reduce(EXACT.add, quantities)) for metric, quantities in of_metrics.items()]


# --- projection -----------------------------------------------------------------------------------------------


def _project(line: RatedCharge, period: BillingPeriod, now: datetime) -> RatedLine | None:
    projected = _projected_quantity(line.charge, line.rated.quantity, line.segment, now)
    if projected is None:
        return None
    return rate(line.charge.price, projected, is_trial=period.is_trial, part=line.segment.part)


def _projected_quantity(charge: Charge, quantity: Decimal, segment: SegmentTerms, now: datetime) -> Decimal | None:
    """Project what adds up along its pace; a peak, a reading or a distinct count stays as it is.

    A segment that has not begun, and a fee, are not projected: they are what they are.
    """
    if charge.metric is None or charge.metric.aggregation not in ADDITIVE or now <= segment.start:
        return quantity
    projected = project(quantity, period=Span(segment.start, segment.end), now=now)
    if projected is not None and charge.metric.aggregation == Aggregation.COUNT:
        return projected.to_integral_value(rounding=ROUND_FLOOR)
    return projected
