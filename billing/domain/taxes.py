"""Taxes: which rules hold for a customer on a day, and what they add to the lines of an invoice.

Does not know whether a customer is liable or exempt; who is taxed is decided where the rules are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from billing.domain.rating import round_to_minor
from metering.domain import EXACT


@dataclass(frozen=True, slots=True)
class TaxRule:
    """So many percent in a country, or in one region of it; without a country, wherever no rule names the country.

    Holds from `valid_from` to `valid_until`, both days included; None: without end on that side.
    """

    code: str
    name: str
    percent: Decimal
    country: str = ""
    region: str = ""
    valid_from: date | None = None
    valid_until: date | None = None


@dataclass(frozen=True, slots=True)
class TaxLine:
    """What one rule adds. Negative on a negative base, which an adjustment may leave."""

    code: str
    name: str
    percent: Decimal
    base_minor: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What lines and taxes come to. Lines and taxes add up to the total, as it is nothing but their sum."""

    subtotal_minor: int
    taxes: list[TaxLine]

    @property
    def tax_minor(self) -> int:
        return sum(line.amount_minor for line in self.taxes)

    @property
    def total_minor(self) -> int:
        return self.subtotal_minor + self.tax_minor


def applicable_rules(rules: Iterable[TaxRule], *, country: str, region: str, on: date) -> list[TaxRule]:
    """Return the rules that hold in a place on a day, by code.

    A rule for another region names the country too: with rules for some states of a country alone, the others have
    none, and not the rules without a country.
    """
    valid = sorted((rule for rule in rules if _is_valid(rule, on)), key=lambda rule: rule.code)
    of_country = [rule for rule in valid if rule.country and rule.country == country]
    if of_country:
        return [rule for rule in of_country if rule.region in {"", region}]
    return [rule for rule in valid if not rule.country]


def tax_lines(base_minor: int, rules: Sequence[TaxRule]) -> list[TaxLine]:
    """Return what each rule adds to a sum of lines. Each is rounded once, halves away from zero; none is on another."""
    return [TaxLine(rule.code, rule.name, rule.percent, base_minor, _tax(base_minor, rule.percent)) for rule in rules]


def total_up(line_amounts: Iterable[int], rules: Sequence[TaxRule]) -> Totals:
    subtotal_minor = sum(line_amounts)
    return Totals(subtotal_minor, tax_lines(subtotal_minor, rules))


def _is_valid(rule: TaxRule, on: date) -> bool:
    is_begun = rule.valid_from is None or rule.valid_from <= on
    return is_begun and (rule.valid_until is None or on <= rule.valid_until)


def _tax(base_minor: int, percent: Decimal) -> int:
    return int(round_to_minor(EXACT.multiply(Decimal(base_minor), percent).scaleb(-2, context=EXACT)))
