"""Subscriptions to alerts: iterators over the crossings of thresholds as they happen, across all interruptions.

`Subscription` reads in a background thread, `AsyncSubscription` in a task; what they read, and from where, is decided
in `meterbook.feed`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from meterbook.alerts import Alert
from meterbook.errors import MeterbookError
from meterbook.feed import AlertFeed
from meterbook.transport import AsyncTransport, SyncTransport
from meterbook.verbs.alerts import Names, find_position, read_page
from meterbook.wire import NO_RETRY, one_object

logger = logging.getLogger(__name__)

# How long `close` waits for the thread; one that is just connecting may take longer, and ends by itself.
JOIN_SECONDS = 2.0


class Subscription:
    """Alerts as they come: an iterator, and a context manager that closes it. It never ends by itself.

    Guarantees: every alert after `since_offset` (without one: after `subscribe` was called) is handed out once, in
    the order of the log, whatever happens to servers and connections; at most `buffer` of them wait in memory.
    Whoever persists `offsets()` after handling an alert, and subscribes with it after a crash, sees each alert at
    least once, and possibly the last one twice. A refused key and the like are raised to the consumer, everything
    else is waited out. Safe to iterate from several threads, each alert going to one of them. Not for use after a
    fork: subscribe in the child.
    """

    def __init__(self, transport: SyncTransport, feed: AlertFeed) -> None:
        self._transport = transport
        self._feed = feed
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._hang_up: Callable[[], None] | None = None
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._read_until_closed, name="meterbook-alerts", daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Alert:
        alert = self.get()
        if alert is None:
            raise StopIteration
        return alert

    def get(self, timeout: float | None = None) -> Alert | None:
        """Return the next alert; None when none came within the timeout (seconds), or the subscription is closed."""
        if self._pid != os.getpid():
            raise RuntimeError("This subscription belongs to the process before the fork; subscribe in this one.")
        with self._changed:
            self._changed.wait_for(lambda: self.is_closed or self._feed.has_alert or self._failure, timeout)
            if self.is_closed:
                return None
            if self._feed.has_alert:
                alert = self._feed.take()
                self._changed.notify_all()
                return alert
            if self._failure is not None:
                raise self._failure
            return None

    def offsets(self) -> int:
        """Return what to persist and to pass as `since_offset` later: the offset of the last alert taken from here.

        The log is the organization's, so it is one number, whatever the filters. Before the first alert it is
        where the subscription began. Save it after handling the alert, not before.
        """
        return self._feed.taken

    def dropped(self) -> int:
        """Return how many alerts did not fit the buffer when they came. They are read from the log again: none is
        lost, but a growing number means that the consumer is slower than the alerts."""
        return self._feed.dropped

    @property
    def is_closed(self) -> bool:
        return self._closing.is_set()

    def close(self) -> None:
        """Stop: the iteration ends, in whatever thread, also with alerts still in the buffer."""
        if self._pid != os.getpid():
            return  # the lock may be held by a thread that is not here, and the connection is the parent's
        with self._changed:
            self._closing.set()
            hang_up = self._hang_up
            self._changed.notify_all()
        if hang_up is not None:
            hang_up()
        if self._thread is not threading.current_thread():
            self._thread.join(JOIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the thread ---

    def _read_until_closed(self) -> None:
        try:
            while not self.is_closed:
                failure = self._read_once()
                if not self.is_closed:
                    pause = self._feed.pause_after(failure)
                    _log_interruption(failure, pause)
                    self._closing.wait(pause)
        except Exception as failure:  # the consumer's to handle, not this thread's
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _read_once(self) -> MeterbookError | None:
        try:
            if self._feed.is_behind:
                self._read_log()
            else:
                self._listen()
        except MeterbookError as failure:
            return failure
        return None

    def _read_log(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.is_closed or self._feed.has_room_for_page)
            call, limit = self._feed.open_page()
        if self.is_closed:
            return
        alerts = read_page(self._transport.run(one_object(call), retry=NO_RETRY))
        with self._changed:
            self._feed.take_page(alerts, limit)
            self._changed.notify_all()

    def _listen(self) -> None:
        call, headers = self._feed.open_stream()
        try:
            with self._transport.stream(call, headers=headers, on_open=self._connected) as pieces:
                for piece in pieces:
                    with self._changed:
                        self._feed.take_bytes(piece)
                        self._changed.notify_all()
                    if self.is_closed or self._feed.is_behind or self._feed.must_reconnect:
                        return
        finally:
            with self._changed:
                self._hang_up = None

    def _connected(self, hang_up: Callable[[], None]) -> None:
        with self._changed:
            self._hang_up = hang_up
        if self.is_closed:
            hang_up()


class AsyncSubscription:
    """`Subscription` for asyncio: the same guarantees, with a task that starts at `async with` or the first alert.

    Without `since_offset` it begins at the end of the log at that moment.
    """

    def __init__(
        self, transport: AsyncTransport, *, customers: Names, metrics: Names, since_offset: int | None, buffer: int
    ) -> None:
        self._transport = transport
        self._customers, self._metrics = customers, metrics
        self._since_offset = since_offset
        self._feed = AlertFeed(customers=customers, metrics=metrics, position=since_offset or 0, capacity=buffer)
        self._changed = asyncio.Condition()
        self._starting = asyncio.Lock()
        self._failure: Exception | None = None
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Alert:
        alert = await self.get()
        if alert is None:
            raise StopAsyncIteration
        return alert

    async def get(self, timeout: float | None = None) -> Alert | None:
        """Return the next alert; None when none came within the timeout (seconds), or the subscription is closed."""
        await self._ensure_started()
        async with self._changed:
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(lambda: self._is_closed or self._feed.has_alert or self._failure)
            except TimeoutError:
                return None
            if self._is_closed:
                return None
            if self._feed.has_alert:
                alert = self._feed.take()
                self._changed.notify_all()
                return alert
            assert self._failure is not None, "nothing else is waited for"
            raise self._failure

    def offsets(self) -> int | None:
        """Return what to persist, see `Subscription.offsets`; None as long as it has not started and knows no place."""
        return self._feed.taken if self._task is not None else self._since_offset

    def dropped(self) -> int:
        """Return how many alerts did not fit the buffer, see `Subscription.dropped`."""
        return self._feed.dropped

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    async def close(self) -> None:
        """Stop: the iteration ends, also with alerts still in the buffer."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        async with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        await self._ensure_started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- the task ---

    async def _ensure_started(self) -> None:
        async with self._starting:
            if self._task is not None or self._is_closed:
                return
            if self._since_offset is None:
                search = find_position(customers=self._customers, metrics=self._metrics)
                self._feed.taken = self._feed.held = await self._transport.run(search)
            self._task = asyncio.create_task(self._read_until_cancelled(), name="meterbook-alerts")

    async def _read_until_cancelled(self) -> None:
        try:
            while True:
                failure = await self._read_once()
                pause = self._feed.pause_after(failure)
                _log_interruption(failure, pause)
                await asyncio.sleep(pause)
        except Exception as failure:  # the consumer's to handle, not this task's
            async with self._changed:
                self._failure = failure
                self._changed.notify_all()

    async def _read_once(self) -> MeterbookError | None:
        try:
            if self._feed.is_behind:
                await self._read_log()
            else:
                await self._listen()
        except MeterbookError as failure:
            return failure
        return None

    async def _read_log(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._feed.has_room_for_page)
            call, limit = self._feed.open_page()
        alerts = read_page(await self._transport.run(one_object(call), retry=NO_RETRY))
        async with self._changed:
            self._feed.take_page(alerts, limit)
            self._changed.notify_all()

    async def _listen(self) -> None:
        call, headers = self._feed.open_stream()
        async with self._transport.stream(call, headers=headers) as pieces:
            async for piece in pieces:
                async with self._changed:
                    self._feed.take_bytes(piece)
                    self._changed.notify_all()
                if self._feed.is_behind or self._feed.must_reconnect:
                    return


def _log_interruption(failure: MeterbookError | None, pause: float) -> None:
    if failure is not None:
        logger.warning("The stream of alerts was interrupted (%s); coming back in %.1f s.", failure, pause)
