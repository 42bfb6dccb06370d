"""The catalog of the demo: flights, counted in five ways."""

from __future__ import annotations

from typing import Any

from metering.catalogs.definition import Catalog, MetricDefinition
from metering.models import Aggregation


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
    examples=(
        {
            "idempotency_key": "flight-1545",
            "customer": "UA",
            "type": "flight",
            "properties": {"origin": "EWR", "dest": "IAH", "distance": 1400, "arr_delay": 11, "tailnum": "N14228"},
        },
    ),
)
