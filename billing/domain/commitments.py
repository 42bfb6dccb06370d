"""Commitments: an amount that a customer promised to spend over a term of consecutive billing periods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from billing.domain.periods import Cycle, period_at


def true_up(amount_minor: int, period_totals: Sequence[int]) -> int:
    """Return what is missing to the promised amount, in minor units, when the term is over; never below zero."""
    return max(0, amount_minor - sum(period_totals))


@dataclass(frozen=True, slots=True)
class Term:
    """A span of whole billing periods; a subscription that ends earlier cuts it short."""

    start: datetime
    end: datetime


def list_terms(
    cycle: Cycle, *, starts_at: datetime, period_count: int, is_recurring: bool, ended_at: datetime | None = None
) -> Iterator[Term]:
    """Yield the terms of a commitment, in order; without end, where it recurs and neither it nor the cycle ends.

    No term that is over only after `ended_at` is one.
    """
    start = starts_at
    while (end := _term_end(cycle, start, period_count)) is not None:
        if ended_at is not None and end > ended_at:
            return
        yield Term(start, end)
        if not is_recurring:
            return
        start = end


def _term_end(cycle: Cycle, start: datetime, period_count: int) -> datetime | None:
    """Return where so many periods end, or the last one of the cycle; None after that."""
    end = None
    for _ in range(period_count):
        period = period_at(cycle, start)
        if period is None:
            break
        start = end = period.end
    return end
