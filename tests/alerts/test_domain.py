"""The rules of crossings and projections, case by case."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.domain import MAX_MULTIPLES_AT_ONCE, Fall, Judgement, judge
from metering.domain import Span, project
from tests.metering.meter import utc

ONCE, EACH = False, True


@pytest.mark.parametrize(
    ("kind", "previous", "current", "fired", "has_void", "multiples", "fired_after", "arming"),
    [
        pytest.param(ONCE, 0, 99, 0, False, [], 0, 0, id="below"),
        pytest.param(ONCE, 99, 100, 0, False, [1], 1, 0, id="exactly reached"),
        pytest.param(ONCE, 0, 250, 0, False, [1], 1, 0, id="far beyond is still once"),
        pytest.param(ONCE, 100, 150, 1, False, [], 1, 0, id="told before"),
        pytest.param(ONCE, 150, 50, 1, False, [], 1, 0, id="falls by itself: stays told"),
        pytest.param(ONCE, 50, 150, 1, False, [], 1, 0, id="and back: nothing new"),
        pytest.param(ONCE, 150, 50, 1, True, [], 0, 1, id="a void takes it below: armed again"),
        pytest.param(ONCE, 150, 100, 1, True, [], 1, 0, id="a void leaves it at the value"),
        pytest.param(ONCE, 50, 40, 1, True, [], 1, 0, id="a void of a value that had fallen by itself"),
        pytest.param(ONCE, 0, 120, 0, True, [1], 1, 0, id="a void beside a rise that reaches it"),
        pytest.param(EACH, 0, 350, 0, False, [1, 2, 3], 3, 0, id="every multiple passed"),
        pytest.param(EACH, 350, 399, 3, False, [], 3, 0, id="between multiples"),
        pytest.param(EACH, 399, 400, 3, False, [4], 4, 0, id="the next multiple"),
        pytest.param(EACH, 400, 150, 4, True, [], 1, 1, id="a void takes three multiples back"),
        pytest.param(EACH, 400, 50, 4, True, [], 0, 1, id="a void takes all back"),
        pytest.param(EACH, 400, 150, 4, False, [], 4, 0, id="a fall without a void takes none back"),
    ],
)
def test_what_fires(
    kind: bool,
    previous: int,
    current: int,
    fired: int,
    has_void: bool,
    multiples: list[int],
    fired_after: int,
    arming: int,
) -> None:
    judgement = judge(
        level=Decimal(100),
        is_recurring=kind,
        previous=Decimal(previous),
        current=Decimal(current),
        fired=fired,
        arming=0,
        has_void=has_void,
    )

    assert (list(judgement.multiples), judgement.fired, judgement.arming) == (multiples, fired_after, arming)
    assert judgement.skipped == 0


@pytest.mark.parametrize(
    ("kind", "previous", "current", "fired", "falls", "multiples", "fired_after", "arming"),
    [
        pytest.param(ONCE, 150, 160, 1, [(150, 50)], [1], 1, 1, id="below in between"),
        pytest.param(ONCE, 150, 160, 1, [(150, 100)], [], 1, 0, id="down to the value"),
        pytest.param(ONCE, 50, 160, 1, [(50, 40)], [], 1, 0, id="had fallen by itself"),
        pytest.param(ONCE, 50, 160, 1, [(120, 40)], [1], 1, 1, id="risen by itself, taken back"),
        pytest.param(ONCE, 150, 160, 1, [(150, 50), (120, 20)], [1], 1, 1, id="twice is told once"),
        pytest.param(EACH, 400, 450, 4, [(400, 250), (300, 299)], [3, 4], 4, 1, id="down to the lowest"),
        pytest.param(EACH, 400, 350, 4, [(400, 150)], [2, 3], 3, 1, id="lower, and part of the way back"),
    ],
)
def test_what_a_void_in_between_arms(
    kind: bool,
    previous: int,
    current: int,
    fired: int,
    falls: list[tuple[int, int]],
    multiples: list[int],
    fired_after: int,
    arming: int,
) -> None:
    judgement = judge(
        level=Decimal(100),
        is_recurring=kind,
        previous=Decimal(previous),
        current=Decimal(current),
        fired=fired,
        arming=0,
        has_void=True,
        falls=[Fall(Decimal(before), Decimal(after)) for before, after in falls],
    )

    assert (list(judgement.multiples), judgement.fired, judgement.arming) == (multiples, fired_after, arming)


def test_a_leap_over_thousands_of_multiples_records_the_last_of_them() -> None:
    judgement = judge(
        level=Decimal("0.001"),
        is_recurring=True,
        previous=Decimal(0),
        current=Decimal(1000),
        fired=0,
        arming=0,
        has_void=False,
    )

    assert judgement == Judgement(range(999_901, 1_000_001), 1_000_000, 0, 1_000_000 - MAX_MULTIPLES_AT_ONCE)


@pytest.mark.parametrize("level", ["0.1", "0.3", "33.333333333333333333", "1e40"])
def test_multiples_are_exact(level: str) -> None:
    """0.1 three times is 0.3, which floats deny."""
    exact = Decimal(level) * 3
    for value, reached in ((exact, 3), (exact - Decimal("1e-20"), 2)):
        judgement = judge(
            level=Decimal(level),
            is_recurring=True,
            previous=Decimal(0),
            current=value,
            fired=0,
            arming=0,
            has_void=False,
        )
        assert judgement.fired == reached or Decimal(level) == Decimal("1e40")


@given(st.lists(st.integers(0, 500), min_size=1, max_size=30), st.booleans())
def test_however_usage_is_cut_into_steps_the_same_is_told(steps: list[int], is_recurring: bool) -> None:
    def told(values: list[int]) -> list[int]:
        previous, fired, found = 0, 0, []
        for value in values:
            judgement = judge(
                level=Decimal(100),
                is_recurring=is_recurring,
                previous=Decimal(previous),
                current=Decimal(value),
                fired=fired,
                arming=0,
                has_void=False,
            )
            found += list(judgement.multiples)
            previous, fired = value, judgement.fired
        return found

    totals = [sum(steps[: n + 1]) for n in range(len(steps))]
    if totals[-1] < 100 * MAX_MULTIPLES_AT_ONCE:
        assert told(totals) == told(totals[-1:])


NOVEMBER = Span(utc(2026, 11, 1), utc(2026, 12, 1))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(utc(2026, 11, 1), None, id="at the start"),
        pytest.param(utc(2026, 11, 2, 11, 59, 59), None, id="before a twentieth has passed"),
        pytest.param(utc(2026, 11, 2, 12), Decimal(200), id="after a twentieth"),
        pytest.param(utc(2026, 11, 16), Decimal(20), id="at half"),
        pytest.param(utc(2026, 12, 1) - timedelta(days=3), Decimal("11.1111111111"), id="nine tenths"),
        pytest.param(utc(2026, 12, 1), Decimal(10), id="at the end"),
    ],
)
def test_projection(now: object, expected: Decimal | None) -> None:
    assert project(Decimal(10), period=NOVEMBER, now=now) == expected  # type: ignore[arg-type]  # pytest gives objects


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param("0", "0", id="nothing"),
        pytest.param("0.00000000000000000007", "0.0000000000000000000777777777777", id="very little"),
        pytest.param("-7", "-7.77777777778", id="below zero it is rounded down, too"),
        pytest.param("7000000000000000000", "7777777777777777777", id="of very much the whole"),
    ],
)
def test_projection_is_of_few_digits_whatever_its_size(usage: str, expected: str) -> None:
    now = utc(2026, 12, 1) - timedelta(days=3)

    assert project(Decimal(usage), period=NOVEMBER, now=now) == Decimal(expected)
