"""From a queue to the meter: messages are sent in large batches in the background and acknowledged when stored.

The queue stands for Kafka, SQS or the like, which deliver at least once. A message's own id is the event's key, so
what is delivered twice counts once, and acknowledging only after `flush` loses nothing in a crash.
"""

import argparse
import contextlib
import json
import os
import queue
import threading
import time
from dataclasses import dataclass

from meterbook import AlreadyExistsError, BufferedIngest, Client, Event, current_month

METRIC = "messages_processed"
CUSTOMERS = 50
ACKNOWLEDGE_EVERY = 2_000
REDELIVERED = 100


@dataclass(frozen=True, slots=True)
class Message:
    id: str
    customer: str
    size: int


class Queue:
    """A queue that delivers at least once, in memory."""

    def __init__(self, count: int) -> None:
        self._messages: queue.Queue[Message | None] = queue.Queue(maxsize=10_000)
        self.acknowledged = 0
        threading.Thread(target=self._produce, args=(count,), daemon=True).start()

    def _produce(self, count: int) -> None:
        month = f"{current_month().start:%Y-%m}"
        for number in [*range(count), *range(min(count, REDELIVERED))]:
            self._messages.put(Message(f"{month}:{number}", f"customer-{number % CUSTOMERS}", number % 7))
        self._messages.put(None)

    def receive(self) -> Message | None:
        """Return the next message; None: there will be no more."""
        return self._messages.get()

    def acknowledge(self, messages: list[Message]) -> None:
        self.acknowledged += len(messages)


def pump(source: Queue, buffer: BufferedIngest) -> None:
    """Move everything from the queue to the meter. Acknowledges what is stored, and nothing else."""
    unacknowledged: list[Message] = []
    while message := source.receive():
        buffer.add(
            Event(
                idempotency_key=message.id,
                customer=message.customer,
                metric=METRIC,
                value=message.size,
                timestamp=current_month().start,
            )
        )
        unacknowledged.append(message)
        if len(unacknowledged) >= ACKNOWLEDGE_EVERY and buffer.flush(60):
            source.acknowledge(unacknowledged)
            unacknowledged = []
    if buffer.flush(60):
        source.acknowledge(unacknowledged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("METERBOOK_URL", "http://localhost:8000"))
    parser.add_argument("--api-key", default=os.environ.get("METERBOOK_API_KEY"), help="METERBOOK_API_KEY")
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()

    with Client(options.url, options.api_key, compress=True) as client:
        with contextlib.suppress(AlreadyExistsError):
            client.metrics.create(METRIC, "sum", unit="byte")

        source = Queue(options.messages)
        began = time.monotonic()
        with client.buffered(batch_size=2_000) as buffer:
            pump(source, buffer)
        seconds = time.monotonic() - began

        counters = buffer.counters
        print(
            json.dumps(
                {
                    "stored": counters.stored,
                    "duplicates": counters.duplicates,
                    "rejected": counters.rejected,
                    "acknowledged": source.acknowledged,
                    "total": str(client.query(metric=METRIC).value),
                    "events_per_second": round(counters.added / seconds),
                }
            )
        )


if __name__ == "__main__":
    main()
