"""Metrics as the server defines them: what is measured and how it adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from meterbook.periods import optional_time
from meterbook.quantities import Quantity, decimal_text, to_decimal


class Aggregation(StrEnum):
    """How the values of a metric combine."""

    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    MIN = "min"
    LATEST = "latest"
    COUNT_UNIQUE = "count_unique"


@dataclass(frozen=True, slots=True)
class Dimension:
    """A property by which usage may be split. With `values`, others count under `(other)`, or are refused if strict."""

    key: str
    values: tuple[str, ...] | None = None
    strict: bool = False

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"key": self.key}
        if self.values is not None:
            body["values"] = list(self.values)
        if self.strict:
            body["strict"] = True
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Dimension:
        values = body.get("values")
        return cls(body["key"], None if values is None else tuple(values), bool(body.get("strict")))


@dataclass(frozen=True, slots=True)
class MetricPeriod:
    """The period over which a metric accumulates. Make one with the class methods."""

    type: str
    billing_cycle_day: int | None = None
    days: int | None = None

    @classmethod
    def calendar(cls, billing_cycle_day: int = 1) -> MetricPeriod:
        """Months, from this day of the month (1 to 28) to the day before it in the next."""
        return cls("calendar", billing_cycle_day=billing_cycle_day)

    @classmethod
    def fixed(cls, days: int = 30) -> MetricPeriod:
        """Windows of so many days, anchored at the Unix epoch."""
        return cls("fixed", days=days)

    @classmethod
    def day(cls) -> MetricPeriod:
        return cls("day")

    @classmethod
    def week(cls) -> MetricPeriod:
        """ISO weeks: from Monday."""
        return cls("week")

    def as_json(self) -> dict[str, Any]:
        fields = {"type": self.type, "billing_cycle_day": self.billing_cycle_day, "days": self.days}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> MetricPeriod:
        return cls(body["type"], body.get("billing_cycle_day"), body.get("days"))


@dataclass(frozen=True, slots=True)
class Threshold:
    """A value whose crossing is worth telling; `recurring` tells at every further multiple too."""

    code: str
    value: Decimal
    recurring: bool = False

    def __init__(self, code: str, value: Quantity, recurring: bool = False) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "value", to_decimal(value))
        object.__setattr__(self, "recurring", recurring)

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "value": decimal_text(self.value), "recurring": self.recurring}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Threshold:
        return cls(body["code"], body["value"], bool(body.get("recurring")))


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. It listens to `event_type`; `value_property` empty means the event's own value."""

    code: str
    aggregation: Aggregation
    event_type: str
    name: str
    description: str
    unit: str
    value_property: str | None
    dimensions: tuple[Dimension, ...]
    period: MetricPeriod
    thresholds: tuple[Threshold, ...]
    created_at: datetime | None
    archived_at: datetime | None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Metric:
        return cls(
            code=body["code"],
            aggregation=Aggregation(body["aggregation"]),
            event_type=body.get("event_type") or body["code"],
            name=body.get("name") or "",
            description=body.get("description") or "",
            unit=body.get("unit") or "",
            value_property=body.get("value_property") or None,
            dimensions=tuple(Dimension.from_json(dimension) for dimension in body.get("dimensions") or ()),
            period=MetricPeriod.from_json(body["period"]),
            thresholds=tuple(Threshold.from_json(threshold) for threshold in body.get("thresholds") or ()),
            created_at=optional_time(body.get("created_at")),
            archived_at=optional_time(body.get("archived_at")),
        )


@dataclass(frozen=True, slots=True)
class Catalog:
    """A named set of metric definitions that the server can install for an organization."""

    name: str
    description: str
    metrics: tuple[str, ...]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Catalog:
        return cls(body["name"], body.get("description") or "", tuple(body["metrics"]))
