"""How exact quantities are shown to people. Formatting only: nothing here is stored or computed with."""

from decimal import ROUND_HALF_EVEN, Context, Decimal

# U+202F: a thin space that does not break the line, the SI's separator of thousands.
THIN_SPACE = "\u202f"
# Quantities are NUMERIC(60, 20) and their sums wider still; the default context would round at 28 digits.
WIDE = Context(prec=120, rounding=ROUND_HALF_EVEN)
SUFFIXES = ((Decimal("1e12"), "T"), (Decimal("1e9"), "B"), (Decimal("1e6"), "M"), (Decimal("1e3"), "k"))


def exact_text(value: Decimal) -> str:
    """Return every digit, without exponent or trailing zeros: `12.5`, `1000`."""
    text = str(value)
    if "E" in text:
        text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def readable_text(value: Decimal) -> str:
    """Return the number for a table: thousands apart, and only as many decimals as its size makes worth reading."""
    decimals = _decimals_worth_showing(value)
    rounded = value.quantize(Decimal(1).scaleb(-decimals), context=WIDE)
    whole, _, fraction = exact_text(rounded).partition(".")
    sign, digits = ("\u2212", whole[1:]) if whole.startswith("-") else ("", whole)
    grouped = f"{int(digits):,}".replace(",", THIN_SPACE)
    return f"{sign}{grouped}.{fraction}" if fraction else f"{sign}{grouped}"


def short_text(value: Decimal) -> str:
    """Return the number for an axis: at most three figures and a suffix, `12.5k`, `3M`."""
    for size, suffix in SUFFIXES:
        if abs(value) >= size:
            figures = WIDE.divide(value, size).quantize(Decimal("0.01"), context=WIDE)
            return readable_text(figures) + suffix
    return readable_text(value)


def _decimals_worth_showing(value: Decimal) -> int:
    size = abs(value)
    if size >= 1000:
        return 2
    if size >= 1 or size == 0:
        return 3
    # Below one: four figures after the leading zeros, so that 0.0000123 does not read as nothing.
    return min(20, 3 - size.adjusted())
