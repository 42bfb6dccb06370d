"""From an expression and one record to a number, exactly, or to the reason why there is none.

Reads nothing but the record's JSON, by its own keys and indexes: no attribute of any object. There are no loops, so
that each node is evaluated once at most: time is bounded by the length of the expression, times what one operation
costs within the bounds of `arithmetic` and of the strings that are compared.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any, assert_never

from metering.dialects.gateway.expressions.arithmetic import bounded_number, combine, negate, to_units
from metering.dialects.gateway.expressions.errors import MeteringError
from metering.dialects.gateway.expressions.functions import COALESCE, FUNCTIONS
from metering.dialects.gateway.expressions.nodes import (
    Binary,
    Call,
    Choice,
    Index,
    Literal,
    Member,
    Name,
    Node,
    Unary,
)
from metering.dialects.gateway.expressions.record import Record

MAX_COMPARED_CHARACTERS = 10_000

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MISSING = "missing_field"


def evaluate(root: Node, record: Record) -> Decimal:
    """Return the units: a number from zero, of at most 30 digits and 18 decimals. Raises `MeteringError`."""
    value = _value_of(root, record)
    if not _is_number(value):
        raise MeteringError("not_a_number", f"The expression gives {_kind_text(value)}, not a number.")
    return to_units(bounded_number(value))


def _value_of(node: Node, record: Record) -> Any:
    """Return a number, string, boolean, None, list or object."""
    match node:
        case Literal():
            return node.value
        case Name():
            return record.latency_ms  # the only bare name that the check lets through
        case Member():
            return _member(node, record)
        case Index():
            return _item(_value_of(node.target, record), _value_of(node.index, record))
        case Unary():
            return _unary(node, record)
        case Binary():
            return _binary(node, record)
        case Choice():
            is_chosen = _truth(_value_of(node.condition, record), "?")
            return _value_of(node.chosen if is_chosen else node.otherwise, record)
        case Call():
            return _call(node, record)
    assert_never(node)


# --- the record's fields --------------------------------------------------------------------------------------


def _member(node: Member, record: Record) -> Any:
    if isinstance(node.target, Name):
        return record.field(node.target.name, node.name)
    target = _value_of(node.target, record)
    if isinstance(target, dict):
        if node.name in target:
            return target[node.name]
    elif node.name == "length" and isinstance(target, list | str):
        return len(target)
    raise MeteringError(_MISSING, f"There is no field {node.name[:40]} in {_kind_text(target)}.")


def _item(target: Any, index: Any) -> Any:
    if isinstance(index, str):
        if isinstance(target, dict) and index in target:
            return target[index]
        raise MeteringError(_MISSING, f"There is no field {index[:40]!r} in {_kind_text(target)}.")
    place = _number(index, "An index")
    if place != place.to_integral_value():
        raise MeteringError("wrong_type", "An index is a whole number.")
    if not isinstance(target, list) or not 0 <= place < len(target):
        raise MeteringError(_MISSING, f"There is no item {place:.20g} in {_kind_text(target)}.")
    return target[int(place)]


# --- operations -----------------------------------------------------------------------------------------------


def _unary(node: Unary, record: Record) -> Decimal | bool:
    value = _value_of(node.operand, record)
    if node.operator == "not":
        return not _truth(value, "not")
    number = _number(value, node.operator)
    return negate(number) if node.operator == "-" else number


def _binary(node: Binary, record: Record) -> Decimal | bool:
    left = _value_of(node.left, record)
    if node.operator in {"and", "or"}:
        is_settled = _truth(left, node.operator) is (node.operator == "or")
        return node.operator == "or" if is_settled else _truth(_value_of(node.right, record), node.operator)
    right = _value_of(node.right, record)
    if node.operator in _COMPARISONS:
        return _compare(node.operator, left, right)
    return combine(node.operator, _number(left, node.operator), _number(right, node.operator))


def _compare(sign: str, left: Any, right: Any) -> bool:
    """Numbers with numbers, strings with strings; equality also of booleans, and of anything with null."""
    compare = _COMPARISONS[sign]
    if _is_number(left) and _is_number(right):
        return compare(bounded_number(left), bounded_number(right))
    if isinstance(left, str) and isinstance(right, str):
        if max(len(left), len(right)) > MAX_COMPARED_CHARACTERS:
            raise MeteringError("string_too_long", f"Strings are compared up to {MAX_COMPARED_CHARACTERS} characters.")
        return compare(left, right)
    if sign in {"==", "!="}:
        if left is None or right is None:
            return compare(left is None, right is None)
        if isinstance(left, bool) and isinstance(right, bool):
            return compare(left, right)
    raise MeteringError("wrong_type", f"{_kind_text(left)} {sign} {_kind_text(right)} has no answer.")


def _call(node: Call, record: Record) -> Any:
    if node.function == COALESCE:
        return _coalesce(node, record)
    numbers = [_number(_value_of(argument, record), node.function) for argument in node.arguments]
    return FUNCTIONS[node.function].apply(*numbers)


def _coalesce(node: Call, record: Record) -> Any:
    """Return the first argument that is there and not null. What is wrong in another way stays wrong."""
    for argument in node.arguments:
        try:
            value = _value_of(argument, record)
        except MeteringError as error:
            if error.code != _MISSING:
                raise
        else:
            if value is not None:
                return value
    raise MeteringError(_MISSING, "None of the fields is there.")


# --- kinds ----------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _number(value: Any, taker: str) -> Decimal:
    if not _is_number(value):
        raise MeteringError("wrong_type", f"{taker} takes a number, not {_kind_text(value)}.")
    return bounded_number(value)


def _truth(value: Any, taker: str) -> bool:
    if not isinstance(value, bool):
        raise MeteringError("wrong_type", f"{taker} takes true or false, not {_kind_text(value)}.")
    return value


def _kind_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else "a number"
