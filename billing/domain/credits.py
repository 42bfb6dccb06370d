"""Prepaid credits: from which grants an amount that is due is paid.

Pure; whole minor units of one currency. The ledger of grants and of what was taken from them is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Grant:
    """Credit that may be taken from `effective_at` up to, and without, `expires_at` (None: it does not expire)."""

    id: int
    remaining_minor: int
    # The lowest number is taken first.
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    created_at: datetime


def apply_credits(due_minor: int, grants: Sequence[Grant], *, at: datetime) -> list[tuple[int, int]]:
    """Return how much to take from which grant, by its id, in the order taken; nothing where nothing is due.

    By priority, then what expires soonest, then the oldest. Guarantee: each amount is positive and at most what the
    grant has, and together they are at most what is due, so that credit never leaves a total below zero.
    """
    taken = []
    for grant in sorted((grant for grant in grants if _is_in_force(grant, at)), key=_order):
        amount = min(due_minor, grant.remaining_minor)
        if amount > 0:
            taken.append((grant.id, amount))
            due_minor -= amount
    return taken


def _is_in_force(grant: Grant, at: datetime) -> bool:
    return grant.effective_at <= at and (grant.expires_at is None or at < grant.expires_at)


def _order(grant: Grant) -> tuple[int, bool, datetime, datetime, int]:
    # What never expires comes after all that does; among those, what stands in its date's place decides nothing.
    never = grant.expires_at is None
    return grant.priority, never, grant.expires_at or grant.created_at, grant.created_at, grant.id
