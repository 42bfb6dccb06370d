"""Measuring one customer's usage of one period against one threshold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import structlog

from accounts.models import Customer, Organization
from alerts.domain import ThresholdKind, judge, project
from alerts.models import Crossing, Threshold, ThresholdState
from alerts.queries.included import find_included_quantity
from common.errors import InvalidInput
from common.numbers import WIDE
from metering import queries
from metering.domain import Span

logger = structlog.get_logger(__name__)

# From so many customers on, one breakdown over all of them is cheaper than a read for each.
MANY_CUSTOMERS = 16


@dataclass(frozen=True, slots=True)
class Target:
    """A threshold, and whose usage of which period to measure against it."""

    threshold: Threshold
    customer: Customer
    period: Span
    # A void is among the changes: what was told may be taken back.
    has_void: bool = False

    @property
    def key(self) -> tuple[int, int, datetime]:
        return self.threshold.pk, self.customer.pk, self.period.start


@dataclass(frozen=True, slots=True)
class Reading:
    """What to compare: the value, and the level that one multiple is; None where there is nothing to compare."""

    value: Decimal | None
    level: Decimal | None


def read_targets(
    *, organization: Organization, targets: Sequence[Target], now: datetime
) -> Iterator[tuple[Target, Reading]]:
    """Yield each target with its reading, in the given order; leave out those that cannot be read."""
    values = _read_values(organization, targets)
    for target in targets:
        value = values.get(target.key)
        if value is not None:
            yield target, read_target(target, value, now)


def read_target(target: Target, usage: Decimal, now: datetime) -> Reading:
    threshold = target.threshold
    match ThresholdKind(threshold.kind):
        case ThresholdKind.PROJECTED:
            return Reading(project(usage, period=target.period, now=now), threshold.value)
        case ThresholdKind.PERCENT:
            included = find_included_quantity(metric=threshold.metric, customer=target.customer, at=target.period.start)
            return Reading(usage, percent_of(included, threshold.value) if included else None)
        case _:
            return Reading(usage, threshold.value)


def percent_of(quantity: Decimal, percent: Decimal) -> Decimal:
    return WIDE.divide(WIDE.multiply(quantity, percent), Decimal(100))


def judge_target(target: Target, reading: Reading, state: ThresholdState, now: datetime) -> list[Crossing]:
    """Return what the target crosses now, and note in the state what was seen."""
    state.level = reading.level
    state.evaluated_at = now
    if reading.value is None:
        return []
    previous, state.value = state.value, reading.value
    if reading.level is None:
        return []
    judgement = judge(
        level=reading.level,
        is_recurring=target.threshold.is_recurring,
        previous=previous,
        current=reading.value,
        fired=state.fired,
        arming=state.arming,
        has_void=target.has_void,
    )
    state.fired, state.arming = judgement.fired, judgement.arming
    if judgement.skipped:
        logger.warning("multiples_skipped", threshold=target.threshold.pk, count=judgement.skipped)
    return [
        Crossing(
            organization_id=target.threshold.organization_id,
            threshold=target.threshold,
            metric=target.threshold.metric,
            customer=target.customer,
            period_start=target.period.start,
            period_end=target.period.end,
            multiple=multiple,
            arming=state.arming,
            threshold_code=target.threshold.code,
            threshold_value=WIDE.multiply(reading.level, Decimal(multiple)),
            previous_value=previous,
            value_at_cross=reading.value,
            triggered_at=now,
        )
        for multiple in judgement.multiples
    ]


def _read_values(organization: Organization, targets: Sequence[Target]) -> dict[tuple[int, int, datetime], Decimal]:
    """Return the usage of every target that can be read: one query per customer, or one over all where they are many.

    Thresholds on the same metric, period and filters share a read.
    """
    alike: dict[tuple[int, str, Span], list[Target]] = defaultdict(list)
    for target in targets:
        alike[target.threshold.metric_id, repr(sorted(target.threshold.filters.items())), target.period].append(target)
    values: dict[tuple[int, int, datetime], Decimal] = {}
    for group in alike.values():
        try:
            usage = _read_alike(organization, group)
        except InvalidInput as error:
            # A dimension that is gone, or a period that cuts an hour whose raw events are gone.
            logger.warning("threshold_unreadable", threshold=group[0].threshold.pk, reason=error.message)
            continue
        values.update((target.key, usage.get(target.customer.external_id, Decimal(0))) for target in group)
    return values


def _read_alike(organization: Organization, group: Sequence[Target]) -> dict[str | None, Decimal]:
    threshold, period = group[0].threshold, group[0].period
    _require_declared(threshold)
    customers = {target.customer.pk: target.customer for target in group}
    if len(customers) > MANY_CUSTOMERS:
        rows = queries.list_breakdown(
            organization=organization,
            metric=threshold.metric,
            start=period.start,
            end=period.end,
            group_by=["customer"],
            filters=threshold.filters,
        )
        return {row.group["customer"]: row.usage.value for row in rows}
    return {
        customer.external_id: queries.get_usage(
            organization=organization,
            metric=threshold.metric,
            start=period.start,
            end=period.end,
            customer_id=customer.pk,
            filters=threshold.filters,
        ).value
        for customer in customers.values()
    }


def _require_declared(threshold: Threshold) -> None:
    declared = {dimension["key"] for dimension in threshold.metric.dimensions}
    for key in threshold.filters:
        if key not in declared:
            raise InvalidInput.of(f"filter[{key}]", "The metric does not declare this dimension.", "unknown_dimension")
