"""Admission: what is wrong with an event, and the exact row it becomes. Pure, and the hot loop of ingest.

An event feeds the metrics that listen to its type. It is admitted when it feeds at least one of them: a metric
whose value property is absent from the event is simply not fed, but an event that feeds none is refused
(`value_required`), because accepted must mean counted.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from common.times import parse_time
from metering.incoming import IncomingEvent, MalformedEvent, QueuedEvent
from metering.models import Aggregation, Metric, Operation

MAX_KEY_CHARACTERS = 256
MAX_CUSTOMER_CHARACTERS = 256
MAX_MEMBER_CHARACTERS = 256
MAX_PROPERTIES = 64
MAX_PROPERTIES_BYTES = 8192
MAX_FUTURE = timedelta(minutes=5)
# A quantity has at most so many digits before and after the point: more than any currency or byte count needs,
# and few enough that sums of billions of them stay small rows.
MAX_INTEGER_DIGITS = 30
MAX_FRACTION_DIGITS = 18
# A number among the properties may be longer than a quantity, but not so long that jsonb stores kilobytes for "1e9999".
MAX_PROPERTY_DIGITS = 60

DECIMAL_TEXT = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,2})?\Z", re.ASCII)
_properties_encoder = msgspec.json.Encoder(decimal_format="number")
_INT64 = range(-(2**63), 2**63)


class Refusal(Exception):
    """Why one event is refused: a code of the contract, the field, and a sentence."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(message)
        self.code, self.field, self.message = code, field, message


@dataclass(frozen=True, slots=True)
class EventError:
    """The verdict on one refused event of a request."""

    index: int
    idempotency_key: str | None
    code: str
    field: str
    message: str

    def as_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "idempotency_key": self.idempotency_key,
            "code": self.code,
            "field": self.field,
            "message": self.message,
        }


class AdmittedEvent(msgspec.Struct):
    """An event ready to be stored: every field examined, quantities as exact decimal text."""

    index: int
    key: str
    customer: str
    feed_id: int
    occurred_at: datetime
    has_own_time: bool
    operation: int
    value: str | None
    member: str | None
    properties: bytes | None


@dataclass(frozen=True, slots=True)
class StrictDimension:
    key: str
    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """What the metrics that listen to one event type ask of an event, compiled once per change of the metrics."""

    feed_id: int
    metrics: tuple[Metric, ...]
    # A metric that counts events whatever their value: every event of the type feeds it.
    is_always_fed: bool
    # Whether a metric aggregates, or counts as a member, the event's own value.
    takes_own_value: bool
    takes_own_member: bool
    value_properties: frozenset[str]
    member_properties: frozenset[str]
    # Properties whose presence is what a count metric counts.
    presence_properties: frozenset[str]
    strict_dimensions: tuple[StrictDimension, ...]

    @classmethod
    def of(cls, feed_id: int, metrics: Sequence[Metric]) -> FeedPlan:
        uniques = [metric for metric in metrics if metric.aggregation == Aggregation.COUNT_UNIQUE]
        counts = [metric for metric in metrics if metric.aggregation == Aggregation.COUNT]
        numbers = [metric for metric in metrics if metric not in uniques and metric not in counts]
        is_always_fed = any(not metric.value_property for metric in counts)
        takes_own_member = any(not metric.value_property for metric in uniques)
        return cls(
            feed_id=feed_id,
            metrics=tuple(metrics),
            is_always_fed=is_always_fed,
            # Beside a metric that counts the value as a member, a plain count does not insist on a number.
            takes_own_value=any(not metric.value_property for metric in numbers)
            or (is_always_fed and not takes_own_member),
            takes_own_member=takes_own_member,
            value_properties=frozenset(metric.value_property for metric in numbers if metric.value_property),
            presence_properties=frozenset(metric.value_property for metric in counts if metric.value_property),
            member_properties=frozenset(metric.value_property for metric in uniques if metric.value_property),
            strict_dimensions=tuple(
                StrictDimension(dimension["key"], frozenset(dimension["values"]))
                for metric in metrics
                for dimension in metric.dimensions
                if dimension.get("strict") and dimension.get("values")
            ),
        )

    def feeds(self, metric: Metric, event: IncomingEvent) -> bool:
        """Tell whether an admitted event of this feed counts in one of its metrics."""
        if metric.value_property:
            return metric.value_property in (event.properties or {})
        return metric.aggregation == Aggregation.COUNT or event.value is not None


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """Everything that admission needs to know besides the events."""

    plans: dict[str, FeedPlan]
    now: datetime
    # How long after it happened an event may arrive; None: any time.
    late_limit: timedelta | None = None
    # A key bound to one customer may send for it alone.
    only_customer: str | None = None
    # A key bound to metrics may send only events that feed one of them; empty: all.
    only_metrics: frozenset[str] = frozenset()


def admit_events(
    events: Iterable[IncomingEvent | MalformedEvent], rules: AdmissionRules
) -> tuple[list[AdmittedEvent], list[EventError]]:
    """Examine every event; return the rows to store and the refusals, each with its index in the request."""
    admitted: list[AdmittedEvent] = []
    errors: list[EventError] = []
    for index, event in enumerate(events):
        try:
            admitted.append(admit_event(index, event, rules))
        except Refusal as refusal:
            errors.append(EventError(index, event.idempotency_key, refusal.code, refusal.field, refusal.message))
    return admitted, errors


def admit_event(index: int, event: IncomingEvent | MalformedEvent, rules: AdmissionRules) -> AdmittedEvent:
    if isinstance(event, MalformedEvent):
        raise Refusal(event.code or _code_of_malformed(event.field), event.field, event.message)
    key = event.idempotency_key
    if key is None:
        # Kept on the event: the answer and a retry after a race must speak of the same key.
        key = event.idempotency_key = secrets.token_hex(16)
    elif not key or len(key) > MAX_KEY_CHARACTERS or "\x00" in key:
        raise Refusal("invalid_key", "idempotency_key", f"A key has 1 to {MAX_KEY_CHARACTERS} characters, no NUL.")
    plan = _find_plan(event, rules)
    customer = event.customer
    if not customer or len(customer) > MAX_CUSTOMER_CHARACTERS or "\x00" in customer:
        raise Refusal(
            "invalid_customer", "customer", f"A customer's id has 1 to {MAX_CUSTOMER_CHARACTERS} characters, no NUL."
        )
    if rules.only_customer is not None and customer != rules.only_customer:
        raise Refusal("invalid_customer", "customer", "This API key is bound to another customer.")
    properties = event.properties
    encoded = _encode_properties(properties) if properties else None
    operation = _read_operation(event.operation, plan)
    value, member = _read_values(event, plan)
    if plan.strict_dimensions and properties:
        _check_strict_dimensions(plan.strict_dimensions, properties)
    arrived_at = event.arrived_at if type(event) is QueuedEvent and event.arrived_at else rules.now
    timestamp = event.timestamp
    return AdmittedEvent(
        index,
        key,
        customer,
        plan.feed_id,
        arrived_at if timestamp is None else _read_timestamp(timestamp, arrived_at, rules.late_limit),
        timestamp is not None,
        operation,
        value,
        member,
        encoded,
    )


# --- the fields, one by one -----------------------------------------------------------------------------------


def _code_of_malformed(field: str) -> str:
    known = {
        "idempotency_key": "invalid_key",
        "customer": "invalid_customer",
        "type": "unknown_metric",
        "metric": "unknown_metric",
        "operation": "invalid_operation",
        "properties": "invalid_property",
        "timestamp": "invalid_timestamp",
        "value": "invalid_value",
    }
    return known.get(field.partition("[")[0], "invalid_event")


def _find_plan(event: IncomingEvent, rules: AdmissionRules) -> FeedPlan:
    named = event.type
    if named is None:
        named = event.metric
        if named is None:
            raise Refusal("unknown_metric", "type", "Name the event's `type` (or its alias `metric`).")
    elif event.metric is not None:
        raise Refusal("unknown_metric", "metric", "Give `type` or its alias `metric`, not both.")
    plan = rules.plans.get(named)
    if plan is None:
        field = "type" if event.type is not None else "metric"
        raise Refusal("unknown_metric", field, f"No active metric listens to events of type {named[:100]!r}.")
    if rules.only_metrics and not any(metric.code in rules.only_metrics for metric in plan.metrics):
        raise Refusal("unknown_metric", "type", "This API key is bound to other metrics.")
    return plan


def _read_operation(operation: str | None, plan: FeedPlan) -> int:
    if operation is None or operation == "add":
        return Operation.ADD.value
    if operation != "remove":
        raise Refusal("invalid_operation", "operation", "An operation is `add` or `remove`.")
    if not (plan.takes_own_member or plan.member_properties):
        raise Refusal("invalid_operation", "operation", "Only count_unique metrics understand `remove`.")
    return Operation.REMOVE.value


def _read_values(event: IncomingEvent, plan: FeedPlan) -> tuple[str | None, str | None]:
    """Return the own value as decimal text and as a member, as far as the plan takes them; check the properties."""
    own, value, member = event.value, None, None
    is_fed = plan.is_always_fed
    if own is not None:
        if plan.takes_own_value:
            value, is_fed = _decimal_text(own, "value"), True
        if plan.takes_own_member:
            member, is_fed = _member_text(own, "value"), True
        elif not plan.takes_own_value:
            # No metric takes it, but it is part of what was sent: kept where it is a number, so that the event
            # reads back as it was, and so that a retry with another value is a conflict.
            value = _decimal_text_or_none(own)
    properties = event.properties
    if properties:
        for name in plan.value_properties:
            if name in properties:
                _decimal_text(properties[name], f"properties.{name}")
                is_fed = True
        for name in plan.member_properties:
            if name in properties:
                _member_text(properties[name], f"properties.{name}")
                is_fed = True
        is_fed = is_fed or not plan.presence_properties.isdisjoint(properties)
    if not is_fed:
        names = sorted(plan.value_properties | plan.member_properties | plan.presence_properties)
        field = f"properties.{names[0]}" if names and not (plan.takes_own_value or plan.takes_own_member) else "value"
        raise Refusal("value_required", field, "No metric of this type finds the value that it aggregates.")
    return value, member


def _decimal_text(value: Any, field: str) -> str:
    """Return the number as text that PostgreSQL reads as the same number; nothing passes through a float."""
    if type(value) is int:
        if -(10**15) < value < 10**15:  # the usual case, without a Decimal
            return str(value)
        number = Decimal(value)
    elif type(value) is str:
        if not DECIMAL_TEXT.match(value):
            raise Refusal("invalid_value", field, 'A value is a number or a decimal string like "12.5".')
        if len(value) <= MAX_FRACTION_DIGITS and "e" not in value and "E" not in value:
            return value
        number = Decimal(value)
    elif type(value) is Decimal:
        number = value
    else:
        raise Refusal("invalid_value", field, 'A value is a number or a decimal string like "12.5".')
    if number and (number.adjusted() >= MAX_INTEGER_DIGITS or _fraction_digits(number) > MAX_FRACTION_DIGITS):
        raise Refusal(
            "invalid_value",
            field,
            f"A value has at most {MAX_INTEGER_DIGITS} digits before the point and {MAX_FRACTION_DIGITS} after it.",
        )
    return format(number, "f") if number else "0"


def _decimal_text_or_none(value: Any) -> str | None:
    try:
        return _decimal_text(value, "value")
    except Refusal:
        return None


def _fraction_digits(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # JSON has no NaN and the text pattern none
    return max(0, -exponent)


def _member_text(value: Any, field: str) -> str:
    if type(value) is int or (type(value) is Decimal and value.as_tuple().exponent == 0):
        value = str(value)  # an integer beyond 64 bits arrives as a Decimal where it is a property
    if type(value) is not str or not value or len(value) > MAX_MEMBER_CHARACTERS or "\x00" in value:
        raise Refusal(
            "invalid_value", field, f"A member is an integer or a string of 1 to {MAX_MEMBER_CHARACTERS} characters."
        )
    return value


def _encode_properties(properties: dict[str, Any]) -> bytes:
    if len(properties) > MAX_PROPERTIES:
        raise Refusal("invalid_property", "properties", f"An event has at most {MAX_PROPERTIES} properties.")
    for name, value in properties.items():
        kind = type(value)
        if kind is str:
            if "\x00" in value:
                raise Refusal("invalid_property", f"properties.{name}", "A string may not hold NUL.")
        elif kind is int:
            if value not in _INT64:
                # The encoder knows 64-bit integers only; as a decimal the digits are kept.
                properties[name] = _bounded_number(Decimal(value), name)
        elif kind is Decimal:
            _bounded_number(value, name)
        elif kind is not bool:
            raise Refusal("invalid_property", f"properties.{name}", "A property is a string, a number or a boolean.")
        if "\x00" in name:
            raise Refusal("invalid_property", "properties", "A property's name may not hold NUL.")
    encoded = _properties_encoder.encode(properties)
    if len(encoded) > MAX_PROPERTIES_BYTES:
        raise Refusal("invalid_property", "properties", f"Properties take at most {MAX_PROPERTIES_BYTES} bytes.")
    return encoded


def _bounded_number(number: Decimal, name: str) -> Decimal:
    # Zeros as well: PostgreSQL refuses a zero with twenty thousand decimals.
    if max(abs(number.adjusted()), _fraction_digits(number)) > MAX_PROPERTY_DIGITS:
        raise Refusal("invalid_property", f"properties.{name}", "The number has too many digits.")
    return number


def _check_strict_dimensions(dimensions: Iterable[StrictDimension], properties: dict[str, Any]) -> None:
    for dimension in dimensions:
        if dimension.key in properties and dimension_text(properties[dimension.key]) not in dimension.values:
            raise Refusal(
                "invalid_dimension_value", f"properties.{dimension.key}", "The metric does not list this value."
            )


def dimension_text(value: Any) -> str:
    """Return a property as the text under which it groups, the same that `jsonb ->>` gives."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    return value if type(value) is str else format(value, "f") if type(value) is Decimal else str(value)


def _read_timestamp(timestamp: Any, arrived_at: datetime, late_limit: timedelta | None) -> datetime:
    try:
        occurred_at = parse_time(timestamp)
    except ValueError as error:
        raise Refusal("invalid_timestamp", "timestamp", str(error)) from None
    if occurred_at > arrived_at + MAX_FUTURE:
        raise Refusal("timestamp_in_future", "timestamp", "The time lies more than 5 minutes in the future.")
    if late_limit is not None and occurred_at < arrived_at - late_limit:
        raise Refusal("too_late", "timestamp", f"Events are taken up to {late_limit.days} days after they happened.")
    return occurred_at
