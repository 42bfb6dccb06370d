"""The API of thresholds, of the crossing log, of traces and flags, by the contract."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEntry, Customer, Organization, Scope
from accounts.services import IssuedKey
from alerts.queries.due import list_organizations_to_evaluate
from alerts.services.evaluation import evaluate_organization
from metering.queries import current_period
from tests import factories
from tests.alerts.watch import Watch
from tests.api.conftest import Api


@pytest.fixture
def watch(transactional_db: None, org: Organization) -> Watch:
    """On the real clock, as the API is."""
    watch = Watch(org, timezone.now())
    watch.define("m", "sum", dimensions=["region"])
    watch.define("peak", "max")
    watch.use("ann", 1)
    watch.use("bob", 1)
    return watch


def make(api: Api, **fields: Any) -> Any:
    return api.post("/v1/thresholds", {"code": "cap", "metric": "m", **fields}, status=201)


class TestThresholds:
    def test_created_listed_changed_and_archived(self, watch: Watch, api: Api) -> None:
        made = make(api, value="100.5", customer="ann", filter={"region": "us"}, recurring=True)
        assert made == {
            "id": made["id"],
            "code": "cap",
            "metric": "m",
            "customer": "ann",
            "value": "100.5",
            "percent_of_included": None,
            "projected": None,
            "silence_seconds": None,
            "filter": {"region": ["us"]},
            "recurring": True,
            "origin": "own",
            "created_at": made["created_at"],
        }
        path = f"/v1/thresholds/{made['id']}"
        assert api.get(path) == made

        changed = api.call("PATCH", path, {"value": 7, "filter": {}}).json()
        assert changed == made | {"value": "7", "filter": {}}
        assert api.get("/v1/thresholds", metric="m", customer="ann")["data"] == [changed]
        assert api.get("/v1/thresholds", metric="peak")["data"] == []

        assert api.call("DELETE", path).status_code == 204
        assert api.call("GET", path).status_code == 404
        assert api.get("/v1/thresholds")["data"] == []
        make(api, value=1, customer="ann")  # the code is free again
        actions = AuditEntry.objects.for_organization(watch.organization).filter(action__startswith="threshold.")
        assert sorted(actions.values_list("action", flat=True)) == [
            "threshold.archived",
            "threshold.created",
            "threshold.created",
            "threshold.updated",
        ]

    @pytest.mark.parametrize(
        "kind",
        [{"percent_of_included": "80"}, {"projected": "1000"}, {"silence_seconds": 3600}],
        ids=lambda kind: next(iter(kind)),
    )
    def test_each_kind_comes_back_as_it_went(self, watch: Watch, api: Api, kind: dict[str, Any]) -> None:
        made = make(api, **kind)

        assert {name: made[name] for name in kind} == kind
        assert made["value"] is None

    @pytest.mark.parametrize(
        ("fields", "status", "code", "named"),
        [
            ({}, 422, "invalid", ["value"]),
            ({"value": 1, "projected": 2}, 422, "invalid", ["projected"]),
            ({"value": 0}, 422, "invalid_value", ["value"]),
            ({"value": -1}, 422, "invalid_value", ["value"]),
            ({"value": "1_000"}, 422, "invalid", ["value"]),
            ({"value": True}, 422, "invalid", ["value"]),
            ({"value": 1, "code": "Big Cap"}, 422, "invalid", ["code"]),
            ({"value": 1, "code": "quota_80"}, 422, "invalid", ["code"]),
            ({"value": 1, "filter": {"planet": "mars"}}, 422, "unknown_dimension", ["filter.planet"]),
            ({"value": 1, "filter": {"region": []}}, 422, "invalid", ["filter.region"]),
            ({"value": 1, "filter": {"region": [1]}}, 422, "invalid", ["filter.region"]),
            ({"value": 1, "filter": "us"}, 422, "invalid", ["filter"]),
            ({"value": 1, "colour": "red"}, 422, "invalid", ["colour"]),
            ({"value": 1, "metric": "absent"}, 404, "not_found", []),
            ({"value": 1, "customer": "absent"}, 404, "not_found", []),
            ({"projected": 1, "metric": "peak"}, 422, "invalid_combination", ["projected"]),
            ({"silence_seconds": 59}, 422, "invalid", ["silence_seconds"]),
            ({"silence_seconds": 60, "recurring": True}, 422, "invalid_combination", ["recurring"]),
            ({"value": 1, "recurring": "yes"}, 422, "invalid", ["recurring"]),
        ],
    )
    def test_bad_input_is_named(
        self, watch: Watch, api: Api, fields: dict[str, Any], status: int, code: str, named: list[str]
    ) -> None:
        body = {"code": "cap", "metric": "m", **fields}

        assert api.refuse("POST", "/v1/thresholds", body) == (status, code, named)

    def test_a_code_stands_once_per_metric_and_customer(self, watch: Watch, api: Api) -> None:
        make(api, value=1)
        make(api, value=1, customer="ann")
        make(api, value=1, metric="peak")

        for fields in ({}, {"customer": "ann"}):
            body = {"code": "cap", "metric": "m", "value": 2, **fields}
            assert api.refuse("POST", "/v1/thresholds", body) == (409, "already_exists", [])

    def test_what_a_metric_declares_changes_with_the_metric(self, watch: Watch, api: Api) -> None:
        body = {"thresholds": [{"code": "cap", "value": "10"}]}
        assert api.call("PATCH", "/v1/metrics/m", body).status_code == 200

        [declared] = api.get("/v1/thresholds")["data"]

        assert (declared["origin"], declared["value"]) == ("metric", "10")
        path = f"/v1/thresholds/{declared['id']}"
        assert api.refuse("PATCH", path, {"value": 1}) == (409, "declared_elsewhere", [])
        assert api.refuse("DELETE", path) == (409, "declared_elsewhere", [])

    def test_scopes(self, watch: Watch, api: Api, api_with: Callable[..., Api]) -> None:
        made = make(api, value=1)
        reader = api_with(Scope.USAGE_READ)
        bound = api_with(Scope.USAGE_READ, Scope.METRICS_WRITE, metric_codes=("m",))

        assert reader.get("/v1/thresholds")["data"] == [made]
        assert reader.refuse("POST", "/v1/thresholds", {})[:2] == (403, "missing_scope")
        assert bound.refuse("GET", "/v1/thresholds")[:2] == (403, "bound_key")

    def test_a_changed_value_may_fire_again(self, watch: Watch, api: Api) -> None:
        made = make(api, value=1)
        watch.evaluate()
        api.call("PATCH", f"/v1/thresholds/{made['id']}", {"value": "0.5"})
        watch.evaluate()
        api.call("PATCH", f"/v1/thresholds/{made['id']}", {"value": "0.5"})  # the same: nothing new
        watch.evaluate()

        levels = [(told.customer, float(told.level)) for told in watch.told()]
        assert levels == [("ann", 1), ("bob", 1), ("ann", 0.5), ("bob", 0.5)]


class TestLog:
    def test_pages_by_offset_without_gaps(self, watch: Watch, api: Api) -> None:
        make(api, value=1, recurring=True)
        watch.use("ann", 9)
        watch.use("bob", 4)

        first = api.get("/v1/alerts", limit=4)
        rest = api.get("/v1/alerts", since=first["next_offset"])

        assert [alert["offset"] for alert in first["data"] + rest["data"]] == [str(n) for n in range(1, 16)]
        assert first["next_offset"] == "4"
        assert {first["last_offset"], rest["last_offset"]} == {"15"}
        nothing_new = {"data": [], "next_offset": "15", "last_offset": "15"}
        assert api.get("/v1/alerts", since=rest["next_offset"]) == nothing_new

    def test_an_alert_as_the_contract_says(self, watch: Watch, api: Api) -> None:
        make(api, value="2.50", customer="ann")
        watch.use("ann", "1.75")
        period = current_period(metric=watch.metrics["m"], organization=watch.organization, customer=None, at=watch.now)

        [alert] = api.get("/v1/alerts")["data"]

        assert alert == {
            "offset": "1",
            "customer": "ann",
            "metric": "m",
            "threshold_code": "cap",
            "threshold_value": "2.5",
            "value_at_cross": "2.75",
            "period": {
                "start": period.start.isoformat().replace("+00:00", "Z"),
                "end": period.end.isoformat().replace("+00:00", "Z"),
            },
            "triggered_at": watch.now.isoformat().replace("+00:00", "Z"),
        }

    def test_filters_are_of_any_of_several(self, watch: Watch, api: Api) -> None:
        make(api, value=1)
        make(api, value=1, metric="peak")
        watch.use("ann", 1, metric="peak")
        watch.use("cyn", 1)

        def told(**query: Any) -> list[tuple[str, str]]:
            return [(alert["customer"], alert["metric"]) for alert in api.get("/v1/alerts", **query)["data"]]

        assert told(customer=["ann", "cyn"], metric="m") == [("ann", "m"), ("cyn", "m")]
        assert told(metric="peak") == [("ann", "peak")]
        assert told(customer="nobody") == []

    def test_a_bound_key_sees_its_own(self, watch: Watch, api: Api, api_with: Callable[..., Api]) -> None:
        make(api, value=1)
        make(api, value=1, metric="peak")
        watch.use("ann", 1, metric="peak")
        ann = Customer.objects.for_organization(watch.organization).get(external_id="ann")

        of_ann = api_with(Scope.USAGE_READ, customer=ann)
        of_peak = api_with(Scope.USAGE_READ, metric_codes=("peak",))

        assert {alert["customer"] for alert in of_ann.get("/v1/alerts")["data"]} == {"ann"}
        assert of_ann.get("/v1/alerts", customer="bob")["data"] == []
        assert {alert["metric"] for alert in of_peak.get("/v1/alerts")["data"]} == {"peak"}

    @pytest.mark.parametrize(
        "query",
        [{"since": -1}, {"since": "x"}, {"since": 2**63}, {"limit": 0}, {"limit": 1001}, {"offset": 1}, {"metric": ""}],
    )
    def test_bad_queries_are_refused(self, watch: Watch, api: Api, query: dict[str, Any]) -> None:
        assert api.refuse("GET", "/v1/alerts", query=query)[0] == 422

    def test_another_organization_sees_nothing(self, watch: Watch, api: Api, outsider_client: Client) -> None:
        make(api, value=1)
        watch.evaluate()

        assert len(watch.told()) == 2
        assert outsider_client.get("/v1/alerts").json() == {"data": [], "next_offset": "0", "last_offset": "0"}


class TestFlags:
    def test_realtime_names_the_thresholds_crossed(self, watch: Watch, api: Api) -> None:
        make(api, value=1)
        make(api, code="more", value=2)
        watch.evaluate()

        assert api.get("/v1/usage/realtime", metric="m", customer="ann")["alert_flags"] == ["cap"]
        watch.use("ann", 1)
        assert api.get("/v1/usage/realtime", metric="m", customer="ann")["alert_flags"] == ["cap", "more"]
        assert api.get("/v1/usage/realtime", metric="m", customer="bob")["alert_flags"] == ["cap"]
        assert api.get("/v1/usage/realtime", metric="peak", customer="ann")["alert_flags"] == []

    def test_another_period_has_its_own(self, watch: Watch, api: Api) -> None:
        make(api, value=1)
        watch.evaluate()

        assert api.get("/v1/usage", metric="m", customer="ann", period="last")["alert_flags"] == []
        assert api.get("/v1/usage", metric="m", customer="ann", period="current")["alert_flags"] == ["cap"]


class TestTrace:
    def trace(self, api: Api, made: Any, customer: str | None = "ann") -> Any:
        query = {"customer": customer} if customer else {}
        return api.get(f"/v1/thresholds/{made['id']}/trace", **query)

    def test_not_fired_says_how_much_is_missing(self, watch: Watch, api: Api) -> None:
        made = make(api, value=10)
        watch.evaluate()

        trace = self.trace(api, made)

        assert (trace["outcome"], trace["usage"], trace["level"]) == ("below", "1", "10")
        assert trace["explanation"] == "Did not fire: 1 of 10, 9 to go."
        assert (trace["last_evaluation"]["value"], trace["crossings"]) == ("1", [])

    def test_fired_names_the_offset(self, watch: Watch, api: Api) -> None:
        made = make(api, value=10)
        watch.use("ann", 14)
        watch.use("ann", 2)

        trace = self.trace(api, made)

        assert (trace["outcome"], trace["usage"]) == ("fired", "17")
        assert trace["explanation"] == "Fired: 15 reached 10, told at offset 1. It fires once per period."
        assert [crossing["offset"] for crossing in trace["crossings"]] == ["1"]

    def test_reached_and_not_looked_at_yet(self, watch: Watch, api: Api) -> None:
        made = make(api, value=10)
        watch.send_all({"customer": "ann", "type": "m", "value": 10})

        assert self.trace(api, made)["outcome"] == "waiting"

    def test_taken_back_by_a_void(self, watch: Watch, api: Api) -> None:
        made = make(api, value=10)
        watch.use("ann", 10, idempotency_key="ten")
        watch.void("ten")
        watch.evaluate()

        trace = self.trace(api, made)

        assert trace["outcome"] == "below"
        assert trace["explanation"] == "Armed again: a void took the value to 1, 9 below 10."

    def test_recurring_says_what_comes_next(self, watch: Watch, api: Api) -> None:
        made = make(api, value=10, recurring=True)
        watch.use("ann", 24)

        trace = self.trace(api, made)

        assert trace["explanation"] == "Fired 2 times, last told at offset 2. The next is at 30: 5 to go."

    def test_percent_without_a_plan_says_so(self, watch: Watch, api: Api) -> None:
        made = make(api, percent_of_included=80)
        watch.evaluate()

        assert self.trace(api, made)["outcome"] == "no_included_quantity"

    def test_silence_tells_the_age_of_the_last_event(self, watch: Watch, api: Api) -> None:
        made = make(api, silence_seconds=3600)

        assert self.trace(api, made, None)["outcome"] == "sending"

    def test_whose_usage_must_be_clear(self, watch: Watch, api: Api) -> None:
        of_all, of_ann = make(api, value=10), make(api, value=10, customer="ann")

        assert api.refuse("GET", f"/v1/thresholds/{of_all['id']}/trace") == (422, "required", ["customer"])
        refused = api.refuse("GET", f"/v1/thresholds/{of_ann['id']}/trace", query={"customer": "bob"})
        assert refused == (422, "other_customer", ["customer"])
        assert self.trace(api, of_ann, None)["customer"] == "ann"


def included(**_: Any) -> Decimal:
    """What a billing app would answer: 10 units for everybody."""
    return Decimal(10)


def test_percent_of_included_fires_at_the_share(watch: Watch, api: Api, settings: Any) -> None:
    settings.INCLUDED_QUANTITY = "tests.alerts.test_api.included"
    make(api, percent_of_included=80)

    watch.use("ann", "6.999")
    assert watch.told() == []
    watch.use("ann", "0.001")

    assert [(told.customer, told.level, told.value) for told in watch.told()] == [("ann", 8, 8)]


def test_a_new_metrics_thresholds_are_found_by_the_sweep(watch: Watch, api: Api) -> None:
    evaluate_organization(organization_id=watch.organization.pk, now=watch.now)
    assert list_organizations_to_evaluate() == set()

    api.call("PATCH", "/v1/metrics/m", {"thresholds": [{"code": "cap", "value": "1"}]})

    assert list_organizations_to_evaluate() == {watch.organization.pk}
    evaluate_organization(organization_id=watch.organization.pk, now=watch.now + timedelta(seconds=2))
    assert [told.customer for told in watch.told()] == ["ann", "bob"]
    assert list_organizations_to_evaluate() == set()


def test_an_outsiders_key_cannot_name_our_customer(
    watch: Watch, other_api_key: IssuedKey, outsider_client: Client
) -> None:
    factories.make_customer(organization=other_api_key.api_key.organization, external_id="zoe")

    body = {"code": "cap", "metric": "m", "value": 1}

    assert outsider_client.post("/v1/thresholds", body, content_type="application/json").status_code == 404
