"""How numbers read on pages; what is stored is never touched."""

from decimal import Decimal

import pytest
from django.template import Context, Template

from common.numbers import exact_text, readable_text, short_text

THIN = "\u202f"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0.000", "0"),
        ("1000.00000000000000000000", "1000"),
        ("1E+3", "1000"),
        ("0.00000000000000000001", "0.00000000000000000001"),
        ("123456789012345678901234567890123456789.5", "123456789012345678901234567890123456789.5"),
    ],
)
def test_exact_text_has_every_digit_and_no_exponent(value: str, text: str) -> None:
    assert exact_text(Decimal(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("7", "7"),
        ("999", "999"),
        ("1234", f"1{THIN}234"),
        ("-1234567.891", f"\u22121{THIN}234{THIN}567.89"),
        ("12.34567", "12.346"),
        ("0.000012345678", "0.00001235"),
        ("0.5", "0.5"),
        ("0.999999999", "1"),
        (
            "123456789012345678901234567890123",
            THIN.join(["123", "456", "789", "012", "345", "678", "901", "234", "567", "890", "123"]),
        ),
    ],
)
def test_readable_text_groups_thousands_and_keeps_what_matters(value: str, text: str) -> None:
    assert readable_text(Decimal(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [("0", "0"), ("250", "250"), ("1000", "1k"), ("12500", "12.5k"), ("3000000", "3M"), ("-2e9", "\u22122B")],
)
def test_short_text_fits_an_axis(value: str, text: str) -> None:
    assert short_text(Decimal(value)) == text


def test_quantity_on_a_page_carries_every_digit() -> None:
    html = Template("{% load page %}{{ value|quantity }}").render(Context({"value": Decimal("1234567.123456789")}))

    assert 'value="1234567.123456789" title="1234567.123456789"' in html
    assert f">1{THIN}234{THIN}567.12<" in html


def test_no_quantity_is_no_zero() -> None:
    html = Template("{% load page %}{{ value|quantity }}").render(Context({"value": None}))

    assert "data" not in html
