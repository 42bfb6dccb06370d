"""The forward protocol's bytes: however they are cut, the same records come out; what is broken stays alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import time
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.dialects.weave.domain import UnreadableRecord, encode_record, read_record
from metering.dialects.weave.wire import (
    HEARTBEAT,
    ChunkTooLarge,
    JsonStream,
    MsgpackStream,
    Stream,
    Undecodable,
    Unreadable,
    encode_ack,
    open_message,
    open_stream,
)
from metering.dialects.weave.wire.handshake import Handshake, Refusal
from tests.dialects.weave.odd_messages import ODD_JSON, ODD_MSGPACK

FIXTURES = Path(__file__).with_name("fixtures")
pack = msgspec.msgpack.encode


def amount(key: str, amount_type: str, value: int, occurred_at: str, metadata: dict[str, str]) -> dict[str, Any]:
    return {
        "unique_key": key,
        "internal_instance_id": "1234",
        "amount_type": amount_type,
        "amount_value": value,
        "occurred_at": occurred_at,
        "metadata": metadata,
    }


# Read by eye from the captured bytes.
NODE = [
    ("Forward", "2026-11-20T22:16:26.697Z", "2026-11-20T22:16:26.705Z"),
    ("PackedForward", "2026-11-20T22:16:29.382Z", "2026-11-20T22:16:29.383Z"),
]
CAPTURED = {
    "weave-v121.json": [
        amount("k1:samples", "samples", 7, "2026-11-20T10:00:00.123456789Z", {"report_id": "r-1"}),
        amount("k1:node-seconds", "node-seconds", 3600, "2026-11-20T10:00:00.123456789Z", {"report_id": "r-1"}),
        amount(
            "k1:container-seconds", "container-seconds", 1234, "2026-11-20T10:00:00.123456789Z", {"report_id": "r-1"}
        ),
    ],
    "go-msgpack.msgpack": [amount("fg-0:node-seconds", "node-seconds", 60, "2026-11-20T10:00:00Z", {"n": "0"})],
    "go-eventtime.msgpack": [amount("fg-0:node-seconds", "node-seconds", 60, "2026-11-20T10:00:00Z", {"n": "0"})],
    "py-message.msgpack": [amount("py:node-seconds", "node-seconds", 60, "2026-11-20T22:16:24Z", {"via": "python"})],
    **{
        f"node-{carrier}.msgpack": [
            amount(f"nd-{number}:node-seconds", "node-seconds", 60, at, {"via": "node"})
            for number, at in enumerate(times)
        ]
        for carrier, *times in NODE
    },
}
COMPRESSED = "node-CompressedPackedForward.msgpack"


def captured(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def take_messages(stream: Stream, pieces: Iterable[bytes]) -> list[Any]:
    messages = []
    for piece in pieces:
        stream.feed(piece)
        while (message := stream.next_message()) is not None:
            messages.append(message)
    return messages


def take_records(pieces: Iterable[bytes]) -> list[Any]:
    pieces = [piece for piece in pieces if piece]
    messages = take_messages(open_stream(pieces[0]), pieces)
    return [record for message in messages if message is not HEARTBEAT for record in open_message(message).records]


def single_bytes(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


class TestCapturedBytes:
    @pytest.mark.parametrize("name", CAPTURED)
    def test_hold_these_records(self, name: str) -> None:
        assert take_records([captured(name)]) == CAPTURED[name]

    def test_compressed_ones_hold_two_of_node(self) -> None:
        records = take_records([captured(COMPRESSED)])

        assert [record["unique_key"] for record in records] == ["nd-0:node-seconds", "nd-1:node-seconds"]
        assert {record["amount_value"] for record in records} == {60}

    @pytest.mark.parametrize("name", [*CAPTURED, COMPRESSED])
    def test_give_the_same_one_byte_at_a_time(self, name: str) -> None:
        assert take_records(single_bytes(captured(name))) == take_records([captured(name)])

    @pytest.mark.parametrize("name", [*CAPTURED, COMPRESSED])
    def test_give_the_same_again_and_again_when_concatenated(self, name: str) -> None:
        assert take_records([captured(name) * 50]) == take_records([captured(name)]) * 50

    @settings(max_examples=60, deadline=None)
    @given(places=st.lists(st.integers(0, 100_000), max_size=40), name=st.sampled_from([*CAPTURED, COMPRESSED]))
    def test_give_the_same_in_any_pieces(self, places: list[int], name: str) -> None:
        data = captured(name) * 3

        assert take_records(cut(data, places)) == take_records([data])

    def test_of_all_msgpack_clients_follow_each_other_on_one_connection(self) -> None:
        names = [name for name in [*CAPTURED, COMPRESSED] if name.endswith(".msgpack")]
        data = b"".join(captured(name) for name in names)

        assert take_records(single_bytes(data)) == [
            record for name in names for record in take_records([captured(name)])
        ]


WORDS = st.text(max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), WORDS)
CONTENT = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3))


class TestJsonStream:
    @settings(max_examples=150, deadline=None)
    @given(
        messages=st.lists(st.lists(CONTENT, max_size=4), max_size=6),
        places=st.lists(st.integers(0, 10_000), max_size=30),
        is_ascii=st.booleans(),
    )
    def test_reads_any_arrays_cut_anywhere(self, messages: list[list[Any]], places: list[int], is_ascii: bool) -> None:
        data = "".join(json.dumps(message, ensure_ascii=is_ascii) for message in messages).encode()

        assert take_messages(JsonStream(), cut(data, places)) == messages

    @pytest.mark.parametrize("key", ["k][1", 'a"]["b', "\\", '\\"', "ß€😀", "{[", "]}", "\u0001"])
    def test_is_not_misled_by_what_strings_hold(self, key: str) -> None:
        data = json.dumps(["billing", 1, {"unique_key": key}, None], ensure_ascii=False).encode() * 2

        for pieces in ([data], single_bytes(data)):
            assert take_messages(JsonStream(), pieces) == [["billing", 1, {"unique_key": key}, None]] * 2

    def test_keeps_every_digit(self) -> None:
        [message] = take_messages(JsonStream(), [b"[9007199254740993, 0.1000000000000000055, -9223372036854775808]"])

        assert message == [9007199254740993, Decimal("0.1000000000000000055"), -9223372036854775808]
        assert type(message[1]) is Decimal

    def test_broken_message_leaves_its_neighbours(self) -> None:
        good = b'["billing",1,{"a":"b"},null]'
        for broken in (b'["billing",01,{}]', b"[1,2", b'["a" "b"]', b"[nul]", b'["a",{]', b"[NaN]", b'["\x01"]'):
            closed = broken if broken.endswith(b"]") else broken + b",]"
            taken = take_messages(JsonStream(), single_bytes(good + closed + good))

            assert taken[0] == taken[-1] == ["billing", 1, {"a": "b"}, None], broken
            assert all(isinstance(between, Unreadable) for between in taken[1:-1]), broken

    def test_number_of_ten_thousand_digits_is_one_broken_message(self) -> None:
        taken = take_messages(JsonStream(), [b"[" + b"9" * 10_000 + b"][1]"])

        assert isinstance(taken[0], Unreadable)
        assert taken[1] == [1]

    def test_nest_of_a_hundred_thousand_is_one_broken_message(self) -> None:
        taken = take_messages(JsonStream(), [b"[" * 100_000 + b"]" * 100_000 + b"[1]"])

        assert isinstance(taken[0], Unreadable)
        assert taken[1] == [1]

    def test_bytes_that_are_not_utf_8_spoil_one_message(self) -> None:
        taken = take_messages(JsonStream(), single_bytes(b'["a"]["\xff\xc3"]["b"]'))

        assert taken[0] == ["a"]
        assert taken[2] == ["b"]
        assert taken[1] == ["\udcff\udcc3"]  # refused where the record is read

    def test_goes_on_after_rubbish_between_messages(self) -> None:
        taken = take_messages(JsonStream(), [b'["a"]]]} nonsense ["b"]'])

        assert taken[0] == ["a"]
        assert isinstance(taken[1], Unreadable)
        assert taken[-1] == ["b"]

    def test_null_is_a_heartbeat_and_space_is_nothing(self) -> None:
        assert take_messages(JsonStream(), single_bytes(b'["a"] \n null\r\n["b"]')) == [["a"], HEARTBEAT, ["b"]]

    def test_torn_tail_is_never_taken(self) -> None:
        data = captured("weave-v121.json")

        assert len(take_messages(JsonStream(), single_bytes(data[:-1]))) == 2

    def test_message_beyond_the_limit_is_passed_over_and_not_held(self) -> None:
        stream = JsonStream(max_message_bytes=1_000)
        held = []
        stream.feed(b'["a"]["')
        assert stream.next_message() == ["a"]
        for _ in range(1_000):
            stream.feed(b"x" * 100)
            assert stream.next_message() is None
            held.append(stream.held_bytes)
        stream.feed(b'"]["b"]')

        taken = stream.next_message()
        assert max(held) <= 1_100
        assert isinstance(taken, Unreadable)
        assert taken.is_oversized
        assert len(taken.content) <= 1_100
        assert stream.next_message() == ["b"]

    def test_cost_is_linear_one_byte_at_a_time(self) -> None:
        """A reader that begins again with each byte takes sixteen times as long for four times as much."""

        def seconds(size: int) -> float:
            data = json.dumps(["billing", 1, {"metadata": {"text": "x" * size}}]).encode()
            started = time.process_time()
            assert len(take_messages(JsonStream(), single_bytes(data))) == 1
            return time.process_time() - started

        small, large = min(seconds(20_000) for _ in range(3)), min(seconds(80_000) for _ in range(3))
        assert large < small * 8


class TestMsgpackStream:
    @settings(max_examples=150, deadline=None)
    @given(
        messages=st.lists(st.lists(CONTENT, min_size=1, max_size=4), max_size=6),
        places=st.lists(st.integers(0, 10_000), max_size=30),
    )
    def test_cuts_any_arrays_apart(self, messages: list[list[Any]], places: list[int]) -> None:
        data = b"".join(pack(message) for message in messages)

        taken = take_messages(MsgpackStream(), cut(data, places))
        assert [msgspec.msgpack.decode(message.data) for message in taken] == messages

    @pytest.mark.parametrize(
        "content",
        [
            b"\xc4\x03abc",
            b"\xc5\x00\x03abc",
            b"\xc6\x00\x00\x00\x03abc",  # bin
            b"\xc7\x08\x00" + b"\x00" * 8,
            b"\xc8\x00\x02\x05ab",
            b"\xc9\x00\x00\x00\x02\x05ab",  # ext
            b"\xca" + b"\x00" * 4,
            b"\xcb" + b"\x00" * 8,  # floats
            b"\xcc\xff",
            b"\xcd\xff\xff",
            b"\xce" + b"\xff" * 4,
            b"\xcf" + b"\xff" * 8,  # unsigned
            b"\xd0\xff",
            b"\xd1\xff\xff",
            b"\xd2" + b"\xff" * 4,
            b"\xd3" + b"\xff" * 8,  # signed
            b"\xd4\x05a",
            b"\xd5\x05ab",
            b"\xd6\x05abcd",
            b"\xd7\x00" + b"\x00" * 8,
            b"\xd8\x05" + b"\x00" * 16,
            b"\xd9\x03abc",
            b"\xda\x00\x03abc",
            b"\xdb\x00\x00\x00\x03abc",  # str
            b"\xdc\x00\x02\x01\x02",
            b"\xdd\x00\x00\x00\x01\x05",  # array
            b"\xde\x00\x01\x01\x02",
            b"\xdf\x00\x00\x00\x01\x01\x02",  # map
            b"\x00",
            b"\x7f",
            b"\xe0",
            b"\xff",
            b"\xc0",
            b"\xc2",
            b"\xc3",
            b"\x80",
            b"\x81\x01\x02",
            b"\x90",
            b"\xa0",
        ],
        ids=lambda content: f"{content[0]:02x}",
    )
    def test_knows_where_every_format_ends(self, content: bytes) -> None:
        data = (b"\x92" + content + b"\x2a") * 2

        taken = take_messages(MsgpackStream(), single_bytes(data))
        assert [message.data for message in taken] == [b"\x92" + content + b"\x2a"] * 2

    @pytest.mark.parametrize("data", [b"\xc1", b"\x92\x01\xc1", b"\x2a", b"GET / HTTP/1.1", b"\x81\x01\x02", b"\xa1a"])
    def test_tells_what_no_message_can_be(self, data: bytes) -> None:
        with pytest.raises(Undecodable):
            take_messages(MsgpackStream(), [data])

    def test_nil_is_a_heartbeat(self) -> None:
        taken = take_messages(MsgpackStream(), [b"\xc0" + captured("py-message.msgpack") + b"\xc0"])

        assert taken[0] is taken[2] is HEARTBEAT

    def test_message_beyond_the_limit_is_passed_over_and_not_held(self) -> None:
        stream = MsgpackStream(max_message_bytes=1_000)
        large = pack(["billing", 1, {"metadata": "x" * 50_000}, {"list": list(range(5_000))}])
        taken, held = [], []
        for piece in single_bytes(captured("py-message.msgpack") + large + captured("py-message.msgpack")):
            taken += take_messages(stream, [piece])
            held.append(stream.held_bytes)

        assert max(held) <= 1_001
        assert isinstance(taken[1], Unreadable)
        assert taken[1].is_oversized
        assert len(taken) == 3

    def test_claim_of_four_thousand_million_members_holds_nothing(self) -> None:
        stream = MsgpackStream(max_message_bytes=1_000)

        assert take_messages(stream, [b"\xdd\xff\xff\xff\xff" + b"\x00" * 100_000]) == []
        assert stream.held_bytes <= 1_000


RECORD = CAPTURED["py-message.msgpack"][0]


class TestCarriers:
    @pytest.mark.parametrize("at", [1795212984, None, msgspec.msgpack.Ext(0, struct.pack(">II", 1795212984, 5)), 0])
    @pytest.mark.parametrize("rest", [[], [None], [{}], [{"size": 1}]], ids=repr)
    def test_message_holds_one_record_whatever_its_time(self, at: Any, rest: list[Any]) -> None:
        carried = open_message(*take_messages(MsgpackStream(), [pack(["billing", at, RECORD, *rest])]))

        assert list(carried.records) == [RECORD]
        assert carried.chunk is None

    def test_json_and_msgpack_messages_ask_for_an_acknowledgement_with_a_chunk(self) -> None:
        for content, stream in (
            (json.dumps(["billing", 1, RECORD, {"chunk": "p8n9"}]).encode(), JsonStream()),
            (pack(["billing", 1, RECORD, {"chunk": "p8n9"}]), MsgpackStream()),
            (json.dumps(["billing", [[1, RECORD]], {"chunk": "p8n9"}]).encode(), JsonStream()),
            (pack(["billing", [[1, RECORD]], {"chunk": "p8n9", "size": 1}]), MsgpackStream()),
            (pack(["billing", pack([1, RECORD]), {"chunk": "p8n9"}]), MsgpackStream()),
        ):
            carried = open_message(*take_messages(stream, [content]))

            assert (list(carried.records), carried.chunk) == ([RECORD], "p8n9")

    def test_acknowledgement_speaks_as_the_sender_does(self) -> None:
        assert encode_ack("p8n9", is_json=True) == b'{"ack":"p8n9"}'
        assert encode_ack("p8n9", is_json=False) == b"\x81\xa3ack\xa4p8n9"

    def test_record_of_nil_is_passed_over_and_not_acknowledged(self) -> None:
        carried = open_message(*take_messages(MsgpackStream(), [pack(["billing", 1, None, {"chunk": "p8n9"}])]))

        assert (list(carried.records), carried.chunk) == ([], None)

    @pytest.mark.parametrize("kind", [bytes, str])
    def test_packed_entries_come_as_binary_or_as_text(self, kind: type) -> None:
        entries = pack([1, RECORD]) + pack([2, RECORD])
        # Old senders have one type for both: text that is no UTF-8.
        packed = pack(entries) if kind is bytes else b"\xdb" + struct.pack(">I", len(entries)) + entries
        data = b"\x92" + pack("billing") + packed

        assert list(open_message(*take_messages(MsgpackStream(), [data])).records) == [RECORD, RECORD]

    def test_compressed_chunk_may_have_several_members(self) -> None:
        packed = gzip.compress(pack([1, RECORD])) + gzip.compress(pack([2, RECORD]) * 2)
        carried = open_message(*take_messages(MsgpackStream(), [pack(["billing", packed, {"compressed": "gzip"}])]))

        assert list(carried.records) == [RECORD] * 3

    def test_chunk_that_inflates_without_end_is_refused_unread(self) -> None:
        bomb = gzip.compress(b"\x00" * 50_000_000)
        [message] = take_messages(MsgpackStream(), [pack(["billing", bomb, {"compressed": "gzip", "chunk": "c"}])])

        with pytest.raises(ChunkTooLarge):
            open_message(message)

    @pytest.mark.parametrize("packed", [gzip.compress(b"abc")[:-9], b"no gzip"], ids=["torn", "other"])
    def test_what_is_not_gzip_is_one_unreadable_record(self, packed: bytes) -> None:
        carried = open_message(*take_messages(MsgpackStream(), [pack(["b", packed, {"compressed": "gzip"}])]))

        [unreadable] = carried.records
        assert isinstance(unreadable, Unreadable)

    def test_broken_entry_leaves_its_neighbours(self) -> None:
        good, not_text = pack([1, RECORD]), b"\x92\x01\x81\xa1a\xa2\xff\xff"
        for data in (
            b"\x92" + pack("billing") + b"\x93" + good + not_text + good,
            pack(["billing", good + not_text + good]),
            pack(["billing", good + b"\x2a" + good]),
            pack(["billing", [[1, RECORD], 5, [1, RECORD]]]),
        ):
            first, broken, last = open_message(*take_messages(MsgpackStream(), [data])).records

            assert first == last == RECORD
            assert isinstance(broken, Unreadable)

    @pytest.mark.parametrize("empty", [b"\xdc\x00\x01\xc0", b"\xdd\x00\x00\x00\x01\xc0", b"\xdc\x00\x00", b"\x91\x01"])
    def test_entry_without_a_record_leaves_its_neighbours_however_it_is_encoded(self, empty: bytes) -> None:
        good = pack([1, RECORD])
        for data in (b"\x92" + pack("b") + b"\x93" + good + empty + good, pack(["b", good + empty + good])):
            first, broken, last = open_message(*take_messages(MsgpackStream(), [data])).records

            assert first == last == RECORD
            assert isinstance(broken, Unreadable)

    @pytest.mark.parametrize("compressed", [["gzip"], {}, {"gzip": 1}, None, 1, "text", "GZIP"], ids=repr)
    def test_what_says_something_else_than_gzip_is_not_inflated(self, compressed: Any) -> None:
        data = pack(["billing", pack([1, RECORD]), {"compressed": compressed, "chunk": "c"}])
        carried = open_message(*take_messages(MsgpackStream(), [data]))

        assert (list(carried.records), carried.chunk) == ([RECORD], "c")

    @pytest.mark.parametrize("chunk", [b'"\\ud800"', b'"\xff"', b'["c"]', b"5", b'"' + b"x" * 1_025 + b'"'])
    def test_chunk_that_cannot_be_sent_back_asks_for_nothing(self, chunk: bytes) -> None:
        data = b'["billing",1,%s,{"chunk":%s}]' % (json.dumps(RECORD).encode(), chunk)
        carried = open_message(*take_messages(JsonStream(), [data]))

        assert (list(carried.records), carried.chunk) == ([RECORD], None)

    def test_nil_among_entries_is_passed_over_in_either_serialisation(self) -> None:
        content = ["billing", [[1, RECORD], [1, None], [1, RECORD]], {"chunk": "c"}]
        for stream, data in ((MsgpackStream(), pack(content)), (JsonStream(), json.dumps(content).encode())):
            carried = open_message(*take_messages(stream, [data]))

            assert (list(carried.records), carried.chunk) == ([RECORD, RECORD], "c")

    @settings(max_examples=150, deadline=None)
    @given(ODD_MSGPACK | ODD_JSON)
    def test_anything_that_is_whole_can_be_opened_and_answered(self, data: bytes) -> None:
        [message] = take_messages(open_stream(data), [data])
        carried = open_message(message)

        for record in carried.records:
            assert record is not None
            try:
                read_record(record)
            except UnreadableRecord:
                assert isinstance(encode_record(record), str)
        if carried.chunk is not None:
            assert b"ack" in encode_ack(carried.chunk, is_json=data.startswith(b"["))

    def test_torn_end_of_a_packed_chunk_leaves_what_is_before_it(self) -> None:
        torn = pack([1, RECORD]) + pack([1, RECORD])[:-3]
        first, broken = open_message(*take_messages(MsgpackStream(), [pack(["billing", torn])])).records

        assert first == RECORD
        assert isinstance(broken, Unreadable)

    @pytest.mark.parametrize(
        "content", [[], ["billing"], ["billing", 1], ["billing", "text", {}], {"a": 1}, ["billing", 1.5]], ids=repr
    )
    def test_other_json_is_one_unreadable_record(self, content: Any) -> None:
        [unreadable] = take_records([json.dumps(content).encode()])

        assert isinstance(unreadable, Unreadable)


class TestHandshake:
    """The digests are computed here as the protocol's text defines them."""

    def ping(self, handshake: Handshake, key: bytes) -> bytes:
        _, options = msgspec.msgpack.decode(handshake.hello())
        digest = hashlib.sha512(b"salt" + b"client" + options["nonce"] + key).hexdigest()
        return pack(["PING", "client", b"salt", digest, "", ""])

    def test_who_knows_the_key_is_told_that_we_know_it(self) -> None:
        handshake = Handshake(shared_key="secret", server_name="server")
        nonce = msgspec.msgpack.decode(handshake.hello())[1]["nonce"]

        pong = msgspec.msgpack.decode(handshake.answer(self.ping(handshake, b"secret")))

        proof = hashlib.sha512(b"salt" + b"server" + nonce + b"secret").hexdigest()
        assert pong == ["PONG", True, "", "server", proof]
        assert len(nonce) == 16

    def test_who_does_not_know_it_is_refused_and_learns_nothing(self) -> None:
        handshake = Handshake(shared_key="secret", server_name="server")

        with pytest.raises(Refusal) as refused:
            handshake.answer(self.ping(handshake, b"guess"))

        assert msgspec.msgpack.decode(refused.value.answer) == ["PONG", False, "shared_key mismatch", "", ""]

    @pytest.mark.parametrize(
        "ping", [b"\x90", pack(["PING"]), pack(["PONG", "", "", "", "", ""]), b"\xdd\xff\xff\xff\xff"]
    )
    def test_anything_but_a_ping_is_refused(self, ping: bytes) -> None:
        with pytest.raises(Refusal):
            Handshake(shared_key="secret", server_name="server").answer(ping)

    def test_each_connection_has_its_own_nonce(self) -> None:
        one, other = (Handshake(shared_key="secret", server_name="server") for _ in range(2))

        with pytest.raises(Refusal):
            other.answer(self.ping(one, b"secret"))
