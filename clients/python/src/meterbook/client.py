"""`Client` and `AsyncClient`: the same verbs, bound to a blocking and to an awaiting transport.

A verb is written once, in `meterbook.verbs`, with its parameters and its docstring; here it only becomes a method.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from meterbook import tail
from meterbook.buffered import AsyncBufferedIngest, BufferedIngest
from meterbook.errors import MeterbookError
from meterbook.events import StoredEvent
from meterbook.outbox import BufferOptions, BufferSettings, OnError
from meterbook.tail import TailSession
from meterbook.transport import AsyncTransport, Connection, SyncTransport
from meterbook.verbs import events, metrics, usage
from meterbook.wire import Call, Listing, Plan, RetryPolicy

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_POOL_SIZE = 20


class _Sync:
    """Anything whose verbs run on a blocking transport."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport


class _Async:
    """Anything whose verbs run on an awaiting transport."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport


def _sync(verb: Callable[P, Plan[T]]) -> Callable[Concatenate[_Sync, P], T]:
    @functools.wraps(verb)
    def method(self: _Sync, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._transport.run(verb(*args, **kwargs))

    return method


def _async(verb: Callable[P, Plan[T]]) -> Callable[Concatenate[_Async, P], Awaitable[T]]:
    @functools.wraps(verb)
    async def method(self: _Async, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transport.run(verb(*args, **kwargs))

    return method


def _sync_pages(verb: Callable[P, Listing[T]]) -> Callable[Concatenate[_Sync, P], Iterator[T]]:
    @functools.wraps(verb)
    def method(self: _Sync, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        listing = verb(*args, **kwargs)
        call: Call | None = listing.first
        while call is not None:
            page, call = self._transport.run(listing.page(call))
            yield from page

    return method


def _async_pages(verb: Callable[P, Listing[T]]) -> Callable[Concatenate[_Async, P], AsyncIterator[T]]:
    @functools.wraps(verb)
    async def method(self: _Async, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        listing = verb(*args, **kwargs)
        call: Call | None = listing.first
        while call is not None:
            page, call = await self._transport.run(listing.page(call))
            for item in page:
                yield item

    return method


def _sync_bytes(verb: Callable[P, Call]) -> Callable[Concatenate[_Sync, P], Iterator[bytes]]:
    @functools.wraps(verb)
    def method(self: _Sync, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[bytes]:
        with self._transport.stream(verb(*args, **kwargs)) as pieces:
            yield from pieces

    return method


def _async_bytes(verb: Callable[P, Call]) -> Callable[Concatenate[_Async, P], AsyncIterator[bytes]]:
    @functools.wraps(verb)
    async def method(self: _Async, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[bytes]:
        async with self._transport.stream(verb(*args, **kwargs)) as pieces:
            async for piece in pieces:
                yield piece

    return method


def _sync_tail(verb: Callable[P, TailSession]) -> Callable[Concatenate[_Sync, P], Iterator[StoredEvent]]:
    @functools.wraps(verb)
    def method(self: _Sync, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[StoredEvent]:
        session = verb(*args, **kwargs)
        while not self._transport.is_closed:
            failure: MeterbookError | None = None
            try:
                with self._transport.stream(session.call, headers=session.headers()) as pieces:
                    for piece in pieces:
                        yield from session.feed(piece)
            except MeterbookError as error:
                failure = error
            time.sleep(session.pause_after(failure))

    return method


def _async_tail(verb: Callable[P, TailSession]) -> Callable[Concatenate[_Async, P], AsyncIterator[StoredEvent]]:
    @functools.wraps(verb)
    async def method(self: _Async, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[StoredEvent]:
        session = verb(*args, **kwargs)
        while not self._transport.is_closed:
            failure: MeterbookError | None = None
            try:
                async with self._transport.stream(session.call, headers=session.headers()) as pieces:
                    async for piece in pieces:
                        for event in session.feed(piece):
                            yield event
            except MeterbookError as error:
                failure = error
            await asyncio.sleep(session.pause_after(failure))

    return method


class MetricVerbs(_Sync):
    """`client.metrics`: what is measured."""

    create = _sync(metrics.create)
    list = _sync(metrics.list_all)
    get = _sync(metrics.get)
    update = _sync(metrics.update)
    delete = _sync(metrics.delete)


class AsyncMetricVerbs(_Async):
    """`client.metrics`: what is measured."""

    create = _async(metrics.create)
    list = _async(metrics.list_all)
    get = _async(metrics.get)
    update = _async(metrics.update)
    delete = _async(metrics.delete)


class CatalogVerbs(_Sync):
    """`client.catalogs`: sets of metrics that come with the server."""

    list = _sync(metrics.list_catalogs)
    install = _sync(metrics.install_catalog)


class AsyncCatalogVerbs(_Async):
    """`client.catalogs`: sets of metrics that come with the server."""

    list = _async(metrics.list_catalogs)
    install = _async(metrics.install_catalog)


class Client(_Sync):
    """A connection to one organization on a Meterbook server. Safe to share among threads; make one per process.

    Requests that fail on the way, or are answered 429, 502, 503 or 504, are repeated by `retry`; events carry
    their keys from before the first attempt, so nothing counts twice. Use it as a context manager, or `close` it.
    `http_options` are passed to `httpx.Client` (proxies, certificates, a transport of your own).
    """

    ingest = _sync(events.ingest)
    validate = _sync(events.validate)
    get_event = _sync(events.get_event)
    list_events = _sync_pages(events.list_events)
    events_tail = _sync_tail(tail.events_tail)
    void = _sync(events.void)
    replace = _sync(events.replace)
    query_realtime = _sync(usage.query_realtime)
    query = _sync(usage.query)
    breakdown = _sync(usage.breakdown)
    series = _sync(usage.series)
    export = _sync_bytes(usage.export)

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
        pool_size: int = DEFAULT_POOL_SIZE,
        compress: bool = False,
        **http_options: Any,
    ) -> None:
        connection = Connection(url, api_key, timeout, pool_size, compress, http_options)
        super().__init__(SyncTransport(connection, retry or RetryPolicy()))
        self.metrics = MetricVerbs(self._transport)
        self.catalogs = CatalogVerbs(self._transport)
        self._buffers: list[BufferedIngest] = []

    def buffered(self, *, on_error: OnError | None = None, **options: Unpack[BufferOptions]) -> BufferedIngest:
        """Return a buffer whose `add` does not wait for the server. `on_error(error, event)` hears of refused events,
        in the buffer's thread. The options are those of `BufferSettings`."""
        buffer = BufferedIngest(self._transport, BufferSettings.of(options), on_error)
        self._buffers.append(buffer)
        return buffer

    def close(self) -> None:
        """Close the buffers that are still open, then the pool of connections."""
        for buffer in self._buffers:
            if not buffer.is_closed:
                buffer.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Async):
    """`Client` for asyncio: the same verbs, awaited; lists and streams are asynchronous iterators."""

    ingest = _async(events.ingest)
    validate = _async(events.validate)
    get_event = _async(events.get_event)
    list_events = _async_pages(events.list_events)
    events_tail = _async_tail(tail.events_tail)
    void = _async(events.void)
    replace = _async(events.replace)
    query_realtime = _async(usage.query_realtime)
    query = _async(usage.query)
    breakdown = _async(usage.breakdown)
    series = _async(usage.series)
    export = _async_bytes(usage.export)

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
        pool_size: int = DEFAULT_POOL_SIZE,
        compress: bool = False,
        **http_options: Any,
    ) -> None:
        connection = Connection(url, api_key, timeout, pool_size, compress, http_options)
        super().__init__(AsyncTransport(connection, retry or RetryPolicy()))
        self.metrics = AsyncMetricVerbs(self._transport)
        self.catalogs = AsyncCatalogVerbs(self._transport)
        self._buffers: list[AsyncBufferedIngest] = []

    def buffered(self, *, on_error: OnError | None = None, **options: Unpack[BufferOptions]) -> AsyncBufferedIngest:
        """Return a buffer whose `add` does not wait for the server. `on_error(error, event)` hears of refused events,
        in the event loop. The options are those of `BufferSettings`."""
        buffer = AsyncBufferedIngest(self._transport, BufferSettings.of(options), on_error)
        self._buffers.append(buffer)
        return buffer

    async def close(self) -> None:
        """Close the buffers that are still open, then the pool of connections."""
        for buffer in self._buffers:
            if not buffer.is_closed:
                await buffer.close()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
