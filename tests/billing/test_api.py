"""The REST API of plans, subscriptions, spend and previews."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.api.conftest import Api
from tests.billing.seller import Seller, written

pytestmark = pytest.mark.django_db

FEE = {"model": "flat", "amount": "4900", "name": "Base fee"}
PER_CALL = {"metric": "calls", "model": "per_unit", "amount": "0.1", "included_quantity": 1000}


@pytest.fixture
def sold(live_seller: Seller) -> Seller:
    """Two metrics to sell, on the real clock."""
    live_seller.define("calls", "sum")
    live_seller.define("compute", "sum", dimensions=["region"])
    return live_seller


def plan(**changes: Any) -> dict[str, Any]:
    return {"code": "pro", "name": "Pro", "currency": "USD", "prices": [FEE, PER_CALL]} | changes


PLAN_REFUSALS: list[tuple[dict[str, Any], list[str]]] = [
    ({"code": "Pro!"}, ["code"]),
    ({"currency": "XXX"}, ["currency"]),
    ({"currency": "usd"}, ["currency"]),
    ({"trial_days": -1}, ["trial_days"]),
    ({"prices": [{"model": "per_unit", "amount": 1}]}, ["prices[0].metric"]),
    ({"prices": [{"model": "magic", "amount": 1}]}, ["prices[0].model"]),
    ({"prices": [{"model": "flat", "amount": -1}]}, ["prices[0].amount"]),
    ({"prices": [{"model": "flat", "amount": 1.5e300}]}, ["prices[0].amount"]),
    ({"prices": [{"model": "flat", "amount": "NaN"}]}, ["prices[0].amount"]),
    ({"prices": [FEE, {"model": "flat"}]}, ["prices[1].amount"]),
    ({"prices": [FEE | {"unit": 1}]}, ["prices[0].unit"]),
    ({"prices": [FEE] * 51}, ["prices"]),
    (
        {"prices": [{"metric": "calls", "model": "volume", "tiers": [{"up_to": 5, "unit_amount": 1}]}]},
        ["prices[0].tiers[0].up_to"],
    ),
    ({"prices": [PER_CALL | {"filters": {"region": "us"}}]}, ["prices[0].filters.region"]),
    ({"prices": [PER_CALL | {"filters": {"region": []}}]}, ["prices[0].filters.region"]),
    ({"prices": [PER_CALL, PER_CALL]}, ["prices[1].filters"]),
]

SUBSCRIPTION_REFUSALS: list[tuple[dict[str, Any], int, list[str]]] = [
    ({"customer": "nobody"}, 404, []),
    ({"plan": "nothing"}, 404, []),
    ({"plan_version": 9}, 404, []),
    ({"anchor_day": 0}, 422, ["anchor_day"]),
    ({"anchor_day": 32}, 422, ["anchor_day"]),
    ({"zone": "Mars/Olympus"}, 422, ["zone"]),
    ({"start": "2025-01-01"}, 422, ["start"]),
    ({"start": "9999-12-31T23:00:00-05:00"}, 422, ["start"]),
    ({"start": "2099-01-01T00:00:00Z"}, 422, ["start"]),
    ({"trial_days": 731}, 422, ["trial_days"]),
    *(({"prorated": value}, 422, ["prorated"]) for value in ("yes", "true", 1)),
    ({"more": 1}, 422, ["more"]),
]

PREVIEW_REFUSALS: list[tuple[dict[str, Any], int, list[str]]] = [
    ({}, 422, ["usage"]),
    ({"usage": [], "customer": "acme"}, 422, ["usage"]),
    ({"usage": [], "period": "2025-01"}, 422, ["period"]),
    ({"customer": "acme", "period": "2025-00"}, 422, ["period"]),
    ({"customer": "nobody"}, 404, []),
    ({"usage": [{"metric": "calls", "quantity": 1}]}, 422, ["usage[0].metric"]),
    ({"usage": [{"metric": "compute", "quantity": "x"}]}, 422, ["usage[0].quantity"]),
    ({"usage": [], "plan": {"currency": "XXX", "prices": []}}, 422, ["plan.currency"]),
    ({"usage": [], "plan": {"currency": "USD", "prices": [{"model": "flat"}]}}, 422, ["plan.prices[0].amount"]),
]


class TestPlans:
    def test_are_made_read_changed_and_archived(self, sold: Seller, api: Api) -> None:
        made = api.post("/v1/plans", plan(trial_days=14, default=True), status=201)

        version = made["current_version"]
        assert (version["number"], version["state"], version["trial_days"]) == (1, "active", 14)
        assert (version["currency"], version["currency_exponent"]) == ("USD", 2)
        assert [(price["metric"], price["amount"], price["included_quantity"]) for price in version["prices"]] == [
            (None, "4900", "0"),
            ("calls", "0.1", "1000"),
        ]
        assert api.get("/v1/plans/pro") == made == api.get("/v1/plans")["data"][0]

        changed = api._body(api.call("PATCH", "/v1/plans/pro", {"name": "Professional", "default": False}), 200)
        assert (changed["name"], changed["default"]) == ("Professional", False)
        assert api._body(api.call("DELETE", "/v1/plans/pro"), 200)["archived_at"] is not None
        assert api.get("/v1/plans", archived="false")["data"] == []
        assert api.refuse("POST", "/v1/plans", plan())[:2] == (409, "already_exists")

    def test_drafts_are_replaced_until_they_are_activated(self, sold: Seller, api: Api) -> None:
        assert api.post("/v1/plans", plan(state="draft"), status=201)["current_version"] is None
        draft = {"currency": "JPY", "prices": [FEE]}

        assert api._body(api.call("PUT", "/v1/plans/pro/versions/1", draft), 200)["currency"] == "JPY"
        assert api.post("/v1/plans/pro/versions/1/activate")["state"] == "active"
        assert api.refuse("PUT", "/v1/plans/pro/versions/1", draft)[:2] == (409, "immutable")
        assert api.refuse("POST", "/v1/plans/pro/versions/1/activate")[:2] == (409, "immutable")

        assert api.post("/v1/plans/pro/versions", draft | {"state": "active"}, status=201)["number"] == 2
        assert api.get("/v1/plans/pro")["current_version"]["number"] == 2
        assert [row["number"] for row in api.get("/v1/plans/pro/versions")["data"]] == [1, 2]
        assert api.refuse("GET", "/v1/plans/pro/versions/3")[0] == 404

    def test_refusals_name_the_field(self, sold: Seller, api: Api) -> None:
        for changes, fields in PLAN_REFUSALS:
            status, _, named = api.refuse("POST", "/v1/plans", plan(**changes))
            assert (status, named) == (422, fields), changes
        assert api.get("/v1/plans")["data"] == []

    def test_list_costs_the_same_however_long_it_is(self, sold: Seller, api: Api) -> None:
        def count() -> int:
            api.get("/v1/plans")  # the first notes that the key was used
            with CaptureQueriesContext(connection) as seen:
                api.get("/v1/plans")
            return len(seen)

        sold.plan("p1", written("flat", 1))
        before = count()
        for number in range(2, 6):
            sold.plan(f"p{number}", written("flat", 1))
        assert count() == before


class TestSubscriptions:
    def test_are_made_read_changed_and_canceled(self, sold: Seller, api: Api) -> None:
        sold.customer("acme")
        for code in ("pro", "max"):
            api.post("/v1/plans", plan(code=code), status=201)
        start = (sold.now - timedelta(days=3)).isoformat()

        made = api.post(
            "/v1/subscriptions",
            {"customer": "acme", "plan": "pro", "start": start, "zone": "Asia/Tokyo", "anchor_day": 31},
            status=201,
        )

        assert (made["customer"], made["plan"], made["plan_version"], made["status"]) == ("acme", "pro", 1, "active")
        assert (made["zone"], made["anchor_day"], made["scheduled_change"]) == ("Asia/Tokyo", 31, None)
        url = f"/v1/subscriptions/{made['id']}"
        assert api.get(url) == made == api.get("/v1/subscriptions", customer="acme")["data"][0]

        changed = api.post(f"{url}/change-plan", {"plan": "max"})
        assert changed["plan"] == "pro"
        assert changed["scheduled_change"] == {
            "plan": "max", "plan_version": 1, "starts_at": made["current_period"]["end"]
        }  # fmt: skip
        changed = api.post(f"{url}/change-plan", {"plan": "max", "when": "now"})
        assert (changed["plan"], changed["scheduled_change"]) == ("max", None)

        paused = api.post(f"{url}/pause", {})
        assert (paused["status"], paused["pause"]["resumes_at"]) == ("paused", None)
        assert paused == api.get(url) == api.get("/v1/subscriptions")["data"][0]
        assert api.post(f"{url}/resume")["status"] == "active"
        coming = api.post(f"{url}/pause", {"when": "period_end"})
        assert (coming["status"], coming["pause"]["start"]) == ("active", made["current_period"]["end"])
        assert api.post(f"{url}/resume")["pause"] is None

        canceled = api.post(f"{url}/cancel", {})
        assert (canceled["status"], canceled["ends_at"]) == ("canceling", made["current_period"]["end"])
        assert api.post(f"{url}/cancel", {"when": "now"})["status"] == "ended"
        assert api.refuse("POST", f"{url}/cancel", {"when": "now"})[:2] == (409, "subscription_ended")
        assert api.refuse("POST", f"{url}/change-plan", {"plan": "pro"})[:2] == (409, "subscription_ended")

    def test_refusals_name_the_field(self, sold: Seller, api: Api) -> None:
        sold.customer("acme")
        sold.plan("pro")

        for changes, status, fields in SUBSCRIPTION_REFUSALS:
            refused = api.refuse("POST", "/v1/subscriptions", {"customer": "acme", "plan": "pro"} | changes)
            assert (refused[0], refused[2]) == (status, fields), changes

    def test_repeated_request_answers_with_the_same_subscription(self, sold: Seller, api: Api) -> None:
        for name in ("acme", "bolt"):
            sold.customer(name)
        for code in ("pro", "max"):
            sold.plan(code)
        body, url = {"customer": "acme", "plan": "pro"}, "/v1/subscriptions"

        made = api.post(url, body, status=201, **{"Idempotency-Key": "order 7"})
        again = api.post(url, body, status=200, **{"Idempotency-Key": "order 7"})
        in_body = api.post(url, body | {"idempotency_key": "order 7"}, status=200)

        assert made == again == in_body == api.get(url)["data"][0]
        # Whatever became of it.
        api.post(f"{url}/{made['id']}/change-plan", {"plan": "max", "when": "now"})
        assert api.post(url, body | {"idempotency_key": "order 7"})["plan"] == "max"
        for changes in ({"plan": "max"}, {"customer": "bolt"}, {"trial_days": 3}):
            refused = api.refuse("POST", url, body | changes, **{"Idempotency-Key": "order 7"})
            assert refused[:2] == (409, "idempotency_key_reused")
        assert len(api.get(url)["data"]) == 1
        another = api.post(url, body, status=201, **{"Idempotency-Key": "order 8"})
        assert another["id"] != made["id"]

    def test_idempotency_keys_have_an_end_and_one_meaning(self, sold: Seller, api: Api) -> None:
        sold.customer("acme")
        sold.plan("pro")
        body = {"customer": "acme", "plan": "pro"}

        for key in ("", "x" * 256):
            refused = api.refuse("POST", "/v1/subscriptions", body, **{"Idempotency-Key": key})
            assert (refused[0], refused[2]) == (422, ["Idempotency-Key"])
        refused = api.refuse("POST", "/v1/subscriptions", body | {"idempotency_key": "a"}, **{"Idempotency-Key": "b"})
        assert (refused[0], refused[2]) == (422, ["idempotency_key"])

    @pytest.mark.parametrize("start", [{}, {"start": "2026-01-01T00:00:00Z"}])
    def test_without_a_key_nobody_is_charged_for_a_plan_twice(
        self, sold: Seller, api: Api, start: dict[str, str]
    ) -> None:
        sold.customer("acme")
        for code in ("pro", "max"):
            sold.plan(code)
        body, url = {"customer": "acme", "plan": "pro", **start}, "/v1/subscriptions"
        made = api.post(url, body, status=201)

        refused = api.call("POST", url, body)

        assert (refused.status_code, refused.json()["code"]) == (409, "already_subscribed")
        assert refused.json()["subscription"] == made["id"]
        api.post(url, body | {"plan": "max"}, status=201)
        ended = api.post(f"{url}/{made['id']}/cancel", {"when": "period_end"})
        api.post(url, body | {"start": ended["ends_at"]}, status=201)

    def test_a_plan_left_behind_can_be_had_again(self, sold: Seller, api: Api) -> None:
        for code in ("pro", "max"):
            sold.plan(code)
        made = sold.subscribe("acme", "pro", start=sold.now - timedelta(days=100))
        sold.change(made, "max", "now", at=sold.now)
        body = {"customer": "acme", "plan": "pro"}

        assert api.refuse("POST", "/v1/subscriptions", body | {"plan": "max"})[:2] == (409, "already_subscribed")
        api.post("/v1/subscriptions", body, status=201)

    def test_list_costs_the_same_however_long_it_is(self, sold: Seller, api: Api) -> None:
        def count() -> int:
            api.get("/v1/subscriptions")  # the first notes that the key was used
            with CaptureQueriesContext(connection) as seen:
                api.get("/v1/subscriptions")
            return len(seen)

        sold.plan("pro")
        sold.subscribe("acme", "pro")
        before = count()
        for number in range(4):
            sold.subscribe(f"cust-{number}", "pro")
        assert count() == before

    def test_scopes_part_reading_from_writing(self, sold: Seller, api_with: Callable[..., Api]) -> None:
        reader, writer = api_with("billing:read"), api_with("billing:write")
        sold.customer("acme")
        sold.plan("pro")
        body = {"customer": "acme", "plan": "pro"}

        assert reader.refuse("POST", "/v1/subscriptions", body)[:2] == (403, "missing_scope")
        assert writer.refuse("GET", "/v1/subscriptions")[:2] == (403, "missing_scope")
        assert writer.post("/v1/subscriptions", body, status=201)["plan"] == "pro"


class TestSpend:
    def test_tells_every_line_with_its_steps(self, sold: Seller, api: Api) -> None:
        sold.plan("pro", written("flat", 4900), written("per_unit", "0.1", metric="calls", included_quantity=1000))
        made = sold.subscribe("acme", "pro", start=sold.now - timedelta(days=1))
        sold.use("acme", "calls", 1015, sold.now - timedelta(hours=1))

        spend = api.get(f"/v1/subscriptions/{made.pk}/spend")

        assert (spend["customer"], spend["plan"], spend["currency"], spend["total_minor"]) == (
            "acme",
            "pro",
            "USD",
            "4902",
        )
        fee, calls = spend["lines"]
        assert (fee["metric"], fee["amount_minor"], fee["projected"]) == (
            None,
            "4900",
            {"quantity": "1", "amount_minor": "4900"},
        )
        assert (calls["quantity"], calls["included_quantity"], calls["overage_quantity"]) == ("1015", "1000", "15")
        assert [(step["kind"], step["quantity"], step["amount_minor"]) for step in calls["steps"]] == [
            ("included", "1000", "0"),
            ("units", "15", "1.5"),
            ("rounding", None, "0.5"),
        ]
        # A day of a month is less than a twentieth.
        assert (calls["projected"], spend["projected_total_minor"]) == (None, None)

    def test_of_another_organization_is_not_there(self, sold: Seller, api: Api, outsider_client: Client) -> None:
        sold.plan("pro")
        made = sold.subscribe("acme", "pro")

        for path in ("", "/spend", "/spend/days"):
            assert outsider_client.get(f"/v1/subscriptions/{made.pk}{path}").status_code == 404
        assert api.refuse("GET", "/v1/subscriptions/99999999999999999999")[0] == 404


class TestPreview:
    PLAN = {
        "currency": "USD",
        "prices": [
            FEE,
            {"metric": "compute", "model": "per_unit", "amount": 2, "filters": {"region": "us"}},
            {"metric": "compute", "model": "graduated", "tiers": [
                {"up_to": 10, "unit_amount": 3}, {"up_to": None, "unit_amount": 1, "flat_amount": 100}]},
        ],
    }  # fmt: skip

    def test_prices_given_quantities_as_usage_would_be(self, sold: Seller, api: Api) -> None:
        usage = [
            {"metric": "compute", "quantity": "4.5", "dimensions": {"region": "us"}},
            {"metric": "compute", "quantity": 11, "dimensions": {"region": "eu"}},
            {"metric": "compute", "quantity": 1},
        ]

        preview = api.post("/v1/billing/preview", {"plan": self.PLAN, "usage": usage})

        assert [(line["quantity"], line["amount_minor"]) for line in preview["lines"]] == [
            ("1", "4900"),
            ("4.5", "9"),
            ("12", "132"),
        ]
        assert (preview["total_minor"], preview["period"], preview["projected_total_minor"]) == ("5041", None, None)

    def test_prices_a_customers_month_and_agrees_with_the_spend(self, sold: Seller, api: Api) -> None:
        january = datetime(2025, 1, 1, tzinfo=UTC)
        for region, value in (("us", "4.5"), ("eu", "12")):
            sold.use("acme", "compute", Decimal(value), january + timedelta(days=4), region=region)
        api.post("/v1/plans", plan(prices=self.PLAN["prices"]), status=201)
        made = sold.subscribe("acme", "pro", start=january)
        sold.cancel(made, "now", at=datetime(2025, 2, 1, tzinfo=UTC))

        preview = api.post("/v1/billing/preview", {"plan": self.PLAN, "customer": "acme", "period": "2025-01"})

        spend = api.get(f"/v1/subscriptions/{made.pk}/spend")
        assert preview["total_minor"] == spend["total_minor"] == "5041"
        assert preview["lines"] == spend["lines"]
        assert preview["period"] == spend["period"]

    def test_refusals_name_the_field(self, sold: Seller, api: Api) -> None:
        sold.customer("acme")

        for body, status, fields in PREVIEW_REFUSALS:
            refused = api.refuse("POST", "/v1/billing/preview", {"plan": self.PLAN} | body)
            assert (refused[0], refused[2]) == (status, fields), body

    def test_quantities_that_do_not_add_up_are_given_once(self, sold: Seller, api: Api) -> None:
        sold.define("seats", "count_unique")
        body = {"plan": {"currency": "USD", "prices": [{"metric": "seats", "model": "per_unit", "amount": 1}]}}
        seats = {"metric": "seats", "quantity": 5}

        assert api.post("/v1/billing/preview", body | {"usage": [seats]})["total_minor"] == "5"
        refused = api.refuse("POST", "/v1/billing/preview", body | {"usage": [seats, seats]})
        assert (refused[0], refused[2]) == (422, ["usage[1].quantity"])
