"""The nine semantics that a naive rendering of such an API gets wrong, one test each (Unimeter's, and ours).

Each holds whether or not the worker has caught up, so most tests run both ways. Of the seventh only what metering
offers is here, that sums and thresholds are real quantities; crossings and their stream come with alerts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.test import Client

from accounts.models import Organization
from accounts.services import IssuedKey
from metering.models import Event, InboxEvent
from metering.services.inbox import replay_inbox
from tests.clients.web_server import WebServer, servers_on_test_database
from tests.metering.meter import Meter, encode_body, utc

NOON = "2026-11-20T12:00:00Z"
NOVEMBER = (utc(2026, 11, 1), utc(2026, 12, 1))
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def meter(org: Organization, now: datetime) -> Meter:
    return Meter(org, now)


@pytest.fixture(params=[False, True], ids=["before the worker", "after the worker"])
def settle(request: pytest.FixtureRequest, meter: Meter) -> Callable[[], None]:
    """Roll up what was sent so far, or leave it all to the tail of the reads."""

    def settle() -> None:
        if request.param:
            meter.roll_up()

    return settle


@pytest.fixture
def server(transactional_db: None, tmp_path: Path) -> Iterator[WebServer]:
    with servers_on_test_database(tmp_path) as servers:
        servers.web.start()
        yield servers.web


def event(key: str, value: Any = None, at: str = NOON, **fields: Any) -> dict[str, Any]:
    sent = {"idempotency_key": key, "customer": "ann", "type": "m", "value": value, "timestamp": at, **fields}
    return {name: content for name, content in sent.items() if content is not None}


def test_1_a_retry_is_counted_once_without_a_timestamp_and_after_a_restart(
    server: WebServer, meter: Meter, api_key: IssuedKey
) -> None:
    metric = meter.define("m", "count")
    bodies = [{"idempotency_key": "k", "customer": "ann", "type": "m"}, event("timed")]

    def send() -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {api_key.text}"}
        response = httpx.post(f"{server.url}/v1/events", json=bodies, headers=headers, trust_env=False)
        answer: dict[str, Any] = response.json()
        return answer

    first, retry = send(), send()
    server.kill()
    server.start()
    after_restart = send()
    meter.roll_up(at=datetime.now(UTC))
    after_rollup = send()

    assert (first["stored"], first["duplicates"]) == (2, 0)
    for answer in (retry, after_restart, after_rollup):
        assert (answer["stored"], answer["duplicates"], answer["rejected"]) == (0, 2, 0)
    assert meter.value(metric.code, utc(2020, 1, 1), utc(2100, 1, 1)) == 2


@pytest.mark.django_db
def test_2_coincident_operations_and_equal_values_stay_distinct_events(
    meter: Meter, settle: Callable[[], None]
) -> None:
    meter.define("m", "count_unique")
    meter.define("bytes", "sum", dimensions=["region"])

    meter.send_all(event("a1", "seat", operation="add"), event("a2", "seat", operation="remove"))
    meter.send_all(event("b1", "seat", customer="bob", operation="remove"), event("b2", "seat", customer="bob"))
    meter.send_all(
        event("c1", "5", type="bytes", properties={"region": "us"}),
        event("c2", "5", type="bytes", properties={"region": "eu"}),
        event("c3", "5", type="bytes"),
    )
    settle()

    # Of one member's operations at one instant the later arrival counts.
    assert meter.value("m", *NOVEMBER, customer="ann") == 0
    assert meter.value("m", *NOVEMBER, customer="bob") == 1
    assert meter.usage("m", *NOVEMBER).count == 4
    assert meter.usage("bytes", *NOVEMBER).count == 3
    assert meter.value("bytes", *NOVEMBER) == 15
    assert meter.breakdown("bytes", *NOVEMBER, "region") == {("us",): 5, ("eu",): 5, (None,): 5}


@pytest.mark.django_db
def test_3_filters_on_two_of_three_dimensions_give_the_true_sum(meter: Meter, settle: Callable[[], None]) -> None:
    meter.define("m", "sum", dimensions=["src", "dst", "tier"])

    meter.send_all(
        event("1", "1", properties={"src": "us", "dst": "eu", "tier": "free"}),
        event("2", "10", properties={"src": "us", "dst": "eu", "tier": "pro"}),
        event("3", "100", properties={"src": "eu", "dst": "us", "tier": "pro"}),
        event("4", "1000", properties={"src": "us", "dst": "eu"}),
        event("5", "10000", properties={"src": "us", "dst": "ap", "tier": "pro"}),
    )
    settle()

    def value(**filters: str) -> Decimal:
        return meter.value("m", *NOVEMBER, filters={key: [name] for key, name in filters.items()})

    assert value(src="us", dst="eu") == 1011
    assert value(src="eu", dst="us") == 100
    assert value(src="us", tier="pro") == 10010
    assert value(dst="eu", tier="pro") == 10
    assert value(src="us") == 11011
    assert value(src="us", dst="us") == 0


@pytest.mark.django_db
def test_4_a_range_counts_only_what_lies_in_it_and_a_member_once(meter: Meter, settle: Callable[[], None]) -> None:
    meter.define("m", "sum")
    meter.define("seats", "count_unique")

    meter.send_all(
        event("1", "1", at="2026-11-20T09:59:59.999999Z"),
        event("2", "10", at="2026-11-20T10:00:00Z"),
        event("3", "100", at="2026-11-20T10:29:59.999999Z"),
        event("4", "1000", at="2026-11-20T10:30:00Z"),
        event("5", "ada", type="seats", at="2026-10-31T23:59:59Z"),
        event("6", "ada", type="seats", at="2026-11-01T00:00:00Z"),
        event("7", "bob", type="seats", at="2026-11-15T00:00:00Z"),
    )
    settle()

    # Half an hour of a bucket of an hour, to the microsecond.
    assert meter.value("m", utc(2026, 11, 20, 10), utc(2026, 11, 20, 10, 30)) == 110
    assert meter.value("m", utc(2026, 11, 20, 10) - MICROSECOND, utc(2026, 11, 20, 10, 30) + MICROSECOND) == 1111
    assert meter.value("m", utc(2026, 11, 20, 10) + MICROSECOND, utc(2026, 11, 20, 10, 30)) == 100
    # Two months' distinct counts are 1 and 2, but of both together 2.
    october, november, december = utc(2026, 10, 1), utc(2026, 11, 1), utc(2026, 12, 1)
    assert meter.value("seats", october, november) == 1
    assert meter.value("seats", november, december) == 2
    assert meter.value("seats", october, december) == 2


@pytest.mark.django_db
def test_5_max_latest_and_distinct_survive_voids_and_late_events(meter: Meter, settle: Callable[[], None]) -> None:
    meter.define("peak", "max", event_type="m")
    meter.define("low", "min", event_type="m")
    meter.define("level", "latest", event_type="m")
    meter.define("total", "sum", event_type="m")
    meter.define("seats", "count_unique")

    def values() -> list[Decimal]:
        return [meter.value(code, *NOVEMBER) for code in ("peak", "low", "level", "total", "seats")]

    meter.send_all(
        event("1", "5", at="2026-11-20T10:00:00Z"),
        event("2", "9", at="2026-11-20T10:00:01Z"),
        event("3", "7", at="2026-11-20T10:00:00.5Z"),
        event("4", "ada", type="seats"),
        event("5", "bob", type="seats"),
    )
    settle()
    assert values() == [9, 5, 9, 21, 2]

    # Taking back the greatest, which also is the latest, gives the place to the next of each.
    meter.void("2")
    meter.void("4")
    assert values() == [7, 5, 7, 12, 1]

    # What arrives late takes its place in time, and a negative event takes the sum down.
    meter.send_all(
        event("6", "-20", at="2026-11-02T00:00:00Z"),
        event("7", "ada", type="seats", at="2026-11-02T00:00:00Z"),
        event("8", "bob", type="seats", at="2026-11-02T00:00:00Z", operation="remove"),
    )
    settle()
    assert values() == [7, -20, 7, -8, 2]


@pytest.mark.django_db
def test_6_latest_is_the_greatest_time_and_then_the_later_arrival(meter: Meter, settle: Callable[[], None]) -> None:
    meter.define("m", "latest")

    def send(key: str, value: str, at: str) -> Decimal:
        meter.send_all(event(key, value, at=at))
        settle()
        return meter.value("m", *NOVEMBER)

    assert send("1", "1", "2026-11-20T10:00:00Z") == 1
    assert send("2", "2", "2026-11-20T10:00:00.000001Z") == 2
    assert send("3", "3", "2026-11-20T10:00:00.000001Z") == 3, "of two at one instant, the later arrival"
    assert send("4", "4", "2026-11-20T10:00:00Z") == 3, "a late older reading changes nothing"
    assert send("5", "5", "2026-11-19T10:00:00Z") == 3
    meter.send_all(event("6", "6", at="2026-11-20T11:00:00Z"), event("7", "7", at="2026-11-20T11:00:00Z"))
    settle()
    assert meter.value("m", *NOVEMBER) == 7, "within a batch, its order"


@pytest.mark.django_db
def test_7_sums_and_thresholds_are_real_quantities_not_scaled_integers(
    meter: Meter, settle: Callable[[], None], api_client: Client
) -> None:
    definition = {
        "code": "m",
        "aggregation": "sum",
        "thresholds": [{"code": "cap", "value": "0.3"}, {"code": "far", "value": "0.300000000000000001"}],
    }
    created = api_client.post("/v1/metrics", encode_body(definition), content_type="application/json").json()
    meter.organization.refresh_from_db()

    meter.send_all(event("1", Decimal("0.1")), event("2", "0.2"))
    settle()

    window = "from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z"
    answer = api_client.get(f"/v1/usage?metric=m&customer=ann&{window}").json()
    cap, far = (Decimal(threshold["value"]) for threshold in created["thresholds"])
    assert answer["value"] == "0.3"
    assert far > Decimal(answer["value"]) >= cap


@pytest.mark.django_db
def test_8_a_batch_over_the_limit_is_refused_whole(meter: Meter, api_client: Client) -> None:
    meter.define("m", "count")
    batch = [event(f"k{place}") for place in range(5001)]
    lines = b"\n".join(encode_body(sent) for sent in batch)

    as_array = api_client.post("/v1/events", encode_body(batch), content_type="application/json")
    as_lines = api_client.post("/v1/events", lines, content_type="application/x-ndjson")
    queued = api_client.post("/v1/events?durability=async", encode_body(batch), content_type="application/json")

    for response in (as_array, as_lines, queued):
        assert (response.status_code, response.json()["code"]) == (413, "batch_too_large")
    assert not Event.objects.for_organization(meter.organization).exists()


@pytest.mark.django_db
def test_9_an_event_of_an_unknown_metric_waits_and_is_counted_once_the_metric_is_defined(
    meter: Meter, settle: Callable[[], None]
) -> None:
    def verdicts() -> list[str]:
        return [error.code for error in meter.send(event("k", "3"), event("untimed", "4", at=None)).errors]

    # Reported in any case; kept where the organization wants it, a retry as the same row.
    assert verdicts() == ["unknown_metric", "unknown_metric"]
    assert not InboxEvent.objects.for_organization(meter.organization).exists()
    meter.organization.is_unmatched_kept = True
    assert verdicts() == verdicts() == ["unknown_metric", "unknown_metric"]
    assert InboxEvent.objects.for_organization(meter.organization).count() == 2

    meter.define("m", "sum")
    later = meter.now + timedelta(days=40)
    replayed = replay_inbox(organization=meter.organization, ids=None, actor="test", now=later)
    again = replay_inbox(organization=meter.organization, ids=None, actor="test", now=later)
    settle()

    assert (replayed.counted, replayed.still_waiting, again.counted) == (2, 0, 0)
    # The one without a time of its own counts when it first arrived, not when it was replayed.
    assert meter.value("m", *NOVEMBER) == 7
    # And a retry of the sender's is a duplicate.
    assert meter.send(event("k", "3"), event("untimed", "4", at=None)).duplicates == 2
