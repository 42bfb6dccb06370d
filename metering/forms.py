"""Forms of the metering pages. What a metric may be is said once, in the API's shapes; the form asks them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django import forms

from metering.api.serializers import MetricWrite
from metering.models import Aggregation, Metric, PeriodType

AGGREGATION_CHOICES = [
    (Aggregation.COUNT, "Count events"),
    (Aggregation.SUM, "Sum of values"),
    (Aggregation.MAX, "Greatest value"),
    (Aggregation.MIN, "Least value"),
    (Aggregation.LATEST, "Latest value"),
    (Aggregation.COUNT_UNIQUE, "Count distinct members"),
]
PERIOD_CHOICES = [
    (PeriodType.CALENDAR, "Calendar month"),
    (PeriodType.FIXED, "Fixed number of days"),
    (PeriodType.DAY, "Day"),
    (PeriodType.WEEK, "Week, from Monday"),
]
# The page's list of customers, for what is typed.
CUSTOMER_ATTRIBUTES = {"list": "customer-ids", "autocomplete": "off"}
# Where the API's shapes nest, the form is flat.
FIELD_OF = {"period": "period_type"}


def dimensions_text(dimensions: Sequence[Mapping[str, Any]]) -> str:
    """Write dimensions as the form shows them, one a line: `region`, `plan = free | paid`, `plan == free | paid`."""
    return "\n".join(_dimension_line(dimension) for dimension in dimensions)


def _dimension_line(dimension: Mapping[str, Any]) -> str:
    values = dimension.get("values")
    if not values:
        return str(dimension["key"])
    return f"{dimension['key']} {'==' if dimension.get('strict') else '='} {' | '.join(values)}"


def parse_dimensions(text: str) -> list[dict[str, Any]]:
    return [_parse_dimension(line) for line in _lines(text)]


def _parse_dimension(line: str) -> dict[str, Any]:
    key, equals, values = line.partition("=")
    is_strict = values.startswith("=")
    listed = [value.strip() for value in values.removeprefix("=").split("|") if value.strip()]
    return {"key": key.strip(), "values": listed if equals else None, "strict": is_strict}


def thresholds_text(thresholds: Sequence[Mapping[str, Any]]) -> str:
    """Write thresholds as the form shows them, one a line: `hard_cap = 1000`, `each_thousand = 1000 recurring`."""
    return "\n".join(
        f"{threshold['code']} = {threshold['value']}{' recurring' if threshold.get('recurring') else ''}"
        for threshold in thresholds
    )


def parse_thresholds(text: str) -> list[dict[str, Any]]:
    return [_parse_threshold(line) for line in _lines(text)]


def _parse_threshold(line: str) -> dict[str, Any]:
    code, _, rest = line.partition("=")
    value, _, mark = rest.strip().partition(" ")
    if mark.strip() not in {"", "recurring"}:
        raise forms.ValidationError(f"What is “{mark.strip()}”? A line is `code = value` or `code = value recurring`.")
    return {"code": code.strip(), "value": value, "recurring": bool(mark)}


def filters_text(filters: Mapping[str, Sequence[str]]) -> str:
    """Write filters as the form shows them, one dimension a line: `region = us | eu`."""
    return "\n".join(f"{key} = {' | '.join(values)}" for key, values in filters.items())


def parse_filters(text: str) -> dict[str, list[str]]:
    filters: dict[str, list[str]] = {}
    for line in _lines(text):
        key, equals, values = line.partition("=")
        listed = [value.strip() for value in values.split("|") if value.strip()]
        if not equals or not listed:
            raise forms.ValidationError(f"“{line}” is not like “region = us | eu”.")
        if key.strip() in filters:
            raise forms.ValidationError(f"{key.strip()} stands here twice; put its values in one line.")
        filters[key.strip()] = listed
    return filters


def metric_choices(metrics: Sequence[Metric]) -> list[tuple[str, str]]:
    return [(metric.code, f"{metric.name} ({metric.code})" if metric.name else metric.code) for metric in metrics]


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())


class MetricForm(forms.Form):
    """A metric as a person writes it. `metric` given: a change of it, and `changes()` are what differs."""

    code = forms.CharField(max_length=64, help_text="Its name in the API: a-z, 0-9 and _ . : -. It never changes.")
    name = forms.CharField(max_length=200, required=False)
    unit = forms.CharField(max_length=64, required=False, help_text="One of what is counted: request, second, GB.")
    description = forms.CharField(widget=forms.Textarea(attrs={"rows": 2}), max_length=10_000, required=False)
    event_type = forms.CharField(
        max_length=256, required=False, help_text="Which events it listens to. Empty: those that name its code."
    )
    aggregation = forms.ChoiceField(choices=AGGREGATION_CHOICES)
    value_property = forms.CharField(
        max_length=256, required=False, help_text="Which property is the quantity or member. Empty: the event's value."
    )
    dimensions = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "region\nplan = free | paid"}),
        required=False,
        help_text="One property a line. “plan = free | paid” lists values and groups all others as one; "
        "“plan == free | paid” refuses others.",
    )
    period_type = forms.ChoiceField(label="Period", choices=PERIOD_CHOICES)
    billing_cycle_day = forms.IntegerField(
        label="Begins on day", min_value=1, max_value=28, required=False, help_text="Of the month; for calendar months."
    )
    period_days = forms.IntegerField(label="Days", min_value=1, required=False, help_text="For a fixed number of days.")
    thresholds = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "hard_cap = 100000"}),
        required=False,
        help_text="One a line: “code = value”; add “recurring” to cross it again at every multiple.",
    )

    # (title, fields)
    GROUPS = (
        ("What it is", ("code", "name", "unit", "description")),
        ("What it counts", ("event_type", "aggregation", "value_property")),
        ("How it may be split", ("dimensions",)),
        ("Over which period", ("period_type", "billing_cycle_day", "period_days")),
        ("When to tell somebody", ("thresholds",)),
    )
    # What may change although events were counted; the service says the same.
    FREE_FIELDS = frozenset({"name", "unit", "description", "thresholds"})

    def __init__(self, *args: Any, metric: Metric | None = None, has_events: bool = False, **options: Any) -> None:
        self.metric = metric
        if metric is not None:
            options["initial"] = _initial_of(metric)
        super().__init__(*args, **options)
        if metric is not None:
            frozen = set(self.fields) - self.FREE_FIELDS if has_events else {"code"}
            if parse_dimensions(dimensions_text(metric.dimensions)) != metric.dimensions:
                frozen.add("dimensions")  # values that this notation cannot write; the API can change them
            for name in frozen:
                self.fields[name].disabled = True

    def clean_dimensions(self) -> list[dict[str, Any]]:
        return parse_dimensions(self.cleaned_data["dimensions"])

    def clean_thresholds(self) -> list[dict[str, Any]]:
        return parse_thresholds(self.cleaned_data["thresholds"])

    def clean(self) -> dict[str, Any]:
        """Ask the API's shape, and keep the model's field values that it gives."""
        cleaned = super().clean() or {}
        if self.errors:
            return cleaned
        shape = MetricWrite(data=self._as_request(cleaned))
        if not shape.is_valid():
            for name, problem in shape.errors.items():
                self.add_error(FIELD_OF.get(name, name), list(iterate_messages(problem)))
            return cleaned
        return {**cleaned, "fields": shape.fields_of(shape.validated_data)}

    def definition_fields(self) -> dict[str, Any]:
        """Return the model's field values of a new metric. Only after `is_valid`."""
        fields: dict[str, Any] = self.cleaned_data["fields"]
        return fields

    def changes(self) -> dict[str, Any]:
        """Return what may differ from the metric: the fields that this form lets change. Only after `is_valid`."""
        frozen = {name for name, field in self.fields.items() if field.disabled}
        if "period_type" in frozen:
            frozen |= {"billing_cycle_day", "period_days"}
        return {name: value for name, value in self.definition_fields().items() if name not in frozen}

    def _as_request(self, cleaned: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body that the API would be sent."""
        plain = ("code", "name", "unit", "description", "aggregation", "value_property", "dimensions", "thresholds")
        period: dict[str, Any] = {"type": cleaned["period_type"]}
        if period["type"] == PeriodType.CALENDAR and cleaned["billing_cycle_day"]:
            period["billing_cycle_day"] = cleaned["billing_cycle_day"]
        if period["type"] == PeriodType.FIXED and cleaned["period_days"]:
            period["days"] = cleaned["period_days"]
        request = {name: cleaned[name] for name in plain} | {"period": period}
        if cleaned["event_type"]:
            request["event_type"] = cleaned["event_type"]
        return request


def _initial_of(metric: Metric) -> dict[str, Any]:
    plain = ("code", "name", "unit", "description", "event_type", "aggregation", "value_property", "period_type")
    return {
        **{name: getattr(metric, name) for name in plain},
        "billing_cycle_day": metric.billing_cycle_day,
        "period_days": metric.period_days,
        "dimensions": dimensions_text(metric.dimensions),
        "thresholds": thresholds_text(metric.thresholds),
    }


def iterate_messages(problem: Any) -> Iterator[str]:
    """Yield the sentences of DRF's nested errors."""
    if isinstance(problem, Mapping):
        for nested in problem.values():
            yield from iterate_messages(nested)
    elif isinstance(problem, list):
        for nested in problem:
            yield from iterate_messages(nested)
    else:
        yield str(problem)


class VoidForm(forms.Form):
    key = forms.CharField(widget=forms.HiddenInput, max_length=256, strip=False)
    reason = forms.CharField(max_length=1000, help_text="Kept for ever beside the event.")


class IdListField(forms.Field):
    """Ids of rows, from the check boxes of a table. Which of them exist is the service's question."""

    widget = forms.MultipleHiddenInput

    def to_python(self, value: Any) -> list[int]:
        texts = value or []
        if not all(text.isascii() and text.isdigit() and len(text) <= 18 for text in texts):
            raise forms.ValidationError("These are no ids.")
        return [int(text) for text in texts]


class InboxForm(forms.Form):
    """What to do with which waiting events."""

    action = forms.ChoiceField(choices=[(action, action) for action in ("replay", "replay_all", "discard")])
    ids = IdListField(required=False)
