"""The parts of a metering expression, as the parser builds them. Immutable; each knows its column in the text."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

# A value that JSON has, too; a list or an object stands for itself only until a member of it is taken.
Scalar: TypeAlias = Decimal | str | bool | None


@dataclass(frozen=True, slots=True)
class Literal:
    column: int
    value: Scalar


@dataclass(frozen=True, slots=True)
class Name:
    """A bare word: `latency_ms`, or the beginning of a path."""

    column: int
    name: str


@dataclass(frozen=True, slots=True)
class Member:
    """`object.name`; also `.length` of a list or a string."""

    column: int
    target: Node
    name: str


@dataclass(frozen=True, slots=True)
class Index:
    """`list[0]` or `object["name"]`."""

    column: int
    target: Node
    index: Node


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x` or `not x`."""

    column: int
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, a comparison, `and` or `or`; the last two look at the right side only where it matters."""

    column: int
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Choice:
    """`condition ? chosen : otherwise`; only the side that is chosen is evaluated."""

    column: int
    condition: Node
    chosen: Node
    otherwise: Node


@dataclass(frozen=True, slots=True)
class Call:
    column: int
    function: str
    arguments: tuple[Node, ...]


Node: TypeAlias = Literal | Name | Member | Index | Unary | Binary | Choice | Call


def children_of(node: Node) -> tuple[Node, ...]:
    match node:
        case Literal() | Name():
            return ()
        case Member():
            return (node.target,)
        case Index():
            return (node.target, node.index)
        case Unary():
            return (node.operand,)
        case Binary():
            return (node.left, node.right)
        case Choice():
            return (node.condition, node.chosen, node.otherwise)
        case Call():
            return node.arguments
