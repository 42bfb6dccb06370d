"""What a record becomes: keys that differ, codes that are codes, texts that can be read again."""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.dialects.weave.domain import (
    UnreadableRecord,
    code_of,
    distinct_code_of,
    encode_record,
    key_of,
    read_record,
)

ODD_WORDS = st.text("ab/%25F", min_size=1, max_size=5)
RECORD = {
    "unique_key": "k:samples",
    "internal_instance_id": "1234",
    "amount_type": "samples",
    "amount_value": 7,
    "occurred_at": "2026-11-20T10:00:00Z",
    "metadata": {"a": "b"},
}


class TestKey:
    @pytest.mark.parametrize(
        ("instance", "key", "expected"),
        [
            ("1234", "k1:samples", "1234/k1:samples"),
            ("1234", "a/b", "1234/a/b"),
            ("12/34", "a", "12%2F34/a"),
            ("12%2F34", "a", "12%252F34/a"),
            ("1", "x" * 254, "1/" + "x" * 254),
            ("1", "x" * 255, "sha256:" + hashlib.sha256(b"1/" + b"x" * 255).hexdigest()),
            ("1", "é" * 400, "sha256:" + hashlib.sha256(b"1/" + "é".encode() * 400).hexdigest()),
        ],
        ids=["usual", "slash in key", "slash in instance", "percent in instance", "just fits", "too long", "not ascii"],
    )
    def test_names_the_instance(self, instance: str, key: str, expected: str) -> None:
        assert key_of(instance, key) == expected

    @given(
        pairs=st.lists(
            st.tuples(st.text("ab/%25F", min_size=1, max_size=5), st.text("ab/%25F", max_size=5)), max_size=9
        )
    )
    def test_differs_wherever_instance_or_key_do(self, pairs: list[tuple[str, str]]) -> None:
        assert len({key_of(*pair) for pair in pairs}) == len(set(pairs))


class TestCode:
    @pytest.mark.parametrize("amount_type", ["samples", "container-seconds", "flux-sync.services", "a" * 64])
    def test_is_the_amount_type_where_that_is_a_code(self, amount_type: str) -> None:
        assert code_of(amount_type) == amount_type

    @pytest.mark.parametrize("amount_type", ["Samples", "a b", "größe", "a" * 65, "/", "\n"])
    def test_of_another_is_a_code_too_and_its_own(self, amount_type: str) -> None:
        digest = hashlib.sha256(amount_type.encode()).hexdigest()[:12]

        assert re.fullmatch(r"[a-z0-9_.:-]{1,64}", code_of(amount_type))
        assert code_of(amount_type).endswith(f".{digest}")
        assert code_of(amount_type) == distinct_code_of(amount_type)


class TestReading:
    def test_takes_the_billing_clients_record(self) -> None:
        assert msgspec.structs.asdict(read_record(RECORD)) == RECORD
        assert read_record(RECORD | {"metadata": None}).metadata is None
        assert read_record({name: value for name, value in RECORD.items() if name != "metadata"}).metadata is None

    def test_takes_text_that_old_senders_write_as_binary(self) -> None:
        binary = {
            name.encode(): value.encode() if isinstance(value, str) else value for name, value in RECORD.items()
        } | {b"metadata": {b"a": b"b"}}

        assert read_record(binary) == read_record(RECORD)

    @pytest.mark.parametrize(
        ("changes", "part"),
        [
            ({"amount_value": Decimal("1.5")}, "amount_value"),
            ({"amount_value": 1.5}, "amount_value"),
            ({"amount_value": True}, "amount_value"),
            ({"amount_value": 2**63}, "amount_value"),
            ({"amount_value": None}, "amount_value"),
            ({"internal_instance_id": ""}, "internal_instance_id"),
            ({"unique_key": ""}, "unique_key"),
            ({"unique_key": b"\xff"}, "utf-8"),
            ({"unique_key": "\ud800"}, "UTF-8"),
            ({"metadata": {"a": "\udfff"}}, "UTF-8"),
            ({"metadata": ["a"]}, "metadata"),
            ({"occurred_at": 1795212979}, "occurred_at"),
        ],
        ids=repr,
    )
    def test_refuses_another_and_says_in_what(self, changes: dict[str, Any], part: str) -> None:
        with pytest.raises(UnreadableRecord, match=part):
            read_record(RECORD | changes)

    @pytest.mark.parametrize("record", [None, 5, "text", [], {}, {1: 2}, {"unique_key": "k"}, b"x"], ids=repr)
    def test_refuses_what_is_no_record(self, record: Any) -> None:
        with pytest.raises(UnreadableRecord):
            read_record(record)


class TestText:
    def test_of_a_record_is_the_same_in_whatever_order_it_came(self) -> None:
        assert encode_record(RECORD) == encode_record(dict(reversed(RECORD.items())))
        assert json.loads(encode_record(RECORD)) == RECORD

    def test_keeps_numbers_of_any_size(self) -> None:
        assert encode_record({"a": 2**70, "b": Decimal("0.10")}) == '{"a":1180591620717411303424,"b":0.10}'

    @pytest.mark.parametrize(
        "record",
        [{"a": "\ud800"}, {b"\xff": b"\xfe"}, {"a": msgspec.msgpack.Ext(5, b"x")}, {1: 2}, [[[]]], {"a": 1.5}],
        ids=["half a character", "raw bytes", "an extension", "a number as a name", "lists", "a fraction"],
    )
    def test_can_be_made_of_anything(self, record: Any) -> None:
        assert encode_record(record).isascii() or "\ufffd" in encode_record(record)
