"""Rating: what a quantity costs under a price, with every step on the way. The only place where money is computed.

Exact: nothing is rounded but the line itself, once, to whole minor units of its currency. Halves are rounded up: it is
what customers do on paper and what payment providers do, amounts are never negative here, and a line is rounded once,
so the bias that banker's rounding avoids in long sums has nowhere to build up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Clamped, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from enum import StrEnum

from billing.domain.currencies import EXPONENTS
from billing.domain.prices import ZERO, Price, PriceModel, Tier
from billing.domain.proration import WHOLE, Part, share_amount, share_quantity

# Wide enough for any product of stored numbers. Should one not fit, that is an error and not a rounded amount.
_EXACT = Context(prec=500, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow, Clamped])
_ROUNDING = Context(prec=500, rounding=ROUND_HALF_UP)
ONE = Decimal(1)


class StepKind(StrEnum):
    INCLUDED = "included"
    FLAT = "flat"
    # Takes from the flat amount what is not of this part of the period.
    PRORATION = "proration"
    UNITS = "units"
    TIER = "tier"
    PACKAGES = "packages"
    PERCENT = "percent"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    TRIAL = "trial"
    ROUNDING = "rounding"


@dataclass(frozen=True, slots=True)
class Step:
    """What one rule added to the line; `amount` is negative where it took away.

    From and to are quantities beyond the included one, but for the included step itself. `quantity` counts packages in
    a packages step.
    """

    kind: StepKind
    amount: Decimal = ZERO
    from_quantity: Decimal | None = None
    to_quantity: Decimal | None = None
    quantity: Decimal | None = None
    # Of one unit or package, in minor units; the percentage in a percent step.
    unit_amount: Decimal | None = None
    flat_amount: Decimal | None = None
    # Of which part of the nominal period the rule holds, in proportion; None: it holds as the price says it.
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class RatedLine:
    """A quantity under a price. Guarantee: the amounts of the steps add up to `amount_minor`, exactly."""

    currency: str
    quantity: Decimal
    # How much of the quantity the included one covered, and what is beyond it.
    included_quantity: Decimal
    overage_quantity: Decimal
    # What the model makes of the overage, before minimum, maximum, trial and rounding.
    model_amount: Decimal
    amount_minor: int
    steps: tuple[Step, ...]


def rate(price: Price, quantity: Decimal, *, is_trial: bool = False, part: Part = WHOLE) -> RatedLine:
    """Return what the quantity costs. A negative quantity, of corrections beyond the usage, costs what zero does.

    The price has no problems (`list_problems`). In a trial every step is taken and the last gives it all back. In a
    part of a period what is due by time holds in proportion: a flat amount, the included quantity, the minimum and the
    maximum. What goes by use does not: unit amounts, tiers, packages and percentages.
    """
    if not quantity.is_finite():
        raise ValueError("A quantity is a finite number.")
    cut = None if part == WHOLE else part
    if cut:
        price = _in_proportion(price, cut)
    charged = max(quantity, ZERO)
    included = min(charged, price.included_quantity)
    overage = _EXACT.subtract(charged, included)
    steps = [Step(StepKind.INCLUDED, ZERO, ZERO, included, included, part=cut)] if included else []
    steps += _model_steps(price, overage, cut)
    model_amount = amount = _total(steps)
    for step in _bounding_steps(price, amount, cut, is_trial=is_trial):
        steps.append(step)
        amount = _EXACT.add(amount, step.amount)
    rounded = round_to_minor(amount)
    if rounded != amount:
        steps.append(Step(StepKind.ROUNDING, _EXACT.subtract(rounded, amount)))
    return RatedLine(price.currency, quantity, included, overage, model_amount, int(rounded), tuple(steps))


def round_to_minor(amount: Decimal) -> Decimal:
    """Round an amount in minor units to whole ones, halves away from zero: up, where it is not negative."""
    return amount.quantize(ONE, context=_ROUNDING)


def _in_proportion(price: Price, part: Part) -> Price:
    """Return the price with the bounds that a part has. Two that round apart may cross by one: the maximum holds."""
    return replace(
        price,
        included_quantity=share_quantity(price.included_quantity, part),
        minimum=None if price.minimum is None else Decimal(share_amount(price.minimum, part)),
        maximum=None if price.maximum is None else Decimal(share_amount(price.maximum, part)),
    )


def _model_steps(price: Price, overage: Decimal, cut: Part | None) -> Iterator[Step]:
    if not overage:
        return
    amount = price.amount if price.amount is not None else ZERO
    match price.model:
        case PriceModel.FLAT:
            yield Step(StepKind.FLAT, amount, flat_amount=amount)
            if cut and amount:
                # To whole minor units: a flat amount with a fraction is rounded here, and once as a whole.
                yield Step(StepKind.PRORATION, _EXACT.subtract(Decimal(share_amount(amount, cut)), amount), part=cut)
        case PriceModel.PER_UNIT:
            yield _step(StepKind.UNITS, overage, amount, start=ZERO, end=overage)
        case PriceModel.GRADUATED:
            yield from _graduated_steps(price.tiers, overage)
        case PriceModel.VOLUME:
            tier = _tier_of(price.tiers, overage)
            yield _step(StepKind.TIER, overage, tier.unit_amount, start=ZERO, end=overage, flat=tier.flat_amount)
        case PriceModel.PACKAGE:
            count = _package_count(overage, price.package_size or ONE)
            yield _step(StepKind.PACKAGES, count, amount, start=ZERO, end=overage)
        case PriceModel.PERCENT_OF_AMOUNT:
            # A hundredth for the percent, and the minor units of one major unit.
            share = amount.scaleb(EXPONENTS[price.currency] - 2, context=_EXACT)
            cost = _EXACT.multiply(overage, share)
            yield Step(StepKind.PERCENT, cost, ZERO, overage, overage, unit_amount=amount)


def _graduated_steps(tiers: tuple[Tier, ...], overage: Decimal) -> Iterator[Step]:
    start = ZERO
    for tier in tiers:
        end = overage if tier.up_to is None else min(tier.up_to, overage)
        quantity = _EXACT.subtract(end, start)
        yield _step(StepKind.TIER, quantity, tier.unit_amount, start=start, end=end, flat=tier.flat_amount)
        if end == overage:
            return
        start = end


def _tier_of(tiers: tuple[Tier, ...], quantity: Decimal) -> Tier:
    return next(tier for tier in tiers if tier.up_to is None or quantity <= tier.up_to)


def _package_count(quantity: Decimal, size: Decimal) -> Decimal:
    whole, rest = _EXACT.divmod(quantity, size)
    return _EXACT.add(whole, ONE) if rest else whole


def _step(
    kind: StepKind, quantity: Decimal, unit_amount: Decimal, *, start: Decimal, end: Decimal, flat: Decimal = ZERO
) -> Step:
    amount = _EXACT.add(_EXACT.multiply(quantity, unit_amount), flat)
    return Step(kind, amount, start, end, quantity, unit_amount, flat or None)


def _bounding_steps(price: Price, amount: Decimal, cut: Part | None, *, is_trial: bool) -> Iterator[Step]:
    if price.minimum is not None and amount < price.minimum:
        yield Step(StepKind.MINIMUM, _EXACT.subtract(price.minimum, amount), part=cut)
        amount = price.minimum
    if price.maximum is not None and amount > price.maximum:
        yield Step(StepKind.MAXIMUM, _EXACT.subtract(price.maximum, amount), part=cut)
        amount = price.maximum
    if is_trial and amount:
        yield Step(StepKind.TRIAL, _EXACT.minus(amount))


def _total(steps: list[Step]) -> Decimal:
    total = ZERO
    for step in steps:
        total = _EXACT.add(total, step.amount)
    return total
