"""Who may do what, and the arithmetic of the rate limit; expected values are written by hand."""

import pytest

from accounts.domain import (
    SCOPES_OF_ROLE,
    RateVerdict,
    Role,
    Scope,
    judge_rate,
    may_manage,
    role_of_scopes,
    used_of_sliding_window,
)


def test_every_role_has_its_scopes() -> None:
    assert {
        Role.OWNER: frozenset(Scope),
        Role.ADMIN: frozenset(Scope),
        Role.DEVELOPER: {"events:write", "usage:read", "metrics:write"},
        Role.VIEWER: {"usage:read", "billing:read"},
    } == SCOPES_OF_ROLE


@pytest.mark.parametrize(
    ("actor", "roles", "expected"),
    [
        (Role.OWNER, ("owner", "viewer"), True),
        (Role.ADMIN, ("admin", "developer"), True),
        (Role.ADMIN, ("owner", "viewer"), False),
        (Role.ADMIN, ("viewer", "owner"), False),
        (Role.DEVELOPER, ("viewer",), False),
        (Role.VIEWER, ("viewer",), False),
    ],
)
def test_who_may_manage_whom(actor: Role, roles: tuple[str, ...], expected: bool) -> None:
    assert may_manage(actor, *roles) is expected


def test_a_key_manages_members_as_an_admin_at_most() -> None:
    assert role_of_scopes([scope.value for scope in Scope]) == Role.ADMIN
    assert role_of_scopes(["usage:read", "billing:write"]) == Role.VIEWER


@pytest.mark.parametrize(
    ("current", "previous", "seconds_left", "used"),
    [(0, 0, 60, 0), (3, 60, 60, 63), (3, 60, 30, 33), (3, 60, 1, 4), (3, 59, 1, 3), (7, 10, 59, 16)],
)
def test_last_minute_counts_in_proportion(current: int, previous: int, seconds_left: int, used: int) -> None:
    assert used_of_sliding_window(current=current, previous=previous, seconds_left=seconds_left) == used


@pytest.mark.parametrize(
    ("limit", "current", "previous", "seconds_left", "verdict"),
    [
        pytest.param(5, 0, 0, 60, RateVerdict(True, 5, 4, 60), id="first"),
        pytest.param(5, 4, 0, 10, RateVerdict(True, 5, 0, 10), id="last that fits"),
        pytest.param(5, 5, 0, 10, RateVerdict(False, 5, 0, 10, 11), id="full until just after the minute"),
        pytest.param(60, 30, 60, 30, RateVerdict(False, 60, 0, 30, 1), id="the last minute fades in a second"),
        pytest.param(6, 5, 6, 30, RateVerdict(False, 6, 0, 30, 21), id="the last minute fades slowly"),
        pytest.param(1, 0, 1, 60, RateVerdict(False, 1, 0, 60, 1), id="one a minute, at the turn of the minute"),
    ],
)
def test_verdict(limit: int, current: int, previous: int, seconds_left: int, verdict: RateVerdict) -> None:
    assert judge_rate(limit=limit, current=current, previous=previous, seconds_left=seconds_left) == verdict


@pytest.mark.parametrize("limit", [1, 2, 7, 60, 1000])
def test_after_waiting_as_told_there_is_room(limit: int) -> None:
    for current in range(0, limit + 1, max(1, limit // 7)):
        for previous in range(0, limit + 1, max(1, limit // 7)):
            for seconds_left in (1, 2, 29, 59, 60):
                wait = judge_rate(
                    limit=limit, current=current, previous=previous, seconds_left=seconds_left
                ).retry_after_seconds
                if wait < seconds_left:
                    later = judge_rate(
                        limit=limit, current=current, previous=previous, seconds_left=seconds_left - wait
                    )
                else:  # this minute has become the previous one
                    later = judge_rate(
                        limit=limit, current=0, previous=current, seconds_left=60 - (wait - seconds_left)
                    )
                assert later.is_allowed
