"""`/v1/weave/`: instances, the quarantine, settings, and who may do what with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEntry, Organization, Scope
from accounts.services import IssuedKey
from metering.dialects.weave.models import QuarantinedRecord
from tests import factories

pytestmark = pytest.mark.django_db

JSON = "application/json"
# The hour in which the records' amounts occurred: in the past, whatever the day.
HOUR = (datetime.now(UTC) - timedelta(days=1)).replace(minute=0, second=0, microsecond=0)
ClientFor = Callable[[IssuedKey], Client]
MakeRecord = Callable[..., QuarantinedRecord]


@pytest.fixture
def make_record() -> MakeRecord:
    """Return a maker of records that wait, as the listener would have left them."""

    def make(organization: Organization | None, instance: str = "1234", **fields: Any) -> QuarantinedRecord:
        number = QuarantinedRecord.objects.all_tenants().count()
        values = {"unique_key": f"k{number}:samples", "amount_type": "samples", "amount_value": 7} | fields
        record = json.dumps(
            {"internal_instance_id": instance, "metadata": None, "occurred_at": HOUR.isoformat(), **values}
        )
        return QuarantinedRecord.objects.create(
            organization=organization,
            internal_instance_id=instance,
            unique_key=values["unique_key"],
            amount_type=values["amount_type"],
            reason="unknown_instance" if organization is None else "unknown_metric",
            message="It waits.",
            record=record,
            digest=hashlib.sha256(record.encode()).digest(),
            peer="127.0.0.1:50000",
            received_at=timezone.now(),
        )

    return make


@pytest.fixture
def developer(org: Organization, api_client_for: ClientFor) -> Client:
    return api_client_for(factories.make_api_key(organization=org, scopes=(Scope.METRICS_WRITE,)))


@pytest.fixture
def reader(org: Organization, api_client_for: ClientFor) -> Client:
    return api_client_for(factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ,)))


def post(client: Client, path: str, body: Any) -> Any:
    return client.post(f"/v1/weave/{path}", body, content_type=JSON)


def map_instance(client: Client, instance: str = "1234", customer: str = "acme") -> Any:
    return post(client, "instances", {"internal_instance_id": instance, "customer": customer})


def waiting(client: Client, **query: str) -> list[str]:
    answer = client.get("/v1/weave/quarantine", query)
    assert answer.status_code == 200, answer.content
    return [row["internal_instance_id"] for row in answer.json()["data"]]


def usage(client: Client, metric: str = "samples", **query: str) -> tuple[str, int]:
    span = {"from": HOUR.isoformat(), "to": (HOUR + timedelta(hours=1)).isoformat()}
    answer = client.get("/v1/usage", {"metric": metric} | span | query)
    assert answer.status_code == 200, answer.content
    return answer.json()["value"], answer.json()["count"]


class TestInstances:
    def test_are_mapped_listed_and_unmapped(self, api_client: Client, reader: Client, org: Organization) -> None:
        created = map_instance(api_client, "b/2", "Bolt & Co")
        assert created.status_code == 201
        assert map_instance(api_client, "a1", "acme").status_code == 201

        listed = reader.get("/v1/weave/instances").json()
        assert [(row["internal_instance_id"], row["customer"]) for row in listed["data"]] == [
            ("a1", "acme"),
            ("b/2", "Bolt & Co"),
        ]
        assert listed["data"][1] == created.json()

        assert api_client.delete("/v1/weave/instances/b/2").status_code == 204
        assert api_client.delete("/v1/weave/instances/b/2").status_code == 404
        assert [row["internal_instance_id"] for row in reader.get("/v1/weave/instances").json()["data"]] == ["a1"]
        actions = AuditEntry.objects.for_organization(org).filter(action__startswith="weave_instance")
        assert list(actions.order_by("pk").values_list("action", "target")) == [
            ("weave_instance.mapped", "b/2"),
            ("weave_instance.mapped", "a1"),
            ("weave_instance.unmapped", "b/2"),
        ]

    def test_come_in_pages(self, api_client: Client) -> None:
        for number in range(5):
            map_instance(api_client, f"i{number}")
        found, cursor = [], None
        while True:
            page = api_client.get(
                "/v1/weave/instances", {"limit": "2", **({"cursor": cursor} if cursor else {})}
            ).json()
            found.append([row["internal_instance_id"] for row in page["data"]])
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == [["i0", "i1"], ["i2", "i3"], ["i4"]]

    def test_one_is_mapped_once(self, api_client: Client) -> None:
        map_instance(api_client)
        again = map_instance(api_client, customer="other")
        assert (again.status_code, again.json()["code"]) == (409, "already_mapped")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"customer": "acme"}, "internal_instance_id"),
            ({"internal_instance_id": "1"}, "customer"),
            ({"internal_instance_id": "", "customer": "acme"}, "internal_instance_id"),
            ({"internal_instance_id": 1, "customer": "acme"}, "internal_instance_id"),
            ({"internal_instance_id": "1" * 257, "customer": "acme"}, "internal_instance_id"),
            ({"internal_instance_id": "1", "customer": "a\x00"}, "customer"),
            ({"internal_instance_id": "1", "customer": "acme", "color": "red"}, "color"),
        ],
    )
    def test_refusals_name_the_field(self, api_client: Client, body: dict[str, Any], field: str) -> None:
        answer = post(api_client, "instances", body)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]

    def test_belong_to_one_organization(
        self, api_client: Client, outsider_client: Client, org: Organization, other_org: Organization, settings: Any
    ) -> None:
        settings.FORWARD_ORGANIZATIONS = (org.pk, other_org.pk)
        map_instance(api_client)

        taken = map_instance(outsider_client, customer="mine")
        assert (taken.status_code, taken.json()["code"]) == (409, "already_mapped")
        assert "acme" not in taken.content.decode()
        assert outsider_client.get("/v1/weave/instances").json()["data"] == []
        assert outsider_client.delete("/v1/weave/instances/1234").status_code == 404

    def test_of_several_organizations_only_those_that_the_operator_named_map(
        self, api_client: Client, outsider_client: Client, org: Organization, other_org: Organization, settings: Any
    ) -> None:
        refused = map_instance(api_client)
        assert (refused.status_code, refused.json()["code"]) == (403, "port_closed")

        settings.FORWARD_ORGANIZATIONS = (org.pk,)
        assert map_instance(api_client).status_code == 201
        assert map_instance(outsider_client, "1").status_code == 403

    def test_are_mapped_by_admins_alone(self, developer: Client, reader: Client, api_client: Client) -> None:
        for client in (developer, reader):
            assert map_instance(client).json()["code"] == "missing_scope"
        map_instance(api_client)
        assert developer.delete("/v1/weave/instances/1234").status_code == 403


class TestQuarantine:
    def test_shows_what_came_and_why_it_waits(
        self, api_client: Client, org: Organization, make_record: MakeRecord
    ) -> None:
        first, second = make_record(None), make_record(org, "7", amount_type="odd type", unique_key="x:odd type")
        rows = api_client.get("/v1/weave/quarantine").json()["data"]

        assert [row["id"] for row in rows] == [str(second.pk), str(first.pk)]
        received_at = rows[0].pop("received_at")
        assert abs(datetime.fromisoformat(received_at) - datetime.now(UTC)) < timedelta(minutes=1)
        assert rows[0] == {
            "id": str(second.pk),
            "internal_instance_id": "7",
            "unique_key": "x:odd type",
            "amount_type": "odd type",
            "code": "unknown_metric",
            "message": "It waits.",
            "record": second.record,
            "whole": True,
            "peer": "127.0.0.1:50000",
        }
        assert waiting(api_client, internal_instance_id="7") == ["7"]
        assert waiting(api_client, code="unknown_instance") == ["1234"]
        assert waiting(api_client, internal_instance_id="8") == []

    def test_comes_in_pages(self, api_client: Client, make_record: MakeRecord) -> None:
        for number in range(3):
            make_record(None, str(number))
        page = api_client.get("/v1/weave/quarantine", {"limit": "2"}).json()
        assert [row["internal_instance_id"] for row in page["data"]] == ["2", "1"]
        assert waiting(api_client, limit="2", cursor=page["next_cursor"]) == ["0"]

    def test_records_of_nobody_are_for_those_who_may_map(
        self,
        api_client: Client,
        developer: Client,
        reader: Client,
        outsider_client: Client,
        org: Organization,
        other_org: Organization,
        make_record: MakeRecord,
        settings: Any,
    ) -> None:
        make_record(None, "nobodys")
        make_record(org, "ours")
        make_record(other_org, "theirs")
        assert waiting(api_client) == ["ours"]  # the port is not open to one of several organizations
        assert waiting(outsider_client) == ["theirs"]

        settings.FORWARD_ORGANIZATIONS = (org.pk,)
        assert waiting(api_client) == ["ours", "nobodys"]
        assert waiting(developer) == ["ours"]
        assert waiting(outsider_client) == ["theirs"]
        assert reader.get("/v1/weave/quarantine").status_code == 403

    def test_is_counted_after_the_instance_is_mapped_with_its_own_time(
        self, api_client: Client, make_record: MakeRecord
    ) -> None:
        for amount in (7, 5):
            make_record(None, amount_value=amount)
        make_record(None, "other", amount_value=1000)
        map_instance(api_client)

        answer = post(api_client, "quarantine/release", {"internal_instance_id": "1234"})
        assert (answer.status_code, answer.json()) == (200, {"counted": 2, "still_waiting": 0})
        assert usage(api_client, customer="acme") == ("12", 2)
        assert waiting(api_client) == ["other"]
        assert post(api_client, "quarantine/release", {}).json()["counted"] == 0
        assert waiting(api_client) == ["other"]

    def test_is_counted_by_id(self, api_client: Client, make_record: MakeRecord) -> None:
        first, _ = make_record(None, amount_value=1), make_record(None, amount_value=2)
        map_instance(api_client)

        answer = post(api_client, "quarantine/release", {"ids": [str(first.pk)]})
        assert answer.json() == {"counted": 1, "still_waiting": 0}
        assert usage(api_client) == ("1", 1)
        assert waiting(api_client) == ["1234"]

    def test_what_still_cannot_be_counted_waits_on(
        self, api_client: Client, org: Organization, make_record: MakeRecord
    ) -> None:
        map_instance(api_client)
        make_record(org, occurred_at="yesterday")
        answer = post(api_client, "quarantine/release", {})
        assert answer.json() == {"counted": 0, "still_waiting": 1}
        assert waiting(api_client) == ["1234"]

    @pytest.mark.parametrize(
        ("action", "body"),
        [
            ("release", {"ids": ["1"], "internal_instance_id": "1234"}),
            ("release", {"ids": []}),
            ("release", {"ids": ["one"]}),
            ("release", {"ids": [1]}),
            ("discard", {}),
            ("discard", {"ids": []}),
            ("discard", {"internal_instance_id": "1234"}),
        ],
    )
    def test_refuses_what_names_nothing_clear(self, api_client: Client, action: str, body: dict[str, Any]) -> None:
        assert post(api_client, f"quarantine/{action}", body).status_code == 422

    def test_discards_what_the_caller_sees_alone(
        self,
        developer: Client,
        api_client: Client,
        org: Organization,
        other_org: Organization,
        make_record: MakeRecord,
        settings: Any,
    ) -> None:
        settings.FORWARD_ORGANIZATIONS = (org.pk,)
        rows = [make_record(None, "nobodys"), make_record(org, "ours"), make_record(other_org, "theirs")]
        ids = [str(row.pk) for row in rows]

        assert post(developer, "quarantine/discard", {"ids": ids}).json() == {"discarded": 1}
        assert waiting(api_client) == ["nobodys"]
        assert post(api_client, "quarantine/discard", {"ids": ids}).json() == {"discarded": 1}
        left = QuarantinedRecord.objects.all_tenants().values_list("internal_instance_id", flat=True)
        assert list(left) == ["theirs"]

    def test_reader_changes_nothing(self, reader: Client, org: Organization, make_record: MakeRecord) -> None:
        row = make_record(org)
        for action in ("release", "discard"):
            answer = post(reader, f"quarantine/{action}", {"ids": [str(row.pk)]})
            assert answer.json()["code"] == "missing_scope"


class TestSettings:
    def test_are_read_and_changed(self, developer: Client, reader: Client, org: Organization) -> None:
        assert reader.get("/v1/weave/settings").json() == {"is_metric_auto_created": True}

        def change(client: Client, body: dict[str, Any]) -> Any:
            return client.patch("/v1/weave/settings", body, content_type=JSON)

        assert change(reader, {"is_metric_auto_created": False}).status_code == 403
        assert change(developer, {"is_metric_auto_created": False}).json() == {"is_metric_auto_created": False}
        assert change(developer, {}).json() == {"is_metric_auto_created": False}
        assert change(developer, {"is_metric_auto_created": "no"}).status_code == 422
        assert reader.get("/v1/weave/settings").json() == {"is_metric_auto_created": False}
        assert AuditEntry.objects.for_organization(org).filter(action="weave_settings.updated").count() == 1


def test_document_describes_every_operation(client: Client) -> None:
    document = client.get("/v1/openapi.json").json()
    operations = {
        operation["operationId"]
        for path, methods in document["paths"].items()
        if path.startswith("/v1/weave/")
        for operation in methods.values()
    }
    assert operations == {
        "list_weave_instances",
        "map_weave_instance",
        "unmap_weave_instance",
        "list_weave_quarantine",
        "release_weave_quarantine",
        "discard_weave_quarantine",
        "get_weave_settings",
        "update_weave_settings",
    }
