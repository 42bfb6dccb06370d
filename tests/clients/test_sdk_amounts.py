"""`add_amounts` against a listener that this file plays: outages, bounds, ends. The real one is in `tests/dialects`."""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from meterbook.amounts import (
    CONTAINER_SECONDS,
    NODE_SECONDS,
    SAMPLES,
    AmountsClient,
    AmountsConfig,
    StoppingError,
    read_counts,
    register_flags,
    register_metrics,
)
from meterbook.amounts.config import parse_duration
from meterbook.errors import BufferFullError
from prometheus_client import CollectorRegistry, generate_latest

NOW = datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC)
WAIT_SECONDS = 20.0


class PlayedListener:
    """Takes connections one after another and answers each message as `answer` says: None hangs up."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.messages: list[Any] = []
        self.texts: list[str] = []
        self.connection_count = 0
        # Hang up after the acknowledgement of so many messages; `has_left` tells when that has happened.
        self.leaves_after = 0
        self.has_left = threading.Event()
        self.answer: Callable[[int, str], bytes | None] = lambda number, chunk: acknowledgement(chunk)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def keys(self) -> list[str]:
        return [message[2]["unique_key"] for message in self.messages]

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connection_count += 1
            with connection, contextlib.suppress(OSError):  # the client may have hung up
                self._converse(connection)
            self.has_left.set()

    def _converse(self, connection: socket.socket) -> None:
        decoder, unread = json.JSONDecoder(), ""
        while received := connection.recv(65536):
            unread += received.decode()  # the tests' messages are ASCII where they could be torn
            while unread:
                try:
                    message, end = decoder.raw_decode(unread)
                except ValueError:
                    break
                self.messages.append(message)
                self.texts.append(unread[:end])
                unread = unread[end:]
                answer = self.answer(len(self.messages), message[3]["chunk"])
                if answer is None:
                    return
                connection.sendall(answer)
                if len(self.messages) == self.leaves_after:
                    return


def acknowledgement(chunk: str) -> bytes:
    return json.dumps({"ack": chunk}).encode()


@pytest.fixture
def listener() -> Iterator[PlayedListener]:
    played = PlayedListener()
    yield played
    played.close()


@pytest.fixture
def make_client() -> Iterator[Callable[..., AmountsClient]]:
    clients: list[AmountsClient] = []

    def make(address: str, **settings: Any) -> AmountsClient:
        client = AmountsClient(AmountsConfig(ingester_host_port=address, **{"retry_delay": 0.02, **settings}))
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close(0)


@pytest.fixture
def client(make_client: Callable[..., AmountsClient], listener: PlayedListener) -> AmountsClient:
    return make_client(listener.address)


def unreachable() -> str:
    """Return an address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def counted(outcome: str, amount_type: str) -> tuple[int, int]:
    """Return how many events and how much was counted in this process so far."""
    counts = read_counts()
    return counts.events.get((outcome, amount_type), 0), counts.amounts.get((outcome, amount_type), 0)


class TestMessages:
    def test_one_record_for_each_amount_that_is_not_zero(self, client: AmountsClient, listener: PlayedListener) -> None:
        amounts = {SAMPLES: 7, NODE_SECONDS: 3600, CONTAINER_SECONDS: 0}
        client.add_amounts("k1", "1234", NOW, amounts, {"report_id": "r-1"})
        assert client.close(WAIT_SECONDS)

        shared = {
            "internal_instance_id": "1234",
            "metadata": {"report_id": "r-1"},
            "occurred_at": "2026-11-20T10:00:00.123456Z",
        }
        assert [message[2] for message in listener.messages] == [
            {"amount_type": "samples", "amount_value": 7, "unique_key": "k1:samples", **shared},
            {"amount_type": "node-seconds", "amount_value": 3600, "unique_key": "k1:node-seconds", **shared},
        ]
        for tag, sent_at, _, option in listener.messages:
            assert tag == "billing"
            assert abs(sent_at - time.time()) < 60
            assert list(option) == ["chunk"]
        assert len({message[3]["chunk"] for message in listener.messages}) == 2

    def test_key_and_metadata_arrive_as_they_are(self, client: AmountsClient, listener: PlayedListener) -> None:
        elsewhere = timezone(timedelta(hours=2))
        client.add_amounts('a:"\\\u00fc', "1", NOW.astimezone(elsewhere), {"flux-sync": 2**63 - 1})
        assert client.close(WAIT_SECONDS)

        [message] = listener.messages
        assert message[2]["unique_key"] == 'a:"\\\u00fc:flux-sync'
        assert message[2]["amount_value"] == 9223372036854775807
        assert message[2]["occurred_at"] == "2026-11-20T10:00:00.123456Z"
        assert message[2]["metadata"] is None

    def test_order_is_kept_over_many_batches(self, make_client: Callable[..., AmountsClient], listener: Any) -> None:
        client = make_client(listener.address, max_buffered_events=2000)
        for number in range(2000):
            client.add_amounts(str(number), "1", NOW, {SAMPLES: 1})
        assert client.close(WAIT_SECONDS)

        assert listener.keys == [f"{number}:samples" for number in range(2000)]
        assert listener.connection_count == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"unique_key": ""}, "blank"),
            ({"unique_key": " "}, "blank"),
            ({"timestamp": datetime(2026, 11, 20)}, "time zone"),
            ({"amounts": {SAMPLES: -1}}, "whole number"),
            ({"amounts": {SAMPLES: 1.5}}, "whole number"),
            ({"amounts": {SAMPLES: True}}, "whole number"),
            ({"amounts": {SAMPLES: 2**63}}, "whole number"),
            ({"amounts": {"": 1}}, "type"),
            ({"amounts": {str(number): 1 for number in range(257)}}, "256"),
            ({"metadata": {"report": "r" * 65536}}, "65536 bytes"),
        ],
    )
    def test_what_nobody_could_count(self, client: AmountsClient, changes: dict[str, Any], told: str) -> None:
        call = {"unique_key": "k", "internal_instance_id": "1", "timestamp": NOW, "amounts": {SAMPLES: 1}, **changes}
        with pytest.raises(ValueError, match=told):
            client.add_amounts(**call)
        assert client.unacknowledged_count == 0

    def test_full_buffer_refuses_at_once_and_keeps_what_it_has(
        self, make_client: Callable[..., AmountsClient], listener: PlayedListener
    ) -> None:
        released = threading.Event()
        listener.answer = lambda number, chunk: acknowledgement(chunk) if released.wait(WAIT_SECONDS) else None
        client = make_client(listener.address, max_buffered_events=3)
        before = counted("buffer_full", SAMPLES)
        for number in range(3):
            client.add_amounts(str(number), "1", NOW, {SAMPLES: 1})
        started = time.monotonic()
        with pytest.raises(BufferFullError, match="'3' is discarded"):
            client.add_amounts("3", "1", NOW, {SAMPLES: 5})
        assert time.monotonic() - started < 1

        released.set()
        assert client.close(WAIT_SECONDS)
        assert sorted(listener.keys) == ["0:samples", "1:samples", "2:samples"]
        assert counted("buffer_full", SAMPLES) == (before[0] + 1, before[1] + 5)

    def test_closed_client_refuses(self, client: AmountsClient) -> None:
        assert client.close()
        with pytest.raises(StoppingError, match="'k' is discarded"):
            client.add_amounts("k", "1", NOW, {SAMPLES: 1})

    @pytest.mark.parametrize(
        "address", ["localhost", "localhost:", "localhost:http", "localhost:0", ":1", "a:b:1", "x:65536"]
    )
    def test_address_is_host_and_port(self, address: str) -> None:
        with pytest.raises(ValueError, match="host:port"):
            AmountsConfig(ingester_host_port=address)


class TestOutages:
    def test_what_was_not_acknowledged_is_sent_again_with_the_same_bytes(
        self, client: AmountsClient, listener: PlayedListener
    ) -> None:
        """The listener hangs up at every fifth message; it has read it, and does not say so."""
        listener.answer = lambda number, chunk: None if number % 5 == 0 else acknowledgement(chunk)
        before = counted("retrying", SAMPLES)
        for number in range(12):
            client.add_amounts(str(number), "1", NOW, {SAMPLES: 1})
        assert client.close(WAIT_SECONDS)

        assert set(listener.keys) == {f"{number}:samples" for number in range(12)}
        assert len(set(listener.texts)) == 12
        assert len(listener.texts) > 12
        assert listener.connection_count > 2
        assert counted("retrying", SAMPLES)[0] > before[0]

    def test_listener_that_starts_later_gets_everything(self, make_client: Callable[..., AmountsClient]) -> None:
        address = unreachable()
        client = make_client(address)
        for number in range(3):
            client.add_amounts(str(number), "1", NOW, {SAMPLES: 1})
        assert not client.flush(0.1)
        assert isinstance(client.last_failure, OSError)

        host, port = address.split(":")
        with socket.create_server((host, int(port))) as server:
            connection, _ = server.accept()
            with connection:
                decoder, unread, keys = json.JSONDecoder(), "", []
                while len(keys) < 3:
                    unread += connection.recv(65536).decode()
                    while unread:
                        message, end = decoder.raw_decode(unread)
                        unread = unread[end:]
                        keys.append(message[2]["unique_key"])
                        connection.sendall(acknowledgement(message[3]["chunk"]))
                assert client.flush(WAIT_SECONDS)
        assert keys == ["0:samples", "1:samples", "2:samples"]
        assert client.last_failure is None

    def test_connection_that_was_closed_meanwhile_is_replaced_without_a_failure(
        self, make_client: Callable[..., AmountsClient], listener: PlayedListener
    ) -> None:
        listener.leaves_after = 1
        client = make_client(listener.address, retry_delay=60)
        before = counted("retrying", SAMPLES)
        client.add_amounts("1", "1", NOW, {SAMPLES: 1})
        assert client.flush(WAIT_SECONDS)
        assert listener.has_left.wait(WAIT_SECONDS)

        client.add_amounts("2", "1", NOW, {SAMPLES: 1})
        assert client.flush(WAIT_SECONDS)
        assert counted("retrying", SAMPLES) == before

    @pytest.mark.parametrize("answer", [b"hello}", b'{"nack":1}', b'["ack"]}', b"x" * 300_000])
    def test_answer_that_is_no_acknowledgement_ends_the_connection(
        self, client: AmountsClient, listener: PlayedListener, answer: bytes
    ) -> None:
        listener.answer = lambda number, chunk: answer if number == 1 else acknowledgement(chunk)
        client.add_amounts("k", "1", NOW, {SAMPLES: 1})
        assert client.close(WAIT_SECONDS)
        assert listener.keys == ["k:samples", "k:samples"]

    def test_acknowledgement_that_never_comes_is_not_waited_for_longer_than_told(
        self, make_client: Callable[..., AmountsClient], listener: PlayedListener
    ) -> None:
        listener.answer = lambda number, chunk: b"" if number == 1 else acknowledgement(chunk)
        client = make_client(listener.address, ack_timeout=0.2)
        client.add_amounts("k", "1", NOW, {SAMPLES: 1})
        assert client.close(WAIT_SECONDS)
        assert listener.connection_count == 2

    def test_close_gives_up_in_time_and_says_so(self, make_client: Callable[..., AmountsClient]) -> None:
        client = make_client(unreachable(), retry_delay=60)
        before = counted("stopping", SAMPLES)
        client.add_amounts("k", "1", NOW, {SAMPLES: 4})
        started = time.monotonic()
        assert not client.close(0.2)
        assert time.monotonic() - started < 5
        assert counted("stopping", SAMPLES) == (before[0] + 1, before[1] + 4)
        assert client.close()

    def test_close_ends_a_wait_for_an_acknowledgement(
        self, make_client: Callable[..., AmountsClient], listener: PlayedListener
    ) -> None:
        listener.answer = lambda number, chunk: b""
        client = make_client(listener.address)
        client.add_amounts("k", "1", NOW, {SAMPLES: 1})
        while not listener.messages:
            time.sleep(0.01)
        thread = client._thread
        assert not client.close(0)
        assert thread is not None
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


class TestEndsOfAProcess:
    PROGRAM = """
import os, sys
from datetime import UTC, datetime
from meterbook.amounts import AmountsClient, AmountsConfig

client = AmountsClient(AmountsConfig(ingester_host_port=sys.argv[1]))
client.add_amounts("parent-1", "1", datetime.now(UTC), {"samples": 1})
if sys.argv[2] == "fork":
    assert client.flush(20)
    child = os.fork()
    client.add_amounts("child" if child == 0 else "parent-2", "1", datetime.now(UTC), {"samples": 1})
    if child:
        os.waitpid(child, 0)
"""

    def run(self, listener: PlayedListener, how: str) -> None:
        command = [sys.executable, "-c", self.PROGRAM, listener.address, how]
        done = subprocess.run(command, timeout=60, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_interpreter_that_ends_sends_what_is_left(self, listener: PlayedListener) -> None:
        self.run(listener, "exit")
        assert listener.keys == ["parent-1:samples"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_forked_child_has_a_buffer_of_its_own(self) -> None:
        listener = ConcurrentListener()
        self.run(listener, "fork")
        assert sorted(listener.keys) == ["child:samples", "parent-1:samples", "parent-2:samples"]


class ConcurrentListener(PlayedListener):
    """Serves parent and child at once."""

    def _converse(self, connection: socket.socket) -> None:
        copy = connection.dup()
        threading.Thread(target=self._converse_apart, args=(copy,), daemon=True).start()

    def _converse_apart(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            super()._converse(connection)


class TestFlags:
    @pytest.fixture
    def parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser()
        register_flags(parser)
        return parser

    def test_defaults_are_the_go_clients(self, parser: argparse.ArgumentParser) -> None:
        config = AmountsConfig.from_flags(parser.parse_args([]))
        assert config == AmountsConfig()
        assert (config.ingester_host_port, config.max_buffered_events) == ("localhost:24225", 1024)
        assert config.retry_delay == 0.5
        assert config.address() == ("localhost", 24225)

    @pytest.mark.parametrize("dash", ["-", "--"])
    def test_are_written_as_in_go(self, parser: argparse.ArgumentParser, dash: str) -> None:
        words = [f"{dash}billing.ingester=[::1]:9", f"{dash}billing.max-buffered-events", "5"]
        config = AmountsConfig.from_flags(parser.parse_args([*words, f"{dash}billing.retry-delay=1m1.5s"]))
        assert config == AmountsConfig("[::1]:9", 5, 61.5)
        assert config.address() == ("::1", 9)

    @pytest.mark.parametrize("words", [["-billing.retry-delay=5"], ["-billing.max-buffered-events=x"]])
    def test_refuse_what_go_refuses(self, parser: argparse.ArgumentParser, words: list[str]) -> None:
        with pytest.raises(SystemExit):
            parser.parse_args(words)

    @pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("1h", 3600), ("2m.5s", 120.5), ("10us", 1e-5)])
    def test_durations(self, text: str, seconds: float) -> None:
        assert parse_duration(text) == pytest.approx(seconds)


class TestPrometheus:
    def test_counts_are_shown_under_the_go_clients_names(self, client: AmountsClient) -> None:
        registry = CollectorRegistry()
        assert register_metrics(registry)
        client.add_amounts("k", "1", NOW, {"prom-type": 41, "prom-zero": 0})
        client.add_amounts("l", "1", NOW, {"prom-type": 1})
        with pytest.raises(ValueError, match="blank"):
            client.add_amounts("", "1", NOW, {})
        assert client.close(WAIT_SECONDS)

        lines = generate_latest(registry).decode().splitlines()
        assert 'billing_client_events_total{amount_type="prom-type",status="success"} 2.0' in lines
        assert 'billing_client_amounts_total{amount_type="prom-type",status="success"} 42.0' in lines
        # A zero is an event although nothing is sent.
        assert 'billing_client_events_total{amount_type="prom-zero",status="success"} 1.0' in lines
        begin = "billing_client_request_duration_seconds"
        for status_code in ("200", "500"):
            labels = f'method="Billing.AddAmounts",status_code="{status_code}"'
            [count] = [line for line in lines if line.startswith(f"{begin}_count{{{labels}}}")]
            [last] = [line for line in lines if line.startswith(f'{begin}_bucket{{le="+Inf",{labels}}}')]
            assert float(count.split()[-1]) == float(last.split()[-1]) > 0

    def test_is_not_needed(self) -> None:
        program = (
            "import sys; sys.modules['prometheus_client'] = None\n"
            "from meterbook.amounts import register_metrics; print(register_metrics())"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "False"
