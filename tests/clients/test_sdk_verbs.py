"""The SDK's verbs against the real server, over HTTP."""

from datetime import UTC, datetime
from decimal import Decimal

from meterbook import Client, Event, Period

NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


def test_smoke(client: Client) -> None:
    client.metrics.create("compute_seconds", "sum", dimensions=["region"])
    result = client.ingest(Event(customer="c", metric="compute_seconds", value=Decimal("1.5"), properties={"region": "eu"}))
    assert result.stored == 1
    print(result)
    print(client.query(metric="compute_seconds"))
    print(client.breakdown(metric="compute_seconds", group_by=["region", "customer"]))
    print(client.series(metric="compute_seconds"))
    print(list(client.list_events()))
