"""One read of one metric: what it selects, how far back the finer data reaches, and its cells per line and bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from django.db import connection, transaction

from accounts.models import Organization
from common.errors import InvalidInput
from metering.domain import Cell, Cut, Cutoff, Span, cut_range
from metering.models import Aggregation, Metric
from metering.sql import usage as usage_sql
from metering.sql.usage import CUSTOMER, Selection

# Per dimension the values of which an event has one; None: it does not have the dimension.
Filters = Mapping[str, Sequence[str | None]]
GroupKey = tuple[str | None, ...]
# A customer (None: all together, where that is exact) and the values of the grouping dimensions.
LineKey = tuple[int | None, GroupKey]

# Before an organization's first rollup there are no minutes to read.
NEVER = datetime.max.replace(tzinfo=UTC)


class RangeNotKept(InvalidInput):
    """The range begins before what is kept, or cuts an hour whose raw events are no longer kept."""

    code = "range_not_kept"


class TotalsNotKept(RangeNotKept):
    """The range begins before the totals that are kept, or cuts an hour of a customer who was erased."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One read: its selection and how far back the finer data reaches."""

    selection: Selection
    horizon: usage_sql.KeptFrom | None

    @classmethod
    def prepare(
        cls,
        organization: Organization,
        metric: Metric,
        customer_id: int | None,
        filters: Filters | None,
        group_by: Sequence[str],
        as_of: datetime | Cutoff | None,
    ) -> Reading:
        is_summed_per_customer = metric.aggregation in {Aggregation.MAX, Aggregation.MIN, Aggregation.LATEST}
        selection = Selection(
            metric=metric,
            customer_ids=None if customer_id is None else [customer_id],
            filters=dict(filters or {}),
            group_by=[key for key in group_by if key != CUSTOMER],
            is_per_customer=CUSTOMER in group_by or (is_summed_per_customer and customer_id is None),
            as_of=as_of,
        )
        return cls(selection, usage_sql.find_horizon(organization_id=organization.pk, event_type=metric.event_type))

    @property
    def counts_members(self) -> bool:
        return self.selection.metric.aggregation == Aggregation.COUNT_UNIQUE

    def list_cells(self, buckets: Sequence[Span], *, is_own_aggregate_only: bool = False) -> dict[LineKey, list[Cell]]:
        """Return the dense cells of each line that has events. The buckets are contiguous.

        With `is_own_aggregate_only` the cells hold only what the metric's own aggregation needs.
        """
        cut = self.cut(buckets)
        span = Span(buckets[0].start, buckets[-1].end)
        edges = [bucket.start for bucket in buckets]
        empty = Cell()
        lines: dict[LineKey, list[Cell]] = {}
        for row in usage_sql.list_cells(
            self.selection, span=span, edges=edges, cut=cut, is_own_aggregate_only=is_own_aggregate_only
        ):
            line = lines[row.customer_id, tuple(row.group)] = [empty] * len(buckets)
            for bucket, cell in zip(row.buckets, row.cells(), strict=False):  # what was not asked for repeats for ever
                line[bucket - 1] = cell
        self.confirm(cut.raw)
        return lines

    def cut(self, buckets: Sequence[Span], *, is_for_members: bool = False) -> Cut:
        if self.selection.as_of is not None:
            cut = Cut(raw=[Span(buckets[0].start, buckets[-1].end)])
        else:
            cut = cut_range(
                buckets,
                minutes_from=self.horizon.minutes_from if self.horizon else NEVER,
                # Hourly sets exist for the customers' totals alone.
                has_hours=not (is_for_members and self.selection.uses_dimensions),
                has_minutes=not is_for_members,
            )
            self._require_rollups(buckets[0].start)
        self.require_raw(cut.raw)
        return cut

    def require_raw(self, spans: Sequence[Span]) -> None:
        """Raise `RangeNotKept` unless all raw events of the spans are kept."""
        if self.horizon is None or not spans:
            return
        raw_from = self.horizon.raw_from
        if raw_from is not None and any(span.start < raw_from for span in spans):
            raise RangeNotKept(
                f"Raw events before {raw_from.isoformat()} are no longer kept; ask for whole UTC hours there, "
                "and for members that came and went on the same day for a customer's total.",
            )
        if self.horizon.last_erasure is not None and usage_sql.has_erased_usage(
            self.selection, raw=spans, minutes_from=self.horizon.minutes_from
        ):
            raise TotalsNotKept(
                "The range cuts an hour of a customer whose usage was erased; of that only the total of the hour is "
                "known. Ask for whole UTC hours."
            )

    def confirm(self, raw: Sequence[Span]) -> None:
        """Raise `RangeNotKept` if raw events of the pieces were deleted while they were read.

        To be called after the read and in its snapshot, if it has one: a horizon moves before anything is deleted, so
        one that stands as it stood tells that nothing was. One query where there are pieces.
        """
        if not raw:
            return
        metric = self.selection.metric
        current = usage_sql.find_horizon(organization_id=metric.organization_id, event_type=metric.event_type)
        if current != self.horizon:
            replace(self, horizon=current).require_raw(raw)

    def _require_rollups(self, start: datetime) -> None:
        rollups_from = self.horizon.rollups_from if self.horizon else None
        if rollups_from is not None and start < rollups_from:
            event_type = self.selection.metric.event_type
            raise TotalsNotKept(f"Totals of {event_type} before {rollups_from.isoformat()} are no longer kept.")


@contextmanager
def snapshot(metric: Metric) -> Iterator[None]:
    """Give the statements of a read one snapshot, where it takes several: members come from two tables."""
    if metric.aggregation != Aggregation.COUNT_UNIQUE or connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


# The values of `group_by` in its order; a customer stands as its id.
Group = tuple[str | int | None, ...]


def group_lines(cells: Mapping[LineKey, object], group_by: Sequence[str]) -> dict[Group, list[LineKey]]:
    """Return the lines of each group; lines of several customers join unless the customer is a group key."""
    groups: dict[Group, list[LineKey]] = {}
    for key in cells:
        customer_id, values = key
        rest = iter(values)
        group = tuple(customer_id if name == CUSTOMER else next(rest) for name in group_by)
        groups.setdefault(group, []).append(key)
    return groups
