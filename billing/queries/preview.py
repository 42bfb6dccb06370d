"""What a draft plan would cost: of given quantities, or of a customer's real month. Nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from accounts.models import Customer, Organization
from billing.domain.allocation import Group, PriceFilters
from billing.domain.periods import calendar_month
from billing.domain.rating import RatedLine, rate
from billing.queries.charges import Charge, by_metric
from billing.queries.quantities import Quantities, Unpriced, share_out
from billing.queries.spend import Spend, rate_period
from common.errors import InvalidInput
from metering import queries
from metering.domain import local_date
from metering.models import Metric


@dataclass(frozen=True, slots=True)
class GivenUsage:
    """A quantity of a metric, with the dimensions that it is said to have."""

    metric: str
    quantity: Decimal
    dimensions: dict[str, str] = field(default_factory=dict)


def preview_month(
    *,
    organization: Organization,
    customer: Customer,
    charges: list[Charge],
    currency: str,
    month: tuple[int, int] | None,
    now: datetime,
) -> Spend:
    """Price what a customer used in a calendar month of its own zone; None: the current one."""
    zone = queries.usage_zone(organization=organization, customer=customer)
    today = local_date(now, zone)
    year, number = month or (today.year, today.month)
    period = calendar_month(year=year, month=number, zone=zone)
    return rate_period(
        organization=organization, customer=customer, charges=charges, currency=currency, period=period, now=now
    )


@dataclass(frozen=True, slots=True)
class GivenSpend:
    """What given quantities cost; the total is the sum of the lines."""

    currency: str
    charges: list[Charge]
    lines: list[RatedLine]
    unpriced: list[Unpriced]

    @property
    def total_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)


def preview_given(charges: list[Charge], usage: Sequence[GivenUsage], *, currency: str) -> GivenSpend:
    """Price given quantities. Raises `InvalidInput` at what has no meaning."""
    quantities = _share_given(charges, usage)
    lines = [rate(charge.price, quantity) for charge, quantity in zip(charges, quantities.of_charges, strict=True)]
    return GivenSpend(currency, charges, lines, quantities.unpriced)


def _share_given(charges: list[Charge], usage: Sequence[GivenUsage]) -> Quantities:
    """Share given quantities between the charges, as real usage is."""
    priced = {charge.metric.code for charge in charges if charge.metric is not None}
    for place, given in enumerate(usage):
        if given.metric not in priced:
            raise InvalidInput.of(f"usage[{place}].metric", "The plan has no price for this metric.", "not_priced")

    def read_groups(metric: Metric, keys: Sequence[str]) -> list[tuple[Group, Decimal]]:
        return [
            ({key: given.dimensions.get(key) for key in keys}, given.quantity)
            for given in usage
            if given.metric == metric.code
        ]

    def read_part(charge_place: int) -> Decimal:
        charge = charges[charge_place]
        assert charge.metric is not None  # `share_out` asks for those alone
        found = [
            (place, given.quantity)
            for place, given in enumerate(usage)
            if given.metric == charge.metric.code and _is_part(charge.filters, given)
        ]
        if len(found) > 1:
            message = f"A {charge.metric.aggregation} does not add up: give one quantity for each price."
            raise InvalidInput.of(f"usage[{found[1][0]}].quantity", message, "invalid_combination")
        return found[0][1] if found else Decimal(0)

    return share_out(charges, list(by_metric(charges)), read_groups, read_part)


def _is_part(filters: PriceFilters, given: GivenUsage) -> bool:
    return all(given.dimensions.get(key) in values for key, values in filters.items())
