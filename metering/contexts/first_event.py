"""How to send the first event: commands that work as they stand, but for the key."""

import json
from dataclasses import dataclass

from django.http import HttpRequest

from metering.models import Aggregation, Metric

EXAMPLE_CODE = "requests"


@dataclass(frozen=True, slots=True)
class FirstEvent:
    event_type: str
    has_metric: bool
    curl: str
    python: str


def get_first_event(request: HttpRequest, metric: Metric | None) -> FirstEvent:
    """Return the commands for a metric or, before there is any, for one that the reader is told to define."""
    base_url = request.build_absolute_uri("/").rstrip("/")
    event = _example_event(metric)
    body = json.dumps(event, ensure_ascii=False)
    shell_body = body.replace("'", "'\\''")
    return FirstEvent(
        event_type=str(event["type"]),
        has_metric=metric is not None,
        curl=(
            f"curl {base_url}/v1/events \\\n"
            '  -H "Authorization: Bearer $METERBOOK_API_KEY" \\\n'
            '  -H "Content-Type: application/json" \\\n'
            f"  -d '{shell_body}'"
        ),
        python=(
            "import os\n\n"
            "from meterbook import Client\n\n"
            f'with Client("{base_url}", os.environ["METERBOOK_API_KEY"]) as client:\n'
            f"    client.ingest([{body}])"
        ),
    )


def _example_event(metric: Metric | None) -> dict[str, object]:
    event: dict[str, object] = {
        "idempotency_key": "my-first-event",
        "customer": "cust_42",
        "type": metric.event_type if metric else EXAMPLE_CODE,
    }
    if metric is None:
        return event
    is_member = metric.aggregation == Aggregation.COUNT_UNIQUE
    if not metric.value_property and metric.aggregation != Aggregation.COUNT:
        event["value"] = "member-1" if is_member else "1"
    properties: dict[str, object] = {
        dimension["key"]: (dimension.get("values") or ["example"])[0] for dimension in metric.dimensions
    }
    if metric.value_property:
        properties[metric.value_property] = "member-1" if is_member else 1
    if properties:
        event["properties"] = properties
    return event
