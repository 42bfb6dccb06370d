"""Events as they are sent, verdicts as they come back, and stored events as they are read."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeAlias

from meterbook.errors import EventError, FieldError, ValidationError
from meterbook.periods import optional_time, parse_time, time_text
from meterbook.quantities import Quantity, decimal_text, to_decimal

PropertyValue: TypeAlias = str | int | float | bool | Decimal


class Operation(StrEnum):
    """What an event does to the members of a distinct count."""

    ADD = "add"
    REMOVE = "remove"


class Durability(StrEnum):
    """When an `ingest` is answered: after the commit, or as soon as the events are in the server's durable stream."""

    SYNC = "sync"
    ASYNC = "async"


def new_key() -> str:
    """Return a unique idempotency key.

    It begins with the time, like a UUID of version 7: keys that were made together lie together in the server's
    index, which makes their insertion cheaper.
    """
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One usage fact to send. Names either its `type` or, for those who think in metrics, a `metric`.

    The key is made when the event is, so sending the same `Event` again, now or after a restart of the server, is
    the same event and counts once. `value` is 1 where a count needs none; for a distinct count it is the member.
    `timestamp` is when it happened: an aware datetime, a Unix number or RFC 3339 text; without one, the arrival.
    """

    customer: str
    type: str | None = None
    metric: str | None = None
    value: Quantity | None = None
    timestamp: datetime | int | str | None = None
    properties: Mapping[str, PropertyValue] = field(default_factory=dict)
    operation: Operation | str | None = None
    delivery: Durability | str | None = None
    idempotency_key: str = field(default_factory=new_key)

    def as_json(self) -> dict[str, Any]:
        """Return the event as it travels. Raises `ValueError` for what no server could accept."""
        return event_json(
            {
                "idempotency_key": self.idempotency_key,
                "customer": self.customer,
                "type": self.type,
                "metric": self.metric,
                "value": self.value,
                "timestamp": self.timestamp,
                "properties": self.properties,
                "operation": self.operation,
                "delivery": self.delivery,
            }
        )


EventLike: TypeAlias = Event | Mapping[str, Any]


def event_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event's fields as they travel: absent ones left out, quantities and times as text, a key in any case.

    A mapping without a key gets a new one, so the caller who wants to repeat it must send an `Event` or a key.
    """
    body = {name: value for name, value in fields.items() if value is not None and value != {}}
    if ("type" in body) == ("metric" in body):
        raise ValueError("An event names exactly one of `type` and `metric`.")
    if "value" in body and not isinstance(body["value"], str):
        body["value"] = decimal_text(body["value"])
    if "timestamp" in body:
        body["timestamp"] = time_text(body["timestamp"])
    if "properties" in body:
        body["properties"] = {name: property_json(value) for name, value in body["properties"].items()}
    if "idempotency_key" not in body:
        body["idempotency_key"] = new_key()
    return body


def property_json(value: Any) -> Any:
    """Return a property as it travels. A `Decimal` with a fraction travels as text, because JSON's encoder knows
    no other exact form; a metric that reads its quantity from the property accepts both."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else decimal_text(value)


def as_event_json(event: EventLike) -> dict[str, Any]:
    return event.as_json() if isinstance(event, Event) else event_json(event)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of the events of one `ingest`.

    `stored` were new; `duplicates` had been stored before and count once; `rejected` were refused, each with an
    entry in `errors`. `accepted` were taken for asynchronous storage. Offsets number the stored events of the
    organization in the order of arrival.
    """

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    accepted: int = 0
    errors: tuple[EventError, ...] = ()
    first_offset: str | None = None
    last_offset: str | None = None

    @classmethod
    def from_json(cls, body: Mapping[str, Any], *, first_index: int = 0) -> IngestResult:
        return cls(
            stored=body.get("stored", 0),
            duplicates=body.get("duplicates", 0),
            rejected=body.get("rejected", 0),
            accepted=body.get("accepted", 0),
            errors=tuple(EventError.from_json(error, first_index=first_index) for error in body.get("errors") or ()),
            first_offset=body.get("first_offset"),
            last_offset=body.get("last_offset"),
        )

    def __add__(self, other: IngestResult) -> IngestResult:
        return IngestResult(
            stored=self.stored + other.stored,
            duplicates=self.duplicates + other.duplicates,
            rejected=self.rejected + other.rejected,
            accepted=self.accepted + other.accepted,
            errors=self.errors + other.errors,
            first_offset=self.first_offset if self.first_offset is not None else other.first_offset,
            last_offset=other.last_offset if other.last_offset is not None else self.last_offset,
        )

    def raise_for_rejected(self) -> None:
        """Raise `ValidationError` if any event was refused, for callers who count on all of them."""
        if self.rejected:
            raise ValidationError(
                f"{self.rejected} events were rejected; the first: {self.errors[0].message}"
                if self.errors
                else f"{self.rejected} events were rejected.",
                code=self.errors[0].code if self.errors else "rejected",
                errors=[FieldError(e.field, e.code, e.message, e.index) for e in self.errors],
                result=self,
            )


def merge_results(results: Iterable[IngestResult]) -> IngestResult:
    return sum(results, start=IngestResult())


@dataclass(frozen=True, slots=True)
class ValidEvent:
    """An event that could be stored, and the metrics that it would change."""

    index: int
    idempotency_key: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What would become of some events: the verdicts as `ingest` would give them, and what each would change."""

    verdicts: IngestResult
    events: tuple[ValidEvent, ...]

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> ValidationResult:
        return cls(
            IngestResult.from_json(body),
            tuple(
                ValidEvent(item["index"], item["idempotency_key"], tuple(item["metrics"])) for item in body["events"]
            ),
        )


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as the server keeps it. Never edited: that it was voided or replaced is noted beside it."""

    idempotency_key: str
    customer: str
    type: str
    # A quantity as `Decimal`; the member, as text, of a distinct count.
    value: Decimal | str | None
    operation: str
    timestamp: datetime
    received_at: datetime | None
    offset: str | None
    properties: Mapping[str, Any]
    metrics: tuple[str, ...]
    voided_at: datetime | None
    void_reason: str | None
    replaced_by: str | None
    body: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> StoredEvent:
        offset = body.get("offset")
        return cls(
            idempotency_key=body["idempotency_key"],
            customer=body["customer"],
            type=body["type"],
            value=_stored_value(body.get("value")),
            operation=body.get("operation") or Operation.ADD.value,
            timestamp=parse_time(body["timestamp"]),
            received_at=optional_time(body.get("received_at")),
            offset=None if offset is None else str(offset),
            properties=body.get("properties") or {},
            metrics=tuple(body.get("metrics") or ()),
            voided_at=optional_time(body.get("voided_at")),
            void_reason=body.get("void_reason"),
            replaced_by=body.get("replaced_by"),
            body=body,
        )


@dataclass(frozen=True, slots=True)
class Void:
    """That an event was taken back: why, by whom and when."""

    idempotency_key: str
    reason: str
    actor: str
    voided_at: datetime

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Void:
        return cls(body["idempotency_key"], body["reason"], body["actor"], parse_time(body["voided_at"]))


@dataclass(frozen=True, slots=True)
class Replacement:
    """That one event (`voided`) was replaced by another (`idempotency_key`)."""

    voided: str
    idempotency_key: str
    reason: str

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Replacement:
        return cls(body["voided"], body["idempotency_key"], body["reason"])


def _stored_value(value: Any) -> Decimal | str | None:
    try:
        return None if value is None else to_decimal(value)
    except ValueError:
        return str(value)
