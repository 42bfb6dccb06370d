"""Checking and repairing rollups and member sets against the raw events they were made from.

Works through an organization's history in slices of whole UTC days, a metric at a time, each in a transaction of
its own: memory and locks stay small whatever the history's length. Only what raw events can still tell is looked
at: days from `Horizon.raw_from` on (of an event type from its own), minutes from `Horizon.minutes_from` on, and
nothing of customers that were erased. Pending batches and voided events are in no rollup and are not expected there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection, transaction
from pyroaring import BitMap

from accounts.models import Organization
from metering.domain import DAY, Span, ceil_time, floor_time
from metering.feeds import list_feed_ids
from metering.models import Aggregation, Horizon, Metric
from metering.services.rollup import ensure_horizon
from metering.sql import member_sets, rebuild, roll_up
from metering.sql.usage import find_horizon

# A slice is as many days as hold about so many events: a second or so of work per metric.
SLICE_EVENTS = 200_000
# Repaired sets are written in groups: a bitmap can be megabytes.
SETS_PER_WRITE = 100
TABLES = (*(table for table, _ in roll_up.WIDTHS), "metering_member_set")
BEGINNING, END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Difference:
    """A stored bucket that is not what the raw events say. `metric` is empty for buckets that belong to none."""

    table: str
    metric: str
    customer: str | None
    dimensions: dict[str, str | None]
    bucket_start: datetime
    stored: str
    counted: str


@dataclass(frozen=True, slots=True)
class Slice:
    """Days that are looked at together, with about how many raw events they hold."""

    span: Span
    event_count: int


Report = Callable[[Difference], None]


def list_slices(
    *, organization: Organization, start: datetime | None = None, end: datetime | None = None
) -> list[Slice]:
    """Cut the organization's history, or its days that overlap `[start, end)`, into slices; the oldest first."""
    horizon = Horizon.objects.for_organization(organization).first()
    first = max(floor_time(start, DAY) if start else BEGINNING, (horizon and horizon.raw_from) or BEGINNING)
    last = ceil_time(end, DAY) if end else END
    slices: list[Slice] = []
    for day, event_count in rebuild.list_days(organization_id=organization.pk, start=first, end=last):
        if slices and slices[-1].event_count + event_count <= SLICE_EVENTS:
            grown = slices.pop()
            slices.append(Slice(Span(grown.span.start, day + DAY), grown.event_count + event_count))
        else:
            slices.append(Slice(Span(day, day + DAY), event_count))
    return slices


def verify_slice(*, organization: Organization, span: Span, report: Report) -> int:
    """Report every bucket of the span that differs from the raw events; return how many. Changes nothing.

    Takes no lock: each metric is read in one snapshot, in which a batch is either rolled up or not.
    """
    differing = 0
    for metric in _list_metrics(organization):
        with _snapshot():
            differing += _Examination.of(metric, span, report).run(is_repair=False)
    with _snapshot():
        return differing + _examine_orphans(organization, span, report, is_repair=False)


def repair_slice(*, organization: Organization, span: Span, now: datetime, report: Report) -> int:
    """Report as `verify_slice` does, and make each reported bucket what the raw events say.

    Holds the rollup lock for one metric at a time: the worker and voids wait for that long, ingest and reads never.
    """
    differing = 0
    for metric in _list_metrics(organization):
        with transaction.atomic():
            roll_up.lock(organization_id=organization.pk)
            ensure_horizon(organization_id=organization.pk, now=now)
            differing += _Examination.of(metric, span, report).run(is_repair=True)
    with transaction.atomic():
        roll_up.lock(organization_id=organization.pk)
        return differing + _examine_orphans(organization, span, report, is_repair=True)


def _list_metrics(organization: Organization) -> list[Metric]:
    """Return all metrics, archived ones too: their history stays readable."""
    return list(Metric.objects.for_organization(organization).order_by("pk"))


@contextmanager
def _snapshot() -> Iterator[None]:
    """Give all statements within one snapshot; inside a transaction its own must do."""
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        if is_outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


@dataclass(frozen=True, slots=True)
class _Examination:
    """One metric over one span, clipped to what raw events can still tell."""

    metric: Metric
    feed_ids: list[int]
    span: Span
    minutes_from: datetime
    report: Report

    @classmethod
    def of(cls, metric: Metric, span: Span, report: Report) -> _Examination:
        kept = find_horizon(organization_id=metric.organization_id, event_type=metric.event_type)
        # Without a horizon nothing was rolled up yet: no minutes are expected.
        minutes_from = kept.minutes_from if kept else END
        told_from = [moment for moment in (kept.raw_from, kept.rollups_from) if moment] if kept else []
        clipped = Span(max([span.start, *told_from]), span.end)
        return cls(metric, list_feed_ids(metric), clipped, minutes_from, report)

    def run(self, *, is_repair: bool) -> int:
        if self.span.start >= self.span.end:
            return 0  # the horizon has passed it by
        rebuild.stage_cells(metric=self.metric, feed_ids=self.feed_ids, span=self.span, minutes_from=self.minutes_from)
        if is_repair:
            roll_up.create_series(organization_id=self.metric.organization_id)
        differing = self._examine_cells(is_repair)
        if self.metric.aggregation == Aggregation.COUNT_UNIQUE:
            differing += self._examine_members(is_repair)
        return differing

    # --- cells ---

    def _examine_cells(self, is_repair: bool) -> int:
        differing = 0
        for table, width in roll_up.WIDTHS:
            span = self.span
            if width == "1 minute":
                span = Span(max(span.start, self.minutes_from), span.end)
            for grain in self._grains():
                if span.start < span.end:
                    differing += self._examine_table(table, width, grain, span, is_repair)
        return differing

    def _examine_table(self, table: str, width: str, grain: rebuild.Grain, span: Span, is_repair: bool) -> int:
        found = 0
        for row in rebuild.compare_cells(metric=self.metric, table=table, width=width, grain=grain, span=span):
            found += 1
            self._tell(table, row, _describe_cell(row.stored), _describe_cell(row.counted))
        if found and is_repair:
            rebuild.repair_cells(metric=self.metric, table=table)
        return found

    def _grains(self) -> tuple[rebuild.Grain, ...]:
        return (rebuild.TOTAL, rebuild.COMBINATION) if self.metric.dimensions else (rebuild.TOTAL,)

    # --- members ---

    def _examine_members(self, is_repair: bool) -> int:
        rebuild.stage_operations(metric=self.metric, feed_ids=self.feed_ids, span=self.span)
        if is_repair:
            rebuild.number_members(metric=self.metric)
            member_sets.create_stage()
        grains = self._grains()
        return sum(self._examine_sets(kind, is_repair) for kind in rebuild.SET_KINDS if kind.grain in grains)

    def _examine_sets(self, kind: rebuild.SetKind, is_repair: bool) -> int:
        found = 0
        repaired: list[member_sets.MemberSetRow] = []
        for row in rebuild.compare_members(metric=self.metric, kind=kind, span=self.span):
            stored = _Members.load(row.stored_added, row.stored_removed)
            counted = _Members(BitMap(row.counted_added or ()), BitMap(row.counted_removed or ()), row.unnumbered)
            if stored == counted:
                continue
            found += 1
            self._tell("metering_member_set", row, stored.describe(kind.width), counted.describe(kind.width))
            if is_repair:
                assert row.series_id is not None  # created with the rollups
                repaired.append(
                    member_sets.MemberSetRow(
                        row.series_id, kind.width, row.bucket_start, counted.added, counted.removed
                    )
                )
            if len(repaired) >= SETS_PER_WRITE:
                self._write_sets(repaired)
                repaired.clear()
        self._write_sets(repaired)
        return found

    def _write_sets(self, rows: list[member_sets.MemberSetRow]) -> None:
        organization_id = self.metric.organization_id
        member_sets.upsert_sets(organization_id=organization_id, rows=rows)

    # --- reporting ---

    def _tell(
        self, table: str, row: rebuild.CellDifference | rebuild.MemberComparison, stored: str, counted: str
    ) -> None:
        keys = [dimension["key"] for dimension in self.metric.dimensions] if row.dimensions is not None else []
        dimensions = dict(zip(keys, row.dimensions or [], strict=True))
        self.report(Difference(table, self.metric.code, row.customer, dimensions, row.bucket_start, stored, counted))


@dataclass(frozen=True, slots=True)
class _Members:
    """One side of a comparison of sets. An empty set and none at all mean the same."""

    added: BitMap
    removed: BitMap
    # Members of raw events that the dictionary does not know, so that no set can hold them.
    unnumbered: int = 0

    @classmethod
    def load(cls, added: bytes | None, removed: bytes | None) -> _Members:
        return cls(member_sets.load_bitmap(added), member_sets.load_bitmap(removed))

    def describe(self, width: str) -> str:
        name = {member_sets.HOUR_WIDTH: "hour", member_sets.DAY_WIDTH: "day"}[width]
        numbers = f"{len(self.added)} added, {len(self.removed)} removed in the {name}"
        return f"{numbers}, {self.unnumbered} unknown to the dictionary" if self.unnumbered else numbers


def _examine_orphans(organization: Organization, span: Span, report: Report, *, is_repair: bool) -> int:
    differing = 0
    for table in TABLES:
        found = rebuild.count_orphans(organization_id=organization.pk, table=table, span=span)
        if not found:
            continue
        differing += found
        report(Difference(table, "", None, {}, span.start, f"{found} buckets that belong to no metric", "nothing"))
        if is_repair:
            rebuild.delete_orphans(organization_id=organization.pk, table=table, span=span)
    return differing


def _describe_cell(cell: rebuild.CellColumns | None) -> str:
    if cell is None:
        return "nothing"
    return f"{cell.event_count} events, sum {cell.sum}, min {cell.min}, max {cell.max}, last {cell.last}"
