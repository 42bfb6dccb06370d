"""What customers used in a period, for limits and thresholds: they need an answer whatever is kept.

Owns no usage number: it asks `metering.queries`, of a shorter range where the period itself can no longer be read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from decimal import Decimal

import structlog

from accounts.models import Organization
from metering import queries
from metering.domain import DAY, HOUR, Span, ceil_time, floor_time
from metering.models import Metric
from metering.queries.reading import Filters, RangeNotKept

logger = structlog.get_logger(__name__)


def list_period_values(
    *,
    organization: Organization,
    metric: Metric,
    period: Span,
    customer_ids: Collection[int],
    filters: Filters | None = None,
) -> dict[int, Decimal]:
    """Return the value of each customer in the period, by the customer's id.

    Exact, with one exception: in zones whose midnight is not a full UTC hour a period cuts an hour, and once the raw
    events of that hour are pruned nothing tells its two parts apart. Then it is left out, less than an hour at the
    period's edge: a check of a quota must not fail for it, nor may anybody be held to what another period used. For
    members by dimension, of which only whole days are kept, less than a day is left out.
    """
    refused: RangeNotKept | None = None
    for span in _spans_to_try(period):
        try:
            values = queries.list_customer_values(
                organization=organization,
                metric=metric,
                start=span.start,
                end=span.end,
                customer_ids=customer_ids,
                filters=filters,
            )
        except RangeNotKept as error:
            refused = error
            continue
        if refused is not None:
            logger.info("period_cut_short", metric=metric.pk, period=period.start, counted_from=span.start)
        return values
    assert refused is not None
    raise refused


def _spans_to_try(period: Span) -> Iterator[Span]:
    """Yield the period, then what is left of it without its beginning, and without its end, which is gone later."""
    yield period
    for width in (HOUR, DAY):
        start = ceil_time(period.start, width)
        for end in (period.end, floor_time(period.end, width)):
            if start < end:
                yield Span(start, end)
