"""What the analytics refuse, and how; what they mean by a range; who may ask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization, User
from accounts.services import IssuedKey
from metering.models import Horizon
from metering.queries import raw_groups
from metering.services.metrics import install_catalog
from metering.services.rollup import roll_up_organization
from tests import factories
from tests.usage_reports.gateway.conftest import AnalyticsApi, body_of
from tests.usage_reports.gateway.traffic import SentRequest, send
from usage_reports.gateway import engine

pytestmark = pytest.mark.django_db

LISTS = {
    "analytics/users": {},
    "analytics/routes": {},
    "analytics/requests": {},
    "analytics/daily": {},
    "analytics/monthly": {},
    "analytics/aggregate": {"group_by": "route"},
}
RANGES = {**LISTS, "analytics/summary": {}, "analytics/export": {}}
CODES = tuple(sorted(engine.CODES))


class TestRefusals:
    @pytest.mark.parametrize(
        ("query", "code", "field"),
        [
            ({"from_": "2026-02-02", "to": "2026-02-01"}, "invalid_range", "from"),
            ({"from_": "2026-02-02T10:00:00Z", "to": "2026-02-02T10:00:00Z"}, "invalid_range", "from"),
            ({"from_": "2025-02-30"}, "invalid_date", "from"),
            ({"to": "2025-13-01"}, "invalid_date", "to"),
            ({"from_": "yesterday"}, "invalid_timestamp", "from"),
            ({"from_": "2026-02-02T10:00:00"}, "invalid_timestamp", "from"),
            ({"from_": "20260202"}, "invalid_timestamp", "from"),
            ({"from_": "1764000000"}, "invalid_timestamp", "from"),
            ({"from_": ""}, "blank", "from"),
            ({"to": "9999-01-01"}, "out_of_range", "to"),
            ({"from_": "1969-12-31"}, "out_of_range", "from"),
            ({"status": "6xx"}, "invalid_status", "status"),
            ({"status": "4x"}, "invalid_status", "status"),
            ({"status": "099"}, "invalid_status", "status"),
            ({"status": "٤٠٤"}, "invalid_status", "status"),
            ({"user": ""}, "blank", "user"),
            ({"route": "a\x00b"}, "null_characters_not_allowed", "route"),
            ({"customer": "a"}, "unknown_field", "customer"),
            ({"form": "2026-01-01"}, "unknown_field", "form"),
            ({"user": ["a", "b"]}, "repeated", "user"),
        ],
        ids=str,
    )
    def test_of_what_everything_takes(
        self, analytics: AnalyticsApi, query: dict[str, Any], code: str, field: str
    ) -> None:
        for path, needed in RANGES.items():
            assert analytics.refuse(path, **needed, **query) == (422, code, field), path

    @pytest.mark.parametrize(
        ("query", "code", "field"),
        [
            ({"limit": "0"}, "min_value", "limit"),
            ({"limit": "-1"}, "min_value", "limit"),
            ({"limit": "1001"}, "max_value", "limit"),
            ({"limit": "abc"}, "invalid", "limit"),
            ({"limit": "1.5"}, "invalid", "limit"),
            ({"limit": ""}, "invalid", "limit"),
            ({"sort": "name"}, "invalid_choice", "sort"),
            ({"sort": "--requests"}, "invalid_choice", "sort"),
            ({"sort": ""}, "invalid_choice", "sort"),
            ({"format": "csv"}, "unknown_field", "format"),
        ],
        ids=str,
    )
    def test_of_what_lists_take(self, analytics: AnalyticsApi, query: dict[str, Any], code: str, field: str) -> None:
        for path, needed in LISTS.items():
            assert analytics.refuse(path, **needed, **query) == (422, code, field), path

    @pytest.mark.parametrize(
        ("path", "group", "code"),
        [
            ("aggregate", "week", "invalid_choice"),
            ("aggregate", "", "invalid_choice"),
            ("aggregate", None, "required"),
            ("aggregate", ["day", "user"], "repeated"),
            ("requests", "route", "invalid_choice"),
            ("daily", "path", "invalid_choice"),
            ("monthly", "day", "invalid_choice"),
            ("users", "user", "unknown_field"),
            ("summary", "user", "unknown_field"),
        ],
    )
    def test_of_groups(self, analytics: AnalyticsApi, path: str, group: Any, code: str) -> None:
        query = {} if group is None else {"group_by": group}

        assert analytics.refuse(f"analytics/{path}", **query) == (422, code, "group_by")

    @pytest.mark.parametrize("file_format", ["xml", "CSV", ""])
    def test_of_a_format(self, analytics: AnalyticsApi, file_format: str) -> None:
        assert analytics.refuse("analytics/export", format=file_format) == (422, "invalid_choice", "format")

    def test_of_more_hours_than_can_be_read(self, org: Organization, analytics: AnalyticsApi) -> None:
        found = analytics.refuse("analytics/aggregate", group_by="hour", from_="1990-01-01", to="2020-01-01")

        assert found == (422, "too_many_rows", "from")

    def test_of_more_requests_than_are_read_one_by_one(
        self, org: Organization, analytics: AnalyticsApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = datetime.now(UTC)
        send(org, [SentRequest(f"r{n}", "usr", now) for n in range(3)], now=now)
        monkeypatch.setattr(engine, "MAX_RAW_REQUESTS", 2)

        assert analytics.refuse("analytics/export") == (422, "too_many_requests", "from")
        assert analytics.refuse("analytics/aggregate", group_by="path") == (422, "too_many_requests", "from")
        assert analytics.get("analytics/aggregate", group_by="route")["data"][0]["attributes"]["requests"] == 3

    def test_of_what_takes_too_long(
        self, org: Organization, analytics: AnalyticsApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = datetime.now(UTC)
        send(org, [SentRequest(f"r{n}", "usr", now, path=f"/{n}") for n in range(5_000)], now=now)
        monkeypatch.setattr(raw_groups, "TIMEOUT_MS", 1)

        assert analytics.refuse("analytics/aggregate", group_by="path") == (422, "range_too_long", "from")
        assert analytics.get("analytics/aggregate", group_by="route")["meta"]["total"] == 1

    def test_of_a_user_who_is_not_there(self, other_org: Organization, analytics: AnalyticsApi) -> None:
        factories.make_customer(organization=other_org, external_id="theirs")

        for path, query in RANGES.items():
            assert analytics.refuse(path, **query, user="theirs")[:2] == (404, "not_found")

    def test_of_a_method(self, analytics: AnalyticsApi) -> None:
        assert analytics.client.post("/admin/analytics/summary").status_code == 405


class TestRange:
    def test_is_the_last_thirty_days_in_the_organizations_zone(
        self, org: Organization, analytics: AnalyticsApi
    ) -> None:
        Organization.objects.filter(pk=org.pk).update(zone="Pacific/Auckland")

        attributes = analytics.get("analytics/summary")["data"]["attributes"]

        start, end = (datetime.fromisoformat(attributes[name]) for name in ("from", "to"))
        assert start < datetime.now(UTC) - timedelta(days=29)
        assert datetime.now(UTC) < end <= datetime.now(UTC) + timedelta(days=1)
        assert timedelta(days=30, hours=-1) <= end - start <= timedelta(days=30, hours=1)  # the clocks may change

    def test_of_months_is_the_last_twelve(self, org: Organization, analytics: AnalyticsApi) -> None:
        meta = analytics.get("analytics/monthly", to="2026-02-10")["meta"]

        assert (meta["from"], meta["to"]) == ("2025-03-01T00:00:00Z", "2026-02-11T00:00:00Z")

    def test_begins_thirty_days_before_its_end(self, analytics: AnalyticsApi) -> None:
        attributes = analytics.get("analytics/summary", to="2026-03-01")["data"]["attributes"]

        assert attributes["from"] == "2026-01-31T00:00:00Z"

    def test_that_begins_after_today_has_no_requests(self, analytics: AnalyticsApi) -> None:
        assert analytics.get("analytics/summary", from_="2200-01-01")["data"]["attributes"]["total_requests"] == 0

    def test_of_dates_includes_both_days_and_of_times_not_the_end(
        self, org: Organization, analytics: AnalyticsApi, now: datetime
    ) -> None:
        Organization.objects.filter(pk=org.pk).update(zone="Europe/Berlin")
        midnight = datetime(2026, 11, 18, 23, 0, tzinfo=UTC)  # of the 19th in Berlin
        instant = timedelta(microseconds=1)
        times = (midnight - instant, midnight, midnight + timedelta(days=1) - instant, midnight + timedelta(days=1))
        send(org, [SentRequest(f"r{n}", "usr", at) for n, at in enumerate(times)], now=now)

        def ids(**query: str) -> list[str]:
            return sorted(row["request_id"] for row in analytics.get("analytics/export", **query, format="json"))

        assert ids(from_="2026-11-19", to="2026-11-19") == ["r1", "r2"]
        assert ids(from_="2026-11-18T23:00:00Z", to="2026-11-19T23:00:00Z") == ["r1", "r2"]
        assert ids(from_="2026-11-18T23:00:00Z", to="2026-11-19T23:00:00.000001Z") == ["r1", "r2", "r3"]


class TestRawRetention:
    """Raw requests are gone before noon of 10 November; what was counted of them stays."""

    @pytest.fixture(autouse=True)
    def requests(self, org: Organization, now: datetime) -> None:
        times = (datetime(2026, 11, 8, 9, tzinfo=UTC), datetime(2026, 11, 12, 9, tzinfo=UTC))
        send(org, [SentRequest(f"r{n}", "usr", at, path="/a") for n, at in enumerate(times)], now=now)
        roll_up_organization(organization_id=org.pk, now=now)
        Horizon.objects.for_organization(org).update(raw_from=datetime(2026, 11, 10, 12, tzinfo=UTC))

    @pytest.mark.parametrize(("path", "query"), [("export", {}), ("aggregate", {"group_by": "path"})])
    def test_earlier_requests_are_refused_with_the_first_day(
        self, analytics: AnalyticsApi, path: str, query: dict[str, str]
    ) -> None:
        answer = analytics.call(f"analytics/{path}", **query, from_="2026-11-10", to="2026-11-20")

        assert answer.status_code == 422
        assert answer.json()["earliest"] == "2026-11-11"
        assert answer.json()["errors"][0]["code"] == "range_not_kept"
        assert answer.json()["errors"][0]["field"] == "from"
        assert analytics.call(f"analytics/{path}", **query, from_="2026-11-11", to="2026-11-20").status_code == 200

    def test_range_without_a_beginning_begins_where_they_are_kept(self, analytics: AnalyticsApi) -> None:
        rows = analytics.get("analytics/export", to="2026-11-20", format="json")
        groups = analytics.get("analytics/aggregate", to="2026-11-20", group_by="path")

        assert [row["request_id"] for row in rows] == ["r1"]
        assert groups["meta"]["from"] == "2026-11-11T00:00:00Z"
        assert groups["data"][0]["attributes"]["requests"] == 1

    def test_totals_of_whole_hours_are_still_told(self, analytics: AnalyticsApi) -> None:
        attributes = analytics.get("analytics/summary", from_="2026-11-01", to="2026-11-20")["data"]["attributes"]

        assert attributes["total_requests"] == 2

    def test_half_an_hour_is_refused_in_the_same_words(self, analytics: AnalyticsApi) -> None:
        answer = analytics.call("analytics/users", from_="2026-11-08T08:30:00Z", to="2026-11-20")

        assert answer.status_code == 422
        assert answer.json()["earliest"] == "2026-11-11"


class TestNothing:
    @pytest.mark.parametrize("has_catalog", [False, True])
    def test_is_zeros_and_empty_lists(self, org: Organization, analytics: AnalyticsApi, has_catalog: bool) -> None:
        if has_catalog:
            install_catalog(organization=org, name="api-gateway", actor="test")

        summary = analytics.get("analytics/summary")["data"]["attributes"]

        assert (summary["total_requests"], summary["error_rate"], summary["by_status"]) == (0, 0, {})
        assert summary["latency_ms"] == {"mean": None, "p50": None, "p95": None, "p99": None}
        nothing = {"total": 0, "by_code": {}}
        assert summary["metering_errors"] == {**nothing, "refused": nothing}
        for path, query in LISTS.items():
            rows = analytics.get(path, **query)["data"]
            assert rows == [] or path == "analytics/requests"
        assert [row["attributes"]["requests"] for row in analytics.get("analytics/requests")["data"]] == [0] * 30
        assert analytics.get("analytics/aggregate", group_by="path")["data"] == []
        assert analytics.get("analytics/export", format="json") == []
        assert body_of(analytics.call("analytics/export")).startswith(b"request_id,user_id,")

    def test_comes_of_metrics_of_the_same_names_that_are_others(
        self, org: Organization, analytics: AnalyticsApi
    ) -> None:
        metric = {"code": "api_requests", "aggregation": "sum"}
        assert analytics.client.post("/v1/metrics", metric, content_type="application/json").status_code == 201

        assert analytics.get("analytics/users", status="5xx", route="r")["data"] == []


class TestAccess:
    @pytest.fixture(autouse=True)
    def requests(self, org: Organization) -> None:
        now = datetime.now(UTC)
        requests = [
            SentRequest("r1", "ann", now, route="r"),
            SentRequest("r2", "bea", now),
            SentRequest("r3", "bea", now),
        ]
        send(org, requests, now=now)

    def test_needs_usage_read(
        self, org: Organization, client: Client, analytics_with: Callable[[IssuedKey], AnalyticsApi]
    ) -> None:
        writer = analytics_with(factories.make_api_key(organization=org, scopes=("events:write",)))
        reader = analytics_with(factories.make_api_key(organization=org, scopes=("usage:read",)))

        for path, query in {**RANGES, "users/ann/usage": {}}.items():
            assert client.get(f"/admin/{path}", query).status_code == 401
            assert writer.refuse(path, **query)[0] == 403
            assert reader.call(path, **query).status_code == 200

    def test_key_of_a_customer_sees_that_customer_alone(
        self, org: Organization, analytics_with: Callable[[IssuedKey], AnalyticsApi]
    ) -> None:
        ann = org.customers.get(external_id="ann")
        bound = analytics_with(factories.make_api_key(organization=org, customer=ann))

        assert bound.get("analytics/summary")["data"]["attributes"]["total_requests"] == 1
        assert [row["id"] for row in bound.get("analytics/users")["data"]] == ["ann"]
        assert [row["id"] for row in bound.get("analytics/routes")["data"]] == ["r"]
        assert [row["request_id"] for row in bound.get("analytics/export", format="json")] == ["r1"]
        assert bound.get("users/ann/usage")["data"]["attributes"]["total_requests"] == 1
        assert bound.refuse("users/bea/usage")[0] == 404
        for path, query in RANGES.items():
            assert bound.refuse(path, **query, user="bea")[0] == 404

    def test_key_of_metrics_needs_all_of_the_gateways(
        self, org: Organization, analytics_with: Callable[[IssuedKey], AnalyticsApi]
    ) -> None:
        some = analytics_with(factories.make_api_key(organization=org, metric_codes=("api_requests",)))
        every = analytics_with(factories.make_api_key(organization=org, metric_codes=CODES))

        assert some.refuse("analytics/summary")[:2] == (403, "bound_key")
        assert some.refuse("analytics/live")[:2] == (403, "bound_key")
        assert every.get("analytics/summary")["data"]["attributes"]["total_requests"] == 3

    def test_another_organization_has_none_of_it(self, outsider_client: Client) -> None:
        outsider = AnalyticsApi(outsider_client)

        assert outsider.get("analytics/users")["data"] == []
        assert outsider.get("analytics/export", format="json") == []
        assert outsider.refuse("users/ann/usage")[0] == 404

    def test_signed_in_member_needs_no_key(
        self, org: Organization, bob: User, charlie: User, client_for: Callable[[User], Client]
    ) -> None:
        assert client_for(bob).get("/admin/analytics/users").json()["meta"]["total"] == 2
        headers = {"Meterbook-Organization": str(org.pk)}
        assert client_for(charlie).get("/admin/analytics/users", headers=headers).status_code == 404


def test_path_that_is_none_is_not_found_and_no_page_of_the_admin(client: Client) -> None:
    paths = ("analytics", "analytics/", "users", "users/", "analytics/nothing", "users/ann", "users/ann/nothing")
    for path in (f"/admin/{path}" for path in paths):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert client.get("/admin/").status_code == 302
