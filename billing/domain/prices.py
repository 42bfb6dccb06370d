"""What a price is: its model, its amounts, and which combinations of them mean something.

Every amount is in the minor unit of the price's currency and may have a fraction: a tenth of a cent is 0.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from django.db import models  # for `TextChoices` only

from billing.domain.currencies import EXPONENTS
from common.errors import FieldError

ZERO = Decimal(0)
MAX_TIERS = 100


class PriceModel(models.TextChoices):
    # The amount once, if there is anything to charge for.
    FLAT = "flat"
    # The amount for each unit.
    PER_UNIT = "per_unit"
    # Each unit at the amount of the tier in which it lies.
    GRADUATED = "graduated"
    # All units at the amount of the tier that the quantity reaches.
    VOLUME = "volume"
    # The amount for each package that is begun.
    PACKAGE = "package"
    # The quantity is money, in the currency's major unit; so many percent of it.
    PERCENT_OF_AMOUNT = "percent_of_amount", "percent of amount"


TIERED = frozenset({PriceModel.GRADUATED, PriceModel.VOLUME})


@dataclass(frozen=True, slots=True)
class Tier:
    """A step of the quantity, up to and with `up_to` (None: without end); `flat_amount` once it is reached."""

    up_to: Decimal | None
    unit_amount: Decimal
    flat_amount: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Price:
    """How a quantity is charged. Everything but the included quantity counts what lies beyond that quantity.

    `amount` is the flat amount, the unit's, the package's or the percentage, by the model; None where tiers say it.
    `minimum` and `maximum` bound what the line comes to, the minimum also without any usage.
    """

    model: PriceModel
    currency: str
    amount: Decimal | None = None
    package_size: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    included_quantity: Decimal = ZERO
    minimum: Decimal | None = None
    maximum: Decimal | None = None


def list_problems(price: Price) -> Iterator[FieldError]:
    """Yield what makes the price meaningless; nothing for one that can be rated."""
    if price.currency not in EXPONENTS:
        yield FieldError("currency", "unknown_currency", "Use a code of ISO 4217, like USD, JPY or KWD.")
    yield from _amount_problems(price)
    yield from _tier_problems(price)
    for name, value in (
        ("included_quantity", price.included_quantity),
        ("minimum", price.minimum),
        ("maximum", price.maximum),
    ):
        if value is not None and not _is_amount(value):
            yield FieldError(name, "invalid_value", "Zero or more.")
    if price.minimum is not None and price.maximum is not None and price.minimum > price.maximum:
        yield FieldError("maximum", "invalid_combination", "The maximum is not below the minimum.")


def _amount_problems(price: Price) -> Iterator[FieldError]:
    is_tiered, is_package = price.model in TIERED, price.model == PriceModel.PACKAGE
    if is_tiered and price.amount is not None:
        yield FieldError("amount", "invalid_combination", f"The tiers of a {price.model} price say the amounts.")
    elif not is_tiered and price.amount is None:
        yield FieldError("amount", "required", f"A {price.model.label} price has an amount.")
    elif price.amount is not None and not _is_amount(price.amount):
        yield FieldError("amount", "invalid_value", "Zero or more.")
    if is_package and price.package_size is None:
        yield FieldError("package_size", "required", "A package has a size.")
    elif not is_package and price.package_size is not None:
        yield FieldError("package_size", "invalid_combination", "Only a package price has a package size.")
    elif price.package_size is not None and not (_is_amount(price.package_size) and price.package_size):
        yield FieldError("package_size", "invalid_value", "More than zero.")


def _tier_problems(price: Price) -> Iterator[FieldError]:
    if price.model not in TIERED:
        if price.tiers:
            yield FieldError("tiers", "invalid_combination", f"A {price.model.label} price has no tiers.")
        return
    if not 1 <= len(price.tiers) <= MAX_TIERS:
        yield FieldError("tiers", "invalid_value", f"One to {MAX_TIERS} tiers.")
        return
    reached = ZERO
    for place, tier in enumerate(price.tiers):
        if not (_is_amount(tier.unit_amount) and _is_amount(tier.flat_amount)):
            yield FieldError(f"tiers[{place}].unit_amount", "invalid_value", "Zero or more.")
        is_last = place == len(price.tiers) - 1
        if is_last != (tier.up_to is None):
            message = "Exactly the last tier has no end, so that every quantity has a price."
            yield FieldError(f"tiers[{place}].up_to", "invalid_value", message)
        elif tier.up_to is not None:
            if not tier.up_to.is_finite() or tier.up_to <= reached:
                yield FieldError(f"tiers[{place}].up_to", "invalid_value", "Above the tier before, and above zero.")
                return
            reached = tier.up_to


def _is_amount(value: Decimal) -> bool:
    return value.is_finite() and value >= 0
