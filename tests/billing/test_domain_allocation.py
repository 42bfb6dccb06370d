"""Prices of parts of a metric share all of it out: nothing twice, nothing lost."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.allocation import PriceFilters, allocate, do_overlap
from billing.domain.currencies import EXPONENTS, NotAnAmount, major_text, money_text, parse_major


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {}, True),
        ({}, {"region": ["us"]}, False),
        ({"region": ["us"]}, {"region": ["eu"]}, False),
        ({"region": ["us", "eu"]}, {"region": ["eu", "ap"]}, True),
        ({"region": ["us"]}, {"tier": ["hot"]}, True),
        ({"region": ["us"], "tier": ["hot"]}, {"region": ["us"], "tier": ["cold"]}, False),
    ],
)
def test_prices_overlap_unless_a_common_dimension_parts_them(
    first: PriceFilters, second: PriceFilters, expected: bool
) -> None:
    assert do_overlap(first, second) is expected
    assert do_overlap(second, first) is expected


def test_compute_is_shared_out_by_region() -> None:
    groups = [({"region": "us"}, 10), ({"region": "eu"}, 20), ({"region": "ap"}, 3), ({"region": None}, 4)]
    given_groups = [(group, Decimal(quantity)) for group, quantity in groups]

    with_rest = allocate([{"region": ["us"]}, {}, {"region": ["eu"]}], given_groups)
    without = allocate([{"region": ["us"]}, {"region": ["eu"]}], given_groups)

    assert (with_rest.quantities, with_rest.unpriced) == ([10, 7, 20], 0)
    assert (without.quantities, without.unpriced) == ([10, 20], 7)


values = st.sampled_from(["a", "b", "c", None])
dimensions = st.dictionaries(
    st.sampled_from(["x", "y"]), st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True), max_size=2
)


@given(
    st.lists(dimensions, max_size=4),
    st.lists(st.tuples(st.fixed_dictionaries({"x": values, "y": values}), st.integers(-5, 100).map(Decimal))),
)
def test_filtered_prices_partition_the_usage(
    candidates: list[PriceFilters], groups: list[tuple[dict[str, str | None], Decimal]]
) -> None:
    prices: list[PriceFilters] = []
    for candidate in candidates:
        if not any(do_overlap(candidate, kept) for kept in prices):
            prices.append(candidate)

    shared = allocate(prices, groups)

    assert sum(shared.quantities) + shared.unpriced == sum(quantity for _, quantity in groups)
    for filters, quantity in zip(prices, shared.quantities, strict=True):
        own = [held for group, held in groups if all(group[key] in allowed for key, allowed in filters.items())]
        if filters:
            assert quantity == sum(own)
        else:
            assert shared.unpriced == 0
    for group, _ in groups:
        claims = [
            filters for filters in prices if filters and all(group[k] in allowed for k, allowed in filters.items())
        ]
        assert len(claims) <= 1


@pytest.mark.parametrize(
    ("minor", "currency", "major", "shown"),
    [
        ("1500", "USD", "15.00", "15.00\u00a0USD"),
        ("0.1", "USD", "0.001", "0.001\u00a0USD"),
        ("1500", "JPY", "1500", "1\u202f500\u00a0JPY"),
        ("1500", "KWD", "1.500", "1.500\u00a0KWD"),
        ("123456789", "EUR", "1234567.89", "1\u202f234\u202f567.89\u00a0EUR"),
        ("-5", "USD", "-0.05", "\u22120.05\u00a0USD"),
        ("0", "USD", "0.00", "0.00\u00a0USD"),
    ],
)
def test_money_is_written_in_the_major_unit(minor: str, currency: str, major: str, shown: str) -> None:
    assert major_text(Decimal(minor), currency) == major
    assert money_text(Decimal(minor), currency) == shown


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("250", "USD", 25000),
        ("99.9", "USD", 9990),
        ("0,50", "USD", 50),
        (" 1 234.50 ", "USD", 123450),
        ("1\u202f234\u00a0567,89", "EUR", 123456789),
        ("1500", "JPY", 1500),
        ("1.250", "KWD", 1250),
        ("1,25", "KWD", 1250),
        ("0", "USD", 0),
        ("92233720368547758.07", "USD", 2**63 - 1),
        # May be a thousand.
        ("1,000", "USD", None),
        ("1,000", "JPY", None),
        ("1.000", "USD", None),
        ("1.000", "JPY", None),
        ("1,250", "KWD", None),
        ("1,000.00", "USD", None),
        ("1.000,00", "USD", None),
        # No amount, or none that is kept.
        ("92233720368547758.08", "USD", None),
        ("9" * 400, "USD", None),
        ("12 34", "USD", None),
        ("1.999", "USD", None),
        ("0.5", "JPY", None),
        (".5", "USD", None),
        ("5.", "USD", None),
        ("-5", "USD", None),
        ("1e3", "USD", None),
        ("1_000", "USD", None),
        ("NaN", "USD", None),
        ("\u0665", "USD", None),
        ("", "USD", None),
    ],
)
def test_an_amount_is_read_as_people_write_it_and_never_guessed(text: str, currency: str, minor: int | None) -> None:
    if minor is not None:
        assert parse_major(text, currency) == minor
        return
    with pytest.raises(NotAnAmount, match=f"no amount of {currency}. Write it like 1234"):
        parse_major(text, currency)


def test_currencies_have_the_exponents_of_iso_4217() -> None:
    expected = {"USD": 2, "EUR": 2, "JPY": 0, "KWD": 3, "BHD": 3, "CLF": 4, "ISK": 0, "HUF": 2, "UYI": 0}

    assert {code: EXPONENTS[code] for code in expected} == expected
