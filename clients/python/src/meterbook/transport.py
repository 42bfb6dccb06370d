"""The two thin layers that touch the network: one blocks, one awaits. Everything else is shared (`meterbook.wire`).

Both keep a pool of connections and may be shared: the first by threads, the second by tasks of one event loop.
After a fork the child opens a pool of its own, because two processes on one connection would read each
other's answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import httpx

from meterbook.errors import ServerUnavailableError
from meterbook.wire import Answer, Call, Pause, Plan, RetryPolicy, with_retries

T = TypeVar("T")
# Is given a function that ends the connection.
OnOpen: TypeAlias = Callable[[Callable[[], None]], None]

# Below this, compressing costs more than it saves.
_COMPRESS_FROM_BYTES = 1024
# The server sends a heartbeat every 15 s, so a stream silent for longer is dead.
STREAM_SILENCE_SECONDS = 45.0
_NEVER_ARRIVED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the server is and how to talk to it. `options` go to httpx (proxies, certificates, a test transport)."""

    url: str
    api_key: str = field(repr=False)
    timeout: float
    pool_size: int
    compress: bool
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ValueError(f"The server's address must look like https://host:port, not {self.url!r}.")

    def client_arguments(self) -> dict[str, Any]:
        """Return the arguments with which either kind of httpx client is made."""
        return {
            "base_url": self.url.rstrip("/"),
            "headers": {"Authorization": f"Bearer {self.api_key}", "User-Agent": "meterbook-python"},
            "timeout": httpx.Timeout(self.timeout, connect=min(self.timeout, 10.0)),
            "limits": httpx.Limits(max_connections=self.pool_size, max_keepalive_connections=self.pool_size),
            **self.options,
        }

    def request_arguments(self, call: Call) -> dict[str, Any]:
        arguments: dict[str, Any] = {"method": call.method, "url": call.path, "params": list(call.parameters)}
        if call.content is not None:
            headers = {"Content-Type": "application/json"}
            content = call.content
            is_compressed = self.compress if call.is_compressed is None else call.is_compressed
            if is_compressed and len(content) >= _COMPRESS_FROM_BYTES:
                content, headers["Content-Encoding"] = gzip.compress(content, compresslevel=1), "gzip"
            arguments |= {"content": content, "headers": headers}
        return arguments


class SyncTransport:
    def __init__(self, connection: Connection, retry: RetryPolicy) -> None:
        self._connection = connection
        self._retry = retry
        self._pid = os.getpid()
        self._pool = httpx.Client(**connection.client_arguments())

    def run(self, plan: Plan[T], *, retry: RetryPolicy | None = None) -> T:
        """Drive a plan to its result."""
        steps = with_retries(plan, retry or self._retry)
        outcome: Answer | ServerUnavailableError | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = self._request(step)
        except StopIteration as done:
            result: T = done.value
            return result

    def _request(self, call: Call) -> Answer | ServerUnavailableError:
        try:
            return _answer(self._http().request(**self._connection.request_arguments(call)))
        except httpx.TransportError as error:
            return _unavailable(error)

    @contextlib.contextmanager
    def stream(
        self, call: Call, *, headers: Mapping[str, str] | None = None, on_open: OnOpen | None = None
    ) -> Iterator[Iterator[bytes]]:
        """Open an answer that is read bit by bit. Follows redirects: streams may live on a port of their own.

        `on_open` is told how to hang up from another thread, which ends a read that is waiting.
        """
        arguments = _stream_arguments(self._connection.request_arguments(call), headers)
        try:
            with self._http().stream(**arguments) as response:
                if response.is_error:
                    response.read()
                    raise _answer(response).error()
                if on_open is not None:
                    on_open(functools.partial(_hang_up, response))
                yield response.iter_bytes()
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise _unavailable(error) from error

    def _http(self) -> httpx.Client:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._pool = httpx.Client(**self._connection.client_arguments())
        return self._pool

    @property
    def is_closed(self) -> bool:
        return self._pool.is_closed

    def close(self) -> None:
        self._pool.close()


class AsyncTransport:
    def __init__(self, connection: Connection, retry: RetryPolicy) -> None:
        self._connection = connection
        self._retry = retry
        self._pool = httpx.AsyncClient(**connection.client_arguments())

    async def run(self, plan: Plan[T], *, retry: RetryPolicy | None = None) -> T:
        """Drive a plan to its result."""
        steps = with_retries(plan, retry or self._retry)
        outcome: Answer | ServerUnavailableError | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = await self._request(step)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _request(self, call: Call) -> Answer | ServerUnavailableError:
        try:
            return _answer(await self._pool.request(**self._connection.request_arguments(call)))
        except httpx.TransportError as error:
            return _unavailable(error)

    @contextlib.asynccontextmanager
    async def stream(
        self, call: Call, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open an answer that is read bit by bit. Follows redirects: streams may live on a port of their own."""
        arguments = _stream_arguments(self._connection.request_arguments(call), headers)
        try:
            async with self._pool.stream(**arguments) as response:
                if response.is_error:
                    await response.aread()
                    raise _answer(response).error()
                yield response.aiter_bytes()
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise _unavailable(error) from error

    @property
    def is_closed(self) -> bool:
        return self._pool.is_closed

    async def close(self) -> None:
        await self._pool.aclose()


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.reason_phrase, response.headers, response.content)


def _hang_up(response: httpx.Response) -> None:
    """End the connection below an answer. Closing it would not wake the thread that reads from it."""
    network = response.extensions.get("network_stream")
    connection = network.get_extra_info("socket") if network is not None else None
    if isinstance(connection, socket.socket):
        with contextlib.suppress(OSError):  # it has ended by itself
            # Not the method of a TLS socket, which would take the decryption away under the reader's hands.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _unavailable(error: httpx.RequestError) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"The server did not answer: {error or type(error).__name__}",
        code="unreachable",
        may_have_arrived=not isinstance(error, _NEVER_ARRIVED),
    )


def _stream_arguments(arguments: dict[str, Any], headers: Mapping[str, str] | None) -> dict[str, Any]:
    # On the way to another port httpx drops the key; the server's redirect carries a ticket in its place.
    return arguments | {
        "headers": {**arguments.get("headers", {}), **(headers or {})},
        "timeout": httpx.Timeout(STREAM_SILENCE_SECONDS, connect=10.0),
        "follow_redirects": True,
    }
