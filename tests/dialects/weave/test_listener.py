"""The listener over real sockets on the real database: what is counted, what is answered, what waits."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import socket
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.utils import timezone
from hypothesis import example, given, settings

from accounts.models import Organization
from common.times import parse_time
from metering.dialects.weave.connection import ForwardConnection
from metering.dialects.weave.listener import Address, ForwardListener, Limits, PortTaken
from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.services import map_instance
from metering.dialects.weave.wire import Carried, open_message
from metering.dialects.weave.wire.msgpack_stream import RawMessage
from metering.models import Event
from tests.dialects.weave.listening import (
    AtWork,
    Sender,
    listener_at_work,
    message,
    record,
    stored_keys,
    wait_until,
)
from tests.dialects.weave.odd_messages import ODD_JSON, ODD_MSGPACK

FIXTURES = Path(__file__).with_name("fixtures")
pack = msgspec.msgpack.encode


@pytest.fixture
def db(committed: None) -> None:
    """What a test writes is committed: the listener has connections of its own."""


@pytest.fixture
def mapped(org: Organization) -> Organization:
    map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")
    return org


@pytest.fixture
def at_work(mapped: Organization) -> Iterator[AtWork]:
    with listener_at_work() as at_work:
        yield at_work


@pytest.fixture
def sender(at_work: AtWork) -> Iterator[Sender]:
    sender = Sender(at_work.port)
    yield sender
    sender.close()


def wait_for_events(organization: Organization, count: int) -> list[Event]:
    rows = Event.objects.for_organization(organization)
    wait_until(lambda: rows.count() >= count, explain=rows.count)
    return list(rows.order_by("offset"))


def wait_for_quarantine(count: int) -> list[QuarantinedRecord]:
    rows = QuarantinedRecord.objects.all_tenants().order_by("pk")
    wait_until(lambda: rows.count() >= count)
    return list(rows)


class TestCounting:
    def test_billing_clients_bytes_become_events_one_byte_at_a_time(self, mapped: Organization, sender: Sender) -> None:
        sender.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in (FIXTURES / "weave-v121.json").read_bytes():
            sender.send(bytes([byte]))

        events = {event.idempotency_key: event for event in wait_for_events(mapped, 3)}

        assert {key: int(event.value) for key, event in events.items()} == {
            "1234/k1:samples": 7,
            "1234/k1:node-seconds": 3600,
            "1234/k1:container-seconds": 1234,
        }
        [first, *_] = events.values()
        assert first.occurred_at == parse_time("2026-11-20T10:00:00.123456Z")
        assert first.properties == {"report_id": "r-1"}

    def test_every_carrier_of_every_client_is_counted(self, mapped: Organization, at_work: AtWork) -> None:
        for path in sorted(FIXTURES.iterdir()):
            sender = Sender(at_work.port)
            sender.send(path.read_bytes())
            sender.close()

        wait_for_events(mapped, 3 + 1 + 1 + 2)  # the clients of Go sent one record twice, node sent two keys thrice
        assert stored_keys(mapped).keys() == {
            "1234/k1:samples", "1234/k1:node-seconds", "1234/k1:container-seconds",
            "1234/fg-0:node-seconds", "1234/py:node-seconds", "1234/nd-0:node-seconds", "1234/nd-1:node-seconds",
        }  # fmt: skip

    def test_what_is_sent_again_is_counted_once(self, mapped: Organization, at_work: AtWork, sender: Sender) -> None:
        # The billing-client sends all records of an event again, with a new time; and once more after reconnecting.
        for _ in range(8):
            sender.send(message("first") + message("second"))
        again = Sender(at_work.port)
        again.send(message("first", chunk="last"))
        again.await_acks("last")
        sender.send(message("third", chunk="end"))
        sender.await_acks("end")

        assert stored_keys(mapped) == {"1234/first": 1, "1234/second": 1, "1234/third": 1}
        assert not QuarantinedRecord.objects.all_tenants().exists()

    def test_amounts_are_exact_and_times_of_any_offset(self, mapped: Organization, sender: Sender) -> None:
        sender.send(message("large", amount=2**53 + 1))
        sender.send(message("largest", amount=2**63 - 1, occurred_at="2026-11-20T10:00:00.999999999+02:00"))

        large, largest = wait_for_events(mapped, 2)
        assert (large.value, largest.value) == (9007199254740993, 9223372036854775807)
        assert largest.occurred_at == parse_time("2026-11-20T08:00:00.999999Z")

    def test_heartbeats_leave_no_trace(self, mapped: Organization, at_work: AtWork) -> None:
        Sender(at_work.port).close()
        nil = Sender(at_work.port)
        nil.send(b"\xc0" + pack(["billing", 1, record("after"), {"chunk": "c"}]))

        assert nil.socket.recv(100) == pack({"ack": "c"})
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(10)
            datagrams.sendto(b"are you there?", ("127.0.0.1", at_work.port))
            assert datagrams.recv(100) == b"\0"
        assert stored_keys(mapped) == {"1234/after": 1}

    def test_torn_tail_is_forgotten(self, mapped: Organization, at_work: AtWork, sender: Sender) -> None:
        sender.send(message("whole") + message("torn")[:-1])
        sender.close()
        again = Sender(at_work.port)
        again.send(message("torn", chunk="c"))
        again.await_acks("c")

        wait_for_events(mapped, 2)
        assert stored_keys(mapped) == {"1234/whole": 1, "1234/torn": 1}
        assert not QuarantinedRecord.objects.all_tenants().exists()


class TestAnswers:
    def test_who_does_not_ask_hears_nothing(self, mapped: Organization, at_work: AtWork, sender: Sender) -> None:
        sender.send(message("good") + b'["broken"]' + message("unknown", instance="nobody"))
        packed = Sender(at_work.port)
        packed.send(pack(["billing", 1, record("packed")]))
        wait_for_events(mapped, 2)
        wait_for_quarantine(2)

        assert sender.hears_nothing()
        assert packed.hears_nothing()

    def test_acknowledgement_tells_that_the_record_is_stored(self, mapped: Organization, sender: Sender) -> None:
        for number in range(20):
            sender.send(message(f"key-{number}", chunk=f"chunk-{number}"))
            sender.await_acks(f"chunk-{number}")

            assert stored_keys(mapped)[f"1234/key-{number}"] == 1

    def test_chunk_is_acknowledged_once_when_all_of_it_is_stored(self, mapped: Organization, sender: Sender) -> None:
        entries = [[1, record(f"key-{number}")] for number in range(6_001)]  # more than a batch
        sender.send(pack(["billing", entries, {"chunk": "c"}]))

        assert sender.socket.recv(100) == pack({"ack": "c"})
        assert Event.objects.for_organization(mapped).count() == 6_001
        assert sender.hears_nothing()

    def test_records_that_wait_in_the_quarantine_are_acknowledged(self, at_work: AtWork, sender: Sender) -> None:
        sender.send(message("key", instance="nobody", chunk="one") + message("", chunk="two"))
        sender.await_acks("one", "two")

        assert QuarantinedRecord.objects.all_tenants().count() == 2

    def test_sender_that_closed_its_half_gets_its_acknowledgement(self, mapped: Organization, sender: Sender) -> None:
        sender.send(message("key", chunk="c"))
        sender.socket.shutdown(socket.SHUT_WR)

        assert sender.await_end() == b'{"ack":"c"}'

    def test_empty_chunk_is_acknowledged_and_nil_is_not(self, at_work: AtWork, sender: Sender) -> None:
        sender.send(pack(["b", 1, None, {"chunk": "nil"}]) + pack(["b", [], {"chunk": "empty"}]))

        assert sender.socket.recv(100) == pack({"ack": "empty"})
        assert sender.hears_nothing()


# What is no event, and why.
BAD = {
    b'["billing",1]': "malformed_record",
    b'["billing",1,{"a":01},null]': "malformed_record",
    b'["billing",1,"text",null]': "malformed_record",
    b'["billing",1,{},null]': "malformed_record",
    message("k", amount_value="7"): "malformed_record",
    message("k", amount_value=1.5): "malformed_record",
    message("k", amount_value=True): "malformed_record",
    message("k", amount_value=2**63): "malformed_record",
    message("k", amount_type=""): "malformed_record",
    message("k", amount_type="\x00"): "malformed_record",
    message("k", amount_type="x" * 257): "malformed_record",
    message("k", internal_instance_id=1234): "malformed_record",
    message("k", internal_instance_id="\x00"): "malformed_record",
    message("k").replace(b'"k"', b'"\\ud800"'): "malformed_record",
    message("k").replace(b'"k"', b'"\xff"'): "malformed_record",
    message("k\x00"): "invalid_key",
    message("k", occurred_at="yesterday"): "invalid_timestamp",
    message("k", occurred_at="2026-11-20T10:00:00"): "invalid_timestamp",
    message("k", occurred_at=(timezone.now() + timedelta(days=2)).isoformat()): "timestamp_in_future",
    message("k", metadata={"nested": {"a": 1}}): "invalid_property",
    message("k", metadata={"nul": "\x00"}): "invalid_property",
    message("k", metadata={"long": "x" * 9_000}): "invalid_property",
    message("neighbour", amount=2): "conflict",
    message("k", instance="nobody"): "unknown_instance",
}


class TestBadNeighbours:
    def test_bad_records_wait_with_their_reasons_and_all_others_count(
        self, mapped: Organization, sender: Sender
    ) -> None:
        sender.send(message("neighbour"))
        found = {}
        for number, bad in enumerate(BAD):
            sender.send(message(f"before-{number}") + bad + message(f"after-{number}", chunk=str(number)))
            sender.await_acks(str(number))
            newest = QuarantinedRecord.objects.all_tenants().latest("pk")
            found[bad] = newest.reason
            assert newest.peer == f"127.0.0.1:{sender.socket.getsockname()[1]}"

        assert found == BAD
        assert QuarantinedRecord.objects.all_tenants().count() == len(BAD)
        good = [f"1234/{side}-{number}" for side in ("before", "after") for number in range(len(BAD))]
        assert stored_keys(mapped) == dict.fromkeys([*good, "1234/neighbour"], 1)

    def test_the_same_bad_record_again_is_one_row(self, sender: Sender) -> None:
        for number in range(3):
            sender.send(message("key", instance="nobody") + message(f"end-{number}", chunk=str(number)))
            sender.await_acks(str(number))

        assert QuarantinedRecord.objects.all_tenants().count() == 1

    def test_refused_record_belongs_to_its_instance_and_an_unknown_ones_to_nobody(
        self, mapped: Organization, sender: Sender
    ) -> None:
        sender.send(message("k", amount_value="7") + message("k", instance="nobody") + b"[1][2]")

        rows = wait_for_quarantine(4)
        assert {(row.organization_id, row.internal_instance_id, row.is_whole) for row in rows} == {
            (mapped.pk, "1234", True),
            (None, "nobody", True),
            (None, "", False),
        }
        whole = next(row for row in rows if row.organization_id)
        assert json.loads(whole.record) == record("k", amount_value="7")

    def test_stream_that_cannot_be_decoded_is_read_to_its_end_and_kept_open(
        self, mapped: Organization, at_work: AtWork, sender: Sender
    ) -> None:
        sender.send(pack(["billing", 1, record("before")]) + b"\xc1" + pack(["billing", 1, record("after")]))
        wait_for_events(mapped, 1)
        for _ in range(20):
            sender.send(b"\xc1" * 100_000)

        assert sender.hears_nothing()
        other = Sender(at_work.port)
        other.send(message("other", chunk="c"))
        other.await_acks("c")
        assert stored_keys(mapped) == {"1234/before": 1, "1234/other": 1}

    def test_rubbish_between_json_messages_costs_nothing_that_follows(
        self, mapped: Organization, sender: Sender
    ) -> None:
        sender.send(message("before") + b"]} oh dear " + message("after", chunk="c"))
        sender.await_acks("c")

        wait_for_events(mapped, 2)
        assert stored_keys(mapped) == {"1234/before": 1, "1234/after": 1}

    def test_anything_between_good_records_costs_neither_them_nor_the_connection(
        self, mapped: Organization, at_work: AtWork
    ) -> None:
        sent = []
        senders = {True: Sender(at_work.port), False: Sender(at_work.port)}

        @settings(max_examples=60, deadline=None)
        @given(ODD_MSGPACK | ODD_JSON)
        @example(b"\x92\xa1b\x91\xdc\x00\x01\xc0")
        @example(b"\x92\xa1b\xc4\x03\xdc\x00\x00")
        @example(pack(["b", b"", {"compressed": ["gzip"]}]))
        @example(b'["b",1,{},{"chunk":"\\ud800"}]')
        def send_between(odd: bytes) -> None:
            before, after, chunk = f"before-{len(sent)}", f"after-{len(sent)}", f"chunk-{len(sent)}."
            is_json = odd.startswith(b"[")
            if is_json:
                good, last = message(before), message(after, chunk=chunk)
            else:
                good, last = pack(["b", 1, record(before)]), pack(["b", 1, record(after), {"chunk": chunk}])
            senders[is_json].send(good + odd + last)
            senders[is_json].await_bytes(chunk.encode())
            sent.extend([f"1234/{before}", f"1234/{after}"])

        send_between()
        wait_for_events(mapped, len(sent))
        assert stored_keys(mapped) == dict.fromkeys(sent, 1)

    def test_failure_that_nobody_foresaw_costs_one_message(
        self, mapped: Organization, at_work: AtWork, sender: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def open_with_a_flaw(message: Any) -> Any:
            if isinstance(message, RawMessage) and b"opening fails" in message.data:
                raise RuntimeError("a flaw")
            carried = open_message(message)
            return Carried(take_with_a_flaw(carried.records), carried.chunk)

        def take_with_a_flaw(records: Iterable[Any]) -> Iterator[Any]:
            for each in records:
                if each["unique_key"] == "taking fails":
                    raise RuntimeError("a flaw")
                yield each

        monkeypatch.setattr("metering.dialects.weave.connection.open_message", open_with_a_flaw)
        # More than a turn: the second failure is in one that asyncio calls later.
        many = [[1, record(f"many-{number}")] for number in range(2_500)]
        sender.send(pack(["b", 1, record("first")]) + pack(["opening fails", 1, record("lost")]))
        sender.send(pack(["b", [*many, [1, record("taking fails")]], {"chunk": "flawed"}]))
        sender.send(pack(["b", 1, record("last"), {"chunk": "end"}]))
        sender.await_bytes(pack({"ack": "end"}))

        wait_for_events(mapped, 2_502)
        assert stored_keys(mapped) == dict.fromkeys(
            ["1234/first", "1234/last", *(f"1234/many-{number}" for number in range(2_500))], 1
        )
        assert [row.message for row in wait_for_quarantine(2)] == ["Reading the message failed: RuntimeError."] * 2

    def test_connection_that_fails_does_not_keep_the_others_from_reading_on(
        self, mapped: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on, went_on = ForwardConnection.go_on, []

        def fail_first(connection: ForwardConnection) -> None:
            went_on.append(connection)
            if connection is went_on[0]:
                raise RuntimeError("a flaw")
            go_on(connection)

        monkeypatch.setattr(ForwardConnection, "go_on", fail_first)
        with listener_at_work(limits=Limits(waiting_records=10)) as at_work:
            first, second = Sender(at_work.port), Sender(at_work.port)
            second.send(message("opens"))
            wait_for_events(mapped, 1)
            first.send(b"".join(message(f"key-{number}") for number in range(20)))
            assert first.await_end() == b""
            second.send(message("second", chunk="c"))
            second.await_acks("c")

        assert len(stored_keys(mapped)) == 22

    def test_bomb_is_neither_counted_nor_acknowledged(self, mapped: Organization, sender: Sender) -> None:
        bomb = gzip.compress(b"\x00" * 50_000_000)
        sender.send(pack(["b", bomb, {"compressed": "gzip", "chunk": "bomb"}]))
        sender.send(pack(["b", 1, record("after"), {"chunk": "after"}]))

        assert sender.socket.recv(100) == pack({"ack": "after"})
        [waiting] = wait_for_quarantine(1)
        assert waiting.reason == "record_too_large"


class TestHandshake:
    KEY = "a key that both know"

    @pytest.fixture
    def secured(self, mapped: Organization) -> Iterator[AtWork]:
        with listener_at_work(shared_key=self.KEY) as at_work:
            yield at_work

    def greet(self, sender: Sender, key: str) -> list[object]:
        decoder = msgspec.msgpack.Decoder()
        _, options = decoder.decode(sender.socket.recv(1_000))
        digest = hashlib.sha512(b"salt" + b"client" + options["nonce"] + key.encode()).hexdigest()
        sender.send(pack(["PING", "client", b"salt", digest, "", ""]))
        answer: list[object] = decoder.decode(sender.socket.recv(1_000))
        return answer

    def test_who_knows_the_key_delivers(self, mapped: Organization, secured: AtWork) -> None:
        sender = Sender(secured.secure_port)

        assert self.greet(sender, self.KEY)[:3] == ["PONG", True, ""]
        sender.send(pack(["b", 1, record("key"), {"chunk": "c"}]))
        assert sender.socket.recv(100) == pack({"ack": "c"})
        assert stored_keys(mapped) == {"1234/key": 1}

    def test_who_does_not_is_sent_away(self, mapped: Organization, secured: AtWork) -> None:
        sender = Sender(secured.secure_port)

        assert self.greet(sender, "a guess")[:2] == ["PONG", False]
        assert sender.await_end() == b""
        eager = Sender(secured.secure_port)
        eager.send(pack(["b", 1, record("key"), {"chunk": "c"}]))
        assert b"ack" not in eager.await_end()
        assert not stored_keys(mapped)

    def test_the_open_port_says_no_hello(self, secured: AtWork) -> None:
        assert Sender(secured.port).hears_nothing()

    def test_it_may_be_the_only_port(self, mapped: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
        async def serve() -> None:
            listener = ForwardListener(shared_key=self.KEY)
            await listener.start(secure_address=Address("127.0.0.1", 0))
            [port] = listener.ports
            await asyncio.to_thread(deliver, port)
            await listener.drain()

        def deliver(port: int) -> None:
            sender = Sender(port)
            self.greet(sender, self.KEY)
            sender.send(pack(["b", 1, record("key"), {"chunk": "c"}]))
            assert sender.socket.recv(100) == pack({"ack": "c"})

        asyncio.run(serve())
        assert stored_keys(mapped) == {"1234/key": 1}

    def test_has_its_own_share_of_the_connections(self, mapped: Organization) -> None:
        with listener_at_work(limits=Limits(connections=2), shared_key=self.KEY) as at_work:
            strangers = [Sender(at_work.port) for _ in range(3)]
            strangers[2].send(message("stranger", chunk="c"))
            known = [Sender(at_work.secure_port) for _ in range(2)]

            assert [self.greet(sender, self.KEY)[1] for sender in known] == [True, True]
            assert strangers[2].hears_nothing()
            for sender in [*known, *strangers]:
                sender.close()


class TestPorts:
    def test_taken_port_is_told(self, at_work: AtWork) -> None:
        with pytest.raises(PortTaken, match=str(at_work.port)):
            asyncio.run(ForwardListener().start(open_address=Address("127.0.0.1", at_work.port)))

    def test_connection_beyond_the_limit_waits_for_its_turn(self, mapped: Organization) -> None:
        with listener_at_work(limits=Limits(connections=2)) as at_work:
            first, second, third = (Sender(at_work.port) for _ in range(3))
            third.send(message("third", chunk="c"))
            assert third.hears_nothing()

            first.close()
            third.await_acks("c")
            second.close()
