"""The catalog of the usage-client dialect: every number that a server reports about itself, as one metric.

A report is a reading of gauges, so the metric keeps the latest value; the dimensions say which gauge of which server.
"""

from __future__ import annotations

from metering.catalogs.definition import Catalog, MetricDefinition
from metering.models import Aggregation

REPORTED_VALUE = "usage_client_value"

USAGE_CLIENT = Catalog(
    name="usage-client",
    description="What servers report through influxdata's usage-client: the latest value of each of their fields.",
    metrics=(
        MetricDefinition(
            code=REPORTED_VALUE,
            aggregation=Aggregation.LATEST,
            name="Reported values",
            description="The fields of servers' reports, by when the report came in. Choose one field of one server.",
            dimensions=tuple(
                {"key": key, "values": None, "strict": False}
                for key in ("product", "cluster", "server", "series", "field")
            ),
        ),
    ),
    examples=(
        {
            "idempotency_key": "usage-client-1",
            "customer": "clus1",
            "type": REPORTED_VALUE,
            "value": 87232,
            "properties": {
                "product": "influxdb",
                "cluster": "clus1",
                "server": "serv1",
                "series": "usage",
                "field": "num_series",
            },
        },
    ),
)
