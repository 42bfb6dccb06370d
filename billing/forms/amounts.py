"""Amounts as people write them, in the major unit: what every form with one has in common."""

from __future__ import annotations

from django import forms

from billing.domain.currencies import NotAnAmount, parse_major

MAX_AMOUNT_CHARACTERS = 30


class AmountField(forms.CharField):
    """The text of an amount. The form knows the currency, and reads it with `minor_of`."""

    def __init__(
        self, *, label: str | None = None, required: bool = True, help_text: str = "", sample: str = ""
    ) -> None:
        attributes = {"inputmode": "decimal"} | ({"placeholder": sample} if sample else {})
        super().__init__(
            label=label,
            required=required,
            help_text=help_text,
            max_length=MAX_AMOUNT_CHARACTERS,
            widget=forms.TextInput(attrs=attributes),
        )


def minor_of(text: str, currency: str) -> int:
    """Return the minor units. Raises Django's `ValidationError`."""
    try:
        return parse_major(text, currency)
    except NotAnAmount as error:
        raise forms.ValidationError(str(error)) from None
