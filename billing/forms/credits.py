"""The form of a grant of credit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from django import forms

from billing.domain.currencies import EXPONENTS
from billing.forms.amounts import AmountField, minor_of
from billing.forms.days import DayField
from billing.models import GrantKind
from billing.services.credits import DEFAULT_PRIORITY, MAX_AMOUNT_MINOR, MAX_PRIORITY
from metering.domain import local_midnight

ONE_DAY = timedelta(days=1)


class GrantForm(forms.Form):
    """A grant of credit, in major units and whole days, as people speak of it."""

    amount = AmountField(help_text="In the major unit: 50, or 49.90.")
    currency = forms.ChoiceField(choices=[(code, code) for code in sorted(EXPONENTS)])
    kind = forms.ChoiceField(
        choices=[(GrantKind.PREPAID, "Prepaid: paid for ahead"), (GrantKind.PROMOTIONAL, "Promotional: given")]
    )
    name = forms.CharField(max_length=200, required=False)
    first_day = DayField(help_text="It pays periods that end on this day or later. Empty: from now on.")
    last_day = DayField(help_text="It pays periods that end by then. Empty: it does not expire.")
    priority = forms.IntegerField(
        min_value=0, max_value=MAX_PRIORITY, initial=DEFAULT_PRIORITY, help_text="The lower the sooner it is used."
    )
    # So that a form that is sent twice grants once.
    idempotency_key = forms.CharField(max_length=64, widget=forms.HiddenInput)

    def __init__(self, data: Mapping[str, Any] | None = None, *, currency: str) -> None:
        super().__init__(data, initial={"currency": currency, "idempotency_key": f"page:{uuid4()}"})

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        amount, currency = values.get("amount"), values.get("currency")
        if amount is not None and currency is not None:
            try:
                values["amount_minor"] = minor_of(amount, currency)
            except forms.ValidationError as error:
                self.add_error("amount", error)
            else:
                if not 1 <= values["amount_minor"] <= MAX_AMOUNT_MINOR:
                    self.add_error("amount", "More than nothing, and not beyond measure.")
        first, last = values.get("first_day"), values.get("last_day")
        if first is not None and last is not None and last < first:
            self.add_error("last_day", "The last day is not before the first.")
        return values

    def effective_at(self, zone: ZoneInfo) -> datetime | None:
        day: date | None = self.cleaned_data["first_day"]
        return None if day is None else local_midnight(day, zone)

    def expires_at(self, zone: ZoneInfo) -> datetime | None:
        """Return the moment after the midnight at which the last day ends.

        A period of which it is the last day ends at that very midnight, and is still paid.
        """
        day: date | None = self.cleaned_data["last_day"]
        return None if day is None else local_midnight(day + ONE_DAY, zone) + timedelta.resolution
