"""Proration: which part of a period something held for, and what of an amount or a quantity belongs to that part.

Shares are differences of rounded boundaries: what belongs to a part is what is due up to its end less what is due up to
its start. So the shares of any parts that make up the period add up to the rounded whole, however it is cut, and no
part needs to know of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import floor

from billing.domain.periods import BillingPeriod
from metering.domain import EXACT

_HALF = Fraction(1, 2)
_MICROSECOND = timedelta(microseconds=1)
_MAX_PLACES = 6


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a nominal period, whose own length is one. Exact; half-open like the period."""

    start: Fraction
    end: Fraction

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError("A part lies within its period and is not empty.")


WHOLE = Part(Fraction(0), Fraction(1))


def part_of(whole: BillingPeriod, start: datetime, end: datetime) -> Part:
    """Return which part of the whole lies from start to end, by the microsecond: a day of 23 hours is a smaller one."""
    length = _microseconds(whole.start, whole.end)
    return Part(
        Fraction(_microseconds(whole.start, start), length),
        Fraction(_microseconds(whole.start, end), length),
    )


def share_amount(amount: Decimal, part: Part) -> int:
    """Return the part's share of an amount, in whole minor units. The shares add up to the amount, rounded half up."""
    return _share(Fraction(amount), part)


def share_quantity(quantity: Decimal, part: Part) -> Decimal:
    """Return the part's share of a quantity, in steps of its own last decimal place: whole ones of a whole one.

    At most six places; the shares add up to the quantity, rounded to them. The whole is the quantity as it is.
    """
    if part == WHOLE:
        return quantity
    exact = Fraction(quantity)
    places = next((n for n in range(_MAX_PLACES) if (exact * 10**n).denominator == 1), _MAX_PLACES)
    return EXACT.scaleb(Decimal(_share(exact * 10**places, part)), -places)


def _share(total: Fraction, part: Part) -> int:
    whole = _round(total)
    return _round(whole * part.end) - _round(whole * part.start)


def _round(value: Fraction) -> int:
    return floor(value + _HALF)


def _microseconds(start: datetime, end: datetime) -> int:
    return (end - start) // _MICROSECOND
