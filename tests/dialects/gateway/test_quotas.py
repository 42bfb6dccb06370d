"""Quotas on what gateways report: what `POST /v1/requests` stored holds the next question to the limit."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Organization
from accounts.services import update_organization
from alerts.models import Crossing
from alerts.services.evaluation import evaluate_organization
from metering.services.rollup import roll_up_organization

pytestmark = pytest.mark.django_db
JSON = "application/json"


@pytest.fixture
def gateway(api_client: Client) -> Client:
    """A gateway whose route /bulk counts the items of a request as units."""
    answer = post(api_client, "/v1/catalogs/api-gateway/install", {})
    assert answer.status_code == 200
    route = {
        "id": "bulk",
        "path_pattern": "/bulk",
        "metering_mode": "custom",
        "metering_expr": "request.body.items.length",
    }
    assert post(api_client, "/v1/routes", route).status_code == 201
    return api_client


def post(client: Client, path: str, body: Any) -> Any:
    return client.post(path, json.dumps(body), content_type=JSON)


def limit(client: Client, metric: str, value: int | None, **settings: Any) -> None:
    answer = post(client, "/v1/quotas", {"metric": metric, "customer": None, "limit": value} | settings)
    assert answer.status_code == 201, answer.content


def serve(client: Client, units: int, *, user: str = "ann", count: int = 1) -> None:
    record = {"method": "POST", "path": "/bulk", "status_code": 200, "latency_ms": 1, "user_id": user}
    answer = post(client, "/v1/requests", [record | {"request_body": {"items": [0] * units}}] * count)
    assert answer.json()["stored"] == count, answer.content


def ask(client: Client, metric: str, amount: int = 1, *, user: str = "ann") -> Any:
    return post(client, "/v1/quota/check", {"metric": metric, "customer": user, "amount": amount})


def reserve(client: Client, metric: str, amount: int = 1, *, user: str = "ann") -> Any:
    return post(client, "/v1/quota/reserve", {"metric": metric, "customer": user, "amount": amount})


def headers(answer: Any) -> dict[str, str]:
    return {name: answer.headers[f"X-Quota-{name}"] for name in ("Limit", "Used", "Remaining")}


class TestUnits:
    def test_are_held_to_a_hard_limit(self, gateway: Client) -> None:
        limit(gateway, "api_units", 10)
        serve(gateway, 4, count=2)

        assert ask(gateway, "api_units", 2).json()["allowed"] is True
        assert ask(gateway, "api_units", 3).json()["allowed"] is False
        refused = reserve(gateway, "api_units", 3)
        assert (refused.status_code, refused.json()["code"]) == (402, "quota_exceeded")
        assert headers(refused) == {"Limit": "10", "Used": "8", "Remaining": "2"}
        assert int(refused.headers["X-Quota-Reset"]) > timezone.now().timestamp()

    def test_are_recorded_after_the_fact_beyond_any_limit(self, gateway: Client) -> None:
        limit(gateway, "api_units", 10)

        serve(gateway, 25)

        answer = ask(gateway, "api_units", 0)
        assert (answer.json()["used"], answer.json()["level"]) == ("25", "exceeded")
        assert headers(answer) == {"Limit": "10", "Used": "25", "Remaining": "0"}
        assert reserve(gateway, "api_units").status_code == 402

    def test_of_others_do_not_count(self, gateway: Client) -> None:
        limit(gateway, "api_units", 10)
        serve(gateway, 9, user="bob")

        assert reserve(gateway, "api_units", 10).status_code == 201
        assert reserve(gateway, "api_units", 2, user="bob").status_code == 402


class TestRequests:
    def test_are_held_to_a_limit_of_their_own(self, gateway: Client) -> None:
        limit(gateway, "api_requests", 3)
        serve(gateway, 50, count=2)

        assert reserve(gateway, "api_requests", 2).status_code == 402
        assert reserve(gateway, "api_requests", 1).status_code == 201
        assert headers(ask(gateway, "api_requests", 0)) == {"Limit": "3", "Used": "3", "Remaining": "0"}

    @pytest.mark.parametrize(
        ("settings", "fitting", "too_many"),
        [
            ({"limit": 10, "mode": "hard"}, 2, 3),
            ({"limit": 10, "mode": "soft", "grace": 5}, 7, 8),
            # An explicit grace: none means none.
            ({"limit": 10, "mode": "soft", "grace": 0}, 2, 3),
            ({"limit": 10, "mode": "warn"}, 10_000, None),
            # No limit is not a limit of nothing.
            ({"limit": None}, 10_000, None),
            ({"limit": 0}, None, 1),
        ],
        ids=str,
    )
    def test_are_let_through_as_the_mode_says(
        self, gateway: Client, settings: dict[str, Any], fitting: int | None, too_many: int | None
    ) -> None:
        serve(gateway, 1, count=8)
        answer = post(gateway, "/v1/quotas", {"metric": "api_requests"} | settings)
        assert answer.status_code == 201, answer.content

        if fitting is not None:
            assert ask(gateway, "api_requests", fitting).json()["allowed"] is True
        if too_many is not None:
            assert ask(gateway, "api_requests", too_many).json()["allowed"] is False


@pytest.mark.django_db(transaction=True)  # evaluation opens transactions of its own
class TestWarnings:
    def test_are_told_once_per_period_at_80_95_and_100_percent(self, gateway: Client, org: Organization) -> None:
        limit(gateway, "api_units", 100)

        def told() -> list[tuple[str, Decimal]]:
            roll_up_organization(organization_id=org.pk, now=timezone.now())
            evaluate_organization(organization_id=org.pk, now=timezone.now())
            crossings = Crossing.objects.for_organization(org).order_by("offset")
            return [(crossing.threshold_code, crossing.value_at_cross) for crossing in crossings]

        serve(gateway, 79)
        assert told() == []
        serve(gateway, 1)
        assert told() == [("quota_80", Decimal(80))]
        serve(gateway, 10)
        assert told() == [("quota_80", Decimal(80))]
        serve(gateway, 30)
        serve(gateway, 500)
        assert told() == [("quota_80", Decimal(80)), ("quota_95", Decimal(620)), ("quota_100", Decimal(620))]


def test_too_many_questions_in_a_minute_are_429_with_a_time_to_wait(gateway: Client, org: Organization) -> None:
    update_organization(organization=org, changes={"rate_limit_per_minute": 2}, actor="test")

    answers = [ask(gateway, "api_requests") for _ in range(4)]

    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
