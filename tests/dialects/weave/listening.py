"""A listener on a thread of its own or in a process of its own, senders for it, and what it stored."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGKILL
from typing import Any

from accounts.models import Organization
from config.env import BASE_DIR
from config.processes import spawn
from metering.dialects.weave.listener import Address, ForwardListener, Limits
from metering.models import Event
from tests.clients.web_server import url_of_test_database
from tests.runtime.installation import free_port

DEADLINE_SECONDS = 30.0
# Yesterday, so that no clock can make it the future.
OCCURRED_AT = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")


def record(key: str, *, amount: int = 1, instance: str = "1234", **fields: Any) -> dict[str, Any]:
    return {
        "amount_type": "samples",
        "amount_value": amount,
        "internal_instance_id": instance,
        "metadata": None,
        "occurred_at": OCCURRED_AT,
        "unique_key": key,
    } | fields


def message(key: str, *, chunk: str | None = None, **fields: Any) -> bytes:
    """Return a record as the billing-client sends it; with a chunk, as a client that wants an acknowledgement."""
    option = None if chunk is None else {"chunk": chunk}
    content = ["billing", 1795212979, record(key, **fields), option]
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


class Sender:
    """A client that speaks JSON over a blocking socket."""

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), 10)
        self._answers = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def await_acks(self, *chunks: str) -> None:
        """Return when exactly these chunks were acknowledged, in whatever order."""
        expected = {b'{"ack":"%s"}' % chunk.encode() for chunk in chunks}
        while expected:
            before, brace, after = self._answers.partition(b"}")
            if not brace:
                received = self.socket.recv(65_536)
                if not received:
                    raise ConnectionError("closed before the acknowledgement")
                self._answers += received
                continue
            assert before + brace in expected
            expected.remove(before + brace)
            self._answers = after

    def await_bytes(self, wanted: bytes) -> None:
        """Return when these bytes came, whatever came before them."""
        while wanted not in self._answers:
            received = self.socket.recv(65_536)
            if not received:
                raise ConnectionError("closed before the answer")
            self._answers += received

    def hears_nothing(self, *, seconds: float = 0.2) -> bool:
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1) == b"" and False
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(10)

    def await_end(self) -> bytes:
        """Return everything that comes until the other side closes."""
        received = b""
        while piece := self.socket.recv(65_536):
            received += piece
        return received

    def reset(self) -> None:
        """End with an RST, as a process that dies with unread answers does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


@dataclass(frozen=True, slots=True)
class AtWork:
    listener: ForwardListener
    loop: asyncio.AbstractEventLoop
    port: int
    secure_port: int

    def drain(self) -> bool:
        return asyncio.run_coroutine_threadsafe(self.listener.drain(), self.loop).result(DEADLINE_SECONDS)


@contextmanager
def listener_at_work(*, limits: Limits | None = None, shared_key: str = "") -> Iterator[AtWork]:
    """Run a listener on a thread for as long as the block lasts, and drain it then."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> AtWork:
        listener = ForwardListener(limits=limits, shared_key=shared_key)
        anywhere = Address("127.0.0.1", 0)
        await listener.start(open_address=anywhere, secure_address=anywhere if shared_key else None)
        port, *rest = listener.ports
        return AtWork(listener, loop, port, *rest or [0])

    at_work = asyncio.run_coroutine_threadsafe(start(), loop).result(DEADLINE_SECONDS)
    try:
        yield at_work
    finally:
        at_work.drain()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_SECONDS)
        loop.close()


@dataclass
class ListenerProcess:
    """`manage.py forward_listener` on the test database; its port stays the same over restarts."""

    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """For the main thread alone: the process dies with the thread that started it."""
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.base",
            "DATABASE_URL": url_of_test_database(),
            "METERBOOK_FORWARD_PORT": str(self.port),
        }
        with self.log.open("ab") as log:
            self.process = spawn(
                [sys.executable, "manage.py", "forward_listener"],
                parent_death_signal=SIGKILL,
                environment=environment,
                output=log.fileno(),
                directory=BASE_DIR,
            )
        wait_until(self._listens, explain=self.log.read_text)

    def end(self, with_signal: int) -> int:
        assert self.process is not None
        self.process.send_signal(with_signal)
        return self.process.wait(DEADLINE_SECONDS)

    def _listens(self) -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def listener_process(directory: Path) -> Iterator[ListenerProcess]:
    process = ListenerProcess(free_port(), directory / "listener.log")
    process.start()
    try:
        yield process
    finally:
        if process.process is not None and process.process.poll() is None:
            process.end(SIGKILL)


def stored_keys(organization: Organization) -> Counter[str]:
    return Counter(Event.objects.for_organization(organization).values_list("idempotency_key", flat=True))


def wait_until(
    condition: Callable[[], bool], *, seconds: float = DEADLINE_SECONDS, explain: Callable[[], object] = lambda: ""
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
