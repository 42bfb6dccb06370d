"""`/v1/api-keys`."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import ApiKey, Organization, Scope
from accounts.services import IssuedKey
from tests import factories

pytestmark = pytest.mark.django_db
JSON = "application/json"


def test_created_key_works_and_is_shown_once(
    api_client: Client, org: Organization, api_client_for: Callable[..., Client]
) -> None:
    factories.make_customer(organization=org, external_id="c")

    created = api_client.post(
        "/v1/api-keys",
        {"name": "portal", "scopes": ["usage:read"], "customer": "c", "metrics": ["calls"]},
        content_type=JSON,
    )

    assert created.status_code == 201, created.content
    text, shown = created.json()["text"], created.json()["api_key"]
    assert (shown["scopes"], shown["customer"], shown["metrics"]) == (["usage:read"], "c", ["calls"])
    assert text.startswith(f"mb_{shown['prefix']}_")
    assert api_client_for(text).get("/v1/api-keys/current").json()["id"] == shown["id"]
    for path in ("/v1/api-keys", f"/v1/api-keys/{shown['id']}"):
        assert text.rsplit("_", 1)[1] not in api_client.get(path).content.decode()


@pytest.mark.parametrize(
    "expires_at", ["2999-01-01T00:00:00Z", "2999-01-01T02:00:00+02:00", 32472144000, 32472144000000]
)
def test_expiry_is_any_kind_of_time(api_client: Client, expires_at: object) -> None:
    answer = api_client.post(
        "/v1/api-keys", {"name": "x", "scopes": ["usage:read"], "expires_at": expires_at}, content_type=JSON
    )

    assert answer.json()["api_key"]["expires_at"] == "2999-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"name": ""}, "name", "blank"),
        ({"scopes": []}, "scopes", "min_length"),
        ({"scopes": "admin"}, "scopes", "not_a_list"),
        ({"scopes": ["everything"]}, "scopes[0]", "invalid_choice"),
        ({"scopes": [["admin"]]}, "scopes[0]", "invalid_choice"),
        ({"scopes": {"admin": 1}}, "scopes", "not_a_list"),
        ({"customer": "absent"}, "customer", "unknown_customer"),
        ({"customer": "\x00"}, "customer", "null_characters_not_allowed"),
        ({"metrics": ["UPPER"]}, "metrics[0]", "invalid_code"),
        ({"metrics": [1]}, "metrics[0]", "invalid"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "in_the_past"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at", "invalid_timestamp"),
        ({"expires_at": "tomorrow"}, "expires_at", "invalid_timestamp"),
        ({"expires_at": 10**40}, "expires_at", "invalid_timestamp"),
        ({"expires_at": {}}, "expires_at", "invalid_timestamp"),
        ({"secret": "mine"}, "secret", "unknown_field"),
    ],
)
def test_refuses_with_the_field(api_client: Client, change: dict[str, object], field: str, code: str) -> None:
    body = {"name": "x", "scopes": ["usage:read"]} | change

    answer = api_client.post("/v1/api-keys", body, content_type=JSON)

    assert answer.status_code == 422, answer.content
    assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [(field, code)]


def test_customer_of_another_organization_is_unknown(api_client: Client, other_org: Organization) -> None:
    factories.make_customer(organization=other_org, external_id="theirs")

    answer = api_client.post(
        "/v1/api-keys", {"name": "x", "scopes": ["usage:read"], "customer": "theirs"}, content_type=JSON
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_customer")


class TestRotate:
    def test_both_keys_work_in_the_grace(
        self, api_client: Client, org: Organization, api_client_for: Callable[..., Client]
    ) -> None:
        old = factories.make_api_key(organization=org)

        rotated = api_client.post(f"/v1/api-keys/{old.api_key.pk}/rotate", {"grace_seconds": 60}, content_type=JSON)

        assert rotated.status_code == 201, rotated.content
        for key in (old.text, rotated.json()["text"]):
            assert api_client_for(key).get("/v1/api-keys/current").status_code == 200
        shown = api_client.get(f"/v1/api-keys/{old.api_key.pk}").json()
        assert shown["replaced_by"] == rotated.json()["api_key"]["id"]

    def test_default_grace_is_a_day(self, api_client: Client, org: Organization) -> None:
        old = factories.make_api_key(organization=org)

        api_client.post(f"/v1/api-keys/{old.api_key.pk}/rotate", content_type=JSON)

        expires_at = ApiKey.objects.for_organization(org).get(pk=old.api_key.pk).expires_at
        assert expires_at is not None
        assert timedelta(hours=23, minutes=59) < expires_at - timezone.now() <= timedelta(hours=24)

    def test_without_grace_the_old_key_ends_at_once(
        self, api_client: Client, org: Organization, api_client_for: Callable[..., Client]
    ) -> None:
        old = factories.make_api_key(organization=org)

        api_client.post(f"/v1/api-keys/{old.api_key.pk}/rotate", {"grace_seconds": 0}, content_type=JSON)

        assert api_client_for(old).get("/v1/organization").status_code == 401

    def test_second_rotation_is_409(self, api_client: Client, org: Organization) -> None:
        old = factories.make_api_key(organization=org)
        path = f"/v1/api-keys/{old.api_key.pk}/rotate"

        assert [api_client.post(path, content_type=JSON).status_code for _ in range(2)] == [201, 409]

    @pytest.mark.parametrize("seconds", [-1, 2592001, "1h", None, 1.5])
    def test_refuses_a_grace_without_sense(self, api_client: Client, org: Organization, seconds: object) -> None:
        old = factories.make_api_key(organization=org)

        answer = api_client.post(f"/v1/api-keys/{old.api_key.pk}/rotate", {"grace_seconds": seconds}, content_type=JSON)

        assert answer.status_code == 422


class TestRevoke:
    def test_ends_the_key_at_once(
        self, api_client: Client, org: Organization, api_client_for: Callable[..., Client]
    ) -> None:
        key = factories.make_api_key(organization=org)

        answers = [api_client.post(f"/v1/api-keys/{key.api_key.pk}/revoke", content_type=JSON) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json()["revoked_at"] == answers[1].json()["revoked_at"] is not None
        assert api_client_for(key).get("/v1/organization").status_code == 401

    def test_takes_no_fields(self, api_client: Client, org: Organization) -> None:
        key = factories.make_api_key(organization=org)

        answer = api_client.post(f"/v1/api-keys/{key.api_key.pk}/revoke", {"at": "noon"}, content_type=JSON)

        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "at")


@pytest.mark.parametrize("action", ["", "/rotate", "/revoke"])
def test_foreign_and_absent_are_the_same_404(
    api_client: Client, other_api_key: IssuedKey, action: str, other_org: Organization
) -> None:
    for key_id in (other_api_key.api_key.pk, 0, 10**17, "9" * 18, "9" * 40, "x", "-1", "%00"):
        call = api_client.post if action else api_client.get
        answer = call(f"/v1/api-keys/{key_id}{action}", content_type=JSON)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), key_id
    stored = ApiKey.objects.for_organization(other_org).get(pk=other_api_key.api_key.pk)
    assert stored.revoked_at is None


def test_current_of_a_session_is_404(client: Client, org: Organization) -> None:
    client.force_login(org.memberships.get().user)

    assert client.get("/v1/api-keys/current").status_code == 404


@pytest.mark.parametrize("scope", sorted(set(Scope) - {Scope.ADMIN}))
def test_keys_are_for_admins(org: Organization, api_client_for: Callable[..., Client], scope: str) -> None:
    client = api_client_for(factories.make_api_key(organization=org, scopes=(scope,)))

    assert client.get("/v1/api-keys").status_code == 403
    assert client.post("/v1/api-keys", {"name": "x", "scopes": ["admin"]}, content_type=JSON).status_code == 403
