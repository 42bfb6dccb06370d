"""Segments: a billing period cut by changes of plan and by pauses, exactly once and without what is paused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.domain.periods import BillingPeriod, Cycle, list_periods, nominal_period, period_at
from billing.domain.proration import Part
from billing.domain.segments import Pause, PhaseStart, Segment, list_segments

MICROSECOND = timedelta(microseconds=1)
BASIC, PRO, MAX = 1, 2, 3


def june(day: int) -> datetime:
    """Return a day of June 2025, or one beside it: 0 is 31 May, 31 is 1 July."""
    return datetime(2025, 6, 1, tzinfo=UTC) + timedelta(days=day - 1)


JUNE = BillingPeriod(june(1), june(31))


def cut(
    *changes: tuple[int, int],
    pauses: Sequence[tuple[int, int | None]] = (),
    period: BillingPeriod = JUNE,
    is_prorated: bool = True,
) -> list[tuple[int, int, int, str]]:
    """Cut June, Basic before, by changes (day, version) and pauses (from, to) into (from, to, version, thirtieths)."""
    segments = list_segments(
        period=period,
        whole=JUNE,
        phases=[PhaseStart(june(-30), BASIC), *(PhaseStart(june(day), version) for day, version in changes)],
        pauses=[Pause(june(start), None if end is None else june(end)) for start, end in pauses],
        is_prorated=is_prorated,
    )
    return [(_day(s.start), _day(s.end), s.version_id, f"{s.part.start * 30}-{s.part.end * 30}") for s in segments]


def _day(at: datetime) -> int:
    return (at - june(1)).days + 1


def test_a_period_without_changes_is_one_whole_segment() -> None:
    assert cut() == [(1, 31, BASIC, "0-30")]


def test_changes_cut_it_where_they_take_effect() -> None:
    assert cut((22, PRO)) == [(1, 22, BASIC, "0-21"), (22, 31, PRO, "21-30")]
    assert cut((11, PRO), (16, MAX), (26, BASIC)) == [
        (1, 11, BASIC, "0-10"),
        (11, 16, PRO, "10-15"),
        (16, 26, MAX, "15-25"),
        (26, 31, BASIC, "25-30"),
    ]
    assert cut((26, BASIC), (11, PRO)) == [(1, 11, BASIC, "0-10"), (11, 26, PRO, "10-25"), (26, 31, BASIC, "25-30")]


def test_a_change_at_its_start_or_end_leaves_no_empty_segment() -> None:
    assert cut((1, PRO)) == [(1, 31, PRO, "0-30")]
    assert cut((31, PRO)) == [(1, 31, BASIC, "0-30")]


def test_of_changes_at_one_moment_the_last_given_holds() -> None:
    assert cut((11, PRO), (11, MAX)) == [(1, 11, BASIC, "0-10"), (11, 31, MAX, "10-30")]


def test_a_phase_that_changes_nothing_cuts_nothing() -> None:
    assert cut((11, BASIC), (16, PRO), (21, PRO)) == [(1, 16, BASIC, "0-15"), (16, 31, PRO, "15-30")]
    assert cut((11, PRO), (11, BASIC)) == [(1, 31, BASIC, "0-30")]


def test_time_before_the_first_phase_is_in_no_segment() -> None:
    phases = [PhaseStart(june(11), PRO)]

    assert list_segments(period=JUNE, whole=JUNE, phases=phases, pauses=[], is_prorated=False) == []
    assert list_segments(period=JUNE, whole=JUNE, phases=phases, pauses=[], is_prorated=True) == [
        Segment(june(11), june(31), PRO, Part(Fraction(1, 3), Fraction(1)))
    ]


@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        ([(11, 16)], [(1, 11, BASIC, "0-10"), (16, 31, BASIC, "15-30")]),
        ([(11, None)], [(1, 11, BASIC, "0-10")]),
        ([(-9, 16)], [(16, 31, BASIC, "15-30")]),
        ([(1, 31)], []),
        ([(-9, None)], []),
        ([(1, 16), (16, None)], []),
        ([(21, 26), (11, 21), (12, 15)], [(1, 11, BASIC, "0-10"), (26, 31, BASIC, "25-30")]),
        ([(11, 11), (31, None), (-9, 1)], [(1, 31, BASIC, "0-30")]),
    ],
    ids=["within", "lasting", "over the start", "throughout", "lasting throughout", "in two", "overlapping", "beside"],
)  # fmt: skip
def test_paused_time_is_in_no_segment(
    pauses: list[tuple[int, int | None]], expected: list[tuple[int, int, int, str]]
) -> None:
    assert cut(pauses=pauses) == expected


def test_a_pause_may_end_under_another_plan() -> None:
    assert cut((13, PRO), pauses=[(11, 16)]) == [(1, 11, BASIC, "0-10"), (16, 31, PRO, "15-30")]
    assert cut((11, PRO), (16, MAX), pauses=[(11, 16)]) == [(1, 11, BASIC, "0-10"), (16, 31, MAX, "15-30")]


def test_a_period_that_is_not_prorated_is_one_whole_segment_under_the_plan_at_its_start() -> None:
    assert cut((16, PRO), is_prorated=False) == [(1, 31, BASIC, "0-30")]
    assert cut((1, PRO), (16, MAX), pauses=[(1, 30), (20, 25)], is_prorated=False) == [(1, 31, PRO, "0-30")]
    assert cut((16, PRO), pauses=[(0, 15), (15, None)], is_prorated=False) == []


def test_so_is_a_trial() -> None:
    trial = BillingPeriod(june(3), june(17), is_trial=True)

    assert cut((10, PRO), pauses=[(5, 6)], period=trial) == [(3, 17, BASIC, "0-30")]
    assert cut((10, PRO), pauses=[(3, 17)], period=trial) == []


def test_a_period_that_is_cut_short_is_a_part_of_the_nominal_one() -> None:
    to_the_anchor, to_the_end = BillingPeriod(june(21), june(31)), BillingPeriod(june(1), june(11))

    assert cut(period=to_the_anchor) == [(21, 31, BASIC, "20-30")]
    assert cut((6, PRO), period=to_the_end) == [(1, 6, BASIC, "0-5"), (6, 11, PRO, "5-10")]
    assert cut((25, PRO), period=to_the_end) == [(1, 11, BASIC, "0-10")]


# --- the nominal period ---------------------------------------------------------------------------------------


class TestNominalPeriod:
    def test_runs_from_the_anchor_before_to_the_anchor_after(self) -> None:
        cycle = Cycle(june(10), 1, ZoneInfo("UTC"), ends_at=june(45))
        first, last = list_periods(cycle, until=june(60))

        assert (first, nominal_period(cycle, first)) == (BillingPeriod(june(10), june(31)), JUNE)
        assert (last.end, nominal_period(cycle, last)) == (june(45), BillingPeriod(june(31), june(62)))

    def test_of_a_period_between_anchors_is_itself(self) -> None:
        cycle = Cycle(june(1), 1, ZoneInfo("UTC"))

        assert nominal_period(cycle, JUNE) == JUNE

    def test_of_a_trial_is_itself_and_of_what_follows_is_not(self) -> None:
        cycle = Cycle(june(3), 1, ZoneInfo("UTC"), trial_ends_at=june(17))
        trial, rest, _ = list_periods(cycle, until=june(32))

        assert nominal_period(cycle, trial) == trial
        assert (rest.start, nominal_period(cycle, rest)) == (june(17), JUNE)

    def test_is_clamped_to_the_month_and_follows_the_zones_clock(self) -> None:
        """Berlin, the 31st: from 28 February, a UTC day earlier, to 31 March, when summer time has begun."""
        cycle = Cycle(datetime(2025, 3, 5, 12, tzinfo=UTC), 31, ZoneInfo("Europe/Berlin"))
        first = period_at(cycle, cycle.starts_at)
        assert first is not None

        assert nominal_period(cycle, first) == BillingPeriod(
            datetime(2025, 2, 27, 23, tzinfo=UTC), datetime(2025, 3, 30, 22, tzinfo=UTC)
        )


# --- what always holds ----------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_segments_cover_a_period_exactly_once_but_for_its_pauses(data: st.DataObject) -> None:
    """At every moment between two changes of anything, against a look at the phases and pauses themselves."""
    starts_at = data.draw(st.datetimes(datetime(2023, 1, 1), datetime(2029, 1, 1), timezones=st.just(UTC)))
    zone = ZoneInfo(data.draw(st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Africa/Cairo"])))
    cycle = Cycle(starts_at, data.draw(st.integers(1, 31)), zone)
    period = list(list_periods(cycle, until=starts_at + timedelta(days=data.draw(st.integers(1, 100)))))[-1]
    whole = nominal_period(cycle, period)
    # Coarse, so that moments often meet; counted from the start of the period, whose own edges are among them.
    steps = (period.end - period.start) / 8
    moments = st.integers(-1, 9).map(lambda n: period.end if n == 8 else period.start + n * steps)
    changes = data.draw(st.lists(st.tuples(moments, st.sampled_from([BASIC, PRO, MAX])), max_size=5))
    phases = [PhaseStart(at, version) for at, version in [(starts_at, BASIC), *changes]]
    pauses = [Pause(*pair) for pair in data.draw(st.lists(st.tuples(moments, st.none() | moments), max_size=3))]

    segments = list_segments(period=period, whole=whole, phases=phases, pauses=pauses, is_prorated=True)

    known = {period.start, period.end, *(p.starts_at for p in phases), *(p.starts_at for p in pauses)}
    known |= {p.ends_at for p in pauses if p.ends_at is not None}
    for start, end in pairwise(sorted(at for at in known if period.start <= at <= period.end)):
        for at in (start, end - MICROSECOND):
            holding = [s.version_id for s in segments if s.start <= at < s.end]
            is_paused = any(p.starts_at <= at and (p.ends_at is None or at < p.ends_at) for p in pauses)
            begun = [p for p in phases if p.starts_at <= at]
            last = max((p.starts_at for p in begun), default=None)
            versions = [p.version_id for p in begun if p.starts_at == last]
            assert holding == ([] if is_paused or not versions else [versions[-1]])
    assert all(s.start < s.end for s in segments)
    assert all(a.end < b.start or (a.end == b.start and a.version_id != b.version_id) for a, b in pairwise(segments))
    covered = sum((s.end - s.start for s in segments), timedelta())
    assert sum(s.part.end - s.part.start for s in segments) == Fraction(
        covered // MICROSECOND, (whole.end - whole.start) // MICROSECOND
    )
