"""The OpenAPI document describes every route of the API, and its page needs no other server."""

import re
from typing import Any

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


@pytest.fixture
def document(client: Client) -> Any:
    answer = client.get("/v1/openapi.json")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
    return answer.json()


def test_is_openapi_3_1_with_the_key_as_bearer(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["components"]["securitySchemes"]["apiKey"] == {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "mb_<prefix>_<secret>",
    }


def test_names_every_operation_of_accounts(document: Any) -> None:
    operations = {operation["operationId"] for methods in document["paths"].values() for operation in methods.values()}

    assert operations >= {
        "get_organization", "update_organization", "list_customers", "create_customer", "get_customer",
        "update_customer", "list_api_keys", "create_api_key", "get_api_key", "get_current_api_key", "rotate_api_key",
        "revoke_api_key", "list_projects", "create_project", "get_project", "update_project", "list_environments",
        "create_environment", "get_environment", "update_environment", "list_members", "get_member", "update_member",
        "remove_member", "list_invitations", "create_invitation", "revoke_invitation", "list_audit_log",
    }  # fmt: skip


def test_every_operation_tells_its_refusals_in_the_one_shape(document: Any) -> None:
    for path, methods in document["paths"].items():
        if not path.startswith("/v1/"):
            continue  # another system's dialect, with a shape of its own
        for operation in methods.values():
            for status in ("401", "403", "404", "422", "429", "503"):
                assert status in operation["responses"], (path, status)
    assert set(document["components"]["schemas"]["Error"]["required"]) == {"code", "message", "errors"}


def test_references_lead_somewhere(document: Any) -> None:
    for name in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert name in document["components"]["schemas"]


def test_page_is_served_by_us_alone(client: Client) -> None:
    page = client.get("/v1/docs").content.decode()

    addresses = re.findall(r'(?:src|href|data-openapi-url)="([^"]+)"', page)
    assert "/v1/openapi.json" in addresses
    for address in addresses:
        assert address.startswith("/"), address
        if address != "/v1/openapi.json":
            assert client.get(address).status_code == 200, address
