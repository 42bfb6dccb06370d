"""`/v1/customers`."""

from collections.abc import Callable

import pytest
from django.test import Client

from accounts.models import AuditEntry, Customer, Organization, Scope
from accounts.services import ensure_customers, update_organization
from tests import factories

pytestmark = pytest.mark.django_db
JSON = "application/json"


def test_created_read_changed(api_client: Client, org: Organization) -> None:
    created = api_client.post("/v1/customers", {"external_id": "cust 1/ä", "zone": "Asia/Tokyo"}, content_type=JSON)
    assert created.status_code == 201, created.content
    assert created.json() | {"created_at": ""} == {
        "external_id": "cust 1/ä",
        "name": "",
        "zone": "Asia/Tokyo",
        "billing_cycle_day": None,
        "created_at": "",
    }

    changed = api_client.patch("/v1/customers/cust%201%2F%C3%A4", {"billing_cycle_day": 15}, content_type=JSON)
    assert changed.json()["billing_cycle_day"] == 15
    assert api_client.get("/v1/customers/cust 1/ä").json() == changed.json()
    actions = AuditEntry.objects.for_organization(org).filter(action__startswith="customer.").order_by("id")
    assert [entry.action for entry in actions] == ["customer.created", "customer.updated"]


def test_zone_and_cycle_day_can_be_taken_back(api_client: Client, org: Organization) -> None:
    factories.make_customer(organization=org, external_id="c", zone="Asia/Tokyo", billing_cycle_day=5)

    answer = api_client.patch("/v1/customers/c", {"zone": None, "billing_cycle_day": None}, content_type=JSON)

    assert (answer.json()["zone"], answer.json()["billing_cycle_day"]) == (None, None)


def test_same_external_id_again_is_409(api_client: Client, org: Organization, other_org: Organization) -> None:
    factories.make_customer(organization=other_org, external_id="c")
    assert api_client.post("/v1/customers", {"external_id": "c"}, content_type=JSON).status_code == 201

    again = api_client.post("/v1/customers", {"external_id": "c"}, content_type=JSON)

    assert (again.status_code, again.json()["code"]) == (409, "already_exists")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "external_id"),
        ({"external_id": ""}, "external_id"),
        ({"external_id": 5}, "external_id"),
        ({"external_id": ["c"]}, "external_id"),
        ({"external_id": "a\x00"}, "external_id"),
        ({"external_id": "x" * 257}, "external_id"),
        ({"external_id": "c", "billing_cycle_day": 29}, "billing_cycle_day"),
        ({"external_id": "c", "billing_cycle_day": 0}, "billing_cycle_day"),
        ({"external_id": "c", "zone": "UTC+1"}, "zone"),
        ({"external_id": "c", "zone": ""}, "zone"),
    ],
)
def test_refuses_with_the_field(api_client: Client, body: dict[str, object], field: str) -> None:
    answer = api_client.post("/v1/customers", body, content_type=JSON)

    assert answer.status_code == 422, answer.content
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_external_id_cannot_change(api_client: Client, org: Organization) -> None:
    factories.make_customer(organization=org, external_id="c")

    assert api_client.patch("/v1/customers/c", {"external_id": "d"}, content_type=JSON).status_code == 422


@pytest.mark.parametrize("path", ["absent", "%00", "a%00b", "x" * 257, "%ff", "%ed%a0%80", "%0a", "..%2f.."])
def test_absent_and_foreign_are_the_same_404(api_client: Client, other_org: Organization, path: str) -> None:
    factories.make_customer(organization=other_org, external_id="theirs")

    bodies = set()
    for name in (path, "theirs"):
        answer = api_client.get(f"/v1/customers/{name}")
        assert answer.status_code == 404
        bodies.add(answer.json()["code"])
    assert bodies == {"not_found"}


class TestBoundKey:
    @pytest.fixture
    def bound_client(self, org: Organization, api_client_for: Callable[..., Client]) -> Client:
        mine = factories.make_customer(organization=org, external_id="mine")
        factories.make_customer(organization=org, external_id="another")
        return api_client_for(factories.make_api_key(organization=org, customer=mine))

    def test_sees_its_customer_alone(self, bound_client: Client) -> None:
        rows = bound_client.get("/v1/customers").json()["data"]

        assert [row["external_id"] for row in rows] == ["mine"]
        assert bound_client.get("/v1/customers/mine").status_code == 200
        assert bound_client.get("/v1/customers/another").status_code == 404

    def test_changes_nothing_even_as_admin(self, bound_client: Client) -> None:
        for answer in (
            bound_client.post("/v1/customers", {"external_id": "new"}, content_type=JSON),
            bound_client.patch("/v1/customers/mine", {"billing_cycle_day": 1}, content_type=JSON),
            bound_client.patch("/v1/organization", {"name": "x"}, content_type=JSON),
            bound_client.post("/v1/api-keys", {"name": "x", "scopes": ["admin"]}, content_type=JSON),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "bound_key")
        assert Customer.objects.all_tenants().filter(external_id="new").count() == 0


def test_bound_keys_leave_nothing_in_the_inbox(
    api_client: Client, org: Organization, api_client_for: Callable[..., Client]
) -> None:
    """Or a replay, which has no bounds, would count what the key may not send."""
    update_organization(organization=org, actor="test", changes={"is_unmatched_kept": True})
    mine = factories.make_customer(organization=org, external_id="mine")
    event = {"customer": "another", "metric": "not yet", "value": 1}

    for bounds in ({"customer": mine}, {"metric_codes": ("calls",)}):
        client = api_client_for(factories.make_api_key(organization=org, **bounds))
        for durability in ("sync", "async"):
            client.post(f"/v1/events?durability={durability}", event, content_type=JSON)
    assert api_client.get("/v1/inbox").json()["data"] == []

    api_client.post("/v1/events", event, content_type=JSON)
    assert len(api_client.get("/v1/inbox").json()["data"]) == 1


def test_metric_bound_key_sees_nothing_but_itself(org: Organization, api_client_for: Callable[..., Client]) -> None:
    issued = factories.make_api_key(organization=org, scopes=(Scope.ADMIN,), metric_codes=("calls",))
    client = api_client_for(issued)

    for path in ("organization", "customers/x", "api-keys", "projects", "members", "invitations", "audit-log"):
        assert client.get(f"/v1/{path}").status_code in {403, 404}, path
    assert client.get("/v1/api-keys/current").json()["id"] == str(issued.api_key.pk)


class TestEnsureCustomers:
    def test_finds_and_creates(self, org: Organization, other_org: Organization) -> None:
        known = factories.make_customer(organization=org, external_id="b")
        factories.make_customer(organization=other_org, external_id="a")

        ids = ensure_customers(organization=org, external_ids=["b", "a", "b", "c"])

        assert set(ids) == {"a", "b", "c"}
        assert ids["b"] == known.pk
        assert ids == dict(Customer.objects.for_organization(org).values_list("external_id", "pk"))

    def test_is_the_same_twice(self, org: Organization) -> None:
        first = ensure_customers(organization=org, external_ids=["a", "b"])

        assert ensure_customers(organization=org, external_ids=["b", "a"]) == first
