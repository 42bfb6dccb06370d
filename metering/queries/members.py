"""Counting members: the sets of count_unique, composed over pieces of time.

A piece is a bucket of a member set or a stretch of raw events. Pieces compose in the order of time; within one, the
last operation of a member counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
        if not self.removed and not later.removed:  # the usual case, and a quarter of the work
            return MemberCell(self.added | later.added, self.removed)
        return MemberCell(
            (self.added - later.removed) | later.added,
            (self.removed - later.added) | later.removed,
        )


def list_members(reading: Reading, buckets: Sequence[Span]) -> dict[LineKey, list[MemberCell]]:
    """Return the dense member cells of each line that has any, keyed like the cells of `Reading.list_cells`.

    Where members were removed every customer keeps a line of its own, also if the customers are not asked apart: a
    remove takes a member from its own customer alone, so only the caller's union of their final sets is exact.
    """
    found = _Found.read(reading, buckets)
    if found.has_removes:
        return _MemberSteps.collect(reading, buckets, found).fold(len(buckets))
    return _unite(found, buckets, is_per_customer=reading.selection.is_per_customer)


@dataclass(slots=True)
class _Found:
    """What was read: the sets of whole days and hours, the operations of the raw pieces and of the tail."""

    cut: Cut
    sets: Sequence[usage_sql.SetRow]
    operations: Sequence[usage_sql.OperationRow]
    # Members that the dictionary lacks yet (their batch is pending), numbered from the top.
    fresh: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, reading: Reading, buckets: Sequence[Span]) -> _Found:
        selection = reading.selection
        cut = reading.cut(buckets, is_for_members=True)
        span = Span(buckets[0].start, buckets[-1].end)
        found = cls(
            cut=cut,
            sets=[]
            if selection.as_of is not None
            else usage_sql.list_sets(selection, span=span, days=cut.days, hours=cut.hours),
            operations=usage_sql.list_operations(selection, span=span, raw=cut.raw),
        )
        reading.confirm(cut.raw)
        return found

    @property
    def has_removes(self) -> bool:
        return any(row.removed is not None for row in self.sets) or any(
            row.operation == Operation.REMOVE for row in self.operations
        )

    def number(self, row: usage_sql.OperationRow) -> int:
        if row.number is not None:
            return row.number
        return self.fresh.setdefault(row.member, 2**32 - 1 - len(self.fresh))


NOBODY = BitMap()


def _unite(found: _Found, buckets: Sequence[Span], *, is_per_customer: bool) -> dict[LineKey, list[MemberCell]]:
    """Return the cells of members that nobody ever removed: whoever occurs in a bucket is in its set."""
    starts = [bucket.start for bucket in buckets]
    lines: dict[LineKey, list[BitMap]] = defaultdict(lambda: [NOBODY] * len(buckets))
    places = {start: bisect_right(starts, start) - 1 for start in {row.bucket_start for row in found.sets}}
    for row in found.sets:
        line = lines[row.customer_id if is_per_customer else None, row.group]
        place = places[row.bucket_start]
        added = BitMap.deserialize(row.added)
        if line[place] is NOBODY:
            line[place] = added
        else:
            line[place] |= added
    loose: dict[tuple[LineKey, int], list[int]] = defaultdict(list)
    for operation in found.operations:
        key = (operation.customer_id if is_per_customer else None, tuple(operation.group))
        loose[key, bisect_right(starts, operation.occurred_at) - 1].append(found.number(operation))
    for (key, place), numbers in loose.items():
        lines[key][place] = lines[key][place] | BitMap(numbers)
    return {key: [MemberCell(added, NOBODY) for added in line] for key, line in lines.items()}


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
    found: _Found

    @classmethod
    def collect(cls, reading: Reading, buckets: Sequence[Span], found: _Found) -> _MemberSteps:
        cut = found.cut
        pieces = [piece for span in cut.days for piece in _slices(span, DAY)]
        pieces += [piece for span in cut.hours for piece in _slices(span, HOUR)]
        pieces += _split_at(cut.raw, [bucket.start for bucket in buckets])
        collected = cls(reading, buckets, SortedSpans(pieces), defaultdict(lambda: defaultdict(list)), found)
        collected._add_sets(found.sets)
        collected._add_operations(found.operations)
        return collected

    def _add_sets(self, rows: Iterable[usage_sql.SetRow]) -> None:
        for row in rows:
            piece = self.pieces.find(row.bucket_start)
            assert piece is not None  # only buckets of the cut were read
            removed = NOBODY if row.removed is None else BitMap.deserialize(row.removed)
            cell = MemberCell(BitMap.deserialize(row.added), removed)
            self.steps[row.customer_id, row.group][piece].append(cell)

    def _add_operations(self, rows: Iterable[usage_sql.OperationRow]) -> None:
        for key, piece, cell in self._last_operations(rows):
            self.steps[key][piece].append(cell)

    def _last_operations(self, rows: Iterable[usage_sql.OperationRow]) -> Iterator[tuple[LineKey, Span, MemberCell]]:
        """Yield per line and piece what the operations come to; rows are in the order of time and arrival."""
        last: dict[tuple[LineKey, Span], dict[int, int]] = defaultdict(dict)
        for row in rows:
            piece = self.pieces.find(row.occurred_at)
            assert piece is not None  # the cut covers the range
            last[(row.customer_id, tuple(row.group)), piece][self.found.number(row)] = row.operation
        for (key, piece), operations in last.items():
            yield (
                key,
                piece,
                MemberCell(
                    BitMap([number for number, operation in operations.items() if operation == Operation.ADD]),
                    BitMap([number for number, operation in operations.items() if operation == Operation.REMOVE]),
                ),
            )

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
