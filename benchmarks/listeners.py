"""A thousand readers of the alert stream in a process of their own: opened, kept open, counted.

`open_streams` starts the process; `python -m benchmarks.listeners` is the process: a `Crowd` as the first line in, the
word `open` out once all of them listen, and what they heard as JSON when its input ends.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from benchmarks.load import LoadFailed

OPENING_SECONDS = 60
# So many open at the same time; a stampede would only measure the listening queue.
OPENING_AT_ONCE = 50


class Crowd(msgspec.Struct, kw_only=True):
    """How many streams of one organization; they take turns in which of the customers each wants."""

    port: int
    api_key: str
    count: int
    customers: tuple[str, ...]


class Heard(msgspec.Struct, kw_only=True):
    """`open_count`: how many were still open at the end."""

    open_count: int
    messages: int
    cpu_seconds: float


@dataclass(slots=True)
class Streams:
    """The streams from outside; `heard` is there once they are closed."""

    heard: Heard | None = None


@contextmanager
def open_streams(crowd: Crowd) -> Iterator[Streams]:
    """Keep the streams open for as long as the block lasts. Raises `LoadFailed` unless all of them stay open."""
    command = [sys.executable, "-m", "benchmarks.listeners"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    streams = Streams()
    try:
        process.stdin.write(msgspec.json.encode(crowd) + b"\n")
        process.stdin.flush()
        if process.stdout.readline() != b"open\n":
            raise LoadFailed(process.communicate()[1].decode(errors="replace").strip())
        yield streams
        output, _ = process.communicate(timeout=30)  # ends its input
        streams.heard = msgspec.json.decode(output, type=Heard)
    finally:
        process.kill()
        process.wait()
    if streams.heard.open_count != crowd.count:
        raise LoadFailed(f"Only {streams.heard.open_count} of {crowd.count} streams stayed open.")


class _Crowd:
    """All streams of this process."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._door = asyncio.Semaphore(OPENING_AT_ONCE)
        self._writers: list[asyncio.StreamWriter] = []  # or they would be collected, and closed
        self.open_count = 0
        self.messages = 0

    async def open_all(self) -> list[asyncio.Task[None]]:
        crowd = self._crowd
        readers = await asyncio.gather(
            *(self._open(crowd.customers[number % len(crowd.customers)]) for number in range(crowd.count))
        )
        return [asyncio.create_task(self._listen(reader)) for reader in readers]

    async def _open(self, customer: str) -> asyncio.StreamReader:
        async with self._door:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._crowd.port)
            writer.write(
                f"GET /v1/alerts/stream?customer={quote(customer)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {self._crowd.api_key}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"retry:")
            if not head.startswith(b"HTTP/1.1 200"):
                raise LoadFailed(head.decode(errors="replace"))
            self._writers.append(writer)
            return reader

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        self.open_count += 1
        try:
            while piece := await reader.read(65_536):
                self.messages += piece.count(b"\ndata: ")
        finally:
            self.open_count -= 1


async def _run() -> Heard:
    loop = asyncio.get_running_loop()
    crowd = _Crowd(msgspec.json.decode(sys.stdin.buffer.readline(), type=Crowd))
    async with asyncio.timeout(OPENING_SECONDS):
        listening = await crowd.open_all()
    cpu_before = time.process_time()
    print("open", flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    heard = Heard(open_count=crowd.open_count, messages=crowd.messages, cpu_seconds=time.process_time() - cpu_before)
    for task in listening:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*listening)
    return heard


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(msgspec.json.encode(asyncio.run(_run())).decode())
