"""How much each price is about: the usage of `metering.queries`, shared between the prices of a segment.

The one way from usage to what is rated, for one customer or for thousands: as many reads as there are metrics (and,
for metrics that do not add up, prices), however many customers have the same prices in the same span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from accounts.models import Organization
from billing.domain.allocation import Allocation, Group, allocate, find_place
from billing.queries.charges import ONCE, Charge, by_metric
from billing.queries.terms import PeriodTerms, SegmentTerms
from metering import queries
from metering.domain import EXACT, Cutoff
from metering.models import ADDITIVE, Metric

ZERO = Decimal(0)
# The groups of a metric with their values.
Groups = list[tuple[dict[str, str | None], Decimal]]
# The same with a value for each time up to which it is read.
RunningGroups = list[tuple[dict[str, str | None], list[Decimal]]]


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Usage of a priced metric that no price charges: none of its filters match it."""

    metric: Metric
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class Quantities:
    """The quantity of each charge, in their order, and what no charge takes."""

    of_charges: list[Decimal]
    unpriced: list[Unpriced]


def read_quantities(
    terms: Sequence[PeriodTerms], *, organization: Organization, as_of: datetime | Cutoff | None = None
) -> list[list[Quantities]]:
    """Read how much each charge of each segment of each period is about; in their order.

    Raises metering's `RangeNotKept`.
    """
    together: dict[tuple[int, datetime, datetime], list[tuple[int, int]]] = {}
    for place, each in enumerate(terms):
        for number, segment in enumerate(each.segments):
            # Periods under one version have one list of charges.
            key = (id(segment.charges), segment.start, segment.end)
            together.setdefault(key, []).append((place, number))
    found: list[list[Quantities]] = [[Quantities([], [])] * len(each.segments) for each in terms]
    for members in together.values():
        segment = terms[members[0][0]].segments[members[0][1]]
        customer_ids = [terms[place].customer_id for place, _ in members]
        read = _read_segment(segment, customer_ids, organization, as_of)
        for place, number in members:
            found[place][number] = read[terms[place].customer_id]
    return found


def _read_segment(
    segment: SegmentTerms, customer_ids: Sequence[int], organization: Organization, as_of: datetime | Cutoff | None
) -> dict[int, Quantities]:
    """Read one span of some customers who have the same prices in it."""

    def read(metric: Metric, keys: Sequence[str], charge: Charge | None = None) -> dict[int, Groups]:
        return queries.list_customer_groups(
            organization=organization,
            metric=metric,
            start=segment.start,
            end=segment.end,
            group_by=keys,
            customer_ids=customer_ids,
            filters=None if charge is None else charge.filters,
            as_of=as_of,
        )

    metrics = list(by_metric(segment.charges))
    groups: dict[int, dict[int, Groups]] = {}
    parts: dict[int, dict[int, Groups]] = {}
    for metric, places in metrics:
        if metric.aggregation in ADDITIVE:
            groups[metric.pk] = read(metric, grouping_keys(segment.charges, places))
        else:
            for place in places:
                parts[place] = read(metric, (), segment.charges[place])

    def share(customer_id: int) -> Quantities:
        return share_out(
            segment.charges,
            metrics,
            lambda metric, _: groups[metric.pk].get(customer_id, []),
            lambda place: parts[place][customer_id][0][1] if customer_id in parts[place] else ZERO,
        )

    return {customer_id: share(customer_id) for customer_id in customer_ids}


def read_running_quantities(
    segment: SegmentTerms, edges: Sequence[datetime], *, organization: Organization, customer_id: int
) -> list[list[Decimal]]:
    """Read how much each charge is about from the segment's start, the first edge, up to each later one.

    As many reads as `read_quantities` takes for the segment, and at its end the same. Raises metering's `RangeNotKept`.
    """

    def read(metric: Metric, keys: Sequence[str], charge: Charge | None = None) -> RunningGroups:
        return queries.list_running_groups(
            organization=organization,
            metric=metric,
            edges=edges,
            group_by=keys,
            customer_id=customer_id,
            filters=None if charge is None else charge.filters,
        )

    nothing = [ZERO] * (len(edges) - 1)
    quantities = [[ONCE] * len(nothing) for _ in segment.charges]
    for metric, places in by_metric(segment.charges):
        for place in places:
            quantities[place] = nothing
        if metric.aggregation in ADDITIVE:
            filters = [segment.charges[place].filters for place in places]
            for group, values in read(metric, grouping_keys(segment.charges, places)):
                chosen = find_place(filters, group)
                if chosen is not None:
                    quantities[places[chosen]] = list(map(EXACT.add, quantities[places[chosen]], values))
        else:
            for place in places:
                for _, values in read(metric, (), segment.charges[place]):
                    quantities[place] = values
    return quantities


def grouping_keys(charges: Sequence[Charge], places: Sequence[int]) -> list[str]:
    """Return the dimensions that some of the charges name: by these usage is read to be shared between them."""
    return sorted({key for place in places for key in charges[place].filters})


def share_out(
    charges: Sequence[Charge],
    metrics: Sequence[tuple[Metric, list[int]]],
    read_groups: Callable[[Metric, Sequence[str]], Sequence[tuple[Group, Decimal]]],
    read_part: Callable[[int], Decimal],
) -> Quantities:
    """Give each charge its quantity: of what adds up a share of the metric's groups, of anything else its own value.

    `metrics` are those of `by_metric`; `read_part` takes the place of a charge.
    """
    quantities = [ONCE] * len(charges)
    unpriced: list[Unpriced] = []
    for metric, places in metrics:
        if metric.aggregation in ADDITIVE:
            groups = read_groups(metric, grouping_keys(charges, places))
            shared: Allocation = allocate([charges[place].filters for place in places], groups)
            if shared.unpriced:
                unpriced.append(Unpriced(metric, shared.unpriced))
            of_places = shared.quantities
        else:
            of_places = [read_part(place) for place in places]
        for place, quantity in zip(places, of_places, strict=True):
            quantities[place] = quantity
    return Quantities(quantities, unpriced)
