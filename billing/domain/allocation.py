"""How one metric's usage is split between prices that each charge some of its dimensions' values.

Prices of one metric never overlap, so no usage is charged twice. A price without filters charges what no other does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing.domain.prices import ZERO
from metering.domain import EXACT

# {"region": ["us", "eu"]}: usage with one of the values, for every dimension named. Empty: whatever is left.
PriceFilters = Mapping[str, Sequence[str]]
# A value of each dimension that some price names; None: the usage has no such dimension.
Group = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Allocation:
    """The quantity of each price, in their order, and what belongs to none."""

    quantities: list[Decimal]
    unpriced: Decimal


def do_overlap(first: PriceFilters, second: PriceFilters) -> bool:
    """Tell whether some usage could belong to both: unless a dimension that both name has no value in common.

    Two prices without filters overlap. One without and one with do not: it takes what the other leaves.
    """
    if not first or not second:
        return not first and not second
    return not any(key in second and set(values).isdisjoint(second[key]) for key, values in first.items())


def allocate(prices: Sequence[PriceFilters], groups: Iterable[tuple[Group, Decimal]]) -> Allocation:
    """Give the quantity of each group to the one price that charges it. Only for quantities that add up."""
    quantities, unpriced = [ZERO] * len(prices), ZERO
    for group, quantity in groups:
        place = find_place(prices, group)
        if place is None:
            unpriced = EXACT.add(unpriced, quantity)
        else:
            quantities[place] = EXACT.add(quantities[place], quantity)
    return Allocation(quantities, unpriced)


def find_place(prices: Sequence[PriceFilters], group: Group) -> int | None:
    """Return the place of the one price that charges what adds up in a group; None: no price does."""
    rest = None
    for place, filters in enumerate(prices):
        if not filters:
            rest = place if rest is None else rest
        elif matches(filters, group):
            return place
    return rest


def matches(filters: PriceFilters, group: Group) -> bool:
    """Tell whether a group has one of the values, for every dimension named."""
    return all(group.get(key) in values for key, values in filters.items())
