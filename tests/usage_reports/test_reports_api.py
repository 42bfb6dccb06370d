"""The endpoints over HTTP as any client sees them: shapes, refusals, and whose usage a key sees. On the real clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Customer, Organization, Scope
from accounts.services import IssuedKey, create_project
from tests import factories
from tests.metering.meter import Meter
from tests.usage_reports.conftest import ReportApi
from tests.usage_reports.reporter import Reporter
from usage_reports.launchdarkly.endpoints import ENDPOINTS, Answer, Endpoint

pytestmark = pytest.mark.django_db

MakeApi = Callable[[IssuedKey], ReportApi]
PATH = {
    "projectKey": "shop",
    "environmentKey": "live",
    "featureFlagKey": "banner",
    "type": "received",
    "source": "client",
}
EVALUATIONS = "evaluations/shop/live/banner"
PLACE = {"projectKey": "shop", "environmentKey": "live"}


def address(row: Endpoint) -> str:
    return row.path.format(**PATH)


def send_some_of_everything(reporter: Reporter, *, customer: str = "acme", times: int = 1) -> None:
    """Send what every endpoint has something to say of, so many times."""
    now = timezone.now()
    for number in range(times):
        key = {"contextKey": f"{customer}-{number}"}
        for sdk in ("client", "server"):
            more = {"contextKind": "user", "sdkType": sdk, "category": "mobile"}
            reporter.send("ld_contexts", now, customer=customer, **PLACE, **key, **more)
        reporter.send("ld_experimentation_keys", now, customer=customer, experimentId="size", **PLACE, **key)
        for type in ("data_export_events", "experimentation_events", "service_connection_minutes"):
            reporter.send(f"ld_{type}", now, customer=customer, value=1, **PLACE)
        reporter.send("ld_evaluations", now, customer=customer, value=1, flagKey="banner", variation="on", **PLACE)
        reporter.send("ld_events", now, customer=customer, value=1, direction="received")
        reporter.send("ld_streams", now, customer=customer, value=1, source="client", sdkName="iOS", sdkVersion="9")
        for type in ("errors", "logs", "metrics", "sessions", "traces"):
            reporter.send(f"ld_observability_{type}", now, customer=customer, value=1, projectKey="shop")
        reporter.send("ld_vega_ai", now, customer=customer, value=1, projectKey="shop")


def last_values(answer: dict[str, list[dict[str, int]]]) -> list[int]:
    return [value for name, value in answer["series"][-1].items() if name != "time"]


class TestAnswers:
    def test_every_endpoint_answers_in_its_shape(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        send_some_of_everything(live_reporter)
        for row in ENDPOINTS:
            answer = report_api.get(address(row))
            href = f"/api/v2/usage/{address(row)}"
            assert answer["_links"] == {"self": {"href": href, "type": "application/json"}}, row.path
            if row.answer == Answer.SDKS:
                assert answer["sdks"] == ["Unknown"]
            elif row.answer == Answer.SDK_VERSIONS:
                assert answer["sdkVersions"] == [{"sdk": "iOS", "version": "9"}]
            else:
                assert set(answer) == {"_links", "metadata", "series"}
                columns = [str(place) for place in range(len(answer["metadata"]))]
                assert all(list(point) == ["time", *columns] for point in answer["series"]), row.path
                assert {type(value) for point in answer["series"] for value in point.values()} == {int}
                times = [point["time"] for point in answer["series"]]
                assert times == sorted(set(times))
                assert 1 in last_values(answer), row.path

    def test_the_link_repeats_path_and_query(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        answer = report_api.get("total-mau", ("groupBy", "projectId,sdkName"), ("sdkName", "a b/c"))
        expected = "/api/v2/usage/total-mau?groupBy=projectId%2CsdkName&sdkName=a+b%2Fc"
        assert answer["_links"]["self"]["href"] == expected

    def test_ungrouped_metadata_has_one_empty_object(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        assert report_api.get("total-mau")["metadata"] == [{}]
        assert report_api.get("total-contexts")["metadata"] == []

    def test_times_are_milliseconds_of_utc_days(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        points = report_api.get("vega-ai", ("from", "1677888000"), ("to", "1677974401"))["series"]
        assert points == [{"time": 1677888000000, "0": 0}, {"time": 1677974400000, "0": 0}]

    def test_fractions_are_json_numbers_with_all_digits(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        live_reporter.send("ld_service_connection_minutes", timezone.now(), value="43800.000000000000000001")
        live_reporter.send("ld_service_connection_minutes", timezone.now(), value="0.5")
        response = report_api.call("service-connections")
        assert response.content.endswith(b'"0":43800.500000000000000001}]}')

    def test_repeated_parameters_all_count(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        for project in ("shop", "blog", "wiki"):
            live_reporter.see(f"in {project}", timezone.now(), projectKey=project, sdkName="Go")
        answer = report_api.get(
            "total-mau",
            ("projectKey", "shop"),
            ("projectKey", "blog"),
            ("groupBy", "projectId"),
            ("groupBy", "sdkName"),
        )
        assert [set(group) for group in answer["metadata"]] == [{"projectId", "sdkName"}] * 2

    def test_head_is_answered_without_a_body(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        response = report_api.call("total-mau", method="HEAD")
        assert (response.status_code, response.content) == (200, b"")

    @pytest.mark.parametrize("version", ["beta", "20240415", "20191212", "nonsense"])
    def test_the_version_header_is_ignored(self, live_reporter: Reporter, report_api: ReportApi, version: str) -> None:
        assert report_api.call("total-mau", headers={"LD-API-Version": version}).status_code == 200

    def test_bearer_before_the_key_is_fine(self, live_reporter: Reporter, api_key: IssuedKey) -> None:
        client = Client(headers={"Authorization": f"Bearer {api_key.text}"})
        assert client.get("/api/v2/usage/vega-ai").status_code == 200


class TestRefusals:
    def test_without_a_valid_key(self, live_reporter: Reporter, report_api_with: MakeApi, org: Organization) -> None:
        expired = factories.make_api_key(organization=org, expires_at=timezone.now() + timedelta(microseconds=1))
        for row in ENDPOINTS:
            anonymous = Client().get(f"/api/v2/usage/{address(row)}")
            assert (anonymous.status_code, anonymous.json()["code"]) == (401, "unauthorized")
            assert report_api_with(expired).refuse(address(row))[:2] == (401, "unauthorized")

    def test_of_a_key_without_the_scope(
        self, live_reporter: Reporter, report_api_with: MakeApi, org: Organization
    ) -> None:
        api = report_api_with(factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,)))
        for row in ENDPOINTS:
            assert api.refuse(address(row))[:2] == (403, "forbidden"), row.path

    def test_of_a_key_bound_to_other_metrics(
        self, live_reporter: Reporter, report_api_with: MakeApi, org: Organization
    ) -> None:
        send_some_of_everything(live_reporter)
        key = factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ,), metric_codes=("ld_contexts",))
        api = report_api_with(key)
        for row in ENDPOINTS:
            if row.metric == "ld_contexts":
                api.get(address(row))
            else:
                assert api.refuse(address(row))[:2] == (403, "forbidden"), row.path

    def test_where_the_catalog_is_not_installed(self, report_api: ReportApi) -> None:
        for row in ENDPOINTS:
            status, code, message = report_api.refuse(address(row))
            assert (status, code) == (404, "not_found")
            assert "POST /v1/catalogs/launchdarkly/install" in message

    def test_where_a_metric_of_that_name_is_another_one(self, org: Organization, report_api: ReportApi) -> None:
        Meter(org, timezone.now()).define("ld_contexts", "sum", dimensions=["projectKey"])
        assert report_api.refuse("total-mau")[0] == 404
        assert report_api.refuse("mau/sdks")[0] == 404

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def test_of_other_methods(self, live_reporter: Reporter, report_api: ReportApi, method: str) -> None:
        for row in ENDPOINTS:
            response = report_api.call(address(row), method=method)
            assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "nothing",
            "total-mau/",
            "mau/",
            "streams",
            "streams/client/",
            "evaluations/shop/live",
            "events/received/x",
        ],
    )
    def test_of_paths_to_nothing(self, live_reporter: Reporter, report_api: ReportApi, path: str) -> None:
        assert report_api.refuse(path)[:2] == (404, "not_found")

    def test_of_what_no_query_can_be(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        many = [("sdkName", str(number)) for number in range(1001)]
        assert report_api.refuse("total-mau", *many)[:2] == (400, "invalid_request")
        assert report_api.refuse("total-mau", ("sdkName", "\x00"))[:2] == (400, "invalid_request")
        assert report_api.refuse("total-mau", ("color", "red"))[:2] == (400, "invalid_request")
        answer = report_api.refuse("clientside-mau", ("groupBy", "sdkType"))
        assert answer == (400, "invalid_request", "Invalid group by argument: sdkType")

    def test_of_more_values_than_anybody_reads(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        query = (("from", "0"), ("granularity", "hourly"))
        assert report_api.refuse("observability/metrics", *query)[:2] == (400, "invalid_request")


class TestExistence:
    """A flag or project exists if somebody registered it or any event ever named it."""

    def test_of_sources_and_types(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        for path in ("streams/relay", "streams/relay/bysdkversion", "streams/Client/sdkversions", "events/lost"):
            assert report_api.refuse(path)[:2] == (404, "not_found")
        assert last_values(report_api.get("streams/browser")) == [0]

    def test_of_flags(self, live_reporter: Reporter, report_api: ReportApi) -> None:
        long_ago = timezone.now() - timedelta(days=200)
        live_reporter.send("ld_evaluations", long_ago, value=1, flagKey="banner", variation="on", **PLACE)
        assert report_api.get(EVALUATIONS)["metadata"] == []
        for path in ("evaluations/shop/live/other", "evaluations/shop/test/banner", "evaluations/blog/live/banner"):
            assert report_api.refuse(path)[:2] == (404, "not_found")
        live_reporter.meter.roll_up()
        assert report_api.get(EVALUATIONS)["metadata"] == []

    def test_of_projects(self, live_reporter: Reporter, report_api: ReportApi, org: Organization) -> None:
        observed = [row for row in ENDPOINTS if row.refuses_unknown_projects]
        assert len(observed) == 6
        create_project(organization=org, actor="test", key="registered", name="Registered")
        live_reporter.send("ld_vega_ai", timezone.now() - timedelta(days=200), value=1, projectKey="asked-long-ago")
        live_reporter.send("ld_events", timezone.now(), value=1, direction="received")
        live_reporter.see("ann", timezone.now() - timedelta(days=100), projectKey="seen")
        live_reporter.meter.roll_up()
        for row in observed:
            for project in ("registered", "asked-long-ago", "seen", "Unknown"):
                assert last_values(report_api.get(row.path, ("projectKey", project))) == [0]
            status, code, message = report_api.refuse(row.path, ("projectKey", "nothing"))
            assert (status, code) == (404, "not_found")
            assert "nothing" in message
            query = (("projectKey", "registered"), ("projectKey", "nothing"))
            assert report_api.refuse(row.path, *query)[0] == 404

    def test_is_not_asked_where_the_contract_has_no_such_refusal(
        self, live_reporter: Reporter, report_api: ReportApi
    ) -> None:
        assert last_values(report_api.get("total-mau", ("projectKey", "nothing"))) == [0]
        assert report_api.get("mau", ("project", "nothing"))["metadata"] == [{}]

    def test_another_organizations_flags_and_projects_do_not_exist(
        self, live_reporter: Reporter, report_api_with: MakeApi, other_org: Organization, other_api_key: IssuedKey
    ) -> None:
        send_some_of_everything(live_reporter)
        Reporter(other_org, timezone.now())
        outsider = report_api_with(other_api_key)
        assert outsider.refuse(EVALUATIONS)[0] == 404
        assert outsider.refuse("vega-ai", ("projectKey", "shop"))[0] == 404


class TestWhoseUsage:
    def test_a_bound_key_sees_its_customer_alone_and_others_all(
        self, live_reporter: Reporter, report_api: ReportApi, report_api_with: MakeApi, org: Organization
    ) -> None:
        send_some_of_everything(live_reporter, customer="acme", times=2)
        send_some_of_everything(live_reporter, customer="globex", times=3)
        acme = Customer.objects.for_organization(org).get(external_id="acme")
        bound = report_api_with(factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ,), customer=acme))
        for row in ENDPOINTS:
            if row.answer == Answer.SERIES:
                assert max(last_values(report_api.get(address(row)))) == 5, row.path
                assert max(last_values(bound.get(address(row)))) == 2, row.path
        live_reporter.send("ld_streams", timezone.now(), customer="globex", value=1, source="server", sdkName="Go")
        assert bound.get("streams/server/sdkversions")["sdkVersions"] == []
        live_reporter.see("x", timezone.now(), customer="globex", sdkName="Secret")
        assert bound.get("mau/sdks")["sdks"] == ["Unknown"]
        live_reporter.send("ld_evaluations", timezone.now(), customer="globex", value=1, flagKey="hidden", **PLACE)
        assert bound.refuse("evaluations/shop/live/hidden")[0] == 404

    def test_an_outsider_sees_nothing(
        self, live_reporter: Reporter, report_api_with: MakeApi, other_org: Organization, other_api_key: IssuedKey
    ) -> None:
        send_some_of_everything(live_reporter)
        Reporter(other_org, timezone.now())
        outsider = report_api_with(other_api_key)
        for row in ENDPOINTS:
            response = outsider.call(address(row), [(row.group_parameter, row.groups[0].name)] if row.groups else [])
            if response.status_code == 404:
                assert row.path.startswith("evaluations/")
                continue
            answer = json.loads(response.content)
            assert (answer.get("sdks", []), answer.get("sdkVersions", [])) == ([], [])
            assert not any(map(any, map(last_values, [answer] if "series" in answer else [])))


class TestCost:
    def test_the_number_of_queries_does_not_grow_with_groups(
        self, live_reporter: Reporter, report_api: ReportApi
    ) -> None:
        def count(*query: tuple[str, str]) -> int:
            with CaptureQueriesContext(
                connection,
            ) as captured:
                report_api.get("clientside-mau", *query)
            return len(captured)

        now = timezone.now()
        year = ("from", str(int((now - timedelta(days=364)).timestamp())))
        groups = ("groupBy", "projectId,environmentId,sdkName")
        live_reporter.see("ann", now, projectKey="p", environmentKey="e")
        live_reporter.meter.roll_up()
        few = [count(groups, year) for _ in range(2)]
        for number in range(20):
            at = now - number * timedelta(days=15)
            live_reporter.see(f"{number}", at, projectKey=f"p{number}", environmentKey="e")
        live_reporter.meter.roll_up()
        many = [count(groups, year) for _ in range(2)]
        assert many[1] <= few[1]
        assert max(many) <= 20
