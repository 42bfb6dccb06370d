"""The rules of crossings and projections, case by case."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.domain import MAX_MULTIPLES_AT_ONCE, Judgement, judge, project
from metering.domain import Span
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
        pytest.param(utc(2026, 12, 1) - timedelta(days=3), Decimal(100) / 9, id="nine tenths"),
        pytest.param(utc(2026, 12, 1), Decimal(10), id="at the end"),
    ],
)
def test_projection(now: object, expected: Decimal | None) -> None:
    projected = project(Decimal(10), period=NOVEMBER, now=now)  # type: ignore[arg-type]  # pytest gives objects

    if projected is None or expected is None:
        assert projected == expected
    else:
        assert abs(projected - expected) < Decimal("1e-20")
