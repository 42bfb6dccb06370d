"""What goes over the wire: one JSON message per amount, encoded once, so that every attempt sends the same bytes.

A message is `["billing", Unix time, record, {"chunk": id}]`; messages follow each other without a separator. The
chunk asks for an acknowledgement and names it. It is made at random: the Go client's own could be another process's.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

CONTAINER_SECONDS = "container-seconds"
NODE_SECONDS = "node-seconds"
WEAVENET_SECONDS = "weavenet-seconds"
SAMPLES = "samples"

TAG = "billing"
MAX_AMOUNT = 2**63 - 1
MAX_AMOUNTS_PER_EVENT = 256
# What the listener takes as one message is more; a record belongs in a log line, not in a file.
MAX_MESSAGE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AmountsEvent:
    """One call of `add_amounts`: what it counts, and its messages by chunk. Zero amounts have no message."""

    unique_key: str
    amounts: Mapping[str, int]
    messages: Mapping[str, bytes]


def encode_event(
    *,
    unique_key: str,
    internal_instance_id: str,
    timestamp: datetime,
    amounts: Mapping[str, int],
    metadata: Mapping[str, str] | None,
) -> AmountsEvent:
    """Raises `ValueError` for what the server could not count."""
    _refuse_bad_amounts(amounts)
    shared = {
        "internal_instance_id": internal_instance_id,
        "metadata": None if metadata is None else dict(metadata),
        "occurred_at": _rfc_3339(timestamp),
    }
    messages: dict[str, bytes] = {}
    for amount_type, value in amounts.items():
        if value:
            record = {"amount_type": amount_type, "amount_value": value, **shared}
            chunk = base64.b64encode(secrets.token_bytes(16)).decode()
            messages[chunk] = _encode({**record, "unique_key": f"{unique_key}:{amount_type}"}, chunk)
    return AmountsEvent(unique_key, dict(amounts), messages)


def _encode(record: Mapping[str, object], chunk: str) -> bytes:
    message = [TAG, int(time.time()), record, {"chunk": chunk}]
    encoded = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    if len(encoded) > MAX_MESSAGE_BYTES:
        raise ValueError(f"A record has at most {MAX_MESSAGE_BYTES} bytes; refer to large metadata instead.")
    return encoded


def _refuse_bad_amounts(amounts: Mapping[str, int]) -> None:
    if len(amounts) > MAX_AMOUNTS_PER_EVENT:
        raise ValueError(f"One event has at most {MAX_AMOUNTS_PER_EVENT} amounts.")
    for amount_type, value in amounts.items():
        if not amount_type:
            raise ValueError("An amount has a type.")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_AMOUNT:
            raise ValueError(f"The amount of {amount_type} must be a whole number from 0 to {MAX_AMOUNT}: {value!r}")


def _rfc_3339(timestamp: datetime) -> str:
    if timestamp.tzinfo is None:
        raise ValueError("The timestamp needs a time zone.")
    return timestamp.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
