"""The forward listener: sockets, the room that all connections share, heartbeats, and the drain at the end.

Owns when reading stops and goes on. Memory has a bound whatever senders do: so many records and bytes wait for the
writers, so many bytes are held of unfinished messages, so many connections are open; beyond that nothing is read,
and the senders' own buffers fill.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, cast

import structlog

from metering.dialects.weave.connection import ForwardConnection
from metering.dialects.weave.telemetry import CONNECTIONS, WAITING_RECORDS
from metering.dialects.weave.wire.handshake import Handshake
from metering.dialects.weave.writers import LINGER_SECONDS, WRITER_COUNT, Parcel, Writers

HEARTBEAT_REPLY = b"\0"
BACKLOG = 1_024
# Sockets are looked at so often while the listener waits for the senders to fall silent.
QUIET_POLL_SECONDS = 0.01
ACCEPT_RETRY_SECONDS = 0.1

logger = structlog.get_logger("meterbook.forward")


class PortTaken(Exception):
    """The port cannot be listened on; the message says which and why."""


class Address(NamedTuple):
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the listener holds at most."""

    waiting_records: int = 20_000
    waiting_bytes: int = 32 * 1024 * 1024
    held_bytes: int = 64 * 1024 * 1024
    # Of each port: who holds all of the open one's keeps nobody from the one with the shared key.
    connections: int = 1_000
    # At the end: how long senders may go on before reading stops, and how long storing may take after that.
    drain_seconds: float = 4.0
    store_seconds: float = 5.0


class ForwardListener:
    def __init__(
        self,
        *,
        limits: Limits | None = None,
        shared_key: str = "",
        writer_count: int = WRITER_COUNT,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._limits = limits or Limits()
        self._shared_key = shared_key
        self._writers = Writers(
            on_stored=self._note_stored,
            on_failed=self._note_failed,
            count=writer_count,
            linger_seconds=linger_seconds,
        )
        # Set when a writer is dead: what it held is never settled, so the process has to end.
        self.failed = asyncio.Event()
        # All connections with the port that they came by, and how many each port has.
        self._connections: dict[ForwardConnection, socket.socket] = {}
        self._counts: Counter[socket.socket] = Counter()
        # Connections that asyncio has yet to take over.
        self._opening: set[asyncio.Task[None]] = set()
        self._servers: list[socket.socket] = []
        # Those whose senders must know the shared key.
        self._secured: set[socket.socket] = set()
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._held_bytes = 0
        self._is_open = True
        self._is_ending = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- the room ---------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        return self._is_open

    @property
    def is_reading(self) -> bool:
        return self._is_open and not self._is_ending

    @property
    def waiting_records(self) -> int:
        """Return how many records were read and are not stored."""
        return self._waiting_records

    def submit(self, parcel: Parcel) -> None:
        self._waiting_records += len(parcel.records)
        self._waiting_bytes += parcel.size
        self._writers.submit(parcel)
        limits = self._limits
        if self._is_open and (
            self._waiting_records >= limits.waiting_records or self._waiting_bytes >= limits.waiting_bytes
        ):
            self._is_open = False
            for connection in self._connections:
                connection.update_reading()

    def note_held(self, change: int) -> bool:
        self._held_bytes += change
        return change <= 0 or self._held_bytes <= self._limits.held_bytes

    def forget(self, connection: ForwardConnection) -> None:
        server = self._connections.pop(connection, None)
        if server is None:
            return
        CONNECTIONS.set(len(self._connections))
        was_full = self._counts[server] >= self._limits.connections
        self._counts[server] -= 1
        if was_full:
            self._watch(server)

    def _note_stored(self, parcels: list[Parcel]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the listener gave up waiting for this
            self._running_loop.call_soon_threadsafe(self._settle, parcels)

    def _note_failed(self) -> None:
        with suppress(RuntimeError):
            self._running_loop.call_soon_threadsafe(self.failed.set)

    def _settle(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            self._waiting_records -= len(parcel.records)
            self._waiting_bytes -= parcel.size
            if (delivery := parcel.delivery) is not None:
                delivery.pending -= 1
                self._attempt(delivery.connection, delivery.settle)
        WAITING_RECORDS.set(self._waiting_records)
        limits = self._limits
        # Half empty before reading goes on: not every parcel should wake every connection.
        if (
            not self._is_open
            and self._waiting_records <= limits.waiting_records // 2
            and self._waiting_bytes <= limits.waiting_bytes // 2
        ):
            self._is_open = True
            for connection in list(self._connections):
                self._attempt(connection, connection.go_on)

    def _attempt(self, connection: ForwardConnection, action: Callable[[], None]) -> None:
        """Do it; where it fails, that costs this connection alone and not those whose turn comes after it."""
        try:
            action()
        except Exception:
            logger.exception("a connection failed")
            connection.abort()

    # --- sockets ----------------------------------------------------------------------------------

    async def start(self, *, open_address: Address | None = None, secure_address: Address | None = None) -> None:
        """Listen at one of the addresses or at both; port 0 is any that is free. Raises `PortTaken`."""
        self._loop = asyncio.get_running_loop()
        self._servers = [bind_port(*address) for address in (open_address, secure_address) if address]
        if secure_address:
            self._secured.add(self._servers[-1])
        self._writers.start()
        for server in self._servers:
            self._watch(server)
            host, port, *_ = server.getsockname()
            await self._answer_heartbeats(host, port)

    @property
    def _running_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None  # it was started
        return self._loop

    @property
    def ports(self) -> list[int]:
        return [server.getsockname()[1] for server in self._servers]

    def _open_handshake(self) -> Handshake:
        return Handshake(shared_key=self._shared_key, server_name=socket.gethostname())

    async def _answer_heartbeats(self, host: str, port: int) -> None:
        try:
            transport, _ = await self._running_loop.create_datagram_endpoint(HeartbeatProtocol, local_addr=(host, port))
        except OSError as error:
            logger.warning("no heartbeats by UDP", port=port, error=str(error))
        else:
            self._datagrams.append(transport)

    def _watch(self, server: socket.socket) -> None:
        if server in self._servers:
            self._running_loop.add_reader(server, self._accept, server)

    def _accept(self, server: socket.socket) -> None:
        """Accept whoever waits, while the port has slots; beyond them senders wait in the backlog."""
        while self._counts[server] < self._limits.connections:
            try:
                client, _ = server.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: it is tried again, not at once
                logger.warning("a connection could not be accepted", error=str(error))
                self._running_loop.remove_reader(server)
                self._running_loop.call_later(ACCEPT_RETRY_SECONDS, self._watch, server)
                return
            self._welcome(client, server)
        self._running_loop.remove_reader(server)  # until one of its connections is closed

    def _welcome(self, client: socket.socket, server: socket.socket) -> None:
        client.setblocking(False)
        # A sender that is gone without a word is noticed some day.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = ForwardConnection(self, self._open_handshake() if server in self._secured else None)
        self._connections[connection] = server
        self._counts[server] += 1
        CONNECTIONS.set(len(self._connections))
        task = asyncio.ensure_future(self._open(client, connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, client: socket.socket, connection: ForwardConnection) -> None:
        try:
            await self._running_loop.connect_accepted_socket(lambda: connection, client)
        except OSError:
            client.close()
            self.forget(connection)

    # --- the end ----------------------------------------------------------------------------------

    async def drain(self) -> bool:
        """Accept nothing more, read what senders have sent, store it, acknowledge it, close.

        Returns whether all that was read is stored.
        """
        await self._stop_accepting()
        deadline = time.monotonic() + self._limits.drain_seconds
        # What a dead writer held is never stored: there is no quiet to wait for.
        while time.monotonic() < deadline and not self._is_quiet() and not self.failed.is_set():
            await asyncio.sleep(QUIET_POLL_SECONDS)
        self._is_ending = True
        for connection in self._connections:
            connection.update_reading()
        is_stored = await asyncio.to_thread(self._writers.close, timeout=self._limits.store_seconds)
        await asyncio.sleep(0)  # the last acknowledgements are written
        for connection in list(self._connections):
            connection.close()
        closing_deadline = time.monotonic() + 1.0
        while self._connections and time.monotonic() < closing_deadline:
            await asyncio.sleep(QUIET_POLL_SECONDS)
        return is_stored and not self._waiting_records

    async def _stop_accepting(self) -> None:
        """Take in whoever is connected already, as far as there are slots, and close the ports."""
        for transport in self._datagrams:
            transport.close()
        servers, self._servers = self._servers, []
        for server in servers:
            self._accept(server)
            self._running_loop.remove_reader(server)
            server.close()
        if self._opening:
            await asyncio.wait(self._opening)

    def _is_quiet(self) -> bool:
        """Tell whether nothing is unread and nothing unstored."""
        if self._waiting_records:
            return False
        return all(connection.is_quiet and not unread_bytes(connection) for connection in self._connections)


class HeartbeatProtocol(asyncio.DatagramProtocol):
    """Any datagram asks whether the listener lives."""

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(HEARTBEAT_REPLY, address)


def bind_port(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `PortTaken`."""
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(BACKLOG)
    except OSError as error:
        server.close()
        raise PortTaken(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    server.setblocking(False)
    return server


def unread_bytes(connection: ForwardConnection) -> int:
    """Return what the kernel holds of the connection that nobody read."""
    transport = connection.transport
    if transport is None or transport.is_closing():
        return 0
    client = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(client.fileno(), termios.FIONREAD, b"\0\0\0\0")
    except (OSError, ValueError):  # closed in this moment
        return 0
    count: int = struct.unpack("i", answer)[0]
    return count
