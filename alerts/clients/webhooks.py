"""Requests to webhook endpoints.

A webhook's URL comes from a tenant and its answer from anybody, so a request reaches public addresses alone: names
are resolved here, every address is checked, and the connection goes to the checked address itself. Redirects are not
followed, proxies of the environment are not used, and an answer is bounded in time and bytes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore
import structlog

from alerts.addresses import Target, is_public, read_target
from alerts.domain import Answer
from common.errors import InvalidInput

ATTEMPT_SECONDS = 10.0
# Per address: a name may have several, and one that swallows packets must leave time for the next.
CONNECT_SECONDS = 3.0
# The status is the answer; of what follows it we wait for no more than a glance.
BODY_SECONDS = 1.0
MAX_BODY_BYTES = 4_096
MAX_ANSWER_BYTES = 256 * 1024  # with headers and everything else that is not the body
MAX_TEXT = 1_000
MAX_ERROR = 300
# Resolving cannot be interrupted, so what waits for a dead name server must not keep the others from theirs.
RESOLVER_THREADS = 128
USER_AGENT = "Meterbook-Webhooks/1"

logger = structlog.get_logger("meterbook.webhooks")

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
SocketOptions = Iterable[httpcore.SOCKET_OPTION]


class PrivateAddress(Exception):
    """The name leads to an address that webhooks may not reach."""


class TooMuchAnswer(Exception):
    """The endpoint sends and sends."""


# --- connecting -----------------------------------------------------------------------------------------------


class SystemResolver:
    """Ask the system's resolver, on threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses, in the order of preference. Raises `socket.gaierror`."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _get_addresses, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _get_addresses(host: str, port: int) -> list[str]:
    return [str(address[4][0]) for address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only. TLS still names and verifies the host of the URL."""

    def __init__(
        self, *, may_be_private: bool, resolve: Resolver, network: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._may_be_private = may_be_private
        self._resolve = resolve
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers. Raises `PrivateAddress` if any of them is private.

        Any, not all: whoever answers a public address beside a private one is trying something.
        """
        addresses = await self._resolve(host, port)
        if not self._may_be_private and not all(is_public(address) for address in addresses):
            raise PrivateAddress
        refusal: Exception = httpcore.ConnectError("The name has no address.")
        for address in addresses:
            try:
                stream = await self._network.connect_tcp(address, port, timeout=CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                refusal = error
            else:
                return BoundedStream(stream)
        raise refusal

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: SocketOptions | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise PrivateAddress

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class BoundedStream(httpcore.AsyncNetworkStream):
    """A connection that gives up after so many bytes, whatever they are: headers without end, too."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = MAX_ANSWER_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(max_bytes, timeout)
        self._left -= len(data)
        if self._left < 0:
            raise TooMuchAnswer
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


# --- webhooks -------------------------------------------------------------------------------------------------


class WebhookSender:
    """Posts messages; a connection for each, so that endpoints share nothing and every attempt checks anew."""

    def __init__(
        self,
        *,
        may_be_private: bool,
        resolve: Resolver,
        tls: ssl.SSLContext | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self._may_be_private = may_be_private
        self._network = CheckedNetwork(may_be_private=may_be_private, resolve=resolve, network=network)
        self._tls = tls or httpcore.default_ssl_context()
        self._attempt_seconds = attempt_seconds

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post JSON and return what came of it, within `attempt_seconds`. Never raises for what the other end does."""
        started = time.monotonic()
        answer, error = Answer(0), ""
        try:
            target = read_target(url, may_be_private=self._may_be_private)
            async with asyncio.timeout(self._attempt_seconds):
                answer = await self._request(target, headers, body)
        except InvalidInput as refusal:
            error = refusal.message
        except TimeoutError:
            error = f"No answer within {self._attempt_seconds:g} s."
        except Exception as failure:  # whatever the other end can provoke is the attempt's result, not our end
            error = _explain(failure)
        return Answer(
            duration_ms=round((time.monotonic() - started) * 1000),
            status_code=answer.status_code,
            error=_bounded(error or answer.error, MAX_ERROR),
            text=answer.text,
            retry_after=answer.retry_after,
        )

    async def _request(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        connection = httpcore.AsyncHTTPConnection(
            origin=httpcore.Origin(target.scheme.encode(), target.host.encode(), target.port),
            ssl_context=self._tls,
            network_backend=self._network,
        )
        fixed = {
            "Host": target.authority,
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "Connection": "close",
        }
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        try:
            lines = [*fixed.items(), *headers.items()]
            async with connection.stream("POST", url, headers=lines, content=body) as response:
                return Answer(
                    duration_ms=0,
                    status_code=response.status,
                    error=_judge_status(response.status),
                    text=await _read_glance(response),
                    retry_after=_read_retry_after(response, datetime.now(UTC)),
                )
        finally:
            await connection.aclose()


async def _read_glance(response: httpcore.Response) -> str:
    """Return the beginning of the body, as far as it comes at once."""
    kept = b""
    with suppress(TimeoutError, TooMuchAnswer, httpcore.NetworkError, httpcore.ProtocolError):
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in response.aiter_stream():
                kept += chunk
                if len(kept) >= MAX_BODY_BYTES:
                    break
    return _bounded(kept[:MAX_BODY_BYTES].decode(errors="replace"), MAX_TEXT)


def _judge_status(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"It answered {status}; redirects are not followed."
    return f"It answered {status}."


def _explain(failure: Exception) -> str:
    """Return why there was no answer, in a sentence that tells nothing about our own network."""
    match failure:
        case PrivateAddress():
            return "The host leads to a private address."
        case TooMuchAnswer():
            return "The answer does not end."
        case socket.gaierror() | UnicodeError():
            return "The host's name cannot be resolved."
        case httpcore.TimeoutException():
            return "The connection took too long."
        case httpcore.ConnectError() | httpcore.NetworkError() | httpcore.ProtocolError() | OSError():
            return f"The connection failed: {failure}"
    logger.warning("webhook failed in an unforeseen way", exc_info=failure)
    return f"The request failed: {type(failure).__name__}"


def _read_retry_after(response: httpcore.Response, now: datetime) -> timedelta | None:
    value = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"").decode("latin-1")
    if value.isascii() and value.isdigit() and len(value) <= 9:
        return timedelta(seconds=int(value))
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(timedelta(0), moment - now)


def _bounded(text: str, length: int) -> str:
    """Return text that PostgreSQL stores: no NUL, and not longer than its column."""
    return text.replace("\x00", "\ufffd")[:length]
