"""What becomes of a report: the server's row, and numbers that the one engine answers."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEntry, Customer, Organization, Scope
from accounts.services import IssuedKey
from metering.catalogs.usage_client import REPORTED_VALUE
from metering.dialects.influx.models import AnonymousReport, Server
from metering.models import Event, Metric
from metering.services.metrics import archive_metric
from tests import factories
from tests.dialects.influx.conftest import SERVER, Post, stats_body, usage_entry

pytestmark = pytest.mark.django_db


def events_of(org: Organization) -> list[dict[str, Any]]:
    """Return what was stored, in the order in which it came."""
    events = Event.objects.for_organization(org).order_by("offset")
    return [
        {"customer": customer, "value": value, **(properties or {})}
        for customer, value, properties in events.values_list("customer__external_id", "value", "properties")
    ]


def fields_of(org: Organization) -> dict[str, Decimal]:
    return {event["field"]: event["value"] for event in events_of(org)}


def latest(client: Client, **filters: str) -> str:
    """Ask the native API, as anybody else would, for the latest value today."""
    now = timezone.now()
    span = {"from": (now - timedelta(hours=1)).isoformat(), "to": (now + timedelta(minutes=1)).isoformat()}
    query = {f"filter[{name}]": value for name, value in filters.items()}
    answer = client.get("/v1/usage", {"metric": REPORTED_VALUE} | span | query)
    assert answer.status_code == 200, answer.content
    return str(answer.json()["value"])


class TestServer:
    def test_first_report_creates_the_server(self, post: Post, org: Organization) -> None:
        before = timezone.now()

        answer = post("/servers", SERVER)

        assert (answer.status_code, answer.json()) == (201, {})
        server = Server.objects.for_organization(org).get()
        assert {name: getattr(server, name) for name in SERVER} == SERVER
        assert before <= server.first_seen_at == server.last_seen_at <= timezone.now()

    def test_each_start_updates_the_same_server(self, post: Post, org: Organization) -> None:
        post("/servers", SERVER)
        post("/servers", SERVER | {"host": "other.example.com", "version": "1.1"})

        server = Server.objects.for_organization(org).get()
        assert (server.host, server.version) == ("other.example.com", "1.1")
        assert server.first_seen_at < server.last_seen_at

    @pytest.mark.parametrize("name", ["cluster_id", "server_id", "product"])
    def test_another_id_is_another_server(self, post: Post, org: Organization, name: str) -> None:
        post("/servers", SERVER)
        post("/servers", SERVER | {name: "another"})

        assert Server.objects.for_organization(org).count() == 2

    def test_names_of_the_greatest_length_are_stored(self, post: Post, org: Organization) -> None:
        greatest = {name: "\U0001f40d" * (100 if name == "product" else 256) for name in SERVER}

        assert post("/servers", greatest).status_code == 201
        assert post("/servers", greatest).status_code == 201

        server = Server.objects.for_organization(org).get()
        assert {name: getattr(server, name) for name in SERVER} == greatest

    def test_organizations_have_each_their_own(
        self, post: Post, org: Organization, other_org: Organization, other_api_key: IssuedKey
    ) -> None:
        post("/servers", SERVER)
        post("/servers", SERVER | {"host": "theirs"}, token=other_api_key.text)

        assert Server.objects.for_organization(org).get().host == "example.com"
        assert Server.objects.for_organization(other_org).get().host == "theirs"


class TestStats:
    def test_each_number_is_one_event(self, post: Post, org: Organization) -> None:
        tags = {"path": "/data/1", "version": "bz1"}
        values = {"blks_write": 39, "note": "x", "ratio": 0.5, "up": True, "down": False}
        body = stats_body(
            {"name": "engine", "tags": tags, "values": values},
            {"name": "shard", "tags": None, "values": None},
            {"name": "runtime", "tags": None, "values": {"alloc": 12}},
        )

        assert post("/stats/influxdb", body).status_code == 201

        names = {"customer": "clus1", "product": "influxdb", "cluster": "clus1", "server": "serv1"}
        engine = names | {"series": "engine,path=/data/1,version=bz1"}
        assert events_of(org) == [
            engine | {"field": "blks_write", "value": Decimal(39)},
            engine | {"field": "ratio", "value": Decimal("0.5")},
            engine | {"field": "up", "value": Decimal(1)},
            engine | {"field": "down", "value": Decimal(0)},
            names | {"series": "runtime", "field": "alloc", "value": Decimal(12)},
        ]
        server = Server.objects.for_organization(org).get()
        assert server.facts == {"engine,path=/data/1,version=bz1 note": "x"}
        assert (server.host, server.version) == ("", "")
        assert server.customer == Customer.objects.for_organization(org).get()

    def test_two_reports_are_two_readings(self, post: Post, org: Organization, api_client: Client) -> None:
        body = stats_body({"name": "runtime", "tags": None, "values": {"alloc": 7}})
        for value in (7, 7, 3):
            body["stats"][0]["values"]["alloc"] = value
            assert post("/stats/influxdb", body).status_code == 201

        assert [event["value"] for event in events_of(org)] == [7, 7, 3]
        assert latest(api_client, server="serv1", field="alloc") == "3"

    def test_a_known_server_keeps_what_the_report_does_not_tell(self, post: Post, org: Organization) -> None:
        post("/servers", SERVER)
        post("/stats/influxdb", stats_body())

        server = Server.objects.for_organization(org).get()
        assert (server.host, server.version) == ("example.com", "1.0")

    def test_nothing_to_count_is_no_event(self, post: Post, org: Organization) -> None:
        for stats in (None, [], [{"name": "shard", "tags": None, "values": None}]):
            assert post("/stats/influxdb", stats_body() | {"stats": stats}).status_code == 201

        assert events_of(org) == []
        assert Server.objects.for_organization(org).count() == 1

    def test_more_than_one_batch_is_stored(self, post: Post, org: Organization) -> None:
        values = {f"field_{number}": number for number in range(6000)}

        assert post("/stats/influxdb", stats_body({"name": "many", "tags": None, "values": values})).status_code == 201

        assert fields_of(org) == values


class TestUsage:
    def test_ids_are_read_from_the_values(self, post: Post, org: Organization) -> None:
        tags = {"version": "0.9.5", "arch": "amd64", "os": "linux"}
        body = [{"tags": tags, "values": {"cluster_id": "23423", "server_id": "1", "num_series": 87232}}]

        assert post("/usage/influxdb", body).status_code == 201

        assert events_of(org) == [
            {
                "customer": "23423",
                "product": "influxdb",
                "cluster": "23423",
                "server": "1",
                "series": "usage",
                "field": "num_series",
                "value": Decimal(87232),
            }
        ]
        server = Server.objects.for_organization(org).get()
        assert (server.cluster_id, server.server_id, server.version) == ("23423", "1", "0.9.5")
        assert server.facts == tags

    def test_texts_among_the_values_are_facts(self, post: Post, org: Organization) -> None:
        post("/usage/chronograf-ng", usage_entry(os="linux", arch="amd64", version="1.4.0", uptime=0.0012))

        server = Server.objects.for_organization(org).get()
        assert server.facts == {"os": "linux", "arch": "amd64", "version": "1.4.0"}
        assert server.version == "1.4.0"
        assert fields_of(org) == {"uptime": Decimal("0.0012")}

    def test_a_new_version_does_not_begin_a_new_series(self, post: Post, org: Organization) -> None:
        for version, count in (("1.0", 5), ("1.1", 6)):
            [entry] = usage_entry(num_tasks=count)
            post("/usage/kapacitor", [entry | {"tags": {"version": version, "region": "eu"}}])

        assert [(event["series"], event["value"]) for event in events_of(org)] == [
            ("usage,region=eu", 5),
            ("usage,region=eu", 6),
        ]
        assert Server.objects.for_organization(org).get().version == "1.1"

    def test_an_entry_without_ids_is_of_the_server_that_another_names(self, post: Post, org: Organization) -> None:
        runtime = {"tags": {"os": "linux", "arch": "amd64"}, "values": {"alloc": 3, "gc_cpu_fraction": 0.25}}

        assert post("/usage/influxdb", [runtime, *usage_entry(num_series=9)]).status_code == 201

        assert {event["server"] for event in events_of(org)} == {"serv1"}
        assert fields_of(org) == {"alloc": 3, "gc_cpu_fraction": Decimal("0.25"), "num_series": 9}
        assert Server.objects.for_organization(org).get().facts == {"os": "linux", "arch": "amd64"}

    def test_several_servers_may_be_in_one_report(self, post: Post, org: Organization) -> None:
        entries = [usage_entry(num_series=number, server_id=f"serv{number}")[0] for number in (1, 2)]

        assert post("/usage/influxdb", entries).status_code == 201

        assert [(event["server"], event["value"]) for event in events_of(org)] == [("serv1", 1), ("serv2", 2)]
        assert Server.objects.for_organization(org).count() == 2

    def test_ids_of_different_entries_are_not_mixed(self, post: Post, org: Organization) -> None:
        only_cluster = {"tags": None, "values": {"cluster_id": "clus2", "num_series": 2}}

        assert post("/usage/influxdb", [*usage_entry(num_series=1), only_cluster]).status_code == 201

        assert [(event["cluster"], event["server"]) for event in events_of(org)] == [("clus1", "serv1"), ("clus2", "")]

    def test_without_a_cluster_it_is_the_unknown_clusters(self, post: Post, org: Organization) -> None:
        assert post("/usage/influxdb", [{"tags": None, "values": {"num_series": 4}}]).status_code == 201

        [event] = events_of(org)
        assert (event["customer"], event["cluster"], event["server"]) == ("unknown-cluster", "", "")
        server = Server.objects.for_organization(org).get()
        assert (server.cluster_id, server.server_id) == ("", "")

    @pytest.mark.parametrize("body", ["null", "[]", '[{"tags": null, "values": null}]'])
    def test_empty_usage_is_taken(self, post: Post, org: Organization, body: str) -> None:
        assert post("/usage/influxdb", body).status_code == 201
        assert events_of(org) == []

    def test_the_product_is_percent_decoded(self, post: Post, org: Organization) -> None:
        assert post("/usage/influxdb%20cluster", usage_entry(n=1)).status_code == 201
        assert events_of(org)[0]["product"] == "influxdb cluster"


class TestValues:
    @pytest.mark.parametrize(
        ("sent", "stored"),
        [
            ("9007199254740993", "9007199254740993"),
            ("18446744073709551616", "18446744073709551616"),
            ("-12", "-12"),
            ("0.1", "0.1"),
            ("86400.5", "86400.5"),
            ("1e3", "1000"),
            ("1.5e-7", "0.00000015"),
            # A float's shortest text may have more decimals than a quantity; rounded half to even at the 18th.
            ("6.123456789012345e-07", "0.000000612345678901"),
            ("0.0000000000000000005", "0"),
            ("true", "1"),
            ("false", "0"),
        ],
    )
    def test_numbers_are_stored_as_they_are(self, post: Post, org: Organization, sent: str, stored: str) -> None:
        body = f'[{{"tags": null, "values": {{"cluster_id": "c", "n": {sent}}}}}]'

        assert post("/usage/p", body).status_code == 201

        assert fields_of(org) == {"n": Decimal(stored)}

    @pytest.mark.parametrize("sent", ['"text"', "null", "[1]", '{"a": 1}', "1e300", "1e999999999"])
    def test_what_is_no_quantity_does_not_harm_its_neighbours(self, post: Post, org: Organization, sent: str) -> None:
        body = f'[{{"tags": null, "values": {{"a": 1, "n": {sent}, "z": 2}}}}]'

        assert post("/usage/p", body).status_code == 201

        assert fields_of(org) == {"a": 1, "z": 2}

    def test_a_field_may_change_its_type(self, post: Post, org: Organization, api_client: Client) -> None:
        for value in (86400, 86400.5, True, "soon", 86401):
            assert post("/usage/p", usage_entry(uptime=value)).status_code == 201

        assert [event["value"] for event in events_of(org)] == [86400, Decimal("86400.5"), 1, 86401]
        assert latest(api_client, field="uptime") == "86401"

    def test_facts_are_bounded(self, post: Post, org: Organization) -> None:
        post("/usage/p", usage_entry(**{f"text_{number}": "x" * 1000 for number in range(100)}))
        post("/usage/p", usage_entry(new="\u0000y"))

        facts = Server.objects.for_organization(org).get().facts
        assert len(facts) == 64
        assert facts["new"] == "y"
        assert {len(text) for name, text in facts.items() if name != "new"} == {200}


class TestMetrics:
    def test_the_first_number_installs_the_catalog_once(
        self, post: Post, org: Organization, api_key: IssuedKey
    ) -> None:
        post("/servers", SERVER)
        assert not Metric.objects.for_organization(org).exists()

        post("/usage/p", usage_entry(n=1))
        post("/usage/p", usage_entry(n=1))

        metric = Metric.objects.for_organization(org).get()
        assert (metric.code, metric.aggregation, metric.catalog) == (REPORTED_VALUE, "latest", "usage-client")
        [entry] = AuditEntry.objects.for_organization(org).filter(action="metric.created")
        assert entry.actor == f"key:{api_key.api_key.prefix}"

    def test_after_the_metric_is_archived_the_sender_is_told(self, post: Post, org: Organization) -> None:
        post("/usage/p", usage_entry(n=1))
        archive_metric(
            organization=org, metric=Metric.objects.for_organization(org).get(), actor="test", now=timezone.now()
        )

        answer = post("/usage/p", usage_entry(n=2))

        assert answer.status_code == 422
        assert answer.json()["code"] == "unknown_metric"
        assert fields_of(org) == {"n": 1}


class TestBoundKeys:
    def test_numbers_are_of_the_customer_of_the_key(self, post: Post, org: Organization) -> None:
        customer = factories.make_customer(organization=org, external_id="acme")
        key = factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,), customer=customer)

        assert post("/usage/p", usage_entry(n=1), token=key.text).status_code == 201

        [event] = events_of(org)
        assert (event["customer"], event["cluster"]) == ("acme", "clus1")
        server = Server.objects.for_organization(org).get()
        assert (server.customer, server.cluster_id) == (customer, "clus1")

    def test_a_key_of_other_metrics_is_refused(self, post: Post, org: Organization) -> None:
        key = factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,), metric_codes=("requests",))

        for path, body in (("/servers", SERVER), ("/usage/p", usage_entry(n=1))):
            assert post(path, body, token=key.text).status_code == 401

        assert not Server.objects.for_organization(org).exists()

    def test_a_key_of_this_metric_may_report(self, post: Post, org: Organization) -> None:
        key = factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,), metric_codes=(REPORTED_VALUE,))

        assert post("/usage/p", usage_entry(n=1), token=key.text).status_code == 201
        assert fields_of(org) == {"n": 1}

    def test_an_unknown_cluster_is_told_where_customers_are_not_made_by_events(
        self, post: Post, org: Organization
    ) -> None:
        Organization.objects.filter(pk=org.pk).update(is_customer_auto_created=False)

        answer = post("/usage/p", usage_entry(n=1))

        assert answer.status_code == 422
        assert answer.json()["errors"] == {"cluster_id": ["There is no such customer."]}
        assert fields_of(org) == {}

    def test_a_refused_value_takes_nothing_else_with_it(self, post: Post, org: Organization) -> None:
        """The server was heard of all the same, before it is known as a customer and after."""
        Organization.objects.filter(pk=org.pk).update(is_customer_auto_created=False)
        assert post("/usage/p", usage_entry(n=1, version="1.0")).status_code == 422
        server = Server.objects.for_organization(org).get()
        assert (server.version, server.customer) == ("1.0", None)

        customer = factories.make_customer(organization=org, external_id="clus1")
        assert post("/usage/p", usage_entry(n=1, version="1.1")).status_code == 201
        Customer.objects.for_organization(org).filter(pk=customer.pk).update(external_id="renamed")
        assert post("/usage/p", usage_entry(n=2, version="1.2")).status_code == 422

        server.refresh_from_db()
        assert (server.version, server.customer) == ("1.2", customer)
        assert fields_of(org) == {"n": 1}


def test_no_report_of_an_organization_is_kept_among_the_anonymous(post: Post) -> None:
    post("/servers", SERVER)
    assert not AnonymousReport.objects.exists()
