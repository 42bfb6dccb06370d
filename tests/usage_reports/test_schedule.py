"""When reports are due and which range they tell of: clocks that jump, months that end early, all by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from metering.domain import Span
from tests.metering.meter import utc
from usage_reports.domain import (
    RETRY_PAUSES,
    Frequency,
    ReportRange,
    Schedule,
    latest_due_time,
    next_due_time,
    plan_retry,
    range_span,
)

MICROSECOND = timedelta(microseconds=1)


def daily(hour: int) -> Schedule:
    return Schedule(Frequency.DAILY, hour)


def weekly(weekday: int, hour: int) -> Schedule:
    return Schedule(Frequency.WEEKLY, hour, weekday=weekday)


def monthly(day: int, hour: int) -> Schedule:
    return Schedule(Frequency.MONTHLY, hour, day_of_month=day)


# Each row names two neighbours: due times with none between them.
NEIGHBOURS = [
    ("daily", daily(7), "UTC", utc(2026, 11, 20, 7), utc(2026, 11, 21, 7)),
    ("daily at midnight", daily(0), "UTC", utc(2026, 12, 31), utc(2027, 1, 1)),
    ("daily east of Greenwich", daily(7), "Asia/Kolkata", utc(2026, 11, 20, 1, 30), utc(2026, 11, 21, 1, 30)),
    # New York skips 02:00 to 03:00 on 8 March 2026: due at the jump, 07:00 UTC.
    ("into the skipped hour", daily(2), "America/New_York", utc(2026, 3, 7, 7), utc(2026, 3, 8, 7)),
    ("out of the skipped hour", daily(2), "America/New_York", utc(2026, 3, 8, 7), utc(2026, 3, 9, 6)),
    ("the day gets shorter", daily(7), "America/New_York", utc(2026, 3, 7, 12), utc(2026, 3, 8, 11)),
    # New York shows 01:00 to 02:00 twice on 1 November 2026: due the first time, 05:00 UTC, not again at 06:00.
    ("into the doubled hour", daily(1), "America/New_York", utc(2026, 10, 31, 5), utc(2026, 11, 1, 5)),
    ("out of the doubled hour", daily(1), "America/New_York", utc(2026, 11, 1, 5), utc(2026, 11, 2, 6)),
    # Havana skips midnight on 8 March 2026 and shows it twice on 1 November.
    ("skipped midnight", daily(0), "America/Havana", utc(2026, 3, 7, 5), utc(2026, 3, 8, 5)),
    ("after a skipped midnight", daily(0), "America/Havana", utc(2026, 3, 8, 5), utc(2026, 3, 9, 4)),
    ("doubled midnight", daily(0), "America/Havana", utc(2026, 11, 1, 4), utc(2026, 11, 2, 5)),
    # Azores: 01:00 goes back to 00:00 on 25 October 2026, so that the clock shows 00:00 twice, at 00:00 and 01:00 UTC.
    ("doubled by going back to midnight", daily(0), "Atlantic/Azores", utc(2026, 10, 25), utc(2026, 10, 26, 1)),
    # Lord Howe jumps by half an hour, 02:00 to 02:30, on 4 October 2026: 15:30 UTC of the day before.
    ("half an hour skipped", daily(2), "Australia/Lord_Howe", utc(2026, 10, 2, 15, 30), utc(2026, 10, 3, 15, 30)),
    # Samoa had no 30 December 2011: what was due then is due on the 31st, once.
    ("a date left out", daily(7), "Pacific/Apia", utc(2011, 12, 29, 17), utc(2011, 12, 30, 17)),
    ("after the date left out", daily(7), "Pacific/Apia", utc(2011, 12, 30, 17), utc(2011, 12, 31, 17)),
    ("weekly", weekly(0, 7), "UTC", utc(2026, 11, 16, 7), utc(2026, 11, 23, 7)),
    (
        "weekly, the local Monday is UTC's Sunday",
        weekly(0, 7),
        "Asia/Tokyo",
        utc(2026, 11, 15, 22),
        utc(2026, 11, 22, 22),
    ),
    ("weekly over a jump", weekly(6, 2), "America/New_York", utc(2026, 3, 8, 7), utc(2026, 3, 15, 6)),
    ("monthly", monthly(1, 0), "UTC", utc(2026, 11, 1), utc(2026, 12, 1)),
    ("monthly over new year", monthly(15, 6), "UTC", utc(2026, 12, 15, 6), utc(2027, 1, 15, 6)),
    ("31st, in April the 30th", monthly(31, 6), "UTC", utc(2026, 3, 31, 6), utc(2026, 4, 30, 6)),
    ("31st after April", monthly(31, 6), "UTC", utc(2026, 4, 30, 6), utc(2026, 5, 31, 6)),
    ("31st in February", monthly(31, 6), "UTC", utc(2026, 1, 31, 6), utc(2026, 2, 28, 6)),
    ("30th in February", monthly(30, 6), "UTC", utc(2026, 2, 28, 6), utc(2026, 3, 30, 6)),
    ("29th in a common year", monthly(29, 6), "UTC", utc(2026, 1, 29, 6), utc(2026, 2, 28, 6)),
    ("29th in a leap year", monthly(29, 6), "UTC", utc(2028, 1, 29, 6), utc(2028, 2, 29, 6)),
    ("31st in a leap year", monthly(31, 6), "UTC", utc(2028, 2, 29, 6), utc(2028, 3, 31, 6)),
    ("28th in a leap year is not the last", monthly(28, 6), "UTC", utc(2028, 2, 28, 6), utc(2028, 3, 28, 6)),
    ("29th in 2100, no leap year", monthly(29, 6), "UTC", utc(2100, 1, 29, 6), utc(2100, 2, 28, 6)),
    ("the month ends later here", monthly(1, 0), "Pacific/Auckland", utc(2026, 10, 31, 11), utc(2026, 11, 30, 11)),
]


@pytest.mark.parametrize(
    ("schedule", "zone", "first", "second"), [row[1:] for row in NEIGHBOURS], ids=[row[0] for row in NEIGHBOURS]
)
class TestNeighbours:
    def test_the_next_comes_after_exactly_this_one(
        self, schedule: Schedule, zone: str, first: datetime, second: datetime
    ) -> None:
        there = ZoneInfo(zone)

        assert next_due_time(schedule, after=first - MICROSECOND, zone=there) == first
        assert next_due_time(schedule, after=first, zone=there) == second
        assert next_due_time(schedule, after=second - MICROSECOND, zone=there) == second

    def test_the_latest_is_this_one_until_the_next(
        self, schedule: Schedule, zone: str, first: datetime, second: datetime
    ) -> None:
        there = ZoneInfo(zone)

        assert latest_due_time(schedule, now=first, zone=there) == first
        assert latest_due_time(schedule, now=second - MICROSECOND, zone=there) == first
        assert latest_due_time(schedule, now=second, zone=there) == second


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Havana", "Pacific/Chatham", "Africa/Casablanca", "UTC"])
@pytest.mark.parametrize("schedule", [daily(0), daily(2), daily(23), weekly(6, 2), monthly(31, 1)], ids=str)
def test_a_year_of_due_times_has_one_a_day_week_or_month(schedule: Schedule, zone: str) -> None:
    there = ZoneInfo(zone)
    at, end, due = utc(2027, 12, 31, 12), utc(2028, 12, 31, 12), []
    while (at := next_due_time(schedule, after=at, zone=there)) <= end:
        due.append(at)

    assert len(due) == {Frequency.DAILY: 366, Frequency.WEEKLY: 53, Frequency.MONTHLY: 12}[schedule.frequency]
    assert len({at.astimezone(there).date() for at in due}) == len(due)
    for earlier, later in pairwise(due):
        assert latest_due_time(schedule, now=later - MICROSECOND, zone=there) == earlier


RANGES = [
    ("yesterday", "UTC", utc(2026, 11, 21, 7), utc(2026, 11, 20), utc(2026, 11, 21)),
    ("yesterday", "UTC", utc(2026, 11, 21), utc(2026, 11, 20), utc(2026, 11, 21)),
    ("yesterday", "Asia/Tokyo", utc(2026, 11, 20, 22), utc(2026, 11, 19, 15), utc(2026, 11, 20, 15)),
    # The days on which New York's clocks change have 23 and 25 hours.
    ("yesterday", "America/New_York", utc(2026, 3, 9, 11), utc(2026, 3, 8, 5), utc(2026, 3, 9, 4)),
    ("yesterday", "America/New_York", utc(2026, 11, 2, 12), utc(2026, 11, 1, 4), utc(2026, 11, 2, 5)),
    # On 31 December 2011 in Samoa the day before was the 29th.
    ("yesterday", "Pacific/Apia", utc(2011, 12, 30, 17), utc(2011, 12, 29, 10), utc(2011, 12, 30, 10)),
    ("last_7_days", "UTC", utc(2026, 3, 3, 7), utc(2026, 2, 24), utc(2026, 3, 3)),
    ("last_7_days", "UTC", utc(2028, 3, 3, 7), utc(2028, 2, 25), utc(2028, 3, 3)),
    ("last_30_days", "Europe/Berlin", utc(2026, 11, 20, 6), utc(2026, 10, 20, 22), utc(2026, 11, 19, 23)),
    ("last_week", "UTC", utc(2026, 11, 21, 7), utc(2026, 11, 9), utc(2026, 11, 16)),
    ("last_week", "UTC", utc(2026, 11, 16), utc(2026, 11, 9), utc(2026, 11, 16)),
    ("last_week", "UTC", utc(2026, 11, 15, 23), utc(2026, 11, 2), utc(2026, 11, 9)),
    ("last_month", "UTC", utc(2026, 3, 31, 7), utc(2026, 2, 1), utc(2026, 3, 1)),
    ("last_month", "UTC", utc(2027, 1, 1), utc(2026, 12, 1), utc(2027, 1, 1)),
    ("last_month", "America/New_York", utc(2026, 12, 1, 12), utc(2026, 11, 1, 4), utc(2026, 12, 1, 5)),
    ("week_to_date", "UTC", utc(2026, 11, 21, 7), utc(2026, 11, 16), utc(2026, 11, 21, 7)),
    ("week_to_date", "UTC", utc(2026, 11, 16), utc(2026, 11, 9), utc(2026, 11, 16)),
    ("month_to_date", "UTC", utc(2026, 11, 21, 7), utc(2026, 11, 1), utc(2026, 11, 21, 7)),
    ("month_to_date", "UTC", utc(2026, 11, 1), utc(2026, 10, 1), utc(2026, 11, 1)),
    ("month_to_date", "Asia/Tokyo", utc(2026, 10, 31, 16), utc(2026, 10, 31, 15), utc(2026, 10, 31, 16)),
]


@pytest.mark.parametrize(("name", "zone", "at", "start", "end"), RANGES)
def test_range_is_in_whole_local_days_before_the_due_time(
    name: str, zone: str, at: datetime, start: datetime, end: datetime
) -> None:
    assert range_span(ReportRange(name), at=at, zone=ZoneInfo(zone)) == Span(start, end)


@pytest.mark.parametrize("report_range", list(ReportRange))
@pytest.mark.parametrize("zone", ["UTC", "America/Havana", "Pacific/Apia", "Asia/Kathmandu"])
def test_no_range_is_empty_or_in_the_future(report_range: ReportRange, zone: str) -> None:
    there = ZoneInfo(zone)
    for hours in range(0, 24 * 400, 7):
        at = datetime(2011, 6, 1, tzinfo=UTC) + timedelta(hours=hours)
        span = range_span(report_range, at=at, zone=there)
        assert span.start < span.end <= at


def test_attempts_end_within_a_day() -> None:
    now = utc(2026, 11, 21)

    assert plan_retry(attempts=1, now=now) == utc(2026, 11, 21, 0, 1)
    assert plan_retry(attempts=len(RETRY_PAUSES), now=now) == utc(2026, 11, 21, 8)
    assert plan_retry(attempts=len(RETRY_PAUSES) + 1, now=now) is None
    assert timedelta(hours=20) < sum(RETRY_PAUSES, timedelta()) < timedelta(days=1)
