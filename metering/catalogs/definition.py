"""What a metric and a catalog of metrics are, as data that belongs to no organization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metering.models import Aggregation, PeriodType


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """What a metric is, independent of any organization. `event_type` defaults to the code."""

    code: str
    aggregation: Aggregation
    name: str = ""
    description: str = ""
    unit: str = ""
    event_type: str = ""
    value_property: str = ""
    # [{"key", "values": [...] | None, "strict": bool}]
    dimensions: tuple[dict[str, Any], ...] = ()
    period_type: PeriodType = PeriodType.CALENDAR
    billing_cycle_day: int = 1
    period_days: int = 30
    # [{"code", "value", "recurring"}]
    thresholds: tuple[dict[str, Any], ...] = ()

    def as_fields(self) -> dict[str, Any]:
        """Return the model's field values."""
        return {
            "code": self.code,
            "aggregation": self.aggregation,
            "name": self.name,
            "description": self.description,
            "unit": self.unit,
            "event_type": self.event_type or self.code,
            "value_property": self.value_property,
            "dimensions": list(self.dimensions),
            "period_type": self.period_type,
            "billing_cycle_day": self.billing_cycle_day,
            "period_days": self.period_days,
            "thresholds": list(self.thresholds),
        }


@dataclass(frozen=True, slots=True)
class Catalog:
    """A named set of metrics.

    `examples` holds one event for every event type that the metrics listen to, as a client sends it to
    `POST /v1/events`. Without a timestamp: it counts when it arrives.
    """

    name: str
    description: str
    metrics: tuple[MetricDefinition, ...]
    examples: tuple[Mapping[str, Any], ...] = ()
