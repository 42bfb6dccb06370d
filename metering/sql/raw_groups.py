"""Raw events of a range in groups by one of their properties: what several metrics count in each, the greatest first.

For properties that are no dimension, and so have no rollups. One statement, one pass over the events of the range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from django.db import connection
from psycopg.sql import SQL, Composable, Identifier

from metering.domain import Span
from metering.models import Aggregation, Metric
from metering.sql import expressions


@dataclass(frozen=True, slots=True)
class Measure:
    """One number per group: a metric that counts or sums, over the events that its filters let through."""

    metric: Metric
    # All feeds that ever fed the metric.
    feed_ids: Sequence[int]
    filters: Mapping[str, Sequence[str | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Histogram:
    """The events of each group by one dimension of the measure's metric."""

    measure: Measure
    dimension: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of the groups: by a measure, or by the ratio of two; equal ones by name, the nameless last."""

    numerator: str
    denominator: str | None
    is_descending: bool


class GroupRow(NamedTuple):
    """One row per group in which the first measure counts something. `total_count`: how many groups there are.

    `bins` and `bin_counts` are the histogram, in no order; None where nothing is in it.
    """

    name: str | None
    total_count: int
    bins: list[str] | None
    bin_counts: list[int] | None
    values: list[Decimal]


# A name is text and a flag, not a text that may be null: rows of two tables join by it, which only equality does fast.
# The events are grouped by bin at once, so that they are read once for sums and histogram; there are at most as many
# rows of `per_bin` as events. Uses event_by_customer_time or event_by_time, and event_void_once.
_GROUPS = """
WITH per_bin AS MATERIALIZED (
    SELECT COALESCE(examined.name, '') AS name, examined.name IS NULL AS is_nameless, examined.bin,
           count(*) AS event_count, {sums}
    FROM (
        SELECT event.properties ->> {property} AS name, {bin} AS bin, {quantities}
        FROM metering_event AS event
        WHERE event.organization_id = %(organization)s
          AND event.occurred_at >= %(start)s
          AND event.occurred_at < %(end)s
          AND event.feed_id = ANY(%(feeds)s::bigint[])
          AND {customer}
          AND NOT EXISTS (
              SELECT FROM metering_eventvoid AS void
              WHERE void.organization_id = event.organization_id AND void.idempotency_key = event.idempotency_key
          )
          AND NOT EXISTS (
              SELECT FROM metering_erasure AS erasure
              WHERE erasure.organization_id = event.organization_id AND erasure.customer_id = event.customer_id
          )
    ) AS examined
    GROUP BY 1, 2, 3
), per_group AS (
    SELECT name, is_nameless, {totals}
    FROM per_bin
    GROUP BY 1, 2
), shown AS MATERIALIZED (
    SELECT per_group.*, count(*) OVER () AS total_count,
           row_number() OVER (ORDER BY {rank} {direction}, is_nameless, name COLLATE "C") AS place
    FROM per_group
    WHERE {first} > 0
    ORDER BY place
    LIMIT %(limit)s
), histogram AS (
    SELECT shown.place, array_agg(per_bin.bin) AS bins, array_agg(per_bin.event_count) AS bin_counts
    FROM shown
    JOIN per_bin USING (name, is_nameless)
    WHERE per_bin.bin IS NOT NULL
    GROUP BY 1
)
SELECT CASE WHEN shown.is_nameless THEN NULL ELSE shown.name END, shown.total_count,
       histogram.bins, histogram.bin_counts, ARRAY[{columns}]::numeric[]
FROM shown
LEFT JOIN histogram USING (place)
ORDER BY shown.place
"""

# More digits than tell two different means of a million quantities apart: a quotient has as many as its dividend.
_RATIO = "round({numerator}, 40) / {denominator}"


def list_groups(
    *,
    organization_id: int,
    span: Span,
    property_name: str,
    measures: Mapping[str, Measure],
    histogram: Histogram | None,
    customer_id: int | None,
    ranking: Ranking,
    limit: int,
    timeout_ms: int,
) -> list[GroupRow]:
    """Return the first groups in order; their values are those of the measures, in that order. To be run in a
    transaction. What takes longer than the timeout is cancelled by the server."""
    names = list(measures)
    columns = [Identifier(name) for name in names]
    statement = SQL(_GROUPS).format(
        property=expressions.Constant(property_name),
        bin=SQL("NULL::text") if histogram is None else _bin(histogram),
        quantities=SQL(", ").join(
            SQL("{} AS {}").format(_quantity(measure), Identifier(name)) for name, measure in measures.items()
        ),
        sums=SQL(", ").join(SQL("sum({name}) AS {name}").format(name=name) for name in columns),
        totals=SQL(", ").join(SQL("COALESCE(sum({name}), 0) AS {name}").format(name=name) for name in columns),
        first=columns[0],
        rank=_rank(ranking),
        direction=SQL("DESC" if ranking.is_descending else "ASC"),
        columns=SQL(", ").join(SQL("shown.{}").format(name) for name in columns),
        customer=SQL("TRUE") if customer_id is None else SQL("event.customer_id = %(customer)s"),
    )
    feed_ids = {feed_id for measure in measures.values() for feed_id in measure.feed_ids}
    parameters: dict[str, int | datetime | list[int] | None] = {
        "organization": organization_id,
        "start": span.start,
        "end": span.end,
        "feeds": sorted(feed_ids),
        "customer": customer_id,
        "limit": limit,
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, TRUE)", [str(timeout_ms)])
        cursor.execute(statement, parameters)
        rows = [GroupRow(*row) for row in cursor.fetchall()]
        cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
    return rows


def _quantity(measure: Measure) -> Composable:
    """Return what an event adds to the measure; null: nothing."""
    is_count = measure.metric.aggregation == Aggregation.COUNT
    quantity = SQL("1") if is_count else expressions.quantity(measure.metric)
    return SQL("CASE WHEN {} THEN {} END").format(_is_counted(measure), quantity)


def _bin(histogram: Histogram) -> Composable:
    measure = histogram.measure
    text = expressions.dimension(measure.metric, histogram.dimension)
    return SQL("CASE WHEN {} THEN {} END").format(_is_counted(measure), text)


def _is_counted(measure: Measure) -> Composable:
    metric = measure.metric
    filters = [
        expressions.is_one_of(expressions.dimension(metric, key), values) for key, values in measure.filters.items()
    ]
    feeds = SQL("event.feed_id = ANY({}::bigint[])").format(expressions.Constant(list(measure.feed_ids)))
    return expressions.conjunction([feeds, expressions.is_fed(metric), *filters])


def _rank(ranking: Ranking) -> Composable:
    if ranking.denominator is None:
        return Identifier(ranking.numerator)
    return SQL(_RATIO).format(numerator=Identifier(ranking.numerator), denominator=Identifier(ranking.denominator))
