"""The live tail through both servers: the web server's redirect, the stream, and its interruptions."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from meterbook import AsyncClient, AuthenticationError, Client, Event, StoredEvent

from accounts.services import IssuedKey
from tests.clients.web_server import WebServer

pytestmark = pytest.mark.usefixtures("stream_server")


@pytest.fixture(autouse=True)
def _metric(client: Client) -> None:
    client.metrics.create("bytes", "sum")


class Listener:
    """Reads a tail in a thread, so that the test can send meanwhile."""

    def __init__(self, tail: Iterator[StoredEvent]) -> None:
        self.events: list[StoredEvent] = []
        self._tail = tail
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for event in self._tail:
            self.events.append(event)

    def wait_for(self, count: int, seconds: float = 20) -> list[StoredEvent]:
        deadline = time.monotonic() + seconds
        while len(self.events) < count:
            assert time.monotonic() < deadline, f"only {len(self.events)} of {count} events arrived"
            time.sleep(0.02)
        return self.events


def send_until_heard(client: Client, listener: Listener) -> None:
    """A tail begins when the connection stands, which the sender cannot see: send until one event arrives."""
    while not listener.events:
        client.ingest(Event(customer="hello", metric="bytes", value=0))
        time.sleep(0.1)


def test_tail_shows_events_as_they_arrive(client: Client) -> None:
    listener = Listener(client.events_tail())
    send_until_heard(client, listener)

    client.ingest(Event(customer="acme", metric="bytes", value="1.50", properties={"line": "a\u2028b"}))

    _wait_until_last_is(listener, "acme")
    event = listener.events[-1]
    assert (event.value, event.metrics, event.properties) == (Decimal("1.5"), ("bytes",), {"line": "a\u2028b"})
    assert event.body["value"] == "1.5"


def test_tail_of_one_customer_leaves_out_the_others(client: Client) -> None:
    listener = Listener(client.events_tail(customer=["hello", "acme"]))
    send_until_heard(client, listener)

    client.ingest([Event(customer=name, metric="bytes", value=1) for name in ("bolt", "acme")])

    _wait_until_last_is(listener, "acme")
    assert "bolt" not in {event.customer for event in listener.events}


def test_tail_resumes_after_an_interruption_without_loss(client: Client, stream_server: WebServer) -> None:
    listener = Listener(client.events_tail())
    send_until_heard(client, listener)
    client.ingest(Event(customer="before", metric="bytes", value=1))
    _wait_until_last_is(listener, "before")

    stream_server.kill()
    client.ingest([Event(customer=f"meanwhile{number}", metric="bytes", value=1) for number in range(5)])
    stream_server.start()

    _wait_until_last_is(listener, "meanwhile4")
    after = [event.customer for event in listener.events if event.customer.startswith("meanwhile")]
    assert after == [f"meanwhile{number}" for number in range(5)]


def test_refused_key_ends_the_tail(server: WebServer) -> None:
    with Client(server.url, "mb_not_good", trust_env=False) as client, pytest.raises(AuthenticationError):
        next(client.events_tail())


def test_async_tail(client: Client, server: WebServer, api_key: IssuedKey) -> None:
    async def story() -> StoredEvent:
        async with AsyncClient(server.url, api_key.text, trust_env=False) as asynchronous:
            sending = asyncio.create_task(_keep_sending(asynchronous))
            async for event in asynchronous.events_tail():
                sending.cancel()
                return event
        raise AssertionError("a tail does not end by itself")

    async def _keep_sending(asynchronous: AsyncClient) -> None:
        for number in itertools.count():
            await asynchronous.ingest(Event(customer="acme", metric="bytes", value=number))
            await asyncio.sleep(0.1)

    assert asyncio.run(story()).customer == "acme"


def _wait_until_last_is(listener: Listener, customer: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while listener.events[-1].customer != customer:
        assert time.monotonic() < deadline
        time.sleep(0.02)
