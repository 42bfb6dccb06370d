"""One request from `POST /v1/requests` to the analytics: the recorder and the reader mean the same event."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from accounts.models import Organization
from metering.services.metrics import install_catalog
from tests.usage_reports.gateway.conftest import AnalyticsApi, body_of
from usage_reports.gateway.records import live_body

pytestmark = pytest.mark.django_db

RECORD: dict[str, Any] = {
    "request_id": "req-1",
    "user_id": "usr_1",
    "api_key_id": "key_1",
    "route_id": "completions",
    "method": "POST",
    "path": "/v1/completions",
    "query_params": "stream=1",
    "timestamp": "2026-11-19T10:00:00.25Z",
    "status_code": 200,
    "latency_ms": 812.5,
    "request_bytes": 300,
    "response_bytes": 1700,
    "ip_address": "203.0.113.77",
    "request_body": {"prompt": "secret"},
    "response_body": {"tokens_used": 42},
}


@pytest.fixture
def recorded(org: Organization, analytics: AnalyticsApi) -> AnalyticsApi:
    install_catalog(organization=org, name="api-gateway", actor="test")
    route = {
        "id": "completions",
        "name": "Completions",
        "method": "POST",
        "path_pattern": "/v1/completions",
        "metering_mode": "response_field",
        "metering_expr": "response.body.tokens_used",
    }
    made = analytics.client.post("/v1/routes", route, content_type="application/json")
    assert made.status_code == 201, made.content
    failing = RECORD | {"request_id": "req-2", "status_code": 502, "error_code": "upstream", "response_body": {}}
    answer = analytics.client.post("/v1/requests", [RECORD, failing], content_type="application/json")
    assert answer.status_code == 200, answer.content
    return analytics


def test_request_is_told_as_it_was_sent(recorded: AnalyticsApi) -> None:
    rows = recorded.get("analytics/export", from_="2026-11-19", to="2026-11-19", format="json")

    assert {row["request_id"] for row in rows} >= {"req-1"}
    row = next(row for row in rows if row["request_id"] == "req-1")
    assert row == {
        "request_id": "req-1",
        "user_id": "usr_1",
        "api_key_id": "key_1",
        "route_id": "completions",
        "method": "POST",
        "path": "/v1/completions",
        "query_params": "stream=1",
        "timestamp": "2026-11-19T10:00:00.250000Z",
        "status_code": 200,
        "latency_ms": Decimal("812.5"),
        "request_bytes": 300,
        "response_bytes": 1700,
        "metered_units": 42,
        "metering_mode": "response_field",
        "metering_error": None,
        "error_code": None,
        "ip_address": "203.0.113.0",
    }


def test_bodies_are_nowhere(recorded: AnalyticsApi) -> None:
    assert b"secret" not in body_of(recorded.call("analytics/export", from_="2026-11-19", to="2026-11-19"))


def test_route_is_named_and_its_units_are_told(recorded: AnalyticsApi) -> None:
    answer = recorded.get("analytics/routes", from_="2026-11-19", to="2026-11-19", status="200")

    attributes = answer["data"][0]["attributes"]
    assert (attributes["route_id"], attributes["route_name"]) == ("completions", "Completions")
    assert (attributes["requests"], attributes["metered_units"], attributes["bytes"]) == (1, 42, 2000)
    assert attributes["latency_ms"]["mean"] == Decimal("812.5")


def test_event_of_another_sender_is_shown_without_what_makes_no_sense() -> None:
    body = live_body(
        b'{"idempotency_key":"k","customer":"c","timestamp":"2026-11-19T10:00:00Z",'
        b'"properties":{"status":"teapot","latency_ms":"soon","path":["a"],"query_params":{"q":1.50}}}'
    )

    assert b'"status_code":null,"latency_ms":null' in body
    assert b'"path":"[\\"a\\"]"' in body
    assert b'"query_params":"{\\"q\\":1.50}"' in body
