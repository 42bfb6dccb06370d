"""Webhooks: endpoints and deliveries as the server answers them, and how a receiver knows that a message is genuine.

`verify_webhook` implements Standard Webhooks with the standard library alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from meterbook.alerts import Alert
from meterbook.periods import optional_time, parse_time

SECRET_PREFIX = "whsec_"
SIGNATURE_VERSION = "v1"
# A message that was signed longer ago, or further ahead, may be a recording that somebody plays again.
TOLERANCE_SECONDS = 300
ALERT_CROSSED = "alert.crossed"


class Headers(Protocol):
    """The headers of a request, as any web framework has them: also those that are no mapping."""

    def items(self) -> Iterable[tuple[str, Any]]: ...


class WebhookVerificationError(Exception):
    """The message was not signed with this secret, was changed on its way, or is not recent. Answer 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookMessage:
    """A message whose signature is good. `id` is the same at every attempt and replay: handle each id once.

    `alert` is set for `alert.crossed`; `data` is what the message holds, whatever its type.
    """

    id: str
    type: str
    timestamp: datetime
    data: Mapping[str, Any]
    alert: Alert | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """An address that is told of crossings. `secret` is there only in the answer to its creation.

    Empty `message_types` or `metrics`: all of them.
    """

    id: str
    url: str
    description: str
    message_types: tuple[str, ...]
    metrics: tuple[str, ...]
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    created_at: datetime
    secret: str | None = field(default=None, repr=False)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> WebhookEndpoint:
        return cls(
            id=str(body["id"]),
            url=body["url"],
            description=body.get("description") or "",
            message_types=tuple(body.get("message_types") or ()),
            metrics=tuple(body.get("metrics") or ()),
            enabled=bool(body["enabled"]),
            disabled_reason=body.get("disabled_reason") or None,
            failing_since=optional_time(body.get("failing_since")),
            created_at=parse_time(body["created_at"]),
            secret=body.get("secret"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedSecret:
    """The new secret. Until `previous_secret_until` messages carry a signature of the old one as well."""

    secret: str = field(repr=False)
    previous_secret_until: datetime | None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> RotatedSecret:
        return cls(secret=body["secret"], previous_secret_until=optional_time(body.get("previous_secret_until")))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttempt:
    """One request to an endpoint. `status_code` None: no answer came, and `error` says why."""

    attempted_at: datetime
    duration_ms: int
    status_code: int | None
    error: str
    answer: str

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> DeliveryAttempt:
        return cls(
            attempted_at=parse_time(body["attempted_at"]),
            duration_ms=int(body["duration_ms"]),
            status_code=body.get("status_code"),
            error=body.get("error") or "",
            answer=body.get("answer") or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDelivery:
    """One message for one endpoint. `state` is pending, delivered or failed; lists leave `attempts` empty."""

    id: str
    message_id: str
    type: str
    state: str
    attempt_count: int
    next_attempt_at: datetime | None
    created_at: datetime
    settled_at: datetime | None
    payload: Mapping[str, Any]
    attempts: tuple[DeliveryAttempt, ...] = ()

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> WebhookDelivery:
        return cls(
            id=str(body["id"]),
            message_id=body["message_id"],
            type=body["type"],
            state=body["state"],
            attempt_count=int(body["attempt_count"]),
            next_attempt_at=optional_time(body.get("next_attempt_at")),
            created_at=parse_time(body["created_at"]),
            settled_at=optional_time(body.get("settled_at")),
            payload=body.get("payload") or {},
            attempts=tuple(DeliveryAttempt.from_json(attempt) for attempt in body.get("attempts") or ()),
        )


def verify_webhook(
    secret: str | Iterable[str],
    headers: Headers,
    body: bytes | str,
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> WebhookMessage:
    """Return the message of a request, if it was signed with the secret, or one of several, within the tolerance.

    `headers` may be of any case and `body` must be the bytes as they came, before any parsing. `now` is a Unix time,
    for tests. Raises `WebhookVerificationError`, and `ValueError` for a secret that is none.
    """
    keys = [_decode_secret(text) for text in ([secret] if isinstance(secret, str) else secret)]
    content = body.encode() if isinstance(body, str) else bytes(body)
    message_id, timestamp, signatures = _signed_headers(headers)
    _refuse_old(timestamp, tolerance_seconds, time.time() if now is None else now)
    signed = b".".join([message_id.encode(), timestamp.encode(), content])
    expected = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    # Every pair is compared, so that the time taken tells nothing about which came close.
    matches = [hmac.compare_digest(good, given) for good in expected for given in signatures]
    if not any(matches):
        raise WebhookVerificationError("No signature of the message is of this secret.")
    return _read_message(message_id, content)


def _decode_secret(text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(f"A webhook secret is base64, usually after {SECRET_PREFIX!r}.")
    return key


def _signed_headers(headers: Headers) -> tuple[str, str, list[bytes]]:
    """Return the message's id, its time as it was signed, and the signatures in the version that we know."""
    by_name = {name.lower(): str(value) for name, value in headers.items()}
    try:
        message_id, timestamp = by_name["webhook-id"], by_name["webhook-timestamp"]
        listed = by_name["webhook-signature"].split()
    except KeyError as missing:
        raise WebhookVerificationError(f"The header {missing.args[0]} is missing.") from None
    pairs = (signature.partition(",") for signature in listed)
    return message_id, timestamp, [text.encode() for version, _, text in pairs if version == SIGNATURE_VERSION]


def _refuse_old(timestamp: str, tolerance_seconds: float, now: float) -> None:
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 15):
        raise WebhookVerificationError("The header webhook-timestamp is no Unix time.")
    if abs(now - int(timestamp)) > tolerance_seconds:
        raise WebhookVerificationError("The message is not of now; is the clock right?")


def _read_message(message_id: str, content: bytes) -> WebhookMessage:
    try:
        body = json.loads(content, parse_float=Decimal)
        data = body.get("data") or {}
        return WebhookMessage(
            id=message_id,
            type=body["type"],
            timestamp=parse_time(body["timestamp"]),
            data=data,
            alert=Alert.from_json(data) if body["type"] == ALERT_CROSSED else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WebhookVerificationError("The message is signed, but it is none of Meterbook's.") from None
