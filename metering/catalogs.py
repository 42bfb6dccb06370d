"""Metric definitions as data, and the named sets of them that dialects and examples need.

To add a catalog, add an entry to `CATALOGS`: no other code knows a metric by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    name: str
    description: str
    metrics: tuple[MetricDefinition, ...] = field(default=())


def _flight_metric(
    code: str,
    aggregation: Aggregation,
    name: str,
    unit: str,
    value_property: str = "",
    thresholds: tuple[dict[str, Any], ...] = (),
) -> MetricDefinition:
    return MetricDefinition(
        code=code,
        aggregation=aggregation,
        name=name,
        unit=unit,
        event_type="flight",
        value_property=value_property,
        dimensions=tuple({"key": key, "values": None, "strict": False} for key in ("origin", "dest")),
        thresholds=thresholds,
    )


def _threshold(code: str, value: str, *, is_recurring: bool = False) -> dict[str, Any]:
    return {"code": code, "value": value, "recurring": is_recurring}


DEMO = Catalog(
    name="demo",
    description="Flights of one year from New York's airports: one event type that feeds five metrics.",
    metrics=(
        _flight_metric(
            "flights",
            Aggregation.COUNT,
            "Flights",
            "flight",
            thresholds=(_threshold("each_thousand", "1000", is_recurring=True),),
        ),
        _flight_metric(
            "air_miles", Aggregation.SUM, "Air miles", "mile", "distance", (_threshold("million_miles", "1000000"),)
        ),
        _flight_metric(
            "longest_hop", Aggregation.MAX, "Longest hop", "mile", "distance", (_threshold("across_an_ocean", "4500"),)
        ),
        _flight_metric("last_arrival_delay", Aggregation.LATEST, "Last arrival delay", "minute", "arr_delay"),
        _flight_metric("tail_numbers", Aggregation.COUNT_UNIQUE, "Tail numbers", "aircraft", "tailnum"),
    ),
)

CATALOGS = {catalog.name: catalog for catalog in (DEMO,)}
