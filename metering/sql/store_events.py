"""Storing one batch of events: COPY into a staging table, then one INSERT in key order.

The rows go in ordered by key, so that two connections storing the same keys wait for each other in the same
order and cannot deadlock. ON CONFLICT DO NOTHING makes the primary key the only judge of duplicates, those within
a batch included: of equal keys the first event of the batch is stored.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakSet

from django.db import connection, transaction

from metering.admission import AdmittedEvent
from metering.domain import OFFSET_BITS

# Shared by every ingest transaction of an organization, taken alone by a change of its metrics and by a cut-off.
FENCE_LOCK = 0x4D42_0001

_CREATE_STAGE = """
CREATE TEMPORARY TABLE IF NOT EXISTS event_stage (
    idempotency_key text COLLATE "C" NOT NULL,
    "offset" bigint NOT NULL,
    feed_id bigint NOT NULL,
    customer_id bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    has_own_time boolean NOT NULL,
    operation smallint NOT NULL,
    value numeric,
    member text COLLATE "C",
    properties jsonb
) ON COMMIT DELETE ROWS
"""

_EMPTY_STAGE = "DELETE FROM event_stage"

# The fence first: `metering.services.cutoffs` relies on no id being drawn outside of it.
_OPEN_BATCH = """
SELECT pg_advisory_xact_lock_shared(%(lock)s, %(organization)s), nextval('metering_ingestbatch_id_seq')
"""

_COPY = "COPY event_stage FROM STDIN"

# One event row per staged key that is new to the organization; one pending batch row if there is any such row.
# Answers one row; `metrics_version` is read after the fence was taken, so no change of metrics can be under way.
_STORE = """
WITH stored AS (
    INSERT INTO metering_event (
        organization_id, idempotency_key, "offset", feed_id, customer_id, occurred_at, received_at,
        has_own_time, operation, value, member, properties
    )
    SELECT %(organization)s, idempotency_key, "offset", feed_id, customer_id, occurred_at, %(received_at)s,
           has_own_time, operation, value, member, properties
    FROM event_stage
    ORDER BY idempotency_key, "offset"
    ON CONFLICT DO NOTHING
    RETURNING "offset"
), batch AS (
    INSERT INTO metering_ingestbatch (organization_id, id, state, event_count, feed_ids, received_at)
    SELECT %(organization)s, %(batch)s, 0, count(*), %(feeds)s, %(received_at)s
    FROM stored
    HAVING count(*) > 0
)
SELECT count(*), min("offset"), max("offset"),
       (SELECT metrics_version FROM accounts_organization WHERE id = %(organization)s)
FROM stored
"""

# One row per staged key that this batch did not store, with whether its content is what is stored already.
# Expected size: the duplicates of the batch, at most MAX_BATCH_EVENTS. Uses the primary key of metering_event.
_COMPARE = """
SELECT stage."offset",
       stage.customer_id = event.customer_id
       AND stage_feed.event_type = event_feed.event_type
       AND stage.has_own_time = event.has_own_time
       AND (NOT stage.has_own_time OR stage.occurred_at = event.occurred_at)
       AND stage.operation = event.operation
       AND stage.value IS NOT DISTINCT FROM event.value
       AND stage.member IS NOT DISTINCT FROM event.member
       AND stage.properties IS NOT DISTINCT FROM event.properties AS is_same
FROM event_stage AS stage
JOIN metering_event AS event
  ON event.organization_id = %(organization)s
 AND event.idempotency_key = stage.idempotency_key
 AND event."offset" <> stage."offset"
JOIN metering_feed AS event_feed ON event_feed.id = event.feed_id
JOIN metering_feed AS stage_feed ON stage_feed.id = stage.feed_id
"""

# Those of the keys that are stored, held until the end of the transaction: nobody lets them go meanwhile. Passes over
# what is being deleted in this moment. At most MAX_BATCH_EVENTS; uses the primary key.
_HOLD = """
SELECT idempotency_key
FROM metering_event
WHERE organization_id = %(organization)s AND idempotency_key = ANY(%(keys)s)
FOR KEY SHARE SKIP LOCKED
"""

_stage_owners: WeakSet[Any] = WeakSet()


class StoredBatch(NamedTuple):
    event_count: int
    first_offset: int | None
    last_offset: int | None
    metrics_version: int


class Comparison(NamedTuple):
    offset: int
    is_same: bool


def open_batch(*, organization_id: int) -> int:
    """Take the ingest fence for this transaction and return the id of a new batch."""
    _ensure_stage()
    with connection.cursor() as cursor:
        cursor.execute(_OPEN_BATCH, {"lock": FENCE_LOCK, "organization": organization_id})
        return cursor.fetchone()[1]


def stage_events(events: Iterable[AdmittedEvent], *, customer_ids: dict[str, int], batch_id: int) -> None:
    """COPY the events into this connection's staging table, which empties itself at the end of the transaction."""
    base = batch_id << OFFSET_BITS
    rows = "".join([_copy_row(event, base + place, customer_ids) for place, event in enumerate(events)])
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.write(rows)


def store_staged(*, organization_id: int, batch_id: int, feed_ids: Sequence[int], received_at: datetime) -> StoredBatch:
    with connection.cursor() as cursor:
        cursor.execute(
            _STORE,
            {
                "organization": organization_id,
                "batch": batch_id,
                "feeds": list(feed_ids),
                "received_at": received_at,
            },
        )
        return StoredBatch(*cursor.fetchone())


def hold_known(*, organization_id: int, keys: Sequence[str]) -> set[str]:
    """Return those of the keys that are stored, and hold their events until the end of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, {"organization": organization_id, "keys": list(keys)})
        return {key for (key,) in cursor.fetchall()}


def compare_staged(*, organization_id: int) -> list[Comparison]:
    """Return, for every staged event that was not stored, whether it equals the one stored under its key."""
    with connection.cursor() as cursor:
        cursor.execute(_COMPARE, {"organization": organization_id})
        return [Comparison(*row) for row in cursor.fetchall()]


def _ensure_stage() -> None:
    """Create the staging table once per connection; the look-up in the catalog is too dear for every batch."""
    connection.ensure_connection()
    if connection.connection not in _stage_owners:
        with connection.cursor() as cursor:
            cursor.execute(_CREATE_STAGE)
        # Only then does the table outlive the transaction: one that is undone (a validation) takes it along.
        transaction.on_commit(partial(_stage_owners.add, connection.connection))
    if connection.savepoint_ids:
        # Part of a larger transaction: the rows of a batch before this one would still be there.
        with connection.cursor() as cursor:
            cursor.execute(_EMPTY_STAGE)


def _copy_row(event: AdmittedEvent, offset: int, customer_ids: dict[str, int]) -> str:
    """Return one line in COPY's text format."""
    properties = event.properties
    return (
        f"{_escape(event.key)}\t{offset}\t{event.feed_id}\t{customer_ids[event.customer]}\t"
        f"{event.occurred_at.isoformat()}\t{'t' if event.has_own_time else 'f'}\t{event.operation}\t"
        f"{event.value if event.value is not None else NULL}\t"
        f"{_escape(event.member) if event.member is not None else NULL}\t"
        # Encoded JSON holds no raw control characters, so its backslashes are all that COPY could misread.
        f"{properties.decode().replace(BACKSLASH, ESCAPED) if properties is not None else NULL}\n"
    )


NULL = "\\N"
BACKSLASH, ESCAPED = "\\", "\\\\"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _escape(text: str) -> str:
    return text.translate(_ESCAPES) if not text.isalnum() else text
