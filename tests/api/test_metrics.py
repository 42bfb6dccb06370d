"""`/v1/metrics` and `/v1/catalogs`: definitions as they are sent, kept, changed and archived."""

from __future__ import annotations

from typing import Any

import pytest

from metering.models import Metric
from tests.api.conftest import Api
from tests.metering.meter import Meter, utc

pytestmark = pytest.mark.django_db

CONTRACT_EXAMPLE = {
    "code": "compute_seconds",
    "name": "Compute",
    "unit": "second",
    "aggregation": "sum",
    "event_type": "job.finished",
    "value_property": "seconds",
    "dimensions": [{"key": "provider", "values": ["aws", "gcp", "azure"]}, {"key": "region"}],
    "period": {"type": "calendar", "billing_cycle_day": 15},
    "thresholds": [{"code": "hard_cap", "value": "100000", "recurring": False}],
}


def create(api: Api, **fields: Any) -> Any:
    return api.post("/v1/metrics", {"code": "m", "aggregation": "sum", **fields}, status=201)


class TestCreate:
    def test_the_contracts_example_reads_back(self, api: Api) -> None:
        created = api.post("/v1/metrics", CONTRACT_EXAMPLE, status=201)

        assert api.get("/v1/metrics/compute_seconds") == created
        created.pop("created_at")
        assert created == {
            **CONTRACT_EXAMPLE,
            "description": "",
            "dimensions": [
                {"key": "provider", "values": ["aws", "gcp", "azure"], "strict": False},
                {"key": "region", "values": None, "strict": False},
            ],
            "catalog": None,
            "archived_at": None,
        }

    def test_the_least_definition_has_the_defaults(self, api: Api) -> None:
        created = create(api)

        assert (created["event_type"], created["value_property"]) == ("m", None)
        assert created["period"] == {"type": "calendar", "billing_cycle_day": 1}
        assert (created["dimensions"], created["thresholds"]) == ([], [])
        assert create(api, code="fixed", period={"type": "fixed"})["period"] == {"type": "fixed", "days": 30}

    def test_the_same_code_again_is_409_with_the_existing_one(self, api: Api) -> None:
        created = create(api)

        answer = api.post("/v1/metrics", {"code": "m", "aggregation": "max"}, status=409)

        assert answer["code"] == "already_exists"
        assert answer["metric"] == created

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"code": ""}, "code"),
            ({"code": "M"}, "code"),
            ({"code": "m" * 65}, "code"),
            ({"code": "a b"}, "code"),
            ({"code": "é"}, "code"),
            ({"code": "m\n"}, "code"),
            ({"code": 7}, "code"),
            ({"aggregation": "average"}, "aggregation"),
            ({"aggregation": None}, "aggregation"),
            ({"event_type": ""}, "event_type"),
            ({"event_type": "t" * 257}, "event_type"),
            ({"event_type": "a\x00"}, "event_type"),
            ({"value_property": 3}, "value_property"),
            ({"dimensions": [{"key": "a"}, {"key": "a"}]}, "dimensions"),
            ({"dimensions": [{"key": "customer"}]}, "dimensions[0].key"),
            ({"dimensions": [{"key": "a b"}]}, "dimensions[0].key"),
            ({"dimensions": [{"key": "a", "strict": True}]}, "dimensions[0].values"),
            ({"dimensions": [{"key": "a", "values": []}]}, "dimensions[0].values"),
            ({"dimensions": [{"key": "a", "values": [1]}]}, "dimensions[0].values[0]"),
            ({"dimensions": [{"key": "a", "value": "x"}]}, "dimensions[0].value"),
            ({"dimensions": {"a": 1}}, "dimensions"),
            ({"period": {"type": "year"}}, "period.type"),
            ({"period": {"type": "calendar", "billing_cycle_day": 29}}, "period.billing_cycle_day"),
            ({"period": {"type": "calendar", "billing_cycle_day": 0}}, "period.billing_cycle_day"),
            ({"period": {"type": "calendar", "billing_cycle_day": True}}, "period.billing_cycle_day"),
            ({"period": {"type": "day", "billing_cycle_day": 5}}, "period.billing_cycle_day"),
            ({"period": {"type": "fixed", "days": 0}}, "period.days"),
            ({"period": {}}, "period.type"),
            ({"thresholds": [{"code": "t"}]}, "thresholds[0].value"),
            ({"thresholds": [{"code": "t", "value": "NaN"}]}, "thresholds[0].value"),
            ({"thresholds": [{"code": "t", "value": "1_000"}]}, "thresholds[0].value"),
            ({"thresholds": [{"code": "t", "value": "٣"}]}, "thresholds[0].value"),
            ({"thresholds": [{"code": "t", "value": " 5 "}]}, "thresholds[0].value"),
            ({"thresholds": [{"code": "t", "value": True}]}, "thresholds[0].value"),
            ({"thresholds": [{"code": "t", "value": "1e400"}]}, "thresholds[0].value"),
            ({"thresholds": [{"code": "T", "value": "1"}]}, "thresholds[0].code"),
            ({"thresholds": [{"code": "quota_80", "value": "1"}]}, "thresholds[0].code"),
            ({"thresholds": [{"code": "t", "value": 1}, {"code": "t", "value": 2}]}, "thresholds"),
            ({"surprise": 1}, "surprise"),
        ],
    )
    def test_each_refusal_names_its_field(self, api: Api, fields: dict[str, Any], field: str) -> None:
        status, _, named = api.refuse("POST", "/v1/metrics", {"code": "m", "aggregation": "sum", **fields})

        assert (status, named) == (422, [field])
        assert api.get("/v1/metrics")["data"] == []

    @pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"m"', b"{}"])
    def test_what_is_no_definition_is_422(self, api: Api, body: bytes) -> None:
        assert api.refuse("POST", "/v1/metrics", body)[0] == 422

    def test_threshold_values_keep_every_digit(self, api: Api) -> None:
        digits = "123456789012345678901234567890.000000000000000001"
        body = b'{"code":"m","aggregation":"sum","thresholds":[{"code":"a","value":%s},{"code":"b","value":"%s"}]}'

        created = api.post("/v1/metrics", body % (digits.encode(), digits.encode()), status=201)

        assert [threshold["value"] for threshold in created["thresholds"]] == [digits, digits]


class TestChange:
    def test_what_no_number_depends_on_may_change_at_any_time(self, api: Api, meter: Meter) -> None:
        create(api)
        api.post("/v1/events", {"customer": "ann", "type": "m", "value": 1})
        changes = {
            "name": "Name",
            "description": "What it is",
            "unit": "byte",
            "thresholds": [{"code": "cap", "value": "5", "recurring": True}],
        }

        changed = api.call("PATCH", "/v1/metrics/m", changes).json()

        assert {name: changed[name] for name in changes} == changes
        assert api.get("/v1/metrics/m") == changed

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({"aggregation": "max"}, {"aggregation": "min"}),
            ({"event_type": "other"}, {"event_type": "third"}),
            ({"value_property": "size"}, {"value_property": "weight"}),
            ({"dimensions": [{"key": "region"}]}, {"dimensions": []}),
            ({"period": {"type": "week"}}, {"period": {"type": "day"}}),
            ({"code": "renamed"}, {"code": "again"}),
        ],
        ids=lambda change: next(iter(change)),
    )
    @pytest.mark.parametrize("is_rolled", [False, True], ids=["pending", "rolled up"])
    def test_what_numbers_depend_on_is_frozen_by_the_first_event(
        self, api: Api, meter: Meter, before: dict[str, Any], after: dict[str, Any], is_rolled: bool
    ) -> None:
        create(api)
        changed = api.call("PATCH", "/v1/metrics/m", before).json()
        assert {name: changed[name] for name in before if name != "dimensions"}.items() <= before.items()
        sent = {"customer": "ann", "type": changed["event_type"], "value": 1, "properties": {"size": 1}}
        assert api.post("/v1/events", sent)["stored"] == 1
        if is_rolled:
            meter.roll_up()

        assert api.refuse("PATCH", f"/v1/metrics/{changed['code']}", after)[:2] == (409, "immutable")

        assert api.get(f"/v1/metrics/{changed['code']}") == changed

    def test_a_definition_sent_again_unchanged_is_no_change(self, api: Api) -> None:
        api.post("/v1/metrics", CONTRACT_EXAMPLE, status=201)
        api.post("/v1/events", {"customer": "ann", "type": "job.finished", "properties": {"seconds": 1}})

        assert api.call("PATCH", "/v1/metrics/compute_seconds", CONTRACT_EXAMPLE).status_code == 200

    def test_another_metrics_code_is_taken(self, api: Api) -> None:
        create(api)
        create(api, code="other")

        assert api.refuse("PATCH", "/v1/metrics/m", {"code": "other"})[:2] == (409, "already_exists")
        assert [metric["code"] for metric in api.get("/v1/metrics")["data"]] == ["m", "other"]

    def test_a_changed_definition_is_the_one_that_counts(self, api: Api, meter: Meter) -> None:
        create(api, aggregation="sum")
        api.call("PATCH", "/v1/metrics/m", {"aggregation": "max", "value_property": "size"})

        api.post("/v1/events", [{"customer": "ann", "type": "m", "properties": {"size": n}} for n in (3, 7, 5)])

        assert api.get("/v1/usage/realtime", metric="m")["value"] == "7"


class TestArchive:
    def test_history_stays_and_new_events_are_unknown(self, api: Api, meter: Meter) -> None:
        create(api)
        api.post("/v1/events", {"customer": "ann", "type": "m", "value": 5})

        for _ in range(2):
            assert api.call("DELETE", "/v1/metrics/m").status_code == 204

        assert api.refuse("POST", "/v1/events", {"customer": "ann", "type": "m", "value": 5})[:2] == (
            422,
            "unknown_metric",
        )
        assert (
            api.get("/v1/usage", metric="m", **{"from": "2020-01-01T00:00:00Z", "to": "2090-01-01T00:00:00Z"})["value"]
            == "5"
        )
        assert api.get("/v1/metrics/m")["archived_at"] is not None
        assert api.get("/v1/metrics")["data"] == []
        assert [metric["code"] for metric in api.get("/v1/metrics", archived="true")["data"]] == ["m"]
        assert api.post("/v1/metrics", {"code": "m", "aggregation": "sum"}, status=409)["code"] == "already_exists"

    def test_pending_events_are_still_counted(self, api: Api, meter: Meter) -> None:
        create(api)
        api.post("/v1/events", {"customer": "ann", "type": "m", "value": 5})
        api.call("DELETE", "/v1/metrics/m")

        meter.roll_up()

        meter.metrics["m"] = Metric.objects.for_organization(meter.organization).get(code="m")
        assert meter.value("m", utc(2020, 1, 1), utc(2090, 1, 1)) == 5


class TestList:
    def test_pages_are_stable_while_metrics_come_and_go(self, api: Api) -> None:
        for code in ("b", "d", "f"):
            create(api, code=code)
        first = api.get("/v1/metrics", limit=2)

        create(api, code="a")
        create(api, code="e")
        api.call("DELETE", "/v1/metrics/d")
        rest = api.get("/v1/metrics", limit=2, cursor=first["next_cursor"])

        assert [metric["code"] for metric in first["data"]] == ["b", "d"]
        assert [metric["code"] for metric in rest["data"]] == ["e", "f"]
        assert rest["next_cursor"] is None


class TestCatalogs:
    def test_installing_twice_is_installing_once(self, api: Api) -> None:
        [demo] = [catalog for catalog in api.get("/v1/catalogs")["data"] if catalog["name"] == "demo"]

        first = api.post("/v1/catalogs/demo/install")
        second = api.post("/v1/catalogs/demo/install")

        assert first == second
        assert [metric["code"] for metric in first["metrics"]] == demo["metrics"]
        assert {metric["catalog"] for metric in first["metrics"]} == {"demo"}
        assert len(api.get("/v1/metrics")["data"]) == len(demo["metrics"])
