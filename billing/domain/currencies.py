"""ISO 4217: which currencies there are, and how many decimals of the major unit make the minor one."""

from __future__ import annotations

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
