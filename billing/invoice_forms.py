"""Forms of what may become of an invoice. What they mean is checked by the services."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from django import forms

from billing.domain.currencies import EXPONENTS, major_text
from billing.domain.invoices import InvoiceLineContent
from billing.services.corrections import MAX_REASON_CHARACTERS, MAX_REFERENCE_CHARACTERS

MAX_AMOUNT_CHARACTERS = 25
MAX_MINOR = 2**63 - 1
# A comma is the decimal one, unless it may as well group thousands: 1,000 is not taken for one.
GROUPED = re.compile(r",\d{3}\s*\Z")


class ReasonField(forms.CharField):
    def __init__(self) -> None:
        super().__init__(label="Reason", max_length=MAX_REASON_CHARACTERS, widget=forms.Textarea(attrs={"rows": 2}))


class VoidForm(forms.Form):
    reason = ReasonField()
    reissue = forms.ChoiceField(
        label="And then",
        choices=[("yes", "Invoice the period anew"), ("no", "Never charge the period")],
        widget=forms.RadioSelect,
    )


class PaidForm(forms.Form):
    reference = forms.CharField(
        label="Reference",
        max_length=MAX_REFERENCE_CHARACTERS,
        help_text="What says so: a reference of the bank, a note.",
    )


class CreditForm(forms.Form):
    """A reason, and for each line what is given back of it, in the major unit. Nowhere an amount: all that is left."""

    reason = ReasonField()

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        lines: Sequence[InvoiceLineContent],
        currency: str,
        auto_id: str = "credit_%s",
    ) -> None:
        super().__init__(data, auto_id=auto_id)
        self.currency = currency
        for position, line in enumerate(lines, start=1):
            if line.amount_minor > 0:
                self.fields[f"line_{position}"] = forms.CharField(
                    label=line.name,
                    required=False,
                    max_length=MAX_AMOUNT_CHARACTERS,
                    widget=forms.TextInput(
                        attrs={"inputmode": "decimal", "placeholder": major_text(line.amount_minor, currency)}
                    ),
                )

    def clean(self) -> dict[str, Any]:
        for name, text in list(self.cleaned_data.items()):
            if name.startswith("line_") and text:
                try:
                    self.cleaned_data[name] = self._minor(text)
                except forms.ValidationError as error:
                    self.add_error(name, error)
        return self.cleaned_data

    def amounts(self) -> dict[int, int] | None:
        """Return the minor units of each line that has some; None: everything. For a valid form."""
        given = {name: amount for name, amount in self.cleaned_data.items() if name.startswith("line_") and amount}
        return {int(name.removeprefix("line_")): amount for name, amount in given.items()} or None

    def _minor(self, text: str) -> int:
        if GROUPED.search(text):
            raise forms.ValidationError(
                f"“{text}” could be two amounts. Write it with a point, and thousands together."
            )
        try:
            minor = Decimal(text.replace(",", ".")).scaleb(EXPONENTS[self.currency])
        except ArithmeticError:
            raise forms.ValidationError(f"“{text}” is no amount.") from None
        if not minor.is_finite() or minor != minor.to_integral_value() or not 0 < minor <= MAX_MINOR:
            raise forms.ValidationError(f"“{text}” is no whole amount of {self.currency}.")
        return int(minor)
