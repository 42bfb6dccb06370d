"""The catalog of Weave's billing-client: one total for each amount type that its callers are known to send.

The type is an open text on the wire; types that are not named here become metrics where the organization allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metering.catalogs.definition import Catalog, MetricDefinition
from metering.models import Aggregation


def _total(code: str, name: str, unit: str, description: str) -> MetricDefinition:
    return MetricDefinition(code=code, aggregation=Aggregation.SUM, name=name, unit=unit, description=description)


def _example(amount_type: str, value: int) -> Mapping[str, Any]:
    return {
        "idempotency_key": f"1234/report-1:{amount_type}",
        "customer": "acme",
        "type": amount_type,
        "value": value,
        "properties": {"report_id": "report-1"},
    }


WEAVE = Catalog(
    name="weave",
    description="The amounts that Weave's billing-client sends, each a total per customer.",
    metrics=(
        _total("container-seconds", "Container seconds", "second", "Seconds that containers ran, as reports saw them."),
        _total("node-seconds", "Node seconds", "second", "Seconds that nodes ran, as reports saw them."),
        _total("weavenet-seconds", "Weave Net seconds", "second", "Seconds that nodes were part of a Weave network."),
        _total("samples", "Samples", "sample", "Samples of time series that were written."),
        _total("metrics-node-seconds", "Metrics node seconds", "second", "Seconds that nodes were monitored."),
        _total("storage-bytes", "Storage bytes", "byte", "Bytes that were held, added up over the readings."),
    ),
    examples=(
        _example("container-seconds", 1234),
        _example("node-seconds", 3600),
        _example("weavenet-seconds", 60),
        _example("samples", 7),
        _example("metrics-node-seconds", 120),
        _example("storage-bytes", 1048576),
    ),
)
