"""The live tail of events: what to ask for, what arrives, and when to come back after the connection broke."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Generic, TypeVar

from meterbook.errors import MeterbookError, RateLimitedError, ServerUnavailableError
from meterbook.events import StoredEvent
from meterbook.sse import Message, MessageReader
from meterbook.wire import Call, RetryPolicy, present

logger = logging.getLogger(__name__)

T = TypeVar("T")

STREAM_PATH = "/v1/events/stream"
DEFAULT_PAUSE_SECONDS = 2.0


@dataclass(slots=True)
class TailSession(Generic[T]):
    """One listener, across as many connections as it takes. `read` makes of a message's JSON what is handed out."""

    call: Call
    retry: RetryPolicy
    on_skipped: Callable[[int], None] | None
    read: Callable[[dict[str, Any]], T]
    _reader: MessageReader = field(default_factory=MessageReader)
    _failures: int = 0

    def headers(self) -> dict[str, str]:
        """Return the headers of the next connection, which resumes after the last event that arrived."""
        return self._reader.reconnect()

    def feed(self, piece: bytes) -> list[T]:
        """Take bytes of the stream; return what they complete."""
        self._failures = 0
        told = [message for message in self._reader.feed(piece) if self._is_told(message)]
        return [self.read(json.loads(message.data, parse_float=Decimal)) for message in told]

    def pause_after(self, failure: MeterbookError | None) -> float:
        """Return the seconds before the next connection. Raises the failure if another would not fare better."""
        if failure is None:
            return self._reader.retry_seconds or DEFAULT_PAUSE_SECONDS
        if not isinstance(failure, ServerUnavailableError | RateLimitedError):
            raise failure
        self._failures += 1
        return max(self.retry.backoff(self._failures), failure.retry_after or 0.0)

    def _is_told(self, message: Message) -> bool:
        if message.event == "skipped":
            count = json.loads(message.data)["count"]
            logger.warning("The tail skipped at least %d events; list the events to see them all.", count)
            if self.on_skipped is not None:
                self.on_skipped(count)
        return message.event == "message"


def events_tail(
    *,
    customer: str | list[str] | None = None,
    metric: str | list[str] | None = None,
    type: str | list[str] | None = None,
    on_skipped: Callable[[int], None] | None = None,
) -> TailSession[StoredEvent]:
    """Iterate over events as they arrive, until the caller stops or the client is closed.

    Reconnects by itself and resumes where it was. Of a list, any may match. A tail is for watching: when more arrives
    than it carries, it skips events, logs how many and tells `on_skipped`; whoever needs every event uses
    `list_events`. Raises `AuthenticationError` and `PermissionRefusedError` when the key is refused.
    """
    call = Call("GET", STREAM_PATH, present(customer=customer, metric=metric, type=type))
    return TailSession(call, RetryPolicy(longest_delay=15.0), on_skipped, StoredEvent.from_json)
