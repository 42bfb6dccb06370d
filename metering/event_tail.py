"""The live tail: new events of an organization handed to whoever listens, moments after their commit.

One poller per organization with listeners, however many they are. Owns what is new and who gets it; does not own
the wire (`config.streams`), nor anything that is counted. A tail is for watching: it tells when it skips events or
gives up on a slow reader, and whoever needs every event lists them.

Batch ids come from a sequence, so a batch may become visible after one with a greater id. The floor, below which
nothing is looked for any more, therefore rises only past batches older than every transaction still open.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection

from common.numbers import exact_text
from metering.models import Operation
from metering.sql import tail_events
from metering.sql.tail_events import Look
from metering.sql.tail_events import TailEvent as TailEvent  # what a filter looks at: those of other apps too

POLL_SECONDS = 0.5
RECONNECT_SECONDS = 2.0
# A listener waits at most this long for the first look at what was there before.
FIRST_LOOK_SECONDS = 5.0
# What one poll hands on at most, per organization; a person cannot read more, and the rest is told as a number.
MAX_EVENTS_PER_POLL = 1_000
# What a new listener can catch up on.
MAX_EVENTS_TO_RESUME = 1_000
# What may wait for a reader before it is given up.
MAX_WAITING_BYTES = 2 * 2**20
# A transaction takes its batch id moments before it shows up among the open ones.
SETTLE_SECONDS = 2.0
# At the start: ids just below the latest may belong to transactions that have yet to commit.
START_MARGIN = 1_000

logger = structlog.get_logger("meterbook.tail")


class Delivery(NamedTuple):
    """The matching events of one poll as JSON with their offsets, and how many events nobody looked at."""

    events: list[tuple[int, bytes]]
    skipped_count: int

    @property
    def size(self) -> int:
        return sum(len(body) for _, body in self.events)


@dataclass(frozen=True, slots=True)
class TailFilter:
    """Which events a listener gets; empty sets: all. `customer_id` is a key's binding, the rest what it asked for."""

    customer_id: int | None = None
    metric_codes: frozenset[str] = frozenset()
    wanted_customers: frozenset[str] = frozenset()
    wanted_metrics: frozenset[str] = frozenset()
    wanted_types: frozenset[str] = frozenset()

    def matches(self, event: TailEvent) -> bool:
        return (
            (self.customer_id is None or event.customer_id == self.customer_id)
            and (not self.metric_codes or not self.metric_codes.isdisjoint(event.metric_codes))
            and (not self.wanted_customers or event.customer in self.wanted_customers)
            and (not self.wanted_metrics or not self.wanted_metrics.isdisjoint(event.metric_codes))
            and (not self.wanted_types or event.event_type in self.wanted_types)
        )


@dataclass(eq=False, slots=True)
class Listener:
    """One reader. `is_lagging` means that it did not keep up and gets nothing more."""

    filter: TailFilter
    is_lagging: bool = False
    _deliveries: "asyncio.Queue[Delivery]" = field(default_factory=asyncio.Queue)
    _waiting_bytes: int = 0

    async def next_delivery(self) -> Delivery:
        delivery = await self._deliveries.get()
        self._waiting_bytes -= delivery.size
        return delivery

    def offer(self, events: list[tuple[TailEvent, bytes]], skipped_count: int) -> None:
        matching = [(event.offset, body) for event, body in events if self.filter.matches(event)]
        if not (matching or skipped_count) or self.is_lagging:
            return
        # One delivery is taken however large it is: a reader that keeps up has nothing waiting.
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self.is_lagging = True
            return
        delivery = Delivery(matching, skipped_count)
        self._waiting_bytes += delivery.size
        self._deliveries.put_nowait(delivery)


@dataclass(slots=True)
class BatchWatch:
    """Which batches of one organization are new, whatever the order in which they commit."""

    floor: int
    known: set[int]
    # (when, greatest id seen, the transaction id that nobody had then), oldest first.
    observations: deque[tuple[float, int, int]] = field(default_factory=deque)

    def take_new(self, look: Look, *, now: float) -> list[tuple[int, int]]:
        """Return (id, event count) of the batches not seen before, oldest first, and let the floor rise."""
        new = [pair for pair in zip(look.batch_ids, look.event_counts, strict=True) if pair[0] not in self.known]
        self.known.update(batch_id for batch_id, _ in new)
        if look.batch_ids:
            self.observations.append((now, look.batch_ids[-1], look.next_transaction))
        self._raise_floor(look.oldest_open, now)
        return new

    def _raise_floor(self, oldest_open: int, now: float) -> None:
        """Forget ids that no open transaction can still fill: all that were running when we saw them have ended."""
        raised = self.floor
        while self.observations:
            seen_at, greatest_id, next_transaction = self.observations[0]
            if now - seen_at < SETTLE_SECONDS or next_transaction > oldest_open:
                break
            raised = max(raised, greatest_id)
            self.observations.popleft()
        if raised > self.floor:
            self.floor = raised
            self.known = {batch_id for batch_id in self.known if batch_id > raised}


class EventTail:
    """All listeners of this process. Create it inside the event loop that serves them."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._listeners: dict[int, set[Listener]] = {}
        self._pollers: dict[int, asyncio.Task[None]] = {}
        # Set once a poller knows what was there before it: from then on nothing new escapes it.
        self._watching: dict[int, asyncio.Event] = {}

    @property
    def listener_count(self) -> int:
        return sum(len(listeners) for listeners in self._listeners.values())

    @asynccontextmanager
    async def listen(self, organization_id: int, wanted: TailFilter) -> AsyncIterator[Listener]:
        """Hand the listener what is stored from the moment the context is entered until it is left.

        While the database is away the context is entered all the same, and what is new counts from its return.
        """
        listener = Listener(wanted)
        self._listeners.setdefault(organization_id, set()).add(listener)
        if organization_id not in self._pollers:
            self._watching[organization_id] = asyncio.Event()
            self._pollers[organization_id] = asyncio.create_task(self._poll_for_ever(organization_id))
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._watching[organization_id].wait(), FIRST_LOOK_SECONDS)
            yield listener
        finally:
            self._listeners[organization_id].discard(listener)
            if not self._listeners[organization_id]:
                del self._listeners[organization_id]
                self._pollers.pop(organization_id).cancel()

    async def catch_up(self, organization_id: int, offset: int, wanted: TailFilter) -> Delivery:
        """Return what came after an offset; more than a tail holds is counted as one skipped event or more."""
        async with await self._connect() as connection:
            events = await tail_events.list_events_after(
                connection, organization_id=organization_id, offset=offset, limit=MAX_EVENTS_TO_RESUME + 1
            )
        skipped_count = max(0, len(events) - MAX_EVENTS_TO_RESUME)
        kept = events[:MAX_EVENTS_TO_RESUME]
        return Delivery([(event.offset, event_json(event)) for event in kept if wanted.matches(event)], skipped_count)

    async def close(self) -> None:
        for poller in self._pollers.values():
            poller.cancel()
        await asyncio.gather(*self._pollers.values(), return_exceptions=True)

    async def _poll_for_ever(self, organization_id: int) -> None:
        """Poll until cancelled; a database that is away is asked again, from where the tail was."""
        watch: BatchWatch | None = None
        while True:
            with suppress(psycopg.Error):
                async with await self._connect() as connection:
                    watch = watch or await _start_watch(connection, organization_id)
                    self._watching[organization_id].set()
                    while True:
                        await self._poll(connection, organization_id, watch)
                        await asyncio.sleep(POLL_SECONDS)
            logger.warning("the tail lost the database and asks again", organization=organization_id)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _poll(self, connection: AsyncConnection[Any], organization_id: int, watch: BatchWatch) -> None:
        look = await tail_events.look_at_batches(connection, organization_id=organization_id, floor=watch.floor)
        new = watch.take_new(look, now=asyncio.get_running_loop().time())
        if not new:
            return
        events = await tail_events.list_events_of_batches(
            connection,
            organization_id=organization_id,
            batch_ids=_newest(new, MAX_EVENTS_PER_POLL),
            limit=MAX_EVENTS_PER_POLL,
        )
        skipped_count = max(0, sum(count for _, count in new) - len(events))
        encoded = [(event, event_json(event)) for event in events]  # once, however many listen
        for listener in self._listeners.get(organization_id, ()):
            listener.offer(encoded, skipped_count)

    async def _connect(self) -> AsyncConnection[Any]:
        return await AsyncConnection.connect(self._database_url, autocommit=True, connect_timeout=10)


async def _start_watch(connection: AsyncConnection[Any], organization_id: int) -> BatchWatch:
    """Return a watch to which everything committed by now is known."""
    latest = await tail_events.find_latest_batch(connection, organization_id=organization_id)
    floor = max(0, latest - START_MARGIN)
    look = await tail_events.look_at_batches(connection, organization_id=organization_id, floor=floor)
    return BatchWatch(floor=floor, known=set(look.batch_ids))


def _newest(batches: list[tuple[int, int]], event_budget: int) -> list[int]:
    """Return the ids of the newest batches that together hold at least the budget of events."""
    chosen: list[int] = []
    for batch_id, event_count in reversed(batches):
        if event_budget <= 0:
            break
        chosen.append(batch_id)
        event_budget -= event_count
    return chosen


def event_json(event: TailEvent) -> bytes:
    """Return the event as the events list shows it."""
    value = event.member if event.value is None else exact_text(event.value)
    return msgspec.json.encode(
        {
            "idempotency_key": event.idempotency_key,
            "customer": event.customer,
            "type": event.event_type,
            "value": value,
            "timestamp": event.occurred_at,
            "received_at": event.received_at,
            "operation": Operation(event.operation).name.lower(),
            "properties": event.properties or {},
            "metrics": event.metric_codes,
            "offset": str(event.offset),
        }
    )
