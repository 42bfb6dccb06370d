"""The process that sends what the billing-client sends, byte for byte but for the keys.

`send_forward` starts it; `python -m benchmarks.forward_load` is the process: a `ForwardLoad` in, a `ForwardOutcome`
out, as JSON. Where it asks for acknowledgements, the option of the message does.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import msgspec

from benchmarks.load import LoadFailed

INSTANCES = 20
AMOUNT_TYPES = (b"samples", b"node-seconds", b"container-seconds")
# Records that are written at once: about what fits into the kernel's buffer.
WRITTEN_RECORDS = 300
PATIENCE_SECONDS = 60


class ForwardLoad(msgspec.Struct, kw_only=True):
    """With a pace, every record is acknowledged; without, they are sent as fast as they are taken."""

    port: int
    seconds: float
    connections: int
    occurred_at: str
    prefix: str
    records_per_second: int = 0


class ForwardOutcome(msgspec.Struct, kw_only=True):
    """`started_at` is of the clock that all processes of a machine share."""

    started_at: float
    records: int
    latencies_ms: list[float] = []


def send_forward(load: ForwardLoad) -> ForwardOutcome:
    """Put the load on the listener from another process and return what came of it."""
    command = [sys.executable, "-m", "benchmarks.forward_load"]
    done = subprocess.run(command, input=msgspec.json.encode(load), capture_output=True, timeout=load.seconds + 120)
    if done.returncode != 0:
        raise LoadFailed(done.stderr.decode(errors="replace").strip())
    return msgspec.json.decode(done.stdout, type=ForwardOutcome)


@dataclass
class _Sender:
    """One connection and what it sends."""

    load: ForwardLoad
    number: int
    connection: socket.socket
    count: int = 0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    # When the records that are not acknowledged were sent.
    waiting: deque[float] = field(default_factory=deque)
    answer: bytes = b""

    def message(self) -> bytes:
        """Return the next record as the billing-client writes it."""
        number, self.count = self.count, self.count + 1
        kind = AMOUNT_TYPES[number % len(AMOUNT_TYPES)]
        key = f"{self.load.prefix}-{self.number}-{number}"
        option = b'{"chunk":"%024d"}' % number if self.load.records_per_second else b"null"
        return (
            b'["billing",1795212979,{"amount_type":"%s","amount_value":%d,"internal_instance_id":"%d",'
            b'"metadata":{"report_id":"r-%d"},"occurred_at":"%s","unique_key":"%s:%s"},%s]'
        ) % (
            kind,
            number % 5_000 + 1,
            number % INSTANCES,
            number % 100,
            self.load.occurred_at.encode(),
            key.encode(),
            kind,
            option,
        )


def send_at_full_speed(load: ForwardLoad) -> ForwardOutcome:
    selector = selectors.DefaultSelector()
    senders = [_Sender(load, number, _connect(load.port)) for number in range(load.connections)]
    for sender in senders:
        selector.register(sender.connection, selectors.EVENT_WRITE, sender)
    started = time.monotonic()
    while time.monotonic() - started < load.seconds:
        for key, _ in selector.select(0.1):
            sender = key.data
            if not sender.unsent:
                sender.unsent = memoryview(b"".join([sender.message() for _ in range(WRITTEN_RECORDS)]))
            sender.unsent = sender.unsent[sender.connection.send(sender.unsent) :]
    for sender in senders:
        sender.connection.setblocking(True)
        sender.connection.sendall(sender.unsent)
        sender.connection.close()
    return ForwardOutcome(started_at=started, records=sum(sender.count for sender in senders))


def send_at_a_pace(load: ForwardLoad) -> ForwardOutcome:
    """Send one record after the other over the connections in turn; time each until its acknowledgement."""
    selector = selectors.DefaultSelector()
    senders = [_Sender(load, number, _connect(load.port)) for number in range(load.connections)]
    for sender in senders:
        selector.register(sender.connection, selectors.EVENT_READ, sender)
    started = time.monotonic()
    total, sent = int(load.seconds * load.records_per_second), 0
    latencies: list[float] = []
    while len(latencies) < total:
        now = time.monotonic()
        if now - started > load.seconds + PATIENCE_SECONDS:
            raise LoadFailed(f"{total - len(latencies)} records were not acknowledged.")
        due = min(total, int((now - started) * load.records_per_second) + 1)
        while sent < due:
            sender = senders[sent % len(senders)]
            sender.waiting.append(time.monotonic())
            sender.connection.send(sender.message())
            sent += 1
        for key, _ in selector.select(0.001):
            latencies += _read_acknowledgements(key.data)
    return ForwardOutcome(started_at=started, records=total, latencies_ms=latencies)


def _read_acknowledgements(sender: _Sender) -> list[float]:
    answer = sender.connection.recv(65_536)
    if not answer:
        raise LoadFailed("The listener closed a connection.")
    now = time.monotonic()
    *whole, sender.answer = (sender.answer + answer).split(b"}")
    return [(now - sender.waiting.popleft()) * 1_000 for _ in whole]


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=ForwardLoad)
    outcome = send_at_a_pace(asked) if asked.records_per_second else send_at_full_speed(asked)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
