"""The functions that an expression may call, besides `coalesce`, which decides what it evaluates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from metering.dialects.gateway.expressions.arithmetic import round_down, round_half_up, round_up

COALESCE = "coalesce"
MAX_ARGUMENTS = 16


@dataclass(frozen=True, slots=True)
class Function:
    """A function of numbers with from `least` to `most` arguments."""

    least: int
    most: int
    apply: Callable[..., Decimal]


FUNCTIONS = {
    "min": Function(1, MAX_ARGUMENTS, lambda *numbers: min(numbers)),
    "max": Function(1, MAX_ARGUMENTS, lambda *numbers: max(numbers)),
    "round": Function(1, 2, round_half_up),
    "ceil": Function(1, 1, round_up),
    "floor": Function(1, 1, round_down),
    "abs": Function(1, 1, Decimal.copy_abs),
}
