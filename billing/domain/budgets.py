"""Budgets: which levels an amount has reached. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

MAX_LEVELS = 10
MAX_LEVEL = 1_000


def reached_levels(spend_minor: int, *, budget_minor: int, levels: Iterable[int]) -> list[int]:
    """Return the levels, in percent of the budget, that the amount has reached; also one that it meets exactly."""
    return [level for level in levels if spend_minor * 100 >= budget_minor * level]


def percent_used(spend_minor: int, *, budget_minor: int) -> Decimal:
    """Return the percentage rounded down to hundredths, so that no level looks reached before it is."""
    return Decimal(spend_minor * 10_000 // budget_minor).scaleb(-2)
