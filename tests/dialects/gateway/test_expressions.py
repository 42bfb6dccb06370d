"""What metering expressions mean, what is refused when one is saved, and what is told of a record that defeats one."""

import json
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from metering.dialects.gateway.expressions import (
    MAX_CHARACTERS,
    ExpressionError,
    MeteringError,
    Record,
    compile_expression,
)
from metering.dialects.gateway.expressions.nodes import children_of
from metering.dialects.gateway.expressions.parsing import MAX_DEPTH, parse_expression

REQUEST = {
    "items": [{"qty": 2}, {"qty": 5}, {"qty": 0.25}],
    "model": "large",
    "note": "naïve",
    "stream": True,
    "nothing": None,
    "length": 77,
    "and": 4,
    "x-y": 9,
    "price": "12",
}
RESPONSE = {"tokens_used": 421, "usage": {"in": 12, "out": 30}, "words": ["a", "b"]}


def record(request: Any = REQUEST, response: Any = RESPONSE, **fields: Any) -> Record:
    return Record(
        **{
            "status": 201,
            "latency_ms": Decimal("12.5"),
            "request_bytes": 100,
            "response_bytes": 924,
            "request_body": json.dumps(request).encode(),
            "response_body": json.dumps(response).encode(),
        }
        | fields
    )


def units(text: str, of: Record | None = None) -> Decimal:
    return compile_expression(text).evaluate(of or record())


def failure(text: str, of: Record | None = None) -> str:
    with pytest.raises(MeteringError) as caught:
        units(text, of)
    return caught.value.code


def refusal(text: str, *, is_field: bool = False) -> tuple[str, int]:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, is_field=is_field)
    return caught.value.code, caught.value.column


class TestValues:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("response.body.tokens_used", "421"),
            ("request.body.items.length * 0.5", "1.5"),
            ("request.body.items[1].qty", "5"),
            ("request.body.items[request.body.items.length - 1].qty", "0.25"),
            ('request.body["x-y"]', "9"),
            ('response.body["usage"].out', "30"),
            ("request.body.length", "77"),
            ("request.body.and", "4"),
            ("request.body.note.length", "5"),
            ("request.bytes", "100"),
            ("response.bytes + request.bytes", "1024"),
            ("response.status", "201"),
            ("latency_ms / 100", "0.125"),
        ],
    )
    def test_come_from_the_record(self, text: str, expected: str) -> None:
        assert units(text) == Decimal(expected)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("10 - 4 - 3", "3"),
            ("64 / 4 / 2", "8"),
            ("17 % 5", "2"),
            ("-7 % 5 + 10", "8"),
            ("2 - -3", "5"),
            ("-2 * -3", "6"),
            ("+5", "5"),
            ("0.1 + 0.2", "0.3"),
            ("1e3 + 2.5E-1", "1000.25"),
            ("10 / 3", "3.333333333333333333"),
            ("2 / 3", "0.666666666666666667"),
            ("5e-19 * 3", "0.000000000000000002"),
            ("  1\n+\t1 ", "2"),
            ("123456789012345678901234567890 - 1", "123456789012345678901234567889"),
        ],
    )
    def test_are_computed_exactly_and_rounded_once(self, text: str, expected: str) -> None:
        assert units(text) == Decimal(expected)

    @pytest.mark.parametrize(
        ("condition", "is_true"),
        [
            ("1 < 2", True),
            ("2 <= 2", True),
            ("3 > 3", False),
            ("3 >= 3", True),
            ("1.0 == 1", True),
            ("1 != 1.00", False),
            ("request.body.model == 'large'", True),
            ('request.body.model != "large"', False),
            ("'abc' < 'abd'", True),
            ("request.body.stream", True),
            ("request.body.stream == false", False),
            ("request.body.nothing == null", True),
            ("request.body.model == null", False),
            ("not request.body.stream", False),
            ("!request.body.stream == false", True),
            ("not 1 == 2", True),
            ("1 == 2 or 3 == 3", True),
            ("1 == 2 || 3 == 3", True),
            ("1 == 1 and 3 == 4", False),
            ("1 == 1 && 3 == 3", True),
            ("true or true and false", True),
            ("not false and false", False),
            (r"'\u0061\n\'' == 'a\n\''", True),
        ],
    )
    def test_of_conditions_choose(self, condition: str, is_true: bool) -> None:
        assert units(f"{condition} ? 1 : 0") == int(is_true)

    def test_of_nested_choices_go_to_the_nearest_question(self) -> None:
        assert units("false ? 1 : true ? 2 : 3") == 2
        assert units("true ? false ? 1 : 2 : 3") == 2

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("min(3, 1, 2)", "1"),
            ("max(3, 1, 2.5)", "3"),
            ("max(4)", "4"),
            ("round(2.5)", "3"),
            ("round(-2.5) + 10", "7"),
            ("round(1.005, 2)", "1.01"),
            ("ceil(1.000001)", "2"),
            ("floor(1.999999)", "1"),
            ("floor(-0.5) + 5", "4"),
            ("abs(-3.25)", "3.25"),
            ("coalesce(request.body.none, request.body.nothing, 4)", "4"),
            ("coalesce(response.body.usage.out, 1)", "30"),
            ("coalesce(request.body.none + 1, 6)", "6"),
            ("coalesce(request.body.items[9].qty, 0)", "0"),
        ],
    )
    def test_of_functions(self, text: str, expected: str) -> None:
        assert units(text) == Decimal(expected)

    def test_of_a_side_that_does_not_matter_are_not_asked_for(self) -> None:
        assert units("true ? 1 : request.body.none") == 1
        assert units("(true or request.body.none) ? 1 : 0") == 1
        assert units("(false and request.body.none) ? 1 : 0") == 0

    def test_have_no_more_decimals_than_a_quantity(self) -> None:
        found = units("1.5000000000000000000000 * 2.0000000000")

        assert found == 3
        assert str(found) == "3.000000000000000000"

    def test_keep_every_digit_of_a_body(self) -> None:
        body = b'{"n": 9007199254740993, "d": 0.1234567890123456789, "big": 12345678901234567890123}'

        assert units("request.body.n", record(request_body=body)) == 9007199254740993
        assert units("request.body.big", record(request_body=body)) == 12345678901234567890123
        assert units("request.body.d * 10", record(request_body=body)) == Decimal("1.234567890123456789")


class TestRefusedWhenSaved:
    @pytest.mark.parametrize(
        ("text", "code", "column"),
        [
            ("", "required", 1),
            ("   ", "required", 1),
            ("1 +", "invalid_expression", 4),
            ("1 2", "invalid_expression", 3),
            ("(1", "invalid_expression", 3),
            ("1)", "invalid_expression", 2),
            ("1 < 2 < 3 ? 1 : 0", "invalid_expression", 7),
            ("1 ; 2", "invalid_expression", 3),
            ("a = 1", "invalid_expression", 3),
            ("lambda: 1", "invalid_expression", 7),
            ("[1]", "invalid_expression", 1),
            ("'open", "invalid_expression", 1),
            (r"'\q' == 'q' ? 1 : 0", "invalid_expression", 2),
            ("1 + tokens", "unknown_name", 5),
            ("request", "unknown_name", 1),
            ("request.path", "unknown_name", 9),
            ("response.__class__", "unknown_name", 10),
            ("open(1)", "unknown_function", 1),
            ("1 + eval('2')", "unknown_function", 5),
            ("max()", "wrong_argument_count", 1),
            ("2 + abs(1, 2)", "wrong_argument_count", 5),
            ("round(1, 2, 3)", "wrong_argument_count", 1),
            ("'a'", "not_a_number", 1),
            ("1 == 1", "not_a_number", 3),
            ("null", "not_a_number", 1),
            ("1 + 'a'", "wrong_type", 5),
            ("-true", "wrong_type", 2),
            ("not 1 ? 1 : 2", "wrong_type", 5),
            ("1 and true ? 1 : 2", "wrong_type", 1),
            ("1 ? 2 : 3", "wrong_type", 1),
            ("1 == 'a' ? 1 : 2", "wrong_type", 6),
            ("true < false ? 1 : 2", "wrong_type", 1),
            ("min(1, 'a')", "wrong_type", 8),
            ("latency_ms.length", "wrong_type", 12),
            ("latency_ms[0]", "wrong_type", 1),
            ("request.body[true]", "wrong_type", 14),
            ("1e41", "number_out_of_range", 1),
            ("1 + " + "9" * 41, "number_out_of_range", 5),
        ],
    )
    def test_with_the_column(self, text: str, code: str, column: int) -> None:
        assert refusal(text) == (code, column)

    def test_when_longer_than_the_bound(self) -> None:
        longest = "1" + " " * (MAX_CHARACTERS - 1)

        assert units(longest) == 1
        assert refusal(longest + " ") == ("too_long", MAX_CHARACTERS + 1)

    def test_when_deeper_than_the_bound(self) -> None:
        assert units("-" * (MAX_DEPTH - 2) + "1") == 1
        assert refusal("-" * MAX_DEPTH + "1")[0] == "too_deep"
        assert refusal("1" + "+1" * MAX_DEPTH)[0] == "too_deep"
        assert refusal("request.body" + ".a" * MAX_DEPTH)[0] == "too_deep"

    def test_parentheses_alone_are_not_depth(self) -> None:
        assert units("(" * 400 + "7" + ")" * 400) == 7

    def test_a_field_of_the_response_is_just_that(self) -> None:
        for text in ("response.body.usage.out", "response.body.words.length", 'response.body["a"][0].b'):
            compile_expression(text, is_field=True)
        for text in (
            "response.body",
            "request.body.a",
            "response.bytes",
            "response.body.a + 1",
            "1",
            "abs(response.body.a)",
        ):
            assert refusal(text, is_field=True)[0] == "not_a_field", text
        assert refusal("response.body[response.body.i]", is_field=True)[0] == "not_a_field"


class TestRecordsThatDefeatAnExpression:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("response.body.none", "missing_field"),
            ("response.body.none.deeper", "missing_field"),
            ("response.body.tokens_used.deeper", "missing_field"),
            ("response.body.words[2]", "missing_field"),
            ("response.body.words[-1]", "missing_field"),
            ("response.body.words.none", "missing_field"),
            ("response.body['none']", "missing_field"),
            ("response.body.words['a']", "missing_field"),
            ("response.body.usage[0]", "missing_field"),
            ("request.body.nothing.length", "missing_field"),
            ("coalesce(request.body.none, request.body.nothing)", "missing_field"),
            ("response.body.words[0.5]", "wrong_type"),
            ("request.body.model * 2", "wrong_type"),
            ("request.body.price + 1", "wrong_type"),
            ("request.body.stream + 1", "wrong_type"),
            ("request.body.nothing + 1", "wrong_type"),
            ("request.body.model ? 1 : 2", "wrong_type"),
            ("request.body.model > 1 ? 1 : 2", "wrong_type"),
            ("request.body.items == request.body.items ? 1 : 2", "wrong_type"),
            ("request.body == null ? 1 : request.body == 1 ? 1 : 2", "wrong_type"),
            ("round(1, 0.5)", "wrong_type"),
            ("round(1, 19)", "wrong_type"),
            ("coalesce(request.body.model * 2, 1)", "wrong_type"),
            ("request.body.model", "not_a_number"),
            ("request.body.price", "not_a_number"),
            ("request.body.stream", "not_a_number"),
            ("request.body.nothing", "not_a_number"),
            ("request.body.items", "not_a_number"),
            ("request.body", "not_a_number"),
            ("1 - 2", "negative"),
            ("-response.body.tokens_used", "negative"),
            ("1 / 0", "division_by_zero"),
            ("0 / 0", "division_by_zero"),
            ("response.body.tokens_used % (request.bytes - 100)", "division_by_zero"),
            ("1e30", "number_out_of_range"),
            ("1e40 % 1e-40 + 1e39 * 1e39 * 1e39 * 1e39 * 1e39 * 1e39", "number_out_of_range"),
            ("1e39 * 1e39 * 1e39 * 1e39 * 1e39 * 1e39 * 1e39 * 1e39 * 1e39 * 1e39 * 1e39", "number_out_of_range"),
        ],
    )
    def test_are_told_why(self, text: str, code: str) -> None:
        assert failure(text) == code

    def test_without_a_body(self) -> None:
        assert failure("request.body.items.length", record(request_body=b"")) == "missing_field"
        assert units("coalesce(response.body.n, 3)", record(response_body=b"")) == 3

    def test_with_numbers_that_no_decimal_should_hold(self) -> None:
        for number in (b"1e999999999", b"1e500", b"1e-700", b"1" * 300, b"0." + b"1" * 300):
            body = b'{"n": ' + number + b"}"
            assert failure("request.body.n", record(request_body=body)) in {"number_out_of_range", "invalid_body"}
        assert failure("request.body.n", record(request_body=b'{"n": ' + b"9" * 5000 + b"}")) == "invalid_body"

    def test_with_bodies_that_cannot_be_read(self) -> None:
        assert failure("request.body.a", record(request_body=b"[" * 100_000)) == "invalid_body"
        assert failure("request.body.a", record(request_body=b'"' + b"a" * 2**20 + b'"')) == "body_too_large"
        assert failure("request.body.a", record(request_body=b"{'a': 1}")) == "invalid_body"
        assert failure("request.body.a", record(request_body=b'"\xff"')) == "invalid_body"

    def test_with_strings_too_long_to_compare(self) -> None:
        text = "request.body == request.body ? 1 : 2"

        assert units(text, record("a" * 10_000)) == 1
        assert failure(text, record("a" * 10_001)) == "string_too_long"


class TestSandbox:
    def test_no_attribute_of_any_python_object_is_a_field(self) -> None:
        for body in ({}, [], "text", 1, 1.5, True, None):
            for name in sorted(set(dir(body)) | set(dir(Decimal)) | {"__globals__", "f_back", "gi_frame"}):
                for text in (f"request.body.{name}", f"request.body['{name}']", f"request.body.{name}.{name}"):
                    assert failure(text, record(body)) == "missing_field", (body, name)

    def test_fields_that_are_called_like_attributes_are_fields(self) -> None:
        assert units("request.body.__class__ + request.body.keys", record({"__class__": 1, "keys": 2})) == 3

    def test_evaluation_leaves_the_record_as_it_is(self) -> None:
        body = {"items": [3, 1, 2]}
        of = record(body)

        assert units("max(request.body.items[0], request.body.items[1])", of) == 3
        assert of.field("request", "body") == body

    def test_an_expression_has_fewer_nodes_than_characters(self) -> None:
        text = "+".join(["1-1*1/1%1"] * 20)
        nodes, level = 0, [parse_expression(text)]
        while level:
            nodes += len(level)
            level = [child for node in level for child in children_of(node)]

        assert nodes == 199 == len(text)

    def test_the_deepest_expression_needs_little_of_the_stack(self) -> None:
        deepest = compile_expression("-" * (MAX_DEPTH - 2) + "1")
        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(_depth() + 3 * MAX_DEPTH)
            assert deepest.evaluate(record()) == 1
        finally:
            sys.setrecursionlimit(limit)


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def test_division_has_forty_digits() -> None:
    third = units("(1 / 3) * 1e18")
    exact = Fraction(10**18, 3)

    assert abs(Fraction(third) - exact) < Fraction(1, 10**17)
