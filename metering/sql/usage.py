"""The reads behind every usage number: cells per group and bucket, and members per group and piece of time.

Each statement sees one snapshot in which an event is either in the rollups (its batch is rolled) or in the tail
(its batch is pending), never in both: that is what makes a read exact without waiting for the worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import repeat
from typing import Any, NamedTuple

from django.db import connection
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from metering.domain import Cell, Cut, Cutoff, Span
from metering.models import Aggregation, Metric
from metering.sql import expressions

CUSTOMER = "customer"
# The values of the grouping dimensions.
GroupValues = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events of one metric a read is about. `customer_ids` None: all.

    Filters: AND over keys, OR within; the value None stands for events without the dimension.
    """

    metric: Metric
    customer_ids: Sequence[int] | None = None
    filters: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    # Dimensions to split by, in order; the customer is always among the cells' columns if `is_per_customer`.
    group_by: Sequence[str] = ()
    is_per_customer: bool = False
    # Only what was known then; such a read uses raw events alone.
    as_of: datetime | Cutoff | None = None

    @property
    def uses_dimensions(self) -> bool:
        """Whether the read needs the combinations of dimensions or the customers' totals suffice."""
        return bool(self.filters or self.group_by)


class CellLine(NamedTuple):
    """One row per customer (if asked for) and group that holds events; its lists have one entry per bucket with events.

    `buckets` are one-based. An aggregate that was not asked for is None. Lists, because a row per bucket would cost
    more to receive than to compute.
    """

    customer_id: int | None
    group: list[str | None]
    buckets: list[int]
    event_counts: list[int] | None
    sums: list[Decimal | None] | None
    minima: list[Decimal | None] | None
    maxima: list[Decimal | None] | None
    last_ats: list[datetime] | None
    last_offsets: list[int] | None
    last_values: list[Decimal | None] | None

    def cells(self) -> Iterator[Cell]:
        """Yield the cell of each of `buckets`; what was not asked for is as in an empty cell."""
        return map(
            Cell,
            self.event_counts or repeat(0),
            self.sums or repeat(None),
            self.minima or repeat(None),
            self.maxima or repeat(None),
            self.last_ats or repeat(None),
            self.last_offsets or repeat(-1),
            self.last_values or repeat(None),
        )


class KeptFrom(NamedTuple):
    """How far back the data of one event type reaches: the columns of `Horizon` and `TypeHorizon`, the later ones."""

    minutes_from: datetime
    raw_from: datetime | None
    rollups_from: datetime | None = None
    # The newest row of `Erasure`; None: no customer was ever erased.
    last_erasure: int | None = None


# One row, or none before the first rollup. GREATEST passes over nulls. Uses type_horizon_once and erasure_once.
_HORIZON = """
SELECT horizon.minutes_from, GREATEST(horizon.raw_from, of_type.raw_from), of_type.rollups_from,
       (SELECT max(id) FROM metering_erasure WHERE organization_id = %(organization)s)
FROM metering_horizon AS horizon
LEFT JOIN metering_typehorizon AS of_type
  ON of_type.organization_id = horizon.organization_id AND of_type.event_type = %(event_type)s
WHERE horizon.organization_id = %(organization)s
"""


def find_horizon(*, organization_id: int, event_type: str) -> KeptFrom | None:
    """Return the horizon, or None before the first rollup. Every read asks, and the ORM would take thrice the time."""
    with connection.cursor() as cursor:
        cursor.execute(_HORIZON, {"organization": organization_id, "event_type": event_type})
        row = cursor.fetchone()
    return None if row is None else KeptFrom(*row)


# Whether an erased customer used the metric in a bucket that one of the pieces cuts: what of it lies inside the piece
# only the deleted raw events knew. Uses erasure_once, series_once and the rollups' primary key.
_ERASED_USAGE = """
SELECT EXISTS (
    SELECT
    FROM metering_erasure AS erasure
    JOIN metering_series AS series
      ON series.organization_id = erasure.organization_id
     AND series.metric_id = %(metric)s
     AND series.customer_id = erasure.customer_id
     AND series.dimensions_key = ''::bytea
    CROSS JOIN unnest({starts}::timestamptz[], {ends}::timestamptz[]) AS piece(starts_at, ends_at)
    WHERE erasure.organization_id = %(organization)s
      AND (%(customers)s::bigint[] IS NULL OR erasure.customer_id = ANY(%(customers)s))
      AND EXISTS (
          SELECT FROM {table} AS rollup
          WHERE rollup.organization_id = series.organization_id
            AND rollup.series_id = series.id
            AND rollup.bucket_start > piece.starts_at - {width}::interval
            AND rollup.bucket_start < piece.ends_at
      )
)
"""


def has_erased_usage(selection: Selection, *, raw: Sequence[Span], minutes_from: datetime) -> bool:
    """Tell whether raw events that these pieces need may have been deleted with their customer. One or two statements.

    By the hour before `minutes_from`, by the minute from there on; the dimensions are not looked at.
    """
    widths = (
        ("metering_rollup_hour", "1 hour", [span for span in raw if span.start < minutes_from]),
        ("metering_rollup_minute", "1 minute", [span for span in raw if span.start >= minutes_from]),
    )
    names = {
        "organization": selection.metric.organization_id,
        "metric": selection.metric.pk,
        "customers": None if selection.customer_ids is None else list(selection.customer_ids),
    }
    for table, width, spans in widths:
        if spans:
            statement = SQL(_ERASED_USAGE).format(
                table=Identifier(table), width=Literal(width), starts=_starts(spans), ends=_ends(spans)
            )
            with connection.cursor() as cursor:
                cursor.execute(statement, names)
                if cursor.fetchone()[0]:
                    return True
    return False


# One branch per rollup width; `piece` holds the spans that this width answers. Uses the tables' primary keys:
# per series and piece one range scan. OFFSET 0, here and below, makes sure of it whatever the planner's statistics say:
# by those of a large neighbour, one pass over all that a small organization has looks as cheap.
_ROLLUP_CELLS = """
SELECT line.customer_id, line.groups, rollup.bucket_start AS at, rollup.event_count,
       rollup.value_sum, rollup.value_min, rollup.value_max,
       ROW(rollup.last_at, rollup.last_offset, rollup.last_value) AS last
FROM line
CROSS JOIN unnest({starts}::timestamptz[], {ends}::timestamptz[]) AS piece(starts_at, ends_at)
CROSS JOIN LATERAL (
    SELECT *
    FROM {table}
    WHERE organization_id = %(organization)s
      AND series_id = line.id
      AND bucket_start >= piece.starts_at
      AND bucket_start < piece.ends_at
    OFFSET 0
) AS rollup
"""

# The series that match: a customer's total, or the combinations of dimensions. Uses series_once.
_LINES = """
SELECT series.id, series.customer_id, {groups} AS groups
FROM metering_series AS series
WHERE series.organization_id = %(organization)s AND series.metric_id = %(metric)s AND {conditions}
"""

_EVENT_CELLS = """
SELECT event.customer_id, {groups} AS groups, event.occurred_at AS at, 1::bigint,
       event.quantity, event.quantity, event.quantity, ROW(event.occurred_at, event."offset", event.quantity) AS last
FROM fed_event AS event
"""

# All feeds that ever fed the metric: an event counts in it exactly if its feed is among them.
_FEEDS = """
listening AS MATERIALIZED (
    SELECT COALESCE(array_agg(id), ARRAY[]::bigint[]) AS feed_ids
    FROM metering_feed
    WHERE organization_id = %(organization)s AND metric_ids @> ARRAY[%(metric)s]::bigint[]
)
"""

# Events that no rollup answers for: those of pending batches in the whole range, and rolled ones at its ragged
# edges, if it has any.
_FED_EVENTS = """
pending AS MATERIALIZED (
    SELECT id
    FROM metering_ingestbatch AS batch
    WHERE batch.organization_id = %(organization)s
      AND batch.state = 0
      AND batch.feed_ids && (SELECT feed_ids FROM listening)
), loose_event AS (
    {loose}
), fed_event AS (
    SELECT event.customer_id, event.occurred_at, event."offset", event.operation,
           {quantity} AS quantity, {member} AS member, {dimensions} AS dimensions
    FROM loose_event AS event
    WHERE event.feed_id = ANY((SELECT feed_ids FROM listening)::bigint[])
      AND {customers} AND {is_fed} AND {filters}
      AND NOT EXISTS (
          SELECT FROM metering_eventvoid AS void
          WHERE void.organization_id = event.organization_id AND void.idempotency_key = event.idempotency_key
      )
)
"""

# Uses event_by_offset.
_TAIL_EVENTS = """
    SELECT event.*
    FROM pending
    CROSS JOIN LATERAL (
        SELECT *
        FROM metering_event
        WHERE organization_id = %(organization)s
          AND "offset" >= pending.id << 13
          AND "offset" < (pending.id + 1) << 13
        OFFSET 0
    ) AS event
    WHERE event.occurred_at >= %(start)s AND event.occurred_at < %(end)s
"""

# Uses event_by_customer_time or event_by_time.
_EDGE_EVENTS = """
    SELECT event.*
    FROM unnest({starts}::timestamptz[], {ends}::timestamptz[]) AS piece(starts_at, ends_at)
    CROSS JOIN LATERAL (
        SELECT *
        FROM metering_event AS event
        WHERE event.organization_id = %(organization)s
          AND event.occurred_at >= piece.starts_at
          AND event.occurred_at < piece.ends_at
          AND {customers}
        OFFSET 0
    ) AS event
    WHERE event."offset" >> 13 NOT IN (SELECT id FROM pending)
"""

# What was known at a time or a cut-off: events that were there and not yet voided. Raw events alone, so it costs a scan
# of the range. Uses event_by_customer_time or event_by_time.
_KNOWN_EVENTS = """
fed_event AS (
    SELECT event.customer_id, event.occurred_at, event."offset", event.operation, event.idempotency_key,
           {quantity} AS quantity, {member} AS member, {dimensions} AS dimensions
    FROM metering_event AS event
    WHERE event.organization_id = %(organization)s
      AND event.occurred_at >= %(start)s AND event.occurred_at < %(end)s
      AND {is_known}
      AND event.feed_id = ANY((SELECT feed_ids FROM listening)::bigint[])
      AND {customers} AND {is_fed} AND {filters}
      AND NOT EXISTS (
          SELECT FROM metering_eventvoid AS void
          WHERE void.organization_id = event.organization_id AND void.idempotency_key = event.idempotency_key
            AND {is_void_known}
      )
)
"""

# Whether an event and a void are among what was known: now, at a cut-off, and at a time.
_KNOWN_NOW = SQL("TRUE"), SQL("TRUE")
_KNOWN_AT_CUTOFF = SQL("""event."offset" < %(known_before)s"""), SQL("void.known_id < %(as_of)s")
_KNOWN_AT_TIME = SQL("event.received_at <= %(as_of)s"), SQL("void.voided_at <= %(as_of)s")

_CELLS = """
WITH {events}, line AS (
    {lines}
), cell (customer_id, groups, at, event_count, value_sum, value_min, value_max, last) AS (
    {cells}
), per_bucket AS (
    SELECT {customer} AS customer_id, groups, width_bucket(at, %(edges)s::timestamptz[]) AS bucket, {aggregates}
    FROM cell
    GROUP BY 1, 2, 3
)
SELECT customer_id, groups, array_agg(bucket), {lists}
FROM per_bucket
GROUP BY 1, 2
"""

# What a cell is made of: the aggregate of a bucket, and the lists of a line. A record has no cast to its type, hence
# the way through text, once per bucket.
_AGGREGATES = {
    "event_count": ("sum(event_count)::bigint AS event_count", "array_agg(event_count)"),
    "value_sum": ("sum(value_sum) AS value_sum", "array_agg(value_sum)"),
    "value_min": ("min(value_min) AS value_min", "array_agg(value_min)"),
    "value_max": ("max(value_max) AS value_max", "array_agg(value_max)"),
    "last": (
        "max(last)::text::metering_reading AS last",
        """array_agg((last).occurred_at), array_agg((last)."offset"), array_agg((last).value)""",
    ),
}
_NO_LISTS = {"last": "NULL, NULL, NULL"}
# The aggregate that answers the metric's own aggregation. Members are not in cells: those only tell which lines exist.
_OWN_AGGREGATE = {
    Aggregation.COUNT: "event_count",
    Aggregation.SUM: "value_sum",
    Aggregation.MIN: "value_min",
    Aggregation.MAX: "value_max",
    Aggregation.LATEST: "last",
    Aggregation.COUNT_UNIQUE: "event_count",
}

_TABLES = (
    ("days", "metering_rollup_day"),
    ("hours", "metering_rollup_hour"),
    ("minutes", "metering_rollup_minute"),
)


def list_cells(
    selection: Selection, *, span: Span, edges: Sequence[datetime], cut: Cut, is_own_aggregate_only: bool = False
) -> list[CellLine]:
    """Return the cells of the buckets between the edges; empty ones have none. One statement, one snapshot.

    With `is_own_aggregate_only` the cells hold what the metric's own aggregation needs and nothing else.
    """
    cells = [SQL(_EVENT_CELLS).format(groups=_event_groups(selection))]
    if selection.as_of is None:
        for name, table in _TABLES:
            spans: list[Span] = getattr(cut, name)
            if spans:
                cells.append(
                    SQL(_ROLLUP_CELLS).format(table=Identifier(table), starts=_starts(spans), ends=_ends(spans))
                )
    own = _OWN_AGGREGATE[Aggregation(selection.metric.aggregation)]
    wanted = {own} if is_own_aggregate_only else _AGGREGATES.keys()
    statement = SQL(_CELLS).format(
        events=_events(selection, cut.raw),
        lines=_lines(selection),
        cells=SQL("\n    UNION ALL\n").join(cells),
        customer=SQL("customer_id") if selection.is_per_customer else SQL("NULL::bigint"),
        aggregates=SQL(", ").join(SQL(total) for name, (total, _) in _AGGREGATES.items() if name in wanted),
        lists=SQL(", ").join(
            SQL(lists if name in wanted else _NO_LISTS.get(name, "NULL")) for name, (_, lists) in _AGGREGATES.items()
        ),
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, {**read_names(selection, span), "edges": list(edges)})
        return list(map(CellLine._make, cursor.fetchall()))


# --- members --------------------------------------------------------------------------------------------------


class SetRow(NamedTuple):
    """One row per customer, group and bucket of a set: the bitmaps of one series."""

    customer_id: int
    group: GroupValues
    bucket_start: datetime
    added: bytes
    removed: bytes | None


class OperationRow(NamedTuple):
    """One row per raw event that names a member; `number` is null for a member that the dictionary lacks yet."""

    customer_id: int
    group: list[str | None]
    occurred_at: datetime
    offset: int
    operation: int
    member: str
    number: int | None


# Tens of thousands of rows: only numbers beside the bitmaps, for a group or a time costs as much to receive as one.
_SETS = """
SELECT line.id, extract(epoch FROM kept.bucket_start)::bigint, kept.added, kept.removed
FROM unnest(%(lines)s::bigint[]) AS line(id)
CROSS JOIN unnest(%(widths)s::text[], {starts}::timestamptz[], {ends}::timestamptz[])
    AS piece(width, starts_at, ends_at)
CROSS JOIN LATERAL (
    SELECT *
    FROM metering_member_set
    WHERE organization_id = %(organization)s
      AND series_id = line.id
      AND width = piece.width
      AND bucket_start >= piece.starts_at
      AND bucket_start < piece.ends_at
    OFFSET 0
) AS kept
"""

_OPERATIONS = """
WITH {events}
SELECT event.customer_id, {groups}, event.occurred_at, event."offset", event.operation, event.member, known.number
FROM fed_event AS event
LEFT JOIN LATERAL (
    SELECT number
    FROM metering_member
    WHERE organization_id = %(organization)s AND metric_id = %(metric)s AND member = event.member
    OFFSET 0
) AS known ON TRUE
ORDER BY event.occurred_at, event."offset"
"""


def list_sets(selection: Selection, *, span: Span, days: Sequence[Span], hours: Sequence[Span]) -> list[SetRow]:
    """Return the sets of the whole days and hours. Two statements, so inside a snapshot."""
    spans = [*days, *hours]
    names = read_names(selection, span)
    with connection.cursor() as cursor:
        cursor.execute(_lines(selection), names)
        lines: dict[int, tuple[int, GroupValues]] = {row[0]: (row[1], tuple(row[2])) for row in cursor.fetchall()}
        cursor.execute(
            SQL(_SETS).format(starts=_starts(spans), ends=_ends(spans)),
            {**names, "lines": list(lines), "widths": ["d"] * len(days) + ["h"] * len(hours)},
        )
        rows = cursor.fetchall()
    starts = {epoch: datetime.fromtimestamp(epoch, UTC) for epoch in {row[1] for row in rows}}
    return [SetRow(*lines[series_id], starts[epoch], added, removed) for series_id, epoch, added, removed in rows]


def list_operations(selection: Selection, *, span: Span, raw: Sequence[Span]) -> list[OperationRow]:
    """Return the operations of the tail and of the raw pieces, oldest first, later arrival last among equals."""
    statement = SQL(_OPERATIONS).format(events=_events(selection, raw), groups=_event_groups(selection))
    with connection.cursor() as cursor:
        cursor.execute(statement, read_names(selection, span))
        return [OperationRow(*row) for row in cursor.fetchall()]


# --- parts ----------------------------------------------------------------------------------------------------


def read_names(selection: Selection, span: Span) -> dict[str, Any]:
    """Return the parameters that every statement about a selection has."""
    as_of = selection.as_of
    return {
        "organization": selection.metric.organization_id,
        "metric": selection.metric.pk,
        "customers": None if selection.customer_ids is None else list(selection.customer_ids),
        "start": span.start,
        "end": span.end,
        "as_of": as_of.id if isinstance(as_of, Cutoff) else as_of,
        "known_before": as_of.offset if isinstance(as_of, Cutoff) else None,
    }


def known_events(selection: Selection) -> Composed:
    """Return `fed_event`: the raw events that the selection counts, pending ones included, and their keys."""
    match selection.as_of:
        case None:
            is_known, is_void_known = _KNOWN_NOW
        case Cutoff():
            is_known, is_void_known = _KNOWN_AT_CUTOFF
        case _:
            is_known, is_void_known = _KNOWN_AT_TIME
    return _fed_events(selection, _KNOWN_EVENTS, is_known=is_known, is_void_known=is_void_known)


def _events(selection: Selection, raw: Sequence[Span]) -> Composed:
    if selection.as_of is not None:
        return known_events(selection)
    loose: Composable = SQL(_TAIL_EVENTS)
    if raw:
        edges = SQL(_EDGE_EVENTS).format(starts=_starts(raw), ends=_ends(raw), customers=_of_customers(selection))
        loose = SQL("    UNION ALL").join([loose, edges])
    return _fed_events(selection, _FED_EVENTS, loose=loose)


def _fed_events(selection: Selection, template: str, **parts: Composable) -> Composed:
    metric = selection.metric
    filters = [
        expressions.is_one_of(expressions.dimension(metric, key), values) for key, values in selection.filters.items()
    ]
    return SQL(_FEEDS + ", " + template).format(
        quantity=expressions.quantity(metric),
        member=expressions.member(metric),
        is_fed=expressions.is_fed(metric),
        dimensions=expressions.dimensions(metric),
        customers=_of_customers(selection),
        filters=expressions.conjunction(filters),
        **parts,
    )


def _of_customers(selection: Selection) -> Composable:
    return SQL("TRUE") if selection.customer_ids is None else SQL("event.customer_id = ANY(%(customers)s)")


def _lines(selection: Selection) -> Composed:
    metric = selection.metric
    conditions: list[Composable] = [
        SQL("series.dimensions IS NOT NULL") if selection.uses_dimensions else SQL("series.dimensions_key = ''::bytea")
    ]
    if selection.customer_ids is not None:
        conditions.append(SQL("series.customer_id = ANY(%(customers)s)"))
    for key, values in selection.filters.items():
        place = SQL("series.dimensions[{}]").format(expressions.dimension_position(metric, key))
        conditions.append(expressions.is_one_of(place, values))
    return SQL(_LINES).format(groups=_groups(selection, "series"), conditions=expressions.conjunction(conditions))


def _event_groups(selection: Selection) -> Composable:
    return _groups(selection, "event")


def _groups(selection: Selection, alias: str) -> Composable:
    """Return the values of the grouping dimensions as an array, picked from an array of all dimensions."""
    parts = [
        SQL("{}.dimensions[{}]").format(Identifier(alias), expressions.dimension_position(selection.metric, key))
        for key in selection.group_by
    ]
    return SQL("ARRAY[{}]::text[]").format(SQL(", ").join(parts))


def _starts(spans: Sequence[Span]) -> Composable:
    return Literal([span.start for span in spans])


def _ends(spans: Sequence[Span]) -> Composable:
    return Literal([span.end for span in spans])
