"""The event as it arrives: the one shape that every ingest dialect produces and `metering.admission` examines."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec


class IncomingEvent(msgspec.Struct, forbid_unknown_fields=True):
    """Fields as the sender gave them. `value`, `timestamp` and `properties` are examined later, one event at a time.

    Numbers with a fraction or exponent are `Decimal`, never float.
    """

    idempotency_key: str | None = None
    customer: str | None = None
    type: str | None = None
    metric: str | None = None
    value: Any = None
    timestamp: Any = None
    properties: dict[str, Any] | None = None
    operation: str | None = None
    delivery: Literal["sync", "async"] | None = None


class QueuedEvent(IncomingEvent):
    """An event that arrived earlier than it is ingested: from the asynchronous queue or the inbox.

    Its arrival stands in for a time of its own, exactly as if it had been ingested then.
    """

    arrived_at: datetime | None = None


class MalformedEvent(msgspec.Struct):
    """An array member that is JSON but not an event; it takes its place in the batch so that indexes stay true."""

    field: str
    message: str
    idempotency_key: str | None = None
    # The verdict's code; empty: as the field says.
    code: str = ""
