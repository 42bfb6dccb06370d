"""GET /v1/billing/usage: what APIGate's page shows, to the last field and digit."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from billing.queries.billing_usage import find_month
from metering.services.metrics import install_catalog
from tests.api.conftest import Api
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db

JANUARY = datetime(2025, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
# As the page has it.
EXAMPLE = """
{
  "user_id": "usr_xxx",
  "period": "2025-01",
  "plan": "Pro",
  "included_units": 100000,
  "used_units": 115000,
  "overage_units": 15000,
  "overage_rate_cents": 0.1,
  "overage_amount_cents": 1500
}
"""


@pytest.fixture
def gateway(live_seller: Seller) -> Seller:
    """An API gateway's organization with the plan of the page's example."""
    for metric in install_catalog(organization=live_seller.organization, name="api-gateway", actor="test"):
        live_seller.metrics[metric.code] = metric
    live_seller.plan("pro", written("per_unit", "0.1", metric="api_units", included_quantity=100_000), name="Pro")
    return live_seller


def request(seller: Seller, user: str, units: Any, at: datetime, route: str = "users-api") -> None:
    """Send one recorded request of so many units."""
    properties = {"metered_units": units, "route_id": route, "method": "GET", "status": "200", "latency_ms": 3}
    seller.send_all({"customer": user, "type": "api_request", "timestamp": at.isoformat(), "properties": properties})


def ask(api: Api, **query: str) -> Any:
    """Return the answer with every number as it was written."""
    response = api.call("GET", "/v1/billing/usage", query=query)
    assert response.status_code == 200, response.content
    return json.loads(response.content, parse_float=Decimal)


def test_example_of_the_page_is_answered_field_by_field(gateway: Seller, api: Api) -> None:
    gateway.subscribe("usr_xxx", "pro", start=JANUARY)
    for day, units in ((1, 100_000), (15, 14_999), (31, "1")):
        request(gateway, "usr_xxx", Decimal(units), datetime(2025, 1, day, 12, tzinfo=UTC))
    request(gateway, "usr_xxx", 7, datetime(2025, 2, 1, tzinfo=UTC))

    answer = ask(api, user="usr_xxx", period="2025-01")

    expected = json.loads(EXAMPLE, parse_float=Decimal)
    assert answer == expected
    assert list(answer) == list(expected)


def test_below_the_included_units_nothing_is_due(gateway: Seller, api: Api) -> None:
    gateway.subscribe("usr", "pro", start=JANUARY)
    request(gateway, "usr", Decimal("99999.5"), datetime(2025, 1, 2, tzinfo=UTC))

    answer = ask(api, user="usr", period="2025-01")

    assert (answer["used_units"], answer["overage_units"]) == (Decimal("99999.5"), 0)
    assert answer["overage_amount_cents"] == 0


def test_month_names_the_billing_period_that_begins_in_it(gateway: Seller, api: Api) -> None:
    gateway.subscribe("usr", "pro", start=datetime(2025, 1, 15, tzinfo=UTC))
    for day, month in ((14, 1), (15, 1), (14, 2), (15, 2)):
        request(gateway, "usr", 10 if day == 15 else 1, datetime(2025, month, day, 12, tzinfo=UTC))

    assert ask(api, user="usr", period="2025-01")["used_units"] == 11
    assert ask(api, user="usr", period="2025-02")["used_units"] == 10


def test_numbers_are_written_without_padding(gateway: Seller, api: Api) -> None:
    gateway.subscribe("usr", "pro", start=JANUARY)
    request(gateway, "usr", Decimal("100000.50"), datetime(2025, 1, 2, tzinfo=UTC))

    written = api.call("GET", "/v1/billing/usage?user=usr&period=2025-01").content.decode()

    assert written.replace(" ", "").endswith(
        '"included_units":100000,"used_units":100000.5,"overage_units":0.5,'
        '"overage_rate_cents":0.1,"overage_amount_cents":0}'
    )


class TestEveryUsageIsInOneMonth:
    def test_periods_that_begin_in_one_month_are_added_up_and_listed(self, gateway: Seller, api: Api) -> None:
        """A trial, 11 of 31 days up to the anchor, which include 4 of 10 units, and the first whole period."""
        gateway.plan("one", written("per_unit", 2, metric="api_units", included_quantity=10), name="One")
        gateway.subscribe("usr", "one", start=JANUARY, anchor_day=15, trial_days=3)
        for day, units in ((1, 100), (5, 11), (20, 13)):
            request(gateway, "usr", units, datetime(2025, 1, day, tzinfo=UTC))

        answer = ask(api, user="usr", period="2025-01")

        assert (answer["included_units"], answer["used_units"], answer["overage_units"]) == (24, 124, 100)
        assert (answer["overage_rate_cents"], answer["overage_amount_cents"]) == (None, 20)
        assert [
            (row["start"][:10], row["end"][:10], row["is_trial"], row["used_units"], row["overage_amount_cents"])
            for row in answer["periods"]
        ] == [
            ("2025-01-01", "2025-01-04", True, 100, 0),
            ("2025-01-04", "2025-01-15", False, 11, 14),
            ("2025-01-15", "2025-02-15", False, 13, 6),
        ]

    def test_subscription_that_follows_another_takes_nothing_from_it(self, gateway: Seller, api: Api) -> None:
        ended = gateway.subscribe("usr", "pro", start=JANUARY)
        gateway.cancel(ended, "now", at=datetime(2025, 1, 20, tzinfo=UTC))
        gateway.subscribe("usr", "pro", start=datetime(2025, 1, 20, tzinfo=UTC))
        for day in (19, 20):
            request(gateway, "usr", day, datetime(2025, 1, day, tzinfo=UTC))

        assert [row["used_units"] for row in ask(api, user="usr", period="2025-01")["periods"]] == [19, 20]

    def test_default_plan_has_the_rest_of_the_month(self, gateway: Seller, api: Api) -> None:
        gateway.plan("free", written("per_unit", 2, metric="api_units"), name="Free", is_default=True)
        gateway.subscribe("usr", "pro", start=datetime(2025, 3, 15, tzinfo=UTC))
        for month, day in ((3, 14), (3, 15), (4, 14), (4, 15)):
            request(gateway, "usr", day, datetime(2025, month, day, tzinfo=UTC))

        march, april = (ask(api, user="usr", period=f"2025-0{month}") for month in (3, 4))

        assert [(row["plan"], row["used_units"]) for row in march["periods"]] == [("Free", 14), ("Pro", 29)]
        assert (march["plan"], march["used_units"], march["overage_amount_cents"]) == ("Pro", 43, 28)
        assert (april["plan"], april["used_units"], "periods" in april) == ("Pro", 15, False)

    def test_amounts_of_two_currencies_are_not_added_up(self, gateway: Seller, api: Api) -> None:
        gateway.plan("yen", written("per_unit", 2, metric="api_units"), currency="JPY")
        for plan in ("pro", "yen"):
            gateway.subscribe("usr", plan, start=JANUARY)

        assert api.refuse("GET", "/v1/billing/usage?user=usr&period=2025-01")[:2] == (409, "mixed_currencies")

    def test_queries_do_not_grow_with_subscriptions(self, gateway: Seller, api: Api) -> None:
        gateway.plan("free", written("flat", 2), is_default=True)
        gateway.subscribe("usr", "pro", start=JANUARY)

        def count() -> int:
            ask(api, user="usr", period="2025-01")  # the first notes that the key was used
            with CaptureQueriesContext(connection) as seen:
                ask(api, user="usr", period="2025-01")
            return len(seen)

        before = count()
        for number in range(4):
            gateway.plan(f"fee-{number}", written("flat", 2))
            gateway.subscribe("usr", f"fee-{number}", start=JANUARY)
        assert count() == before


class TestMonthsNamedByTheTimeOfDay:
    def test_without_a_month_it_is_the_one_in_which_the_running_period_begins(self, gateway: Seller, api: Api) -> None:
        """The anchor is the day after tomorrow, so the period that runs began in another month than a calendar's."""
        now = gateway.now
        row = gateway.subscribe("usr", "pro", start=now - 70 * DAY, anchor_day=(now + 2 * DAY).day, zone="UTC")
        request(gateway, "usr", 7, now - timedelta(seconds=5))
        period = api.get(f"/v1/subscriptions/{row.pk}")["current_period"]["start"][:7]
        month_before = f"{datetime.fromisoformat(f'{period}-01') - DAY:%Y-%m}"

        running = ask(api, user="usr")

        assert (running["period"], running["used_units"]) == (period, 7)
        assert ask(api, user="usr", period="current") == ask(api, user="usr", period=period) == running
        assert ask(api, user="usr", period="last") == ask(api, user="usr", period=month_before)
        assert ask(api, user="usr", period="last")["period"] == month_before

    def test_the_running_period_is_found_in_the_zone_of_its_subscription(self, gateway: Seller) -> None:
        gateway.plan("fee", written("flat", 2))
        gateway.plan("free", written("per_unit", 2, metric="api_units"), is_default=True)
        gateway.subscribe("usr", "pro", start=datetime(2024, 12, 31, 15, tzinfo=UTC), zone="Asia/Tokyo")
        gateway.subscribe("usr", "fee", start=JANUARY, anchor_day=1, zone="Pacific/Kiritimati")
        gateway.customer("free", zone="Asia/Tokyo")

        def month(user: str, name: str, hour: int) -> tuple[int, int]:
            at, metric = datetime(2025, 3, 31, hour, tzinfo=UTC), gateway.metrics["api_units"]
            return find_month(name, customer=gateway.customer(user), metric=metric, now=at)

        # Tokyo's April begins at 15:00. It has begun at 14:00 on Kiritimati, but there only a fee is charged.
        for user in ("usr", "free"):
            assert [month(user, "current", hour) for hour in (14, 15)] == [(2025, 3), (2025, 4)]
            assert [month(user, "last", hour) for hour in (14, 15)] == [(2025, 2), (2025, 3)]
            assert month(user, "2024-12", 15) == (2024, 12)

    def test_where_nothing_runs_it_is_the_calendar_month(self, gateway: Seller, api: Api) -> None:
        gateway.customer("usr", zone="UTC")

        assert api.refuse("GET", "/v1/billing/usage?user=usr")[:2] == (404, "no_subscription")
        at, metric = datetime(2025, 1, 1, tzinfo=UTC), gateway.metrics["api_units"]
        assert find_month("last", customer=gateway.customer("usr"), metric=metric, now=at) == (2024, 12)


class TestWithoutSubscription:
    def test_default_plan_prices_the_calendar_month_of_the_users_zone(self, gateway: Seller, api: Api) -> None:
        price = written("per_unit", 2, metric="api_units")
        gateway.plan("free", price, name="Free", is_default=True)
        gateway.customer("usr", zone="Asia/Tokyo")
        request(gateway, "usr", 3, datetime(2024, 12, 31, 15, tzinfo=UTC))  # midnight in Tokyo
        request(gateway, "usr", 100, datetime(2025, 1, 31, 15, tzinfo=UTC))

        answer = ask(api, user="usr", period="2025-01")

        assert (answer["plan"], answer["used_units"], answer["overage_amount_cents"]) == ("Free", 3, 6)

    def test_and_without_a_default_plan_it_says_so(self, gateway: Seller, api: Api) -> None:
        gateway.customer("usr")

        assert api.refuse("GET", "/v1/billing/usage?user=usr&period=2025-01")[:2] == (404, "no_subscription")

    def test_of_that_month_the_default_plan_counts(self, gateway: Seller, api: Api) -> None:
        gateway.plan("free", written("per_unit", 2, metric="api_units"), name="Free", is_default=True)
        gateway.subscribe("usr", "pro", start=datetime(2025, 3, 1, tzinfo=UTC))

        assert ask(api, user="usr", period="2025-01")["plan"] == "Free"
        assert ask(api, user="usr", period="2025-03")["plan"] == "Pro"


class TestPricing:
    def test_prices_of_parts_are_listed_and_added_up(self, gateway: Seller, api: Api) -> None:
        parts = [
            written("per_unit", "0.5", metric="api_units", filters={"route_id": ["search"]}, included_quantity=10),
            written("per_unit", 2, metric="api_units"),
        ]
        gateway.plan("parts", *parts)
        gateway.subscribe("usr", "parts", start=JANUARY)
        at = datetime(2025, 1, 9, tzinfo=UTC)
        request(gateway, "usr", 15, at, "search")
        request(gateway, "usr", 4, at)

        answer = ask(api, user="usr", period="2025-01")

        assert (answer["included_units"], answer["used_units"], answer["overage_units"]) == (10, 19, 9)
        assert (answer["overage_rate_cents"], answer["overage_amount_cents"]) == (None, 11)  # 2.5 up to 3, and 8
        assert [(row["filters"], row["used_units"], row["overage_amount_cents"]) for row in answer["pricing"]] == [
            ({"route_id": ["search"]}, 15, 3),
            ({}, 4, 8),
        ]

    def test_tiers_have_no_one_rate(self, gateway: Seller, api: Api) -> None:
        gateway.plan("tiers", written("graduated", metric="api_units", tiers=[(10, 3), (None, 1)]))
        gateway.subscribe("usr", "tiers", start=JANUARY)
        request(gateway, "usr", 12, datetime(2025, 1, 9, tzinfo=UTC))

        answer = ask(api, user="usr", period="2025-01")

        assert (answer["overage_rate_cents"], answer["overage_amount_cents"]) == (None, 32)
        [price] = answer["pricing"]
        assert [(step["kind"], step["amount_minor"]) for step in price["steps"]] == [("tier", "30"), ("tier", "2")]

    def test_metric_chooses_among_the_plans_prices(self, gateway: Seller, api: Api) -> None:
        both = [written("per_unit", 1, metric=code) for code in ("api_units", "api_requests")]
        gateway.plan("both", *both)
        gateway.subscribe("usr", "both", start=JANUARY)
        request(gateway, "usr", 12, datetime(2025, 1, 9, tzinfo=UTC))

        assert ask(api, user="usr", period="2025-01")["overage_amount_cents"] == 12
        assert ask(api, user="usr", period="2025-01", metric="api_requests")["overage_amount_cents"] == 1
        refusal = api.refuse("GET", "/v1/billing/usage?user=usr&period=2025-01&metric=api_bytes")
        assert refusal[:2] == (404, "metric_not_priced")


BAD_MONTHS = ("2025-13", "2025-1", "2025", "x", "1969-12", "", "Current", "next")
REFUSALS: list[tuple[dict[str, str], int, list[str]]] = [
    ({"period": "2025-01"}, 422, ["user"]),
    *(({"user": "usr", "period": text}, 422, ["period"]) for text in BAD_MONTHS),
    ({"user": "usr", "period": "2025-01", "more": "1"}, 422, ["more"]),
    ({"user": "nobody", "period": "2025-01"}, 404, []),
    ({"user": "usr", "period": "2025-01", "metric": "nothing"}, 404, []),
]


def test_refusals_name_the_parameter(gateway: Seller, api: Api) -> None:
    gateway.subscribe("usr", "pro", start=JANUARY)

    for query, status, fields in REFUSALS:
        refused = api.refuse("GET", "/v1/billing/usage", query=query)
        assert (refused[0], refused[2]) == (status, fields), query


def test_bound_key_sees_its_customer_only(gateway: Seller, api_with: Callable[..., Api], org: Organization) -> None:
    own, other = (gateway.subscribe(name, "pro", start=JANUARY) for name in ("usr", "other"))
    bound = api_with("billing:read", customer=own.customer)

    assert ask(bound, period="2025-01")["user_id"] == "usr"
    assert bound.refuse("GET", "/v1/billing/usage?user=other&period=2025-01")[0] == 404
    assert [row["customer"] for row in bound.get("/v1/subscriptions")["data"]] == ["usr"]
    assert bound.get(f"/v1/subscriptions/{own.pk}/spend")["customer"] == "usr"
    assert bound.get(f"/v1/subscriptions/{own.pk}/spend/days")["subscription"] == str(own.pk)
    for path in ("spend", "spend/days"):
        assert bound.refuse("GET", f"/v1/subscriptions/{other.pk}/{path}")[0] == 404
    assert bound.refuse("GET", "/v1/plans")[:2] == (403, "bound_key")
    assert api_with("usage:read").refuse("GET", "/v1/billing/usage?user=usr&period=2025-01")[:2] == (
        403, "missing_scope"
    )  # fmt: skip
