"""The inbox of unmatched events: kept, listed, replayed once their metric exists, discarded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api
from tests.metering.meter import Meter, utc

pytestmark = pytest.mark.django_db

ALWAYS = (utc(2020, 1, 1), utc(2100, 1, 1))


@pytest.fixture(autouse=True)
def _keeps_unmatched(meter: Meter) -> None:
    meter.organization.is_unmatched_kept = True
    meter.organization.save()


def event(key: str, **fields: Any) -> dict[str, Any]:
    return {"idempotency_key": key, "customer": "ann", "type": "m", "value": 5, **fields}


def define(api: Api, code: str = "m", aggregation: str = "sum") -> None:
    api.post("/v1/metrics", {"code": code, "aggregation": aggregation}, status=201)


def test_keep_define_replay(api: Api, meter: Meter) -> None:
    answer = api.post("/v1/events", [event("a"), event("b", timestamp="2026-11-01T00:00:00Z")], status=422)
    assert [error["code"] for error in answer["errors"]] == ["unknown_metric"] * 2
    waiting = api.get("/v1/inbox")["data"]
    assert [(row["idempotency_key"], row["type"], row["code"], row["state"]) for row in waiting] == [
        ("b", "m", "unknown_metric", "waiting"),
        ("a", "m", "unknown_metric", "waiting"),
    ]

    assert api.post("/v1/inbox/replay", {}) == {"counted": 0, "still_waiting": 2}
    define(api)
    assert api.post("/v1/inbox/replay", {}) == {"counted": 2, "still_waiting": 0}
    assert api.post("/v1/inbox/replay", {}) == {"counted": 0, "still_waiting": 0}

    assert (
        api.get("/v1/usage", metric="m", **{"from": "2020-01-01T00:00:00Z", "to": "2090-01-01T00:00:00Z"})["sum"]
        == "10"
    )
    assert api.get("/v1/inbox")["data"] == []
    assert len(api.get("/v1/inbox", state="replayed")["data"]) == 2
    # The one without a time happened when it first arrived.
    assert api.get("/v1/events/a")["timestamp"] == waiting[1]["received_at"]


def test_a_retry_adds_no_row_and_is_a_duplicate_after_the_replay(api: Api, meter: Meter) -> None:
    for _ in range(3):
        api.post("/v1/events", event("a"), status=422)
    assert len(api.get("/v1/inbox")["data"]) == 1

    define(api)
    api.post("/v1/inbox/replay", {})

    assert api.post("/v1/events", event("a"))["duplicates"] == 1


def test_a_retry_that_is_counted_before_the_replay_is_not_counted_again(api: Api, meter: Meter) -> None:
    api.post("/v1/events", event("a"), status=422)
    define(api)
    api.post("/v1/events", event("a"))

    assert api.post("/v1/inbox/replay", {}) == {"counted": 1, "still_waiting": 0}
    assert meter_value(api) == "5"


def meter_value(api: Api) -> str:
    value: str = api.get("/v1/usage/realtime", metric="m")["value"]
    return value


def test_good_neighbours_are_counted_at_once(api: Api) -> None:
    define(api, "other", "count")

    answer = api.post("/v1/events", [event("a"), event("b", type="other")])

    assert answer["stored"] == 1
    assert [row["idempotency_key"] for row in api.get("/v1/inbox")["data"]] == ["a"]


def test_only_the_named_are_replayed_or_discarded(api: Api) -> None:
    api.post("/v1/events", [event("a"), event("b"), event("c")], status=422)
    ids = {row["idempotency_key"]: row["id"] for row in api.get("/v1/inbox")["data"]}
    define(api)

    assert api.post("/v1/inbox/discard", {"ids": [ids["a"]]}) == {"discarded": 1}
    assert api.post("/v1/inbox/replay", {"ids": [ids["a"], ids["b"]]}) == {"counted": 1, "still_waiting": 0}

    assert [row["idempotency_key"] for row in api.get("/v1/inbox")["data"]] == ["c"]
    assert meter_value(api) == "5"


def test_what_the_metric_refuses_stays_with_the_reason(api: Api) -> None:
    api.post("/v1/events", [event("a", value="many"), event("b")], status=422)
    define(api)

    assert api.post("/v1/inbox/replay", {}) == {"counted": 1, "still_waiting": 1}

    [row] = api.get("/v1/inbox")["data"]
    assert row["idempotency_key"] == "a"
    assert "number" in row["message"]


@pytest.mark.parametrize("number", ["1e999999999", "1e999999999999999999999", "9" * 300, "0.1"])
def test_numbers_of_any_size_are_shown_cheaply(api: Api, number: str) -> None:
    body = f'{{"idempotency_key":"k","customer":"ann","type":"m","value":{number}}}'
    api.post("/v1/events", body.encode(), status=422)

    response = api.call("GET", "/v1/inbox")

    assert len(response.content) < 1000


def test_ids_that_are_none_are_refused(api: Api) -> None:
    for ids in ([], ["x"], ["-1"], [1], ["1" * 30], "1", ["٣"]):
        assert api.refuse("POST", "/v1/inbox/discard", {"ids": ids})[0] == 422
    assert api.post("/v1/inbox/discard", {"ids": ["999999999"]}) == {"discarded": 0}


def test_pages_are_stable_while_rows_leave(api: Api) -> None:
    for key in "abcd":
        api.post("/v1/events", event(key), status=422)
    first = api.get("/v1/inbox", limit=2)

    api.post("/v1/inbox/discard", {"ids": [first["data"][0]["id"]]})
    rest = api.get("/v1/inbox", limit=2, cursor=first["next_cursor"])

    assert [row["idempotency_key"] for row in first["data"] + rest["data"]] == ["d", "c", "b", "a"]
    assert rest["next_cursor"] is None


def test_where_the_organization_does_not_keep_them_nothing_waits(api: Api, meter: Meter) -> None:
    meter.organization.is_unmatched_kept = False
    meter.organization.save()

    api.post("/v1/events", event("a"), status=422)

    assert api.get("/v1/inbox")["data"] == []
