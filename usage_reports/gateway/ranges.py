"""From the two ends that a request gives, or not, to the half-open range that it means. Pure but for its errors."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from common.errors import InvalidInput
from metering.domain import DAY, Span, local_date, local_midnight, month_start

# A range without a beginning has so many days, or so many calendar months.
DEFAULT_DAYS = 30
DEFAULT_MONTHS = 12


def read_span(
    start: date | None, end: date | None, *, zone: ZoneInfo, now: datetime, is_in_months: bool = False
) -> Span:
    """Return the range. An end is a `date`, which is a whole local day, or a `datetime`, which is an instant.

    Raises `InvalidInput` for a range that ends before it begins, or is empty.
    """
    ends_at = _end_of(end, zone) if end is not None else local_midnight(local_date(now, zone) + DAY, zone)
    if start is not None:
        starts_at = start if isinstance(start, datetime) else local_midnight(start, zone)
        if end is None and ends_at <= starts_at:
            return Span(starts_at, starts_at + DAY)  # it begins after today: nothing was requested yet
    else:
        starts_at = _default_start(ends_at, zone, is_in_months=is_in_months)
    if starts_at >= ends_at:
        raise InvalidInput.of("from", "`from` lies before `to`.", "invalid_range")
    return Span(starts_at, ends_at)


def _end_of(end: date, zone: ZoneInfo) -> datetime:
    return end if isinstance(end, datetime) else local_midnight(end + DAY, zone)


def _default_start(ends_at: datetime, zone: ZoneInfo, *, is_in_months: bool) -> datetime:
    last_day = local_date(ends_at - timedelta.resolution, zone)
    if is_in_months:
        return month_start(last_day.year, last_day.month - DEFAULT_MONTHS + 1, 1, zone)
    return local_midnight(last_day - (DEFAULT_DAYS - 1) * DAY, zone)
