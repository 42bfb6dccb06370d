"""The rules of quotas: what is let through, and at which level a customer stands."""

from __future__ import annotations

from decimal import Decimal

import pytest

from alerts.domain import QuotaMode, QuotaVerdict, judge_quota, warning_value


def judge(
    used: str,
    after: str,
    *,
    limit: str | None = "100",
    mode: str = "hard",
    grace: str = "0",
    warning_percents: tuple[int, ...] = (80, 95, 100),
) -> QuotaVerdict:
    return judge_quota(
        mode=QuotaMode(mode),
        limit=None if limit is None else Decimal(limit),
        grace=Decimal(grace),
        warning_percents=warning_percents,
        used=Decimal(used),
        after=Decimal(after),
    )


@pytest.mark.parametrize(
    ("mode", "grace", "after", "is_allowed"),
    [
        ("hard", "0", "99", True),
        ("hard", "0", "100", True),
        ("hard", "0", "100.000000000000000001", False),
        ("hard", "0", "101", False),
        ("soft", "0", "100", True),
        ("soft", "0", "101", False),
        ("soft", "10", "110", True),
        ("soft", "10", "110.000000000000000001", False),
        ("warn", "0", "101", True),
        ("warn", "0", "1e30", True),
    ],
)
def test_what_reaches_the_limit_or_the_end_of_the_grace_is_let_through(
    mode: str, grace: str, after: str, is_allowed: bool
) -> None:
    assert judge("0", after, mode=mode, grace=grace).is_allowed is is_allowed


@pytest.mark.parametrize(
    ("mode", "grace", "used", "level"),
    [
        ("hard", "0", "-5", "ok"),
        ("hard", "0", "0", "ok"),
        ("hard", "0", "79.999999999999999999", "ok"),
        ("hard", "0", "80", "warning"),
        ("hard", "0", "99.999999999999999999", "warning"),
        ("hard", "0", "100", "exceeded"),
        ("soft", "10", "99.999999999999999999", "warning"),
        ("soft", "10", "100", "grace"),
        ("soft", "10", "109.999999999999999999", "grace"),
        ("soft", "10", "110", "exceeded"),
        ("soft", "0", "100", "exceeded"),
        ("warn", "0", "80", "warning"),
        ("warn", "0", "100", "exceeded"),
        ("warn", "0", "500", "exceeded"),
    ],
)
def test_level_is_of_what_is_used_already(mode: str, grace: str, used: str, level: str) -> None:
    assert judge(used, used, mode=mode, grace=grace).level == level


def test_without_warning_percents_there_is_no_warning_level() -> None:
    assert judge("99", "99", warning_percents=()).level == "ok"


def test_the_lowest_percent_begins_the_warning_level_in_whatever_order_they_stand() -> None:
    assert judge("50", "50", warning_percents=(100, 50, 80)).level == "warning"


@pytest.mark.parametrize("mode", ["hard", "soft", "warn"])
def test_no_limit_lets_everything_through(mode: str) -> None:
    assert judge("5", "1e30", limit=None, mode=mode) == QuotaVerdict(True, None, Decimal(5), None, "ok")


@pytest.mark.parametrize(("mode", "grace", "is_allowed"), [("hard", "0", False), ("soft", "1", True)])
def test_a_limit_of_zero_lets_nothing_through_but_its_grace(mode: str, grace: str, is_allowed: bool) -> None:
    assert judge("0", "1", limit="0", mode=mode, grace=grace).is_allowed is is_allowed


def test_a_limit_of_zero_is_exceeded_from_the_start_and_lets_nothing_be_asked_for() -> None:
    verdict = judge("0", "0", limit="0")

    assert verdict == QuotaVerdict(True, Decimal(0), Decimal(0), Decimal(0), "exceeded")


@pytest.mark.parametrize(
    ("used", "remaining"), [("-5", "105"), ("0", "100"), ("99.5", "0.5"), ("100", "0"), ("104", "0")]
)
def test_remaining_counts_to_the_limit_without_the_grace_and_not_below_zero(used: str, remaining: str) -> None:
    assert judge(used, used, mode="soft", grace="10").remaining == Decimal(remaining)


@pytest.mark.parametrize(
    ("limit", "percent", "value"),
    [
        ("1000", 80, "800"),
        ("1", 1, "0.01"),
        ("0.000000000000000001", 95, "0.00000000000000000095"),
        (
            "999999999999999999999999999999.999999999999999999",
            95,
            "949999999999999999999999999999.99999999999999999905",
        ),
        ("50", 150, "75"),
    ],
)
def test_warning_values_are_exact(limit: str, percent: int, value: str) -> None:
    assert warning_value(Decimal(limit), percent) == Decimal(value)
