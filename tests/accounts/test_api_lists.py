"""Every list of the accounts API: pages, cursors, strict queries, and a number of queries that does not grow."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization, Project, Role
from accounts.services import create_environment, create_project, invite_member, record_audit
from tests import factories

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def add_api_key(organization: Organization, number: int) -> None:
    customer = factories.make_customer(organization=organization, external_id=f"for key {number}")
    factories.make_api_key(organization=organization, customer=customer)


def add_environment(organization: Organization, number: int) -> None:
    project = Project.objects.for_organization(organization).get(key="default")
    create_environment(organization=organization, actor="test", project=project, key=f"e{number}", name="E")


LISTS: dict[str, Callable[[Organization, int], object]] = {
    "/v1/customers": lambda org, n: factories.make_customer(organization=org, external_id=f"c{n}"),
    "/v1/api-keys": add_api_key,
    "/v1/projects": lambda org, n: create_project(organization=org, actor="test", key=f"p{n}", name="P"),
    "/v1/projects/default/environments": add_environment,
    "/v1/members": lambda org, n: factories.make_membership(organization=org, user=factories.make_user()),
    "/v1/invitations": lambda org, n: invite_member(
        organization=org,
        actor="test",
        actor_role=Role.OWNER,
        email=f"person{n}@example.test",
        role=Role.VIEWER,
        now=NOW,
    ),
    "/v1/audit-log": lambda org, n: record_audit(organization=org, actor="test", action="test.done", target=str(n)),
}


@pytest.fixture(params=LISTS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fill(path: str, organization: Organization, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        LISTS[path](organization, number)


def walk(client: Client, path: str, limit: int) -> list[dict[str, str]]:
    """Return all rows, page by page."""
    rows: list[dict[str, str]] = []
    query = f"?limit={limit}"
    while True:
        page = client.get(path + query).json()
        assert len(page["data"]) <= limit
        rows += page["data"]
        if page["next_cursor"] is None:
            return rows
        query = f"?limit={limit}&cursor={page['next_cursor']}"


def test_pages_hold_every_row_once(api_client: Client, org: Organization, other_org: Organization, path: str) -> None:
    fill(path, org, 7)
    fill(path, other_org, 3)
    whole = api_client.get(path).json()
    assert whole["next_cursor"] is None
    assert len(whole["data"]) >= 7

    for limit in (1, 3, len(whole["data"])):
        assert walk(api_client, path, limit) == whole["data"]


def test_rows_added_meanwhile_do_not_shift_the_pages(api_client: Client, org: Organization, path: str) -> None:
    fill(path, org, 4)
    before = api_client.get(path).json()["data"]
    first = api_client.get(f"{path}?limit=2").json()

    fill(path, org, 3, start=4)
    rest = api_client.get(f"{path}?cursor={first['next_cursor']}").json()["data"]

    assert [row for row in first["data"] + rest if row in before] == before


def test_number_of_queries_does_not_grow(api_client: Client, org: Organization, path: str) -> None:
    fill(path, org, 3)
    api_client.get(path)  # notes the key's use
    with CaptureQueriesContext(connection) as few:
        api_client.get(path)
    fill(path, org, 12, start=3)
    with CaptureQueriesContext(connection) as many:
        assert len(api_client.get(path).json()["data"]) >= 12

    assert len(many) == len(few) <= 3
    assert not any("COUNT(" in query["sql"] for query in many.captured_queries)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%D9%A1", "limit"),  # an Arabic digit
        (f"limit={'9' * 5000}", "limit"),
        ("limit=1&limit=2", "limit"),
        ("page=2", "page"),
        ("format=json", "format"),
        ("%00=1", "\x00"),
        ("cursor=%00", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=!!!!", "cursor"),
        ("cursor=%F0%9F%98%80", "cursor"),
        (f"cursor={'A' * 3000}", "cursor"),
        (f"cursor={base64.urlsafe_b64encode(b'[1,2]').decode()}", "cursor"),
        (f"cursor={base64.urlsafe_b64encode(b'{}').decode()}", "cursor"),
        (f"cursor={base64.urlsafe_b64encode(b'[true]').decode()}", "cursor"),
        (f"cursor={base64.urlsafe_b64encode(b'[1e400]').decode()}", "cursor"),
        (f"cursor={base64.urlsafe_b64encode(b'[99999999999999999999]').decode()}", "cursor"),
        (f"""cursor={base64.urlsafe_b64encode(b'["a' + bytes([92]) + b'u0000"]').decode()}""", "cursor"),
    ],
)
def test_strict_query(api_client: Client, path: str, query: str, field: str) -> None:
    answer = api_client.get(f"{path}?{query}")

    assert answer.status_code == 422, answer.content
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_every_unknown_parameter_is_named(api_client: Client, path: str) -> None:
    answer = api_client.get(f"{path}?a=1&limit=5&b=2")

    assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [
        ("a", "unknown_field"),
        ("b", "unknown_field"),
    ]


@pytest.mark.parametrize("content", [b'["no number"]', b"[-9223372036854775808]", b"[9223372036854775807]"])
def test_cursor_of_another_list_is_no_500(api_client: Client, path: str, content: bytes) -> None:
    answer = api_client.get(f"{path}?cursor={base64.urlsafe_b64encode(content).decode()}")

    assert answer.status_code in {200, 422}
