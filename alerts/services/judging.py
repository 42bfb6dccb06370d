"""Measuring one customer's usage of one period against one threshold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import structlog

from accounts.models import Customer, Organization
from alerts.domain import Fall, ThresholdKind, judge
from alerts.models import Crossing, Threshold, ThresholdState
from alerts.queries.falls import list_falls
from alerts.queries.included import find_included_quantity
from alerts.queries.period_usage import list_period_values
from common.errors import InvalidInput
from common.numbers import WIDE
from metering.domain import Span, project

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A threshold, and whose usage of which period to measure against it."""

    threshold: Threshold
    customer: Customer
    period: Span
    # When the events happened that were voided since: what was told may be taken back.
    voided: frozenset[datetime] = frozenset()

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
    falls = _list_falls(target, reading, state)
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
        has_void=bool(target.voided),
        falls=falls,
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


def _list_falls(target: Target, reading: Reading, state: ThresholdState) -> Sequence[Fall]:
    """Return what voids did, where the value alone does not tell: it is as high as what was told, or higher."""
    if not target.voided or not state.fired or target.threshold.kind == ThresholdKind.PROJECTED:
        return ()
    if reading.value is None or reading.level is None or reading.value < reading.level:
        return ()
    return list_falls(
        threshold=target.threshold,
        customer=target.customer,
        period=target.period,
        voided=target.voided,
        since=state.evaluated_at,
    )


def _read_values(organization: Organization, targets: Sequence[Target]) -> dict[tuple[int, int, datetime], Decimal]:
    """Return the usage of every target that can be read.

    Targets of the same metric, period and filters share a read, whoever their customers are.
    """
    alike: dict[tuple[int, str, Span], list[Target]] = defaultdict(list)
    for target in targets:
        alike[target.threshold.metric_id, repr(sorted(target.threshold.filters.items())), target.period].append(target)
    values: dict[tuple[int, int, datetime], Decimal] = {}
    for group in alike.values():
        try:
            values.update(_read_alike(organization, group))
        except InvalidInput as error:
            # A dimension that is gone, or members whose raw events are.
            logger.warning("threshold_unreadable", threshold=group[0].threshold.pk, reason=error.message)
    return values


def _read_alike(
    organization: Organization, group: Sequence[Target]
) -> Iterator[tuple[tuple[int, int, datetime], Decimal]]:
    threshold, period = group[0].threshold, group[0].period
    _require_declared(threshold)
    usage = list_period_values(
        organization=organization,
        metric=threshold.metric,
        period=period,
        customer_ids={target.customer.pk for target in group},
        filters=threshold.filters,
    )
    return ((target.key, usage[target.customer.pk]) for target in group)


def _require_declared(threshold: Threshold) -> None:
    declared = {dimension["key"] for dimension in threshold.metric.dimensions}
    for key in threshold.filters:
        if key not in declared:
            raise InvalidInput.of(f"filter[{key}]", "The metric does not declare this dimension.", "unknown_dimension")
