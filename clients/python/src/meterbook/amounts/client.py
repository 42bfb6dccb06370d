"""`AmountsClient`: `add_amounts` returns at once, a background thread sends until the server acknowledges."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Self

from meterbook.amounts.config import AmountsConfig
from meterbook.amounts.connection import ForwardConnection, ForwardError
from meterbook.amounts.records import AmountsEvent, encode_event
from meterbook.amounts.telemetry import Outcome, telemetry
from meterbook.errors import BufferFullError, StoppingError

logger = logging.getLogger(__name__)

DEFAULT_CLOSE_SECONDS = 10.0
# Messages that wait for acknowledgements together. Those of so many fit the socket's buffers while nobody reads.
MESSAGES_PER_BATCH = 1_000


class AmountsClient:
    """Sends usage amounts to a forward listener over one connection that it keeps.

    Guarantees: what `add_amounts` has taken is sent, always with the same bytes, until it is acknowledged, which the
    listener does after storing it; the unique key keeps repetitions from counting twice. `add_amounts` never waits,
    and memory is bounded by `max_buffered_events`. `close` must be called to be sure of the last events; at the
    interpreter's exit it is, with `exit_timeout` seconds. Safe to share among threads. After a fork the child begins
    with an empty buffer and a connection of its own, since the parent sends what was in it.
    """

    def __init__(self, config: AmountsConfig | None = None) -> None:
        self._config = config or AmountsConfig()
        self._start_afresh()
        atexit.register(self._close_at_exit)
        _live_clients.add(self)

    def _start_afresh(self) -> None:
        self._changed = threading.Condition()
        # Oldest first; an event leaves when all of its messages are acknowledged.
        self._waiting: deque[AmountsEvent] = deque()
        self._thread: threading.Thread | None = None
        self._connection: ForwardConnection | None = None
        self._is_closed = False
        self._is_stopped = False
        self._added_count = 0
        self._settled_count = 0
        self.last_failure: Exception | None = None

    @property
    def unacknowledged_count(self) -> int:
        """How many events the server has not acknowledged yet."""
        return len(self._waiting)

    def add_amounts(
        self,
        unique_key: str,
        internal_instance_id: str,
        timestamp: datetime,
        amounts: Mapping[str, int],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Have the amounts counted once for the instance, in the hour of `timestamp`, however often the call is made.

        The same `unique_key` may be used again until the call succeeds; hashes of the raw input are not good keys,
        for equal inputs would count once. Zero amounts are not sent. `metadata` is kept with each amount: refer to
        large things instead of including them.

        Raises `ValueError` for a blank key and for what no server could count, `StoppingError` after `close`, and
        `BufferFullError` when `max_buffered_events` wait; none of it was taken then.
        """
        started, status_code = time.perf_counter(), "500"
        try:
            if not unique_key.strip():
                raise ValueError("The unique key of the amounts must not be blank.")
            event = encode_event(
                unique_key=unique_key,
                internal_instance_id=internal_instance_id,
                timestamp=timestamp,
                amounts=amounts,
                metadata=metadata,
            )
            self._enqueue(event)
            status_code = "200"
        finally:
            telemetry.time(status_code, time.perf_counter() - started)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until what was added so far is acknowledged; return whether it is."""
        with self._changed:
            target = self._added_count
            self._changed.wait_for(lambda: self._is_stopped or self._settled_count >= target, timeout)
            return self._settled_count >= target

    def close(self, timeout: float | None = DEFAULT_CLOSE_SECONDS) -> bool:
        """Take no more events, send what is left for at most `timeout` seconds; return whether all is acknowledged.

        What is not may have been stored nevertheless: adding it again with the same keys is safe.
        """
        with self._changed:
            self._is_closed = True
        self.flush(timeout)
        with self._changed:
            self._is_stopped = True
            left, self._waiting = self._waiting, deque()
            self._changed.notify_all()
            connection = self._connection  # once: the thread may drop it meanwhile
        if connection is not None:
            connection.abort()
        for event in left:
            telemetry.count(Outcome.STOPPING, event.amounts)
        if left:
            logger.warning("The client was closed with %d events unacknowledged.", len(left))
        atexit.unregister(self._close_at_exit)
        return not left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enqueue(self, event: AmountsEvent) -> None:
        with self._changed:
            if self._is_closed:
                telemetry.count(Outcome.STOPPING, event.amounts)
                raise StoppingError(f"The client is stopping; the event {event.unique_key!r} is discarded.")
            if not event.messages:
                telemetry.count(Outcome.SUCCESS, event.amounts)
                return
            limit = self._config.max_buffered_events
            if len(self._waiting) >= limit:
                telemetry.count(Outcome.BUFFER_FULL, event.amounts)
                raise BufferFullError(f"{limit} events wait already; the event {event.unique_key!r} is discarded.")
            self._waiting.append(event)
            self._added_count += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_until_stopped, name="meterbook-amounts", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    # --- the thread ---

    def _send_until_stopped(self) -> None:
        while batch := self._wait_for_batch():
            unacknowledged = {chunk: message for event in batch for chunk, message in event.messages.items()}
            while unacknowledged and not self._is_stopped:
                try:
                    self._connect().deliver(unacknowledged)
                except Exception as failure:  # whatever it is, the events must outlive it
                    self._wait_after(failure, [event for event in batch if event.messages.keys() & unacknowledged])
            self._settle(batch)
        self._disconnect()

    def _wait_for_batch(self) -> list[AmountsEvent]:
        """Return the oldest events, which stay in the buffer until they are settled; none when the client stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._waiting)
            batch: list[AmountsEvent] = []
            message_count = 0
            for event in () if self._is_stopped else self._waiting:
                if batch and message_count + len(event.messages) > MESSAGES_PER_BATCH:
                    break
                batch.append(event)
                message_count += len(event.messages)
            return batch

    def _connect(self) -> ForwardConnection:
        if self._connection is not None and self._connection.is_alive():
            return self._connection
        self._disconnect()
        connection = ForwardConnection(self._config.address(), timeout=self._config.ack_timeout)
        with self._changed:
            self._connection = connection
            if self._is_stopped:  # `close` came while there was nothing to abort
                raise ForwardError("The client is closed.")
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _settle(self, batch: list[AmountsEvent]) -> None:
        with self._changed:
            if self._is_stopped:
                return  # too late: `close` has told the caller
            for event in batch:
                self._waiting.popleft()
                telemetry.count(Outcome.SUCCESS, event.amounts)
            self._settled_count += len(batch)
            self.last_failure = None
            self._changed.notify_all()

    def _wait_after(self, failure: Exception, events: list[AmountsEvent]) -> None:
        self._disconnect()
        with self._changed:
            if self._is_stopped:
                return
            self.last_failure = failure
            for event in events:
                telemetry.count(Outcome.RETRYING, event.amounts)
            is_foreseen = isinstance(failure, OSError | ForwardError)
            logger.warning(
                "%d events could not be delivered (%s); trying again in %g s.",
                len(events),
                failure,
                self._config.retry_delay,
                exc_info=None if is_foreseen else failure,
            )
            self._changed.wait_for(lambda: self._is_stopped, self._config.retry_delay)

    # --- the ends of a process ---

    def _close_at_exit(self) -> None:
        self.close(self._config.exit_timeout)

    def _restart_in_child(self) -> None:
        """Make the client usable in a forked child, where its thread does not run and its lock may be held."""
        connection, is_closed = self._connection, self._is_closed
        self._start_afresh()
        self._is_closed = self._is_stopped = is_closed
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()  # this process's copy; the parent's stays open


_live_clients: weakref.WeakSet[AmountsClient] = weakref.WeakSet()


def _restart_clients_in_child() -> None:
    telemetry.renew_lock()
    for client in list(_live_clients):
        client._restart_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_restart_clients_in_child)
