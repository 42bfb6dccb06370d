"""Under which prices a customer uses a metric: those of its subscriptions, and of the default plan where none runs.

The one home of that answer: the gateway's billing usage asks it for a month, alerts for a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import reduce

from accounts.models import Customer
from billing.domain.periods import BillingPeriod, calendar_month, list_gaps, list_periods_of_month, period_at
from billing.models import PlanVersion, Subscription
from billing.queries.charges import Charge, list_charges_of
from billing.queries.plans import find_default_version
from billing.queries.subscriptions import list_of_customer, list_phases_of, version_of_period
from metering import queries
from metering.domain import EXACT, local_date
from metering.models import Metric


@dataclass(frozen=True, slots=True)
class Terms:
    """One billing period of a subscription or of the default plan, with the prices of the metric, which may be none."""

    version: PlanVersion
    period: BillingPeriod
    charges: list[Charge]


def list_terms_of_month(*, customer: Customer, metric: Metric, year: int, month: int) -> list[Terms]:
    """Return the periods that begin in a month, of all the customer's subscriptions, in order.

    The default plan holds for those parts of the calendar month in which no subscription runs. So whatever is used
    under a plan belongs to exactly one month. At most six queries, however many subscriptions there are.
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


def list_terms_at(*, customer: Customer, metric: Metric, at: datetime) -> list[Terms]:
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


def included_quantity(charges: Sequence[Charge]) -> Decimal:
    """Return what the prices include. Those of parts of a metric include what their parts include."""
    return reduce(EXACT.add, (charge.price.included_quantity for charge in charges), Decimal(0))


def _list_terms(
    customer: Customer,
    metric: Metric,
    placed: Sequence[tuple[Subscription, BillingPeriod]],
    unsubscribed: Sequence[BillingPeriod],
) -> list[Terms]:
    """Find the plan versions of periods and their prices, all at once."""
    phases = list_phases_of({subscription for subscription, _ in placed}, organization=customer.organization)
    held = [(version_of_period(phases[subscription.pk], period), period) for subscription, period in placed]
    default = find_default_version(organization=customer.organization) if unsubscribed else None
    if default is not None:
        held = [*((default, period) for period in unsubscribed), *held]
    charges = list_charges_of({version for version, _ in held}, organization_id=customer.organization_id)
    found = [
        Terms(version, period, [charge for charge in charges[version.pk] if charge.metric == metric])
        for version, period in held
    ]
    return sorted(found, key=lambda terms: terms.period.start)
