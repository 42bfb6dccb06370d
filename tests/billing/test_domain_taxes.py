"""Taxes: which rules hold where and when, one rounding each, and totals that are the sum of what is printed."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.domain.taxes import TaxLine, TaxRule, applicable_rules, tax_lines, total_up


def rule(code: str, percent: str = "10", **more: Any) -> TaxRule:
    return TaxRule(code, code.upper(), Decimal(percent), **more)


ELSEWHERE = [rule("standard"), rule("levy", "1")]
OF_COUNTRIES = [
    rule("mwst-new", "16", country="DE", valid_from=date(2025, 7, 1), valid_until=date(2025, 12, 31)),
    rule("mwst", "19", country="DE", valid_until=date(2025, 6, 30)),
    rule("qst", "9.975", country="CA", region="QC"),
    rule("gst", "5", country="CA"),
    rule("ny-sales", "4", country="US", region="NY"),
]


@pytest.mark.parametrize(
    ("country", "region", "on", "expected"),
    [
        ("DE", "", date(2025, 6, 30), ["mwst"]),
        ("DE", "BY", date(2025, 7, 1), ["mwst-new"]),
        ("DE", "", date(2025, 12, 31), ["mwst-new"]),
        ("DE", "", date(2026, 1, 1), ["levy", "standard"]),
        ("CA", "QC", date(2025, 6, 1), ["gst", "qst"]),
        ("CA", "ON", date(2025, 6, 1), ["gst"]),
        ("CA", "", date(2025, 6, 1), ["gst"]),
        ("US", "NY", date(2025, 6, 1), ["ny-sales"]),
        ("US", "TX", date(2025, 6, 1), []),
        ("FR", "QC", date(2025, 6, 1), ["levy", "standard"]),
        ("", "", date(2025, 6, 1), ["levy", "standard"]),
    ],
)
def test_rules_hold_in_their_place_and_time(country: str, region: str, on: date, expected: list[str]) -> None:
    found = applicable_rules([*ELSEWHERE, *OF_COUNTRIES], country=country, region=region, on=on)

    assert [each.code for each in found] == expected


@pytest.mark.parametrize(
    ("base_minor", "percent", "expected"),
    [
        (10_000, "19", 1900),
        (0, "19", 0),
        (1, "50", 1),  # half a cent
        (-1, "50", -1),  # and what takes it back
        (1, "49.999", 0),
        (-3, "50", -2),
        (333, "9.975", 33),  # 33.21675
        (10_000, "0", 0),
        (10**30, "19", 19 * 10**28),
    ],
)
def test_a_tax_is_rounded_once_halves_away_from_zero(base_minor: int, percent: str, expected: int) -> None:
    vat = rule("vat", percent)

    assert tax_lines(base_minor, [vat]) == [TaxLine("vat", "VAT", Decimal(percent), base_minor, expected)]


def test_each_tax_is_on_the_sum_of_the_lines() -> None:
    """3 lines of 5 at 10 %: 1.5, so 2 in all; each alone would be 0.5, so 3 in all. And no tax is on another."""
    totals = total_up([5, 5, 5], [rule("a"), rule("b", "20")])

    assert [(line.base_minor, line.amount_minor) for line in totals.taxes] == [(15, 2), (15, 3)]
    assert (totals.subtotal_minor, totals.tax_minor, totals.total_minor) == (15, 5, 20)


def test_without_rules_or_lines_there_is_no_tax() -> None:
    assert total_up([70, -30], []).total_minor == 40
    assert total_up([], [rule("a")]).total_minor == 0


lines = st.lists(st.integers(-(10**12), 10**12), max_size=20)
rules = st.lists(st.decimals(0, 100, places=4).map(lambda percent: rule("x", str(percent))), max_size=4)


@given(lines, rules)
@settings(deadline=None)
def test_lines_and_taxes_add_up_to_the_total(amounts: list[int], given_rules: list[TaxRule]) -> None:
    totals = total_up(iter(amounts), given_rules)

    assert sum(amounts) + sum(line.amount_minor for line in totals.taxes) == totals.total_minor
    assert totals.subtotal_minor + totals.tax_minor == totals.total_minor
    for line, each in zip(totals.taxes, given_rules, strict=True):
        assert abs(line.amount_minor - Fraction(sum(amounts)) * Fraction(each.percent) / 100) <= Fraction(1, 2)


@given(lines, rules)
@settings(deadline=None)
def test_taking_all_lines_back_takes_all_taxes_back(amounts: list[int], given_rules: list[TaxRule]) -> None:
    assert total_up(amounts, given_rules).total_minor == -total_up([-each for each in amounts], given_rules).total_minor
