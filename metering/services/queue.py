"""Asynchronous ingest: events wait in a durable Redis stream until the worker stores them.

Loss window: with `appendfsync everysec` Redis hands its log to the system before it answers and to the disk every
second. A crash of the machine can lose the last second of what was answered with 202. A crash of Redis alone loses
nothing of it, except while the disk is so slow that the last sync is still under way: then Redis holds its log back
for up to two seconds, and these are lost with the process. The worker acknowledges an entry after the commit;
an entry that it stored but did not acknowledge is stored again as duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from time import monotonic
from typing import Any

import msgspec
import structlog
from redis import Redis
from redis.exceptions import LockError, RedisError, ResponseError
from redis.lock import Lock

from accounts.models import Organization
from common.bodies import read_number
from common.errors import Unavailable
from common.redis import redis_client
from metering.admission import EventError
from metering.domain import MAX_BATCH_EVENTS
from metering.incoming import IncomingEvent, QueuedEvent
from metering.services.inbox import keep_unmatched
from metering.services.ingest import IngestLimits, check_batch_size, examine_events, ingest_events
from metering.services.wake import clear_drain_mark, wake_drain

STREAM = "meterbook:async-events"
GROUP, CONSUMER = "drain", "worker"
# Back-pressure instead of memory growth: beyond so many waiting requests the sender is asked to wait.
MAX_WAITING_ENTRIES = 20_000
READ_ENTRIES = 200
MAX_READS = 10
# A drain renews its lock with every batch; after a crash the next one may begin when the lock has expired.
LOCK_SECONDS = 15
# How long somebody waits who needs the queue to be empty.
PATIENCE_SECONDS = 15.0
SOON = {"Retry-After": "5"}

logger = structlog.get_logger(__name__)

# JSON, not MessagePack, which knows neither decimals nor integers beyond 64 bits.
_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder(list[QueuedEvent], float_hook=read_number)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The answer to an asynchronous request: what waits now, and what was refused at once."""

    accepted: int
    errors: list[EventError]


def accept_events(
    *, organization: Organization, events: Sequence[Any], now: datetime, limits: IngestLimits | None = None
) -> Acceptance:
    """Examine the events and queue the good ones. Raises `Unavailable` when Redis is away or the queue is full."""
    check_batch_size(events)
    admitted, errors, _ = examine_events(organization=organization, events=events, now=now, limits=limits)
    if organization.is_unmatched_kept and limits in (None, IngestLimits()):  # as in `ingest_events`
        keep_unmatched(organization=organization, events=events, errors=errors, now=now)
    if admitted:
        queued = [_to_queued(events[event.index], now) for event in admitted]
        _append({"organization": organization.pk, "events": _encoder.encode(queued)})
        wake_drain()
    return Acceptance(len(admitted), errors)


def _to_queued(event: IncomingEvent, now: datetime) -> QueuedEvent:
    return QueuedEvent(**msgspec.structs.asdict(event), arrived_at=now)


def _append(entry: dict[Any, Any]) -> None:
    try:
        client = redis_client()
        if client.xlen(STREAM) >= MAX_WAITING_ENTRIES:
            raise Unavailable("Too many events wait to be stored.", code="queue_full", headers={"Retry-After": "1"})
        client.xadd(STREAM, entry)
    except RedisError:
        raise Unavailable(
            "The queue for asynchronous events is not reachable; nothing was taken. Retry, or use durability=sync.",
            headers={"Retry-After": "1"},
        ) from None


def drain_queue(*, now: datetime) -> int:
    """Store what waits in the queue; return how many events were taken off it. One drain at a time, by its lock.

    Stops after `MAX_READS` even if more waits: `now` is when the events become known, and must not grow old.
    """
    client = redis_client()
    with client.lock(
        "meterbook:drain-lock", timeout=LOCK_SECONDS, blocking_timeout=0.1, raise_on_release_error=False
    ) as lock:
        clear_drain_mark()
        _ensure_group(client)
        drained = 0
        # First what an interrupted drain left unacknowledged, then what is new.
        for position in ("0", ">"):
            for _ in range(MAX_READS):
                entries = _read(client, position)
                if not entries:
                    break
                drained += _store(client, entries, now, lock)
    return drained


def drain_waiting(*, now: datetime) -> None:
    """Store all that waits at the call, taking turns with the worker. Raises `Unavailable` if that takes long."""
    give_up_at = monotonic() + PATIENCE_SECONDS
    try:
        last = _last_entry_id(redis_client())
        while last is not None and (first := _first_entry_id(redis_client())) is not None and first <= last:
            if monotonic() > give_up_at:
                raise Unavailable("Events still wait to be stored. Try again in a moment.", headers=SOON)
            with suppress(LockError):  # the worker is at it
                drain_queue(now=now)
    except RedisError:
        raise Unavailable(
            "The queue of asynchronous events is not reachable. Nothing was changed.", headers=SOON
        ) from None


def _last_entry_id(client: Redis) -> tuple[int, int] | None:
    return _entry_id(client.xrevrange(STREAM, count=1))


def _first_entry_id(client: Redis) -> tuple[int, int] | None:
    return _entry_id(client.xrange(STREAM, count=1))


def _entry_id(entries: Any) -> tuple[int, int] | None:
    """Return the id of the only entry as it is ordered: milliseconds, then a number within them."""
    if not entries:
        return None
    milliseconds, _, number = entries[0][0].partition(b"-")
    return int(milliseconds), int(number)


def list_waiting(*, organization: Organization, customer: str) -> list[QueuedEvent]:
    """Return the customer's events that wait at the call. Passes over the whole queue. Raises `Unavailable`."""
    found: list[QueuedEvent] = []
    position = "-"
    try:
        while entries := _entry_list(redis_client().xrange(STREAM, min=position, count=READ_ENTRIES)):
            for entry_id, fields in entries:
                position = f"({entry_id.decode()}"
                if int(fields[b"organization"]) == organization.pk:
                    events = _decoder.decode(fields[b"events"])
                    found += [event for event in events if event.customer == customer]
    except RedisError:
        raise Unavailable("The queue of asynchronous events is not reachable.", headers=SOON) from None
    return found


def _entry_list(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return list(answer)


def count_waiting() -> int:
    return int(redis_client().xlen(STREAM))


def _ensure_group(client: Redis) -> None:
    try:
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _read(client: Redis, position: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    answer: Any = client.xreadgroup(GROUP, CONSUMER, {STREAM: position}, count=READ_ENTRIES)
    # RESP2 answers a list of pairs, RESP3 a mapping.
    streams = answer.items() if isinstance(answer, dict) else answer or []
    for _, entries in streams:
        flat = entries[0] if entries and isinstance(entries[0], list) else entries
        return list(flat)
    return []


def _store(client: Redis, entries: list[tuple[bytes, dict[bytes, bytes]]], now: datetime, lock: Lock) -> int:
    ordered = sorted(entries, key=lambda entry: int(entry[1][b"organization"]))
    drained = 0
    for organization_id, group in groupby(ordered, key=lambda entry: int(entry[1][b"organization"])):
        members = list(group)
        organization = Organization.objects.filter(pk=organization_id).first()
        events = [event for _, fields in members for event in _decoder.decode(fields[b"events"])]
        if organization is None:
            # Deleted since: its events have no owner, and must not hold up everybody else's.
            logger.warning("async_events_without_organization", organization=organization_id, count=len(events))
        else:
            for first in range(0, len(events), MAX_BATCH_EVENTS):
                _store_batch(organization, events[first : first + MAX_BATCH_EVENTS], now)
            lock.reacquire()
        ids = [entry_id for entry_id, _ in members]
        # Both or neither: an entry acknowledged but not deleted would be read by nobody and stay for good.
        with client.pipeline(transaction=True) as settling:
            settling.xack(STREAM, GROUP, *ids)
            settling.xdel(STREAM, *ids)
            settling.execute()
        drained += len(events)
    return drained


def _store_batch(organization: Organization, events: Sequence[QueuedEvent], now: datetime) -> None:
    result = ingest_events(organization=organization, events=events, now=now)
    if result.errors:
        # Nobody is left to tell, so what was refused since its acceptance waits in the inbox.
        codes = frozenset(error.code for error in result.errors)
        keep_unmatched(organization=organization, events=events, errors=result.errors, now=now, codes=codes)
        logger.warning("async_events_refused", organization=organization.pk, count=len(result.errors))
