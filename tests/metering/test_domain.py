"""Periods, buckets, the cutting of ranges and the merging of windows: pure rules, with hand-written expectations."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metering.domain import (
    DAY,
    HOUR,
    MINUTE,
    Cell,
    Granularity,
    SortedSpans,
    Span,
    bucket_at,
    calendar_period,
    ceil_time,
    cut_range,
    day_period,
    fixed_period,
    floor_time,
    list_buckets,
    local_midnight,
    merge_cells,
    month_start,
    running_merges,
    sliding_merges,
    week_period,
)
from tests.metering.brute_force import list_buckets as look_at_buckets

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "America/St_Johns",
    "Antarctica/Casey",
)
MICROSECOND = timedelta(microseconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00" if "T" in text else text + "T00:00:00+00:00")


def span(start: str, end: str) -> Span:
    return Span(at(start), at(end))


class TestCalendarPeriod:
    @pytest.mark.parametrize(
        ("moment", "cycle_day", "zone", "start", "end"),
        [
            pytest.param("2026-11-20", 1, "UTC", "2026-11-01", "2026-12-01", id="plain month"),
            pytest.param("2026-11-01", 1, "UTC", "2026-11-01", "2026-12-01", id="exactly at its start"),
            pytest.param("2026-10-31T23:59:59.999999", 1, "UTC", "2026-10-01", "2026-11-01", id="just before a start"),
            pytest.param("2026-11-01T00:00:00.000001", 1, "UTC", "2026-11-01", "2026-12-01", id="just after a start"),
            pytest.param("2026-11-14", 15, "UTC", "2026-10-15", "2026-11-15", id="before the cycle day"),
            pytest.param("2026-11-15", 15, "UTC", "2026-11-15", "2026-12-15", id="on the cycle day"),
            pytest.param("2026-12-31", 15, "UTC", "2026-12-15", "2027-01-15", id="over the new year"),
            pytest.param("2027-01-01", 15, "UTC", "2026-12-15", "2027-01-15", id="from the new year back"),
            pytest.param("2026-02-28", 28, "UTC", "2026-02-28", "2026-03-28", id="last day of a short month"),
            pytest.param("2028-02-29", 28, "UTC", "2028-02-28", "2028-03-28", id="leap day"),
            pytest.param("2026-03-31T12:00", 28, "UTC", "2026-03-28", "2026-04-28", id="the 31st"),
            pytest.param(
                "2026-03-20", 1, "Europe/Berlin", "2026-02-28T23:00", "2026-03-31T22:00", id="a month with 743 hours"
            ),
            pytest.param(
                "2026-10-20", 1, "Europe/Berlin", "2026-09-30T22:00", "2026-10-31T23:00", id="a month with 745 hours"
            ),
            pytest.param(
                "2026-11-30T23:30", 1, "Asia/Kolkata", "2026-11-30T18:30", "2026-12-31T18:30", id="already December"
            ),
            pytest.param(
                "2026-12-01T04:59:59", 1, "America/New_York", "2026-11-01T04:00", "2026-12-01T05:00", id="still there"
            ),
            pytest.param(
                "2011-12-20", 28, "Pacific/Apia", "2011-11-28T10:00", "2011-12-28T10:00", id="before the missing day"
            ),
            pytest.param(
                "2011-12-31T00:00", 28, "Pacific/Apia", "2011-12-28T10:00", "2012-01-27T10:00", id="a day short"
            ),
            pytest.param(
                # Until 2011 Newfoundland set its clocks back a minute after midnight, to before it.
                "2009-11-01T03:00",
                1,
                "America/St_Johns",
                "2009-11-01T02:30",
                "2009-12-01T03:30",
                id="October shown again in November",
            ),
        ],
    )
    def test_period_holds_the_moment(self, moment: str, cycle_day: int, zone: str, start: str, end: str) -> None:
        assert calendar_period(at(moment), cycle_day=cycle_day, zone=ZoneInfo(zone)) == span(start, end)

    @given(
        st.datetimes(datetime(2009, 1, 1), datetime(2029, 1, 1), timezones=st.just(UTC)),
        st.integers(1, 28),
        st.sampled_from(ZONES),
    )
    def test_periods_follow_each_other_without_gap(self, moment: datetime, cycle_day: int, zone_name: str) -> None:
        zone = ZoneInfo(zone_name)

        period = calendar_period(moment, cycle_day=cycle_day, zone=zone)
        following = calendar_period(period.end, cycle_day=cycle_day, zone=zone)

        assert period.start <= moment < period.end == following.start
        assert calendar_period(period.end - MICROSECOND, cycle_day=cycle_day, zone=zone) == period


class TestOtherPeriods:
    @pytest.mark.parametrize(
        ("moment", "days", "start", "end"),
        [
            pytest.param("1970-01-01", 30, "1970-01-01", "1970-01-31", id="the first window"),
            pytest.param("1970-01-30T23:59:59.999999", 30, "1970-01-01", "1970-01-31", id="its last microsecond"),
            pytest.param("1970-01-31", 30, "1970-01-31", "1970-03-02", id="the second window"),
            pytest.param("2026-11-20", 30, "2026-11-03", "2026-12-03", id="counted from the epoch"),
            pytest.param("2026-11-20", 1, "2026-11-20", "2026-11-21", id="one day"),
            pytest.param("2026-11-20", 7, "2026-11-19", "2026-11-26", id="seven days begin on the epoch's Thursday"),
        ],
    )
    def test_fixed_windows_are_anchored_at_the_epoch(self, moment: str, days: int, start: str, end: str) -> None:
        assert fixed_period(at(moment), days=days) == span(start, end)

    @pytest.mark.parametrize(
        ("moment", "zone", "start", "end"),
        [
            pytest.param("2026-11-20T12:00", "UTC", "2026-11-20", "2026-11-21", id="utc"),
            pytest.param("2026-11-20T18:30", "Asia/Kolkata", "2026-11-20T18:30", "2026-11-21T18:30", id="half past"),
            pytest.param("2026-03-29", "Europe/Berlin", "2026-03-28T23:00", "2026-03-29T22:00", id="23 hours"),
            pytest.param("2026-10-25", "Europe/Berlin", "2026-10-24T22:00", "2026-10-25T23:00", id="25 hours"),
            pytest.param("2026-04-05", "Australia/Lord_Howe", "2026-04-04T13:00", "2026-04-05T13:30", id="24.5 hours"),
            pytest.param("2011-12-30T09:59", "Pacific/Apia", "2011-12-29T10:00", "2011-12-30T10:00", id="before"),
            pytest.param("2011-12-30T10:00", "Pacific/Apia", "2011-12-30T10:00", "2011-12-31T10:00", id="day skipped"),
            pytest.param("2018-11-04T12:00", "America/Sao_Paulo", "2018-11-04T03:00", "2018-11-05T02:00", id="no 0:00"),
            pytest.param(
                "2010-11-07T03:00", "America/St_Johns", "2010-11-07T02:30", "2010-11-08T03:30", id="0:00 twice"
            ),
        ],
    )
    def test_day_is_the_local_day(self, moment: str, zone: str, start: str, end: str) -> None:
        assert day_period(at(moment), zone=ZoneInfo(zone)) == span(start, end)

    @pytest.mark.parametrize(
        ("moment", "zone", "start", "end"),
        [
            pytest.param("2026-11-20", "UTC", "2026-11-16", "2026-11-23", id="a Friday"),
            pytest.param("2026-11-16", "UTC", "2026-11-16", "2026-11-23", id="Monday belongs to its week"),
            pytest.param("2026-11-22T23:59:59.999999", "UTC", "2026-11-16", "2026-11-23", id="Sunday ends it"),
            pytest.param("2027-01-01", "UTC", "2026-12-28", "2027-01-04", id="over the new year"),
            pytest.param("2026-03-29", "Europe/Berlin", "2026-03-22T23:00", "2026-03-29T22:00", id="clocks change"),
        ],
    )
    def test_week_runs_from_monday_to_monday(self, moment: str, zone: str, start: str, end: str) -> None:
        assert week_period(at(moment), zone=ZoneInfo(zone)) == span(start, end)

    def test_month_may_run_past_december_and_below_january(self) -> None:
        assert month_start(2026, 13, 1, ZoneInfo("UTC")) == at("2027-01-01")
        assert month_start(2026, 0, 5, ZoneInfo("UTC")) == at("2025-12-05")

    def test_midnight_that_clocks_skip_is_the_instant_of_the_jump(self) -> None:
        assert local_midnight(date(2018, 11, 4), ZoneInfo("America/Sao_Paulo")) == at("2018-11-04T03:00")
        assert local_midnight(date(2011, 12, 30), ZoneInfo("Pacific/Apia")) == at("2011-12-30T10:00")


class TestHourBuckets:
    @pytest.mark.parametrize(
        ("zone", "start", "edges"),
        [
            pytest.param(
                "Europe/Berlin",
                "2026-10-24T23:30",
                ["2026-10-24T23:00", "2026-10-25T00:00", "2026-10-25T01:00", "2026-10-25T02:00"],
                id="the hour that comes twice is two buckets",
            ),
            pytest.param(
                "Asia/Kolkata",
                "2026-11-20T00:00",
                ["2026-11-19T23:30", "2026-11-20T00:30", "2026-11-20T01:30", "2026-11-20T02:30"],
                id="local hours begin at half past",
            ),
            pytest.param(
                "Australia/Lord_Howe",
                "2026-04-04T14:00",
                ["2026-04-04T14:00", "2026-04-04T15:00", "2026-04-04T15:30", "2026-04-04T16:30"],
                id="half an hour comes twice",
            ),
            pytest.param(
                "Australia/Lord_Howe",
                "2026-10-03T14:45",
                ["2026-10-03T14:30", "2026-10-03T15:30", "2026-10-03T16:00", "2026-10-03T17:00"],
                id="half an hour is skipped",
            ),
            pytest.param(
                "Pacific/Chatham",
                "2026-04-04T13:00",
                ["2026-04-04T12:15", "2026-04-04T13:15", "2026-04-04T14:00", "2026-04-04T14:15"],
                id="clocks go back at a quarter to",
            ),
        ],
    )
    def test_hours_are_those_of_the_local_clock(self, zone: str, start: str, edges: list[str]) -> None:
        span = Span(at(start), at(start) + timedelta(hours=4))

        buckets = list(list_buckets(span, Granularity.HOUR, ZoneInfo(zone)))

        assert [bucket.start for bucket in buckets[:4]] == [at(edge) for edge in edges]


@given(
    zone_name=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2009, 6, 1), datetime(2029, 1, 1), timezones=st.just(UTC)),
    width=st.timedeltas(timedelta(microseconds=1), timedelta(days=40)),
    granularity=st.sampled_from([Granularity.HOUR, Granularity.DAY, Granularity.WEEK, Granularity.MONTH]),
)
@example("Pacific/Apia", at("2011-12-29T09:00"), timedelta(days=3), Granularity.DAY)
@example("America/St_Johns", at("2010-11-07T02:59"), timedelta(hours=3), Granularity.DAY)
@example("Pacific/Chatham", at("2026-04-04T13:59"), timedelta(hours=3), Granularity.HOUR)
@example("Antarctica/Casey", at("2010-03-04T15:00"), timedelta(hours=3), Granularity.DAY)
@example("Europe/Berlin", at("2026-03-29T00:59:59.999999"), 2 * MICROSECOND, Granularity.HOUR)
def test_buckets_cover_any_range_without_gap_whatever_its_ends(
    zone_name: str, start: datetime, width: timedelta, granularity: Granularity
) -> None:
    zone = ZoneInfo(zone_name)
    end = start + width

    buckets = list(list_buckets(Span(start, end), granularity, zone))

    assert buckets[0].start <= start < buckets[0].end
    assert buckets[-1].start < end <= buckets[-1].end
    for earlier, later in itertools.pairwise(buckets):
        assert earlier.end == later.start
    for bucket in buckets:
        # Aligned: the bucket of each of its instants is itself, from wherever one looks.
        assert bucket.start < bucket.end
        assert bucket_at(bucket.start, granularity, zone) == bucket
        assert bucket_at(bucket.end - MICROSECOND, granularity, zone) == bucket


@given(
    zone_name=st.sampled_from([zone for zone in ZONES if zone not in {"America/St_Johns", "Antarctica/Casey"}]),
    day=st.dates(date(2026, 1, 1), date(2026, 12, 31)),
    granularity=st.sampled_from([Granularity.HOUR, Granularity.DAY, Granularity.WEEK, Granularity.MONTH]),
)
@example("Pacific/Chatham", date(2026, 9, 26), Granularity.HOUR)
@example("Australia/Lord_Howe", date(2026, 4, 4), Granularity.HOUR)
def test_buckets_are_what_a_clock_on_the_wall_shows(zone_name: str, day: date, granularity: Granularity) -> None:
    zone = ZoneInfo(zone_name)
    span = Span(
        datetime(day.year, day.month, day.day, tzinfo=UTC), datetime(day.year, day.month, day.day, tzinfo=UTC) + DAY
    )

    buckets = [tuple(bucket) for bucket in list_buckets(span, granularity, zone)]

    assert buckets == [tuple(bucket) for bucket in look_at_buckets(*span, str(granularity), zone)]


class TestCutRange:
    MINUTES_KEPT = at("2026-11-17")

    def test_ragged_range_takes_the_widest_rollup_for_each_part(self) -> None:
        cut = cut_range([span("2026-11-17T22:58:30", "2026-11-19T01:01:30")], minutes_from=self.MINUTES_KEPT)

        assert cut.days == [span("2026-11-18", "2026-11-19")]
        assert cut.hours == [span("2026-11-17T23:00", "2026-11-18"), span("2026-11-19", "2026-11-19T01:00")]
        assert cut.minutes == [
            span("2026-11-17T22:59", "2026-11-17T23:00"),
            span("2026-11-19T01:00", "2026-11-19T01:01"),
        ]
        assert cut.raw == [
            span("2026-11-17T22:58:30", "2026-11-17T22:59"),
            span("2026-11-19T01:01", "2026-11-19T01:01:30"),
        ]

    def test_before_minutes_are_kept_raw_events_answer_the_edges(self) -> None:
        cut = cut_range([span("2026-11-16T22:58", "2026-11-17")], minutes_from=self.MINUTES_KEPT)

        assert (cut.days, cut.minutes) == ([], [])
        assert cut.hours == [span("2026-11-16T23:00", "2026-11-17")]
        assert cut.raw == [span("2026-11-16T22:58", "2026-11-16T23:00")]

    def test_whole_days_need_no_raw_event(self) -> None:
        cut = cut_range([span("2020-01-01", "2026-11-20")], minutes_from=self.MINUTES_KEPT)

        assert cut.days == [span("2020-01-01", "2026-11-20")]
        assert (cut.hours, cut.minutes, cut.raw) == ([], [], [])

    def test_touching_pieces_of_neighbouring_buckets_join(self) -> None:
        buckets = [span("2026-11-18", "2026-11-19"), span("2026-11-19", "2026-11-20")]

        assert cut_range(buckets, minutes_from=self.MINUTES_KEPT).days == [span("2026-11-18", "2026-11-20")]

    @given(
        start=st.datetimes(datetime(2026, 11, 10), datetime(2026, 11, 20), timezones=st.just(UTC)),
        widths=st.lists(
            st.one_of(
                st.sampled_from([MICROSECOND, MINUTE, HOUR, DAY, 3 * DAY, timedelta(seconds=30)]),
                st.timedeltas(MICROSECOND, timedelta(days=4)),
            ),
            min_size=1,
            max_size=5,
        ),
        snap=st.sampled_from([MICROSECOND, timedelta(seconds=1), MINUTE, HOUR, DAY]),
        has_hours=st.booleans(),
        has_minutes=st.booleans(),
    )
    def test_every_instant_is_answered_by_exactly_one_store(
        self, start: datetime, widths: list[timedelta], snap: timedelta, has_hours: bool, has_minutes: bool
    ) -> None:
        edges = [floor_time(start, snap)]
        for width in widths:
            edges.append(edges[-1] + width)
        buckets = [Span(first, second) for first, second in itertools.pairwise(edges)]

        cut = cut_range(buckets, minutes_from=self.MINUTES_KEPT, has_hours=has_hours, has_minutes=has_minutes)

        pieces = sorted([*cut.days, *cut.hours, *cut.minutes, *cut.raw])
        assert pieces[0].start == edges[0]
        assert pieces[-1].end == edges[-1]
        assert all(first.end == second.start for first, second in itertools.pairwise(pieces))
        for spans, width in ((cut.days, DAY), (cut.hours, HOUR), (cut.minutes, MINUTE)):
            assert all(floor_time(edge, width) == edge for piece in spans for edge in piece)
        assert all(piece.start >= self.MINUTES_KEPT for piece in cut.minutes)
        assert has_hours or not cut.hours
        # No rollup crosses an edge between two buckets: there the finer stores must answer.
        for edge in edges[1:-1]:
            for spans, width in ((cut.days, DAY), (cut.hours, HOUR), (cut.minutes, MINUTE)):
                assert floor_time(edge, width) == edge or not any(piece.start < edge < piece.end for piece in spans)


class TestRounding:
    @pytest.mark.parametrize("width", [MINUTE, HOUR, DAY])
    def test_edges_round_to_themselves(self, width: timedelta) -> None:
        edge = at("2026-11-20")

        assert floor_time(edge, width) == edge == ceil_time(edge, width)
        assert floor_time(edge - MICROSECOND, width) == edge - width
        assert ceil_time(edge + MICROSECOND, width) == edge + width


@dataclass(frozen=True)
class Word:
    """A summary whose merging does not commute, so that a wrong order shows."""

    text: str

    def merged(self, later: Word) -> Word:
        return Word(self.text + later.text)


class TestWindows:
    @given(st.text("abcdefgh", max_size=80), st.integers(1, 33))
    def test_sliding_merges_equal_merging_each_window_anew(self, letters: str, width: int) -> None:
        merged = sliding_merges([Word(letter) for letter in letters], width)

        assert [word.text for word in merged] == [
            letters[max(0, place - width + 1) : place + 1] for place in range(len(letters))
        ]

    def test_running_merges_begin_anew_at_each_restart(self) -> None:
        cells = [Word(letter) for letter in "abcde"]

        merged = running_merges(cells, [False, False, True, False, True])

        assert [word.text for word in merged] == ["a", "ab", "c", "cd", "e"]


class TestCells:
    EARLY = Cell(1, Decimal(5), Decimal(5), Decimal(5), at("2026-11-20T10:00"), 7, Decimal(5))

    def test_of_two_readings_at_one_instant_the_later_arrival_is_the_last(self) -> None:
        twin = Cell(1, Decimal(3), Decimal(3), Decimal(3), at("2026-11-20T10:00"), 8, Decimal(3))

        assert self.EARLY.merged(twin).last_value == twin.merged(self.EARLY).last_value == Decimal(3)

    def test_an_empty_cell_changes_nothing(self) -> None:
        assert merge_cells([Cell(), self.EARLY, Cell()]) == self.EARLY

    def test_a_reading_at_the_epoch_still_is_one(self) -> None:
        first = Cell(1, Decimal(1), Decimal(1), Decimal(1), at("1970-01-01"), 0, Decimal(1))

        assert merge_cells([Cell(), first, Cell()]).last_value == Decimal(1)

    def test_sums_keep_every_digit(self) -> None:
        huge = Cell(1, Decimal("1e29"), None, None, at("2026-11-20"), 1, None)
        tiny = Cell(1, Decimal("1e-18"), None, None, at("2026-11-20"), 2, None)

        assert huge.merged(tiny).sum == Decimal("100000000000000000000000000000.000000000000000001")


def test_sorted_spans_find_the_one_that_holds_a_time() -> None:
    spans = SortedSpans([span("2026-11-20", "2026-11-21"), span("2026-11-18", "2026-11-19")])

    assert spans.find(at("2026-11-18")) == span("2026-11-18", "2026-11-19")
    assert spans.find(at("2026-11-20T23:59:59.999999")) == span("2026-11-20", "2026-11-21")
    assert spans.find(at("2026-11-19")) is None
    assert spans.find(at("2026-11-17")) is None
    assert spans.find(at("2026-11-21")) is None
