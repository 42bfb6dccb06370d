"""Quantities are `Decimal`, in and out. Owns the conversion from what a caller may pass, and nothing else.

A float is accepted where people have one (a duration, a size), and converted through its shortest decimal
notation: `0.1` becomes `Decimal("0.1")`, exactly the digits that `repr` shows. No arithmetic is done on it.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, TypeAlias

Quantity: TypeAlias = Decimal | int | float | str

SCALE_DIGITS = 6
# The default context would round to 28 digits; the server keeps up to 60.
_WIDE = Context(prec=100, rounding=ROUND_HALF_EVEN)


def to_decimal(value: Quantity) -> Decimal:
    """Return the value exactly as written. Raises `ValueError` for NaN, infinities and text that is no number."""
    if isinstance(value, bool):
        raise ValueError("A quantity is a number, not a boolean.")
    try:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except (InvalidOperation, TypeError):
        raise ValueError(f"{value!r} is not a decimal number.") from None
    if not number.is_finite():
        raise ValueError(f"{value!r} is not a finite number.")
    return number


def decimal_text(value: Quantity) -> str:
    """Return the value in plain notation, without an exponent: the form in which quantities travel."""
    return format(to_decimal(value), "f")


def optional_decimal(value: Any) -> Decimal | None:
    return None if value is None else to_decimal(value)


def scale(value: Quantity) -> int:
    """Return the value times 1,000,000 as an integer, for code ported from clients with scaled integers.

    Digits past the sixth are rounded half to even. Meterbook itself never scales: pass `Decimal` values.
    """
    return int(_WIDE.to_integral_value(_WIDE.scaleb(to_decimal(value), SCALE_DIGITS)))


def unscale(value: int) -> Decimal:
    """Return a scaled integer as the quantity that it stands for: the exact inverse of `scale`."""
    return _WIDE.scaleb(Decimal(value), -SCALE_DIGITS)
