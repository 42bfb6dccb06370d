"""Expressions against everything: arbitrary text, arbitrary bodies, and arithmetic done in another way.

The other way is Python's own fractions, put together beside the text and never read from it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, trunc
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from metering.dialects.gateway.expressions import (
    MAX_CHARACTERS,
    Expression,
    ExpressionError,
    MeteringError,
    Record,
    compile_expression,
)

# A busy machine is slow at times; hangs show in `TestBounds`.
quick = settings(max_examples=150, deadline=None)

CODES = {
    "missing_field",
    "wrong_type",
    "not_a_number",
    "negative",
    "division_by_zero",
    "number_out_of_range",
    "string_too_long",
    "invalid_body",
}
WORDS = [
    *("request", "response", "body", "bytes", "status", "latency_ms", "length", "items", "a", "b", "__class__"),
    *("and", "or", "not", "true", "false", "null", "min", "max", "round", "ceil", "floor", "abs", "coalesce", "eval"),
    *(
        "0",
        "1",
        "2.5",
        "1e40",
        "1e-40",
        "999999",
        "'x'",
        '"length"',
        *"....[]()(),+-*/%?:!",
        "==",
        "!=",
        "<",
        "<=",
        ">",
    ),
    *(">=", "&&", "||", *"\\'\"@=;#${}é"),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "items", "length", "tokens", ""]) | st.text(max_size=3), inner, max_size=4
        )
    ),
    max_leaves=12,
)
paths = st.lists(
    st.sampled_from([".a", ".b", ".items", ".length", ".tokens", "[0]", "[1]", "['a']", "[latency_ms]", ".__class__"]),
    max_size=5,
).map(lambda parts: "".join(parts))
texts = st.lists(st.sampled_from(WORDS), max_size=25).flatmap(
    lambda words: st.sampled_from([" ", ""]).map(lambda space: space.join(words))
)


def record(request: Any, response: Any) -> Record:
    return Record(
        status=200,
        latency_ms=1,
        request_bytes=10,
        response_bytes=20,
        request_body=json.dumps(request).encode(),
        response_body=json.dumps(response).encode(),
    )


def check_evaluation(expression: Expression, of: Record) -> None:
    found = evaluated(expression, of)
    if isinstance(found, MeteringError):
        assert found.code in CODES
        assert len(found.message) < 300
    else:
        assert 0 <= found < Decimal(10) ** 30
        assert found.as_tuple().exponent >= -18


def evaluated(expression: Expression, of: Record) -> Decimal | MeteringError:
    try:
        return expression.evaluate(of)
    except MeteringError as error:
        return error


def compiled(text: str) -> Expression | ExpressionError:
    try:
        return compile_expression.__wrapped__(text)  # without the memory
    except ExpressionError as error:
        return error


def check_text(text: str, of: Record) -> None:
    found = compiled(text)
    if isinstance(found, ExpressionError):
        assert 1 <= found.column <= len(text) + 1
        assert len(found.message) < 300
    else:
        check_evaluation(found, of)


class TestArbitrary:
    @quick
    @given(st.text(max_size=60))
    def test_text_is_an_expression_or_is_refused_with_a_column(self, text: str) -> None:
        check_text(text, record({}, {}))

    @quick
    @given(texts, json_values, json_values)
    def test_words_of_the_language_in_any_order_neither_crash_nor_leave_the_record(
        self, text: str, request: Any, response: Any
    ) -> None:
        check_text(text, record(request, response))

    @quick
    @given(
        st.sampled_from(
            [
                "request.body{0}",
                "response.body{0} * 2",
                "request.body{0} == response.body{1} ? 1 : 2",
                "request.body{0} > response.body{1} ? request.body{1} : 2",
                "coalesce(request.body{0}, response.body{1})",
                "request.body{0} % response.body{1} / request.body{0}",
                "max(request.body{0}, response.body{1}, 1)",
                "round(request.body{0}, response.body{1})",
                "request.body[request.body{0}][response.body{1}]",
                "(request.body{0} and !response.body{1}) ? 1 : 0",
            ]
        ),
        paths,
        paths,
        json_values,
        json_values,
    )
    def test_bodies_give_a_quantity_or_a_reason(
        self, text: str, first: str, second: str, request: Any, response: Any
    ) -> None:
        check_evaluation(compile_expression(text.format(first, second)), record(request, response))


# --- another arithmetic ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """An expression's text, how tightly it binds, and its value, computed beside it."""

    text: str
    strength: int
    value: Callable[[], Fraction]

    def within(self, strength: int) -> str:
        return self.text if self.strength >= strength else f"({self.text})"


FIELDS = {"a": "3", "b": "0.125", "c": "-7.5", "d": "1000003", "e": "0"}


def _literal(number: Decimal) -> Term:
    return Term(format(number, "f"), 9, lambda: Fraction(number))


def _field(name: str) -> Term:
    return Term(f"request.body.{name}", 9, lambda: Fraction(FIELDS[name]))


def _binary(left: Term, sign: str, right: Term) -> Term:
    strength = 5 if sign in "+-" else 6
    compute: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
        "+": lambda x, y: x + y,
        "-": lambda x, y: x - y,
        "*": lambda x, y: x * y,
        "%": lambda x, y: x - y * trunc(x / y),
    }
    return Term(
        f"{left.within(strength)} {sign} {right.within(strength + 1)}",
        strength,
        lambda: compute[sign](left.value(), right.value()),
    )


def _divide(left: Term, divisor: int) -> Term:
    return Term(f"{left.within(6)} / {divisor}", 6, lambda: left.value() / divisor)


def _negate(term: Term) -> Term:
    return Term(f"-{term.within(7)}", 7, lambda: -term.value())


def _choose(left: Term, sign: str, right: Term, chosen: Term, otherwise: Term) -> Term:
    holds: dict[str, Callable[[Fraction, Fraction], bool]] = {
        "<": lambda x, y: x < y,
        "<=": lambda x, y: x <= y,
        "==": lambda x, y: x == y,
        "!=": lambda x, y: x != y,
    }
    return Term(
        f"{left.within(5)} {sign} {right.within(5)} ? {chosen.within(1)} : {otherwise.text}",
        1,
        lambda: (chosen if holds[sign](left.value(), right.value()) else otherwise).value(),
    )


def _call(name: str, terms: list[Term]) -> Term:
    compute: dict[str, Callable[[list[Fraction]], Fraction]] = {
        "min": min,
        "max": max,
        "abs": lambda numbers: abs(numbers[0]),
        "ceil": lambda numbers: Fraction(ceil(numbers[0])),
        "floor": lambda numbers: Fraction(floor(numbers[0])),
        "round": lambda numbers: _round_half_away(numbers[0]),
    }
    taken = terms if name in {"min", "max"} else terms[:1]
    text = f"{name}({', '.join(term.text for term in taken)})"
    return Term(text, 9, lambda: compute[name]([term.value() for term in taken]))


def _round_half_away(number: Fraction) -> Fraction:
    size = floor(abs(number) + Fraction(1, 2))
    return Fraction(size if number >= 0 else -size)


literals = st.decimals(min_value=0, max_value=9999, places=3).map(_literal)
terms = st.recursive(
    literals | st.sampled_from(sorted(FIELDS)).map(_field),
    lambda inner: (
        st.builds(_binary, inner, st.sampled_from("+-*%"), inner)
        | st.builds(_divide, inner, st.sampled_from([2, 4, 5, 8, 10, 16, 25]))
        | st.builds(_negate, inner)
        | st.builds(_choose, inner, st.sampled_from(["<", "<=", "==", "!="]), inner, inner, inner)
        | st.builds(
            _call,
            st.sampled_from(["min", "max", "abs", "ceil", "floor", "round"]),
            st.lists(inner, min_size=1, max_size=3),
        )
    ),
    max_leaves=7,
)
FIELD_BODY = ("{" + ", ".join(f'"{name}": {number}' for name, number in FIELDS.items()) + "}").encode()


@settings(max_examples=400, deadline=None)
@given(terms)
def test_arithmetic_is_that_of_fractions(term: Term) -> None:
    try:
        expected: Fraction | str = term.value()
    except ZeroDivisionError:
        expected = "division_by_zero"
    if isinstance(expected, Fraction):
        if expected < 0:
            expected = "negative"
        elif expected >= 10**30:
            expected = "number_out_of_range"
    if len(term.text) > MAX_CHARACTERS:
        return

    of = Record(status=200, latency_ms=1, request_bytes=0, response_bytes=0, request_body=FIELD_BODY)
    found = evaluated(compile_expression(term.text), of)

    told = found.code if isinstance(found, MeteringError) else Fraction(found)
    assert told == (expected if isinstance(expected, str) else _to_eighteen_places(expected)), term.text


def _to_eighteen_places(number: Fraction) -> Fraction:
    """Python rounds fractions to the nearest, halves to even."""
    return Fraction(round(number * 10**18), 10**18)


class TestBounds:
    """The most that an expression can cost, by a wide margin on a busy machine."""

    def test_the_longest_texts_are_read_at_once(self) -> None:
        for text in (
            "(" * 1000,
            "1+" * 500,
            "a." * 500,
            "!" * 1000,
            "'" + "\\n" * 499,
            "?" * 1000,
            "[" * 1000,
            "1?1:" * 250,
        ):
            began = time.perf_counter()
            compiled(text)
            assert time.perf_counter() - began < 2

    def test_the_costliest_arithmetic_is_done_at_once(self) -> None:
        digits = "9" * 40
        expression = compile_expression("*".join([digits] * 5) + "/" + "/".join([digits] * 10))
        began = time.perf_counter()

        for _ in range(1000):
            check_evaluation(expression, record({}, {}))

        assert time.perf_counter() - began < 5

    def test_the_greatest_body_is_read_at_once(self) -> None:
        body = [[0] * 10] * 30_000
        began = time.perf_counter()

        assert compile_expression("request.body.length * request.body[7].length").evaluate(record(body, {})) == 300_000
        assert time.perf_counter() - began < 5
