"""`GET /admin/users/{id}/usage`: the month of a user, its quota, and the example of the documentation to the number."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from accounts.models import Customer, Organization
from metering.dialects.gateway.models import Route
from metering.models import TypeHorizon
from metering.services.rollup import roll_up_organization
from tests import factories
from tests.usage_reports.gateway.conftest import AnalyticsApi
from tests.usage_reports.gateway.traffic import SentRequest, send

pytestmark = pytest.mark.django_db

JANUARY = datetime(2025, 1, 1, tzinfo=UTC)
JSON = "application/json"


def make_example() -> Iterator[SentRequest]:
    """Yield 8,234 requests of one January: 5,000 on one route and 3,234 on another, 45,234,567 bytes in all."""
    for number in range(8_234):
        status = 200 if number < 8_100 else 404 if number < 8_220 else 503
        # 5,493 bytes each make 45,229,362; the last request has the other 5,205.
        yield SentRequest(
            id=f"req-{number}",
            user="usr_seed",
            at=JANUARY + timedelta(seconds=number * 325),
            status=status,
            route="users-api" if number % 8_234 < 5_000 else "orders-api",
            request_bytes=493,
            response_bytes=5_000 + (5_205 if number == 8_233 else 0),
        )


def define_routes(organization: Organization) -> None:
    for code, path in (("users-api", "/users"), ("orders-api", "/orders")):
        Route.objects.create(organization=organization, code=code, name=f"{code} v1", path_pattern=path)


def set_quota(api: AnalyticsApi, **quota: Any) -> None:
    answer = api.client.post("/v1/quotas", quota, content_type=JSON)
    assert answer.status_code == 201, answer.content


def test_example_of_the_documentation_comes_out_to_the_number(
    org: Organization, analytics: AnalyticsApi, now: datetime
) -> None:
    Organization.objects.filter(pk=org.pk).update(late_limit_days=None)
    org.refresh_from_db()
    define_routes(org)
    send(org, list(make_example()), now=now)
    roll_up_organization(organization_id=org.pk, now=now)
    set_quota(analytics, metric="api_requests", customer="usr_seed", limit=10_000)

    answer = analytics.get("users/usr_seed/usage", period="2025-01")

    assert answer == {
        "data": {
            "type": "usage",
            "attributes": {
                "period": "2025-01",
                "total_requests": 8234,
                "total_bytes": 45234567,
                "total_metered_units": 8234,
                "quota_limit": 10000,
                "quota_used_percent": Decimal("82.34"),
                "by_route": [
                    {"route_id": "users-api", "route_name": "users-api v1", "requests": 5000},
                    {"route_id": "orders-api", "route_name": "orders-api v1", "requests": 3234},
                ],
                "by_status": {"2xx": 8100, "4xx": 120, "5xx": 14},
            },
        }
    }


def usage_of(api: AnalyticsApi, user: str, **query: str) -> Any:
    return api.get(f"users/{user}/usage", **query)["data"]["attributes"]


class TestPeriod:
    def test_is_the_running_month_unless_told_otherwise(self, org: Organization, analytics: AnalyticsApi) -> None:
        now = datetime.now(UTC)
        before = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(seconds=1)
        requests = [SentRequest("a", "usr", now), SentRequest("b", "usr", before), SentRequest("c", "usr", before)]
        send(org, requests, now=now)

        assert (usage_of(analytics, "usr")["period"], usage_of(analytics, "usr")["total_requests"]) == (
            f"{now:%Y-%m}",
            1,
        )
        assert usage_of(analytics, "usr", period="current")["total_requests"] == 1
        assert usage_of(analytics, "usr", period="last")["total_requests"] == 2
        assert usage_of(analytics, "usr", period="last")["period"] == f"{before:%Y-%m}"
        assert usage_of(analytics, "usr", period=f"{before:%Y-%m}")["total_requests"] == 2

    def test_begins_on_the_customers_day_in_its_zone(
        self, org: Organization, analytics: AnalyticsApi, now: datetime
    ) -> None:
        Customer.objects.create(organization=org, external_id="usr", zone="Asia/Tokyo", billing_cycle_day=15)
        start = datetime(2026, 10, 14, 15, 0, tzinfo=UTC)  # midnight of the 15th in Tokyo
        instants = (start - timedelta(microseconds=1), start, datetime(2026, 11, 14, 14, 59, tzinfo=UTC))
        send(org, [SentRequest(f"r{at.timestamp()}", "usr", at) for at in instants], now=now)

        assert usage_of(analytics, "usr", period="2026-10")["total_requests"] == 2
        assert usage_of(analytics, "usr", period="2026-09")["total_requests"] == 1

    @pytest.mark.parametrize("period", ["2026-13", "2026", "2026-1", "1969-12", "9999-01", "", "next", "2026-11-01"])
    def test_that_is_no_month_is_refused(self, analytics: AnalyticsApi, org: Organization, period: str) -> None:
        factories.make_customer(organization=org, external_id="usr")

        status, _, field = analytics.refuse("users/usr/usage", period=period)

        assert (status, field) == (422, "period")

    def test_of_a_user_whose_name_is_a_path(self, org: Organization, analytics: AnalyticsApi) -> None:
        now = datetime.now(UTC)
        send(org, [SentRequest("a", "team/7", now), SentRequest("b", "team", now)], now=now)

        assert usage_of(analytics, "team/7")["total_requests"] == 1
        assert usage_of(analytics, "team%2F7")["total_requests"] == 1

    def test_that_is_no_longer_kept_is_refused_by_its_own_name(
        self, org: Organization, analytics: AnalyticsApi, now: datetime
    ) -> None:
        send(org, [SentRequest("a", "usr", now)], now=now)
        roll_up_organization(organization_id=org.pk, now=now)
        kept_from = datetime(2026, 3, 1, tzinfo=UTC)
        TypeHorizon.objects.create(organization=org, event_type="api_request", rollups_from=kept_from)

        answer = analytics.call("users/usr/usage", period="2026-01")

        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert (error["field"], error["code"]) == ("period", "range_not_kept")
        assert (answer.json()["earliest"], answer.json()["message"][:8]) == ("2026-03-01", "period: ")


class TestQuota:
    @pytest.fixture(autouse=True)
    def requests(self, org: Organization) -> None:
        now = datetime.now(UTC)
        send(org, [SentRequest(f"r{n}", "usr", now, units=Decimal("2.5")) for n in range(3)], now=now)

    def numbers(self, analytics: AnalyticsApi) -> tuple[Any, Any]:
        attributes = usage_of(analytics, "usr")
        return attributes["quota_limit"], attributes["quota_used_percent"]

    def test_nobody_set_is_null(self, analytics: AnalyticsApi) -> None:
        assert self.numbers(analytics) == (None, None)

    def test_without_a_limit_is_null(self, analytics: AnalyticsApi) -> None:
        set_quota(analytics, metric="api_requests", customer="usr", limit=None)

        assert self.numbers(analytics) == (None, None)

    def test_of_everybody_holds_for_each(self, analytics: AnalyticsApi) -> None:
        set_quota(analytics, metric="api_requests", limit=7)

        assert self.numbers(analytics) == (7, Decimal("42.86"))

    def test_of_its_own_comes_before_everybodys(self, analytics: AnalyticsApi) -> None:
        set_quota(analytics, metric="api_requests", limit=7)
        set_quota(analytics, metric="api_requests", customer="usr", limit=2)

        assert self.numbers(analytics) == (2, 150)

    def test_on_units_counts_units(self, analytics: AnalyticsApi) -> None:
        set_quota(analytics, metric="api_units", customer="usr", limit=10)

        assert self.numbers(analytics) == (10, 75)

    def test_of_nothing_has_no_percentage(self, analytics: AnalyticsApi) -> None:
        set_quota(analytics, metric="api_requests", customer="usr", limit=0)

        assert self.numbers(analytics) == (0, None)


def test_user_without_requests_or_catalog_has_zeros(org: Organization, analytics: AnalyticsApi) -> None:
    factories.make_customer(organization=org, external_id="usr")

    attributes = usage_of(analytics, "usr", period="2026-01")

    assert attributes == {
        "period": "2026-01",
        "total_requests": 0,
        "total_bytes": 0,
        "total_metered_units": 0,
        "quota_limit": None,
        "quota_used_percent": None,
        "by_route": [],
        "by_status": {},
    }


def test_id_may_hold_what_a_url_must_quote(org: Organization, analytics: AnalyticsApi) -> None:
    now = datetime.now(UTC)
    send(org, [SentRequest("r", "ann & bob?", now), SentRequest("s", "team/ann", now)], now=now)

    assert usage_of(analytics, "ann%20%26%20bob%3F")["total_requests"] == 1
    assert usage_of(analytics, "team%2Fann")["total_requests"] == 1


def test_user_of_somebody_else_is_not_found(other_org: Organization, analytics: AnalyticsApi) -> None:
    factories.make_customer(organization=other_org, external_id="usr")

    assert analytics.refuse("users/usr/usage")[0] == 404
    assert analytics.refuse("users/nobody/usage")[0] == 404
