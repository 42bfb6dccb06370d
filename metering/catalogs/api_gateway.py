"""The catalog of API gateways: every request is one event of type `api_request`, counted six ways.

Percentiles need no counter of their own: `api_latency` counts the requests of each latency bucket, and the bounds of a
bucket follow from its number alone (`metering.dialects.gateway.latency`).
"""

from __future__ import annotations

from metering.catalogs.definition import Catalog, MetricDefinition
from metering.models import Aggregation

EVENT_TYPE = "api_request"
_REQUEST = ("route_id", "method", "status")


def _metric(
    code: str, aggregation: Aggregation, name: str, unit: str, value_property: str, description: str, *dimensions: str
) -> MetricDefinition:
    return MetricDefinition(
        code=code,
        aggregation=aggregation,
        name=name,
        description=description,
        unit=unit,
        event_type=EVENT_TYPE,
        value_property=value_property,
        dimensions=tuple({"key": key, "values": None, "strict": False} for key in dimensions),
    )


API_GATEWAY = Catalog(
    name="api-gateway",
    description="What the analytics of requests under /admin/analytics are answered from.",
    metrics=(
        _metric("api_requests", Aggregation.COUNT, "Requests", "request", "", "Requests served.", *_REQUEST),
        _metric(
            "api_units",
            Aggregation.SUM,
            "Metered units",
            "unit",
            "metered_units",
            "Units of the requests, as the metering mode of their routes says.",
            *_REQUEST,
        ),
        _metric(
            "api_bytes",
            Aggregation.SUM,
            "Bytes",
            "byte",
            "total_bytes",
            "Bytes of the bodies of requests and responses.",
            *_REQUEST,
        ),
        _metric(
            "api_latency_ms",
            Aggregation.SUM,
            "Time to respond",
            "millisecond",
            "latency_ms",
            "Milliseconds that the responses took, added up.",
            *_REQUEST,
        ),
        _metric(
            "api_latency",
            Aggregation.COUNT,
            "Requests by latency",
            "request",
            "latency_bucket",
            "Requests by the bucket of their latency: a histogram from which percentiles are read.",
            *_REQUEST,
            "latency_bucket",
        ),
        _metric(
            "api_metering_errors",
            Aggregation.COUNT,
            "Metering errors",
            "request",
            "metering_error",
            "Requests whose metering expression gave no usable number.",
            "route_id",
            "metering_error",
        ),
    ),
    examples=(
        {
            "idempotency_key": "req-8301",
            "customer": "acme",
            "type": EVENT_TYPE,
            "properties": {
                "status": "200",
                "method": "GET",
                "latency_ms": 42,
                "latency_bucket": "94",
                "total_bytes": 2048,
                "request_bytes": 0,
                "response_bytes": 2048,
                "metered_units": 1,
                "metering_mode": "request",
                "metering_error": "missing_field",
                "route_id": "users-api",
                "path": "/users/17",
            },
        },
    ),
)
