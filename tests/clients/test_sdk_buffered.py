"""Buffered ingest against the real server: outages, bounds, ends of processes. Every event counts once."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from meterbook import (
    AsyncBufferedIngest,
    AsyncClient,
    BufferedIngest,
    BufferFullError,
    Client,
    Event,
    EventError,
    RetryPolicy,
)

from accounts.services import IssuedKey
from tests.clients.web_server import WebServer

EAGER = RetryPolicy(first_delay=0.02, longest_delay=0.2)


@pytest.fixture(autouse=True)
def _metric(client: Client) -> None:
    client.metrics.create("calls", "count")


def call(**fields: Any) -> Event:
    return Event(customer="acme", metric="calls", **fields)


def count(client: Client) -> int:
    return client.query(metric="calls").count


def test_closing_the_client_closes_its_buffers(server: WebServer, api_key: IssuedKey, client: Client) -> None:
    with Client(server.url, api_key.text, trust_env=False) as other:
        other.buffered(flush_interval=60).add(call())
    assert count(client) == 1


def test_events_arrive_after_the_interval_without_a_flush(client: Client) -> None:
    with client.buffered(flush_interval=0.05) as buffer:
        assert buffer.add(call())
        _wait_until(lambda: buffer.counters.stored == 1)
        assert count(client) == 1


def test_full_batches_go_at_once_and_close_sends_the_rest(client: Client) -> None:
    with client.buffered(flush_interval=60, batch_size=100) as buffer:
        for _ in range(250):
            buffer.add(call())
        _wait_until(lambda: buffer.counters.stored == 200)

    counters = buffer.counters
    assert (counters.added, counters.stored, counters.pending) == (250, 250, 0)
    assert count(client) == 250


def test_events_added_during_an_outage_count_exactly_once(client: Client, server: WebServer) -> None:
    with client.buffered(flush_interval=0.02, batch_size=50, retry=EAGER) as buffer:
        adding = threading.Event()

        def keep_adding() -> None:
            while not adding.is_set():
                buffer.add(call())
                time.sleep(0.001)

        threads = [threading.Thread(target=keep_adding) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(0.3)
            server.kill()  # in the middle of requests: some batches are stored and never acknowledged
            time.sleep(0.5)
            assert buffer.counters.pending > 0
            assert buffer.last_failure is not None
            server.start()
        time.sleep(0.3)
        adding.set()
        for thread in threads:
            thread.join()
        assert buffer.flush(timeout=30)

    counters = buffer.counters
    assert counters.added == counters.stored + counters.duplicates > 1000
    assert buffer.last_failure is None
    assert count(client) == counters.added


def test_refused_events_are_told_with_their_reason_and_the_others_stored(client: Client) -> None:
    told: list[tuple[EventError, Mapping[str, Any]]] = []

    def tell(error: EventError, event: Mapping[str, Any]) -> None:
        told.append((error, event))
        raise ValueError("a bug in the callback must not stop the sending")

    with client.buffered(on_error=tell, batch_size=10) as buffer:
        for number in range(30):
            buffer.add({"customer": f"c{number}", "metric": "calls" if number % 10 else "nothing"})

    assert [(error.code, event["customer"]) for error, event in told] == [
        ("unknown_metric", "c0"),
        ("unknown_metric", "c10"),
        ("unknown_metric", "c20"),
    ]
    assert (buffer.counters.stored, buffer.counters.rejected) == (27, 3)


def test_batch_that_is_too_large_is_cut_until_it_fits(client: Client) -> None:
    # 56 MB are beyond any request. Each large event is beyond the limit of its properties, and must be told so.
    large = {"text": "x" * 40_000}
    told: list[str] = []
    with client.buffered(batch_size=1500, on_error=lambda error, event: told.append(error.code)) as buffer:
        for number in range(1500):
            buffer.add(call(properties=large if number % 15 else {}))
        assert buffer.flush(timeout=60)

    assert (buffer.counters.stored, buffer.counters.rejected) == (100, 1400)
    assert set(told) == {"invalid_property"}


class TestWhenFull:
    @pytest.fixture
    def stopped(self, client: Client, server: WebServer) -> Iterator[Client]:
        server.stop()
        yield client
        server.start()

    def test_drop_newest_counts_what_it_drops(self, stopped: Client, server: WebServer) -> None:
        buffer = stopped.buffered(max_events=5, batch_size=5, when_full="drop_newest", retry=EAGER)

        assert [buffer.add(call(idempotency_key=f"k{number}")) for number in range(8)] == [True] * 5 + [False] * 3

        counters = buffer.counters
        assert (counters.added, counters.dropped, counters.pending) == (5, 3, 5)
        server.start()
        assert buffer.close()
        assert {event.idempotency_key for event in stopped.list_events()} == {f"k{number}" for number in range(5)}

    def test_raise_raises_at_once(self, stopped: Client) -> None:
        buffer = stopped.buffered(max_events=1, batch_size=1, when_full="raise", retry=EAGER)
        buffer.add(call())
        with pytest.raises(BufferFullError):
            buffer.add(call())
        assert not buffer.close(timeout=0)

    def test_block_waits_no_longer_than_asked(self, stopped: Client) -> None:
        buffer = stopped.buffered(max_events=1, batch_size=1, retry=EAGER)
        buffer.add(call())
        started = time.monotonic()
        with pytest.raises(BufferFullError):
            buffer.add(call(), timeout=0.2)
        assert 0.2 <= time.monotonic() - started < 1
        assert not buffer.close(timeout=0)

    def test_block_goes_on_as_soon_as_there_is_room(self, stopped: Client, server: WebServer) -> None:
        buffer = stopped.buffered(max_events=1, batch_size=1, retry=EAGER)
        buffer.add(call())
        waiting = threading.Thread(target=buffer.add, args=[call()], kwargs={"timeout": 30})
        waiting.start()
        server.start()
        waiting.join()
        assert buffer.close()
        assert count(stopped) == 2


def test_close_gives_up_after_its_timeout_and_hands_back_what_is_left(client: Client, server: WebServer) -> None:
    buffer = client.buffered(retry=EAGER)
    server.stop()
    buffer.add(call(idempotency_key="left"))

    assert not buffer.close(timeout=0.2)

    (event,) = buffer.unsent()
    assert (event["idempotency_key"], event["customer"]) == ("left", "acme")
    assert "timestamp" in event, "an event that waits keeps the time at which it was added"
    with pytest.raises(RuntimeError):
        buffer.add(call())
    server.start()
    assert client.ingest([event]).stored == 1


def test_event_that_no_server_could_take_is_refused_at_once(client: Client) -> None:
    with client.buffered() as buffer:
        for bad in ({"customer": "acme"}, {"customer": "acme", "metric": "calls", "value": float("nan")}):
            with pytest.raises(ValueError):  # noqa: PT011  (which of them says what is not the point)
                buffer.add(bad)
        assert buffer.counters.added == 0


class TestSpool:
    def test_unsent_events_survive_the_process(self, client: Client, server: WebServer, tmp_path: Path) -> None:
        server.stop()
        first = client.buffered(spool=tmp_path, retry=EAGER)
        for number in range(2500):
            first.add(call(idempotency_key=f"k{number}"))
        assert not first.close(timeout=0.1)

        server.start()
        with client.buffered(spool=tmp_path) as second:
            assert second.counters.added == 2500
            second.add(call(idempotency_key="one more"))

        assert count(client) == 2501
        assert [path.name for path in tmp_path.iterdir()] == ["lock"], "acknowledged segments are deleted"

    def test_killed_process_loses_nothing(self, client: Client, server: WebServer, tmp_path: Path) -> None:
        script = """
import sys
from meterbook import Client, Event
buffer = Client(sys.argv[1], sys.argv[2], trust_env=False).buffered(spool=sys.argv[3], batch_size=10)
number = 0
while True:
    buffer.add(Event(customer="acme", metric="calls"))
    number += 1
    print(number, flush=True)
"""
        key = client._transport._connection.api_key
        with subprocess.Popen(
            [sys.executable, "-c", script, server.url, key, tmp_path], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) < 500:
                pass
            process.send_signal(SIGKILL)
            taken = max([500, *(int(line) for line in process.stdout if line.endswith("\n"))])

        client.buffered(spool=tmp_path).close()

        # One more may have been spooled whose number was not printed any more.
        assert count(client) in (taken, taken + 1)

    def test_directory_has_one_owner(self, client: Client, tmp_path: Path) -> None:
        with client.buffered(spool=tmp_path), pytest.raises(BlockingIOError):
            client.buffered(spool=tmp_path)

    def test_torn_last_line_is_passed_over(self, client: Client, tmp_path: Path) -> None:
        good = b'{"idempotency_key":"good","customer":"acme","metric":"calls"}\n'
        (tmp_path / "000000000000.ndjson").write_bytes(good + b'{"idempotency_key":"to')

        client.buffered(spool=tmp_path).close()

        assert [event.idempotency_key for event in client.list_events()] == ["good"]


class TestEndsOfProcesses:
    @pytest.fixture
    def run(self, server: WebServer, api_key: IssuedKey) -> Callable[[str], None]:
        def run(script: str) -> None:
            prologue = (
                "import os, sys\nfrom meterbook import Client, Event\n"
                "client = Client(sys.argv[1], sys.argv[2], trust_env=False)\n"
                "event = lambda: Event(customer='acme', metric='calls')\n"
            )
            command = [sys.executable, "-c", prologue + script, server.url, api_key.text]
            subprocess.run(command, check=True, timeout=60)

        return run

    def test_exit_flushes_a_buffer_that_nobody_closed(self, client: Client, run: Callable[[str], None]) -> None:
        run("buffer = client.buffered(flush_interval=60)\nfor _ in range(7): buffer.add(event())")
        assert count(client) == 7

    def test_forked_child_sends_its_own_events_and_not_its_parents(
        self, client: Client, run: Callable[[str], None]
    ) -> None:
        run(
            "buffer = client.buffered(flush_interval=60)\n"
            "for _ in range(3): buffer.add(event())\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    buffer.add(event())\n"
            "    os._exit(0 if buffer.close(timeout=20) else 1)\n"
            "assert os.waitpid(pid, 0)[1] == 0\n"
        )
        assert count(client) == 4


def test_async_buffer_survives_an_outage(client: Client, server: WebServer, api_key: IssuedKey) -> None:
    async def story() -> int:
        async with (
            AsyncClient(server.url, api_key.text, trust_env=False) as asynchronous,
            asynchronous.buffered(flush_interval=0.02, batch_size=20, retry=EAGER) as buffer,
        ):
            for number in range(300):
                await buffer.add(call())
                if number == 100:
                    server.kill()
                if number == 200:
                    await asyncio.sleep(0.3)
                    assert buffer.counters.pending > 0
                    server.start()
                await asyncio.sleep(0)
            assert await buffer.flush(timeout=30)
            return buffer.counters.stored + buffer.counters.duplicates

    assert asyncio.run(story()) == 300
    assert count(client) == 300


def test_buffers_of_both_clients_offer_the_same(client: Client) -> None:
    assert {name for name in dir(BufferedIngest) if not name.startswith("_")} == {
        name for name in dir(AsyncBufferedIngest) if not name.startswith("_")
    }


def _wait_until(is_true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
