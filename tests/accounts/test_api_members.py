"""`/v1/members` and `/v1/invitations`."""

from datetime import datetime

import pytest
from django.test import Client

from accounts.models import AuditEntry, Invitation, Membership, Organization, User
from accounts.services import accept_invitation
from tests import factories

pytestmark = pytest.mark.django_db
JSON = "application/json"


def member_id(organization: Organization, user: User) -> int:
    return Membership.objects.for_organization(organization).get(user=user).pk


class TestMembers:
    def test_listed_with_their_roles(self, api_client: Client, bob: User) -> None:
        rows = api_client.get("/v1/members").json()["data"]

        assert [(row["email"], row["role"]) for row in rows] == [
            ("alice@example.test", "owner"),
            ("bob@example.test", "viewer"),
        ]

    def test_role_changes(self, api_client: Client, org: Organization, bob: User) -> None:
        path = f"/v1/members/{member_id(org, bob)}"

        answer = api_client.patch(path, {"role": "developer"}, content_type=JSON)

        assert (answer.status_code, answer.json()["role"]) == (200, "developer")
        assert api_client.get(path).json() == answer.json()

    def test_key_makes_no_owners_and_removes_none(
        self, api_client: Client, org: Organization, alice: User, bob: User
    ) -> None:
        for answer in (
            api_client.patch(f"/v1/members/{member_id(org, bob)}", {"role": "owner"}, content_type=JSON),
            api_client.delete(f"/v1/members/{member_id(org, alice)}"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "role_refused")

    def test_signed_in_owner_does(self, client: Client, org: Organization, alice: User, bob: User) -> None:
        client.force_login(alice)

        answer = client.patch(f"/v1/members/{member_id(org, bob)}", {"role": "owner"}, content_type=JSON)

        assert answer.json()["role"] == "owner"
        assert AuditEntry.objects.for_organization(org).latest("id").actor == "user:alice@example.test"

    def test_last_owner_stays(self, client: Client, org: Organization, alice: User) -> None:
        client.force_login(alice)

        answer = client.delete(f"/v1/members/{member_id(org, alice)}")

        assert (answer.status_code, answer.json()["code"]) == (409, "last_owner")

    def test_removed_is_gone(self, api_client: Client, org: Organization, bob: User) -> None:
        path = f"/v1/members/{member_id(org, bob)}"

        assert [api_client.delete(path).status_code for _ in range(2)] == [204, 404]

    @pytest.mark.parametrize("body", [{}, {"role": "emperor"}, {"role": ["admin"]}, {"role": None}, {"rank": 1}])
    def test_refuses_other_roles(
        self, api_client: Client, org: Organization, bob: User, body: dict[str, object]
    ) -> None:
        answer = api_client.patch(f"/v1/members/{member_id(org, bob)}", body, content_type=JSON)

        assert answer.status_code == 422

    def test_member_of_another_organization_is_404(
        self, api_client: Client, other_org: Organization, charlie: User
    ) -> None:
        path = f"/v1/members/{member_id(other_org, charlie)}"

        assert api_client.get(path).status_code == 404
        assert api_client.patch(path, {"role": "viewer"}, content_type=JSON).status_code == 404
        assert api_client.delete(path).status_code == 404


class TestInvitations:
    def test_link_is_shown_once_and_works(self, api_client: Client, org: Organization, now: datetime) -> None:
        created = api_client.post(
            "/v1/invitations", {"email": "eve@example.test", "role": "developer"}, content_type=JSON
        )

        assert created.status_code == 201, created.content
        token = created.json()["accept_url"].rsplit("/", 1)[1]
        assert created.json()["invitation"]["state"] == "open"
        assert token not in api_client.get("/v1/invitations").content.decode()
        assert accept_invitation(token=token, user=factories.make_user(name="Eve"), now=now).organization == org
        assert api_client.get("/v1/invitations").json()["data"][0]["state"] == "accepted"

    def test_withdrawn(self, api_client: Client, org: Organization) -> None:
        api_client.post("/v1/invitations", {"email": "eve@example.test", "role": "viewer"}, content_type=JSON)
        path = f"/v1/invitations/{Invitation.objects.for_organization(org).get().pk}/revoke"

        answers = [api_client.post(path, content_type=JSON) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [200, 409]
        assert answers[0].json()["state"] == "revoked"

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"email": "eve@example.test", "role": "owner"}, 403),
            ({"email": "alice@example.test", "role": "viewer"}, 409),
            ({"email": "not an address", "role": "viewer"}, 422),
            ({"email": "a\x00@example.test", "role": "viewer"}, 422),
            ({"email": f"{'x' * 250}@example.test", "role": "viewer"}, 422),
            ({"email": "eve@example.test"}, 422),
            ({"email": 5, "role": "viewer"}, 422),
            ({"email": "eve@example.test", "role": "viewer", "message": "hi"}, 422),
        ],
    )
    def test_refusals(self, api_client: Client, org: Organization, body: dict[str, object], status: int) -> None:
        answer = api_client.post("/v1/invitations", body, content_type=JSON)

        assert answer.status_code == status, answer.content
        assert not Invitation.objects.for_organization(org).exists()
