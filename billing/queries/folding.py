"""Folding the events behind a usage number, one by one: on purpose not by the code that makes the number elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import reduce
from zoneinfo import ZoneInfo

from billing.domain.allocation import find_place, matches
from billing.queries.charges import ONCE, Charge
from metering.domain import EXACT, local_date
from metering.models import ADDITIVE, Aggregation, Metric
from metering.queries import CountedEvent

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class DayQuantity:
    day: date
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class GroupQuantity:
    """The values of the dimensions that prices of the metric name, and what they came to."""

    group: dict[str, str | None]
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class Fold:
    quantity: Decimal
    # Offsets of the events that make it, where it does not add up.
    deciding: set[int]


def take_events(events: Sequence[CountedEvent], charges: Sequence[Charge], charge: Charge) -> list[CountedEvent]:
    """Return those events that a charge takes; `charges` are the metric's, in their order."""
    assert charge.metric is not None
    if charge.metric.aggregation not in ADDITIVE:
        return [event for event in events if matches(charge.filters, event.dimensions)]
    filters = [each.filters for each in charges]
    place = [each.price_id for each in charges].index(charge.price_id)
    return [event for event in events if find_place(filters, event.dimensions) == place]


def added_by(metric: Metric, event: CountedEvent) -> Decimal | None:
    match metric.aggregation:
        case Aggregation.COUNT:
            return ONCE
        case Aggregation.SUM:
            return event.quantity
    return None


def fold_events(metric: Metric, events: Sequence[CountedEvent]) -> Fold:
    """Make a quantity of events that one customer sent."""
    if metric.aggregation in ADDITIVE:
        added = (added_by(metric, event) for event in events)
        return Fold(reduce(EXACT.add, (quantity for quantity in added if quantity is not None), ZERO), set())
    if metric.aggregation == Aggregation.COUNT_UNIQUE:
        # By member; at equal times the greater offset is the later one.
        last = {event.member: event for event in sorted(events, key=lambda event: (event.occurred_at, event.offset))}
        present = {event.offset for event in last.values() if event.operation == "add"}
        return Fold(Decimal(len(present)), present)
    read = [(event.quantity, event) for event in events if event.quantity is not None]
    if not read:
        return Fold(ZERO, set())
    if metric.aggregation == Aggregation.LATEST:
        quantity, event = max(read, key=lambda pair: (pair[1].occurred_at, pair[1].offset))
        return Fold(quantity, {event.offset})
    choose = max if metric.aggregation == Aggregation.MAX else min
    quantity = choose(pair[0] for pair in read)
    return Fold(quantity, {event.offset for found, event in read if found == quantity})


def fold_by_day(metric: Metric, events: Sequence[CountedEvent], zone: ZoneInfo) -> list[DayQuantity]:
    """Return the quantity of each local day with events, in order."""
    days: dict[date, list[CountedEvent]] = {}
    for event in events:
        days.setdefault(local_date(event.occurred_at, zone), []).append(event)
    return [DayQuantity(day, fold_events(metric, of_day).quantity) for day, of_day in sorted(days.items())]


def fold_by_group(metric: Metric, events: Sequence[CountedEvent], keys: Sequence[str]) -> list[GroupQuantity]:
    """Return the quantity of each group with events, the greatest first."""
    groups: dict[tuple[str | None, ...], list[CountedEvent]] = {}
    for event in events:
        groups.setdefault(tuple(event.dimensions[key] for key in keys), []).append(event)
    folded = [
        GroupQuantity(dict(zip(keys, values, strict=True)), fold_events(metric, of_group).quantity)
        for values, of_group in groups.items()
    ]
    return sorted(folded, key=lambda row: (-row.quantity, [value or "" for value in row.group.values()]))
