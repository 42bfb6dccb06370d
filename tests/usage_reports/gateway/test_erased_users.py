"""After a user was erased: their totals stay without a name, and what is read one by one is the others'."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from accounts.models import Organization
from metering.services.erasure import erase_customer
from metering.services.rollup import roll_up_organization
from tests.usage_reports.gateway.conftest import AnalyticsApi
from tests.usage_reports.gateway.traffic import SentRequest, send

pytestmark = pytest.mark.django_db

DAYS = {"from_": "2026-11-10", "to": "2026-11-20"}


@pytest.fixture(autouse=True)
def erased(org: Organization, now: datetime) -> str:
    """Ann sent three requests, Bea two; Ann is erased. Returns the name that is left of her."""
    at = now - timedelta(days=2)
    requests = [SentRequest(f"a{n}", "ann", at, path="/a", route="r") for n in range(3)]
    send(org, [*requests, *(SentRequest(f"b{n}", "bea", at, path="/b", route="r") for n in range(2))], now=now)
    roll_up_organization(organization_id=org.pk, now=now)
    return erase_customer(organization=org, external_id="ann", actor="test", now=now).customer


def test_totals_stay(analytics: AnalyticsApi, erased: str) -> None:
    assert analytics.get("analytics/summary", **DAYS)["data"]["attributes"]["total_requests"] == 5
    rows = analytics.get("analytics/users", **DAYS)["data"]
    assert [(row["id"], row["attributes"]["requests"]) for row in rows] == [(erased, 3), ("bea", 2)]


def test_paths_are_those_of_the_others(analytics: AnalyticsApi, erased: str) -> None:
    rows = analytics.get("analytics/aggregate", **DAYS, group_by="path")["data"]

    assert [(row["id"], row["attributes"]["requests"]) for row in rows] == [("/b", 2)]
    assert rows[0]["attributes"]["latency_ms"]["p50"] is not None
    assert analytics.get("analytics/aggregate", **DAYS, group_by="path", user="bea")["meta"]["total"] == 1
    assert analytics.get("analytics/aggregate", **DAYS, group_by="path", user=erased)["data"] == []


def test_export_has_the_requests_of_the_others(analytics: AnalyticsApi) -> None:
    rows = analytics.get("analytics/export", **DAYS, format="json")

    assert sorted(row["request_id"] for row in rows) == ["b0", "b1"]


def test_user_is_not_found_by_the_name(analytics: AnalyticsApi, erased: str) -> None:
    assert analytics.refuse("users/ann/usage")[0] == 404
    assert analytics.get(f"users/{erased}/usage", period="2026-11")["data"]["attributes"]["total_requests"] == 3
