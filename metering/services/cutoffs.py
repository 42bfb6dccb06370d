"""Cut-offs: points in an organization's history at which "what was committed" can be said again later, to the event.

A time cannot say it: an event carries the time at which storing it began, which a drain of the asynchronous queue does
for seconds, and of two transactions under way the one that began first may end last. A cut-off is a number from the
sequence that numbers the batches, drawn while nobody is about to commit an event or a void:

- Every event is stored by `ingest_events`, whichever way it came: the API and all dialects, the drain of the
  asynchronous queue, a replacement, a replay of the inbox, a committed reservation. That draws the batch's id under
  the shared ingest fence (one statement, the fence first) and holds the fence until its transaction ends, also where
  it is part of a larger one. A cut-off is drawn with the fence held alone: every lesser id is committed or undone by
  then, and every greater one is drawn after the snapshot was taken.
- Every void is written by `void_event`, which draws `EventVoid.known_id` under the rollup lock and holds that until
  its transaction ends. The cut-off holds this lock as well. A replacement holds it while it stores the new event, so
  a cut-off knows both halves or neither.

The sequence has no cache, so numbers are drawn in the order of time. Who stores events or voids in another way has
to keep to this.

Owns drawing and the snapshot; reading by a cut-off is `as_of` of the queries. Raw events that were let go since make
such a read `RangeNotKept`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from accounts.models import Organization
from common.errors import Unavailable
from metering.domain import Cutoff
from metering.sql import cutoffs
from metering.sql.roll_up import ROLLUP_LOCK
from metering.sql.store_events import FENCE_LOCK

# The locks in the order of all, and how long each is waited for. A chunk of the worker or a slice of a rebuild takes
# a second or so, and nobody waits behind who waits for it. Who waits for the fence holds up all ingest behind him.
LOCKS = ((ROLLUP_LOCK, 15_000), (FENCE_LOCK, 5_000))
SOON = {"Retry-After": "5"}


class CutoffBusy(Unavailable):
    """Somebody holds the organization's rollups or stores events for longer than is waited; nothing was done."""

    code = "cutoff_busy"


@contextmanager
def snapshot_at_cutoff(*, organization: Organization) -> Iterator[Cutoff]:
    """Draw a cut-off and give the block a snapshot that is exactly what the cut-off knows, whatever commits meanwhile.

    Reads in the block, pending batches included, are what reads with `as_of` the cut-off say later, but in the time
    of ordinary ones. The block is a transaction that cannot write; keep it short, and store the number after it.
    Ingest, voids and the worker wait only until the snapshot is taken, some milliseconds. Not inside a transaction
    (`RuntimeError`): its snapshot would be older. Raises `CutoffBusy`; to be tried again.
    """
    if connection.in_atomic_block:
        raise RuntimeError("A cut-off is drawn outside of any transaction.")
    held: list[int] = []
    try:
        cutoff_id = _draw(organization, held)
        with transaction.atomic():
            at = cutoffs.fix_snapshot()
            _release(organization, held)
            yield Cutoff(cutoff_id, at)
    finally:
        _release_after_failure(organization, held)


@transaction.atomic
def _draw(organization: Organization, held: list[int]) -> int:
    """Take the locks, noting each, and return the number. Nothing else happens in this transaction."""
    try:
        for lock, timeout_ms in LOCKS:
            # Noted before: a wait that is interrupted may yet have been granted, and to release too much is harmless.
            held.append(lock)
            cutoffs.take_session_lock(lock=lock, organization_id=organization.pk, timeout_ms=timeout_ms)
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            held.pop()
            raise CutoffBusy("The usage is being changed. Try again in a moment.", headers=SOON) from None
        raise
    return cutoffs.draw_id()


def _release(organization: Organization, held: list[int]) -> None:
    while held:
        cutoffs.release_session_lock(lock=held[-1], organization_id=organization.pk)
        held.pop()


def _release_after_failure(organization: Organization, held: list[int]) -> None:
    """Release what is still held. A connection that cannot be asked is closed, and takes its locks along."""
    try:
        _release(organization, held)
    except DatabaseError:
        connection.close()
