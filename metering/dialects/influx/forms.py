"""The one decision of a registration: whose the cluster is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms

from accounts.models import Organization


class StartForm(forms.Form):
    organization = forms.TypedChoiceField(label="Organization", coerce=int, empty_value=None)

    def __init__(self, *args: Any, organizations: Sequence[Organization], **options: Any) -> None:
        super().__init__(*args, **options)
        field = self.fields["organization"]
        assert isinstance(field, forms.TypedChoiceField)
        field.choices = [(organization.pk, organization.name) for organization in organizations]
