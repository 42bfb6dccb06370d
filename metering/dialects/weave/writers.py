"""The writers: threads that store what the connections read, in batches of many connections' records.

Owns when a batch is full, the retries while the database is away, and that one poisonous record does not stop the
others. Does not own what a record means (`services.intake`) nor who is told (`listener`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from django.db import InterfaceError, InternalError, OperationalError, ProgrammingError, connection

from metering.dialects.weave.domain import Arrival, Refused, encode_record
from metering.dialects.weave.models import QuarantineReason
from metering.dialects.weave.services.intake import store_records
from metering.dialects.weave.services.quarantine import keep_refused
from metering.dialects.weave.wire import Unreadable
from metering.dialects.weave.wire.messages import MAX_SHOWN_BYTES
from metering.domain import MAX_BATCH_EVENTS

# A parcel is part of one batch.
MAX_PARCEL_RECORDS = 500
WRITER_COUNT = 2
# How long a batch that is not full waits for more: a commit costs about as much, and the rollup likes fewer batches.
LINGER_SECONDS = 0.008
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
# An error that may be the schema's, in the middle of a migration, or a record's: after so many attempts, about ten
# seconds, it is taken for a record's.
PATIENT_ATTEMPTS = 8
# A value is too large for an index, a row, the protocol: the database is not away.
_LIMIT_EXCEEDED = "54"

logger = structlog.get_logger("meterbook.forward")


class Parcel(msgspec.Struct, eq=False):
    """Records of one connection that are stored together. `delivery` is what their sender waits for, if it does."""

    records: list[Any]
    peer: str
    received_at: datetime
    size: int
    delivery: Any = None


class Writers:
    """`submit` from the loop; the others are called from a writer's thread: `on_stored` after the commit, `on_failed`
    when the writer ends although there is more to store.
    """

    def __init__(
        self,
        *,
        on_stored: Callable[[list[Parcel]], None],
        on_failed: Callable[[], None],
        count: int = WRITER_COUNT,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._on_stored = on_stored
        self._on_failed = on_failed
        self._linger = linger_seconds
        self._parcels: deque[Parcel] = deque()
        self._record_count = 0
        self._changed = threading.Condition()
        self._is_closing = False
        # Set when even what is under way is given up: it was not acknowledged.
        self._gave_up = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"writer-{number}", daemon=True) for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, parcel: Parcel) -> None:
        with self._changed:
            was_empty = not self._record_count
            self._parcels.append(parcel)
            self._record_count += len(parcel.records)
            # Between the first record and the last that fits, a writer waits by the clock.
            if was_empty or self._record_count >= MAX_BATCH_EVENTS:
                self._changed.notify()

    def close(self, *, timeout: float) -> bool:
        """Store what was submitted and end; return whether that was all within the time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._gave_up.set()
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        try:
            while self._wait_for_batch():
                parcels = self._take()
                if parcels and self._store(parcels):
                    self._on_stored(parcels)
        except Exception:
            logger.exception("a writer failed; its records were not acknowledged")
            self._on_failed()
        finally:
            connection.close()

    def _wait_for_batch(self) -> bool:
        """Return when a batch is full or has waited long enough; false when there is nothing more to come."""
        with self._changed:
            while not self._parcels:
                if self._is_closing:
                    return False
                self._changed.wait()
            deadline = time.monotonic() + self._linger
            while 0 < self._record_count < MAX_BATCH_EVENTS and not self._is_closing:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return True

    def _take(self) -> list[Parcel]:
        """Return as much as fits into a batch; nothing where the other writer was faster."""
        parcels: list[Parcel] = []
        room = MAX_BATCH_EVENTS
        with self._changed:
            while self._parcels and (count := len(self._parcels[0].records)) <= room:
                parcels.append(self._parcels.popleft())
                room -= count
            self._record_count -= MAX_BATCH_EVENTS - room
            if self._parcels:
                self._changed.notify()
        return parcels

    # --- storing ----------------------------------------------------------------------------------

    def _store(self, parcels: Sequence[Parcel]) -> bool:
        """Return once the records are stored; false when the listener ended before the database came back."""
        arrivals = [Arrival(record, parcel.peer, parcel.received_at) for parcel in parcels for record in parcel.records]
        return self._store_arrivals(arrivals)

    def _store_arrivals(self, arrivals: Sequence[Arrival], *, patience: int = PATIENT_ATTEMPTS) -> bool:
        """Store them, whatever it takes; `patience` is for errors of which it is unknown whose they are."""
        attempt = 0
        while not self._gave_up.is_set():
            try:
                store_records(arrivals=arrivals, now=datetime.now(UTC))
            except Exception as error:
                if not (is_outage(error) or (is_doubtful(error) and attempt < patience)):
                    # Whatever a record does, its neighbours are stored.
                    return self._store_parts(arrivals, error)
                self._wait_for_database(error, attempt)
                attempt += 1
            else:
                return True
        return False

    def _wait_for_database(self, error: Exception, attempt: int) -> None:
        logger.warning("records wait for the database", error=type(error).__name__, attempt=attempt + 1)
        connection.close()
        self._gave_up.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])

    def _store_parts(self, arrivals: Sequence[Arrival], error: Exception) -> bool:
        """Store the halves of a batch that failed for what is in it; what fails alone is quarantined."""
        connection.close()
        if len(arrivals) > 1:
            middle = len(arrivals) // 2
            return self._store_arrivals(arrivals[:middle], patience=0) and self._store_arrivals(
                arrivals[middle:], patience=0
            )
        logger.error("a record could not be stored", exc_info=error)
        return self._quarantine(arrivals[0], f"Storing it failed: {type(error).__name__}.")

    def _quarantine(self, arrival: Arrival, reason: str) -> bool:
        """Keep a record that could not be stored; of one that cannot be kept either, that there was one."""
        attempt, is_trace = 0, False
        while not self._gave_up.is_set():
            try:
                keep_refused(refused=[Refused(arrival, QuarantineReason.MALFORMED, reason)])
            except Exception as error:
                connection.close()
                if is_outage(error) or is_doubtful(error):
                    self._wait_for_database(error, attempt)
                    attempt += 1
                elif is_trace:
                    raise
                else:
                    logger.exception("a record could not be quarantined")
                    arrival, is_trace = Arrival(_trace_of(arrival.record), arrival.peer, arrival.received_at), True
            else:
                return True
        return False


def is_outage(error: Exception) -> bool:
    """Tell whether the database is away, full, or at its limits: nothing is wrong with the records."""
    if not isinstance(error, (OperationalError, InterfaceError)):
        return False
    return not (getattr(error.__cause__, "sqlstate", None) or "").startswith(_LIMIT_EXCEEDED)


def is_doubtful(error: Exception) -> bool:
    """Tell whether the error may pass, after a migration, or be a record's."""
    return isinstance(error, (InternalError, ProgrammingError))


def _trace_of(record: Any) -> Unreadable:
    """Return what any database takes: the record's beginning as printable ASCII, without fields."""
    return Unreadable("", ascii(encode_record(record))[:MAX_SHOWN_BYTES])
