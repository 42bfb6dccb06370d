"""Clients with books of their own: what they sent, what was acknowledged and when.

A client repeats a request, with the same keys, until it is answered. Whatever the server then says can be compared
with these books: they were never in the server's hands.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

EVENT_TYPE = "work"
CUSTOMERS = 7
REGIONS = ("eu", "us", None)
PEOPLE = 60
LARGEST_BATCH = 50
# Most events are new, some late by hours or days, so that every width of rollups is written.
LATENESS = (timedelta(seconds=20), timedelta(hours=30), timedelta(days=40))
REQUEST_SECONDS = 15
# So that 20 rounds are a hundred thousand events or two, and the clients leave the machine to the server.
PAUSE_SECONDS = 0.1
RETRY_SECONDS = 0.1
# What a client is told while something is down.
PASSING = frozenset({502, 503, 504, 429})


class Event(NamedTuple):
    key: str
    customer: str
    at: datetime
    value: Decimal
    region: str | None
    person: str

    def as_json(self) -> dict[str, Any]:
        properties = {"person": self.person} | ({"region": self.region} if self.region else {})
        return {
            "idempotency_key": self.key,
            "type": EVENT_TYPE,
            "customer": self.customer,
            "timestamp": self.at.isoformat(),
            "value": str(self.value),
            "properties": properties,
        }


class Acknowledgement(NamedTuple):
    at: float  # time.monotonic()
    keys: tuple[str, ...]


class Books:
    """What one client did. Complete once the client has stopped."""

    def __init__(self) -> None:
        self.sent: dict[str, Event] = {}
        self.acknowledged: list[Acknowledgement] = []
        self.retries = 0
        # Answers that nobody expects, whatever is down.
        self.surprises: Counter[str] = Counter()


class Sender:
    """One client on a thread of its own: sends a batch until it is acknowledged, then the next."""

    def __init__(self, *, port: int, api_key: str, name: str, seed: int, is_async: bool) -> None:
        self.books = Books()
        self._name = name
        self._chance = random.Random(f"{seed}-{name}")
        self._path = "/v1/events?durability=async" if is_async else "/v1/events"
        self._is_async = is_async
        self._client = Client(port, api_key)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the batch under way be acknowledged, then end."""
        self._stopping.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"The client {self._name} still waits for an answer after {seconds:.0f} s.")

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            self._deliver(self._make_batch(number))
            time.sleep(PAUSE_SECONDS * self._chance.random() * 2)
        self._client.close()

    def _make_batch(self, number: int) -> list[Event]:
        size = self._chance.choice((1, 10, LARGEST_BATCH))
        return [make_event(f"{self._name}-{number}-{place}", self._chance) for place in range(size)]

    def _deliver(self, events: list[Event]) -> None:
        self.books.sent |= {event.key: event for event in events}
        body = json.dumps([event.as_json() for event in events]).encode()
        while True:
            answer = self._client.post(self._path, body)
            if answer is not None and self._is_acknowledged(answer, len(events)):
                keys = tuple(event.key for event in events)
                self.books.acknowledged.append(Acknowledgement(time.monotonic(), keys))
                return
            self.books.retries += 1
            time.sleep(RETRY_SECONDS)

    def _is_acknowledged(self, answer: Answer, size: int) -> bool:
        if answer.status in PASSING:
            return False
        body = answer.body
        counted = body.get("accepted", 0) if self._is_async else body.get("stored", 0) + body.get("duplicates", 0)
        if answer.status == (202 if self._is_async else 200) and counted == size:
            return True
        self.books.surprises[f"{answer.status} {json.dumps(body)[:200]}"] += 1
        return False


class Voider:
    """A client that takes back some of what a sender was acknowledged, with the same patience."""

    def __init__(self, *, port: int, api_key: str, seed: int, books: Books) -> None:
        self.asked: set[str] = set()
        self.acknowledged: set[str] = set()
        self.surprises: Counter[str] = Counter()
        self._books = books
        self._chance = random.Random(f"{seed}-voider")
        self._client = Client(port, api_key)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="voider", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS * 5):
            if self._books.acknowledged:
                # The latest: its batch may still be pending, or being rolled up this moment.
                key = self._chance.choice(self._books.acknowledged[-1].keys)
                if key not in self.asked:
                    self._void(key)
        self._client.close()

    def _void(self, key: str) -> None:
        self.asked.add(key)
        while True:
            answer = self._client.post(f"/v1/events/{key}/void", b'{"reason": "chaos"}')
            # Of a void whose answer was lost, the repetition is refused: it is done.
            if answer is not None and (answer.status in {200, 201} or answer.body.get("code") == "already_voided"):
                self.acknowledged.add(key)
                return
            if answer is not None and answer.status not in PASSING:
                self.surprises[f"{answer.status} {json.dumps(answer.body)[:200]}"] += 1
            time.sleep(RETRY_SECONDS)


def make_event(key: str, chance: random.Random) -> Event:
    return Event(
        key=key,
        customer=f"cust_{chance.randrange(CUSTOMERS)}",
        at=datetime.now(UTC) - chance.random() * chance.choices(LATENESS, weights=(8, 2, 1))[0],
        value=Decimal(chance.randrange(-100_000, 1_000_000)) / 1000,
        region=chance.choice(REGIONS),
        person=f"p{chance.randrange(PEOPLE)}",
    )


# --- HTTP -----------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]


class Client:
    """Posts over one kept-open connection, opened anew when it broke."""

    def __init__(self, port: int, api_key: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: bytes) -> Answer | None:
        """Return the answer; None when the connection broke before it, so that nobody knows what happened."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=REQUEST_SECONDS)
        try:
            self._connection.request("POST", path, body, self._headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return None
        try:
            return Answer(response.status, dict(json.loads(content)))
        except ValueError:
            return Answer(response.status, {"not json": content[:100].decode(errors="replace")})

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
