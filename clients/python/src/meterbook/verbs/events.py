"""Sending events, and reading, correcting and checking them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import quote

from meterbook.errors import MeterbookError, ValidationError
from meterbook.events import (
    Durability,
    Event,
    EventLike,
    IngestResult,
    Replacement,
    StoredEvent,
    ValidationResult,
    Void,
    as_event_json,
)
from meterbook.periods import time_text
from meterbook.wire import Answer, Call, Listing, Plan, encode_json, one_object, present

MAX_EVENTS_PER_REQUEST = 5_000
EVENTS_PATH = "/v1/events"


def ingest(
    events: Iterable[EventLike] | EventLike,
    *,
    durability: Durability | str | None = None,
    atomic: bool = False,
    batch_size: int = MAX_EVENTS_PER_REQUEST,
) -> Plan[IngestResult]:
    """Send events, any number of them, and return the verdicts.

    By default an answer means that the events are committed; `durability="async"` is answered sooner. More than
    `batch_size` events go as several requests, whose verdicts are merged; `events` may be a generator and is
    consumed as they go. Repeating the call with the same `Event` objects, or the same keys, counts nothing twice:
    after any error, send all of it again (`error.partial` holds the verdicts of the requests before the failure).

    Rejected events are listed in the result; `ValidationError` is raised only when all were rejected, or, with
    `atomic`, any. An atomic call must fit one request.
    """
    if not 1 <= batch_size <= MAX_EVENTS_PER_REQUEST:
        raise ValueError(f"A request holds 1 to {MAX_EVENTS_PER_REQUEST} events.")
    batches = _batches([events] if isinstance(events, Event | Mapping) else events, batch_size)
    total = IngestResult()
    sent_count = 0
    refusal: ValidationError | None = None
    for batch in _only_one(batches, batch_size) if atomic else batches:
        body = encode_json([as_event_json(event) for event in batch])
        try:
            total += yield from send_batch(body, durability=durability, atomic=atomic, first_index=sent_count)
        except ValidationError as error:
            if error.result is None:
                error.partial = total
                raise
            total += error.result
            refusal = error
        except MeterbookError as error:
            error.partial = total
            raise
        sent_count += len(batch)
    if refusal is not None and not (total.stored or total.duplicates or total.accepted):
        refusal.result = total
        raise refusal
    return total


def send_batch(
    body: bytes, *, durability: Durability | str | None = None, atomic: bool = False, first_index: int = 0
) -> Plan[IngestResult]:
    """Send one request of encoded events. Every event has its key, so a transport may repeat the request.

    Raises `ValidationError` when the server refused the request; its `result` holds the verdicts, where the
    request was readable and each of its events was refused.
    """
    parameters = present(durability=None if durability is None else str(durability), atomic="true" if atomic else None)
    try:
        answer = yield Call("POST", EVENTS_PATH, parameters, body)
    except ValidationError as error:
        if "rejected" in error.body:
            error.result = IngestResult.from_json(error.body, first_index=first_index)
        raise
    return _read_result(answer, first_index)


def _read_result(answer: Answer, first_index: int) -> IngestResult:
    return IngestResult.from_json(answer.json(), first_index=first_index)


def _batches(events: Iterable[EventLike], size: int) -> Iterator[list[EventLike]]:
    remaining = iter(events)
    while batch := list(islice(remaining, size)):
        yield batch


def _only_one(batches: Iterator[list[EventLike]], size: int) -> list[list[EventLike]]:
    """Return the one batch. Two requests cannot be all-or-nothing together, so more than one is refused unsent."""
    first = list(islice(batches, 2))
    if len(first) > 1:
        raise ValueError(f"An atomic call holds at most {size} events.")
    return first


def validate(events: Iterable[EventLike] | EventLike) -> Plan[ValidationResult]:
    """Ask what would become of these events and which metrics they would change. Stores nothing."""
    listed = [events] if isinstance(events, Event | Mapping) else list(events)
    call = Call.post(f"{EVENTS_PATH}/validate", [as_event_json(event) for event in listed], is_repeatable=True)
    try:
        body = yield from one_object(call)
    except ValidationError as error:
        if "events" not in error.body:
            raise
        body = dict(error.body)  # every event would be refused, which is an answer, not a failure
    return ValidationResult.from_json(body)


def list_events(
    *,
    customer: str | None = None,
    metric: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    properties: Mapping[str, Any] | None = None,
    page_size: int = 1000,
) -> Listing[StoredEvent]:
    """Iterate over stored events, newest first; pages are fetched as they are needed.

    The range is half-open, `[start, end)`; either end may be open. `properties` must all match.
    """
    call = Call.get(
        EVENTS_PATH,
        customer=customer,
        metric=metric,
        **{"from": start and time_text(start), "to": end and time_text(end)},
        **{f"property.{name}": _property_text(value) for name, value in (properties or {}).items()},
        limit=page_size,
    )
    return Listing(call, StoredEvent.from_json)


def _property_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def get_event(idempotency_key: str) -> Plan[StoredEvent]:
    """Return one stored event. Raises `NotFoundError`."""
    return StoredEvent.from_json((yield from one_object(Call.get(_path(idempotency_key)))))


def void(idempotency_key: str, *, reason: str) -> Plan[Void]:
    """Take an event back: it no longer counts, and stays on record with the reason.

    Raises `NotFoundError`, and `ConflictError` when it was voided before.
    """
    call = Call.post(f"{_path(idempotency_key)}/void", {"reason": reason})
    return Void.from_json((yield from one_object(call)))


def replace(idempotency_key: str, event: EventLike, *, reason: str) -> Plan[Replacement]:
    """Void an event and store another in its place: both or neither. The new event has a key of its own."""
    call = Call.post(f"{_path(idempotency_key)}/replace", {**as_event_json(event), "reason": reason})
    return Replacement.from_json((yield from one_object(call)))


def _path(idempotency_key: str) -> str:
    return f"{EVENTS_PATH}/{quote(idempotency_key, safe='')}"
