"""The form of a scheduled report. What a report may be is said once, in the API's shapes; the form asks them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django import forms
from django.http import QueryDict

from accounts.forms import zone_choices
from common.errors import ApplicationError
from metering.domain import Granularity, Mode
from metering.forms import CUSTOMER_ATTRIBUTES, filters_text, metric_choices, parse_filters
from metering.models import Metric
from metering.sql.usage import CUSTOMER
from usage_reports.api.serializers import ReportCreate, ReportFields
from usage_reports.domain import WEEKDAYS, Frequency, ReportRange
from usage_reports.models import MAX_GROUPS, Report

# Stands for no granularity.
BREAKDOWN = "breakdown"
SHAPE_CHOICES = [
    (BREAKDOWN, "One row per group, for the whole range"),
    *((width.value, f"One row per group and {width.value}") for width in Granularity),
]
MODE_CHOICES = [
    (Mode.INCREMENTAL.value, "Its own usage"),
    (Mode.MONTH_TO_DATE.value, "Its month so far"),
    (Mode.ROLLING_30D.value, "The 30 days that end with it"),
]
RANGE_CHOICES = [(choice.value, choice.label.capitalize()) for choice in ReportRange]
FREQUENCY_CHOICES = [
    (Frequency.DAILY, "Every day"),
    (Frequency.WEEKLY, "Every week"),
    (Frequency.MONTHLY, "Every month"),
]
# Where the API's names differ from the form's; those of the schedule nest there.
FIELD_OF = {
    "filter": "filters",
    "range": "range_name",
    "day": "day_of_month",
}


class MetricChoiceForm(forms.Form):
    """The first step of a new report: what it can be split by depends on the metric."""

    metric = forms.ChoiceField()

    def __init__(self, *args: Any, metrics: Sequence[Metric], **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["metric"].choices = metric_choices(metrics)  # type: ignore[attr-defined]  # a ChoiceField


class ReportForm(forms.Form):
    """The fields of a report that may change. `NewReportForm` adds whose usage it tells of, which never does."""

    name = forms.CharField(max_length=100, help_text="The subject of its mails begins with it.")
    group_by = forms.MultipleChoiceField(
        label="Split by",
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text=f"At most {MAX_GROUPS}. None: one row for everything.",
    )
    filters = forms.CharField(
        label="Only usage with",
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "region = us | eu"}),
        required=False,
        help_text="One dimension a line, with one or more of its values. Empty: all usage.",
    )
    range_name = forms.ChoiceField(
        label="Range", choices=RANGE_CHOICES, initial=ReportRange.LAST_7_DAYS, help_text="Before the moment it is due."
    )
    granularity = forms.ChoiceField(label="Rows", choices=SHAPE_CHOICES, initial=BREAKDOWN)
    mode = forms.ChoiceField(
        label="A bucket counts",
        choices=MODE_CHOICES,
        help_text="The last two are for rows by day; the second by hour too.",
    )
    frequency = forms.ChoiceField(label="Send", choices=FREQUENCY_CHOICES, initial=Frequency.WEEKLY)
    weekday = forms.ChoiceField(
        label="Weekday", choices=[(name, name.capitalize()) for name in WEEKDAYS], help_text="For weekly ones."
    )
    day_of_month = forms.IntegerField(
        label="Day of the month",
        min_value=1,
        max_value=31,
        initial=1,
        help_text="For monthly ones. In a shorter month, its last day.",
    )
    hour = forms.TypedChoiceField(
        label="Hour", choices=[(hour, f"{hour:02}:00") for hour in range(24)], coerce=int, initial=7
    )
    zone = forms.ChoiceField(label="Time zone", required=False, help_text="Of the hour, and of the range's days.")
    recipients = forms.CharField(
        label="Send to",
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "ann@example.com", "autocomplete": "off"}),
        help_text="One e-mail address a line. Members get it while they are members; each mail has a link to stop it.",
    )

    def __init__(self, *args: Any, metric: Metric, zone: str, report: Report | None = None, **options: Any) -> None:
        """`zone` is the organization's."""
        if report is not None:
            options["initial"] = _initial_of(report)
        super().__init__(*args, **options)
        self.metric = metric
        keys = [CUSTOMER, *(dimension["key"] for dimension in metric.dimensions)]
        # Those that the metric has lost stay, so that they can be unchosen.
        keys += [key for key in (report.group_by if report else ()) if key not in keys]
        self.fields["group_by"].choices = [(key, key) for key in keys]  # type: ignore[attr-defined]
        self.fields["zone"].choices = [  # type: ignore[attr-defined]
            ("", f"The organization's ({zone})"),
            *zone_choices(),
        ]
        if report is not None and not _is_writable(report.filters):
            self.fields["filters"].disabled = True  # values that this notation cannot write; the API can change them

    def clean_filters(self) -> dict[str, list[str]]:
        return {} if self.fields["filters"].disabled else parse_filters(self.cleaned_data["filters"])

    def clean_recipients(self) -> list[str]:
        return list(filter(None, re.split(r"[\s,;]+", self.cleaned_data["recipients"])))

    def clean(self) -> dict[str, Any]:
        """Ask the API's shape, and keep the model's field values that it gives."""
        cleaned = super().clean() or {}
        if self.errors:
            return cleaned
        shape = self._shape(self._as_request(cleaned))
        if not shape.is_valid():
            for field, problem in _problems(shape.errors):
                self.add_error(field if field in self.fields else None, problem)
            return cleaned
        return {**cleaned, "changes": ReportFields.changes_of(shape.validated_data)}

    def changes(self) -> dict[str, Any]:
        """Return the model's field values. Only after `is_valid`."""
        changes: dict[str, Any] = self.cleaned_data["changes"]
        return changes

    def add_refusal(self, error: ApplicationError) -> None:
        """Show a service's refusal at the fields that it is about."""
        if not error.errors:
            self.add_error(None, error.message)
        for problem in error.errors:
            name = problem.field.partition(".")[0]
            field = FIELD_OF.get(name, name)
            self.add_error(field if field in self.fields else None, problem.message)

    def _shape(self, request: dict[str, Any]) -> ReportFields:
        return ReportFields(data=request)

    def _as_request(self, cleaned: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body that the API would be sent."""
        schedule = {"frequency": cleaned["frequency"], "hour": cleaned["hour"], "zone": cleaned["zone"] or None}
        if schedule["frequency"] == Frequency.WEEKLY:
            schedule["weekday"] = cleaned["weekday"]
        if schedule["frequency"] == Frequency.MONTHLY:
            schedule["day"] = cleaned["day_of_month"]
        request = {
            "name": cleaned["name"],
            "group_by": cleaned["group_by"],
            "granularity": None if cleaned["granularity"] == BREAKDOWN else cleaned["granularity"],
            "mode": cleaned["mode"],
            "range": cleaned["range_name"],
            "schedule": schedule,
            "recipients": cleaned["recipients"],
        }
        return request if self.fields["filters"].disabled else request | {"filter": cleaned["filters"]}


class NewReportForm(ReportForm):
    customer = forms.CharField(
        max_length=256,
        required=False,
        help_text="A customer's id. Empty: all customers.",
        widget=forms.TextInput(attrs=CUSTOMER_ATTRIBUTES),
    )
    field_order = ("name", "customer")

    def _shape(self, request: dict[str, Any]) -> ReportFields:
        return ReportCreate(data=request)

    def _as_request(self, cleaned: Mapping[str, Any]) -> dict[str, Any]:
        whose = {"metric": self.metric.code, "customer": cleaned["customer"] or None}
        return super()._as_request(cleaned) | whose


def initial_of_address(query: QueryDict, metric: Metric) -> dict[str, Any]:
    """Return what an address proposes for a new report, in the usage API's names: `group_by`, `filter[region]` …"""
    plain = {name: query.get(name) for name in ("customer", "granularity", "mode") if query.get(name)}
    named = {
        dimension["key"]: values
        for dimension in metric.dimensions
        if (values := list(filter(None, query.getlist(f"filter[{dimension['key']}]"))))
    }
    return {**plain, "group_by": query.getlist("group_by"), "filters": filters_text(named)}


def _is_writable(filters: Mapping[str, Sequence[str | None]]) -> bool:
    """Tell whether the form's notation writes the filters so that they read the same."""
    try:
        named = {key: [value for value in values if value is not None] for key, values in filters.items()}
        return parse_filters(filters_text(named)) == filters
    except forms.ValidationError:
        return False


def _initial_of(report: Report) -> dict[str, Any]:
    plain = ("name", "group_by", "range_name", "mode", "frequency", "day_of_month", "hour", "zone")
    named = {key: [value or "(none)" for value in values] for key, values in report.filters.items()}
    return {
        **{name: getattr(report, name) for name in plain},
        "granularity": report.granularity or BREAKDOWN,
        "weekday": WEEKDAYS[report.weekday],
        "filters": filters_text(named),
        "recipients": "\n".join(sorted(recipient.email for recipient in report.recipients.all())),
    }


def _problems(errors: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (field of the form, sentence) for DRF's nested errors."""
    if isinstance(errors, Mapping):
        for inner, problem in errors.items():
            # Below a list or a filter the outer name is the form's field; below the schedule the inner one.
            field = str(inner) if name in {"", "schedule"} else name
            yield from _problems(problem, FIELD_OF.get(field, field))
    elif isinstance(errors, list):
        for problem in errors:
            yield from _problems(problem, name)
    else:
        yield name, str(errors)
