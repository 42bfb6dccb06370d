"""Forms of the alerts pages. What a threshold may be is said once, in the API's shapes; the form asks them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from django import forms
from rest_framework import serializers

from alerts.api import serializers as shapes
from alerts.contexts.words import duration_text
from alerts.domain import DigestFrequency, QuotaMode, ThresholdKind
from alerts.models import MESSAGE_TYPES, Quota, Threshold, WebhookEndpoint
from alerts.services.quotas import DEFAULT_WARNING_PERCENTS, MAX_WARNINGS, SETTINGS
from common.errors import ApplicationError, FieldError
from common.numbers import exact_text
from metering.api.serializers import Quantity
from metering.forms import CUSTOMER_ATTRIBUTES, filters_text, iterate_messages, metric_choices, parse_filters
from metering.models import Metric

KIND_CHOICES = [
    (ThresholdKind.VALUE, "The period's usage reaches a value"),
    (ThresholdKind.PERCENT, "It reaches a percentage of what the plan includes"),
    (ThresholdKind.PROJECTED, "It will reach a value by the period's end, at this pace"),
    (ThresholdKind.SILENCE, "Nothing is sent for some time"),
]
# The form's fields by their names in the API's shapes; the value's name there depends on its kind.
PLAIN_FIELDS = {"code": "code", "filter": "filters", "recurring": "is_recurring"}
API_FIELDS = {kind: name for name, kind in shapes.KIND_FIELDS.items()}
# Where the API's names differ from the form's.
FIELD_OF = {name: "value" for name in shapes.KIND_FIELDS} | {"filter": "filters", "recurring": "is_recurring"}
SECONDS_OF = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400}
DURATION_PART = re.compile(r"(\d{1,9})\s*(min|[smhd]|)(?![a-z])\s*", re.ASCII)


def parse_duration(text: str) -> int:
    """Read "90", "15 min", "1 d 6 h" as seconds. Raises `ValidationError`."""
    seconds, place = 0, 0
    text = text.strip().lower()
    while place < len(text) and (part := DURATION_PART.match(text, place)):
        seconds += int(part[1]) * SECONDS_OF[part[2]]
        place = part.end()
    if not text or place < len(text):
        raise forms.ValidationError("How long? Like “90 s”, “15 min”, “6 h” or “2 d”.")
    return seconds


class ThresholdForm(forms.Form):
    """The fields of a threshold that may change. `NewThresholdForm` adds what it watches, which never does."""

    code = forms.CharField(max_length=64, help_text="Its name in alerts: a-z, 0-9 and _ . : -.")
    kind = forms.ChoiceField(label="Tell when", choices=KIND_CHOICES)
    value = forms.CharField(
        max_length=80, help_text="The quantity, like 1000.5; a percentage, like 80; a time, like 15 min, 6 h or 2 d."
    )
    is_recurring = forms.BooleanField(
        label="Again at every multiple", required=False, help_text="1000 tells at 1000, 2000, 3000 … of the period."
    )
    filters = forms.CharField(
        label="Only usage with",
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "region = us | eu"}),
        required=False,
        help_text="One dimension a line, with one or more of its values. Empty: all usage.",
    )

    def __init__(self, *args: Any, threshold: Threshold | None = None, **options: Any) -> None:
        if threshold is not None:
            options["initial"] = _initial_of(threshold)
        super().__init__(*args, **options)
        if threshold is not None and parse_filters(filters_text(threshold.filters)) != threshold.filters:
            self.fields["filters"].disabled = True  # values that this notation cannot write; the API can change them

    def clean_filters(self) -> dict[str, list[str]]:
        return parse_filters(self.cleaned_data["filters"])

    def clean(self) -> dict[str, Any]:
        """Ask the API's shape, and keep the model's field values that it gives."""
        cleaned = super().clean() or {}
        if "kind" in cleaned and cleaned["kind"] == ThresholdKind.SILENCE and "value" in cleaned:
            try:
                cleaned["value"] = parse_duration(cleaned["value"])
            except forms.ValidationError as error:
                self.add_error("value", error)
        shape = shapes.ThresholdChange(data=self._as_request(cleaned))
        if not shape.is_valid():
            told = set(self.errors)
            for name, problem in shape.errors.items():
                if (field := FIELD_OF.get(name, name)) not in told:
                    self.add_error(field, list(iterate_messages(problem)))
        if self.errors:
            return cleaned
        return {**cleaned, "changes": shape.changes_of(shape.validated_data)}

    def changes(self) -> dict[str, Any]:
        """Return the model's field values. Only after `is_valid`."""
        changes: dict[str, Any] = self.cleaned_data["changes"]
        return {name: value for name, value in changes.items() if not self._is_frozen(name)}

    def add_refusal(self, error: ApplicationError) -> None:
        """Show a service's refusal at the fields that it is about."""
        if not error.errors:
            self.add_error("code" if error.code == "already_exists" else None, error.message)
        for problem in error.errors:
            self.add_error(self._field_of(problem), problem.message)

    def _field_of(self, problem: FieldError) -> str | None:
        name = problem.field.partition(".")[0]
        # What the kind does not go with, the kind can mend; a wrong value the value.
        field = "kind" if problem.code == "invalid_combination" and name == "projected" else FIELD_OF.get(name, name)
        return field if field in self.fields else None

    def _is_frozen(self, name: str) -> bool:
        return name in self.fields and self.fields[name].disabled

    def _as_request(self, cleaned: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body that the API would be sent, without what is wrong already."""
        request = {name: cleaned[field] for name, field in PLAIN_FIELDS.items() if field in cleaned}
        if "kind" in cleaned and "value" in cleaned:
            request[API_FIELDS[ThresholdKind(cleaned["kind"])]] = cleaned["value"]
        return request


class NewThresholdForm(ThresholdForm):
    metric = forms.ChoiceField()
    customer = forms.CharField(
        max_length=256,
        required=False,
        help_text="A customer's id. Empty: each customer on its own; for silence, all of them together.",
        widget=forms.TextInput(attrs=CUSTOMER_ATTRIBUTES),
    )
    field_order = ("metric", "customer", "code", "kind", "value", "is_recurring", "filters")

    def __init__(self, *args: Any, metrics: Sequence[Metric], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["metric"].choices = metric_choices(metrics)  # type: ignore[attr-defined]  # a ChoiceField


def _initial_of(threshold: Threshold) -> dict[str, Any]:
    is_silence = threshold.kind == ThresholdKind.SILENCE
    return {
        "code": threshold.code,
        "kind": threshold.kind,
        "value": duration_text(int(threshold.value)) if is_silence else exact_text(threshold.value),
        "is_recurring": threshold.is_recurring,
        "filters": filters_text(threshold.filters),
    }


# --- quotas ---------------------------------------------------------------------------------------------------


MODE_CHOICES = [
    (QuotaMode.HARD, "Hard: nothing beyond the limit"),
    (QuotaMode.SOFT, "Soft: a grace beyond the limit, then nothing"),
    (QuotaMode.WARN, "Warn only: never refuse, tell the level"),
]


# Sixty digits, a sign and a point, with room for an exponent.
MAX_QUANTITY_CHARACTERS = 80


class QuantityField(forms.CharField):
    """An exact quantity, written as the API takes it."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text:
            return None
        if len(text) > MAX_QUANTITY_CHARACTERS:
            raise forms.ValidationError("That is no quantity of anything.")
        try:
            return Quantity().run_validation(text)
        except serializers.ValidationError as error:
            raise forms.ValidationError(list(iterate_messages(error.detail))) from None

    def prepare_value(self, value: Any) -> Any:
        return exact_text(value) if isinstance(value, Decimal) else value


class PercentListField(forms.CharField):
    """Whole percentages, with commas or spaces between them. Which make sense is the service's question."""

    def to_python(self, value: Any) -> Any:
        texts = re.split(r"[\s,;%]+", (super().to_python(value) or "").strip(" ,;%"))
        if texts == [""]:
            return []
        if len(texts) > MAX_WARNINGS:
            raise forms.ValidationError(f"At most {MAX_WARNINGS} warnings.")
        if not all(text.isascii() and text.isdigit() and len(text) <= 4 for text in texts):
            raise forms.ValidationError("Whole percentages, like 80, 95, 100.")
        return [int(text) for text in texts]

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value


class QuotaForm(forms.Form):
    """The fields of a quota that may change. `NewQuotaForm` adds whom it limits, which never does."""

    limit = QuantityField(required=False, help_text="How much of the metric in a period. Empty: unlimited; 0: none.")
    mode = forms.ChoiceField(choices=MODE_CHOICES)
    grace = QuantityField(required=False, help_text="How much more a soft quota lets through.")
    warning_percents = PercentListField(
        label="Warn at",
        required=False,
        initial=list(DEFAULT_WARNING_PERCENTS),
        help_text="Percentages of the limit. Each is told once per period, as any other alert.",
    )

    def clean_grace(self) -> Decimal:
        return self.cleaned_data["grace"] or Decimal(0)

    @staticmethod
    def initial_of(quota: Quota) -> dict[str, Any]:
        return {name: getattr(quota, name) for name in SETTINGS}


class NewQuotaForm(QuotaForm):
    metric = forms.ChoiceField()
    customer = forms.CharField(
        max_length=256,
        required=False,
        help_text="A customer's id. Empty: every customer without a quota of its own.",
        widget=forms.TextInput(attrs=CUSTOMER_ATTRIBUTES),
    )
    field_order = ("metric", "customer", "limit", "mode", "grace", "warning_percents")

    def __init__(self, *args: Any, metrics: Sequence[Metric], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["metric"].choices = metric_choices(metrics)  # type: ignore[attr-defined]  # a ChoiceField


# --- webhooks -------------------------------------------------------------------------------------------------


TYPE_LABELS = {
    "alert.crossed": "alert.crossed: a threshold was crossed",
    "alert.test": "alert.test: a test was asked for",
    "endpoint.disabled": "endpoint.disabled: another endpoint failed for days",
    "invoice.finalised": "invoice.finalised: an invoice has its number",
    "invoice.voided": "invoice.voided: an invoice holds no more",
    "credit_note.issued": "credit_note.issued: a part of an invoice is given back",
    "budget.crossed": "budget.crossed: a subscription reached a level of its budget",
    "payment.updated": "payment.updated: Stripe says what became of an invoice",
    "stripe.drift": "stripe.drift: Stripe has another usage than was reported",
    "usage.mismatch": "usage.mismatch: a billed usage differs from what is known now",
    "usage.unbilled": "usage.unbilled: usage came too late for any invoice",
}


class EndpointForm(forms.Form):
    """Where messages go, and which. What may be reached is the service's question."""

    url = forms.CharField(
        label="URL",
        max_length=2000,
        widget=forms.TextInput(attrs={"inputmode": "url", "placeholder": "https://example.com/hooks/meterbook"}),
        help_text="Messages are POSTed there, signed as Standard Webhooks say.",
    )
    description = forms.CharField(max_length=200, required=False)
    message_types = forms.MultipleChoiceField(
        label="Only these messages",
        choices=[(name, TYPE_LABELS.get(name, name)) for name in MESSAGE_TYPES],
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text="None chosen: those of alerts. Those of billing have to be chosen.",
    )
    metrics = forms.MultipleChoiceField(
        label="Only of these metrics", required=False, help_text="None chosen: all. What is about others is not sent."
    )

    def __init__(
        self, *args: Any, metrics: Sequence[Metric], endpoint: WebhookEndpoint | None = None, **options: Any
    ) -> None:
        if endpoint is not None:
            options["initial"] = _initial_of_endpoint(endpoint)
        super().__init__(*args, **options)
        choices = metric_choices(metrics)
        listed = {code for code, _ in choices}
        # Those of archived metrics stay, so that saving something else does not drop them.
        choices += [(code, code) for code in (endpoint.metric_codes if endpoint else ()) if code not in listed]
        self.fields["metrics"].choices = choices  # type: ignore[attr-defined]  # a MultipleChoiceField
        self.fields["metrics"].widget.attrs["size"] = max(2, min(8, len(choices)))

    def changes(self) -> dict[str, Any]:
        """Return the model's field values. Only after `is_valid`."""
        values = dict(self.cleaned_data)
        values["metric_codes"] = values.pop("metrics")
        return values


def _initial_of_endpoint(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "url": endpoint.url,
        "description": endpoint.description,
        "message_types": endpoint.message_types,
        "metrics": endpoint.metric_codes,
    }


# --- e-mail ---------------------------------------------------------------------------------------------------


class SubscriptionForm(forms.Form):
    """How often the signed-in member is mailed."""

    NEVER = "never"
    frequency = forms.ChoiceField(
        label="Mail me",
        choices=[(NEVER, "Not at all"), *((choice.value, choice.label.capitalize()) for choice in DigestFrequency)],
        help_text="One mail holds everything that was crossed since the one before.",
    )
