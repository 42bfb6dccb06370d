"""The form of a budget."""

from __future__ import annotations

from typing import Any

from django import forms

from billing.domain.currencies import major_text
from billing.forms.amounts import AmountField, minor_of
from billing.models import Budget
from billing.services.budgets import MAX_EMAIL_CHARACTERS


class BudgetForm(forms.Form):
    """A budget as people write it: in the major unit, with its levels in one line."""

    amount = AmountField()
    levels = forms.CharField(label="Tell at, in %", max_length=100, initial="50, 80, 100")
    email = forms.EmailField(label="Write to", required=False, max_length=MAX_EMAIL_CHARACTERS)

    def __init__(self, *args: Any, currency: str, budget: Budget | None = None, **options: Any) -> None:
        if budget is not None:
            options["initial"] = {
                "amount": major_text(budget.amount_minor, budget.currency),
                "levels": ", ".join(map(str, budget.levels)),
                "email": budget.email,
            }
        # Several are on one page.
        options["auto_id"] = False
        super().__init__(*args, **options)
        self.currency = currency
        self.fields["amount"].label = f"Budget, {currency}"

    def clean_amount(self) -> int:
        return minor_of(self.cleaned_data["amount"], self.currency)

    def clean_levels(self) -> list[int]:
        parts = self.cleaned_data["levels"].replace("%", " ").replace(",", " ").split()
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise forms.ValidationError("Give percentages like 50, 80, 100.")
        return [int(part) for part in parts]
