"""Single events over HTTP: the list and its pages, look-up, void and replace."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from metering.models import Event
from tests.api.conftest import Api
from tests.metering.meter import Meter, utc

pytestmark = pytest.mark.django_db

ALWAYS = (utc(2020, 1, 1), utc(2100, 1, 1))


@pytest.fixture(autouse=True)
def _metrics(meter: Meter) -> None:
    meter.define("m", "sum", dimensions=["region"])
    meter.define("sized", "sum", event_type="m", value_property="size")


def event(key: str, value: Any = 1, at: str = "2026-11-20T10:00:00Z", **fields: Any) -> dict[str, Any]:
    return {"idempotency_key": key, "customer": "ann", "type": "m", "value": value, "timestamp": at, **fields}


def keys_of(page: dict[str, Any]) -> list[str]:
    return [found["idempotency_key"] for found in page["data"]]


class TestList:
    def test_newest_first_and_of_one_instant_the_later_arrival(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("b"), event("c"), event("old", at="2026-11-01T00:00:00Z"))
        meter.send_all(event("d"), event("new", at="2026-11-20T10:00:00.000001Z"))

        assert keys_of(api.get("/v1/events")) == ["new", "d", "c", "b", "old"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
    def test_pages_are_the_list_cut_anywhere(self, api: Api, meter: Meter, limit: int) -> None:
        # Ties within an instant, so that a page can end among them.
        meter.send_all(*[event(f"k{n}", at=f"2026-11-20T10:00:{n // 3:02}Z") for n in range(10)])
        whole = keys_of(api.get("/v1/events"))

        paged: list[str] = []
        page = api.get("/v1/events", limit=limit)
        while True:
            assert len(page["data"]) <= limit
            paged += keys_of(page)
            if page["next_cursor"] is None:
                break
            page = api.get("/v1/events", limit=limit, cursor=page["next_cursor"])

        assert paged == whole
        assert len(whole) == 10

    def test_pages_are_stable_while_events_arrive(self, api: Api, meter: Meter) -> None:
        meter.send_all(*[event(f"k{n}", at=f"2026-11-20T10:00:{n:02}Z") for n in range(6)])
        first = api.get("/v1/events", limit=2)

        meter.send_all(event("newer", at="2026-11-20T11:00:00Z"), event("twin", at="2026-11-20T10:00:04Z"))
        meter.send_all(event("older", at="2026-11-20T10:00:00.5Z"))
        rest = api.get("/v1/events", limit=100, cursor=first["next_cursor"])

        assert keys_of(first) == ["k5", "k4"]
        # What lies before the cursor stays where it was; what arrives behind it is found.
        assert keys_of(rest) == ["k3", "k2", "k1", "older", "k0"]

    def test_filters_narrow_and_combine(self, api: Api, meter: Meter) -> None:
        meter.send_all(
            event("us", properties={"region": "us", "tier": 1}),
            event("eu", properties={"region": "eu", "tier": True}),
            event("bob", customer="bob", properties={"region": "us"}, at="2026-11-20T11:00:00Z"),
            event("sized", properties={"size": 5}),
        )

        assert keys_of(api.get("/v1/events", **{"property.region": "us"})) == ["bob", "us"]
        assert keys_of(api.get("/v1/events", customer="ann", **{"property.region": "us"})) == ["us"]
        assert keys_of(api.get("/v1/events", **{"property.tier": "true"})) == ["eu"]
        assert keys_of(api.get("/v1/events", **{"property.tier": "1"})) == ["us"]
        assert keys_of(api.get("/v1/events", metric="sized")) == ["sized"]
        assert keys_of(api.get("/v1/events", **{"from": "2026-11-20T10:00:00.000001Z"})) == ["bob"]
        assert keys_of(api.get("/v1/events", **{"to": "2026-11-20T11:00:00Z"})) == ["sized", "eu", "us"]
        assert api.get("/v1/events", **{"property.none": "x"})["data"] == []

    @pytest.mark.parametrize("text", ["100%", "%s", "%(x)s", "{}", "it's", 'a"b', "\\", "é😀", " spaced ", "(other)"])
    def test_property_filters_take_any_text(self, api: Api, meter: Meter, text: str) -> None:
        meter.send_all(event("k", properties={text: text, "plain": text}))

        assert keys_of(api.get("/v1/events", **{f"property.{text}": text, "property.plain": text})) == ["k"]

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"from": "2026-11-20T10:00:00"}, "from"),
            ({"from": "yesterday"}, "from"),
            ({"to": ""}, "to"),
            ({"property.": "x"}, "property."),
            ({"property.a": ["x", "y"]}, "property.a"),
            ({"property.a": "\x00"}, "property.a"),
        ],
    )
    def test_what_makes_no_sense_is_named(self, api: Api, query: dict[str, Any], field: str) -> None:
        assert api.refuse("GET", "/v1/events", query=query)[::2] == (422, [field])


class TestLookUp:
    def test_an_event_reads_back_as_it_was_sent(self, api: Api, meter: Meter) -> None:
        api.post(
            "/v1/events",
            b'{"idempotency_key":"a/b c","customer":"ann","metric":"m","value":1.50,'
            b'"timestamp":"2026-11-20T11:00:00.123456+01:00","properties":{"region":"us","size":0.10,"on":true,"n":7}}',
        )

        response = api.call("GET", "/v1/events/a%2Fb%20c")

        found = response.json()
        offset, received_at = found.pop("offset"), found.pop("received_at")
        assert offset.isdigit()
        assert received_at.endswith("Z")
        assert found == {
            "idempotency_key": "a/b c",
            "customer": "ann",
            "type": "m",
            "value": "1.5",
            "timestamp": "2026-11-20T10:00:00.123456Z",
            "properties": {"region": "us", "size": 0.10, "on": True, "n": 7},
            "operation": "add",
            "voided_at": None,
            "void_reason": None,
            "replaced_by": None,
            "metrics": ["m", "sized"],
        }
        assert b'"size":0.10' in response.content, "a number keeps its digits"

    def test_members_and_removals_read_back(self, api: Api, meter: Meter) -> None:
        meter.define("seats", "count_unique")
        meter.send_all(event("k", 42, type="seats", operation="remove"))

        found = api.get("/v1/events/k")

        assert (found["value"], found["operation"]) == ("42", "remove")


class TestVoid:
    @pytest.mark.parametrize("is_rolled", [False, True], ids=["pending", "rolled up"])
    def test_a_voided_event_counts_no_more_and_stays_readable(self, api: Api, meter: Meter, is_rolled: bool) -> None:
        meter.send_all(event("a", 1), event("b", 10))
        if is_rolled:
            meter.roll_up()

        answer = api.post("/v1/events/a/void", {"reason": "test traffic"})

        assert (answer["idempotency_key"], answer["reason"]) == ("a", "test traffic")
        assert answer["actor"].startswith("key:")
        found = api.get("/v1/events/a")
        assert (found["voided_at"], found["void_reason"]) == (answer["voided_at"], "test traffic")
        assert meter.value("m", *ALWAYS) == 10
        meter.roll_up()
        assert meter.value("m", *ALWAYS) == 10

    def test_its_key_stays_taken(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a"))
        api.post("/v1/events/a/void", {"reason": "wrong"})

        assert api.post("/v1/events", event("a"))["duplicates"] == 1
        assert meter.value("m", *ALWAYS) == 0

    def test_twice_is_a_conflict(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a"))
        api.post("/v1/events/a/void", {"reason": "wrong"})

        assert api.refuse("POST", "/v1/events/a/void", {"reason": "again"})[:2] == (409, "already_voided")
        assert api.get("/v1/events/a")["void_reason"] == "wrong"

    @pytest.mark.parametrize("reason", ["", "  ", None, 7, "x" * 1001, "a\x00b"])
    def test_it_needs_a_reason(self, api: Api, meter: Meter, reason: Any) -> None:
        meter.send_all(event("a"))

        status, _, fields = api.refuse("POST", "/v1/events/a/void", {"reason": reason})

        assert (status, fields) == (422, ["reason"])
        assert api.refuse("POST", "/v1/events/a/void", {})[2] == ["reason"]
        assert meter.value("m", *ALWAYS) == 1


class TestReplace:
    @pytest.mark.parametrize("is_rolled", [False, True], ids=["pending", "rolled up"])
    def test_the_new_event_counts_in_the_old_ones_place(self, api: Api, meter: Meter, is_rolled: bool) -> None:
        meter.send_all(event("a", 1))
        if is_rolled:
            meter.roll_up()
        known_then = timezone.now()

        answer = api.post("/v1/events/a/replace", {**event("a2", 3), "reason": "wrong unit"}, status=201)

        assert answer == {"voided": "a", "idempotency_key": "a2", "reason": "wrong unit"}
        assert api.get("/v1/events/a")["replaced_by"] == "a2"
        assert meter.value("m", *ALWAYS) == 3
        assert meter.value("m", *ALWAYS, as_of=known_then) == 1

    def test_without_a_key_one_is_made(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a", 1))
        new = {name: content for name, content in event("", 3).items() if name != "idempotency_key"}

        answer = api.post("/v1/events/a/replace", {**new, "reason": "wrong"}, status=201)

        assert api.get(f"/v1/events/{answer['idempotency_key']}")["value"] == "3"
        assert api.get("/v1/events/a")["replaced_by"] == answer["idempotency_key"]

    @pytest.mark.parametrize(
        ("new", "status", "code"),
        [
            (event("a", 3), 422, "invalid_key"),
            (event("b", 3), 422, "atomic_batch_refused"),
            (event("b", 1), 409, "conflict"),
            (event("c", "x"), 422, "atomic_batch_refused"),
            (event("c", type="unknown"), 422, "atomic_batch_refused"),
            (event("c", vlaue=1), 422, "invalid"),
            ([], 422, "invalid"),
            ({"reason": 7}, 422, "reason_required"),
        ],
        ids=["own key", "key with other content", "key that is stored", "bad value", "type", "field", "list", "reason"],
    )
    def test_if_the_new_one_is_refused_the_old_one_stays(
        self, api: Api, meter: Meter, new: Any, status: int, code: str
    ) -> None:
        meter.send_all(event("a", 1), event("b", 1))
        body = {"reason": "wrong", **new} if isinstance(new, dict) else new

        assert api.refuse("POST", "/v1/events/a/replace", body)[:2] == (status, code)

        assert api.get("/v1/events/a")["voided_at"] is None
        assert meter.value("m", *ALWAYS) == 2
        assert Event.objects.for_organization(meter.organization).count() == 2

    def test_a_voided_event_is_not_replaced(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a"))
        api.post("/v1/events/a/void", {"reason": "wrong"})

        body = {**event("a2"), "reason": "better"}
        assert api.refuse("POST", "/v1/events/a/replace", body)[:2] == (409, "already_voided")

    def test_a_replacement_can_be_replaced(self, api: Api, meter: Meter) -> None:
        meter.send_all(event("a", 1))
        meter.roll_up()
        for old, new, value in (("a", "b", 2), ("b", "c", 4)):
            api.post(f"/v1/events/{old}/replace", {**event(new, value), "reason": "better"}, status=201)
            assert meter.value("m", *ALWAYS) == value
        meter.roll_up(at=meter.now + timedelta(hours=1))

        assert meter.value("m", *ALWAYS) == 4
