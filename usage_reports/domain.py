"""When scheduled reports are due and which range they tell of. Pure: no ORM, no clock, no I/O.

All moments are aware UTC; a report's zone decides what a day and an hour are.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from django.db import models  # for `TextChoices` only

from metering.domain import DAY, Span, day_period, local_date, local_midnight, month_start, week_period

MICROSECOND = timedelta(microseconds=1)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Frequency(models.TextChoices):
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class ReportRange(models.TextChoices):
    """Whole days, weeks or months before the moment a report is due; those "to date" end with that moment."""

    YESTERDAY = "yesterday", "yesterday"
    LAST_7_DAYS = "last_7_days", "last 7 days"
    LAST_30_DAYS = "last_30_days", "last 30 days"
    LAST_WEEK = "last_week", "last week"
    LAST_MONTH = "last_month", "last month"
    WEEK_TO_DATE = "week_to_date", "week to date"
    MONTH_TO_DATE = "month_to_date", "month to date"


class RunState(models.TextChoices):
    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    # A newer one came due first, the report was paused, or nobody was left to send it to.
    SKIPPED = "skipped"


# --- due times ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every day, or on one weekday (0: Monday), or on one day of the month, at a full hour of local time.

    In a month without that day it is the month's last day.
    """

    frequency: Frequency
    hour: int = 0
    weekday: int = 0
    day_of_month: int = 1


def is_due_on(schedule: Schedule, day: date) -> bool:
    match schedule.frequency:
        case Frequency.DAILY:
            return True
        case Frequency.WEEKLY:
            return day.weekday() == schedule.weekday
        case Frequency.MONTHLY:
            return day.day == min(schedule.day_of_month, monthrange(day.year, day.month)[1])


def next_due_time(schedule: Schedule, *, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the first due moment later than `after`."""
    # From the day before: where clocks go back across midnight, `after` can show an earlier date than it has.
    day = after.astimezone(zone).date() - DAY
    while not (is_due_on(schedule, day) and _moment(schedule, day, zone) > after):
        day += DAY
    return _moment(schedule, day, zone)


def latest_due_time(schedule: Schedule, *, now: datetime, zone: ZoneInfo) -> datetime:
    """Return the last due moment up to and including `now`."""
    day = now.astimezone(zone).date() + DAY
    while not (is_due_on(schedule, day) and _moment(schedule, day, zone) <= now):
        day -= DAY
    return _moment(schedule, day, zone)


def _moment(schedule: Schedule, day: date, zone: ZoneInfo) -> datetime:
    """Return when it is due on a local day.

    An hour that clocks skip is due when it would have come without the change, which for the usual change at a full
    hour is the moment of the jump; an hour that comes twice is due the first time.
    """
    return datetime.combine(day, time(schedule.hour), tzinfo=zone).astimezone(UTC)


# --- ranges ---------------------------------------------------------------------------------------------------


def range_span(report_range: ReportRange, *, at: datetime, zone: ZoneInfo) -> Span:
    """Return the range of a report that is due at `at`, never empty.

    "To date" at the very beginning of a week or month is the whole one that has just ended.
    """
    today = local_date(at, zone)
    match report_range:
        case ReportRange.YESTERDAY:
            return _days_before(today, 1, zone)
        case ReportRange.LAST_7_DAYS:
            return _days_before(today, 7, zone)
        case ReportRange.LAST_30_DAYS:
            return _days_before(today, 30, zone)
        case ReportRange.LAST_WEEK:
            this_week = week_period(at, zone=zone)
            return week_period(this_week.start - MICROSECOND, zone=zone)
        case ReportRange.LAST_MONTH:
            return Span(
                month_start(today.year, today.month - 1, 1, zone), month_start(today.year, today.month, 1, zone)
            )
        case ReportRange.WEEK_TO_DATE:
            return Span(week_period(at - MICROSECOND, zone=zone).start, at)
        case ReportRange.MONTH_TO_DATE:
            last_day = local_date(at - MICROSECOND, zone)
            return Span(month_start(last_day.year, last_day.month, 1, zone), at)


def _days_before(today: date, count: int, zone: ZoneInfo) -> Span:
    start = end = local_midnight(today, zone)
    # Day by day: where a zone changed sides of the date line, a date is missing.
    for _ in range(count):
        start = day_period(start - MICROSECOND, zone=zone).start
    return Span(start, end)


# --- sending --------------------------------------------------------------------------------------------------

# The pause after the first attempt that failed, the second …; after the last one a run has failed for good. Together
# a day: by then the next daily report is there.
RETRY_PAUSES = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
    timedelta(hours=8),
    timedelta(hours=8),
)


def plan_retry(*, attempts: int, now: datetime) -> datetime | None:
    """Return when to try again after so many attempts; None: never."""
    return now + RETRY_PAUSES[attempts - 1] if attempts <= len(RETRY_PAUSES) else None
