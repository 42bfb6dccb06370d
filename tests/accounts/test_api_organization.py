"""`/v1/organization`: reading and changing settings; and what every body is refused for."""

import json
from collections.abc import Callable

import pytest
from django.test import Client

from accounts.models import AuditEntry, Organization, Scope
from accounts.services import IssuedKey
from tests import factories

pytestmark = pytest.mark.django_db
JSON = "application/json"


def test_any_key_reads_it(org: Organization, api_client_for: Callable[[IssuedKey], Client]) -> None:
    key = factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,))

    answer = api_client_for(key).get("/v1/organization")

    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["name"]) == (str(org.pk), "Initech")
    assert answer.json()["created_at"].endswith("Z")


def test_settings_change_and_are_audited(api_client: Client, org: Organization) -> None:
    answer = api_client.patch("/v1/organization", {"zone": "Europe/Berlin", "late_limit_days": 30}, content_type=JSON)

    assert answer.status_code == 200, answer.content
    org.refresh_from_db()
    assert (org.zone, org.late_limit_days, org.name) == ("Europe/Berlin", 30, "Initech")
    entry = AuditEntry.objects.for_organization(org).get(action="organization.updated")
    assert entry.details == {
        "zone": {"from": "UTC", "to": "Europe/Berlin"},
        "late_limit_days": {"from": None, "to": 30},
    }


@pytest.mark.parametrize("body", [{}, {"zone": "UTC"}])
def test_a_change_to_the_same_is_no_change(api_client: Client, org: Organization, body: dict[str, str]) -> None:
    assert api_client.patch("/v1/organization", body, content_type=JSON).status_code == 200
    assert not AuditEntry.objects.for_organization(org).filter(action="organization.updated").exists()


def test_changing_needs_admin(org: Organization, api_client_for: Callable[[IssuedKey], Client]) -> None:
    key = factories.make_api_key(organization=org, scopes=tuple(set(Scope) - {Scope.ADMIN}))

    answer = api_client_for(key).patch("/v1/organization", {"name": "x"}, content_type=JSON)

    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"zone": "Mars/Olympus"}, "zone", "invalid_zone"),
        ({"name": ""}, "name", "blank"),
        ({"name": "a\x00b"}, "name", "null_characters_not_allowed"),
        ({"name": "x" * 201}, "name", "max_length"),
        ({"name": 5}, "name", "invalid"),
        ({"name": None}, "name", "null"),
        ({"late_limit_days": 0}, "late_limit_days", "min_value"),
        ({"late_limit_days": 10**30}, "late_limit_days", "max_string_length"),
        ({"late_limit_days": 1.5}, "late_limit_days", "invalid"),
        ({"late_limit_days": "7 days"}, "late_limit_days", "invalid"),
        ({"late_limit_days": True}, "late_limit_days", "invalid"),
        ({"is_unmatched_kept": "yes"}, "is_unmatched_kept", "invalid"),
        ({"is_unmatched_kept": []}, "is_unmatched_kept", "invalid"),
        ({"created_at": "2026-01-01T00:00:00Z"}, "created_at", "unknown_field"),
        ([], "body", "invalid"),
        ("text", "body", "invalid"),
        (None, "body", "null"),
        (5, "body", "invalid"),
    ],
)
def test_refuses_with_the_field(api_client: Client, body: object, field: str, code: str) -> None:
    answer = api_client.patch("/v1/organization", json.dumps(body), content_type=JSON)

    assert answer.status_code == 422, answer.content
    assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [(field, code)]


def test_names_every_unknown_field(api_client: Client) -> None:
    answer = api_client.patch("/v1/organization", {"colour": 1, "x" * 500: 2, "": 3}, content_type=JSON)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["colour", "x" * 100, "body"]


def test_integer_written_with_a_point_is_an_integer(api_client: Client, org: Organization) -> None:
    assert api_client.patch("/v1/organization", '{"late_limit_days": 7.0}', content_type=JSON).status_code == 200
    org.refresh_from_db()
    assert org.late_limit_days == 7
