"""What a period costs so far and is heading for: the quantities of `metering.queries`, rated by `billing.domain`.

The one way from usage to money: current spend, previews, the gateway's billing usage and pages all come here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal

from accounts.models import Customer, Organization
from billing.domain.allocation import Allocation, Group, allocate
from billing.domain.periods import BillingPeriod
from billing.domain.rating import RatedLine, rate
from billing.models import PlanVersion, Subscription
from billing.queries.charges import ADDITIVE, ONCE, Charge, by_metric, list_charges
from billing.queries.subscriptions import list_phases, nearest_period, version_of_period
from metering import queries
from metering.domain import Span, project
from metering.models import Aggregation, Metric


@dataclass(frozen=True, slots=True)
class SpendLine:
    """One price: what it comes to, and (None: too early to tell) at the period's end if usage goes on as so far."""

    charge: Charge
    rated: RatedLine
    projected: RatedLine | None


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Usage of a priced metric that no price charges: none of its filters match it."""

    metric: Metric
    quantity: Decimal


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


@dataclass(frozen=True, slots=True)
class SubscriptionSpend:
    subscription: Subscription
    version: PlanVersion
    spend: Spend


@dataclass(frozen=True, slots=True)
class Quantities:
    """The quantity of each charge, in their order, and what no charge takes."""

    of_charges: list[Decimal]
    unpriced: list[Unpriced]


def get_current_spend(*, subscription: Subscription, now: datetime) -> SubscriptionSpend:
    """Return what the subscription's current period costs so far; of an ended one the last, of one to come the first.

    Raises `NeverCharged` where it has no period, and metering's `RangeNotKept`.
    """
    return get_period_spend(subscription=subscription, period=nearest_period(subscription, now), now=now)


def get_period_spend(*, subscription: Subscription, period: BillingPeriod, now: datetime) -> SubscriptionSpend:
    """Return what one period of the subscription costs. One read of usage per metric."""
    version = version_of_period(list_phases(subscription), period)
    spend = rate_period(
        organization=subscription.organization,
        customer=subscription.customer,
        charges=list_charges(version),
        currency=version.currency,
        period=period,
        now=now,
    )
    return SubscriptionSpend(subscription, version, spend)


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
    quantities = read_quantities(organization=organization, customer=customer, charges=charges, period=period)
    lines = [
        _line(charge, quantity, period, now) for charge, quantity in zip(charges, quantities.of_charges, strict=True)
    ]
    return Spend(currency, period, min(now, period.end), lines, quantities.unpriced)


# --- quantities -----------------------------------------------------------------------------------------------


def read_quantities(
    *, organization: Organization, customer: Customer, charges: list[Charge], period: BillingPeriod
) -> Quantities:
    """Read how much each charge is about. One read per metric; of metrics that do not add up one per price."""

    def read_groups(metric: Metric, keys: Sequence[str]) -> list[tuple[Group, Decimal]]:
        rows = queries.list_breakdown(
            organization=organization,
            metric=metric,
            start=period.start,
            end=period.end,
            group_by=keys,
            customer_id=customer.pk,
        )
        return [(row.group, row.usage.value) for row in rows]

    def read_part(charge: Charge) -> Decimal:
        assert charge.metric is not None  # `share_out` asks for those alone
        usage = queries.get_usage(
            organization=organization,
            metric=charge.metric,
            start=period.start,
            end=period.end,
            customer_id=customer.pk,
            filters=charge.filters,
        )
        return usage.value

    return share_out(charges, read_groups, read_part)


def share_out(
    charges: list[Charge],
    read_groups: Callable[[Metric, Sequence[str]], list[tuple[Group, Decimal]]],
    read_part: Callable[[Charge], Decimal],
) -> Quantities:
    """Give each charge its quantity: of what adds up a share of the metric's groups, of anything else its own value."""
    quantities = [ONCE] * len(charges)
    unpriced: list[Unpriced] = []
    for metric, places in by_metric(charges):
        if metric.aggregation in ADDITIVE:
            keys = sorted({key for place in places for key in charges[place].filters})
            shared: Allocation = allocate([charges[place].filters for place in places], read_groups(metric, keys))
            if shared.unpriced:
                unpriced.append(Unpriced(metric, shared.unpriced))
            parts = shared.quantities
        else:
            parts = [read_part(charges[place]) for place in places]
        for place, part in zip(places, parts, strict=True):
            quantities[place] = part
    return Quantities(quantities, unpriced)


# --- lines ----------------------------------------------------------------------------------------------------


def _line(charge: Charge, quantity: Decimal, period: BillingPeriod, now: datetime) -> SpendLine:
    rated = rate(charge.price, quantity, is_trial=period.is_trial)
    projected = _projected_quantity(charge, quantity, period, now)
    if projected is None:
        return SpendLine(charge, rated, None)
    return SpendLine(charge, rated, rate(charge.price, projected, is_trial=period.is_trial))


def _projected_quantity(charge: Charge, quantity: Decimal, period: BillingPeriod, now: datetime) -> Decimal | None:
    """Project what adds up along its pace; a peak, a reading or a distinct count stays as it is.

    A period that has not begun, and a fee, are not projected: they are what they are.
    """
    if charge.metric is None or charge.metric.aggregation not in ADDITIVE or now <= period.start:
        return quantity
    projected = project(quantity, period=Span(period.start, period.end), now=now)
    if projected is not None and charge.metric.aggregation == Aggregation.COUNT:
        return projected.to_integral_value(rounding=ROUND_FLOOR)
    return projected
