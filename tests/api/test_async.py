"""`durability=async`: accepted into Redis, stored once by the drain, whatever happens in between."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone
from redis.exceptions import ConnectionError as RedisConnectionError

from metering.models import Event
from metering.services import queue
from metering.services.queue import drain_queue
from tests.api.conftest import Api
from tests.metering.meter import Meter, encode_body, utc

pytestmark = pytest.mark.django_db

ALWAYS = (utc(2020, 1, 1), utc(2100, 1, 1))
ASYNC = "/v1/events?durability=async"


@pytest.fixture(autouse=True)
def _metric(meter: Meter, empty_queue: None) -> None:
    meter.define("m", "sum", dimensions=["size"])


def event(key: str, value: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"idempotency_key": key, "customer": "ann", "type": "m", "value": value, **fields}


def drain() -> int:
    return drain_queue(now=timezone.now())


def test_accepted_events_are_stored_by_the_drain_once(api: Api, meter: Meter) -> None:
    answer = api.post(ASYNC, [event("a"), event("b"), event("bad", "x")], status=202)

    assert (answer["accepted"], answer["rejected"]) == (2, 1)
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [(2, "invalid_value")]
    assert meter.value("m", *ALWAYS) == 0
    assert (drain(), drain()) == (2, 0)
    assert meter.value("m", *ALWAYS) == 2
    assert queue.count_waiting() == 0


def test_nothing_acceptable_is_422(api: Api) -> None:
    assert api.refuse("POST", ASYNC, event("bad", "x"))[:2] == (422, "invalid_value")
    assert queue.count_waiting() == 0


def test_one_event_that_insists_makes_its_batch_sync(api: Api, meter: Meter) -> None:
    answer = api.post(ASYNC, [event("a"), event("b", delivery="sync"), event("c", delivery="async")])

    assert answer["stored"] == 3
    assert queue.count_waiting() == 0
    assert meter.value("m", *ALWAYS) == 3


def test_an_entry_delivered_again_after_a_crash_is_counted_once(
    api: Api, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies between its commit and its acknowledgement; keys made by the server are the same again."""
    api.post(ASYNC, [event("a"), {"customer": "ann", "type": "m", "value": 10}], status=202)

    def die(*_: Any, **__: Any) -> Any:
        raise RedisConnectionError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("redis.Redis.pipeline", die)
        with pytest.raises(RedisConnectionError):
            drain()
    assert meter.value("m", *ALWAYS) == 11
    assert queue.count_waiting() == 1

    assert drain() == 2
    assert meter.value("m", *ALWAYS) == 11
    assert queue.count_waiting() == 0


def test_sent_again_synchronously_it_is_the_same_event(api: Api, meter: Meter) -> None:
    sent = encode_body(
        [
            event("a", "0.10", properties={"size": 1.50, "n": 2**70, "on": True, "text": "1.50"}),
            event("b", 10**25),
            event("c"),
        ]
    )
    api.post(ASYNC, sent, status=202)
    drain()

    assert api.post("/v1/events", sent)["duplicates"] == 3
    assert meter.value("m", *ALWAYS) == 10**25 + 1 + type(meter.value("m", *ALWAYS))("0.10")


def test_numbers_keep_their_kind_on_the_way(api: Api, meter: Meter) -> None:
    """A detour through strings would make 1e2 a group of its own, and a retry a conflict."""
    api.post(
        ASYNC, b'{"idempotency_key":"a","customer":"ann","type":"m","value":1,"properties":{"size":1e2}}', status=202
    )
    api.post("/v1/events", b'{"idempotency_key":"b","customer":"ann","type":"m","value":1,"properties":{"size":100}}')
    drain()

    assert api.get("/v1/events/a")["properties"] == {"size": 100}
    assert meter.breakdown("m", *ALWAYS, "size") == {("100",): 2}


def test_an_event_without_a_time_happened_when_it_was_accepted(api: Api) -> None:
    before = timezone.now()
    api.post(ASYNC, event("a"), status=202)
    accepted = timezone.now()
    drain()

    found = api.get("/v1/events/a")
    assert before.isoformat() <= found["timestamp"] <= accepted.isoformat()
    assert found["received_at"] >= found["timestamp"]


def test_what_is_refused_since_its_acceptance_waits_in_the_inbox(api: Api, meter: Meter) -> None:
    api.post("/v1/events", event("taken", 1))
    api.post(ASYNC, [event("taken", 2), event("a")], status=202)
    api.call("DELETE", "/v1/metrics/m")

    drain()

    rows = {row["idempotency_key"]: row for row in api.get("/v1/inbox")["data"]}
    assert {key: row["code"] for key, row in rows.items()} == {"taken": "unknown_metric", "a": "unknown_metric"}
    assert rows["a"]["event"] == {**event("a"), **{k: None for k in rows["a"]["event"] if k not in event("a")}}


def test_a_conflict_found_by_the_drain_waits_in_the_inbox(api: Api, meter: Meter) -> None:
    api.post(ASYNC, event("k", 2), status=202)
    api.post("/v1/events", event("k", 1))
    drain()

    [row] = api.get("/v1/inbox")["data"]
    assert (row["idempotency_key"], row["code"]) == ("k", "conflict")
    assert meter.value("m", *ALWAYS) == 1


def test_many_small_entries_are_stored_in_order_of_acceptance(api: Api, meter: Meter) -> None:
    for number in range(30):
        api.post(ASYNC, [event(f"{number:02}-{place}") for place in range(3)], status=202)

    assert drain() == 90

    rows = Event.objects.for_organization(meter.organization).order_by("offset")
    keys = list(rows.values_list("idempotency_key", flat=True))
    assert keys == sorted(keys)


def test_a_full_queue_asks_to_wait_and_takes_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_WAITING_ENTRIES", 1)
    api.post(ASYNC, event("a"), status=202)

    response = api.client.post(ASYNC, json.dumps(event("b")), content_type="application/json")

    assert (response.status_code, response.json()["code"]) == (503, "queue_full")
    assert response["Retry-After"] == "1"
    assert queue.count_waiting() == 1
