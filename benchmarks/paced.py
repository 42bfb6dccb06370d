"""A steady load with probes in it: so many events a second, and now and then one that crosses a threshold.

`send_paced` starts the process; `python -m benchmarks.paced` is the process: a `PacedLoad` in, a `PacedOutcome` out, as
JSON. Its times are of the clock that all processes of a machine share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import msgspec

from benchmarks.load import Connection, LoadFailed, Template

# The metric of the probes, which counts them; each connection's own customer sends them.
PROBE = "probe"


class PacedLoad(msgspec.Struct, kw_only=True):
    """`events_per_second` in batches over some connections; every `probe_every`-th batch has one event more."""

    port: int
    api_key: str
    seconds: float
    events_per_second: int
    batch_size: int
    probe_every: int
    connections: int = 4


class PacedOutcome(msgspec.Struct, kw_only=True):
    """For each customer that probes: when the answer to its 1st, 2nd … probe was there. `time.monotonic`, seconds."""

    seconds: float
    events: int
    latencies_ms: list[float]
    answered: dict[str, list[float]]


def probing_customer(number: int) -> str:
    return f"{PROBE}_{number}"


def probe_event(customer: str) -> bytes:
    return b'{"idempotency_key":"%s","customer":"%s","type":"%s"}' % (
        os.urandom(16).hex().encode(),
        customer.encode(),
        PROBE.encode(),
    )


def send_paced(load: PacedLoad) -> PacedOutcome:
    """Put the load on the server from another process and return what came of it."""
    command = [sys.executable, "-m", "benchmarks.paced"]
    done = subprocess.run(command, input=msgspec.json.encode(load), capture_output=True, timeout=load.seconds + 120)
    if done.returncode != 0:
        raise LoadFailed(done.stderr.decode(errors="replace").strip())
    return msgspec.json.decode(done.stdout, type=PacedOutcome)


class _Answer(msgspec.Struct):
    stored: int = 0


@dataclass
class _Sender(threading.Thread):
    """One connection; a batch that is late is followed at once, so that the pace holds as long as it can."""

    load: PacedLoad
    number: int
    starts_at: float
    events: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        try:
            self._send()
        except BaseException as error:
            self.failure = error

    def _send(self) -> None:
        load = self.load
        pause = load.batch_size * load.connections / load.events_per_second
        template = Template(load.batch_size, self.number)
        connection = Connection(load.port, load.api_key)
        for turn in range(int(load.seconds / pause)):
            # The connections take turns, so that batches come evenly.
            due = self.starts_at + (turn + self.number / load.connections) * pause
            time.sleep(max(0.0, due - time.monotonic()))
            body = template.renew(load.batch_size)
            is_probing = turn % load.probe_every == 0
            if is_probing:
                body = body[:-1] + b"," + probe_event(probing_customer(self.number)) + b"]"
            sent = time.monotonic()
            status, answer = connection.post("/v1/events", body)
            now = time.monotonic()
            count = load.batch_size + is_probing
            if status != 200 or msgspec.json.decode(answer, type=_Answer).stored != count:
                raise LoadFailed(f"status {status}: {answer[:500].decode(errors='replace')}")
            self.latencies_ms.append((now - sent) * 1000)
            self.events += count
            if is_probing:
                self.answered.append(now)
        connection.close()


def put_paced_load(load: PacedLoad) -> PacedOutcome:
    starts_at = time.monotonic() + 0.5
    senders = [_Sender(load, number, starts_at) for number in range(load.connections)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
        if sender.failure is not None:
            raise LoadFailed(str(sender.failure)) from sender.failure
    return PacedOutcome(
        seconds=time.monotonic() - starts_at,
        events=sum(sender.events for sender in senders),
        latencies_ms=[latency for sender in senders for latency in sender.latencies_ms],
        answered={probing_customer(sender.number): sender.answered for sender in senders},
    )


if __name__ == "__main__":
    outcome = put_paced_load(msgspec.json.decode(sys.stdin.buffer.read(), type=PacedLoad))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
