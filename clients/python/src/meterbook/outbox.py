"""What a buffered client holds: the queue of encoded events, what to send next, and the counts. No thread, no network.

Events leave the queue only when the server has given a verdict on them. Until then every attempt sends the same
bytes with the same keys, so an outage neither loses an event nor counts one twice. Not thread-safe: the buffers
guard it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from meterbook.errors import EventError, MeterbookError, ValidationError
from meterbook.events import Durability, EventLike, IngestResult, as_event_json
from meterbook.spool import Spool
from meterbook.verbs.events import MAX_EVENTS_PER_REQUEST, send_batch
from meterbook.wire import Plan, RetryPolicy, encode_json

OnError: TypeAlias = Callable[[EventError, Mapping[str, Any]], None]


class WhenFull(StrEnum):
    """What `add` does when the buffer holds `max_events`: wait for room, drop the new event, or raise."""

    BLOCK = "block"
    DROP_NEWEST = "drop_newest"
    RAISE = "raise"


@dataclass(frozen=True, slots=True)
class BufferCounters:
    """What became of the events since the buffer was made. `added` is the sum of all others but `dropped`."""

    added: int = 0
    pending: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    dropped: int = 0


class BufferOptions(TypedDict, total=False):
    """The keyword arguments of `buffered`; see `BufferSettings` for their meaning and defaults."""

    flush_interval: float
    batch_size: int
    max_events: int
    when_full: WhenFull | str
    block_seconds: float
    durability: Durability | str | None
    exit_timeout: float
    spool: Path | str | None
    retry: RetryPolicy


@dataclass(frozen=True, slots=True)
class BufferSettings:
    """How a buffer behaves. All times are seconds."""

    # A batch goes when it is full, or when its oldest event has waited so long.
    flush_interval: float = 1.0
    batch_size: int = 1_000
    # The bound on memory: events without a verdict, the batch under way included.
    max_events: int = 100_000
    when_full: WhenFull = WhenFull.BLOCK
    # How long `add` may wait for room, unless it is told otherwise.
    block_seconds: float = 5.0
    durability: Durability | None = None
    # How long the interpreter's exit may be held up to send what is left.
    exit_timeout: float = 5.0
    # A directory in which unsent events survive the process; one process at a time.
    spool: Path | None = None
    # Delays between attempts. Their number has no bound: only `close` gives up.
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(longest_delay=15.0))

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_EVENTS_PER_REQUEST:
            raise ValueError(f"A batch holds 1 to {MAX_EVENTS_PER_REQUEST} events.")
        if self.max_events < self.batch_size:
            raise ValueError("A buffer must have room for one batch.")

    @classmethod
    def of(cls, options: BufferOptions) -> BufferSettings:
        """Read the options as people write them: text for an enumeration or a path."""
        settings: dict[str, Any] = {**options}
        for name, kind in (("when_full", WhenFull), ("durability", Durability), ("spool", Path)):
            if settings.get(name) is not None:
                settings[name] = kind(settings[name])
        return cls(**settings)


def encode_event(event: EventLike) -> bytes:
    """Return the event as it will be sent, every time. Raises `ValueError` for what no server could accept.

    An event without a time gets the present one: it may be sent much later, and then arrival would be wrong.
    """
    body = as_event_json(event)
    body.setdefault("timestamp", datetime.now(UTC).isoformat())
    return encode_json(body)


def attempt(batch: Sequence[bytes], durability: Durability | None) -> Plan[IngestResult | None]:
    """Send a batch once. Returns the verdicts; None when the request as a whole was refused and must be smaller.

    Raises other errors for what may pass with time: no connection, 5xx, 429, and a key that is refused.
    """
    try:
        return (yield from send_batch(b"[" + b",".join(batch) + b"]", durability=durability))
    except ValidationError as error:
        if error.result is not None:
            return error.result
        if len(batch) > 1:
            return None
        refusal = EventError(0, json.loads(batch[0])["idempotency_key"], error.code, None, error.message)
        return IngestResult(rejected=1, errors=(refusal,))


def list_refused(batch: Sequence[bytes], result: IngestResult | None) -> list[tuple[EventError, Mapping[str, Any]]]:
    """Return the refused events of a batch with their errors."""
    errors = () if result is None else result.errors
    return [(error, json.loads(batch[error.index])) for error in errors]


class Outbox:
    def __init__(self, settings: BufferSettings, *, now: float) -> None:
        self.settings = settings
        self.last_failure: Exception | None = None
        self._spool = None if settings.spool is None else Spool(settings.spool)
        self._queue: deque[bytes] = deque(self._spool.recover() if self._spool else ())
        self._counters = BufferCounters(added=len(self._queue))
        self._settled = 0
        self._limit = settings.batch_size
        self._waiting_since = now
        self._failures = 0

    # --- the side that adds ---

    @property
    def is_full(self) -> bool:
        return len(self._queue) >= self.settings.max_events

    def put(self, event: bytes, *, now: float) -> None:
        """Queue one event, on disk first. Raises `OSError` when the spool cannot take it."""
        if self._spool is not None:
            self._spool.append(event)
        if not self._queue:
            self._waiting_since = now
        self._queue.append(event)
        self._counters = replace(self._counters, added=self._counters.added + 1)

    def count_dropped(self) -> None:
        self._counters = replace(self._counters, dropped=self._counters.dropped + 1)

    # --- the side that sends ---

    def seconds_until_due(self, *, now: float) -> float | None:
        """Return how long to wait before the next batch should go; None when there is nothing to send."""
        if not self._queue:
            return None
        if len(self._queue) >= self.settings.batch_size:
            return 0.0
        return max(0.0, self._waiting_since + self.settings.flush_interval - now)

    def next_batch(self) -> list[bytes]:
        """Return the oldest events, which stay in the queue until they are settled."""
        return list(islice(self._queue, self._limit))

    def settle(self, batch: Sequence[bytes], result: IngestResult | None, *, now: float) -> None:
        """Take the verdicts on the batch that was sent (None: it must be cut), and let go of its events."""
        self.last_failure, self._failures, self._waiting_since = None, 0, now
        if result is None:
            self._limit = max(1, len(batch) // 2)
            return
        self._limit = self.settings.batch_size
        for _ in batch:
            self._queue.popleft()
        if self._spool is not None:
            self._spool.acknowledge(len(batch))
        self._settled += len(batch)
        counters = self._counters
        self._counters = replace(
            counters,
            # What was accepted asynchronously has no verdict yet, and is durable.
            stored=counters.stored + result.stored + result.accepted,
            duplicates=counters.duplicates + result.duplicates,
            rejected=counters.rejected + result.rejected,
        )

    def fail(self, failure: Exception) -> float:
        """Note that an attempt failed; return the seconds to wait before the next."""
        self.last_failure = failure
        backoff = self.settings.retry.backoff(self._failures)
        self._failures += 1
        asked = failure.retry_after if isinstance(failure, MeterbookError) else None
        return max(backoff, min(asked or 0.0, self.settings.retry.longest_retry_after))

    # --- accounts ---

    @property
    def added_count(self) -> int:
        return self._counters.added

    @property
    def settled_count(self) -> int:
        return self._settled

    @property
    def counters(self) -> BufferCounters:
        return replace(self._counters, pending=len(self._queue))

    def sizes(self) -> list[int]:
        """Return the bytes of each event without a verdict."""
        return [len(event) for event in self._queue]

    def unsent(self) -> list[dict[str, Any]]:
        """Return the events without a verdict, as they would be sent."""
        return [json.loads(event) for event in self._queue.copy()]

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
