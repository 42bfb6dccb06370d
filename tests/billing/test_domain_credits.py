"""Prepaid credits and commitments: what is taken from which grant, never past the total, and what a promise lacks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.domain.commitments import true_up
from billing.domain.credits import Grant, apply_credits

NOW = datetime(2025, 6, 15, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


def grant(
    id: int,
    remaining_minor: int = 100,
    *,
    priority: int = 1,
    effective_at: datetime = NOW - DAY,
    expires_at: datetime | None = None,
    created_at: datetime = NOW - DAY,
) -> Grant:
    return Grant(id, remaining_minor, priority, effective_at, expires_at, created_at)


def test_grants_are_taken_in_order_up_to_what_is_due() -> None:
    assert apply_credits(250, [grant(1), grant(2), grant(3)], at=NOW) == [(1, 100), (2, 100), (3, 50)]
    assert apply_credits(200, [grant(1), grant(2), grant(3)], at=NOW) == [(1, 100), (2, 100)]
    assert apply_credits(500, [grant(1), grant(2)], at=NOW) == [(1, 100), (2, 100)]


@pytest.mark.parametrize("due_minor", [0, -1, -(10**30)])
def test_where_nothing_is_due_nothing_is_taken(due_minor: int) -> None:
    assert apply_credits(due_minor, [grant(1)], at=NOW) == []


def test_an_empty_or_overdrawn_grant_gives_nothing() -> None:
    assert apply_credits(50, [grant(1, 0), grant(2, -20), grant(3)], at=NOW) == [(3, 50)]


def test_a_grant_gives_from_its_first_moment_to_before_its_last() -> None:
    ages = [
        grant(1, effective_at=NOW + MICROSECOND),
        grant(2, effective_at=NOW),
        grant(3, expires_at=NOW),
        grant(4, expires_at=NOW + MICROSECOND),
    ]

    assert sorted(apply_credits(1000, ages, at=NOW)) == [(2, 100), (4, 100)]


def test_priority_goes_before_expiry_expiry_before_age_and_age_before_the_id() -> None:
    old = NOW - 9 * DAY
    in_order = [
        grant(9, priority=0),
        grant(8, priority=1, expires_at=NOW + DAY),
        grant(7, priority=1, expires_at=NOW + 2 * DAY, created_at=old),
        grant(2, priority=1, expires_at=NOW + 2 * DAY),
        grant(3, priority=1, expires_at=NOW + 2 * DAY),
        grant(5, priority=1, created_at=old),
        grant(4, priority=1),
        grant(1, priority=2, expires_at=NOW + DAY, created_at=old),
    ]

    for given_order in (in_order, in_order[::-1], sorted(in_order, key=lambda each: each.id)):
        assert [id for id, _ in apply_credits(10_000, given_order, at=NOW)] == [9, 8, 7, 2, 3, 5, 4, 1]


moments = st.integers(-3, 3).map(lambda days: NOW + days * DAY)
grants = st.lists(
    st.builds(
        Grant, st.integers(1, 99), st.integers(-10, 10**6), st.integers(0, 3), moments, st.none() | moments, moments
    ),
    max_size=12,
    unique_by=lambda each: each.id,
)


@given(st.integers(-100, 4 * 10**6), grants)
@settings(deadline=None)
def test_no_more_is_taken_than_is_due_or_is_there_and_no_less(due_minor: int, held: list[Grant]) -> None:
    taken = apply_credits(due_minor, held, at=NOW)

    by_id = {each.id: each for each in held}
    usable = {
        each.id: each.remaining_minor
        for each in held
        if each.effective_at <= NOW and not (each.expires_at and each.expires_at <= NOW) and each.remaining_minor > 0
    }
    assert sum(amount for _, amount in taken) == max(0, min(due_minor, sum(usable.values())))
    assert all(0 < amount <= usable[id] for id, amount in taken)
    assert len({id for id, _ in taken}) == len(taken)
    # All but the last are used up, and nothing that was left alone has a lower number.
    assert all(amount == usable[id] for id, amount in taken[:-1])
    left = usable.keys() - {id for id, _ in taken}
    priorities = [by_id[id].priority for id, _ in taken]
    assert priorities == sorted(priorities)
    assert all(priorities[-1] <= by_id[id].priority for id in left if priorities)
    # And the order in which they are given decides nothing.
    assert apply_credits(due_minor, held[::-1], at=NOW) == taken


@pytest.mark.parametrize(
    ("totals", "expected"),
    [([], 12_000), ([5000, 4000], 3000), ([12_000], 0), ([11_999], 1), ([12_001], 0), ([13_000, -2000], 1000)],
)
def test_a_commitment_is_trued_up_to_what_was_promised(totals: list[int], expected: int) -> None:
    assert true_up(12_000, totals) == expected
