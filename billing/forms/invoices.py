"""Forms of what may become of an invoice. What they mean is checked by the services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from django import forms

from billing.domain.currencies import major_text
from billing.domain.invoices import InvoiceLineContent
from billing.forms.amounts import AmountField, minor_of
from billing.services.corrections import MAX_REFERENCE_CHARACTERS
from billing.services.reasons import MAX_REASON_CHARACTERS


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


class WaiveForm(forms.Form):
    reason = ReasonField()


class PaidForm(forms.Form):
    reference = forms.CharField(
        label="Reference",
        max_length=MAX_REFERENCE_CHARACTERS,
        help_text="What says so: a reference of the bank, a note.",
    )


class CreditForm(forms.Form):
    """A reason, and for each line what is given back of it, in the major unit. Nowhere an amount: all that is left."""

    reason = ReasonField()
    # So that a form that is sent twice credits once.
    idempotency_key = forms.CharField(max_length=64, widget=forms.HiddenInput)

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        lines: Sequence[InvoiceLineContent],
        currency: str,
        auto_id: str = "credit_%s",
    ) -> None:
        super().__init__(data, auto_id=auto_id, initial={"idempotency_key": f"page:{uuid4()}"})
        self.currency = currency
        for position, line in enumerate(lines, start=1):
            if line.amount_minor > 0:
                self.fields[f"line_{position}"] = AmountField(
                    label=line.name, required=False, sample=major_text(line.amount_minor, currency)
                )

    def clean(self) -> dict[str, Any]:
        for name, text in list(self.cleaned_data.items()):
            if name.startswith("line_") and text:
                try:
                    self.cleaned_data[name] = minor_of(text, self.currency)
                except forms.ValidationError as error:
                    self.add_error(name, error)
                else:
                    if not self.cleaned_data[name]:
                        self.add_error(name, "Leave empty what is not given back.")
        return self.cleaned_data

    def amounts(self) -> dict[int, int] | None:
        """Return the minor units of each line that has some; None: everything. For a valid form."""
        given = {name: amount for name, amount in self.cleaned_data.items() if name.startswith("line_") and amount}
        return {int(name.removeprefix("line_")): amount for name, amount in given.items()} or None
