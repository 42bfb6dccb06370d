"""One read of one metric: what it selects, how far back the finer data reaches, and its cells per line and bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection, transaction

from accounts.models import Organization
from common.errors import InvalidInput
from metering.domain import Cell, Cut, Span, cut_range
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
    """The range cuts an hour whose raw events are no longer kept."""

    code = "range_not_kept"


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
        as_of: datetime | None,
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
        return cls(selection, usage_sql.find_horizon(organization_id=organization.pk))

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
        self.require_raw(cut.raw)
        return cut

    def require_raw(self, spans: Iterable[Span]) -> None:
        """Raise `RangeNotKept` unless all raw events of the spans are kept."""
        raw_from = self.horizon.raw_from if self.horizon else None
        if raw_from is not None and any(span.start < raw_from for span in spans):
            raise RangeNotKept(
                f"Raw events before {raw_from.isoformat()} are no longer kept; ask for whole UTC hours there, "
                "and for members that came and went on the same day for a customer's total.",
            )


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
