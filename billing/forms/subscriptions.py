"""Forms of subscriptions: which plan, from when, until when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms

from billing.models import Plan
from billing.services.subscriptions import When


class SubscribeForm(forms.Form):
    plan = forms.ChoiceField()
    start = forms.DateField(
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="A day in the time zone of the customer; empty: now.",
    )
    anchor_day = forms.IntegerField(
        label="Periods begin on day",
        min_value=1,
        max_value=31,
        required=False,
        help_text="1 to 31, in shorter months the last day; empty: the day it starts.",
    )

    def __init__(self, *args: Any, plans: Sequence[Plan], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["plan"].choices = plan_choices(plans)  # type: ignore[attr-defined]  # a ChoiceField


class ChangePlanForm(forms.Form):
    plan = forms.ChoiceField()
    when = forms.ChoiceField(
        choices=[
            (When.PERIOD_END.value, "with the next period"),
            (When.NOW.value, "now"),
        ]
    )

    def __init__(self, *args: Any, plans: Sequence[Plan], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["plan"].choices = plan_choices(plans)  # type: ignore[attr-defined]  # a ChoiceField


class CancelForm(forms.Form):
    when = forms.ChoiceField(choices=[(when.value, when.value) for when in When])


def plan_choices(plans: Sequence[Plan]) -> list[tuple[str, str]]:
    return [(plan.code, plan.name) for plan in plans]
