"""Workers that race each other, senders, voids and readers: every batch is added once, and no read sees it twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from django.db import connections

from accounts.models import Organization
from metering.dialects.native import decode_json
from metering.models import BatchState, IngestBatch
from metering.services.queue import accept_events, drain_queue
from metering.services.rebuild import Difference, list_slices, verify_slice
from metering.services.rollup import RollupBusy
from metering.sql import usage
from metering.tasks import drain_async_events
from tests.metering.meter import Meter, encode_body, utc
from tests.scenarios.racing import race

pytestmark = pytest.mark.django_db(transaction=True)

NOVEMBER = (utc(2026, 11, 1), utc(2026, 12, 1))
# A range whose edges are answered by raw events and minutes, its middle by hours and days.
RAGGED = (utc(2026, 11, 1, 0, 0, 30), utc(2026, 11, 20, 12, 0, 30))
WAIT_SECONDS = 60


@pytest.fixture
def meter(org: Organization, now: datetime) -> Meter:
    meter = Meter(org, now)
    meter.define("m", "sum", dimensions=["shard"])
    meter.define("seats", "count_unique", event_type="m", value_property="seat", dimensions=["shard"])
    return meter


def batch(number: int, size: int) -> list[dict[str, Any]]:
    """Return one batch: every event is worth 1 and names a member of its own; hours, days and shards vary."""
    return [
        {
            "idempotency_key": f"{number}-{place}",
            "customer": f"c{place % 3}",
            "type": "m",
            "value": 1,
            "timestamp": utc(2026, 11, 1 + (number + place) % 20, place % 12, place % 60, number % 60).isoformat(),
            "properties": {"shard": place % 4, "seat": f"{number}-{place}"},
        }
        for place in range(size)
    ]


def roll_up_until(meter: Meter, senders_done: threading.Event) -> int:
    """Roll up as a worker would, until nothing is left to come; return how many batches this worker added."""
    batches = 0
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        was_last_look = senders_done.is_set()
        try:
            batches += meter.roll_up().batches
        except RollupBusy:
            time.sleep(0.005)
            continue
        if was_last_look:
            return batches
        time.sleep(0.005)
    raise TimeoutError("The senders did not come to an end.")


@contextmanager
def workers(meter: Meter, count: int) -> Iterator[list[int]]:
    """Keep so many workers busy; at the end they finish what is pending, and the list holds each one's batches."""
    senders_done = threading.Event()
    counts: list[int] = []

    def work() -> None:
        try:
            counts.append(roll_up_until(meter, senders_done))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        senders_done.set()
        for thread in threads:
            thread.join(WAIT_SECONDS)


def differences(meter: Meter) -> list[Difference]:
    found: list[Difference] = []
    for piece in list_slices(organization=meter.organization):
        verify_slice(organization=meter.organization, span=piece.span, report=found.append)
    return found


def test_four_workers_add_each_batch_once(meter: Meter) -> None:
    with workers(meter, 4) as counts:
        race(
            [lambda first=first: [meter.send_all(*batch(first + n, 50)) for n in range(10)] for first in (0, 100, 200)]
        )

    assert len(counts) == 4
    assert sum(counts) == 30
    states = IngestBatch.objects.for_organization(meter.organization).values_list("state", flat=True)
    assert set(states) == {BatchState.ROLLED}
    assert meter.value("m", *NOVEMBER) == meter.value("seats", *NOVEMBER) == 1500
    assert differences(meter) == []


def test_voids_racing_the_worker_take_back_exactly_what_they_name(meter: Meter) -> None:
    sent = 12 * 40

    def send_and_void(first: int) -> None:
        for number in range(first, first + 4):
            meter.send_all(*batch(number, 40))
            for place in range(0, 40, 4):
                meter.void(f"{number}-{place}")

    with workers(meter, 2):
        race([partial(send_and_void, first) for first in (0, 100, 200)])

    assert meter.value("m", *NOVEMBER) == meter.value("seats", *NOVEMBER) == sent - sent // 4
    assert differences(meter) == []


@dataclass
class Seen:
    """One look of a reader: the events acknowledged before it, what it saw, and the events begun by its end."""

    acknowledged: int
    total: int
    members: int
    begun: int


@dataclass
class Senders:
    """How far the senders are. An event is begun before it is sent and acknowledged after the answer."""

    begun: int = 0
    acknowledged: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, meter: Meter, numbers: range, size: int) -> None:
        for number in numbers:
            with self.lock:
                self.begun += size
            meter.send_all(*batch(number, size))
            with self.lock:
                self.acknowledged += size


def test_a_reader_sees_every_acknowledged_event_once_and_whole_batches(meter: Meter) -> None:
    """At any moment, worker or not, before or behind it: never less than before, never twice, never half a batch."""
    size = 30
    senders = Senders()
    done = threading.Event()
    seen: list[Seen] = []

    def send(first: int) -> None:
        senders.send(meter, range(first, first + 25), size)

    def read() -> None:
        try:
            while not done.is_set():
                acknowledged = senders.acknowledged
                total = int(meter.value("m", *NOVEMBER))
                members = int(meter.value("seats", *NOVEMBER))
                ragged = meter.usage("m", *RAGGED)
                seen.append(Seen(acknowledged, total, members, senders.begun))
                assert ragged.count == ragged.value
        finally:
            connections.close_all()

    reader = threading.Thread(target=read)
    with workers(meter, 2):
        reader.start()
        race([partial(send, 0), partial(send, 1000)])
        done.set()
        reader.join(WAIT_SECONDS)

    assert len(seen) > 1  # it looked while the senders sent, however slow the machine
    for look in seen:
        assert look.acknowledged <= look.total <= look.begun
        assert look.total % size == 0
        assert look.total <= look.members <= look.begun
        assert look.members % size == 0
    assert [look.total for look in seen] == sorted(look.total for look in seen)
    assert meter.value("m", *NOVEMBER) == meter.value("seats", *NOVEMBER) == 50 * size


def test_a_rollup_between_the_statements_of_a_read_moves_nothing(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members come from sets and from raw events, by two statements: in between, the worker must not be seen."""
    meter.send_all(*batch(1, 30))
    list_operations = usage.list_operations
    rollups: list[int] = []

    def list_operations_late(*arguments: Any, **names: Any) -> list[usage.OperationRow]:
        rollups.extend(rolled.batches for rolled in race([meter.roll_up]))
        return list_operations(*arguments, **names)

    monkeypatch.setattr(usage, "list_operations", list_operations_late)

    assert [meter.value("seats", *NOVEMBER) for _ in range(2)] == [30, 30]
    assert meter.breakdown("seats", *NOVEMBER, "shard") == {(str(n),): 8 - (n > 1) for n in range(4)}
    assert rollups[0] == 1


def test_several_drains_of_the_queue_store_each_event_once(meter: Meter) -> None:
    for number in range(20):
        accept_events(
            organization=meter.organization, events=decode_json(encode_body(batch(number, 30))), now=meter.now
        )

    race([drain_async_events] * 4)
    drain_queue(now=meter.now)

    assert meter.value("m", *NOVEMBER) == 600
    with workers(meter, 2):
        pass
    assert meter.value("m", *NOVEMBER) == meter.value("seats", *NOVEMBER) == 600
