"""The load: a process of its own that sends requests over a few kept-open connections and times each answer.

Everything but the keys is encoded before the clock starts, and HTTP is spoken on bare sockets, so that the client
takes as little as possible of the cores that it shares with the server. `send` starts the process; `python -m
benchmarks.load` is the process: a `Load` in, an `Outcome` out, as JSON.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice

import msgspec

from benchmarks.workload import recent_usages

KEY_DIGITS = 32
RECEIVE_BYTES = 65_536
# Each connection alternates between so many prepared bodies.
TEMPLATES = 4


class Load(msgspec.Struct, kw_only=True):
    """What to send for how long. `repeated_share` of each request's events are sent for the second time."""

    port: int
    api_key: str
    batch_size: int
    seconds: float
    connections: int = 4
    repeated_share: float = 0.0
    is_async: bool = False
    # Tells the keys of this load from those of all others.
    seed: int = 0


class Outcome(msgspec.Struct, kw_only=True):
    """What came back. `seconds` reach from the first request's start to the last answer."""

    seconds: float
    requests: int
    stored: int
    duplicates: int
    latencies_ms: list[float]
    # Of the process that sends: where this nears one core, the figure is the client's, not the server's.
    client_cpu_seconds: float

    @property
    def events_per_second(self) -> float:
        return (self.stored + self.duplicates) / self.seconds


class LoadFailed(Exception):
    """The server answered something else than that all events are stored or known."""


def send(load: Load) -> Outcome:
    """Put the load on the server from another process and return what came of it."""
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(command, input=msgspec.json.encode(load), capture_output=True, timeout=load.seconds + 120)
    if done.returncode != 0:
        raise LoadFailed(done.stderr.decode(errors="replace").strip())
    return msgspec.json.decode(done.stdout, type=Outcome)


# --- HTTP -----------------------------------------------------------------------------------------------------


class Connection:
    """One kept-open HTTP/1.1 connection; knows just enough to talk to our own server."""

    def __init__(self, port: int, api_key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._common = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {api_key}\r\n"

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        head = (
            f"POST {path} HTTP/1.1\r\n{self._common}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        return self._receive()

    def get(self, path: str) -> tuple[int, bytes]:
        self._socket.sendall(f"GET {path} HTTP/1.1\r\n{self._common}\r\n".encode())
        return self._receive()

    def _receive(self) -> tuple[int, bytes]:
        received = self._read_some()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._read_some()
        head = received[:end].decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        parts, missing = [received[end + 4 :]], length - (len(received) - end - 4)
        while missing > 0:
            parts.append(self._read_some())
            missing -= len(parts[-1])
        return status, b"".join(parts)

    def _read_some(self) -> bytes:
        received = self._socket.recv(RECEIVE_BYTES)
        if not received:
            raise LoadFailed("The server closed the connection.")
        return received

    def close(self) -> None:
        self._socket.close()


# --- bodies ---------------------------------------------------------------------------------------------------


class Template:
    """A request body whose keys are still to be filled in."""

    def __init__(self, batch_size: int, seed: int) -> None:
        events = ",".join(usage.as_json("\0") for usage in islice(recent_usages(seed=seed), batch_size))
        # Odd places hold the keys.
        self._pieces = [piece for part in f"[{events}]".split("\0") for piece in (part.encode(), b"")][:-1]
        self._size = batch_size
        self._next = 0
        self.renew(batch_size)

    def renew(self, count: int) -> bytes:
        """Return the body with `count` new keys, taking turns; the other events keep the keys they had."""
        digits = os.urandom(count * KEY_DIGITS // 2).hex().encode()
        for number in range(count):
            place = (self._next + number) % self._size
            self._pieces[2 * place + 1] = digits[number * KEY_DIGITS : (number + 1) * KEY_DIGITS]
        self._next = (self._next + count) % self._size
        return b"".join(self._pieces)


# --- sending --------------------------------------------------------------------------------------------------


class _Answer(msgspec.Struct):
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    accepted: int = 0


_answers = msgspec.json.Decoder(_Answer)


@dataclass
class _Sender(threading.Thread):
    """One connection: warms up, waits for the others, then sends until the time is over."""

    load: Load
    number: int
    start_line: threading.Barrier
    stored: int = 0
    duplicates: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        try:
            self._send()
        except BaseException as error:
            self.failure = error
            self.start_line.abort()

    def _send(self) -> None:
        load = self.load
        path = "/v1/events?durability=async" if load.is_async else "/v1/events"
        new_count = load.batch_size - round(load.batch_size * load.repeated_share)
        first_seed = (load.seed * load.connections + self.number) * TEMPLATES
        templates = [Template(load.batch_size, first_seed + number) for number in range(TEMPLATES)]
        connection = Connection(load.port, load.api_key)
        for template in templates:
            _count(connection.post(path, template.renew(load.batch_size)), load)
        self.start_line.wait()
        self.started = time.perf_counter()
        deadline = self.started + load.seconds
        for template in cycle(templates):
            body = template.renew(new_count)
            sent = time.perf_counter()
            answer = connection.post(path, body)
            self.ended = time.perf_counter()
            self.latencies_ms.append((self.ended - sent) * 1000)
            counted = _count(answer, load)
            self.stored += counted.stored + counted.accepted
            self.duplicates += counted.duplicates
            if self.ended >= deadline:
                break
        connection.close()


def _count(answer: tuple[int, bytes], load: Load) -> _Answer:
    status, body = answer
    counted = _answers.decode(body) if status in {200, 202} else _Answer()
    if counted.stored + counted.duplicates + counted.accepted != load.batch_size:
        raise LoadFailed(f"status {status}: {body[:500].decode(errors='replace')}")
    return counted


def put_load(load: Load) -> Outcome:
    start_line = threading.Barrier(load.connections + 1)
    senders = [_Sender(load, number, start_line) for number in range(load.connections)]
    for sender in senders:
        sender.start()
    with suppress(threading.BrokenBarrierError):  # the sender that broke it says why, below
        start_line.wait()
    cpu_before = time.process_time()
    for sender in senders:
        sender.join()
    for sender in senders:
        if sender.failure is not None and not isinstance(sender.failure, threading.BrokenBarrierError):
            raise LoadFailed(str(sender.failure)) from sender.failure
    return Outcome(
        seconds=max(sender.ended for sender in senders) - min(sender.started for sender in senders),
        requests=sum(len(sender.latencies_ms) for sender in senders),
        stored=sum(sender.stored for sender in senders),
        duplicates=sum(sender.duplicates for sender in senders),
        latencies_ms=[latency for sender in senders for latency in sender.latencies_ms],
        client_cpu_seconds=time.process_time() - cpu_before,
    )


if __name__ == "__main__":
    outcome = put_load(msgspec.json.decode(sys.stdin.buffer.read(), type=Load))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
