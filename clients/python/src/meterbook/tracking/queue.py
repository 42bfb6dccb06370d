"""What the recorder's thread holds: encoded requests in the order of arrival, in memory and, if wanted, on disk.

The spool's directory is shared by all processes of a program: each takes the first free numbered place in it, and
sends what a process that is gone has left in another.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from meterbook.errors import EventError, ValidationError
from meterbook.events import IngestResult
from meterbook.outbox import BufferCounters, BufferSettings, Outbox
from meterbook.spool import Spool
from meterbook.tracking.options import Tracking
from meterbook.verbs.requests import send_requests
from meterbook.wire import Plan

logger = logging.getLogger(__name__)

# More processes than share one machine's directory.
MAX_PLACES = 1000
# The recorder has bounds of its own.
UNBOUNDED = 1 << 62


def attempt(batch: Sequence[bytes], *, is_compressed: bool) -> Plan[IngestResult | None]:
    """Send a batch once. Returns the verdicts; None when the call as a whole was refused and must be smaller.

    Raises other errors for what may pass with time: no connection, 5xx, 429, and a key that is refused.
    """
    try:
        return (yield from send_requests(b"[" + b",".join(batch) + b"]", is_compressed=is_compressed))
    except ValidationError as error:
        if error.result is not None:
            return error.result
        if len(batch) > 1:
            return None
        refusal = EventError(0, json.loads(batch[0])["request_id"], error.code, None, error.message)
        return IngestResult(rejected=1, errors=(refusal,))


class RequestQueue:
    """For one thread that sends, and one that puts. Without a usable directory, requests wait in memory alone."""

    def __init__(self, tracking: Tracking, *, now: float) -> None:
        # Held while files are written and deleted, never while something is sent.
        self._lock = threading.Lock()
        self._directory = tracking.database_path
        self._outbox = self._open(_settings(tracking), now)
        self._places_left: Iterator[Path] = iter(() if self._directory is None else _places(self._directory))
        # The sizes of what an earlier process left in this one's place.
        self.recovered_sizes = self._outbox.sizes()

    def _open(self, settings: BufferSettings, now: float) -> Outbox:
        if self._directory is not None:
            try:
                return self._open_place(self._directory, settings, now)
            except (OSError, ImportError) as failure:  # there are no such locks on Windows
                logger.error("Requests wait in memory alone: %s cannot be used (%s).", self._directory, failure)
                self._directory = None
        return Outbox(settings, now=now)

    def _open_place(self, directory: Path, settings: BufferSettings, now: float) -> Outbox:
        for number in range(MAX_PLACES):
            with contextlib.suppress(BlockingIOError):  # another process has it
                return Outbox(replace(settings, spool=directory / f"{number:03d}"), now=now)
        raise BlockingIOError("all places are taken")

    @property
    def is_on_disk(self) -> bool:
        return self._directory is not None

    @property
    def count(self) -> int:
        return self.counters.pending

    @property
    def counters(self) -> BufferCounters:
        with self._lock:
            return self._outbox.counters

    def adjust(self, tracking: Tracking) -> None:
        """Go by these settings from now on."""
        self._outbox.settings = _settings(tracking, self._outbox.settings.spool)

    def put(self, encoded: bytes, *, now: float) -> None:
        """Queue one request, on disk first. Raises `OSError` when the disk cannot take it."""
        with self._lock:
            self._outbox.put(encoded, now=now)

    def seconds_until_due(self, *, now: float) -> float | None:
        with self._lock:
            return self._outbox.seconds_until_due(now=now)

    def next_batch(self) -> list[bytes]:
        with self._lock:
            return self._outbox.next_batch()

    def settle(self, batch: Sequence[bytes], result: IngestResult | None, *, now: float) -> Sequence[bytes]:
        """Take the verdicts on a batch; return what of it has left the queue: all, or nothing when it must be cut."""
        with self._lock:
            self._outbox.settle(batch, result, now=now)
        return () if result is None else batch

    def fail(self, failure: Exception) -> float:
        return self._outbox.fail(failure)

    def adopt(self, *, now: float) -> list[int]:
        """Take over what a process that is gone left in the next place that has something; return the sizes."""
        for place in self._places_left:
            sizes: list[int] = []
            with contextlib.suppress(OSError):  # it is in use; or this one's disk is full, and the rest stays there
                abandoned = Spool(place)
                try:
                    for request in abandoned.recover():
                        self.put(request, now=now)
                        sizes.append(len(request))
                    abandoned.acknowledge(len(sizes))
                finally:
                    abandoned.close()
            if sizes:
                return sizes
        return []

    def close(self) -> None:
        self._outbox.close()


def _settings(tracking: Tracking, spool: Path | None = None) -> BufferSettings:
    return BufferSettings(
        flush_interval=tracking.flush_interval_ms / 1000,
        batch_size=tracking.batch_size,
        max_events=UNBOUNDED,
        retry=tracking.retry,
        spool=spool,
    )


def _places(directory: Path) -> Iterator[Path]:
    return (place for place in sorted(directory.glob("[0-9][0-9][0-9]")) if any(place.glob("*.ndjson")))
