"""How a verb, written once as a plan, becomes a method: of a blocking client, or of an awaiting one.

The signature and the docstring stay the verb's own.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Concatenate, ParamSpec, TypeVar

from meterbook.errors import MeterbookError
from meterbook.tail import TailSession
from meterbook.transport import AsyncTransport, SyncTransport
from meterbook.wire import Call, Listing, Plan

P = ParamSpec("P")
T = TypeVar("T")


class SyncVerbs:
    """Anything whose verbs run on a blocking transport."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport


class AsyncVerbs:
    """Anything whose verbs run on an awaiting transport."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport


def sync(verb: Callable[P, Plan[T]]) -> Callable[Concatenate[SyncVerbs, P], T]:
    @functools.wraps(verb)
    def method(self: SyncVerbs, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._transport.run(verb(*args, **kwargs))

    return method


def awaited(verb: Callable[P, Plan[T]]) -> Callable[Concatenate[AsyncVerbs, P], Awaitable[T]]:
    @functools.wraps(verb)
    async def method(self: AsyncVerbs, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transport.run(verb(*args, **kwargs))

    return method


def sync_pages(verb: Callable[P, Listing[T]]) -> Callable[Concatenate[SyncVerbs, P], Iterator[T]]:
    @functools.wraps(verb)
    def method(self: SyncVerbs, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        listing = verb(*args, **kwargs)
        call: Call | None = listing.first
        while call is not None:
            page, call = self._transport.run(listing.page(call))
            yield from page

    return method


def async_pages(verb: Callable[P, Listing[T]]) -> Callable[Concatenate[AsyncVerbs, P], AsyncIterator[T]]:
    @functools.wraps(verb)
    async def method(self: AsyncVerbs, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        listing = verb(*args, **kwargs)
        call: Call | None = listing.first
        while call is not None:
            page, call = await self._transport.run(listing.page(call))
            for item in page:
                yield item

    return method


def sync_bytes(verb: Callable[P, Call]) -> Callable[Concatenate[SyncVerbs, P], Iterator[bytes]]:
    @functools.wraps(verb)
    def method(self: SyncVerbs, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[bytes]:
        with self._transport.stream(verb(*args, **kwargs)) as pieces:
            yield from pieces

    return method


def async_bytes(verb: Callable[P, Call]) -> Callable[Concatenate[AsyncVerbs, P], AsyncIterator[bytes]]:
    @functools.wraps(verb)
    async def method(self: AsyncVerbs, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[bytes]:
        async with self._transport.stream(verb(*args, **kwargs)) as pieces:
            async for piece in pieces:
                yield piece

    return method


def sync_tail(verb: Callable[P, TailSession[T]]) -> Callable[Concatenate[SyncVerbs, P], Iterator[T]]:
    @functools.wraps(verb)
    def method(self: SyncVerbs, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
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


def async_tail(verb: Callable[P, TailSession[T]]) -> Callable[Concatenate[AsyncVerbs, P], AsyncIterator[T]]:
    @functools.wraps(verb)
    async def method(self: AsyncVerbs, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
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
