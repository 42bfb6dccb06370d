"""From the text of an expression to its nodes: the grammar, and where a text departs from it.

The language is arithmetic over the fields of one record. It has no assignment, loop, attribute or call besides the
listed functions, so a parsed expression can do nothing but read its record.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

from metering.dialects.gateway.expressions.errors import ExpressionError
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
    children_of,
)

MAX_CHARACTERS = 1000
# Of the nodes above one another: evaluation goes down them.
MAX_DEPTH = 100
MAX_LITERAL_DIGITS = 40

# Lowest precedence first. Comparisons do not chain: `1 < x < 3` is refused.
GRAMMAR = r"""
    ?start: choice
    ?choice: either
        | either "?" choice ":" choice              -> choice
    ?either: both
        | either (OR | "||") both                   -> either
    ?both: inverse
        | both (AND | "&&") inverse                 -> both
    ?inverse: comparison
        | NOT inverse                               -> inverse
    ?comparison: sum
        | sum COMPARISON sum                        -> binary
    ?sum: product
        | sum SIGN product                          -> binary
    ?product: signed
        | product SCALE signed                      -> binary
    ?signed: place
        | SIGN signed                               -> signed
        | BANG signed                               -> inverse
    ?place: atom
        | place "." NAME                            -> member
        | place "[" choice "]"                      -> index
    ?atom: NUMBER                                   -> number
        | STRING                                    -> string
        | TRUE                                      -> true
        | FALSE                                     -> false
        | NULL                                      -> null
        | NAME                                      -> name
        | NAME "(" [choice ("," choice)*] ")"       -> call
        | "(" choice ")"

    OR: "or"
    AND: "and"
    NOT: "not"
    TRUE: "true"
    FALSE: "false"
    NULL: "null"
    BANG: "!"
    COMPARISON: "==" | "!=" | "<=" | ">=" | "<" | ">"
    SIGN: "+" | "-"
    SCALE: "*" | "/" | "%"
    NAME: /[A-Za-z_][A-Za-z0-9_]*/
    NUMBER: /[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?/
    STRING: /"(\\.|[^"\\\n])*"/ | /'(\\.|[^'\\\n])*'/
    %ignore /[ \t\r\n]+/
"""

_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "/": "/"}


def parse_expression(text: str) -> Node:
    """Return the root of the expression. Raises `ExpressionError` with the column; takes time linear in the text."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError("too_long", f"An expression has at most {MAX_CHARACTERS} characters.", MAX_CHARACTERS + 1)
    if not text.strip():
        raise ExpressionError("required", "Write an expression.", 1)
    try:
        root: Node = _parser().parse(text)  # type: ignore[assignment]  # the transformer gives nodes
    except UnexpectedCharacters as error:
        raise _syntax_error(text, error.pos_in_stream or 0) from None
    except UnexpectedToken as error:
        at_end = error.token.type == "$END"
        raise _syntax_error(text, len(text) if at_end else error.token.start_pos or 0) from None
    except UnexpectedEOF:
        raise _syntax_error(text, len(text)) from None
    _check_depth(root)
    return root


def _syntax_error(text: str, position: int) -> ExpressionError:
    rest = text[position:].strip()
    what = f"{rest[:20]!r} is not expected here." if rest else "The expression ends too early."
    return ExpressionError("invalid_expression", what, position + 1)


def _check_depth(root: Node) -> None:
    """Without recursion, because the depth is what is not yet bounded."""
    level: list[Node] = [root]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in children_of(node)]
        if not level:
            return
    raise ExpressionError("too_deep", f"At most {MAX_DEPTH} operations inside one another.", level[0].column)


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", transformer=_Builder())


def _column(token: Token) -> int:
    return (token.start_pos or 0) + 1


@v_args(inline=True)
class _Builder(Transformer[Token, Node]):
    """Makes the nodes, from the leaves up, while the text is parsed."""

    def number(self, token: Token) -> Node:
        number = Decimal(str(token))
        if max(len(number.as_tuple().digits), abs(number.adjusted())) > MAX_LITERAL_DIGITS:
            raise ExpressionError(
                "number_out_of_range", f"A number has at most {MAX_LITERAL_DIGITS} digits.", _column(token)
            )
        return Literal(_column(token), number)

    def string(self, token: Token) -> Node:
        return Literal(_column(token), _unescape(token))

    def true(self, token: Token) -> Node:
        return Literal(_column(token), True)

    def false(self, token: Token) -> Node:
        return Literal(_column(token), False)

    def null(self, token: Token) -> Node:
        return Literal(_column(token), None)

    def name(self, token: Token) -> Node:
        return Name(_column(token), str(token))

    def call(self, token: Token, *arguments: Node | None) -> Node:
        given = tuple(argument for argument in arguments if argument is not None)
        return Call(_column(token), str(token), given)

    def member(self, target: Node, token: Token) -> Node:
        return Member(_column(token), target, str(token))

    def index(self, target: Node, index: Node) -> Node:
        return Index(index.column, target, index)

    def signed(self, token: Token, operand: Node) -> Node:
        return operand if token == "+" and isinstance(operand, Literal) else Unary(_column(token), str(token), operand)

    def inverse(self, token: Token, operand: Node) -> Node:
        return Unary(_column(token), "not", operand)

    def binary(self, left: Node, token: Token, right: Node) -> Node:
        return Binary(_column(token), str(token), left, right)

    def both(self, left: Node, *rest: Any) -> Node:
        return Binary(left.column, "and", left, rest[-1])

    def either(self, left: Node, *rest: Any) -> Node:
        return Binary(left.column, "or", left, rest[-1])

    def choice(self, condition: Node, chosen: Node, otherwise: Node) -> Node:
        return Choice(condition.column, condition, chosen, otherwise)


def _unescape(token: Token) -> str:
    def replace(match: re.Match[str]) -> str:
        escaped = match[1]
        if len(escaped) == 5:
            return chr(int(escaped[1:], 16))
        if escaped not in _ESCAPED:
            raise ExpressionError(
                "invalid_expression", f"\\{escaped} means nothing in a string.", _column(token) + 1 + match.start()
            )
        return _ESCAPED[escaped]

    return _ESCAPE.sub(replace, str(token)[1:-1])
