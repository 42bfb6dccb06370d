"""ISO 4217: which currencies there are, and how many decimals of the major unit make the minor one."""

from __future__ import annotations

import re
from decimal import Decimal

from common.numbers import THIN_SPACE, exact_text

_TWO_DECIMALS = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP
COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR
JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN
NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL
THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DECIMALS = "CLF UYW"

# The number of decimals of each currency: its minor unit is 10 ** -exponent of the major one.
EXPONENTS: dict[str, int] = {
    code: exponent
    for exponent, codes in ((0, _NO_DECIMALS), (2, _TWO_DECIMALS), (3, _THREE_DECIMALS), (4, _FOUR_DECIMALS))
    for code in codes.split()
}

# Digits, in threes with spaces between or together, and decimals after a point or a comma.
_AMOUNT = re.compile(r"([0-9]{1,20}|[0-9]{1,3}(?:[ \u00a0\u2009\u202f][0-9]{3}){1,6})(?:([.,])([0-9]{1,4}))?")
# The largest amount that is stored.
MAX_MINOR = 2**63 - 1


class NotAnAmount(ValueError):
    """A text that is no amount of its currency; what it says is for people."""


def major_text(minor: Decimal | int, currency: str) -> str:
    """Write an amount in the major unit, every digit kept: 1500 US cents are `15.00`, a tenth of one `0.001`."""
    exponent = EXPONENTS[currency]
    text = exact_text(Decimal(minor).scaleb(-exponent))
    whole, _, fraction = text.partition(".")
    fraction = fraction.ljust(exponent, "0")
    return f"{whole}.{fraction}" if fraction else whole


def money_text(minor: Decimal | int, currency: str) -> str:
    """Write an amount for people: `1 234.50 USD`."""
    whole, point, fraction = major_text(minor, currency).partition(".")
    sign, digits = ("\u2212", whole[1:]) if whole.startswith("-") else ("", whole)
    grouped = f"{int(digits):,}".replace(",", THIN_SPACE)
    return f"{sign}{grouped}{point}{fraction}\u00a0{currency}"


def parse_major(text: str, currency: str) -> int:
    """Read an amount in the major unit as people write it: `49.90`, `1 234,5`. Return minor units, never below zero.

    A mark with three digits behind it may group thousands: `1,000` is refused in every currency, and so is `1.000`
    where it has fewer decimals. Raises `NotAnAmount`.
    """
    exponent = EXPONENTS[currency]
    parts = _AMOUNT.fullmatch(text.strip())
    if parts is not None:
        whole, mark, fraction = parts[1], parts[2], parts[3] or ""
        minor = int(re.sub(r"\s", "", whole) + fraction.ljust(exponent, "0"))
        if len(fraction) <= exponent and not (mark == "," and len(fraction) == 3) and minor <= MAX_MINOR:
            return minor
    example = "1234." + "50".ljust(exponent, "0") if exponent else "1234"
    raise NotAnAmount(f"“{text}” is no amount of {currency}. Write it like {example}, thousands together.")
