"""`POST /v1/events`: the wire formats, compression, verdicts, atomic batches, and the dry run."""

from __future__ import annotations

import gzip
import json
from datetime import datetime
from typing import Any

import pytest
import zstandard

from metering.api import ingest
from metering.models import Event, IngestBatch
from tests.api.conftest import Api
from tests.metering.meter import Meter, utc

pytestmark = pytest.mark.django_db

NDJSON = "application/x-ndjson"
CLOUDEVENT = "application/cloudevents+json"
CLOUDEVENTS = "application/cloudevents-batch+json"
ALWAYS = (utc(2020, 1, 1), utc(2100, 1, 1))


@pytest.fixture(autouse=True)
def _metrics(meter: Meter) -> None:
    meter.define("calls", "count", event_type="call")
    meter.define("bytes", "sum", event_type="call", value_property="bytes")
    meter.define("m", "sum")


def event(key: str, value: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"idempotency_key": key, "customer": "ann", "type": "m", "value": value, **fields}


def stored_keys(meter: Meter) -> list[str]:
    rows = Event.objects.for_organization(meter.organization).order_by("idempotency_key")
    return list(rows.values_list("idempotency_key", flat=True))


class TestVerdicts:
    def test_every_event_of_a_mixed_batch_has_one(self, api: Api, meter: Meter) -> None:
        api.post("/v1/events", event("old"))

        answer = api.post(
            "/v1/events",
            [event("old"), event("old", 2), event("new"), event("typo", type="n"), event("worse", "x"), 7],
        )

        assert {name: answer[name] for name in ("stored", "duplicates", "rejected")} == {
            "stored": 1,
            "duplicates": 1,
            "rejected": 4,
        }
        assert [(error["index"], error["idempotency_key"], error["code"]) for error in answer["errors"]] == [
            (1, "old", "conflict"),
            (3, "typo", "unknown_metric"),
            (4, "worse", "invalid_value"),
            (5, None, "invalid_event"),
        ]
        assert answer["first_offset"] == answer["last_offset"]
        assert stored_keys(meter) == ["new", "old"]

    def test_nothing_stored_and_nothing_known_is_422_with_the_same_verdicts(self, api: Api) -> None:
        answer = api.post("/v1/events", [event("a", "x"), event("b", type="n")], status=422)

        assert (answer["stored"], answer["duplicates"], answer["rejected"]) == (0, 0, 2)
        assert answer["code"] == "invalid_value"
        assert answer["first_offset"] is None

    def test_only_duplicates_are_200(self, api: Api) -> None:
        api.post("/v1/events", event("k"))

        assert api.post("/v1/events", event("k"))["duplicates"] == 1

    def test_offsets_grow_with_arrival(self, api: Api) -> None:
        first = api.post("/v1/events", [event("a"), event("b")])
        second = api.post("/v1/events", event("c"))

        offsets = [int(answer[name]) for answer in (first, second) for name in ("first_offset", "last_offset")]
        assert offsets == sorted(offsets)
        assert offsets[0] < offsets[1] < offsets[2] == offsets[3]

    def test_a_key_that_the_server_made_is_told(self, api: Api, meter: Meter) -> None:
        answer = api.post("/v1/events", [{"customer": "ann", "type": "m", "value": 1}, event("k")])

        assert list(answer["generated_keys"]) == ["0"]
        assert stored_keys(meter) == sorted([answer["generated_keys"]["0"], "k"])

    def test_an_event_feeds_every_metric_that_finds_its_value(self, api: Api, meter: Meter) -> None:
        api.post("/v1/events", [event("a", None, type="call"), event("b", type="call", properties={"bytes": 5})])

        assert meter.value("calls", *ALWAYS) == 2
        assert meter.value("bytes", *ALWAYS) == 5

    def test_the_callers_clock_is_ours(self, api: Api, meter: Meter) -> None:
        before = datetime.now().astimezone()
        api.post("/v1/events", event("k"))

        found = api.get("/v1/events/k")

        assert before.isoformat() <= found["received_at"] == found["timestamp"]


class TestAtomic:
    def test_one_bad_event_stores_none(self, api: Api, meter: Meter) -> None:
        answer = api.post("/v1/events?atomic=true", [event("a"), event("b", "x")], status=422)

        assert answer["code"] == "atomic_batch_refused"
        assert [(error["index"], error["code"]) for error in answer["errors"]] == [(1, "invalid_value")]
        assert stored_keys(meter) == []

    def test_one_conflict_stores_none(self, api: Api, meter: Meter) -> None:
        api.post("/v1/events", event("a"))

        for batch in ([event("b"), event("a", 2)], [event("c"), event("c", 2)]):
            answer = api.post("/v1/events?atomic=true", batch, status=422)

            assert [(error["index"], error["code"]) for error in answer["errors"]] == [(1, "conflict")]
        assert stored_keys(meter) == ["a"]
        assert IngestBatch.objects.for_organization(meter.organization).count() == 1

    def test_duplicates_do_not_stand_in_its_way(self, api: Api, meter: Meter) -> None:
        api.post("/v1/events", event("a"))

        answer = api.post("/v1/events?atomic=true", [event("a"), event("b")])

        assert (answer["stored"], answer["duplicates"]) == (1, 1)
        assert stored_keys(meter) == ["a", "b"]

    @pytest.mark.parametrize(
        ("query", "fields"),
        [
            ("atomic=yes", ["atomic"]),
            ("atomic=", ["atomic"]),
            ("atomic=true&atomic=true", ["atomic"]),
            ("durability=maybe", ["durability"]),
            ("durability=async&atomic=true", ["atomic"]),
            ("Atomic=true", ["Atomic"]),
        ],
    )
    def test_options_are_spelled_exactly(self, api: Api, query: str, fields: list[str]) -> None:
        status, _, named = api.refuse("POST", f"/v1/events?{query}", event("k"))

        assert (status, named) == (422, fields)


class TestNdjson:
    def test_a_line_is_an_event_and_blank_lines_are_none(self, api: Api, meter: Meter) -> None:
        lines = b"\n" + b"\r\n".join(json.dumps(event(key)).encode() for key in "abc") + b"\n\n  \n"

        assert api.post("/v1/events", lines, content_type=NDJSON)["stored"] == 3
        assert stored_keys(meter) == ["a", "b", "c"]

    def test_a_malformed_line_refuses_the_body_and_is_named(self, api: Api, meter: Meter) -> None:
        lines = json.dumps(event("a")).encode() + b"\n\n{oops\n"

        answer = api.post("/v1/events", lines, content_type=NDJSON, status=400)

        assert answer["code"] == "malformed_json"
        assert answer["message"].startswith("Line 3:")
        assert stored_keys(meter) == []

    def test_a_line_that_is_no_event_costs_only_itself(self, api: Api) -> None:
        lines = b'[]\n{"customer":"c","bad":1}\n' + json.dumps(event("a")).encode()

        answer = api.post("/v1/events", lines, content_type=NDJSON)

        assert (answer["stored"], [error["index"] for error in answer["errors"]]) == (1, [0, 1])

    def test_no_line_is_an_empty_batch(self, api: Api) -> None:
        assert api.refuse("POST", "/v1/events", b"\n \n", content_type=NDJSON)[:2] == (422, "empty_batch")


def cloudevent(event_id: str, source: str = "/here", **attributes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": "m",
        "subject": "ann",
        "time": "2026-11-20T10:00:00Z",
        "data": {"value": 5},
        **attributes,
    }


class TestCloudEvents:
    def test_single_event_is_read_by_its_attributes(self, api: Api) -> None:
        sent = cloudevent("1", data={"value": "2.5", "region": "us", "net": {"bytes": 3}, "none": None}, extension="x")

        assert api.post("/v1/events", sent, content_type=CLOUDEVENT)["stored"] == 1

        [found] = api.get("/v1/events")["data"]
        assert {name: found[name] for name in ("idempotency_key", "customer", "type", "value", "timestamp")} == {
            "idempotency_key": "/here#1",
            "customer": "ann",
            "type": "m",
            "value": "2.5",
            "timestamp": "2026-11-20T10:00:00Z",
        }
        assert found["properties"] == {"region": "us", "net.bytes": 3}

    def test_batch_is_taken_and_a_retry_is_a_duplicate(self, api: Api, meter: Meter) -> None:
        batch = [cloudevent("1"), cloudevent("2")]

        assert api.post("/v1/events", batch, content_type=CLOUDEVENTS)["stored"] == 2
        assert api.post("/v1/events", batch, content_type=f"{CLOUDEVENTS}; charset=UTF-8")["duplicates"] == 2
        assert meter.value("m", *ALWAYS) == 10

    def test_source_and_id_together_are_the_identity(self, api: Api) -> None:
        pairs = [
            ("a", "b#c"),
            ("a#b", "c"),
            ("a%23b", "c"),
            ("a", "b%23c"),
            ("a%2523b", "c"),
            ("c", "a#b"),
            ("a#", "b"),
        ]

        answer = api.post("/v1/events", [cloudevent(i, source) for source, i in pairs], content_type=CLOUDEVENTS)

        assert (answer["stored"], answer["rejected"]) == (len(pairs), 0)

    @pytest.mark.parametrize(
        ("attributes", "code", "field"),
        [
            ({"specversion": "0.3"}, "invalid_event", "specversion"),
            ({"specversion": None}, "invalid_event", "specversion"),
            ({"id": ""}, "invalid_event", "id"),
            ({"source": 7}, "invalid_event", "source"),
            ({"type": None}, "unknown_metric", "type"),
            ({"type": "nobody"}, "unknown_metric", "type"),
            ({"subject": 42}, "invalid_event", "subject"),
            ({"subject": None}, "invalid_event", "subject"),
            ({"time": 1_795_168_800}, "invalid_event", "time"),
            ({"time": "yesterday"}, "invalid_timestamp", "timestamp"),
            ({"data": [1]}, "invalid_event", "data"),
            ({"data": {"value": 1, "tags": ["a"]}}, "invalid_property", "properties.tags"),
            ({"data": {}}, "value_required", "value"),
        ],
    )
    def test_each_refusal_costs_only_its_own_event(
        self, api: Api, attributes: dict[str, Any], code: str, field: str
    ) -> None:
        batch = [cloudevent("bad", **attributes), cloudevent("good")]

        answer = api.post("/v1/events", batch, content_type=CLOUDEVENTS)

        assert answer["stored"] == 1
        assert [(error["index"], error["code"], error["field"]) for error in answer["errors"]] == [(0, code, field)]

    def test_deep_data_is_bounded(self, api: Api) -> None:
        deep: Any = 1
        for _ in range(300):
            deep = {"d": deep}

        status, code, _ = api.refuse("POST", "/v1/events", cloudevent("1", data=deep), content_type=CLOUDEVENT)

        assert (status, code) == (422, "value_required")


class TestBodies:
    BODY = json.dumps([event("a"), event("b")]).encode()

    @pytest.mark.parametrize(
        ("encoding", "compress"),
        [
            ("gzip", gzip.compress),
            ("zstd", zstandard.compress),
            ("ZSTD", zstandard.compress),
            ("identity", bytes),
            ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
        ],
        ids=["gzip", "zstd", "any case", "identity", "gzip in two members"],
    )
    def test_compressed_bodies_are_read(self, api: Api, encoding: str, compress: Any) -> None:
        answer = api.post("/v1/events", compress(self.BODY), **{"Content-Encoding": encoding})

        assert answer["stored"] == 2

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    @pytest.mark.parametrize("spoil", [lambda body: body[:-4], lambda body: b"no" + body, lambda _: b"{}"])
    def test_what_does_not_decompress_is_400(self, api: Api, encoding: str, spoil: Any) -> None:
        whole = {"gzip": gzip.compress, "zstd": zstandard.compress}[encoding](self.BODY)

        status, code, _ = api.refuse("POST", "/v1/events", spoil(whole), **{"Content-Encoding": encoding})

        assert (status, code) == (400, "malformed_compression")

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    def test_a_bomb_is_413_and_never_held_in_memory(
        self, api: Api, encoding: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ingest, "MAX_BODY_BYTES", 1024 * 1024)
        bomb = {"gzip": gzip.compress, "zstd": zstandard.compress}[encoding](b" " * 64 * 1024 * 1024)
        assert len(bomb) < 1024 * 1024

        status, code, _ = api.refuse("POST", "/v1/events", bomb, **{"Content-Encoding": encoding})

        assert (status, code) == (413, "body_too_large")

    def test_a_full_batch_of_the_largest_events_fits(self, api: Api) -> None:
        largest = {"properties": {"text": "x" * 8181}, "customer": "c" * 256}
        batch = [event(f"{place:0256}", **largest) for place in range(5000)]
        body = json.dumps(batch).encode()

        assert len(body) < ingest.MAX_BODY_BYTES

    def test_other_types_are_415_and_name_ours(self, api: Api) -> None:
        for content_type in ("text/plain", "application/xml", "multipart/form-data", "application/msgpack"):
            answer = api.post("/v1/events", self.BODY, content_type=content_type, status=415)

            assert CLOUDEVENTS in answer["message"]


class TestValidate:
    def test_it_tells_the_verdicts_and_the_metrics_and_stores_nothing(self, api: Api, meter: Meter) -> None:
        api.post("/v1/events", event("old"))
        batch = [
            event("a", None, type="call"),
            event("b", type="call", properties={"bytes": 1}),
            event("old"),
            event("old", 2),
            event("c", "x"),
            event("d", type="unknown"),
            event("e", customer="never seen"),
        ]

        foretold = api.post("/v1/events/validate", batch)

        assert stored_keys(meter) == ["old"]
        assert not meter.organization.customers.filter(external_id="never seen").exists()
        assert foretold.pop("events") == [
            {"index": 0, "idempotency_key": "a", "metrics": ["calls"]},
            {"index": 1, "idempotency_key": "b", "metrics": ["calls", "bytes"]},
            {"index": 2, "idempotency_key": "old", "metrics": ["m"]},
            {"index": 6, "idempotency_key": "e", "metrics": ["m"]},
        ]
        happened = api.post("/v1/events", batch)
        for answer in (foretold, happened):
            answer.pop("first_offset")
            answer.pop("last_offset")
        assert foretold == happened

    def test_it_leaves_the_inbox_alone(self, api: Api, meter: Meter) -> None:
        meter.organization.is_unmatched_kept = True
        meter.organization.save()

        api.post("/v1/events/validate", event("k", type="unknown"), status=422)

        assert api.get("/v1/inbox")["data"] == []

    def test_ingest_goes_on_after_it(self, api: Api) -> None:
        api.post("/v1/events/validate", event("k"))

        assert api.post("/v1/events", event("k"))["stored"] == 1
