"""`/v1/settings`: every setting of request tracking is read, changed in words or JSON, checked, and audited."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Organization, Scope, User
from metering.dialects.gateway.models import GatewaySettings
from tests import factories

pytestmark = pytest.mark.django_db
JSON = "application/json"

DEFAULTS = {
    "usage_tracking_enabled": True,
    "usage_store_ip": "truncated",
    "usage_store_path": True,
    "usage_batch_size": 100,
    "usage_flush_interval_ms": 1000,
    "usage_compression": True,
    "usage_retention_days": 30,
    "usage_aggregate_retention_days": 365,
}
# A setting, a value as somebody may say it, and what it is then.
GOOD: list[tuple[str, Any, Any]] = [
    ("usage_tracking_enabled", False, False),
    ("usage_tracking_enabled", "false", False),
    ("usage_tracking_enabled", "TRUE", True),
    ("usage_store_ip", "off", "off"),
    ("usage_store_ip", "full", "full"),
    ("usage_store_ip", "truncated", "truncated"),
    ("usage_store_ip", False, "off"),
    ("usage_store_ip", "false", "off"),
    ("usage_store_ip", True, "full"),
    ("usage_store_ip", "true", "full"),
    ("usage_store_path", "false", False),
    ("usage_batch_size", 1, 1),
    ("usage_batch_size", "5000", 5000),
    ("usage_flush_interval_ms", 10, 10),
    ("usage_compression", False, False),
    ("usage_retention_days", "45", 45),
    ("usage_retention_days", 36500, 36500),
    ("usage_aggregate_retention_days", 1, 1),
]
BAD: list[tuple[str, Any]] = [
    ("usage_tracking_enabled", None),
    ("usage_tracking_enabled", "perhaps"),
    ("usage_tracking_enabled", 1),
    ("usage_store_ip", "half"),
    ("usage_store_ip", None),
    ("usage_store_ip", ["off"]),
    ("usage_store_ip", 0),
    ("usage_store_path", {}),
    ("usage_batch_size", 0),
    ("usage_batch_size", 5001),
    ("usage_batch_size", 1.5),
    ("usage_batch_size", True),
    ("usage_batch_size", "many"),
    ("usage_batch_size", "²"),
    ("usage_flush_interval_ms", 9),
    ("usage_flush_interval_ms", 10**30),
    ("usage_retention_days", 0),
    ("usage_retention_days", -5),
    ("usage_retention_days", "30d"),
    ("usage_retention_days", 36501),
    ("usage_aggregate_retention_days", ""),
]


def change(client: Client, name: str, value: Any) -> Any:
    return client.put(f"/v1/settings/{name}", {"value": value}, content_type=JSON)


def test_without_a_row_the_defaults_are_told(api_client: Client, org: Organization) -> None:
    assert api_client.get("/v1/settings").json() == DEFAULTS
    assert not GatewaySettings.objects.for_organization(org).exists()


@pytest.mark.parametrize(("name", "value", "stored"), GOOD)
def test_a_setting_is_changed_in_json_or_in_words(api_client: Client, name: str, value: Any, stored: Any) -> None:
    answer = change(api_client, name, value)

    assert (answer.status_code, answer.json()) == (200, {"name": name, "value": stored})
    assert api_client.get(f"/v1/settings/{name}").json() == {"name": name, "value": stored}
    assert api_client.get("/v1/settings").json() == DEFAULTS | {name: stored}


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_that_a_setting_cannot_have_is_refused(api_client: Client, name: str, value: Any) -> None:
    answer = change(api_client, name, value)

    assert answer.status_code == 422
    [problem] = answer.json()["errors"]
    assert (problem["field"], problem["code"]) == (name, "invalid")
    assert api_client.get("/v1/settings").json() == DEFAULTS


def test_an_unknown_setting_is_not_found(api_client: Client) -> None:
    for answer in (change(api_client, "usage_store_everything", True), api_client.get("/v1/settings/updated_at")):
        assert answer.status_code == 404
        assert "usage_store_ip" in answer.json()["message"]


@pytest.mark.parametrize("body", ["[]", "{}", '{"value": true, "more": 1}', "17"])
def test_one_setting_takes_one_value(api_client: Client, body: str) -> None:
    assert api_client.put("/v1/settings/usage_store_path", body, content_type=JSON).status_code == 422


@pytest.mark.parametrize("method", ["put", "patch"])
def test_several_are_changed_together_or_not_at_all(api_client: Client, method: str) -> None:
    send = getattr(api_client, method)

    bad = {"usage_batch_size": 200, "usage_retention_days": 0, "usage_store_everything": True}
    refused = send("/v1/settings", bad, content_type=JSON)
    assert refused.status_code == 422
    assert [(row["field"], row["code"]) for row in refused.json()["errors"]] == [
        ("usage_retention_days", "invalid"),
        ("usage_store_everything", "unknown_field"),
    ]
    assert api_client.get("/v1/settings").json() == DEFAULTS

    wanted = {"usage_batch_size": 200, "usage_store_ip": False}
    assert send("/v1/settings", wanted, content_type=JSON).json() == DEFAULTS | wanted | {"usage_store_ip": "off"}
    assert send("/v1/settings", [], content_type=JSON).status_code == 422


def test_what_changed_is_in_the_audit_log_once(api_client: Client, org: Organization) -> None:
    for _ in range(2):
        change(api_client, "usage_retention_days", "45")

    [entry] = AuditEntry.objects.for_organization(org).filter(action="gateway_settings.updated")
    assert (entry.target, entry.details) == ("usage_retention_days", {"usage_retention_days": {"from": 30, "to": 45}})
    assert entry.actor.startswith("key:")


def test_everybody_of_the_organization_reads_and_admins_change(
    org: Organization, api_client_for: Callable[..., Client], outsider_client: Client
) -> None:
    sender = api_client_for(factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,)))
    assert sender.get("/v1/settings").json() == DEFAULTS
    assert change(sender, "usage_batch_size", 5).status_code == 403

    change(outsider_client, "usage_batch_size", 5)
    assert sender.get("/v1/settings/usage_batch_size").json()["value"] == 100


class TestLog:
    def test_changes_and_refused_requests_are_told_newest_first(self, api_client: Client, org: Organization) -> None:
        change(api_client, "usage_store_ip", "off")
        change(api_client, "usage_store_path", False)

        answer = api_client.get("/v1/logs", {"filter": "usage"})

        assert answer.status_code == 200
        assert [(row["level"], row["code"], row["details"]) for row in answer.json()["data"]] == [
            ("info", "gateway_settings.updated", {"usage_store_path": {"from": True, "to": False}}),
            ("info", "gateway_settings.updated", {"usage_store_ip": {"from": "truncated", "to": "off"}}),
        ]
        assert len(api_client.get("/v1/logs?limit=1").json()["data"]) == 1

    def test_metering_errors_are_told_by_route_and_hour(self, api_client: Client, org: Organization) -> None:
        route = {
            "id": "ai",
            "metering_mode": "response_field",
            "metering_expr": "response.body.tokens",
            "path_pattern": "/ai",
            "on_metering_error": "zero",
        }
        assert api_client.post("/v1/routes", route, content_type=JSON).status_code == 201
        record = {"user_id": "u", "method": "GET", "path": "/ai", "status_code": 200, "latency_ms": 1}
        sent = api_client.post("/v1/requests", [record | {"response_body": {}}] * 3, content_type=JSON)
        assert sent.status_code in {200, 202}, sent.content

        [entry] = [row for row in api_client.get("/v1/logs").json()["data"] if row["level"] == "error"]

        assert entry["details"] == {"route_id": "ai", "metering_error": "missing_field", "requests": 3}

    @pytest.mark.parametrize("query", ["filter=everything", "limit=0", "limit=-1", "limit=abc", "limit=1001", "more=1"])
    def test_a_bad_query_is_refused(self, api_client: Client, query: str) -> None:
        assert api_client.get(f"/v1/logs?{query}").status_code == 422


def test_the_page_changes_settings(
    client_for: Callable[[User], Client], alice: User, bob: User, org: Organization
) -> None:
    url = reverse("gateway:settings", args=[org.pk])
    assert client_for(bob).get(url).status_code == 403
    browser = client_for(alice)
    assert "Addresses of clients" in browser.get(url).content.decode()
    form = {"usage_tracking_enabled": "on", "usage_store_ip": "off", "usage_batch_size": "7"}
    form |= {"usage_flush_interval_ms": "50", "usage_retention_days": "45", "usage_aggregate_retention_days": "400"}

    assert browser.post(url, form).status_code == 302

    stored = GatewaySettings.objects.for_organization(org).get()
    assert (stored.usage_store_ip, stored.usage_store_path, stored.usage_batch_size) == ("off", False, 7)
    refused = browser.post(url, form | {"usage_retention_days": "0"})
    assert (refused.status_code, "from 1 to 36500" in refused.content.decode()) == (200, True)
