"""The field of a day, as settings and credits have it."""

from __future__ import annotations

from datetime import date
from typing import Any

from django import forms

FIRST_DAY, LAST_DAY = date(1970, 1, 2), date(9000, 1, 1)


class DayField(forms.DateField):
    """A day that calendars can be reckoned with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, widget=forms.DateInput(attrs={"type": "date"}), **options)

    def validate(self, value: Any) -> None:
        super().validate(value)
        if value is not None and not FIRST_DAY <= value <= LAST_DAY:
            raise forms.ValidationError("A day of this or the last century.", "out_of_range")
