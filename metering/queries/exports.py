"""A breakdown or a series as one flat table, for files. Counts nothing itself: every number is `queries.usage`'s.

A long series is read in pieces of whole buckets, so that its size is bounded by `MAX_ROWS` and not by what a chart
can show. Whoever iterates does so within `export_snapshot`, in which all pieces belong to the same instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from accounts.models import Organization
from common.errors import InvalidInput
from metering.domain import Granularity, Mode, Span, list_buckets
from metering.models import Metric
from metering.queries import usage
from metering.queries.reading import Filters

# A year of minutes, or 300 customers by hour for a quarter.
MAX_ROWS = 1_000_000
# Well below what one read may answer: new groups can appear between two reads outside a snapshot.
PIECE_POINTS = usage.MAX_POINTS // 2

Group = tuple[str | None, ...]
Cell = str | Decimal | int | bool | datetime | None


class ColumnKind(StrEnum):
    """What a column holds. Only text comes from senders: it alone may need defusing."""

    TEXT = "text"
    QUANTITY = "quantity"
    COUNT = "count"
    TIME = "time"
    FLAG = "flag"


class Column(NamedTuple):
    name: str
    kind: ColumnKind


@dataclass(frozen=True, slots=True)
class UsageTable:
    """Columns and a way to read the rows; each call of `rows` reads them anew."""

    columns: Sequence[Column]
    rows: Callable[[], Iterator[tuple[Cell, ...]]]


@dataclass(frozen=True, slots=True)
class ExportSelection:
    """Which usage is exported. `zone` and `mode` matter with a granularity alone."""

    organization: Organization
    metric: Metric
    span: Span
    customer_id: int | None = None
    # Stands in a column of its own where all rows are of one customer.
    customer_name: str | None = None
    filters: Filters = field(default_factory=dict)
    group_by: Sequence[str] = ()
    as_of: datetime | None = None

    def names(self) -> dict[str, Any]:
        return {
            "organization": self.organization,
            "metric": self.metric,
            "customer_id": self.customer_id,
            "filters": self.filters,
            "group_by": self.group_by,
            "as_of": self.as_of,
        }

    @property
    def key_columns(self) -> list[Column]:
        """What every row begins with. Groups are prefixed: a dimension may be called `value`."""
        names = ["metric", *(["customer"] if self.customer_name is not None else [])]
        return [Column(name, ColumnKind.TEXT) for name in (*names, *(f"group.{key}" for key in self.group_by))]

    def key_cells(self, group: Group) -> tuple[Cell, ...]:
        customer = () if self.customer_name is None else (self.customer_name,)
        return (self.metric.code, *customer, *group)


@contextmanager
def export_snapshot() -> Iterator[None]:
    """Give all reads within one snapshot. Hold it no longer than it takes to write a file, never while sending one."""
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        if is_outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


# --- breakdown ------------------------------------------------------------------------------------------------

BREAKDOWN_COLUMNS = (
    Column("period_start", ColumnKind.TIME),
    Column("period_end", ColumnKind.TIME),
    Column("value", ColumnKind.QUANTITY),
    Column("count", ColumnKind.COUNT),
    Column("sum", ColumnKind.QUANTITY),
    Column("min", ColumnKind.QUANTITY),
    Column("max", ColumnKind.QUANTITY),
    Column("unique", ColumnKind.COUNT),
    Column("last_value", ColumnKind.QUANTITY),
    Column("last_event_at", ColumnKind.TIME),
)


def breakdown_table(selection: ExportSelection) -> UsageTable:
    """Return one row per group with usage in the span; without `group_by` exactly one row."""

    def rows() -> Iterator[tuple[Cell, ...]]:
        for group, total in _list_totals(selection):
            yield (*selection.key_cells(group), *selection.span, *_numbers(total))

    return UsageTable((*selection.key_columns, *BREAKDOWN_COLUMNS), rows)


def _list_totals(selection: ExportSelection) -> Iterator[tuple[Group, usage.Usage]]:
    names = {**selection.names(), "start": selection.span.start, "end": selection.span.end}
    if selection.group_by:
        for row in usage.list_breakdown(**names):
            yield tuple(row.group.values()), row.usage
    else:
        del names["group_by"]
        yield (), usage.get_usage(**names)


def _numbers(total: usage.Usage) -> tuple[Cell, ...]:
    return (
        total.value,
        total.count,
        total.sum,
        total.min,
        total.max,
        total.unique,
        total.last_value,
        total.last_event_at,
    )


# --- series ---------------------------------------------------------------------------------------------------

SERIES_COLUMNS = (
    Column("bucket_start", ColumnKind.TIME),
    Column("value", ColumnKind.QUANTITY),
    Column("is_partial", ColumnKind.FLAG),
)


def series_table(
    selection: ExportSelection, *, granularity: Granularity, zone: str, mode: Mode, now: datetime
) -> UsageTable:
    """Return one row per bucket and group, in the order of time; dense like the series it is."""
    reader = _SeriesReader(selection, granularity, zone, mode, now)
    return UsageTable((*selection.key_columns, *SERIES_COLUMNS), reader.rows)


@dataclass(frozen=True, slots=True)
class _SeriesReader:
    selection: ExportSelection
    granularity: Granularity
    zone: str
    mode: Mode
    now: datetime

    def rows(self) -> Iterator[tuple[Cell, ...]]:
        """Raises `InvalidInput`, before the first row, when there would be more than `MAX_ROWS`."""
        span = self.selection.span
        groups = self._list_groups()
        self._refuse_excess(len(groups))
        buckets = list_buckets(span, self.granularity, ZoneInfo(self.zone))
        width = max(1, PIECE_POINTS // max(1, len(groups)))
        while piece := list(islice(buckets, width)):
            yield from self._read_piece(piece, groups)

    def _read_piece(self, piece: Sequence[Span], groups: Sequence[Group]) -> Iterator[tuple[Cell, ...]]:
        span = self.selection.span
        series = self._get_series(max(piece[0].start, span.start), min(piece[-1].end, span.end))
        lines = {tuple(line.group.values()): line.points for line in series.lines}
        for place, bucket in enumerate(piece):
            is_partial = usage.is_partial(bucket, span.start, span.end, self.now, self.mode)
            for group in groups:
                points = lines.get(group)
                value = points[place].value if points else usage.ZERO
                yield (*self.selection.key_cells(group), bucket.start, value, is_partial)

    def _list_groups(self) -> list[Group]:
        """Return the groups that have a line somewhere in the series, as one read of all of it would find them."""
        if not self.selection.group_by:
            return [()]
        groups = dict.fromkeys(group for group, _ in _list_totals(self.selection))
        if self.mode != Mode.INCREMENTAL:
            # The first point also looks back before the span.
            first = next(list_buckets(self.selection.span, self.granularity, ZoneInfo(self.zone)))
            series = self._get_series(self.selection.span.start, min(first.end, self.selection.span.end))
            groups |= dict.fromkeys(tuple(line.group.values()) for line in series.lines)
        return list(groups)

    def _get_series(self, start: datetime, end: datetime) -> usage.UsageSeries:
        return usage.get_series(
            **self.selection.names(),
            start=start,
            end=end,
            granularity=self.granularity,
            zone=self.zone,
            mode=self.mode,
            now=self.now,
        )

    def _refuse_excess(self, group_count: int) -> None:
        most = MAX_ROWS // max(1, group_count)
        buckets = list_buckets(self.selection.span, self.granularity, ZoneInfo(self.zone))
        if next(islice(buckets, most, None), None) is not None:
            raise InvalidInput.of(
                "granularity",
                f"The file would have more than {MAX_ROWS} rows. Shorten the range or widen the buckets.",
                "too_many_rows",
            )
