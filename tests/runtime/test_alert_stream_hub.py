"""The live stream of alerts, in this process: who holds what, what it costs, and readers that do not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from accounts.models import Organization
from accounts.services import IssuedKey
from alerts import alert_stream
from alerts.alert_stream import MAX_BEHIND, MAX_WAITING, Alert, AlertStream, Feed, Listener
from alerts.sql.crossing_log import CrossingFilter, LoggedCrossing
from config.streams import alerts as wire
from config.streams import make_ticket
from config.streams.alerts import encode_alerts, serve_alerts
from tests.runtime.crossing_log import MOMENT, Log, append_slowly, database_url, offsets


@pytest.fixture
def log(transactional_db: None, org: Organization) -> Log:
    return Log(org)


def make_alert(offset: int, *, customer: str = "a") -> Alert:
    crossing = LoggedCrossing(offset, 1, customer, "calls", "cap", Decimal(1), Decimal(1), MOMENT, MOMENT, MOMENT)
    return Alert(crossing, b"{}")


class TestListener:
    def test_what_does_not_match_moves_the_position_on(self) -> None:
        listener = Listener(Feed(1, end=0), CrossingFilter(wanted_customers=frozenset({"b"})), is_live=True)

        listener.offer([make_alert(1), make_alert(2)], 2)

        assert listener.take() == []
        assert listener.position == 2

    def test_overflow_sends_the_listener_back_to_the_log(self) -> None:
        listener = Listener(Feed(1, end=0), CrossingFilter(), is_live=True)
        listener.offer([make_alert(1), make_alert(2)], 2)
        assert offsets(listener.take()) == [1, 2]

        listener.offer([make_alert(offset) for offset in range(3, MAX_WAITING + 4)], MAX_WAITING + 3)

        assert not listener.is_live
        assert listener.take() == []
        assert listener.position == 2

    def test_only_a_live_listener_is_behind(self) -> None:
        listener = Listener(Feed(1, end=0), CrossingFilter(), is_live=True)
        alerts = [make_alert(offset) for offset in range(1, MAX_BEHIND + 2)]

        listener.offer(alerts[:MAX_BEHIND], MAX_BEHIND)
        assert not listener.is_behind
        listener.offer(alerts[MAX_BEHIND:], MAX_BEHIND + 1)
        assert listener.is_behind


def test_many_listeners_cost_the_queries_of_one(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = alert_stream.list_logged_crossings

    async def counting(*arguments: Any, **options: Any) -> list[LoggedCrossing]:
        asked.append(options["after"])
        return await real(*arguments, **options)

    monkeypatch.setattr(alert_stream, "list_logged_crossings", counting)

    told = asyncio.run(_tell_many(log, listener_count=200))

    assert told == [[1, 2, 3]] * 200
    assert len(asked) <= 3  # one per commit at most


async def _tell_many(log: Log, *, listener_count: int) -> list[list[int]]:
    stream = AlertStream(database_url())

    async def listen(ready: asyncio.Semaphore) -> list[int]:
        async with stream.listen(log.organization.pk, CrossingFilter(), None) as listener:
            ready.release()
            told: list[int] = []
            while len(told) < 3:
                told += offsets(await stream.next_alerts(listener))
            return told

    try:
        ready = asyncio.Semaphore(0)
        listening = [asyncio.create_task(listen(ready)) for _ in range(listener_count)]
        for _ in range(listener_count):
            await ready.acquire()
        await asyncio.to_thread(append_slowly, log, 3)
        return await asyncio.wait_for(asyncio.gather(*listening), 60)
    finally:
        await stream.close()


# --- one answer, with a client that takes what the test lets it take ------------------------------------------------


class PlayedClient:
    """The other side of one ASGI answer: takes pieces only while it may."""

    def __init__(self) -> None:
        self.text = ""
        self.takes = asyncio.Event()
        self.takes.set()
        self.is_over = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.is_over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await self.takes.wait()
        self.text += message.get("body", b"").decode()

    async def until(self, words: str) -> None:
        async with asyncio.timeout(60):
            while words not in self.text:
                await asyncio.sleep(0.02)

    def ids(self) -> list[int]:
        return [int(line[4:]) for line in self.text.splitlines() if line.startswith("id: ")]


async def _play(log: Log, key: IssuedKey, story: Callable[[PlayedClient], Any]) -> PlayedClient:
    """Open a stream, let the story happen, and hang up unless the stream has ended by itself."""
    stream, client = AlertStream(database_url()), PlayedClient()
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/alerts/stream",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {key.text}".encode())],
    }
    serving = asyncio.create_task(serve_alerts(stream, scope, client.receive, client.send))
    try:
        await client.until("listening")
        await story(client)
        client.is_over.set()
        await asyncio.wait_for(serving, 60)
        return client
    finally:
        serving.cancel()
        await stream.close()
        await sync_to_async(connections.close_all)()  # of the thread that authorised


def test_heartbeat_is_a_comment(log: Log, api_key: IssuedKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEARTBEAT_SECONDS", 0.2)

    async def story(client: PlayedClient) -> None:
        await client.until(": heartbeat\n\n: heartbeat\n\n")
        await asyncio.to_thread(append_slowly, log, 1)
        await client.until("id: 1\n")

    client = asyncio.run(_play(log, api_key, story))

    assert client.text.startswith(": listening\nretry: 2000\nid: 0\n\n: heartbeat\n\n")
    assert client.ids() == [0, 1]


def test_heartbeat_comes_every_15_seconds() -> None:
    assert wire.HEARTBEAT_SECONDS == 15


def test_reader_that_takes_nothing_is_told_exactly_where_to_resume(log: Log, api_key: IssuedKey) -> None:
    async def story(client: PlayedClient) -> None:
        await asyncio.to_thread(append_slowly, log, 3)
        await client.until("id: 3\n")
        client.takes.clear()
        await asyncio.to_thread(append_slowly, log, 100)
        await asyncio.sleep(4 * wire.PATIENCE_SECONDS)
        client.takes.set()
        await client.until("event: resume")

    client = asyncio.run(_play(log, api_key, story))

    ids = client.ids()
    assert ids == list(range(len(ids)))  # nothing skipped, nothing twice
    assert 3 < ids[-1] < 103
    assert client.text.endswith(f'event: resume\ndata: {{"since":"{ids[-1]}"}}\n\n')


def test_reader_that_pauses_with_few_alerts_waiting_stays(log: Log, api_key: IssuedKey) -> None:
    async def story(client: PlayedClient) -> None:
        client.takes.clear()
        await asyncio.to_thread(append_slowly, log, MAX_BEHIND)
        await asyncio.sleep(3 * wire.PATIENCE_SECONDS)
        client.takes.set()
        await client.until(f"id: {MAX_BEHIND}\n")
        await asyncio.to_thread(append_slowly, log, 1)
        await client.until(f"id: {MAX_BEHIND + 1}\n")

    client = asyncio.run(_play(log, api_key, story))

    assert "resume" not in client.text
    assert client.ids() == list(range(MAX_BEHIND + 2))


@pytest.mark.django_db(transaction=True)
def test_database_that_is_away_at_the_start_is_a_503(org: Organization, tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        async def keep(message: dict[str, Any]) -> None:
            sent.append(message)

        stream = AlertStream(f"postgresql://postgres@/nowhere?host={tmp_path}")
        ticket = make_ticket(org.pk, CrossingFilter())
        scope = {"type": "http", "method": "GET", "path": "/v1/alerts/stream", "headers": []}
        scope["query_string"] = f"ticket={ticket}".encode()
        await serve_alerts(stream, scope, PlayedClient().receive, keep)
        await stream.close()
        await sync_to_async(connections.close_all)()

    asyncio.run(ask())

    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["code"] == "unavailable"


def test_message_is_the_offset_and_the_alert() -> None:
    text = encode_alerts([Alert(make_alert(5).crossing, b'{"a":1}'), make_alert(6)])

    assert text == b'id: 5\ndata: {"a":1}\n\nid: 6\ndata: {}\n\n'
