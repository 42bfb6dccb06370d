"""Metering expressions: a small language of exact arithmetic over one request's JSON (ADR 11).

Owns its grammar, its check and its evaluation. Does not know routes, modes or policies.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from metering.dialects.gateway.expressions.checking import check_expression, check_response_field
from metering.dialects.gateway.expressions.errors import ExpressionError, MeteringError
from metering.dialects.gateway.expressions.evaluation import evaluate
from metering.dialects.gateway.expressions.nodes import Node
from metering.dialects.gateway.expressions.parsing import MAX_CHARACTERS, parse_expression
from metering.dialects.gateway.expressions.record import Record

MAX_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression; `evaluate` may be called from any thread."""

    root: Node

    def evaluate(self, record: Record) -> Decimal:
        """Return the units of a request. Raises `MeteringError`, and nothing else whatever the record holds."""
        return evaluate(self.root, record)


@lru_cache(maxsize=MAX_REMEMBERED)
def compile_expression(text: str, *, is_field: bool = False) -> Expression:
    """Return the expression, checked; with `is_field` only one field of the response. Raises `ExpressionError`."""
    root = parse_expression(text)
    check_expression(root)
    if is_field:
        check_response_field(root)
    return Expression(root)


__all__ = [
    "MAX_CHARACTERS",
    "Expression",
    "ExpressionError",
    "MeteringError",
    "Record",
    "compile_expression",
]
