"""Exact decimal arithmetic within fixed bounds: what does not fit is refused, never rounded behind anybody's back.

Sums, differences, products and remainders are exact or an error. A quotient has 40 significant digits, and what an
expression gives has at most 18 decimals; both are rounded to the nearest, halves to even.
"""

from __future__ import annotations

from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    DecimalException,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    Underflow,
)

from metering.admission import MAX_FRACTION_DIGITS, MAX_INTEGER_DIGITS
from metering.dialects.gateway.expressions.errors import MeteringError

MAX_DIGITS = 200
QUOTIENT_DIGITS = 40
MAX_ROUND_DECIMALS = 18
MAX_BITS = 640  # of an integer, so that it is refused before anything is computed from it

_REFUSED = [InvalidOperation, DivisionByZero, Overflow, Underflow]
_EXACT = Context(prec=MAX_DIGITS, rounding=ROUND_HALF_EVEN, Emin=-400, Emax=400, traps=[*_REFUSED, Inexact])
_QUOTIENT = Context(prec=QUOTIENT_DIGITS, rounding=ROUND_HALF_EVEN, Emin=-400, Emax=400, traps=_REFUSED)
# Wide enough for any number of the above with the decimals that rounding adds.
_ROUNDED = Context(prec=700, rounding=ROUND_HALF_EVEN, traps=_REFUSED)
_LEAST = Decimal(1).scaleb(-MAX_FRACTION_DIGITS)
_TOO_LARGE = Decimal(10) ** MAX_INTEGER_DIGITS


def bounded_number(value: int | Decimal) -> Decimal:
    """Return a number of a record as one to compute with."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise _out_of_range()
    try:
        return _EXACT.create_decimal(value)
    except DecimalException:
        raise _out_of_range() from None


def combine(operator: str, left: Decimal, right: Decimal) -> Decimal:
    """Return `left + right`, or with `-`, `*`, `/`, `%`. A remainder has the sign of `left`."""
    if operator in "/%" and not right:
        raise MeteringError("division_by_zero", f"{operator} by zero.")
    try:
        match operator:
            case "+":
                return _EXACT.add(left, right)
            case "-":
                return _EXACT.subtract(left, right)
            case "*":
                return _EXACT.multiply(left, right)
            case "/":
                return _QUOTIENT.divide(left, right)
        return _EXACT.remainder(left, right)
    except DecimalException:
        raise _out_of_range() from None


def negate(number: Decimal) -> Decimal:
    return number.copy_negate() if number else number


def round_half_up(number: Decimal, decimals: Decimal = Decimal(0)) -> Decimal:
    """Round to so many decimals, halves away from zero."""
    if decimals != decimals.to_integral_value() or not 0 <= decimals <= MAX_ROUND_DECIMALS:
        raise MeteringError("wrong_type", f"round takes 0 to {MAX_ROUND_DECIMALS} decimals.")
    return number.quantize(Decimal(1).scaleb(-int(decimals)), rounding=ROUND_HALF_UP, context=_ROUNDED)


def round_up(number: Decimal) -> Decimal:
    return number.to_integral_value(rounding=ROUND_CEILING)


def round_down(number: Decimal) -> Decimal:
    return number.to_integral_value(rounding=ROUND_FLOOR)


def to_units(number: Decimal) -> Decimal:
    """Return what is stored: at least zero, within the digits of a quantity. Raises `MeteringError`."""
    if number < 0:
        raise MeteringError("negative", "The expression gives less than zero.")
    if number >= _TOO_LARGE:
        raise _out_of_range()
    if not number:
        return Decimal(0)  # without the sign and the exponent that a zero may have
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # neither infinite nor NaN: both are refused before
    return number if exponent >= -MAX_FRACTION_DIGITS else number.quantize(_LEAST, context=_ROUNDED)


def _out_of_range() -> MeteringError:
    return MeteringError("number_out_of_range", "A number has too many digits.")
