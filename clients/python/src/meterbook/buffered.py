"""Buffered ingest: `add` returns at once, the events are sent in batches behind the caller's back.

`BufferedIngest` uses a background thread, `AsyncBufferedIngest` a task. Both wait out an outage of the server with
the events in memory (and on disk, with a spool), and both must be closed to be sure of the last events.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from meterbook.errors import BufferFullError, EventError, MeterbookError
from meterbook.events import EventLike, IngestResult
from meterbook.outbox import (
    BufferCounters,
    BufferSettings,
    OnError,
    Outbox,
    WhenFull,
    attempt,
    encode_event,
    list_refused,
)
from meterbook.transport import AsyncTransport, SyncTransport
from meterbook.wire import NO_RETRY

logger = logging.getLogger(__name__)

# Long enough for one slow request; whoever needs certainty passes None.
DEFAULT_CLOSE_SECONDS = 30.0


class _Buffer:
    """What both buffers show of their outbox, and how they tell of refused events."""

    def __init__(self, settings: BufferSettings, on_error: OnError | None) -> None:
        self._settings = settings
        self._on_error = on_error
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._outbox = Outbox(self._settings, now=time.monotonic())
        # Everything up to this many settled events must go now, whether or not a batch is full.
        self._flush_target = 0
        self._is_closed = False
        self._is_stopped = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def counters(self) -> BufferCounters:
        return self._outbox.counters

    @property
    def last_failure(self) -> Exception | None:
        """Why the latest attempt failed; None while all is well."""
        return self._outbox.last_failure

    def unsent(self) -> list[dict[str, Any]]:
        """Return the events that have no verdict yet, as they would be sent."""
        return self._outbox.unsent()

    def _seconds_until_due(self) -> float | None:
        seconds = self._outbox.seconds_until_due(now=time.monotonic())
        return 0.0 if seconds is not None and self._outbox.settled_count < self._flush_target else seconds

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("The buffer is closed.")

    def _pause_after(self, failure: Exception) -> float:
        """Note and log why an attempt failed; return the seconds to wait before the next."""
        seconds = self._outbox.fail(failure)
        is_foreseen = isinstance(failure, MeterbookError)
        logger.warning(
            "Events could not be sent (%s); trying again in %.1f s.",
            failure,
            seconds,
            exc_info=None if is_foreseen else failure,
        )
        return seconds

    def _report(self, refused: Sequence[tuple[EventError, Mapping[str, Any]]]) -> None:
        for error, event in refused:
            logger.warning("Event %s was rejected: %s %s", error.idempotency_key, error.code, error.message)
            if self._on_error is None:
                continue
            try:
                self._on_error(error, event)
            except Exception:  # the caller's code; its bug must not stop the sending of other events
                logger.exception("The callback for rejected events failed.")


class BufferedIngest(_Buffer):
    """A bounded buffer in front of `ingest`, drained by a daemon thread that starts with the first event.

    Guarantees: an event whose `add` returned True is sent until the server gives a verdict, always with the same
    key; `add` waits at most as long as asked; memory is bounded by `max_events`. Every failure is waited out, a
    refused API key too: that can be mended, lost events cannot. At the interpreter's exit the buffer is closed with
    `exit_timeout` seconds to flush; a killed process loses what it had not sent, unless there is a spool. Safe to
    share among threads. After a fork the child begins with an empty buffer, since the parent sends what was in it;
    a child cannot use a spool of its parent and needs a buffer of its own.
    """

    def __init__(self, transport: SyncTransport, settings: BufferSettings, on_error: OnError | None = None) -> None:
        self._transport = transport
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        super().__init__(settings, on_error)
        if self._outbox.added_count:
            self._ensure_thread()  # the spool holds events of an earlier process
        atexit.register(self._close_at_exit)
        _live_buffers.add(self)

    def add(self, event: EventLike, *, timeout: float | None = None) -> bool:
        """Queue one event and return True; False when it was dropped because the buffer is full (`drop_newest`).

        An event without a timestamp gets the present time. Raises `ValueError` for an event that no server could
        accept, and `BufferFullError` when there is no room: at once (`raise`) or after `timeout` seconds (`block`;
        by default the buffer's `block_seconds`).
        """
        encoded = encode_event(event)
        with self._changed:
            self._refuse_if_closed()
            if self._outbox.is_full and not self._has_found_room(timeout):
                self._outbox.count_dropped()
                return False
            self._outbox.put(encoded, now=time.monotonic())
            self._ensure_thread()
            self._changed.notify_all()
        return True

    def flush(self, timeout: float | None = None) -> bool:
        """Send what was added so far without waiting for more; return whether all of it has a verdict."""
        with self._changed:
            target = self._flush_target = self._outbox.added_count
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_stopped or self._outbox.settled_count >= target, timeout)
            return self._outbox.settled_count >= target

    def close(self, timeout: float | None = DEFAULT_CLOSE_SECONDS) -> bool:
        """Take no more events, flush, and end the thread; return whether every event has a verdict.

        What is left after the timeout stays in the spool, if there is one, and can be read with `unsent`.
        """
        with self._changed:
            self._is_closed = True
        is_all_settled = self.flush(timeout)
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            self._outbox.close()
        atexit.unregister(self._close_at_exit)
        if not is_all_settled:
            logger.warning("The buffer was closed with %d events unsent.", self.counters.pending)
        return is_all_settled

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- waiting for room, with the lock held ---

    def _has_found_room(self, timeout: float | None) -> bool:
        if self._settings.when_full is WhenFull.DROP_NEWEST:
            return False
        if self._settings.when_full is WhenFull.BLOCK:
            seconds = self._settings.block_seconds if timeout is None else timeout
            if self._changed.wait_for(lambda: self._is_closed or not self._outbox.is_full, seconds):
                self._refuse_if_closed()
                return True
        raise BufferFullError(f"The buffer holds {self._settings.max_events} events without a verdict.")

    # --- the thread ---

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._send_until_stopped, name="meterbook-buffer", daemon=True)
            self._thread.start()

    def _send_until_stopped(self) -> None:
        while batch := self._wait_for_batch():
            try:
                result = self._transport.run(attempt(batch, self._settings.durability), retry=NO_RETRY)
                self._settle(batch, result)
            except Exception as failure:  # whatever it is, the events must outlive it
                self._wait_after(failure)

    def _wait_for_batch(self) -> list[bytes]:
        """Return the next batch when it is due; an empty one when the buffer is closed."""
        with self._changed:
            while not self._is_stopped:
                seconds = self._seconds_until_due()
                if seconds == 0:
                    return self._outbox.next_batch()
                self._changed.wait(seconds)
        return []

    def _settle(self, batch: Sequence[bytes], result: IngestResult | None) -> None:
        self._report(list_refused(batch, result))  # first, so that nobody's `flush` returns before the callbacks
        with self._changed:
            if self._is_stopped:
                return  # too late: `close` has told the caller, and the spool may have a new owner
            self._outbox.settle(batch, result, now=time.monotonic())
            self._changed.notify_all()

    def _wait_after(self, failure: Exception) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped, self._pause_after(failure))

    # --- the ends of a process ---

    def _close_at_exit(self) -> None:
        self.close(self._settings.exit_timeout)

    def _restart_in_child(self) -> None:
        """Make the buffer usable in a forked child, where its thread does not run and its lock may be held."""
        had_spool = self._settings.spool is not None
        self._changed, self._thread = threading.Condition(), None
        if had_spool:
            self._outbox.close()
            self._is_closed = self._is_stopped = True
        else:
            self._start_afresh()


_live_buffers: weakref.WeakSet[BufferedIngest] = weakref.WeakSet()


def _restart_buffers_in_child() -> None:
    for buffer in list(_live_buffers):
        buffer._restart_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_restart_buffers_in_child)


class AsyncBufferedIngest(_Buffer):
    """`BufferedIngest` for asyncio: a task instead of a thread, which starts with the first event.

    Use it as an async context manager, or `close` it: there is no flush at exit, when the event loop is gone.
    """

    def __init__(self, transport: AsyncTransport, settings: BufferSettings, on_error: OnError | None = None) -> None:
        self._transport = transport
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        super().__init__(settings, on_error)

    async def add(self, event: EventLike, *, timeout: float | None = None) -> bool:
        """Queue one event; see `BufferedIngest.add`."""
        encoded = encode_event(event)
        async with self._changed:
            self._refuse_if_closed()
            if self._outbox.is_full and not await self._has_found_room(timeout):
                self._outbox.count_dropped()
                return False
            self._outbox.put(encoded, now=time.monotonic())
            self._ensure_task()
            self._changed.notify_all()
        return True

    async def flush(self, timeout: float | None = None) -> bool:
        """Send what was added so far without waiting for more; return whether all of it has a verdict."""
        async with self._changed:
            target = self._flush_target = self._outbox.added_count
            if self._outbox.settled_count < target:
                self._ensure_task()
            self._changed.notify_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(lambda: self._is_stopped or self._outbox.settled_count >= target)
            return self._outbox.settled_count >= target

    async def close(self, timeout: float | None = DEFAULT_CLOSE_SECONDS) -> bool:
        """Take no more events, flush, and end the task; return whether every event has a verdict."""
        self._is_closed = True
        is_all_settled = await self.flush(timeout)
        self._is_stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._outbox.close()
        if not is_all_settled:
            logger.warning("The buffer was closed with %d events unsent.", self.counters.pending)
        return is_all_settled

    async def __aenter__(self) -> Self:
        if self._outbox.added_count:
            self._ensure_task()  # the spool holds events of an earlier process
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _has_found_room(self, timeout: float | None) -> bool:
        if self._settings.when_full is WhenFull.DROP_NEWEST:
            return False
        if self._settings.when_full is WhenFull.BLOCK:
            try:
                async with asyncio.timeout(self._settings.block_seconds if timeout is None else timeout):
                    await self._changed.wait_for(lambda: self._is_closed or not self._outbox.is_full)
            except TimeoutError:
                pass
            else:
                self._refuse_if_closed()
                return True
        raise BufferFullError(f"The buffer holds {self._settings.max_events} events without a verdict.")

    def _ensure_task(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send_until_cancelled(), name="meterbook-buffer")

    async def _send_until_cancelled(self) -> None:
        while True:
            batch = await self._wait_for_batch()
            try:
                result = await self._transport.run(attempt(batch, self._settings.durability), retry=NO_RETRY)
                self._report(list_refused(batch, result))
                async with self._changed:
                    self._outbox.settle(batch, result, now=time.monotonic())
                    self._changed.notify_all()
            except Exception as failure:  # whatever it is, the events must outlive it
                await asyncio.sleep(self._pause_after(failure))

    async def _wait_for_batch(self) -> list[bytes]:
        async with self._changed:
            while (seconds := self._seconds_until_due()) != 0:
                try:
                    async with asyncio.timeout(seconds):
                        await self._changed.wait()
                except TimeoutError:
                    continue
            return self._outbox.next_batch()
