"""`POST /v1/requests`: a verdict for every record, the event that each becomes, and what is never kept."""

import gzip
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import zstandard
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Organization, Scope
from accounts.services import update_organization
from common.telemetry import METERING_ERRORS
from metering.dialects.gateway import recording
from metering.dialects.gateway.models import GatewaySettings
from metering.dialects.gateway.services import refusals as refusals_service
from metering.models import Event, InboxEvent, Metric
from metering.services.inbox import discard_inbox, replay_inbox
from tests import factories

pytestmark = pytest.mark.django_db
JSON = "application/json"

NO_RECORDS = [
    (b"", 400, "malformed_json"),
    (b"{", 400, "malformed_json"),
    (b"[1, 2", 400, "malformed_json"),
    (b'{"requests": [}', 400, "malformed_json"),
    (b'[{"method": "\xff", "status_code": 200, "latency_ms": 1}]', 400, "malformed_json"),
    (b"[" * 100_000, 400, "malformed_json"),
    (b"[]", 422, "empty_batch"),
    (b'{"requests": []}', 422, "empty_batch"),
    (b'{"requests": {}}', 422, "invalid"),
    (b'{"requests": null}', 422, "invalid"),
    (b'{"requests": [], "more": 1}', 422, "unknown_field"),
    (b"17", 422, "invalid"),
    (b"null", 422, "invalid"),
    (b'[{"method": "GET", "status_code": ' + b"9" * 5000 + b', "latency_ms": 1}]', 422, "invalid_status_code"),
]
# What is wrong, where it is told, and as what.
BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"method": None}, "method", "invalid_method"),
    ({"method": ""}, "method", "invalid_method"),
    ({"method": "GET /"}, "method", "invalid_method"),
    ({"method": "G" * 33}, "method", "invalid_method"),
    ({"status_code": 99}, "status_code", "invalid_status_code"),
    ({"status_code": 600}, "status_code", "invalid_status_code"),
    ({"status_code": "200"}, "status_code", "invalid_status_code"),
    ({"status_code": 200.5}, "status_code", "invalid_status_code"),
    ({"latency_ms": -1}, "latency_ms", "invalid_latency_ms"),
    ({"latency_ms": "fast"}, "latency_ms", "invalid_latency_ms"),
    ({"latency_ms": "NaN"}, "latency_ms", "invalid_latency_ms"),
    ({"latency_ms": None}, "latency_ms", "invalid_latency_ms"),
    ({"latency_ms": True}, "latency_ms", "invalid_latency_ms"),
    ({"latency_ms": 604_800_001}, "latency_ms", "invalid_latency_ms"),
    ({"latency_ms": "0." + "1" * 19}, "latency_ms", "invalid_latency_ms"),
    ({"request_bytes": -1}, "request_bytes", "invalid_request_bytes"),
    ({"request_bytes": None}, "request_bytes", "invalid_request_bytes"),
    ({"response_bytes": 10**15 + 1}, "response_bytes", "invalid_response_bytes"),
    ({"response_bytes": 10**30}, "response_bytes", "invalid_response_bytes"),
    ({"user_id": 7}, "user_id", "invalid_user_id"),
    ({"user_id": "u" * 257}, "user_id", "invalid_user_id"),
    ({"user_id": "u\x00"}, "user_id", "invalid_customer"),
    ({"request_id": "r" * 257}, "request_id", "invalid_key"),
    ({"request_id": ""}, "request_id", "invalid_key"),
    ({"route_id": "r" * 257}, "route_id", "invalid_route_id"),
    ({"api_key_id": "\x00"}, "api_key_id", "invalid_property"),
    ({"path": "/" + "p" * 2048}, "path", "invalid_path"),
    ({"path": "/\x00"}, "path", "invalid_property"),
    ({"path": "/" + "\U0001f600" * 2047, "query_params": "q=1"}, "path", "invalid_property"),
    ({"query_params": "q" * 2049}, "query_params", "invalid_query_params"),
    ({"query_params": 5}, "query_params", "invalid_query_params"),
    ({"query_params": {"a": 1}}, "query_params", "invalid_query_params"),
    ({"query_params": {"a": ["x"] * 101}}, "query_params", "invalid_query_params"),
    ({"error_code": "e" * 257}, "error_code", "invalid_error_code"),
    ({"ip_address": "localhost"}, "ip_address", "invalid_ip_address"),
    ({"ip_address": "1.2.3.256"}, "ip_address", "invalid_ip_address"),
    ({"ip_address": "fe80::1%" + "z" * 57}, "ip_address", "invalid_ip_address"),
    ({"timestamp": "2026-02-30T00:00:00Z"}, "timestamp", "invalid_timestamp"),
    ({"timestamp": "2026-11-20T10:00:00"}, "timestamp", "invalid_timestamp"),
    ({"timestamp": "2999-01-01T00:00:00Z"}, "timestamp", "timestamp_in_future"),
    ({"customer": "x"}, "customer", "unknown_field"),
]

CATALOG = ["api_bytes", "api_latency", "api_latency_ms", "api_metering_errors", "api_requests", "api_units"]


def served(**fields: Any) -> dict[str, Any]:
    """Return one record with nothing but what it needs."""
    return {"method": "GET", "status_code": 200, "latency_ms": 12.5, "user_id": "usr_1"} | fields


def send(client: Client, body: Any, **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/v1/requests", content, content_type=JSON, headers=headers)


def told(client: Client, body: Any) -> dict[str, Any]:
    answer = send(client, body)
    assert answer.status_code in {200, 422}, answer.content
    result: dict[str, Any] = answer.json()
    return result


def refusals(client: Client, *records: Any) -> list[tuple[int, str, str]]:
    return [(error["index"], error["field"], error["code"]) for error in told(client, list(records))["errors"]]


def make_route(client: Client, **fields: Any) -> None:
    answer = client.post("/v1/routes", json.dumps(fields), content_type=JSON)
    assert answer.status_code == 201, answer.content


def properties(org: Organization, key: str) -> dict[str, Any]:
    found: dict[str, Any] = Event.objects.for_organization(org).get(idempotency_key=key).properties
    return found


def usage(client: Client, metric: str, **query: str) -> str:
    now = timezone.now()
    span = {"from": now.replace(hour=0, minute=0, second=0, microsecond=0).isoformat(), "to": now.isoformat()}
    answer = client.get("/v1/usage", {"metric": metric} | span | query)
    assert answer.status_code == 200, answer.content
    return str(answer.json()["value"])


class TestBody:
    def test_is_one_record_an_array_or_an_object_of_requests(self, api_client: Client) -> None:
        for body in (served(), [served()], {"requests": [served()]}):
            assert told(api_client, body)["stored"] == 1
        assert usage(api_client, "api_requests") == "3"

    def test_may_be_compressed(self, api_client: Client) -> None:
        body = json.dumps([served()]).encode()

        assert send(api_client, gzip.compress(body), **{"Content-Encoding": "gzip"}).json()["stored"] == 1
        assert send(api_client, zstandard.compress(body), **{"Content-Encoding": "zstd"}).json()["stored"] == 1

    def test_that_holds_no_records_is_refused(self, api_client: Client) -> None:
        for body, status, code in NO_RECORDS:
            answer = send(api_client, body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), body[:100]

    def test_with_a_length_that_is_no_number_is_refused(self, api_client: Client) -> None:
        for length, status in (("abc", 400), ("-1", 400), ("\u0663", 400), ("9" * 5000, 413)):
            answer = api_client.post("/v1/requests", b"[]", content_type=JSON, CONTENT_LENGTH=length)
            assert answer.status_code == status, length

    def test_of_another_type_and_parameters_are_refused(self, api_client: Client) -> None:
        assert api_client.post("/v1/requests", "x", content_type="text/plain").status_code == 415
        answer = api_client.post("/v1/requests?durability=async", json.dumps(served()), content_type=JSON)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_parameter")
        assert api_client.get("/v1/requests").status_code == 405

    def test_of_5000_records_is_taken_and_of_one_more_refused(self, api_client: Client) -> None:
        records = [served(user_id="u")] * 5000

        assert told(api_client, records)["stored"] == 5000
        answer = send(api_client, [*records, served()])
        assert (answer.status_code, answer.json()["code"]) == (413, "batch_too_large")
        assert usage(api_client, "api_requests") == "5000"


class TestVerdicts:
    def test_name_what_is_wrong_with_every_record(self, api_client: Client) -> None:
        records = [served(**fields) for fields, _, _ in BAD_FIELDS]

        told_ = refusals(api_client, *records)

        assert told_ == [(index, field, code) for index, (_, field, code) in enumerate(BAD_FIELDS)]

    def test_spare_the_neighbours(self, api_client: Client) -> None:
        bad = [served(status_code=99), served(latency_ms=-1), served(user_id="u\x00")]

        result = told(api_client, [served(), bad[0], bad[1], served(), bad[2]])

        assert (result["stored"], result["rejected"]) == (2, 3)
        assert [error["index"] for error in result["errors"]] == [1, 2, 4]
        assert usage(api_client, "api_requests") == "2"

    def test_name_what_is_missing(self, api_client: Client) -> None:
        for name in ("method", "status_code", "latency_ms"):
            record = served(request_id="r-1")
            del record[name]
            [error] = told(api_client, [record])["errors"]
            assert (error["field"], error["code"], error["idempotency_key"]) == (name, "required", "r-1")

    def test_tell_members_that_are_no_records(self, api_client: Client) -> None:
        assert refusals(api_client, 1, None, [], "x", served()) == [(index, "", "invalid_record") for index in range(4)]

    def test_of_a_request_in_which_all_are_refused_are_an_error(self, api_client: Client) -> None:
        answer = send(api_client, [served(status_code=0)])

        assert answer.status_code == 422
        assert (answer.json()["code"], answer.json()["stored"]) == ("invalid_status_code", 0)

    def test_tell_duplicates_and_conflicts_by_request_id(self, api_client: Client) -> None:
        record = served(request_id="r-1", timestamp="2025-01-19T10:00:00Z")

        assert told(api_client, record)["stored"] == 1
        result = told(api_client, [record, record | {"status_code": 500}, served(request_id="r-2")])

        assert (result["stored"], result["duplicates"]) == (1, 1)
        assert [(error["field"], error["code"]) for error in result["errors"]] == [("request_id", "conflict")]

    def test_tell_the_ids_that_were_made_up(self, api_client: Client, org: Organization) -> None:
        [(index, key)] = told(api_client, [served(request_id="mine"), served()])["generated_keys"].items()

        assert index == "1"
        assert properties(org, key)["status"] == "200"


class TestEvent:
    def test_holds_what_was_told(self, api_client: Client, org: Organization) -> None:
        GatewaySettings.objects.create(organization=org, usage_store_ip="full")
        record = served(
            request_id="r-1",
            user_id="usr_7",
            api_key_id="key_9",
            route_id="users-api",
            method="post",
            path="/users/17",
            query_params={"q": "a b", "tag": ["x", "y"]},
            timestamp="2025-01-19T12:00:00+02:00",
            status_code=404,
            latency_ms="42.125",
            request_bytes=100,
            response_bytes=2000,
            error_code="user_not_found",
            ip_address="203.0.113.77",
            request_body={"secret": "never kept"},
            response_body=["never kept"],
        )

        assert told(api_client, record)["stored"] == 1

        event = Event.objects.for_organization(org).select_related("customer", "feed").get()
        assert (event.idempotency_key, event.customer.external_id, event.feed.event_type) == (
            "r-1",
            "usr_7",
            "api_request",
        )
        assert event.occurred_at.isoformat() == "2025-01-19T10:00:00+00:00"
        assert event.value is None
        assert event.properties == {
            "status": "404",
            "method": "POST",
            "latency_ms": 42.125,
            "latency_bucket": "94",
            "total_bytes": 2100,
            "request_bytes": 100,
            "response_bytes": 2000,
            "metered_units": 1,
            "metering_mode": "request",
            "route_id": "users-api",
            "api_key_id": "key_9",
            "path": "/users/17",
            "query_params": "q=a+b&tag=x&tag=y",
            "error_code": "user_not_found",
            "ip_address": "203.0.113.77",
        }

    def test_of_the_barest_record_holds_no_more(self, api_client: Client, org: Organization) -> None:
        told(api_client, {"request_id": "r", "method": "GET", "status_code": 204, "latency_ms": 0})

        event = Event.objects.for_organization(org).select_related("customer").get()
        assert event.customer.external_id == "anonymous"
        assert not event.has_own_time
        assert event.properties == {
            "status": "204",
            "method": "GET",
            "latency_ms": 0,
            "latency_bucket": "-172",
            "total_bytes": 0,
            "request_bytes": 0,
            "response_bytes": 0,
            "metered_units": 1,
            "metering_mode": "request",
        }

    def test_takes_null_and_empty_for_absent(self, api_client: Client, org: Organization) -> None:
        names = ("user_id", "api_key_id", "route_id", "path", "query_params", "error_code", "ip_address")
        told(
            api_client,
            [served(request_id="a", **dict.fromkeys(names)), served(request_id="b", **dict.fromkeys(names, ""))],
        )

        assert properties(org, "a") == properties(org, "b")
        assert set(properties(org, "a")).isdisjoint(names)
        customers = Event.objects.for_organization(org).values_list("customer__external_id", flat=True)
        assert set(customers) == {"anonymous"}

    def test_splits_a_path_that_brings_its_query(self, api_client: Client, org: Organization) -> None:
        told(api_client, served(request_id="r", path="/search?q=1&r=2"))

        assert properties(org, "r")["path"] == "/search"
        assert properties(org, "r")["query_params"] == "q=1&r=2"

    def test_counts_in_every_metric_of_the_catalog(self, api_client: Client) -> None:
        told(
            api_client,
            [
                served(latency_ms="10.5", request_bytes=1, response_bytes=2, route_id="a"),
                served(latency_ms="20.25", response_bytes=7, route_id="a", status_code=500),
                served(latency_ms="0.005", route_id="b", user_id="usr_2"),
            ],
        )

        assert {code: usage(api_client, code) for code in CATALOG} == {
            "api_requests": "3",
            "api_units": "3",
            "api_bytes": "10",
            "api_latency_ms": "30.755",
            "api_latency": "3",
            "api_metering_errors": "0",
        }
        assert usage(api_client, "api_requests", **{"filter[route_id]": "a", "filter[status]": "500"}) == "1"
        assert usage(api_client, "api_requests", customer="usr_2") == "1"


class TestPrivacy:
    @pytest.mark.parametrize(
        ("storage", "kept"),
        [
            ("truncated", ["203.0.113.0", "2001:db8:abcd::", "203.0.113.0", "fe80::", "::"]),
            ("full", ["203.0.113.77", "2001:db8:abcd:12::1", "203.0.113.77", "fe80::1", "::1"]),
            ("off", [None] * 5),
        ],
    )
    def test_of_addresses(self, api_client: Client, org: Organization, storage: str, kept: list[str | None]) -> None:
        GatewaySettings.objects.create(organization=org, usage_store_ip=storage)
        addresses = ("203.0.113.77", "2001:DB8:abcd:12::0:1", "::ffff:203.0.113.77", "fe80::1%eth0", "::1")

        told(api_client, [served(request_id=address, ip_address=address) for address in addresses])

        assert [properties(org, address).get("ip_address") for address in addresses] == kept

    def test_addresses_that_are_not_kept_are_not_remembered_and_long_ones_never(
        self, api_client: Client, org: Organization
    ) -> None:
        GatewaySettings.objects.create(organization=org, usage_store_ip="off")
        remembered = recording._stored_ip.cache_info().currsize

        assert told(api_client, served(ip_address="203.0.113.201"))["stored"] == 1
        assert refusals(api_client, served(ip_address="no address")) == [(0, "ip_address", "invalid_ip_address")]
        GatewaySettings.objects.filter(organization=org).update(usage_store_ip="full")
        told(api_client, served(ip_address="fe80::1%" + "a" * 2**20))

        assert recording._stored_ip.cache_info().currsize == remembered

    def test_addresses_are_cut_off_unless_somebody_says_otherwise(self, api_client: Client, org: Organization) -> None:
        told(api_client, served(request_id="r", ip_address="198.51.100.23"))

        assert properties(org, "r")["ip_address"] == "198.51.100.0"

    def test_without_paths_keeps_neither_path_nor_query_but_finds_the_route(
        self, api_client: Client, org: Organization
    ) -> None:
        GatewaySettings.objects.create(organization=org, usage_store_path=False)
        make_route(api_client, id="users", path_pattern="/users/{id}")

        told(api_client, served(request_id="r", path="/users/17?token=abc", query_params=None))

        assert properties(org, "r")["route_id"] == "users"
        assert {"path", "query_params"}.isdisjoint(properties(org, "r"))

    def test_untracked_is_accepted_and_said_not_to_be_stored(self, api_client: Client, org: Organization) -> None:
        GatewaySettings.objects.create(organization=org, usage_tracking_enabled=False)

        answer = send(api_client, [served(), served(status_code=0)])

        assert answer.status_code == 200
        assert answer.json() == {
            "stored": 0,
            "duplicates": 0,
            "rejected": 0,
            "errors": [],
            "first_offset": None,
            "last_offset": None,
            "accepted": 2,
            "tracking_enabled": False,
        }
        assert not Event.objects.for_organization(org).exists()
        assert not Metric.objects.for_organization(org).exists()


class TestMetering:
    def test_by_request_and_by_bytes(self, api_client: Client, org: Organization) -> None:
        make_route(api_client, id="plain", path_pattern="/plain")
        make_route(api_client, id="heavy", path_pattern="/heavy", metering_mode="bytes")
        sizes = {"request_bytes": 1, "response_bytes": 1000}

        told(
            api_client, [served(request_id="p", path="/plain", **sizes), served(request_id="h", path="/heavy", **sizes)]
        )

        assert (properties(org, "p")["metered_units"], properties(org, "p")["metering_mode"]) == (1, "request")
        assert (properties(org, "h")["metered_units"], properties(org, "h")["metering_mode"]) == (0.9775390625, "bytes")
        assert usage(api_client, "api_units") == "1.9775390625"

    def test_the_greatest_number_of_bytes_is_exact(self, api_client: Client) -> None:
        make_route(api_client, id="heavy", metering_mode="bytes")

        told(api_client, served(route_id="heavy", request_bytes=10**15, response_bytes=10**15 - 1))

        # 2e15 less one, by 1024, by hand: 1953124999999 + 1023/1024.
        assert usage(api_client, "api_units") == "1953124999999.9990234375"

    def test_by_the_seed_s_expressions(self, api_client: Client, org: Organization) -> None:
        make_route(api_client, id="ai", metering_mode="response_field", metering_expr="response.body.tokens_used")
        make_route(api_client, id="bulk", metering_mode="custom", metering_expr="request.body.items.length * 0.5")

        told(
            api_client,
            [
                served(request_id="a", route_id="ai", response_body={"tokens_used": 421}),
                served(request_id="b", route_id="bulk", request_body={"items": [1, 2, 3]}),
            ],
        )

        assert (properties(org, "a")["metered_units"], properties(org, "a")["metering_mode"]) == (421, "response_field")
        assert (properties(org, "b")["metered_units"], properties(org, "b")["metering_mode"]) == (1.5, "custom")
        assert usage(api_client, "api_units") == "422.5"

    def test_digits_of_a_body_reach_the_total_as_they_were(self, api_client: Client) -> None:
        make_route(api_client, id="ai", metering_mode="response_field", metering_expr="response.body.n")
        bodies = [b"0.1", b"0.2", b"12345678901234567890.123456789012345678"]
        records = [
            json.dumps(served(route_id="ai"))[:-1].encode() + b', "response_body": {"n": ' + n + b"}}" for n in bodies
        ]

        assert told(api_client, b"[" + b",".join(records) + b"]")["stored"] == 3

        assert usage(api_client, "api_units") == "12345678901234567890.423456789012345678"

    def test_a_zero_is_nothing_however_it_is_written(self, api_client: Client, org: Organization) -> None:
        make_route(api_client, id="ai", metering_mode="response_field", metering_expr="response.body.n")
        zeros = [b"0e99", b"-0.0", b"0e999999", b"0.00000000000000000000000000"]
        records = [
            b'{"method": "GET", "status_code": 200, "route_id": "ai", "latency_ms": 0e99, "response_body": {"n": %s}}'
            % zero
            for zero in zeros
        ]

        assert told(api_client, b"[" + b",".join(records) + b"]")["errors"] == []

        for event in Event.objects.for_organization(org):
            assert (event.properties["metered_units"], event.properties["latency_ms"]) == (0, 0)

    def test_an_unknown_route_counts_one_under_its_own_name(self, api_client: Client, org: Organization) -> None:
        make_route(api_client, id="heavy", path_pattern="/heavy", metering_mode="bytes")

        told(api_client, served(request_id="r", route_id="gone", path="/heavy", response_bytes=4096))

        assert (
            properties(org, "r").items() >= {"route_id": "gone", "metered_units": 1, "metering_mode": "request"}.items()
        )

    def test_a_named_route_comes_before_the_path_s(self, api_client: Client, org: Organization) -> None:
        make_route(api_client, id="heavy", path_pattern="/heavy", metering_mode="bytes")
        make_route(api_client, id="other", path_pattern="/other")

        told(api_client, served(request_id="r", route_id="other", path="/heavy", response_bytes=4096))

        assert properties(org, "r")["route_id"] == "other"
        assert properties(org, "r")["metered_units"] == 1

    def test_a_change_of_a_route_counts_from_the_next_request(self, api_client: Client, org: Organization) -> None:
        make_route(api_client, id="r", path_pattern="/r", metering_mode="custom", metering_expr="2")
        told(api_client, served(request_id="1", path="/r"))
        api_client.patch("/v1/routes/r", json.dumps({"metering_expr": "3"}), content_type=JSON)
        told(api_client, served(request_id="2", path="/r"))
        api_client.delete("/v1/routes/r")
        told(api_client, served(request_id="3", path="/r"))

        assert [properties(org, key)["metered_units"] for key in "123"] == [2, 3, 1]
        assert "route_id" not in properties(org, "3")

    def test_a_record_sent_again_after_a_change_stays_as_it_was(self, api_client: Client, org: Organization) -> None:
        make_route(api_client, id="r", metering_mode="custom", metering_expr="2")
        record = served(request_id="1", route_id="r", timestamp="2025-01-19T10:00:00Z")
        told(api_client, record)
        api_client.patch("/v1/routes/r", json.dumps({"metering_expr": "3"}), content_type=JSON)

        assert refusals(api_client, record) == [(0, "request_id", "conflict")]
        assert properties(org, "1")["metered_units"] == 2

    def test_a_route_s_metric_sums_its_units_alone(self, api_client: Client, org: Organization) -> None:
        metric = {"code": "tokens", "aggregation": "sum", "event_type": "api_request", "value_property": "tokens"}
        api_client.post("/v1/metrics", json.dumps(metric), content_type=JSON)
        make_route(
            api_client,
            id="ai",
            metering_mode="response_field",
            metering_expr="response.body.tokens_used",
            metric="tokens",
        )

        told(
            api_client,
            [served(request_id="a", route_id="ai", response_body={"tokens_used": 12.5}), served(), served()],
        )

        assert properties(org, "a")["tokens"] == 12.5
        assert (usage(api_client, "tokens"), usage(api_client, "api_units")) == ("12.5", "14.5")


class TestMeteringErrors:
    def make_routes(self, client: Client) -> None:
        for policy in ("reject", "zero", "one"):
            make_route(
                client,
                id=policy,
                metering_mode="response_field",
                metering_expr="response.body.tokens_used",
                on_metering_error=policy,
            )

    def test_are_settled_as_the_route_says(self, api_client: Client, org: Organization) -> None:
        self.make_routes(api_client)

        result = told(
            api_client,
            [
                served(request_id="r", route_id="reject"),
                served(request_id="z", route_id="zero", response_body={"tokens_used": -5}),
                served(request_id="o", route_id="one", response_body={"tokens_used": "many"}),
                served(request_id="ok", route_id="reject", response_body={"tokens_used": 7}),
            ],
        )

        assert (result["stored"], result["rejected"]) == (3, 1)
        [error] = result["errors"]
        assert (error["index"], error["field"], error["code"]) == (0, "metering_expr", "metering_error")
        assert error["message"].startswith("missing_field: ")
        assert [(told_["index"], told_["idempotency_key"], told_["code"]) for told_ in result["metering_errors"]] == [
            (1, "z", "negative"),
            (2, "o", "not_a_number"),
        ]
        assert properties(org, "z").items() >= {"metered_units": 0, "metering_error": "negative"}.items()
        assert properties(org, "o").items() >= {"metered_units": 1, "metering_error": "not_a_number"}.items()
        assert "metering_error" not in properties(org, "ok")
        assert usage(api_client, "api_units") == "8"

    def test_are_counted_by_route_and_reason(self, api_client: Client) -> None:
        self.make_routes(api_client)
        bad = [
            served(route_id="zero"),
            served(route_id="zero"),
            served(route_id="one", response_body={"tokens_used": []}),
        ]

        told(api_client, [*bad, served(route_id="one", response_body={"tokens_used": 1})])

        assert usage(api_client, "api_metering_errors") == "3"
        assert usage(api_client, "api_metering_errors", **{"filter[route_id]": "zero"}) == "2"
        assert usage(api_client, "api_metering_errors", **{"filter[metering_error]": "not_a_number"}) == "1"

    def test_are_counted_for_whoever_watches_the_process(self, api_client: Client) -> None:
        self.make_routes(api_client)
        before = self.exported()

        told(api_client, [served(route_id=policy) for policy in ("reject", "reject", "zero", "one")])

        grown = {policy: count - before.get(policy, 0) for policy, count in self.exported().items()}
        assert grown == {"reject": 2, "zero": 1, "one": 1}

    def test_that_cost_the_record_are_told_to_its_organization(
        self, api_client: Client, outsider_client: Client, org: Organization
    ) -> None:
        self.make_routes(api_client)
        now = timezone.now()
        refused = served(request_id="r", route_id="reject", path="/ask", request_body={"prompt": "a secret"})

        told(api_client, [refused, served(request_id="z", route_id="zero")])
        told(api_client, [refused])  # the sender tries again

        [row] = InboxEvent.objects.for_organization(org)
        assert (row.code, row.idempotency_key, row.state) == ("metering_error", "r", "waiting")
        assert "secret" not in row.payload
        [entry] = [entry for entry in self.logged(api_client) if entry["code"] == "metering_error"]
        assert entry["details"].items() >= {"route_id": "reject", "path": "/ask", "idempotency_key": "r"}.items()
        assert entry["message"].startswith("A request was refused: missing_field: ")
        assert self.errors(api_client) == {
            "total": 1,
            "by_code": {"missing_field": 1},
            "refused": {"total": 1, "by_code": {"missing_field": 1}},
        }
        assert self.errors(api_client, route="zero")["refused"]["total"] == 0
        assert self.errors(api_client, user="usr_1", route="reject")["refused"]["total"] == 1
        tomorrow = f"{now + timedelta(days=1):%Y-%m-%d}"
        assert self.errors(api_client, **{"from": tomorrow, "to": tomorrow})["refused"]["total"] == 0
        assert usage(api_client, "api_requests") == "1"
        outsiders = outsider_client.get("/v1/logs", {"filter": "usage"}).json()["data"]
        assert not [entry for entry in outsiders if entry["code"] == "metering_error"]

    def test_that_cost_the_record_can_be_replayed_without_units_or_discarded(
        self, api_client: Client, org: Organization, now: Any
    ) -> None:
        self.make_routes(api_client)
        told(api_client, [served(request_id=key, route_id="reject") for key in ("kept", "dropped")])
        ids = dict(InboxEvent.objects.for_organization(org).values_list("idempotency_key", "pk"))

        discard_inbox(organization=org, ids=[ids["dropped"]], actor="test", now=now)
        replay_inbox(organization=org, ids=None, actor="test", now=timezone.now())

        assert (usage(api_client, "api_requests"), usage(api_client, "api_units")) == ("1", "0")
        assert properties(org, "kept")["metering_error"] == "missing_field"
        assert (self.errors(api_client)["total"], self.errors(api_client)["refused"]["total"]) == (1, 1)

    def test_that_cost_the_record_are_kept_within_a_bound(
        self, api_client: Client, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.make_routes(api_client)
        monkeypatch.setattr(refusals_service, "MAX_KEPT", 5)

        for batch in range(3):
            told(api_client, [served(request_id=f"{batch}/{number}", route_id="reject") for number in range(4)])

        kept = set(InboxEvent.objects.for_organization(org).values_list("idempotency_key", flat=True))
        assert len(kept) == 5
        assert kept >= {f"2/{number}" for number in range(4)}

    def test_of_what_the_key_may_not_send_are_not_kept(
        self, api_client: Client, org: Organization, api_client_for: Any
    ) -> None:
        self.make_routes(api_client)
        customer = factories.make_customer(organization=org, external_id="ann")
        bound = api_client_for(factories.make_api_key(organization=org, customer=customer))

        told(bound, [served(route_id="reject", user_id="bea"), served(route_id="reject", user_id="ann")])
        told(api_client, [served(route_id="reject", timestamp="never"), served(route_id="reject", request_id="")])

        [row] = InboxEvent.objects.for_organization(org)
        assert json.loads(row.payload)["customer"] == "ann"

    def test_of_a_record_that_is_sent_again_count_once(self, api_client: Client) -> None:
        self.make_routes(api_client)
        before = self.exported()
        batch = [served(route_id=policy, request_id=policy) for policy in ("reject", "zero", "one")]

        told(api_client, batch)
        told(api_client, batch)

        grown = {policy: count - before.get(policy, 0) for policy, count in self.exported().items()}
        assert grown == {"reject": 1, "zero": 1, "one": 1}

    @staticmethod
    def logged(client: Client) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.get("/v1/logs", {"filter": "usage"}).json()["data"]
        return [entry for entry in found if entry["level"] == "warning"]

    @staticmethod
    def errors(client: Client, **query: str) -> dict[str, Any]:
        answer = client.get("/admin/analytics/summary", query)
        assert answer.status_code == 200, answer.content
        found: dict[str, Any] = answer.json()["data"]["attributes"]["metering_errors"]
        return found

    @staticmethod
    def exported() -> dict[str, float]:
        [family] = METERING_ERRORS.collect()
        return {
            sample.labels["policy"]: sample.value
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels["code"] == "missing_field"
        }


class TestCatalog:
    def test_is_installed_by_the_first_request(self, api_client: Client, org: Organization) -> None:
        told(api_client, served())

        assert sorted(Metric.objects.for_organization(org).values_list("code", flat=True)) == CATALOG

    def test_that_was_partly_archived_stays_so(self, api_client: Client, org: Organization) -> None:
        told(api_client, served())
        api_client.delete("/v1/metrics/api_bytes")

        assert told(api_client, served())["stored"] == 1

        assert usage(api_client, "api_requests") == "2"
        assert Metric.objects.for_organization(org).get(code="api_bytes").archived_at is not None

    def test_that_was_wholly_archived_refuses_requests(self, api_client: Client) -> None:
        told(api_client, served())
        for code in CATALOG:
            api_client.delete(f"/v1/metrics/{code}")

        assert refusals(api_client, served()) == [(0, "type", "unknown_metric")]


class TestAccess:
    def test_a_key_of_one_customer_tells_of_that_user_alone(self, org: Organization, api_client_for: Any) -> None:
        mine = factories.make_customer(organization=org, external_id="mine")
        client = api_client_for(factories.make_api_key(organization=org, scopes=(Scope.EVENTS_WRITE,), customer=mine))

        result = told(client, [served(user_id="mine"), served(user_id="other"), served(user_id=None)])

        assert result["stored"] == 1
        assert [(error["index"], error["field"], error["code"]) for error in result["errors"]] == [
            (1, "user_id", "invalid_customer"),
            (2, "user_id", "invalid_customer"),
        ]

    def test_needs_the_scope_to_send(self, org: Organization, api_client_for: Any) -> None:
        reader = api_client_for(factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ,)))

        assert send(reader, served()).status_code == 403
        assert send(api_client_for("mb_nobody_x"), served()).status_code == 401

    def test_unknown_users_are_refused_where_customers_are_made_by_hand(
        self, api_client: Client, org: Organization
    ) -> None:
        update_organization(organization=org, changes={"is_customer_auto_created": False}, actor="test")

        assert refusals(api_client, served()) == [(0, "user_id", "invalid_customer")]

    def test_routes_of_others_do_not_match(
        self, api_client: Client, outsider_client: Client, org: Organization
    ) -> None:
        make_route(outsider_client, id="theirs", path_pattern="/r", metering_mode="custom", metering_expr="99")

        told(api_client, served(request_id="r", path="/r"))

        assert properties(org, "r")["metered_units"] == 1
        assert "route_id" not in properties(org, "r")


class TestCost:
    def test_a_batch_takes_as_many_queries_as_a_record(self, api_client: Client) -> None:
        make_route(api_client, id="users", path_pattern="/users/{id}")
        told(api_client, served())

        def count(records: list[dict[str, Any]]) -> int:
            with CaptureQueriesContext(
                connection,
            ) as queries:
                assert told(api_client, records)["stored"] == len(records)
            return len(queries)

        count([served(path="/users/1")])  # the first request learns the routes
        assert count([served(path="/users/1")]) == count([served(path=f"/users/{number}") for number in range(300)])

    def test_bodies_are_read_only_where_an_expression_asks(self, api_client: Client, org: Organization) -> None:
        # Too long an integer for anybody to read, and too long a body: only the route that needs them notices.
        body = b'[{"method": "GET", "status_code": 200, "latency_ms": 1, "request_body": ' + b"9" * 2_000_000 + b"}]"

        result = told(api_client, body)

        assert result["stored"] == 1
        [event] = Event.objects.for_organization(org)
        assert Decimal(str(event.properties["metered_units"])) == 1
