"""The catalog behind the LaunchDarkly-style reports: one metric and event type for each kind of usage.

Dimensions bear the names of that API's parameters and hold the sender's own words: projects and environments by key.
Where a report knows a fixed set of values, another value is refused rather than counted where nobody would see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metering.catalogs.definition import Catalog, MetricDefinition
from metering.models import Aggregation

# The dimensions that are not free text.
_VALUES = {
    "anonymous": ["true", "false"],
    "category": ["browser", "mobile", "backend"],
    "direction": ["received", "published"],
    "sdkType": ["client", "server"],
    "source": ["client", "server", "browser", "mobile"],
}
_PLACE = ("projectKey", "environmentKey")
_CUSTOMER = "acme"


def _dimensions(*keys: str) -> tuple[dict[str, Any], ...]:
    return tuple({"key": key, "values": _VALUES.get(key), "strict": key in _VALUES} for key in keys)


def _total(code: str, name: str, unit: str, description: str, *dimensions: str) -> MetricDefinition:
    return MetricDefinition(
        code=code,
        aggregation=Aggregation.SUM,
        name=name,
        description=description,
        unit=unit,
        dimensions=_dimensions(*dimensions),
    )


def _distinct(code: str, name: str, unit: str, description: str, *dimensions: str) -> MetricDefinition:
    return MetricDefinition(
        code=code,
        aggregation=Aggregation.COUNT_UNIQUE,
        name=name,
        description=description,
        unit=unit,
        value_property="contextKey",
        dimensions=_dimensions(*dimensions),
    )


def _example(code: str, value: str | None = None, **properties: str) -> Mapping[str, Any]:
    event: dict[str, Any] = {"idempotency_key": f"{code}-1", "customer": _CUSTOMER, "type": code}
    if value is not None:
        event["value"] = value
    return event | {"properties": properties}


LAUNCHDARKLY = Catalog(
    name="launchdarkly",
    description="What the LaunchDarkly-style usage reports under /api/v2/usage are answered from.",
    metrics=(
        _distinct(
            "ld_contexts",
            "Contexts",
            "context",
            "Distinct context keys that SDKs evaluated flags for. Also the source of monthly active users.",
            *_PLACE,
            "contextKind",
            "sdkName",
            "sdkType",
            "sdkAppId",
            "anonymous",
            "category",
        ),
        _total(
            "ld_data_export_events",
            "Data export events",
            "event",
            "Events handed to an export destination.",
            *_PLACE,
            "eventKind",
            "destinationKind",
            "destinationId",
        ),
        _total(
            "ld_experimentation_events",
            "Experimentation events",
            "event",
            "Events that experiments received.",
            *_PLACE,
            "eventKey",
            "eventKind",
        ),
        _distinct(
            "ld_experimentation_keys",
            "Experimentation keys",
            "context key",
            "Distinct context keys of each experiment; reports add the experiments up.",
            *_PLACE,
            "experimentId",
        ),
        _total(
            "ld_service_connection_minutes",
            "Service connections",
            "minute",
            "Minutes for which instances of server-side SDKs were connected, with fractions.",
            *_PLACE,
            "connectionType",
            "relayVersion",
            "sdkName",
            "sdkVersion",
            "sdkType",
            "sdkAppId",
        ),
        _total(
            "ld_evaluations",
            "Flag evaluations",
            "evaluation",
            "Evaluations of a flag, by the variation that was served.",
            *_PLACE,
            "flagKey",
            "variation",
        ),
        _total("ld_events", "Events", "event", "Analytics events received from SDKs and published.", "direction"),
        _total(
            "ld_streams",
            "Streaming connections",
            "connection",
            "Streaming connections that SDKs opened.",
            "source",
            "sdkName",
            "sdkVersion",
        ),
        _total("ld_observability_errors", "Observability errors", "error", "Errors recorded.", "projectKey"),
        _total("ld_observability_logs", "Observability logs", "log", "Log records taken in.", "projectKey"),
        _total(
            "ld_observability_metrics", "Observability metrics", "data point", "Data points taken in.", "projectKey"
        ),
        _total("ld_observability_sessions", "Observability sessions", "session", "Sessions recorded.", "projectKey"),
        _total("ld_observability_traces", "Observability traces", "trace", "Traces taken in.", "projectKey"),
        _total("ld_vega_ai", "Vega AI", "run", "Runs of the AI assistant.", "projectKey"),
    ),
    examples=(
        _example(
            "ld_contexts",
            contextKey="user-8301",
            projectKey="default",
            environmentKey="production",
            contextKind="user",
            sdkName="JavaScript",
            sdkType="client",
            sdkAppId="storefront",
            anonymous="false",
            category="browser",
        ),
        _example(
            "ld_data_export_events",
            "250",
            projectKey="default",
            environmentKey="production",
            eventKind="feature",
            destinationKind="kinesis",
            destinationId="warehouse-1",
        ),
        _example(
            "ld_experimentation_events",
            "40",
            projectKey="default",
            environmentKey="production",
            eventKey="checkout-completed",
            eventKind="custom",
        ),
        _example(
            "ld_experimentation_keys",
            contextKey="user-8301",
            projectKey="default",
            environmentKey="production",
            experimentId="shorter-checkout",
        ),
        _example(
            "ld_service_connection_minutes",
            "59.75",
            projectKey="default",
            environmentKey="production",
            connectionType="sdk",
            relayVersion="8.10.1",
            sdkName="Go",
            sdkVersion="7.5.0",
            sdkType="server",
            sdkAppId="orders",
        ),
        _example(
            "ld_evaluations",
            "1200",
            projectKey="default",
            environmentKey="production",
            flagKey="new-checkout",
            variation="on",
        ),
        _example("ld_events", "5000", direction="received"),
        _example("ld_streams", "3", source="server", sdkName="Go", sdkVersion="7.5.0"),
        _example("ld_observability_errors", "2", projectKey="default"),
        _example("ld_observability_logs", "900", projectKey="default"),
        _example("ld_observability_metrics", "75", projectKey="default"),
        _example("ld_observability_sessions", "12", projectKey="default"),
        _example("ld_observability_traces", "310", projectKey="default"),
        _example("ld_vega_ai", "7", projectKey="default"),
    ),
)
