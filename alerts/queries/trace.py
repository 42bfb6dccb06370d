"""Why a threshold fired, or did not: what is compared now, what the last evaluation saw, and what was told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from accounts.models import Customer
from alerts.domain import ThresholdKind, ThresholdOrigin
from alerts.models import Crossing, Threshold, ThresholdState
from alerts.payloads import crossing_json
from alerts.queries.included import find_included_quantity
from alerts.queries.period_usage import list_period_values
from alerts.queries.quotas import list_own_quotas
from common.errors import InvalidInput
from common.numbers import WIDE, exact_text
from metering import queries
from metering.domain import Span, project


@dataclass(frozen=True, slots=True)
class Trace:
    """The evaluation of one threshold for one customer in the current period, in numbers and in a sentence.

    `outcome` is `fired`, `below`, `waiting` (reached, and the next evaluation will tell), `silent`, `sending`, or why
    there is nothing to compare: `no_included_quantity`, `too_early_to_project`, `overruled` (a warning of everybody's
    quota, for a customer with a quota of its own).
    """

    threshold: Threshold
    customer: Customer | None
    period: Span
    usage: Decimal
    value: Decimal | None
    level: Decimal | None
    state: ThresholdState | None
    crossings: list[Crossing]
    outcome: str
    explanation: str

    def as_json(self) -> dict[str, Any]:
        return {
            "threshold": {"id": str(self.threshold.pk), "code": self.threshold.code, "kind": self.threshold.kind},
            "customer": self.customer.external_id if self.customer else None,
            "metric": self.threshold.metric.code,
            "period": {"start": self.period.start, "end": self.period.end},
            "usage": exact_text(self.usage),
            "value": None if self.value is None else exact_text(self.value),
            "level": None if self.level is None else exact_text(self.level),
            "outcome": self.outcome,
            "explanation": self.explanation,
            "last_evaluation": _state_json(self.state),
            "crossings": [crossing_json(crossing) for crossing in self.crossings],
        }


def _state_json(state: ThresholdState | None) -> dict[str, Any] | None:
    if state is None:
        return None
    return {
        "evaluated_at": state.evaluated_at,
        "value": exact_text(state.value),
        "level": None if state.level is None else exact_text(state.level),
        "fired_multiple": state.fired,
        "armed_again": state.arming,
    }


def trace_threshold(*, threshold: Threshold, customer: Customer | None, now: datetime) -> Trace:
    """Return the trace in the current period. Raises `InvalidInput` where the threshold is about another customer,
    or about each of them and none is named."""
    if threshold.kind == ThresholdKind.SILENCE:
        return _trace_silence(threshold, now)
    customer = _require_customer(threshold, customer)
    period = queries.current_period(
        metric=threshold.metric, organization=threshold.organization, customer=customer, at=now
    )
    usage = list_period_values(
        organization=threshold.organization,
        metric=threshold.metric,
        period=period,
        customer_ids=[customer.pk],
        filters=threshold.filters,
    )[customer.pk]
    states = ThresholdState.objects.for_organization(threshold.organization).filter(
        threshold=threshold, customer=customer, period_start=period.start
    )
    state = states.first()
    crossings = _list_crossings(threshold, customer, period)
    value, level = _compared(threshold, customer, usage, period, now)
    if _is_overruled(threshold, customer):
        outcome, explanation = "overruled", "Not measured: the customer's own quota comes before the metric's."
    else:
        outcome, explanation = _explain(threshold, value, level, state, crossings)
    return Trace(threshold, customer, period, usage, value, level, state, crossings, outcome, explanation)


def _require_customer(threshold: Threshold, customer: Customer | None) -> Customer:
    if threshold.customer is not None:
        if customer is not None and customer.pk != threshold.customer_id:
            raise InvalidInput.of("customer", "The threshold is about another customer.", "other_customer")
        return threshold.customer
    if customer is None:
        raise InvalidInput.of("customer", "The threshold is about each customer; name one.", "required")
    return customer


def _is_overruled(threshold: Threshold, customer: Customer) -> bool:
    """Tell whether it warns of a quota of everybody's, and the customer has one of its own."""
    if threshold.origin != ThresholdOrigin.QUOTA or threshold.customer_id is not None:
        return False
    own = list_own_quotas(organization=threshold.organization, customer_ids=[customer.pk])
    return (threshold.metric_id, customer.pk) in own


def _list_crossings(threshold: Threshold, customer: Customer | None, period: Span) -> list[Crossing]:
    crossings = Crossing.objects.for_organization(threshold.organization_id).filter(
        threshold=threshold, customer=customer, period_start=period.start
    )
    return list(crossings.select_related("customer", "metric").order_by("offset"))


def _compared(
    threshold: Threshold, customer: Customer, usage: Decimal, period: Span, now: datetime
) -> tuple[Decimal | None, Decimal | None]:
    """Return the value and the level that an evaluation would compare now."""
    if threshold.kind == ThresholdKind.PROJECTED:
        return project(usage, period=period, now=now), threshold.value
    if threshold.kind == ThresholdKind.PERCENT:
        included = find_included_quantity(metric=threshold.metric, customer=customer, at=period.start)
        if not included:
            return usage, None
        return usage, WIDE.divide(WIDE.multiply(included, threshold.value), Decimal(100))
    return usage, threshold.value


def _explain(
    threshold: Threshold,
    value: Decimal | None,
    level: Decimal | None,
    state: ThresholdState | None,
    crossings: list[Crossing],
) -> tuple[str, str]:
    if level is None:
        return "no_included_quantity", "Did not fire: no plan says how much of the metric the customer has included."
    if value is None:
        return "too_early_to_project", "Did not fire: too little of the period has passed to project its end."
    fired = state.fired if state else 0
    next_level = WIDE.multiply(level, Decimal(fired + 1 if threshold.is_recurring else 1))
    told = f"told at offset {crossings[-1].offset}" if crossings else "not told"
    if fired and not threshold.is_recurring:
        at_cross = crossings[-1].value_at_cross if crossings else value
        return "fired", f"Fired: {_text(at_cross)} reached {_text(level)}, {told}. It fires once per period."
    if value >= next_level:
        return (
            "waiting",
            f"{_text(value)} has reached {_text(next_level)}; the next evaluation, within seconds, tells it.",
        )
    missing = _text(WIDE.subtract(next_level, value))
    if fired:
        return "fired", f"Fired {fired} times, last {told}. The next is at {_text(next_level)}: {missing} to go."
    if crossings:
        return "below", f"Armed again: a void took the value to {_text(value)}, {missing} below {_text(level)}."
    return "below", f"Did not fire: {_text(value)} of {_text(level)}, {missing} to go."


def _text(value: Decimal) -> str:
    return exact_text(value)


def _trace_silence(threshold: Threshold, now: datetime) -> Trace:
    from alerts.services.silence import find_last_sign

    since = find_last_sign(organization=threshold.organization, threshold=threshold, now=now)
    period = Span(since, now)
    crossings = _list_crossings(threshold, threshold.customer, period)
    seconds = Decimal(int((now - since).total_seconds()))
    if seconds >= threshold.value:
        outcome, explanation = "silent", f"Nothing came for {seconds} s; {exact_text(threshold.value)} s are too long."
    else:
        outcome, explanation = (
            "sending",
            f"Did not fire: nothing came for {seconds} s; {exact_text(threshold.value)} s are too long.",
        )
    return Trace(
        threshold, threshold.customer, period, seconds, seconds, threshold.value, None, crossings, outcome, explanation
    )
