"""Forms of the gateway's pages: its routes, and what is kept of its requests.

What a route may be is said once, in the API's shapes, and what a setting may be in its service; the forms ask them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django import forms

from common.errors import ApplicationError
from metering.dialects.gateway.api.serializers import RouteFields, RouteWrite
from metering.dialects.gateway.domain import ANY_METHOD, MAX_PATTERN_CHARACTERS
from metering.dialects.gateway.expressions import MAX_CHARACTERS
from metering.dialects.gateway.models import (
    ErrorPolicy,
    GatewaySettings,
    IpStorage,
    MeteringMode,
    Route,
)
from metering.dialects.gateway.services.settings import SETTINGS, list_values
from metering.forms import iterate_messages, metric_choices
from metering.models import Metric

MODE_CHOICES = [
    (MeteringMode.REQUEST, "Each request is one unit"),
    (MeteringMode.BYTES, "Kilobytes of request and response"),
    (MeteringMode.RESPONSE_FIELD, "A field of the response"),
    (MeteringMode.CUSTOM, "An expression"),
]
POLICY_CHOICES = [
    (ErrorPolicy.REJECT, "Refuse the record"),
    (ErrorPolicy.ZERO, "Count no units"),
    (ErrorPolicy.ONE, "Count one unit"),
]
MAX_SAMPLE_CHARACTERS = 20_000
EXPRESSION_ATTRIBUTES = {
    "rows": 2,
    "spellcheck": "false",
    "class": "is-mono",
    "placeholder": "response.body.tokens_used",
}
SAMPLE_ATTRIBUTES = {"rows": 4, "spellcheck": "false", "class": "is-mono"}


class RouteForm(forms.Form):
    """A route as a person writes it. `route` given: a change of it, whose id stays."""

    id = forms.CharField(
        max_length=64, required=False, help_text="Its name in records and reports. Empty: one is made up."
    )
    name = forms.CharField(max_length=200, required=False)
    method = forms.CharField(max_length=32, required=False, help_text="GET, POST … Empty: every method.")
    path_pattern = forms.CharField(
        max_length=MAX_PATTERN_CHARACTERS,
        required=False,
        help_text="“/users/{id}”, “/files/*” or “*”. Empty: only records that name the route.",
    )
    metering_mode = forms.ChoiceField(label="Units are", choices=MODE_CHOICES)
    metering_expr = forms.CharField(
        label="Expression",
        max_length=MAX_CHARACTERS,
        strip=False,
        required=False,
        widget=forms.Textarea(attrs=EXPRESSION_ATTRIBUTES),
        help_text="For the last two: “response.body.usage.tokens”, “request.body.items.length * 0.5”.",
    )
    on_metering_error = forms.ChoiceField(
        label="Where it gives no number", choices=POLICY_CHOICES, help_text="The sender is told either way."
    )
    metric = forms.ChoiceField(
        required=False, help_text="A sum that takes these units too; those that listen to api_request are offered."
    )

    # (title, fields)
    GROUPS = (
        ("Which requests", ("name", "id", "method", "path_pattern")),
        ("What they count", ("metering_mode", "on_metering_error", "metering_expr", "metric")),
    )

    def __init__(self, *args: Any, metrics: Sequence[Metric], route: Route | None = None, **options: Any) -> None:
        if route is not None:
            options["initial"] = _initial_of(route)
        super().__init__(*args, **options)
        choices = [("", "Nothing besides api_units"), *metric_choices(metrics)]
        if route is not None:
            del self.fields["id"]
            if route.metric is not None and route.metric not in metrics:
                choices.append((route.metric.code, f"{route.metric.code} (archived)"))
        self.fields["metric"].choices = choices  # type: ignore[attr-defined]  # a ChoiceField

    def clean(self) -> dict[str, Any]:
        """Ask the API's shape, and keep the values that it gives."""
        cleaned = super().clean() or {}
        if self.errors:
            return cleaned
        body: dict[str, Any] = {name: cleaned[name] for name in self.fields if name not in {"id", "metric"}}
        body["metric"] = cleaned["metric"] or None
        if cleaned.get("id"):
            body["id"] = cleaned["id"]
        shape = (RouteWrite if "id" in self.fields else RouteFields)(data=body)
        if not shape.is_valid():
            for name, problem in shape.errors.items():
                self.add_error(name, list(iterate_messages(problem)))
            return cleaned
        return {**cleaned, "body": dict(shape.validated_data)}

    def body(self) -> dict[str, Any]:
        """Return the route in the API's words. Only after `is_valid`."""
        body: dict[str, Any] = self.cleaned_data["body"]
        return body

    def add_refusal(self, error: ApplicationError) -> None:
        """Show a service's refusal at its field, with the column of an expression."""
        if not error.errors:
            self.add_error(None, error.message)
        column = error.extra.get("column")
        for problem in error.errors:
            place = f"Column {column}: " if column else ""
            self.add_error(problem.field if problem.field in self.fields else None, place + problem.message)


class SampleForm(forms.Form):
    """A request to try an expression with. Never saved."""

    sample_request = forms.CharField(
        label="Request body",
        max_length=MAX_SAMPLE_CHARACTERS,
        required=False,
        widget=forms.Textarea(attrs=SAMPLE_ATTRIBUTES | {"placeholder": '{"items": [1, 2, 3]}'}),
    )
    sample_response = forms.CharField(
        label="Response body",
        max_length=MAX_SAMPLE_CHARACTERS,
        required=False,
        widget=forms.Textarea(attrs=SAMPLE_ATTRIBUTES | {"placeholder": '{"tokens_used": 421}'}),
    )


class CheckForm(SampleForm):
    """What is typed so far: the mode, the expression and the sample."""

    metering_mode = forms.ChoiceField(choices=MODE_CHOICES)
    metering_expr = forms.CharField(strip=False, required=False, max_length=10 * MAX_CHARACTERS)


class SettingsForm(forms.Form):
    """What is kept of requests, a field for each setting. What a value may be says the service."""

    LABELS: ClassVar[Mapping[str, str]] = {
        "usage_tracking_enabled": "Track requests",
        "usage_store_ip": "Addresses",
        "usage_store_path": "Keep paths",
        "usage_batch_size": "Requests sent at once",
        "usage_flush_interval_ms": "Sent after, in ms",
        "usage_compression": "Compress what is sent",
        "usage_retention_days": "Days of single requests",
        "usage_aggregate_retention_days": "Days of totals",
    }

    def __init__(self, *args: Any, settings: GatewaySettings, **options: Any) -> None:
        options["initial"] = list_values(settings)
        super().__init__(*args, **options)
        for name, setting in SETTINGS.items():
            self.fields[name] = _setting_field(settings, name)
            self.fields[name].label = self.LABELS[name]
            self.fields[name].help_text = setting.explanation

    def add_refusal(self, error: ApplicationError) -> None:
        for problem in error.errors:
            self.add_error(problem.field, problem.message)


def _setting_field(settings: GatewaySettings, name: str) -> forms.Field:
    match getattr(settings, name):
        case bool():
            return forms.BooleanField(required=False)
        case int():
            return forms.IntegerField()
    return forms.ChoiceField(choices=IpStorage.choices)


def _initial_of(route: Route) -> dict[str, Any]:
    plain = ("name", "path_pattern", "metering_mode", "metering_expr", "on_metering_error")
    return {
        **{name: getattr(route, name) for name in plain},
        "method": "" if route.method == ANY_METHOD else route.method,
        "metric": route.metric.code if route.metric else "",
    }
