"""Counting members: the sets of count_unique, composed over pieces of time.

A piece is a bucket of a member set or a stretch of raw events. Pieces compose in the order of time; within one, the
last operation of a member counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pyroaring import BitMap

from metering.domain import DAY, HOUR, Cut, SortedSpans, Span
from metering.models import Operation
from metering.queries.reading import LineKey, Reading
from metering.sql import usage as usage_sql


@dataclass(frozen=True, slots=True)
class MemberCell:
    """Who was last added and who was last removed in a piece of time; disjoint."""

    added: BitMap
    removed: BitMap

    def merged(self, later: MemberCell) -> MemberCell:
        return MemberCell(
            (self.added - later.removed) | later.added,
            (self.removed - later.added) | later.removed,
        )


def list_members(reading: Reading, buckets: Sequence[Span]) -> dict[LineKey, list[MemberCell]]:
    """Return the dense member cells of each line that has any, keyed like the cells of `Reading.list_cells`."""
    per_customer = _MemberSteps.collect(reading, buckets).fold(len(buckets))
    if reading.selection.is_per_customer:
        return dict(per_customer)
    return _join_customers(per_customer, len(buckets))


def _join_customers(
    per_customer: Mapping[LineKey, list[MemberCell]], bucket_count: int
) -> dict[LineKey, list[MemberCell]]:
    """Join the customers of each group into one line, numbering (customer, member) apart where removes occur.

    Without removes the union of the customers' sets is exact at every step. With removes it is not (a remove takes
    a member from its own customer alone), so each customer keeps a line and the caller unites their final sets.
    """
    joined: dict[LineKey, list[MemberCell]] = {}
    has_removes = any(cell.removed for line in per_customer.values() for cell in line)
    if has_removes:
        return dict(per_customer)
    for (_, group), line in per_customer.items():
        target = joined.setdefault((None, group), [MemberCell(BitMap(), BitMap()) for _ in range(bucket_count)])
        for place, cell in enumerate(line):
            target[place].added.update(cell.added)
    return joined


@dataclass(slots=True)
class _MemberSteps:
    """The member changes of each (customer, group), by bucket and, within it, by the start of their piece of time.

    A piece that several sources report (series of several dimension values, the tail beside a set) is their union,
    unless a member is added by one and removed by another: then the raw events of the piece decide.
    """

    reading: Reading
    buckets: Sequence[Span]
    pieces: SortedSpans
    steps: dict[LineKey, dict[Span, list[MemberCell]]]
    # Members that the dictionary lacks yet (their batch is pending), numbered from the top.
    fresh: dict[str, int]

    @classmethod
    def collect(cls, reading: Reading, buckets: Sequence[Span]) -> _MemberSteps:
        cut = reading.cut(buckets, is_for_members=True)
        pieces = [piece for span in cut.days for piece in _slices(span, DAY)]
        pieces += [piece for span in cut.hours for piece in _slices(span, HOUR)]
        pieces += _split_at(cut.raw, [bucket.start for bucket in buckets])
        collected = cls(reading, buckets, SortedSpans(pieces), defaultdict(lambda: defaultdict(list)), {})
        span = Span(buckets[0].start, buckets[-1].end)
        if reading.selection.as_of is None:
            collected._add_sets(span, cut)
        collected._add_operations(usage_sql.list_operations(reading.selection, span=span, raw=cut.raw))
        return collected

    def _add_sets(self, span: Span, cut: Cut) -> None:
        for row in usage_sql.list_sets(self.reading.selection, span=span, days=cut.days, hours=cut.hours):
            piece = self.pieces.find(row.bucket_start)
            assert piece is not None  # only buckets of the cut were read
            removed = BitMap() if row.removed is None else BitMap.deserialize(bytes(row.removed))
            cell = MemberCell(BitMap.deserialize(bytes(row.added)), removed)
            self.steps[row.customer_id, tuple(row.group)][piece].append(cell)

    def _add_operations(self, rows: Iterable[usage_sql.OperationRow]) -> None:
        for key, piece, cell in self._last_operations(rows):
            self.steps[key][piece].append(cell)

    def _last_operations(self, rows: Iterable[usage_sql.OperationRow]) -> Iterator[tuple[LineKey, Span, MemberCell]]:
        """Yield per line and piece what the operations come to; rows are in the order of time and arrival."""
        last: dict[tuple[LineKey, Span], dict[int, int]] = defaultdict(dict)
        for row in rows:
            piece = self.pieces.find(row.occurred_at)
            assert piece is not None  # the cut covers the range
            last[(row.customer_id, tuple(row.group)), piece][self._number(row)] = row.operation
        for (key, piece), operations in last.items():
            yield (
                key,
                piece,
                MemberCell(
                    BitMap([number for number, operation in operations.items() if operation == Operation.ADD]),
                    BitMap([number for number, operation in operations.items() if operation == Operation.REMOVE]),
                ),
            )

    def _number(self, row: usage_sql.OperationRow) -> int:
        if row.number is not None:
            return row.number
        return self.fresh.setdefault(row.member, 2**32 - 1 - len(self.fresh))

    def fold(self, bucket_count: int) -> dict[LineKey, list[MemberCell]]:
        """Return one cell per bucket and line: its pieces merged in the order of time."""
        starts = [bucket.start for bucket in self.buckets]
        lines: dict[LineKey, list[MemberCell]] = {}
        for key, pieces in self.steps.items():
            line = lines.setdefault(key, [MemberCell(BitMap(), BitMap()) for _ in range(bucket_count)])
            for piece in sorted(pieces):
                place = bisect_right(starts, piece.start) - 1
                line[place] = line[place].merged(self._settle(key, piece, pieces[piece]))
        return lines

    def _settle(self, key: LineKey, piece: Span, cells: Sequence[MemberCell]) -> MemberCell:
        if len(cells) == 1:
            return cells[0]
        added, removed = union(cell.added for cell in cells), union(cell.removed for cell in cells)
        if not added & removed:
            return MemberCell(added, removed)
        return self._read_raw(key, piece)

    def _read_raw(self, key: LineKey, piece: Span) -> MemberCell:
        """Return what the raw events of one customer's piece come to: the arbiter where sets contradict each other."""
        customer_id, group = key
        assert customer_id is not None
        self.reading.require_raw([piece])
        selection = replace(self.reading.selection, customer_ids=[customer_id])
        rows = usage_sql.list_operations(selection, span=piece, raw=[piece])
        own = (row for row in rows if tuple(row.group) == group)
        return next((cell for _, _, cell in self._last_operations(own)), MemberCell(BitMap(), BitMap()))


def _slices(span: Span, width: timedelta) -> Iterator[Span]:
    start = span.start
    while start < span.end:
        yield Span(start, start + width)
        start += width


def _split_at(spans: Iterable[Span], edges: Sequence[datetime]) -> Iterator[Span]:
    """Yield the spans cut at every edge that lies inside one."""
    for span in spans:
        start = span.start
        for edge in edges[bisect_right(edges, start) :]:
            if edge >= span.end:
                break
            yield Span(start, edge)
            start = edge
        yield Span(start, span.end)


def union(bitmaps: Iterable[BitMap]) -> BitMap:
    united = BitMap()
    for bitmap in bitmaps:
        united |= bitmap
    return united
