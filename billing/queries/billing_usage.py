"""What a gateway's customer is billed for in a month: units included, used and beyond, and what those cost.

In the words of APIGate's page on usage tracking. Owns no number: the quantities are metering's, the amounts the
rating's, and which prices hold when is `billing.queries.terms`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce

from accounts.models import Customer, Organization
from billing.domain.periods import BillingPeriod
from billing.domain.prices import PriceModel
from billing.models import PlanVersion
from billing.queries.charges import Charge
from billing.queries.spend import Spend, SpendLine, get_spend
from billing.queries.terms import PeriodTerms, list_terms_at, list_terms_of_month
from common.errors import Conflict, NotFound
from metering import queries
from metering.domain import EXACT, local_date
from metering.models import Metric

# What the requests of a gateway's customers are metered in (`metering.catalogs.api_gateway`).
UNITS_METRIC = "api_units"
CURRENT, LAST = "current", "last"
ZERO = Decimal(0)


class NoSubscription(NotFound):
    code = "no_subscription"


class NotPriced(NotFound):
    code = "metric_not_priced"


class MixedCurrencies(Conflict):
    code = "mixed_currencies"


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """One billing period, with a line per price of the metric: one, or one per part where parts are priced apart, and
    where the plan changed within the period one for each plan."""

    terms: PeriodTerms
    spend: Spend

    @property
    def version(self) -> PlanVersion:
        assert self.terms.version is not None  # it is a subscription's or the default plan's
        return self.terms.version

    @property
    def period(self) -> BillingPeriod:
        return self.terms.period

    @property
    def lines(self) -> list[SpendLine]:
        return self.spend.lines

    @property
    def included_units(self) -> Decimal:
        return self.terms.included_quantity

    @property
    def used_units(self) -> Decimal:
        return reduce(EXACT.add, (line.rated.quantity for line in self.lines), ZERO)

    @property
    def overage_units(self) -> Decimal:
        return reduce(EXACT.add, (line.rated.overage_quantity for line in self.lines), ZERO)

    @property
    def overage_rate(self) -> Decimal | None:
        """The amount of each unit beyond; None where it depends on how many, or on which, there are."""
        rates = {unit_rate(line.charge) for line in self.lines}
        return rates.pop() if len(rates) == 1 else None

    @property
    def amount_minor(self) -> int:
        return sum(line.rated.amount_minor for line in self.lines)


@dataclass(frozen=True, slots=True)
class BillingUsage:
    """The periods that begin in a month, in order and at least one. Its numbers are the sums of theirs."""

    customer: Customer
    metric: Metric
    periods: list[PeriodUsage]

    @property
    def version(self) -> PlanVersion:
        """What the last period is charged under."""
        return self.periods[-1].version

    @property
    def included_units(self) -> Decimal:
        return reduce(EXACT.add, (part.included_units for part in self.periods), ZERO)

    @property
    def used_units(self) -> Decimal:
        return reduce(EXACT.add, (part.used_units for part in self.periods), ZERO)

    @property
    def overage_units(self) -> Decimal:
        return reduce(EXACT.add, (part.overage_units for part in self.periods), ZERO)

    @property
    def overage_rate(self) -> Decimal | None:
        """The amount of each unit beyond; None where periods differ in it. In a trial units cost nothing."""
        rates = {(part.overage_rate, part.period.is_trial) for part in self.periods}
        return rates.pop()[0] if len(rates) == 1 else None

    @property
    def amount_minor(self) -> int:
        return sum(part.amount_minor for part in self.periods)


def unit_rate(charge: Charge) -> Decimal | None:
    """Return what one more unit beyond the included ones costs, where that is always the same."""
    return charge.price.amount if charge.price.model == PriceModel.PER_UNIT else None


def find_month(name: str, *, customer: Customer, metric: Metric, now: datetime) -> tuple[int, int]:
    """Return year and month of `2025-01`, `current` or `last`.

    The current one is that in which the running period begins, of several that price the metric the latest, and where
    none runs the calendar's; the last one is the month before.
    """
    if name not in (CURRENT, LAST):
        year, month = name.split("-")
        return int(year), int(month)
    zone = queries.usage_zone(organization=customer.organization, customer=customer)
    begun = [
        local_date(terms.period.start, terms.subscription.cycle.zone if terms.subscription else zone)
        for terms in list_terms_at(customer=customer, metric=metric, at=now)
        if terms.charges
    ]
    day = max(begun, default=local_date(now, zone))
    if name == LAST:
        day = day.replace(day=1) - timedelta(days=1)
    return day.year, day.month


def get_billing_usage(
    *, organization: Organization, customer: Customer, metric: Metric, year: int, month: int, now: datetime
) -> BillingUsage:
    """Return the usage of the billing periods that begin in a month and price the metric.

    Raises `NoSubscription` where none begins, or `NotPriced`; `MixedCurrencies` where their amounts do not add up.
    """
    terms = list_terms_of_month(customer=customer, metric=metric, year=year, month=month)
    priced = [each for each in terms if each.charges]
    if not terms:
        raise NoSubscription(
            f"The customer has no billing period that begins in {year}-{month:02}, "
            "and the organization has no default plan for it."
        )
    if not priced:
        raise NotPriced(f"The customer's plan has no price for {metric.code}.")
    if len({each.currency for each in priced}) > 1:
        raise MixedCurrencies(f"The periods that begin in {year}-{month:02} are charged in several currencies.")
    periods = [PeriodUsage(each, get_spend(each, organization=organization, now=now)) for each in priced]
    return BillingUsage(customer, metric, periods)
