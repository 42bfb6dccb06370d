"""The pure rules of having an invoice paid at Stripe: in which amounts, as which items, due when.

The invoice here is the document, and its copy there what is paid: it has to come to the same sum. No ORM, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from billing.domain.currencies import EXPONENTS

# https://docs.stripe.com/api/invoiceitems/create (`invoice`)
MAX_ITEMS = 250
# Keys are kept for 24 hours at least; one less, for the clocks and the way. https://docs.stripe.com/api/idempotent_requests
KEYS_LIVE = timedelta(hours=23)
# What Stripe counts in other units than ISO 4217 does: so many of its units make one minor unit here.
# https://docs.stripe.com/currencies#special-cases and #zero-decimal
UNITS_PER_MINOR = {"ISK": Fraction(100), "MGA": Fraction(1, 100)}
# Stripe's page lists it among those without decimals and among those written with two.
AMBIGUOUS = frozenset({"UGX"})
# Payments in three decimals must end with a zero. https://docs.stripe.com/currencies#three-decimal
LAST_DIGIT_IS_ZERO = frozenset(code for code, exponent in EXPONENTS.items() if exponent == 3)
DAY = timedelta(days=1)


class NotSayable(Exception):
    """An amount that Stripe's units cannot say."""


@dataclass(frozen=True, slots=True)
class Item:
    """One line of an invoice as Stripe is told it; its place tells a repetition."""

    place: int
    description: str
    amount_minor: int


def list_items(*, lines: Sequence[tuple[str, int]], taxes: Iterable[tuple[str, int]], credits_minor: int) -> list[Item]:
    """Return the items that add up to what is due: the lines, the taxes, and what credits paid as a negative one.

    Lines of nothing are left out. What exceeds the items that an invoice may have is one item.
    """
    told = [line for line in lines if line[1]]
    after = [(name, amount) for name, amount in taxes if amount]
    if credits_minor:
        after.append(("Paid by credits", -credits_minor))
    room = MAX_ITEMS - len(after)
    if len(told) > room:
        rest = told[room - 1 :]
        told = [*told[: room - 1], (f"{len(rest)} more lines, see the invoice", sum(amount for _, amount in rest))]
    return [Item(place, name, amount) for place, (name, amount) in enumerate([*told, *after], 1)]


def stripe_amount(minor: int, currency: str) -> int:
    """Return an amount in Stripe's units. Raises `NotSayable`."""
    if currency in AMBIGUOUS:
        raise NotSayable(f"Stripe's documentation does not tell in which unit amounts in {currency} are.")
    amount = minor * UNITS_PER_MINOR.get(currency, Fraction(1))
    if amount.denominator != 1:
        raise NotSayable(f"Stripe takes no fractions of {currency}.")
    return amount.numerator


def check_payable(minor: int, currency: str) -> None:
    """Raise `NotSayable` for an amount that nobody could pay there."""
    stripe_amount(minor, currency)
    if currency in LAST_DIGIT_IS_ZERO and minor % 10:
        raise NotSayable(f"Stripe takes payments in {currency} only where the last decimal is zero.")


def days_until_due(*, issued_at: datetime, due_at: datetime | None) -> int:
    """Return in how many whole days an invoice is due, at least one: of the invoice alone, whenever it is asked."""
    return max(1, -((issued_at - due_at) // DAY)) if due_at is not None else 1


def reference_of(*, prefix: str, organization_id: int, invoice_id: int) -> str:
    """Return what an invoice is called in Stripe's metadata; another for every invoice of every installation."""
    return f"{prefix}-{organization_id}-{invoice_id}"
