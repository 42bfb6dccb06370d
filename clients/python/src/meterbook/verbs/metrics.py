"""Defining what is measured: `client.metrics.*` and `client.catalogs.*`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from meterbook.metrics import Aggregation, Catalog, Dimension, Metric, MetricPeriod, Threshold
from meterbook.wire import Call, Listing, Plan, one_object


def create(
    code: str,
    aggregation: Aggregation | str,
    *,
    name: str | None = None,
    description: str | None = None,
    unit: str | None = None,
    event_type: str | None = None,
    value_property: str | None = None,
    dimensions: Iterable[Dimension | str | Mapping[str, Any]] = (),
    period: MetricPeriod | Mapping[str, Any] | None = None,
    thresholds: Iterable[Threshold | Mapping[str, Any]] = (),
) -> Plan[Metric]:
    """Define a metric. Raises `AlreadyExistsError` when the code is taken, also by an identical metric.

    It listens to `event_type` (by default its own code) and aggregates the event's value, or `value_property`.
    A dimension may be given as its key alone.
    """
    body = {
        "code": code,
        "aggregation": str(aggregation),
        "name": name,
        "description": description,
        "unit": unit,
        "event_type": event_type,
        "value_property": value_property,
        "dimensions": [_dimension_json(dimension) for dimension in dimensions] or None,
        "period": period.as_json() if isinstance(period, MetricPeriod) else period,
        "thresholds": [_threshold_json(threshold) for threshold in thresholds] or None,
    }
    given = {field: value for field, value in body.items() if value is not None}
    return Metric.from_json((yield from one_object(Call.post("/v1/metrics", given))))


def list_all(*, archived: bool = False) -> Plan[list[Metric]]:
    """Return the metrics that count events now; with `archived`, those that no longer do."""
    call = Call.get("/v1/metrics", limit=1000, archived="true" if archived else None)
    return (yield from Listing(call, Metric.from_json).all())


def get(code: str) -> Plan[Metric]:
    """Return one metric. Raises `NotFoundError`."""
    return Metric.from_json((yield from one_object(Call.get(_path(code)))))


def update(
    code: str,
    *,
    name: str | None = None,
    description: str | None = None,
    unit: str | None = None,
    aggregation: Aggregation | str | None = None,
    event_type: str | None = None,
    value_property: str | None = None,
    dimensions: Iterable[Dimension | str | Mapping[str, Any]] | None = None,
    period: MetricPeriod | Mapping[str, Any] | None = None,
    thresholds: Iterable[Threshold | Mapping[str, Any]] | None = None,
) -> Plan[Metric]:
    """Change the given fields. Once events exist, what gives the numbers their meaning may not (`ConflictError`)."""
    body = {
        "name": name,
        "description": description,
        "unit": unit,
        "aggregation": None if aggregation is None else str(aggregation),
        "event_type": event_type,
        "value_property": value_property,
        "dimensions": None if dimensions is None else [_dimension_json(dimension) for dimension in dimensions],
        "period": period.as_json() if isinstance(period, MetricPeriod) else period,
        "thresholds": None if thresholds is None else [_threshold_json(threshold) for threshold in thresholds],
    }
    given = {field: value for field, value in body.items() if value is not None}
    call = Call.send("PATCH", _path(code), given, is_repeatable=True)
    return Metric.from_json((yield from one_object(call)))


def delete(code: str) -> Plan[None]:
    """Archive a metric: its history stays readable, new events get `unknown_metric`."""
    yield Call("DELETE", _path(code))


def list_catalogs() -> Plan[list[Catalog]]:
    """Return the catalogs that the server knows."""
    return (yield from Listing(Call.get("/v1/catalogs"), Catalog.from_json).all())


def install_catalog(name: str) -> Plan[list[Metric]]:
    """Create the metrics of a catalog that are not there yet, and return all of them. Idempotent."""
    call = Call.post(f"/v1/catalogs/{quote(name, safe='')}/install", {}, is_repeatable=True)
    body = yield from one_object(call)
    return [Metric.from_json(metric) for metric in body["metrics"]]


def _path(code: str) -> str:
    return f"/v1/metrics/{quote(code, safe='')}"


def _dimension_json(dimension: Dimension | str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(dimension, str):
        return {"key": dimension}
    return dimension.as_json() if isinstance(dimension, Dimension) else dict(dimension)


def _threshold_json(threshold: Threshold | Mapping[str, Any]) -> dict[str, Any]:
    return threshold.as_json() if isinstance(threshold, Threshold) else dict(threshold)
