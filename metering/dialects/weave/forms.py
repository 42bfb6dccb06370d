"""Forms of the forward port's pages."""

from __future__ import annotations

from django import forms

from metering.dialects.weave.domain import MAX_WORD_CHARACTERS
from metering.forms import CUSTOMER_ATTRIBUTES, IdListField


class MapForm(forms.Form):
    internal_instance_id = forms.CharField(
        label="Internal instance id",
        max_length=MAX_WORD_CHARACTERS,
        strip=False,
        help_text="As the client sends it, like 1234. An instance belongs to one organization only.",
    )
    customer = forms.CharField(
        max_length=MAX_WORD_CHARACTERS,
        strip=False,
        widget=forms.TextInput(attrs=CUSTOMER_ATTRIBUTES),
        help_text="For whom its amounts are counted.",
    )
    is_released = forms.BooleanField(
        label="Count what already waits for it",
        required=False,
        initial=True,
        help_text="With the times that the records bear.",
    )


class SettingsForm(forms.Form):
    is_metric_auto_created = forms.BooleanField(
        label="Make a metric of an amount type that none listens to",
        required=False,
        help_text="A sum of that name. Otherwise its records wait in the quarantine until you define one.",
    )


class UnmapForm(forms.Form):
    internal_instance_id = forms.CharField(max_length=MAX_WORD_CHARACTERS, strip=False)


class QuarantineForm(forms.Form):
    """What to do with which waiting records."""

    action = forms.ChoiceField(choices=[(action, action) for action in ("release", "release_all", "discard")])
    ids = IdListField(required=False)
    # The instance that the page shows alone; empty: all.
    instance = forms.CharField(required=False, strip=False, max_length=MAX_WORD_CHARACTERS)
