"""What is taken in and what is refused, with which code and field; exact numbers; hostile bodies.

The contract's codes, its limits one below and one above, and what clients of all kinds write for numbers and times.
"""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import TooLarge
from metering.api.serializers import MAX_DIMENSIONS, MAX_THRESHOLDS
from metering.models import Event, InboxEvent
from metering.queries import find_event
from tests.metering.meter import Meter, encode_body, utc

START, END = utc(2026, 11, 1), utc(2026, 12, 1)

pytestmark = pytest.mark.django_db


@pytest.fixture
def meter(meter: Meter) -> Meter:
    """An organization with one metric of each kind that admission tells apart."""
    meter.define("requests", "count")
    meter.define("bytes", "sum")
    meter.define("seats", "count_unique")
    meter.define("seconds", "sum", event_type="job", value_property="seconds")
    meter.define("users", "count_unique", event_type="visit", value_property="user")
    meter.define("zoned", "count", dimensions=[{"key": "zone", "values": ["a", "b"], "strict": True}])
    return meter


def event(**fields: Any) -> dict[str, Any]:
    """Return an acceptable event with some fields changed; a field of None is left out."""
    sent = {"idempotency_key": "k", "customer": "cust_42", "type": "requests", **fields}
    return {name: value for name, value in sent.items() if value is not None}


class TestCodes:
    @pytest.mark.parametrize(
        ("sent", "code", "field"),
        [
            pytest.param(event(type="nobody.listens"), "unknown_metric", "type", id="unknown type"),
            pytest.param(event(type=None, metric="nobody.listens"), "unknown_metric", "metric", id="unknown alias"),
            pytest.param(event(type=None), "unknown_metric", "type", id="neither type nor metric"),
            pytest.param(event(metric="requests"), "unknown_metric", "metric", id="both type and metric"),
            pytest.param(event(type=""), "unknown_metric", "type", id="empty type"),
            pytest.param(event(type="bytes", value="twelve"), "invalid_value", "value", id="words for a number"),
            pytest.param(event(type="bytes", value=True), "invalid_value", "value", id="boolean for a number"),
            pytest.param(event(type="bytes", value=[1]), "invalid_value", "value", id="list for a number"),
            pytest.param(event(value="many"), "invalid_value", "value", id="count with words"),
            pytest.param(event(type="seats", value=1.5), "invalid_value", "value", id="fraction for a member"),
            pytest.param(event(type="seats", value=""), "invalid_value", "value", id="empty member"),
            pytest.param(event(type="seats", value="m" * 257), "invalid_value", "value", id="long member"),
            pytest.param(event(type="seats", value="a\x00b"), "invalid_value", "value", id="NUL in a member"),
            pytest.param(
                event(type="job", properties={"seconds": "soon"}), "invalid_value", "properties.seconds", id="property"
            ),
            pytest.param(
                event(type="visit", properties={"user": True}), "invalid_value", "properties.user", id="boolean member"
            ),
            pytest.param(event(type="bytes"), "value_required", "value", id="sum without value"),
            pytest.param(event(type="seats"), "value_required", "value", id="distinct count without member"),
            pytest.param(event(type="job", value=1), "value_required", "properties.seconds", id="property absent"),
            pytest.param(event(timestamp="2026-11-20T10:00:00"), "invalid_timestamp", "timestamp", id="naive time"),
            pytest.param(event(timestamp="yesterday"), "invalid_timestamp", "timestamp", id="words for a time"),
            pytest.param(event(timestamp=""), "invalid_timestamp", "timestamp", id="empty time"),
            pytest.param(event(timestamp=1.5), "invalid_timestamp", "timestamp", id="fraction of seconds"),
            pytest.param(event(timestamp=-1), "invalid_timestamp", "timestamp", id="before the epoch"),
            pytest.param(event(timestamp=10**20), "invalid_timestamp", "timestamp", id="beyond nanoseconds"),
            pytest.param(event(timestamp=False), "invalid_timestamp", "timestamp", id="boolean for a time"),
            pytest.param(event(timestamp={}), "invalid_timestamp", "timestamp", id="object for a time"),
            pytest.param(event(timestamp="2026-02-30T00:00:00Z"), "invalid_timestamp", "timestamp", id="no such day"),
            pytest.param(
                event(timestamp="0001-01-01T00:00:00+14:00"), "invalid_timestamp", "timestamp", id="before year one"
            ),
            pytest.param(
                event(timestamp="2026-11-20T12:05:00.000001Z"), "timestamp_in_future", "timestamp", id="future"
            ),
            pytest.param(event(properties={"a": None}), "invalid_property", "properties.a", id="null property"),
            pytest.param(event(properties={"a": [1]}), "invalid_property", "properties.a", id="list property"),
            pytest.param(event(properties={"a": {"b": 1}}), "invalid_property", "properties.a", id="nested property"),
            pytest.param(event(properties={"a": "\x00"}), "invalid_property", "properties.a", id="NUL in a property"),
            pytest.param(event(properties={"\x00": 1}), "invalid_property", "properties", id="NUL in a name"),
            pytest.param(event(properties=[1]), "invalid_property", "properties", id="properties are no object"),
            pytest.param(
                event(type="zoned", properties={"zone": "c"}), "invalid_dimension_value", "properties.zone", id="strict"
            ),
            pytest.param(event(customer=None), "invalid_customer", "customer", id="no customer"),
            pytest.param(event(customer=""), "invalid_customer", "customer", id="empty customer"),
            pytest.param(event(customer=42), "invalid_customer", "customer", id="number for a customer"),
            pytest.param(event(customer="a\x00"), "invalid_customer", "customer", id="NUL in a customer"),
            pytest.param(event(customer="c" * 257), "invalid_customer", "customer", id="long customer"),
            pytest.param(event(idempotency_key=""), "invalid_key", "idempotency_key", id="empty key"),
            pytest.param(event(idempotency_key=7), "invalid_key", "idempotency_key", id="number for a key"),
            pytest.param(event(idempotency_key="k" * 257), "invalid_key", "idempotency_key", id="long key"),
            pytest.param(event(idempotency_key="\x00"), "invalid_key", "idempotency_key", id="NUL in a key"),
            pytest.param(
                event(type="seats", value="m", operation="drop"),
                "invalid_operation",
                "operation",
                id="no such operation",
            ),
            pytest.param(event(operation="remove"), "invalid_operation", "operation", id="remove where nothing counts"),
            pytest.param(event(operation=1), "invalid_operation", "operation", id="number for an operation"),
        ],
    )
    def test_each_refusal_has_its_code_and_field(self, meter: Meter, sent: Any, code: str, field: str) -> None:
        result = meter.send(sent, event(idempotency_key="a good neighbour"))

        assert [(error.index, error.code, error.field) for error in result.errors] == [(0, code, field)]
        assert result.errors[0].message
        assert result.stored == 1

    def test_same_key_with_other_content_is_a_conflict(self, meter: Meter) -> None:
        meter.send_all(event(type="bytes", value="1"))

        [error] = meter.send(event(type="bytes", value="2")).errors

        assert (error.code, error.field, error.idempotency_key) == ("conflict", "idempotency_key", "k")

    def test_event_later_than_the_organization_allows_is_too_late(self, meter: Meter) -> None:
        meter.organization.late_limit_days = 3

        result = meter.send(
            event(idempotency_key="just in time", timestamp=(meter.now - timedelta(days=3)).isoformat()),
            event(timestamp=(meter.now - timedelta(days=3, microseconds=1)).isoformat()),
        )

        assert [(error.index, error.code, error.field) for error in result.errors] == [(1, "too_late", "timestamp")]

    def test_unseen_customer_is_refused_where_customers_are_made_by_hand(self, meter: Meter) -> None:
        meter.organization.is_customer_auto_created = False

        [error] = meter.send(event(customer="stranger")).errors

        assert (error.code, error.field) == ("invalid_customer", "customer")

    def test_remove_is_understood_where_members_are_counted(self, meter: Meter) -> None:
        meter.send_all(event(type="seats", value="m", operation="remove"))
        meter.send_all(event(idempotency_key="k2", type="visit", properties={"user": 7}, operation="remove"))

    def test_properties_that_no_metric_reads_do_not_refuse_an_event(self, meter: Meter) -> None:
        meter.send_all(event(type="job", properties={"seconds": 1, "zone": "anywhere"}))


class TestLimits:
    @pytest.mark.parametrize("field", ["idempotency_key", "customer"])
    def test_256_characters_are_taken_whatever_their_bytes(self, meter: Meter, field: str) -> None:
        meter.send_all(event(**{field: "𝄞" * 256}))

    def test_member_of_256_characters_is_taken(self, meter: Meter) -> None:
        meter.send_all(event(type="seats", value="ß" * 256))

    def test_64_properties_are_taken_and_65_are_not(self, meter: Meter) -> None:
        meter.send_all(event(properties={f"p{n}": n for n in range(64)}))

        [error] = meter.send(event(idempotency_key="k65", properties={f"p{n}": n for n in range(65)})).errors

        assert (error.code, error.field) == ("invalid_property", "properties")

    def test_8_kib_of_properties_are_taken_and_a_byte_more_is_not(self, meter: Meter) -> None:
        frame = len('{"text":""}')
        meter.send_all(event(properties={"text": "x" * (8192 - frame)}))

        [error] = meter.send(event(idempotency_key="more", properties={"text": "x" * (8193 - frame)})).errors

        assert (error.code, error.field) == ("invalid_property", "properties")

    def test_5000_events_are_taken_and_5001_are_refused_whole(self, meter: Meter) -> None:
        batch = [event(idempotency_key=f"k{n}") for n in range(5001)]

        with pytest.raises(TooLarge):
            meter.send(*batch)
        assert Event.objects.for_organization(meter.organization).count() == 0

        assert meter.send(*batch[:5000]).stored == 5000

    @pytest.mark.parametrize(
        ("name", "entries", "limit"),
        [
            ("dimensions", lambda n: {"key": f"d{n}"}, MAX_DIMENSIONS),
            ("thresholds", lambda n: {"code": f"t{n}", "value": str(n + 1)}, MAX_THRESHOLDS),
        ],
        ids=["16 dimensions", "8 thresholds"],
    )
    def test_metric_with_one_entry_too_many_is_refused_not_cut(
        self, api_client: Client, name: str, entries: Any, limit: int
    ) -> None:
        def create(code: str, count: int) -> Any:
            body = {"code": code, "aggregation": "sum", name: [entries(n) for n in range(count)]}
            return api_client.post("/v1/metrics", body, content_type="application/json")

        assert create("full", limit).status_code == 201
        assert len(create("full2", limit).json()[name]) == limit
        refused = create("over", limit + 1)
        assert refused.status_code == 422
        assert [error["field"] for error in refused.json()["errors"]] == [name]
        assert api_client.get("/v1/metrics/over").status_code == 404

    def test_the_contracts_limits_are_ours(self) -> None:
        assert (MAX_DIMENSIONS, MAX_THRESHOLDS) == (16, 8)


class TestNumbers:
    @pytest.mark.parametrize(
        ("body", "stored"),
        [
            pytest.param("0.1", "0.1", id="a fraction that floats cannot hold"),
            pytest.param('"0.1"', "0.1", id="the same as text"),
            pytest.param("1e2", "100", id="exponent"),
            pytest.param('"1e9"', "1000000000", id="exponent as text"),
            pytest.param('"1E-18"', "0.000000000000000001", id="the smallest"),
            pytest.param("123456789012345678901234567890", "123456789012345678901234567890", id="30 digits"),
            pytest.param(
                '"-123456789012345678901234567890.123456789012345678"',
                "-123456789012345678901234567890.123456789012345678",
                id="48 digits",
            ),
            pytest.param("9007199254740993", "9007199254740993", id="an integer that floats cannot hold"),
            pytest.param("-0.0", "0", id="minus zero"),
            pytest.param('"+7"', "7", id="a sign"),
            pytest.param('".5"', "0.5", id="no digit before the point"),
            pytest.param('"5."', "5", id="no digit after the point"),
            pytest.param('"007"', "7", id="leading zeros"),
            pytest.param("0e99999", "0", id="zero with an absurd exponent"),
        ],
    )
    def test_numbers_are_kept_to_the_last_digit(self, meter: Meter, body: str, stored: str) -> None:
        sent = b'{"idempotency_key":"k","customer":"c","type":"bytes","value":%s}' % body.encode()
        [decoded] = [json.loads(sent, parse_float=Decimal)]

        meter.send_all(decoded)

        found = find_event(organization=meter.organization, idempotency_key="k")
        assert found is not None
        assert found.value == Decimal(stored)
        assert meter.value("bytes", START, END) == Decimal(stored)

    @pytest.mark.parametrize(
        "body",
        [
            '"1_000"',
            '" 5 "',
            '"5 "',
            '"٣٤"',  # Arabic digits
            '"\uff15"',  # a full-width digit
            '"NaN"',
            '"nan"',
            '"Infinity"',
            '"-inf"',
            '"0x10"',
            '"1,5"',
            '""',
            '"."',
            '"-"',
            '"1e"',
            '"1e999"',
            '"1e400"',
            "1e400",
            "1e30",
            "1e-19",
            "1" + "0" * 30,
            "9" * 5000,
            "1e999999999999999999999",
            "-1e-999999999999999999999",
            '"5\\n"',
        ],
    )
    def test_what_is_no_exact_number_of_48_digits_is_refused(self, meter: Meter, api_client: Client, body: str) -> None:
        neighbour = '{"idempotency_key":"n","customer":"c","type":"bytes","value":1}'
        batch = f'[{{"customer":"c","type":"bytes","value":{body}}},{neighbour}]'

        response = api_client.post("/v1/events", batch, content_type="application/json")

        answer = response.json()
        assert (response.status_code, answer["stored"]) == (200, 1)
        assert [(error["index"], error["code"], error["field"]) for error in answer["errors"]] == [
            (0, "invalid_value", "value")
        ]

    def test_a_tenth_and_two_tenths_are_three_tenths(self, meter: Meter) -> None:
        for roll_up in (False, True):
            meter.send_all(
                event(idempotency_key=f"a{roll_up}", type="job", properties={"seconds": Decimal("0.1")}),
                event(idempotency_key=f"b{roll_up}", type="job", properties={"seconds": "0.2"}),
            )
            if roll_up:
                meter.roll_up()

        assert str(meter.value("seconds", START, END)) == "0.6"

    def test_30_digits_add_up_exactly(self, meter: Meter) -> None:
        meter.send_all(
            event(idempotency_key="a", type="bytes", value=10**29),
            event(idempotency_key="b", type="bytes", value="0.000000000000000001"),
        )
        expected = Decimal("100000000000000000000000000000.000000000000000001")

        assert meter.value("bytes", START, END) == expected
        meter.roll_up()
        assert meter.value("bytes", START, END) == expected

    @pytest.mark.parametrize("number", ["0e-20000", "0e99999999999", "1e400", "1e999999999999999999999", "1e-61"])
    def test_number_among_the_properties_has_bounded_digits(
        self, meter: Meter, api_client: Client, number: str
    ) -> None:
        """PostgreSQL would refuse some of them, and an asynchronous batch would then never leave the queue."""
        sent = f'{{"customer":"c","type":"requests","properties":{{"weight":{number}}}}}'

        for query in ("", "?durability=async"):
            response = api_client.post(f"/v1/events{query}", sent, content_type="application/json")

            assert response.status_code == 422
            assert [error["code"] for error in response.json()["errors"]] == ["invalid_property"]

    def test_integer_beyond_64_bits_is_a_member_wherever_it_stands(self, meter: Meter) -> None:
        meter.send_all(
            event(idempotency_key="a", type="visit", properties={"user": 2**70}),
            event(idempotency_key="b", type="visit", properties={"user": str(2**70)}),
            event(idempotency_key="c", type="seats", value=2**70),
        )

        assert meter.value("users", START, END) == 1
        assert meter.value("seats", START, END) == 1


class TestTimes:
    @pytest.mark.parametrize(
        ("sent", "expected"),
        [
            pytest.param("2026-11-20T10:00:00Z", utc(2026, 11, 20, 10), id="Z"),
            pytest.param("2026-11-20T12:00:00+02:00", utc(2026, 11, 20, 10), id="offset"),
            pytest.param("2026-11-20T10:00:00.123456Z", utc(2026, 11, 20, 10, 0, 0, 123456), id="microseconds"),
            pytest.param("2026-11-20T10:00:00.123456999Z", utc(2026, 11, 20, 10, 0, 0, 123456), id="nanoseconds"),
            pytest.param("2026-11-20 10:00:00+00:00", utc(2026, 11, 20, 10), id="a space"),
            pytest.param(1_795_168_800, utc(2026, 11, 20, 10), id="seconds"),
            pytest.param(1_795_168_800_123, utc(2026, 11, 20, 10, 0, 0, 123_000), id="milliseconds"),
            pytest.param(1_795_168_800_123_456, utc(2026, 11, 20, 10, 0, 0, 123_456), id="unix microseconds"),
            pytest.param(1_795_168_800_123_456_789, utc(2026, 11, 20, 10, 0, 0, 123_456), id="unix nanoseconds"),
            pytest.param(0, utc(1970, 1, 1), id="the epoch"),
            pytest.param("2026-11-20T12:05:00Z", utc(2026, 11, 20, 12, 5), id="five minutes ahead"),
            pytest.param("2024-02-29T23:59:59.999999Z", utc(2024, 2, 29, 23, 59, 59, 999_999), id="leap day"),
        ],
    )
    def test_time_is_read_in_any_of_its_forms(self, meter: Meter, sent: Any, expected: Any) -> None:
        meter.send_all(event(timestamp=sent))

        found = find_event(organization=meter.organization, idempotency_key="k")
        assert found is not None
        assert found.timestamp == expected

    def test_event_without_a_time_happened_when_it_arrived(self, meter: Meter) -> None:
        meter.send_all(event())

        found = find_event(organization=meter.organization, idempotency_key="k")
        assert found is not None
        assert found.timestamp == meter.now


class TestIdentity:
    def test_twins_in_one_request_are_one_event(self, meter: Meter) -> None:
        result = meter.send(event(), event(), event())

        assert (result.stored, result.duplicates, result.errors) == (1, 2, [])

    def test_same_key_with_two_contents_in_one_request_stores_the_first(self, meter: Meter) -> None:
        result = meter.send(event(type="bytes", value=1), event(type="bytes", value=2), event(type="bytes", value=1))

        assert (result.stored, result.duplicates) == (1, 1)
        assert [(error.index, error.code) for error in result.errors] == [(1, "conflict")]
        assert meter.value("bytes", START, END) == 1

    def test_retry_of_a_stored_event_is_a_duplicate_even_beside_an_impostor(self, meter: Meter) -> None:
        meter.send_all(event(type="bytes", value=1))

        result = meter.send(event(type="bytes", value=2), event(type="bytes", value=1))

        assert (result.stored, result.duplicates) == (0, 1)
        assert [(error.index, error.code) for error in result.errors] == [(0, "conflict")]

    def test_event_of_a_stranger_does_not_take_the_key_from_the_next(self, meter: Meter) -> None:
        meter.send_all(event(idempotency_key="other"))
        meter.organization.is_customer_auto_created = False

        result = meter.send(event(customer="stranger"), event(customer="stranger"), event())

        assert (result.stored, result.duplicates) == (1, 0)
        assert [(error.index, error.code) for error in result.errors] == [
            (0, "invalid_customer"),
            (1, "invalid_customer"),
        ]

    @pytest.mark.parametrize(
        ("first", "second", "verdict"),
        [
            pytest.param(event(type="bytes", value=1), event(type="bytes", value="1.0"), "duplicate", id="1 is 1.0"),
            pytest.param(event(), event(type=None, metric="requests"), "duplicate", id="type is metric"),
            pytest.param(event(), event(properties={}), "duplicate", id="no properties are none"),
            pytest.param(
                event(timestamp="2026-11-20T10:00:00Z"),
                event(timestamp="2026-11-20T11:00:00+01:00"),
                "duplicate",
                id="one instant in two zones",
            ),
            pytest.param(
                event(properties={"a": 1, "b": 2}), event(properties={"b": 2, "a": 1}), "duplicate", id="order"
            ),
            pytest.param(event(), event(timestamp="2026-11-20T12:00:00Z"), "conflict", id="a time of its own"),
            pytest.param(event(properties={"a": 1}), event(properties={"a": True}), "conflict", id="1 is not true"),
            pytest.param(event(properties={"a": 1}), event(properties={"a": "1"}), "conflict", id="1 is not text"),
            pytest.param(event(properties={"a": 1}), event(), "conflict", id="a property less"),
            pytest.param(event(), event(customer="other"), "conflict", id="another customer"),
            pytest.param(event(), event(type="zoned"), "conflict", id="another type"),
            pytest.param(
                event(type="seats", value="m"), event(type="seats", value="m", operation="remove"), "conflict", id="op"
            ),
        ],
    )
    @pytest.mark.parametrize("is_one_request", [False, True], ids=["two requests", "one request"])
    def test_what_makes_content_the_same(
        self, meter: Meter, first: Any, second: Any, verdict: str, is_one_request: bool
    ) -> None:
        if is_one_request:
            result = meter.send(first, second)
        else:
            meter.send_all(first)
            result = meter.send(second, at=meter.now + timedelta(minutes=1))

        assert [error.code for error in result.errors] == (["conflict"] if verdict == "conflict" else [])
        assert result.duplicates == (verdict == "duplicate")

    def test_keys_differ_by_case_and_accents(self, meter: Meter) -> None:
        keys = ["a", "A", "á", "a\u0301", " a", "a ", "a\n", "a\t", "\\", "\\N", "\\.", "%s", "{}"]

        meter.send_all(*[event(idempotency_key=key) for key in keys])

        for key in keys:
            found = find_event(organization=meter.organization, idempotency_key=key)
            assert found is not None
            assert found.idempotency_key == key

    def test_text_survives_storage_unchanged(self, meter: Meter) -> None:
        odd = "tab\t newline\n return\r backslash\\ \\N quote\" ' bell\x07 delete\x7f sep\u2028 emoji😀 percent%s {x}"

        meter.send_all(event(idempotency_key=odd, customer=odd, properties={odd: odd}))

        found = find_event(organization=meter.organization, idempotency_key=odd)
        assert found is not None
        assert (found.idempotency_key, found.customer, found.properties) == (odd, odd, {odd: odd})


class TestHostileBodies:
    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            pytest.param(b"", 400, "malformed_json", id="empty"),
            pytest.param(b"   ", 400, "malformed_json", id="blank"),
            pytest.param(b"{", 400, "malformed_json", id="cut short"),
            pytest.param(b'{"customer":"c"} x', 400, "malformed_json", id="trailing"),
            pytest.param(b"NaN", 400, "malformed_json", id="NaN"),
            pytest.param(b'[{"value":NaN}]', 400, "malformed_json", id="NaN in a batch"),
            pytest.param(b'{"customer":"\xff"}', 400, "malformed_json", id="invalid UTF-8"),
            pytest.param(b'[{"bad":1},{"customer":"\xff"}]', 400, "malformed_json", id="invalid UTF-8 in a batch"),
            pytest.param(b'{"customer":"\\ud800"}', 400, "malformed_json", id="half a surrogate pair"),
            pytest.param(b'{"customer":"a\nb"}', 400, "malformed_json", id="raw control character"),
            pytest.param(b"[" * 100_000, 400, "malformed_json", id="deep nesting"),
            pytest.param(b'{"properties":' * 5_000 + b"1", 400, "malformed_json", id="deep objects"),
            pytest.param(b"\xef\xbb\xbf{}", 400, "malformed_json", id="byte order mark"),
            pytest.param(b"[]", 422, "empty_batch", id="no events"),
            pytest.param(b"null", 422, "invalid_event", id="null"),
            pytest.param(b"7", 422, "invalid_event", id="a number"),
            pytest.param(b'"text"', 422, "invalid_event", id="a string"),
            pytest.param(b"[[]]", 422, "invalid_event", id="a list of lists"),
            pytest.param(b'{"delivery":"later"}', 422, "invalid_event", id="no such delivery"),
        ],
    )
    def test_body_that_is_no_event_is_refused_in_the_one_shape(
        self, meter: Meter, api_client: Client, body: bytes, status: int, code: str
    ) -> None:
        response = api_client.post("/v1/events", body, content_type="application/json")

        answer = response.json()
        assert (response.status_code, answer["code"]) == (status, code)
        assert answer["errors"]
        if status == 400 and b"[" * 9 not in body and b'{"properties":{' not in body:
            assert isinstance(answer["position"], int)

    def test_position_of_the_fault_is_that_in_the_body(self, meter: Meter, api_client: Client) -> None:
        body = b'[{"not known":1},{"customer":"\xff"}]'

        response = api_client.post("/v1/events", body, content_type="application/json")

        assert response.json()["position"] == body.index(b"\xff")

    def test_of_a_field_given_twice_the_last_counts(self, meter: Meter, api_client: Client) -> None:
        body = b'{"idempotency_key":"k","customer":"a","customer":"b","type":"requests","properties":{"x":1,"x":2}}'

        assert api_client.post("/v1/events", body, content_type="application/json").status_code == 200

        found = find_event(organization=meter.organization, idempotency_key="k")
        assert found is not None
        assert (found.customer, found.properties) == ("b", {"x": 2})

    def test_unknown_field_is_named_and_costs_only_its_own_event(self, meter: Meter, api_client: Client) -> None:
        batch = [event(), event(idempotency_key="typo", vlaue=3)]

        response = api_client.post("/v1/events", encode_body(batch), content_type="application/json")

        answer = response.json()
        assert (response.status_code, answer["stored"]) == (200, 1)
        assert [(error["index"], error["field"], error["idempotency_key"]) for error in answer["errors"]] == [
            (1, "vlaue", "typo")
        ]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["requests", "bytes", "seats", "job", "visit", "zoned", "add", "remove", "sync", "1e99", "\x00"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
nearly_events = st.fixed_dictionaries(
    {"customer": st.one_of(scalars, st.just("c")), "type": st.one_of(scalars, st.just("bytes"))},
    optional={
        "idempotency_key": st.one_of(scalars, st.text(max_size=3)),
        "value": anything,
        "timestamp": st.one_of(scalars, st.datetimes().map(lambda moment: moment.isoformat() + "Z")),
        "properties": st.one_of(
            anything, st.dictionaries(st.sampled_from(["seconds", "user", "zone", "é\x00"]), scalars)
        ),
        "operation": scalars,
        "delivery": scalars,
        "metric": scalars,
        "surplus": anything,
    },
)


@pytest.mark.parametrize("query", ["", "?durability=async"], ids=["sync", "async"])
@pytest.mark.parametrize("is_kept", [False, True], ids=["unmatched reported", "unmatched kept"])
def test_any_json_is_answered_and_costs_no_good_neighbour(
    meter: Meter, api_client: Client, query: str, is_kept: bool
) -> None:
    meter.organization.is_unmatched_kept = is_kept
    meter.organization.save()
    sent = 0

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(nearly_events | anything, max_size=5))
    def check(strange: list[Any]) -> None:
        nonlocal sent
        sent += 1
        neighbours = [event(idempotency_key=f"good {sent} {place}") for place in range(2)]
        batch = [neighbours[0], *strange, neighbours[1]]

        response = api_client.post(f"/v1/events{query}", json.dumps(batch), content_type="application/json")

        answer = response.json()
        assert response.status_code in {200, 202}, answer
        assert {0, len(batch) - 1}.isdisjoint(error["index"] for error in answer["errors"])
        taken = answer.get("accepted") if "accepted" in answer else answer["stored"] + answer["duplicates"]
        assert taken + answer["rejected"] == len(batch)
        assert api_client.get("/v1/inbox").status_code == 200

    check()

    assert is_kept or not InboxEvent.objects.for_organization(meter.organization).exists()
