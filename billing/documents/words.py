"""Words of invoices and of ratings: spans of time as days, and what each step of a rating did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from billing.domain.currencies import money_text
from billing.domain.rating import Step, StepKind
from common.numbers import readable_text

_MICROSECOND = timedelta(microseconds=1)
_STEP_NUMBERS = ("from_quantity", "to_quantity", "quantity", "unit_amount", "flat_amount")


def day_text(at: datetime, zone: ZoneInfo) -> str:
    return f"{at.astimezone(zone):%-d %b %Y}"


def span_text(start: datetime, end: datetime, zone: ZoneInfo) -> str:
    """Name a half-open span by its first and last day, with the time of day where it does not begin or end at one's."""
    first = _edge_text(start, start, zone)
    last = _edge_text(end, end - _MICROSECOND, zone)
    return first if first == last else f"{first} \u2013 {last}"


def _edge_text(edge: datetime, day: datetime, zone: ZoneInfo) -> str:
    local = edge.astimezone(zone)
    if (local.hour, local.minute, local.second, local.microsecond) == (0, 0, 0, 0):
        return day_text(day, zone)
    return f"{local:%-d %b %Y, %H:%M}"


@dataclass(frozen=True, slots=True)
class StepText:
    text: str
    amount: str


def stored_step_text(step: Mapping[str, Any], currency: str) -> StepText:
    """Say what a step of an invoice line did: one of a rating, of an adjustment, a true-up or a credit."""
    amount = money_text(Decimal(step["amount"]), currency)
    name = step.get("name", "")
    match step["kind"]:
        case "commitment":
            return StepText("the commitment", amount)
        case "recomputed":
            quantity = f", {readable_text(Decimal(step['quantity']))}" if "quantity" in step else ""
            return StepText(f"{name}{quantity}, as it is known now", amount)
        case "credit":
            return StepText(f"of line {step['line']}", amount)
        case "credited":
            return StepText(f"but {name} gave back", amount)
        case "billed":
            return StepText(f"less what {name} charged" if name else "less what was billed in the term", amount)
    return StepText(step_text(_read_step(step), currency), amount)


def _read_step(step: Mapping[str, Any]) -> Step:
    from_quantity, to_quantity, quantity, unit_amount, flat_amount = (
        None if step.get(name) is None else Decimal(step[name]) for name in _STEP_NUMBERS
    )
    amount = Decimal(step["amount"])
    return Step(StepKind(step["kind"]), amount, from_quantity, to_quantity, quantity, unit_amount, flat_amount)


def step_text(step: Step, currency: str) -> str:
    """Say what a step did, without its amount."""
    match step.kind:
        case StepKind.INCLUDED:
            return f"{_number(step.quantity)} included"
        case StepKind.FLAT:
            return "once"
        case StepKind.PRORATION:
            return "less what is not of this part of the billing period"
        case StepKind.UNITS:
            return f"{_number(step.quantity)} at {_money(step.unit_amount, currency)}"
        case StepKind.TIER:
            flat = f", and {_money(step.flat_amount, currency)} once" if step.flat_amount else ""
            reach = f"{_number(step.from_quantity)} to {_number(step.to_quantity)}"
            return f"{reach}: {_number(step.quantity)} at {_money(step.unit_amount, currency)}{flat}"
        case StepKind.PACKAGES:
            return f"{_number(step.quantity)} packages at {_money(step.unit_amount, currency)}"
        case StepKind.PERCENT:
            return f"{_number(step.unit_amount)}\u202f% of {_number(step.quantity)} {currency}"
        case StepKind.MINIMUM:
            return "up to the minimum"
        case StepKind.MAXIMUM:
            return "down to the maximum"
        case StepKind.TRIAL:
            return "free during the trial"
        case StepKind.ROUNDING:
            return "rounding"


def _number(value: Decimal | None) -> str:
    return readable_text(value if value is not None else Decimal(0))


def _money(value: Decimal | None, currency: str) -> str:
    return money_text(value if value is not None else Decimal(0), currency)
