"""Every price model at zero, at its edges, one beside them, at huge and at fractional quantities; what always holds.

The amounts are reckoned by hand, in minor units.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.prices import Price, PriceModel, Tier, list_problems
from billing.domain.rating import RatedLine, StepKind, rate, round_to_minor

HUGE = "1e30"


def d(value: Any) -> Decimal:
    return Decimal(str(value))


def price(model: str, amount: Any = None, *, currency: str = "USD", tiers: Any = (), **more: Any) -> Price:
    """Build a price; a tier is (up_to, unit_amount) or (up_to, unit_amount, flat_amount)."""
    built = Price(
        model=PriceModel(model),
        currency=currency,
        amount=None if amount is None else d(amount),
        tiers=tuple(Tier(None if up_to is None else d(up_to), *map(d, amounts)) for up_to, *amounts in tiers),
        **{name: d(value) for name, value in more.items()},
    )
    assert list(list_problems(built)) == []
    return built


FLAT = price("flat", 4900)
FLAT_BEYOND_TEN = price("flat", 4900, included_quantity=10)
TENTH_OF_A_CENT = price("per_unit", "0.1", included_quantity=100_000)
# 0-100 at 10, 100-1000 at 5, above at 1.
GRADUATED = price("graduated", tiers=[(100, 10), (1000, 5), (None, 1)])
# The same, and each tier begun costs 200 (not the first).
GRADUATED_WITH_FLAT = price("graduated", tiers=[(100, 10), (1000, 5, 200), (None, 1, 200)])
VOLUME = price("volume", tiers=[(100, 10), (1000, 5), (None, 1)])
VOLUME_WITH_FLAT = price("volume", tiers=[(100, 10, 50), (None, 1, 200)])
PACKAGE = price("package", 300, package_size=1000)
PERCENT = price("percent_of_amount", "2.9")  # 1 USD of usage costs 2.9 cents
PERCENT_BEYOND_A_HUNDRED = price("percent_of_amount", "2.9", included_quantity=100)
BOUNDED = price("per_unit", 2, minimum=500, maximum=2000)

TABLE: list[tuple[str, Price, str, str]] = [
    ("flat, nothing", FLAT, "0", "0"),
    ("flat, a bit", FLAT, "0.0001", "4900"),
    ("flat, one", FLAT, "1", "4900"),
    ("flat, huge", FLAT, HUGE, "4900"),
    ("flat beyond ten, nothing", FLAT_BEYOND_TEN, "0", "0"),
    ("flat beyond ten, one below", FLAT_BEYOND_TEN, "9", "0"),
    ("flat beyond ten, ten", FLAT_BEYOND_TEN, "10", "0"),
    ("flat beyond ten, a bit above", FLAT_BEYOND_TEN, "10.5", "4900"),
    ("flat beyond ten, one above", FLAT_BEYOND_TEN, "11", "4900"),
    ("per unit, nothing", TENTH_OF_A_CENT, "0", "0"),
    ("per unit, one below the included", TENTH_OF_A_CENT, "99999", "0"),
    ("per unit, the included", TENTH_OF_A_CENT, "100000", "0"),
    ("per unit, one above is a tenth of a cent", TENTH_OF_A_CENT, "100001", "0"),
    ("per unit, 4 beyond are 0.4 cents", TENTH_OF_A_CENT, "100004", "0"),
    ("per unit, 5 beyond are half a cent, rounded up", TENTH_OF_A_CENT, "100005", "1"),
    ("per unit, the example", TENTH_OF_A_CENT, "115000", "1500"),
    ("per unit, a fraction of a unit", TENTH_OF_A_CENT, "100009.5", "1"),
    ("per unit, huge", TENTH_OF_A_CENT, HUGE, "99999999999999999999999990000"),
    ("graduated, nothing", GRADUATED, "0", "0"),
    ("graduated, one below the edge", GRADUATED, "99", "990"),
    ("graduated, the edge", GRADUATED, "100", "1000"),
    ("graduated, one above", GRADUATED, "101", "1005"),
    ("graduated, one below the second edge", GRADUATED, "999", "5495"),
    ("graduated, the second edge", GRADUATED, "1000", "5500"),
    ("graduated, one above the second", GRADUATED, "1001", "5501"),
    ("graduated, a fraction", GRADUATED, "100.3", "1002"),  # 1001.5
    ("graduated, huge", GRADUATED, HUGE, "1000000000000000000000000004500"),
    ("graduated with flat, nothing", GRADUATED_WITH_FLAT, "0", "0"),
    ("graduated with flat, the edge is of the tier below", GRADUATED_WITH_FLAT, "100", "1000"),
    ("graduated with flat, one below the edge", GRADUATED_WITH_FLAT, "99", "990"),
    ("graduated with flat, one above", GRADUATED_WITH_FLAT, "101", "1205"),
    ("graduated with flat, a fraction", GRADUATED_WITH_FLAT, "100.3", "1202"),  # 1201.5
    ("graduated with flat, all three", GRADUATED_WITH_FLAT, "1001", "5901"),
    ("graduated with flat, huge", GRADUATED_WITH_FLAT, HUGE, "1000000000000000000000000004900"),
    ("volume, nothing", VOLUME, "0", "0"),
    ("volume, one below the edge", VOLUME, "99", "990"),
    ("volume, the edge", VOLUME, "100", "1000"),
    ("volume, one above: all at the next amount", VOLUME, "101", "505"),
    ("volume, one below the second edge", VOLUME, "999", "4995"),
    ("volume, the second edge", VOLUME, "1000", "5000"),
    ("volume, one above the second", VOLUME, "1001", "1001"),
    ("volume, a fraction beyond the edge", VOLUME, "100.1", "501"),  # 500.5
    ("volume, huge", VOLUME, HUGE, "1000000000000000000000000000000"),
    ("volume with flat, nothing", VOLUME_WITH_FLAT, "0", "0"),
    ("volume with flat, a fraction", VOLUME_WITH_FLAT, "0.1", "51"),
    ("volume with flat, one below the edge", VOLUME_WITH_FLAT, "99", "1040"),
    ("volume with flat, the edge", VOLUME_WITH_FLAT, "100", "1050"),
    ("volume with flat, one above: the flat amount of its tier alone", VOLUME_WITH_FLAT, "101", "301"),
    ("volume with flat, huge", VOLUME_WITH_FLAT, HUGE, "1000000000000000000000000000200"),
    ("package, nothing", PACKAGE, "0", "0"),
    ("package, a fraction begins one", PACKAGE, "0.001", "300"),
    ("package, one below the size", PACKAGE, "999", "300"),
    ("package, the size", PACKAGE, "1000", "300"),
    ("package, a fraction above", PACKAGE, "1000.000001", "600"),
    ("package, one above", PACKAGE, "1001", "600"),
    ("package, two of the size", PACKAGE, "2000", "600"),
    ("package, huge", PACKAGE, HUGE, "300000000000000000000000000000"),
    ("percent, nothing", PERCENT, "0", "0"),
    ("percent, 100 USD", PERCENT, "100", "290"),
    ("percent, 0.17 USD are 0.493 cents", PERCENT, "0.17", "0"),
    ("percent, 0.18 USD are 0.522 cents", PERCENT, "0.18", "1"),
    ("percent, huge", PERCENT, HUGE, "2900000000000000000000000000000"),
    ("percent beyond a hundred, one below", PERCENT_BEYOND_A_HUNDRED, "99", "0"),
    ("percent beyond a hundred, a hundred", PERCENT_BEYOND_A_HUNDRED, "100", "0"),
    ("percent beyond a hundred, a fraction above is 1.45 cents", PERCENT_BEYOND_A_HUNDRED, "100.5", "1"),
    ("percent beyond a hundred, one above is 2.9 cents", PERCENT_BEYOND_A_HUNDRED, "101", "3"),
    ("percent in a currency without decimals", price("percent_of_amount", "2.9", currency="JPY"), "1000", "29"),
    ("percent in a currency with three decimals", price("percent_of_amount", "2.9", currency="KWD"), "1", "29"),
    ("bounded, nothing costs the minimum", BOUNDED, "0", "500"),
    ("bounded, one below the minimum", BOUNDED, "249", "500"),
    ("bounded, the minimum", BOUNDED, "250", "500"),
    ("bounded, one above", BOUNDED, "251", "502"),
    ("bounded, a fraction between", BOUNDED, "250.25", "501"),  # 500.5
    ("bounded, one below the maximum", BOUNDED, "999", "1998"),
    ("bounded, the maximum", BOUNDED, "1000", "2000"),
    ("bounded, beyond it", BOUNDED, "1001", "2000"),
    ("bounded, huge", BOUNDED, HUGE, "2000"),
    ("minimum with a fraction is rounded once", price("per_unit", 1, minimum="0.5"), "0", "1"),
    ("tiers begin after the included quantity",
     price("graduated", tiers=[(10, 10), (None, 1)], included_quantity=5), "16", "101"),
    ("packages begin after the included quantity",
     price("package", 7, package_size=10, included_quantity=5), "15", "7"),
    ("corrections beyond the usage cost nothing", TENTH_OF_A_CENT, "-3", "0"),
]  # fmt: skip


@pytest.mark.parametrize(("tariff", "quantity", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_amount_is_what_the_tariff_says(tariff: Price, quantity: str, expected: str) -> None:
    line = rate(tariff, Decimal(quantity))

    assert line.amount_minor == int(expected)
    assert sum_of(line) == line.amount_minor


def sum_of(line: RatedLine) -> Fraction:
    """Add the steps without Python's decimal contexts."""
    return sum((Fraction(step.amount) for step in line.steps), Fraction())


class TestTrace:
    def test_names_every_tier_with_its_reach_its_units_and_its_amount(self) -> None:
        line = rate(GRADUATED_WITH_FLAT, Decimal("1000.5"))

        told = [
            (step.from_quantity, step.to_quantity, step.quantity, step.unit_amount, step.flat_amount, step.amount)
            for step in line.steps
            if step.kind == StepKind.TIER
        ]
        assert told == [
            (0, 100, 100, 10, None, 1000),
            (100, 1000, 900, 5, 200, 4700),
            (1000, d("1000.5"), d("0.5"), 1, 200, d("200.5")),
        ]
        assert line.model_amount == d("5900.5")
        assert [(step.kind, step.amount) for step in line.steps[3:]] == [(StepKind.ROUNDING, d("0.5"))]
        assert line.amount_minor == 5901

    def test_tells_what_was_included_and_what_lies_beyond(self) -> None:
        line = rate(TENTH_OF_A_CENT, Decimal(115_000))

        assert (line.quantity, line.included_quantity, line.overage_quantity) == (115_000, 100_000, 15_000)
        assert [(step.kind, step.quantity, step.amount) for step in line.steps] == [
            (StepKind.INCLUDED, 100_000, 0),
            (StepKind.UNITS, 15_000, 1500),
        ]

    @pytest.mark.parametrize(
        ("quantity", "expected"),
        [("1", [("units", 2), ("minimum", 498)]), ("0", [("minimum", 500)]),
         ("2000", [("units", 4000), ("maximum", -2000)])],
    )  # fmt: skip
    def test_tells_what_minimum_and_maximum_did(self, quantity: str, expected: list[tuple[str, int]]) -> None:
        assert [(step.kind, step.amount) for step in rate(BOUNDED, Decimal(quantity)).steps] == expected

    def test_a_trial_shows_the_cost_and_gives_it_back(self) -> None:
        line = rate(BOUNDED, Decimal(300), is_trial=True)

        assert [(step.kind, step.amount) for step in line.steps] == [("units", 600), ("trial", -600)]
        assert (line.model_amount, line.amount_minor) == (600, 0)

    def test_counts_the_packages(self) -> None:
        [step] = rate(PACKAGE, Decimal(2001)).steps

        assert (step.quantity, step.unit_amount, step.to_quantity, step.amount) == (3, 300, 2001, 900)


@pytest.mark.parametrize(
    ("amount", "expected"), [("0.5", 1), ("1.5", 2), ("2.5", 3), ("0.4999999999999999999999", 0), ("7", 7)]
)
def test_halves_are_rounded_up(amount: str, expected: int) -> None:
    assert round_to_minor(Decimal(amount)) == expected


@pytest.mark.parametrize("quantity", ["NaN", "Infinity"])
def test_what_is_no_number_is_not_rated(quantity: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        rate(FLAT, Decimal(quantity))


class TestProblems:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"model": "flat"}, ["amount"]),
            ({"model": "per_unit", "amount": "-0.1"}, ["amount"]),
            ({"model": "per_unit", "amount": "NaN"}, ["amount"]),
            ({"model": "per_unit", "amount": 1, "package_size": 2}, ["package_size"]),
            ({"model": "package", "amount": 1}, ["package_size"]),
            ({"model": "package", "amount": 1, "package_size": 0}, ["package_size"]),
            ({"model": "per_unit", "amount": 1, "tiers": [(None, 1)]}, ["tiers"]),
            ({"model": "volume"}, ["tiers"]),
            ({"model": "volume", "amount": 1, "tiers": [(None, 1)]}, ["amount"]),
            ({"model": "graduated", "tiers": [(10, 1)]}, ["tiers[0].up_to"]),
            ({"model": "graduated", "tiers": [(None, 1), (None, 1)]}, ["tiers[0].up_to"]),
            ({"model": "graduated", "tiers": [(10, 1), (10, 1), (None, 1)]}, ["tiers[1].up_to"]),
            ({"model": "graduated", "tiers": [(0, 1), (None, 1)]}, ["tiers[0].up_to"]),
            ({"model": "graduated", "tiers": [(5, -1), (None, 1)]}, ["tiers[0].unit_amount"]),
            ({"model": "graduated", "tiers": [(n, 1) for n in range(1, 101)] + [(None, 1)]}, ["tiers"]),
            ({"model": "flat", "amount": 1, "included_quantity": -1}, ["included_quantity"]),
            ({"model": "flat", "amount": 1, "minimum": 5, "maximum": 4}, ["maximum"]),
            ({"model": "flat", "amount": 1, "currency": "XXX"}, ["currency"]),
        ],
    )
    def test_a_price_without_a_meaning_is_told_at_its_field(self, fields: dict[str, Any], expected: list[str]) -> None:
        plain = {name: value for name, value in fields.items() if name not in {"model", "tiers", "currency"}}
        built = Price(
            model=PriceModel(fields["model"]),
            currency=fields.get("currency", "USD"),
            tiers=tuple(Tier(None if up_to is None else d(up_to), d(unit)) for up_to, unit in fields.get("tiers", ())),
            **{name: d(value) for name, value in plain.items()},
        )

        assert [problem.field for problem in list_problems(built)] == expected


# --- what always holds ----------------------------------------------------------------------------------------

quantities = st.decimals(min_value=0, max_value=10**12, places=6)
amounts = st.decimals(min_value=0, max_value=10**6, places=9)


no_flats = st.just(Decimal(0))


@st.composite
def graduated(draw: st.DrawFn, flats: st.SearchStrategy[Decimal] = no_flats) -> Price:
    edges = sorted(draw(st.sets(st.decimals(min_value="0.001", max_value=10**9, places=3), max_size=5)))
    tiers = tuple(Tier(edge, draw(amounts), draw(flats)) for edge in [*edges, None])
    return Price(PriceModel.GRADUATED, "USD", tiers=tiers, included_quantity=draw(quantities))


# Volume is left out: its whole point is that more may cost less.
monotone = st.one_of(
    graduated(),
    graduated(flats=amounts),
    st.builds(lambda amount, included: Price(PriceModel.FLAT, "EUR", amount, included_quantity=included),
              amounts, quantities),
    st.builds(lambda amount, included: Price(PriceModel.PER_UNIT, "KWD", amount, included_quantity=included),
              amounts, quantities),
    st.builds(lambda amount, size: Price(PriceModel.PACKAGE, "USD", amount, size),
              amounts, st.decimals(min_value="0.01", max_value=10**6, places=2)),
    st.builds(lambda amount, least, more: Price(PriceModel.PERCENT_OF_AMOUNT, "JPY", amount, minimum=least,
                                                maximum=least + more), amounts, amounts, amounts),
)  # fmt: skip


@given(monotone, quantities, quantities)
def test_more_never_costs_less(tariff: Price, one: Decimal, other: Decimal) -> None:
    less, more = sorted((one, other))

    assert rate(tariff, less).amount_minor <= rate(tariff, more).amount_minor


@given(graduated(), st.data())
def test_graduated_prices_have_no_jump_at_an_edge(tariff: Price, data: st.DataObject) -> None:
    """An epsilon beyond an edge costs at most the dearest unit amount times it more."""
    edges = [tier.up_to for tier in tariff.tiers if tier.up_to is not None] or [Decimal(1)]
    edge = tariff.included_quantity + data.draw(st.sampled_from(edges))
    epsilon = Decimal("0.000001")

    jump = rate(tariff, edge + epsilon).model_amount - rate(tariff, edge).model_amount

    assert 0 <= jump <= epsilon * max(tier.unit_amount for tier in tariff.tiers)


@given(graduated(flats=amounts), quantities, st.booleans())
def test_tier_steps_add_up_to_the_unrounded_amount_and_all_steps_to_the_line(
    tariff: Price, quantity: Decimal, is_trial: bool
) -> None:
    line = rate(tariff, quantity, is_trial=is_trial)

    tiers = [step for step in line.steps if step.kind == StepKind.TIER]
    assert sum((Fraction(step.amount) for step in tiers), Fraction()) == Fraction(line.model_amount)
    assert sum((Fraction(step.quantity or 0) for step in tiers), Fraction()) == Fraction(line.overage_quantity)
    assert sum_of(line) == line.amount_minor
    assert abs(line.amount_minor - line.model_amount) <= Decimal("0.5") or is_trial


@given(graduated(flats=amounts), quantities)
def test_graduated_equals_a_reckoning_unit_by_tier_in_fractions(tariff: Price, quantity: Decimal) -> None:
    left, start, cost = (
        max(Fraction(0), Fraction(quantity) - Fraction(tariff.included_quantity)),
        Fraction(0),
        Fraction(0),
    )
    reach = left
    for tier in tariff.tiers:
        width = left if tier.up_to is None else min(left, Fraction(tier.up_to) - start)
        if width > 0:
            cost += width * Fraction(tier.unit_amount) + Fraction(tier.flat_amount)
        left, start = left - width, start + width

    assert start == reach
    assert Fraction(rate(tariff, quantity).model_amount) == cost
