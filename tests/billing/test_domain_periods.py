"""Billing periods: anchors at the ends of months, clock changes, leap days, trials and ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.periods import (
    BillingPeriod,
    Cycle,
    default_anchor_day,
    list_gaps,
    list_periods,
    list_periods_of_month,
    period_at,
    trial_end,
)

MICROSECOND = timedelta(microseconds=1)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


def cycle(start: datetime, anchor: int, zone: str = "UTC", **more: datetime) -> Cycle:
    return Cycle(start, anchor, ZoneInfo(zone), **more)


def starts(of: Cycle, until: datetime) -> list[datetime]:
    return [period.start for period in list_periods(of, until=until)]


def test_anchor_on_the_31st_is_clamped_and_comes_back() -> None:
    expected = [utc(2025, 1, 31), utc(2025, 2, 28), utc(2025, 3, 31), utc(2025, 4, 30), utc(2025, 5, 31)]

    assert starts(cycle(utc(2025, 1, 31), 31), utc(2025, 6, 1)) == expected


def test_anchor_on_the_31st_meets_the_leap_day() -> None:
    assert starts(cycle(utc(2024, 1, 31), 31), utc(2024, 4, 1)) == [
        utc(2024, 1, 31),
        utc(2024, 2, 29),
        utc(2024, 3, 31),
    ]


@pytest.mark.parametrize(("anchor", "expected"), [(28, 28), (29, 29), (30, 29), (31, 29)])
def test_february_of_a_leap_year_clamps_what_is_beyond_it(anchor: int, expected: int) -> None:
    assert period_at(cycle(utc(2024, 1, 1), anchor), utc(2024, 2, 20)).end == utc(2024, 2, expected)  # type: ignore[union-attr]


def test_start_on_the_leap_day_has_twelve_periods_a_year() -> None:
    assert len(starts(cycle(utc(2024, 2, 29), 29), utc(2025, 2, 28))) == 12


def test_edges_are_half_open_to_the_microsecond() -> None:
    of = cycle(utc(2025, 1, 15), 15)

    assert period_at(of, utc(2025, 1, 15) - MICROSECOND) is None
    assert period_at(of, utc(2025, 1, 15)) == BillingPeriod(utc(2025, 1, 15), utc(2025, 2, 15))
    assert period_at(of, utc(2025, 2, 15) - MICROSECOND) == BillingPeriod(utc(2025, 1, 15), utc(2025, 2, 15))
    assert period_at(of, utc(2025, 2, 15)) == BillingPeriod(utc(2025, 2, 15), utc(2025, 3, 15))


def test_first_period_runs_to_the_anchor() -> None:
    of = cycle(utc(2025, 1, 10, 14, 30), 1)

    assert list(list_periods(of, until=utc(2025, 2, 2))) == [
        BillingPeriod(utc(2025, 1, 10, 14, 30), utc(2025, 2, 1)),
        BillingPeriod(utc(2025, 2, 1), utc(2025, 3, 1)),
    ]


def test_periods_follow_the_zones_clock_across_its_changes() -> None:
    """Berlin: UTC+1 until 30 March 2025 and from 26 October, UTC+2 between."""
    berlin = cycle(utc(2025, 2, 28, 23), 1, "Europe/Berlin")

    assert starts(berlin, utc(2025, 5, 1)) == [utc(2025, 2, 28, 23), utc(2025, 3, 31, 22), utc(2025, 4, 30, 22)]
    march, october = period_at(berlin, utc(2025, 3, 15)), period_at(berlin, utc(2025, 10, 15))
    assert march is not None
    assert october is not None
    assert march.end - march.start == timedelta(days=31, hours=-1)
    assert october.end - october.start == timedelta(days=31, hours=1)


def test_day_whose_midnight_is_skipped_begins_with_the_jump() -> None:
    """Chile sets its clocks forward at midnight of 7 September 2025: the day begins at 01:00, 04:00 UTC."""
    of = cycle(utc(2025, 8, 1, 4), 7, "America/Santiago")

    assert starts(of, utc(2025, 9, 8))[-1] == utc(2025, 9, 7, 4)


def test_last_day_of_the_month_counts_where_the_day_begins_elsewhere() -> None:
    """Auckland is 13 hours ahead in January: its 1 February begins on 31 January, 11:00 UTC."""
    of = cycle(utc(2024, 12, 31, 11), 1, "Pacific/Auckland")

    assert period_at(of, utc(2025, 1, 31, 10, 59, 59)) == BillingPeriod(utc(2024, 12, 31, 11), utc(2025, 1, 31, 11))


class TestTrial:
    def test_is_the_first_period_and_costs_nothing(self) -> None:
        start, end = utc(2025, 1, 20, 9), utc(2025, 2, 3, 9)
        of = cycle(start, 3, trial_ends_at=end)

        assert trial_end(start, trial_days=14, zone=ZoneInfo("UTC")) == end
        assert list(list_periods(of, until=utc(2025, 3, 4))) == [
            BillingPeriod(start, end, is_trial=True),
            BillingPeriod(end, utc(2025, 3, 3)),
            BillingPeriod(utc(2025, 3, 3), utc(2025, 4, 3)),
        ]

    def test_ends_at_the_same_time_of_the_clock(self) -> None:
        """Noon in Berlin, before and after the clocks change on 30 March."""
        assert trial_end(utc(2025, 3, 25, 11), trial_days=7, zone=ZoneInfo("Europe/Berlin")) == utc(2025, 4, 1, 10)

    def test_without_days_is_none(self) -> None:
        assert trial_end(utc(2025, 1, 1), trial_days=0, zone=ZoneInfo("UTC")) is None


class TestEnd:
    def test_cuts_the_last_period(self) -> None:
        of = cycle(utc(2025, 1, 1), 1, ends_at=utc(2025, 2, 10))

        assert list(list_periods(of, until=utc(2026, 1, 1)))[-1] == BillingPeriod(utc(2025, 2, 1), utc(2025, 2, 10))
        assert period_at(of, utc(2025, 2, 10)) is None

    def test_during_the_trial_cuts_the_trial(self) -> None:
        of = cycle(utc(2025, 1, 1), 1, trial_ends_at=utc(2025, 1, 15), ends_at=utc(2025, 1, 5))

        assert list(list_periods(of, until=utc(2026, 1, 1))) == [
            BillingPeriod(utc(2025, 1, 1), utc(2025, 1, 5), is_trial=True)
        ]

    def test_at_the_start_leaves_no_period(self) -> None:
        of = cycle(utc(2025, 1, 1), 1, ends_at=utc(2025, 1, 1))

        assert list(list_periods(of, until=utc(2026, 1, 1))) == []


class TestMonth:
    def test_names_the_period_that_begins_in_it(self) -> None:
        of = cycle(utc(2025, 1, 15), 15)

        assert list_periods_of_month(of, year=2025, month=1) == [BillingPeriod(utc(2025, 1, 15), utc(2025, 2, 15))]
        assert list_periods_of_month(of, year=2025, month=12) == [BillingPeriod(utc(2025, 12, 15), utc(2026, 1, 15))]
        assert list_periods_of_month(of, year=2024, month=12) == []

    def test_names_all_of_several(self) -> None:
        of = cycle(utc(2025, 1, 1), 10, trial_ends_at=utc(2025, 1, 8))

        assert list_periods_of_month(of, year=2025, month=1) == [
            BillingPeriod(utc(2025, 1, 1), utc(2025, 1, 8), is_trial=True),
            BillingPeriod(utc(2025, 1, 8), utc(2025, 1, 10)),
            BillingPeriod(utc(2025, 1, 10), utc(2025, 2, 10)),
        ]

    def test_of_a_trial_that_goes_on_names_none(self) -> None:
        of = cycle(utc(2025, 1, 20), 1, trial_ends_at=utc(2025, 3, 5))

        assert list_periods_of_month(of, year=2025, month=2) == []

    def test_of_the_end_names_the_last_period(self) -> None:
        of = cycle(utc(2025, 1, 1), 1, ends_at=utc(2025, 2, 10))

        assert list_periods_of_month(of, year=2025, month=2) == [BillingPeriod(utc(2025, 2, 1), utc(2025, 2, 10))]
        assert list_periods_of_month(of, year=2025, month=3) == []


def test_gaps_are_what_no_cycle_covers() -> None:
    january = BillingPeriod(utc(2025, 1, 1), utc(2025, 2, 1))
    never, ended = (cycle(utc(2025, 1, day), 1, ends_at=utc(2025, 1, 5)) for day in (5, 3))
    within = cycle(utc(2025, 1, 4), 1, ends_at=utc(2025, 1, 9))
    lasting, later = cycle(utc(2025, 1, 20), 1), cycle(utc(2025, 3, 1), 1)

    assert list_gaps([never, later], january) == [january]
    assert list_gaps([within, ended], january) == [
        BillingPeriod(utc(2025, 1, 1), utc(2025, 1, 3)),
        BillingPeriod(utc(2025, 1, 9), utc(2025, 2, 1)),
    ]
    assert list_gaps([lasting, within, ended], january) == [
        BillingPeriod(utc(2025, 1, 1), utc(2025, 1, 3)),
        BillingPeriod(utc(2025, 1, 9), utc(2025, 1, 20)),
    ]
    assert list_gaps([cycle(utc(2024, 1, 1), 1)], january) == []


def test_default_anchor_is_the_local_day_of_the_first_charge() -> None:
    assert default_anchor_day(utc(2025, 1, 31, 23), ZoneInfo("Europe/Berlin")) == 1
    assert default_anchor_day(utc(2025, 1, 31, 23), ZoneInfo("UTC")) == 31


@given(
    start=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(UTC)),
    anchor=st.integers(1, 31),
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu", "Africa/Cairo"]
    ),
    trial_days=st.integers(0, 40),
    later=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=800)),
)
def test_every_instant_lies_in_exactly_one_period(
    start: datetime, anchor: int, zone: str, trial_days: int, later: timedelta
) -> None:
    place = ZoneInfo(zone)
    of = Cycle(start, anchor, place, trial_ends_at=trial_end(start, trial_days=trial_days, zone=place))
    at = start + later

    periods = list(list_periods(of, until=at + MICROSECOND))

    assert periods[0].start == start
    assert all(before.end == after.start for before, after in pairwise(periods))
    assert all(timedelta(0) < period.end - period.start <= timedelta(days=41) for period in periods)
    assert period_at(of, at) == periods[-1]
    assert periods[-1].start <= at < periods[-1].end
    # Each belongs to exactly one month.
    months = dict.fromkeys((local.year, local.month) for local in (p.start.astimezone(place) for p in periods))
    named = [period for year, month in months for period in list_periods_of_month(of, year=year, month=month)]
    assert [period for period in named if period.start <= at] == periods
