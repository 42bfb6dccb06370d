"""Proration: what belongs to a part of a period, and that the parts of any cut make up the whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.domain.periods import BillingPeriod, Cycle, list_periods
from billing.domain.prices import Price, PriceModel, Tier
from billing.domain.proration import WHOLE, Part, part_of, share_amount, share_quantity
from billing.domain.rating import RatedLine, rate

THIRDS = [Part(Fraction(n, 3), Fraction(n + 1, 3)) for n in range(3)]
NINE_OF_THIRTY = Part(Fraction(21, 30), Fraction(1))
TIERS_WITH_FLAT = (Tier(Decimal(10), Decimal(3), Decimal(50)), Tier(None, Decimal(1), Decimal(70)))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (Fraction(1, 2), Fraction(1, 2)),
        (Fraction(1, 2), Fraction(1, 3)),
        (Fraction(-1, 3), Fraction(1)),
        (Fraction(0), Fraction(4, 3)),
    ],
)
def test_a_part_is_not_empty_and_lies_within_its_period(start: Fraction, end: Fraction) -> None:
    with pytest.raises(ValueError, match="within"):
        Part(start, end)


def test_a_part_is_reckoned_by_the_microsecond() -> None:
    june = BillingPeriod(datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 7, 1, tzinfo=UTC))
    microsecond = timedelta(microseconds=1)

    assert part_of(june, june.start, june.end) == WHOLE
    assert part_of(june, datetime(2025, 6, 22, tzinfo=UTC), june.end) == NINE_OF_THIRTY
    assert part_of(june, june.end - microsecond, june.end).start == 1 - Fraction(1, 30 * 24 * 60 * 60 * 1_000_000)


def test_the_day_on_which_clocks_change_is_a_smaller_part() -> None:
    """In Berlin March 2025 has 743 hours, and its 30th 23 of them."""
    march = BillingPeriod(datetime(2025, 2, 28, 23, tzinfo=UTC), datetime(2025, 3, 31, 22, tzinfo=UTC))

    part = part_of(march, datetime(2025, 3, 29, 23, tzinfo=UTC), datetime(2025, 3, 30, 22, tzinfo=UTC))

    assert part.end - part.start == Fraction(23, 743)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("0", [0, 0, 0]),
        ("1", [0, 1, 0]),
        ("2", [1, 0, 1]),
        ("100", [33, 34, 33]),
        ("4900", [1633, 1634, 1633]),
        ("100.5", [34, 33, 34]),  # 101 in all
        ("0.4", [0, 0, 0]),
        ("0.5", [0, 1, 0]),  # as of 1
        ("1e30", [333333333333333333333333333333, 333333333333333333333333333334, 333333333333333333333333333333]),
    ],
)
def test_thirds_of_an_amount_add_up_to_it_rounded(amount: str, expected: list[int]) -> None:
    assert [share_amount(Decimal(amount), part) for part in THIRDS] == expected


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("100000", ["33333", "33334", "33333"]),
        ("100000.000", ["33333", "33334", "33333"]),
        ("1E+5", ["33333", "33334", "33333"]),
        ("2.5", ["0.8", "0.9", "0.8"]),
        ("2.50", ["0.8", "0.9", "0.8"]),
        ("0.01", ["0.00", "0.01", "0.00"]),
        ("0.0000025", ["0.000001", "0.000001", "0.000001"]),  # 0.000003 in all, as the seventh place is too fine
    ],
)
def test_thirds_of_a_quantity_have_its_own_last_place(quantity: str, expected: list[str]) -> None:
    assert [str(share_quantity(Decimal(quantity), part)) for part in THIRDS] == expected


def test_the_whole_of_a_quantity_keeps_every_place() -> None:
    assert share_quantity(Decimal("0.12345670"), WHOLE).compare_total(Decimal("0.12345670")) == 0


# --- rating a part --------------------------------------------------------------------------------------------

Told = list[tuple[str, Decimal | int, Part | None]]


def told(line: RatedLine) -> Told:
    assert sum(Fraction(step.amount) for step in line.steps) == line.amount_minor
    return [(step.kind, step.amount, step.part) for step in line.steps]


def of_bounds(quantity: int) -> RatedLine:
    price = Price(PriceModel.PER_UNIT, "USD", Decimal(2), minimum=Decimal(500), maximum=Decimal(2000))
    return rate(price, Decimal(quantity), part=NINE_OF_THIRTY)


class TestRatingAPart:
    def test_takes_from_a_flat_amount_what_is_not_of_it(self) -> None:
        line = rate(Price(PriceModel.FLAT, "USD", Decimal(4900)), Decimal(1), part=NINE_OF_THIRTY)

        assert told(line) == [("flat", 4900, None), ("proration", -3430, NINE_OF_THIRTY)]
        assert (line.model_amount, line.amount_minor) == (1470, 1470)

    def test_rounds_a_flat_amount_with_a_fraction_in_the_same_step(self) -> None:
        line = rate(Price(PriceModel.FLAT, "USD", Decimal("100.5")), Decimal(1), part=THIRDS[0])

        assert told(line) == [("flat", Decimal("100.5"), None), ("proration", Decimal("-66.5"), THIRDS[0])]
        assert line.amount_minor == 34

    def test_tells_of_the_part_where_nothing_is_taken_away(self) -> None:
        """A cent is due in the middle third."""
        assert told(rate(Price(PriceModel.FLAT, "USD", Decimal(1)), Decimal(1), part=THIRDS[1])) == [
            ("flat", 1, None),
            ("proration", 0, THIRDS[1]),
        ]

    def test_has_no_fee_where_its_metric_has_no_usage(self) -> None:
        assert told(rate(Price(PriceModel.FLAT, "USD", Decimal(4900)), Decimal(0), part=NINE_OF_THIRTY)) == []

    def test_includes_its_share_of_the_quantity(self) -> None:
        price = Price(PriceModel.PER_UNIT, "USD", Decimal("0.1"), included_quantity=Decimal(100_000))

        line = rate(price, Decimal(45_000), part=NINE_OF_THIRTY)

        assert told(line) == [("included", 0, NINE_OF_THIRTY), ("units", 1500, None)]
        assert (line.included_quantity, line.overage_quantity) == (30_000, 15_000)

    @pytest.mark.parametrize(
        ("quantity", "expected"),
        [
            (0, [("minimum", 150, NINE_OF_THIRTY)]),
            (75, [("units", 150, None)]),
            (300, [("units", 600, None)]),
            (301, [("units", 602, None), ("maximum", -2, NINE_OF_THIRTY)]),
        ],
    )
    def test_has_its_share_of_the_minimum_and_the_maximum(self, quantity: int, expected: Told) -> None:
        assert told(of_bounds(quantity)) == expected

    def test_holds_the_maximum_where_the_bounds_round_past_each_other(self) -> None:
        """From 0.4 to 0.5 a minimum of 1 is due (at 0.5), and of a maximum of 2 nothing (one at 0.25, one at 0.75)."""
        price = Price(PriceModel.PER_UNIT, "USD", Decimal(1), minimum=Decimal(1), maximum=Decimal(2))

        assert rate(price, Decimal(5), part=Part(Fraction(2, 5), Fraction(1, 2))).amount_minor == 0

    @pytest.mark.parametrize(
        "price",
        [
            Price(PriceModel.PER_UNIT, "USD", Decimal("0.1")),
            Price(PriceModel.PACKAGE, "USD", Decimal(300), Decimal(1000)),
            Price(PriceModel.PERCENT_OF_AMOUNT, "USD", Decimal("2.9")),
            Price(PriceModel.GRADUATED, "USD", tiers=TIERS_WITH_FLAT),
            Price(PriceModel.VOLUME, "USD", tiers=TIERS_WITH_FLAT),
        ],
        ids=lambda price: str(price.model),
    )
    def test_charges_what_goes_by_use_as_ever(self, price: Price) -> None:
        for quantity in (Decimal(0), Decimal(10), Decimal("1000.5")):
            assert rate(price, quantity, part=NINE_OF_THIRTY) == rate(price, quantity)


# --- what always holds ----------------------------------------------------------------------------------------

ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu"]


@st.composite
def partitions(draw: st.DrawFn) -> list[Part]:
    """Cut a real billing period, of any zone, any anchor and any year, anywhere."""
    starts_at = draw(st.datetimes(datetime(2023, 1, 1), datetime(2029, 1, 1), timezones=st.just(UTC)))
    cycle = Cycle(starts_at, draw(st.integers(1, 31)), ZoneInfo(draw(st.sampled_from(ZONES))))
    period = list(list_periods(cycle, until=starts_at + timedelta(days=draw(st.integers(1, 400)))))[-1]
    length = (period.end - period.start) // timedelta(microseconds=1)
    at = st.integers(1, length - 1) if length > 1 else st.nothing()
    cuts = draw(st.sets(at, max_size=12))
    edges = [period.start + timedelta(microseconds=cut) for cut in sorted(cuts | {0, length})]
    return [part_of(period, start, end) for start, end in pairwise(edges)]


amounts = st.decimals(0, 10**9, places=4) | st.decimals(0, 10**30, places=0)
quantities = st.one_of(*(st.decimals(0, 10**12, places=places) for places in (0, 2, 6, 9)))


@given(partitions(), amounts, quantities)
@settings(max_examples=150, deadline=None)
def test_shares_of_any_partition_add_up(parts: Sequence[Part], amount: Decimal, quantity: Decimal) -> None:
    whole = amount.quantize(Decimal(1), rounding=ROUND_HALF_UP) if amount < 10**20 else amount
    shares = [share_amount(amount, part) for part in parts]
    quantity_shares = [share_quantity(quantity, part) for part in parts]

    assert sum(shares) == whole
    if len(parts) > 1:
        assert sum(quantity_shares) == quantity.quantize(Decimal("1.000000"), rounding=ROUND_HALF_UP)
    # And no part has more than a rounding of what its length says.
    lengths = [part.end - part.start for part in parts]
    assert all(abs(share - int(whole) * length) <= 1 for share, length in zip(shares, lengths, strict=True))
    assert all(share >= 0 for share in [*shares, *quantity_shares])


@given(partitions(), st.decimals(0, 10**6, places=3), st.decimals(0, 10**6, places=3))
@settings(max_examples=50, deadline=None)
def test_fees_and_minimums_of_any_partition_add_up_to_those_of_the_period(
    parts: Sequence[Part], fee: Decimal, minimum: Decimal
) -> None:
    flat = Price(PriceModel.FLAT, "USD", fee)
    bounded = Price(PriceModel.PER_UNIT, "USD", fee, minimum=minimum)

    for price, quantity in ((flat, Decimal(1)), (bounded, Decimal(0))):
        assert (
            sum(rate(price, quantity, part=part).amount_minor for part in parts) == rate(price, quantity).amount_minor
        )
