"""`/v1/projects` and their environments."""

import re

import pytest
from django.test import Client

from accounts.models import AuditEntry, Organization
from accounts.services import create_project

pytestmark = pytest.mark.django_db
JSON = "application/json"


def test_new_organization_has_one_of_each(api_client: Client) -> None:
    assert [row["key"] for row in api_client.get("/v1/projects").json()["data"]] == ["default"]
    [environment] = api_client.get("/v1/projects/default/environments").json()["data"]
    assert (environment["key"], environment["project"]) == ("production", "default")
    assert re.fullmatch("[0-9a-f]{24}", environment["id"])


def test_created_read_renamed(api_client: Client, org: Organization) -> None:
    body = {"key": "web.App-1", "name": "Web", "id": "f" * 24}
    created = api_client.post("/v1/projects", body, content_type=JSON)
    assert (created.status_code, created.json()["id"]) == (201, "f" * 24), created.content
    renamed = api_client.patch("/v1/projects/web.App-1", {"name": "Website"}, content_type=JSON)
    assert api_client.get("/v1/projects/web.App-1").json() == renamed.json()
    assert renamed.json()["name"] == "Website"

    path = "/v1/projects/web.App-1/environments"
    environment = api_client.post(path, {"key": "test", "name": "Test", "id": "0" * 24}, content_type=JSON)
    assert (environment.status_code, environment.json()["id"]) == (201, "0" * 24)
    assert api_client.patch(f"{path}/test", {"name": "Tests"}, content_type=JSON).json()["name"] == "Tests"

    actions = AuditEntry.objects.for_organization(org).order_by("id").values_list("action", "target")
    assert list(actions)[-4:] == [
        ("project.created", "web.App-1"),
        ("project.updated", "web.App-1"),
        ("environment.created", "web.App-1/test"),
        ("environment.updated", "web.App-1/test"),
    ]


def test_taken_keys_and_ids_are_409(api_client: Client) -> None:
    path = "/v1/projects/default/environments"
    taken = api_client.get(path).json()["data"][0]["id"]
    taken_by_project = api_client.get("/v1/projects/default").json()["id"]

    for url, body in (
        ("/v1/projects", {"key": "default", "name": "x"}),
        ("/v1/projects", {"key": "other", "name": "x", "id": taken_by_project}),
        (path, {"key": "production", "name": "x"}),
        (path, {"key": "other", "name": "x", "id": taken}),
    ):
        answer = api_client.post(url, body, content_type=JSON)
        assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "a/b", "-a", "x" * 65, 5, None, "a\x00", "a\n"])
def test_refuses_other_keys(api_client: Client, key: object) -> None:
    for path in ("/v1/projects", "/v1/projects/default/environments"):
        answer = api_client.post(path, {"key": key, "name": "x"}, content_type=JSON)
        if key == "a\n":  # white space around it is not part of a key
            assert answer.json()["key"] == "a"
        else:
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "key")


@pytest.mark.parametrize("hex_id", ["", "0" * 23, "0" * 25, "G" * 24, "A" * 24, 5])
def test_refuses_other_ids(api_client: Client, hex_id: object) -> None:
    for path in ("/v1/projects", "/v1/projects/default/environments"):
        answer = api_client.post(path, {"key": "k", "name": "x", "id": hex_id}, content_type=JSON)

        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "id")


def test_id_does_not_change(api_client: Client) -> None:
    answer = api_client.patch("/v1/projects/default", {"id": "0" * 24}, content_type=JSON)

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_field")


def test_foreign_and_absent_are_the_same_404(api_client: Client, other_org: Organization) -> None:
    create_project(organization=other_org, actor="test", key="theirs", name="Theirs")

    for key in ("theirs", "absent", "%00", "a%20b", "x" * 65):
        for path in (f"/v1/projects/{key}", f"/v1/projects/{key}/environments"):
            assert api_client.get(path).json()["code"] == "not_found"
        assert api_client.get(f"/v1/projects/default/environments/{key}").status_code == 404
