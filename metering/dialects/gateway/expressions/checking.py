"""What an expression gives, found from its text alone, so that a mistake shows when a route is saved.

What a body holds is not known before there is one: such a value may be anything, and is examined then.
"""

from __future__ import annotations

from enum import Enum
from typing import assert_never

from metering.dialects.gateway.expressions.errors import ExpressionError
from metering.dialects.gateway.expressions.functions import COALESCE, FUNCTIONS, MAX_ARGUMENTS
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


class Kind(Enum):
    NUMBER = "a number"
    TEXT = "a string"
    TRUTH = "true or false"
    NOTHING = "null"
    ANY = "anything"


# The record: names by themselves, and the members of `request` and `response`.
NAMES = {"latency_ms": Kind.NUMBER}
MEMBERS = {
    ("request", "body"): Kind.ANY,
    ("request", "bytes"): Kind.NUMBER,
    ("response", "body"): Kind.ANY,
    ("response", "bytes"): Kind.NUMBER,
    ("response", "status"): Kind.NUMBER,
}
_OBJECTS = frozenset(name for name, _ in MEMBERS)
_KNOWN = ", ".join([*(".".join(path) for path in MEMBERS), *NAMES])

LOGIC = frozenset({"and", "or"})
EQUALITY = frozenset({"==", "!="})
ORDER = frozenset({"<", "<=", ">", ">="})


def check_expression(root: Node) -> None:
    """Raise `ExpressionError` unless the expression may give a number."""
    _require(root, Kind.NUMBER, "not_a_number", "The expression has to give a number")


def check_response_field(root: Node) -> None:
    """Raise `ExpressionError` unless the expression is one field of the response's body."""
    place = root
    while isinstance(place, Member | Index):
        if isinstance(place, Index) and not isinstance(place.index, Literal):
            break
        if isinstance(place.target, Name) and isinstance(place, Member):
            if (place.target.name, place.name) == ("response", "body") and place is not root:
                return
            break
        place = place.target
    raise ExpressionError(
        "not_a_field", "The mode response_field takes one field, like response.body.usage.tokens.", root.column
    )


def kind_of(node: Node) -> Kind:
    """Return what the node gives, having checked all that is below it."""
    match node:
        case Literal():
            return _kind_of_literal(node)
        case Name():
            return _kind_of_name(node)
        case Member():
            return _kind_of_member(node)
        case Index():
            return _kind_of_index(node)
        case Unary():
            wanted = Kind.TRUTH if node.operator == "not" else Kind.NUMBER
            _require(node.operand, wanted, "wrong_type", f"{node.operator} takes {wanted.value}")
            return wanted
        case Binary():
            return _kind_of_binary(node)
        case Choice():
            return _kind_of_choice(node)
        case Call():
            return _kind_of_call(node)
    assert_never(node)


def _require(node: Node, wanted: Kind, code: str, rule: str) -> None:
    found = kind_of(node)
    if found not in {wanted, Kind.ANY}:
        raise ExpressionError(code, f"{rule}; this is {found.value}.", node.column)


def _kind_of_literal(node: Literal) -> Kind:
    if node.value is None:
        return Kind.NOTHING
    if isinstance(node.value, bool):
        return Kind.TRUTH
    return Kind.TEXT if isinstance(node.value, str) else Kind.NUMBER


def _kind_of_name(node: Name) -> Kind:
    if node.name in NAMES:
        return NAMES[node.name]
    if node.name in _OBJECTS:
        members = " or ".join(".".join(path) for path in MEMBERS if path[0] == node.name)
        raise ExpressionError("unknown_name", f"Say which part: {members}.", node.column)
    raise ExpressionError("unknown_name", f"{node.name[:40]} is not known; there are {_KNOWN}.", node.column)


def _kind_of_member(node: Member) -> Kind:
    if isinstance(node.target, Name) and node.target.name in _OBJECTS:
        kind = MEMBERS.get((node.target.name, node.name))
        if kind is None:
            path = f"{node.target.name}.{node.name[:40]}"
            raise ExpressionError("unknown_name", f"{path} is not known; there are {_KNOWN}.", node.column)
        return kind
    target = kind_of(node.target)
    if target is Kind.TEXT and node.name == "length":
        return Kind.NUMBER
    if target is not Kind.ANY:
        raise ExpressionError("wrong_type", f"Only what a body holds has fields; this is {target.value}.", node.column)
    return Kind.ANY


def _kind_of_index(node: Index) -> Kind:
    target, index = kind_of(node.target), kind_of(node.index)
    if target is not Kind.ANY:
        raise ExpressionError(
            "wrong_type", f"Only what a body holds can be indexed; this is {target.value}.", node.target.column
        )
    if index not in {Kind.NUMBER, Kind.TEXT, Kind.ANY}:
        raise ExpressionError("wrong_type", f"An index is a number or a string; this is {index.value}.", node.column)
    return Kind.ANY


def _kind_of_binary(node: Binary) -> Kind:
    if node.operator in LOGIC or node.operator not in EQUALITY | ORDER:
        wanted = Kind.TRUTH if node.operator in LOGIC else Kind.NUMBER
        for side in (node.left, node.right):
            _require(side, wanted, "wrong_type", f"{node.operator} takes {wanted.value}")
        return wanted
    left, right = kind_of(node.left), kind_of(node.right)
    if node.operator in ORDER:
        for side, kind in ((node.left, left), (node.right, right)):
            if kind not in {Kind.NUMBER, Kind.TEXT, Kind.ANY}:
                rule = f"{node.operator} takes numbers or strings; this is {kind.value}."
                raise ExpressionError("wrong_type", rule, side.column)
    free = {Kind.ANY, Kind.NOTHING} if node.operator in EQUALITY else {Kind.ANY}
    if left is not right and left not in free and right not in free:
        raise ExpressionError("wrong_type", f"{left.value} is never compared with {right.value}.", node.right.column)
    return Kind.TRUTH


def _kind_of_choice(node: Choice) -> Kind:
    _require(node.condition, Kind.TRUTH, "wrong_type", "? takes true or false")
    return _common_kind([kind_of(node.chosen), kind_of(node.otherwise)])


def _kind_of_call(node: Call) -> Kind:
    if node.function == COALESCE:
        _check_count(node, 1, MAX_ARGUMENTS)
        return _common_kind([kind_of(argument) for argument in node.arguments])
    function = FUNCTIONS.get(node.function)
    if function is None:
        known = ", ".join([*FUNCTIONS, COALESCE])
        raise ExpressionError("unknown_function", f"{node.function[:40]} is not known; there are {known}.", node.column)
    _check_count(node, function.least, function.most)
    for argument in node.arguments:
        _require(argument, Kind.NUMBER, "wrong_type", f"{node.function} takes numbers")
    return Kind.NUMBER


def _check_count(node: Call, least: int, most: int) -> None:
    if not least <= len(node.arguments) <= most:
        wanted = "one argument" if most == 1 else f"{least} to {most} arguments"
        raise ExpressionError("wrong_argument_count", f"{node.function} takes {wanted}.", node.column)


def _common_kind(kinds: list[Kind]) -> Kind:
    return kinds[0] if len(set(kinds)) == 1 else Kind.ANY
