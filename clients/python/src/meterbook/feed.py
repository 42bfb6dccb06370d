"""What a subscription to alerts knows: its place in the log, the buffer, and when to come back. No thread, no network.

The log is the truth and the stream is only the quick way to its end. Every connection asks for what comes after the
last alert that is held here, so that a lost connection, a restarted server or a full buffer costs time and no
alert. Not thread-safe: the subscriptions guard it.
"""

from __future__ import annotations

import json
import random
from collections import deque
from decimal import Decimal

from meterbook.alerts import Alert
from meterbook.errors import AuthenticationError, MeterbookError, RateLimitedError, ServerUnavailableError
from meterbook.sse import MessageReader
from meterbook.verbs.alerts import MAX_PAGE, Names, alerts_call, listed
from meterbook.wire import Call, RetryPolicy, present

STREAM_PATH = "/v1/alerts/stream"
DEFAULT_BUFFER = 64
DEFAULT_PAUSE_SECONDS = 2.0
# The ticket in a redirect may have run out on its way, so one refusal is asked about again before it counts.
REFUSALS_BELIEVED = 2


class AlertFeed:
    def __init__(self, *, customers: Names, metrics: Names, position: int, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("A subscription needs a buffer of at least one alert.")
        # The offset of the last alert that the consumer took; before the first, where the subscription began.
        self.taken = position
        # Of the last one that was received and is not needed again.
        self.held = position
        self.dropped = 0
        # Something did not fit the buffer: read it from the log before listening again.
        self.is_behind = False
        # The server has nothing more for this connection and expects another.
        self.must_reconnect = False
        self._capacity = capacity
        self._selection = present(customer=listed(customers), metric=listed(metrics))
        self._buffer: deque[Alert] = deque()
        self._reader = MessageReader()
        self._retry = RetryPolicy(longest_delay=10.0)
        self._failures = 0
        self._refusals = 0

    # --- the consumer's side ---

    @property
    def has_alert(self) -> bool:
        return bool(self._buffer)

    def take(self) -> Alert:
        alert = self._buffer.popleft()
        self.taken = alert.offset
        return alert

    # --- the stream ---

    def open_stream(self) -> tuple[Call, dict[str, str]]:
        """Return the call of the next connection and its headers. What the last one left half-read is forgotten."""
        self.must_reconnect = False
        self._reader = MessageReader()
        call = Call("GET", STREAM_PATH, [("since", str(self.held)), *self._selection])
        return call, {"Accept": "text/event-stream"}

    def take_bytes(self, piece: bytes) -> None:
        self._failures = self._refusals = 0
        for message in self._reader.feed(piece):
            if message.event == "message":
                self._receive(Alert.from_json(json.loads(message.data, parse_float=Decimal)))
            elif message.event == "resume":
                self.must_reconnect = True

    def _receive(self, alert: Alert) -> None:
        if alert.offset <= self.held:
            return
        if self.is_behind or len(self._buffer) >= self._capacity:
            self.is_behind = True
            self.dropped += 1
            return
        self._hold(alert)

    # --- the log, for who is behind ---

    @property
    def has_room_for_page(self) -> bool:
        """Whether a request to the log is worth it: half the buffer is free."""
        return len(self._buffer) <= self._capacity // 2

    def open_page(self) -> tuple[Call, int]:
        """Return the call that reads on from the log, and for how many alerts it asks: as many as there is room for."""
        limit = min(self._capacity - len(self._buffer), MAX_PAGE)
        call = alerts_call(since=self.held, limit=limit)
        return Call(call.method, call.path, [*call.parameters, *self._selection]), limit

    def take_page(self, alerts: list[Alert], limit: int) -> None:
        self._failures = self._refusals = 0
        for alert in alerts:
            if alert.offset > self.held:
                self._hold(alert)
        self.is_behind = len(alerts) >= limit

    def _hold(self, alert: Alert) -> None:
        self._buffer.append(alert)
        self.held = alert.offset

    # --- between connections ---

    def pause_after(self, failure: MeterbookError | None) -> float:
        """Return the seconds before the next request. Raises the failure where another would not fare better."""
        if failure is None:
            if self.is_behind or self.must_reconnect:
                return 0.0
            return (self._reader.retry_seconds or DEFAULT_PAUSE_SECONDS) * random.uniform(0.5, 1.0)
        if isinstance(failure, AuthenticationError) and self._refusals + 1 < REFUSALS_BELIEVED:
            self._refusals += 1
            return self._retry.backoff(0)
        if not isinstance(failure, ServerUnavailableError | RateLimitedError):
            raise failure
        pause = max(self._retry.backoff(self._failures), failure.retry_after or 0.0)
        self._failures += 1
        return pause
