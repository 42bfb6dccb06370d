"""The prices of a plan version, or of a draft that is stored nowhere, as rating needs them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby

from billing.domain.allocation import PriceFilters
from billing.domain.prices import Price
from billing.models import PlanVersion
from billing.models import Price as PriceRow
from metering.models import Metric

# The quantity of a fee without a metric: it is charged once.
ONCE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Charge:
    """One price and what it charges: a metric's usage, a part of it by dimension, or (no metric) the plan itself."""

    price: Price
    metric: Metric | None = None
    filters: PriceFilters = field(default_factory=dict)
    name: str = ""
    # Of the stored price; None: a draft's.
    price_id: int | None = None

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        return (self.metric.name or self.metric.code) if self.metric else "Plan fee"


def list_charges(version: PlanVersion) -> list[Charge]:
    """Return the version's prices in their order. One query."""
    return list_charges_of([version], organization_id=version.organization_id)[version.pk]


def list_charges_of(versions: Collection[PlanVersion], *, organization_id: int) -> dict[int, list[Charge]]:
    """Return the prices of each version by its id, in their order. One query."""
    currencies = {version.pk: version.currency for version in versions}
    charges: dict[int, list[Charge]] = {version.pk: [] for version in versions}
    rows = PriceRow.objects.for_organization(organization_id).filter(version__in=currencies)
    for row in rows.select_related("metric").order_by("version", "position"):
        terms = row.terms(currencies[row.version_id])
        charges[row.version_id].append(Charge(terms, row.metric, row.filters, row.name, row.pk))
    return charges


def by_metric(charges: list[Charge]) -> Iterator[tuple[Metric, list[int]]]:
    """Yield each metric with the places of the charges on it."""
    placed = [(charge.metric, place) for place, charge in enumerate(charges) if charge.metric is not None]
    placed.sort(key=lambda pair: (pair[0].pk, pair[1]))
    for _, pairs in groupby(placed, key=lambda pair: pair[0].pk):
        found = list(pairs)
        yield found[0][0], [place for _, place in found]
