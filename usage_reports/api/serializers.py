"""Shapes of the scheduled reports' API: what is accepted and what is answered. Meaning is checked by the services."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from common.api import Flag, ListQuery, StrictSerializer, Text, WholeNumber
from metering.api.exports import FilterValues
from metering.api.serializers import MODES, ExactText, ZoneName
from metering.domain import Granularity
from usage_reports.domain import WEEKDAYS, Frequency, ReportRange, RunState
from usage_reports.models import MAX_GROUPS, Report, ReportRun
from usage_reports.services.reports import MAX_RECIPIENTS

MAX_FILTERED_VALUES = 100
MAX_FILTER_CHARACTERS = 1000
MAX_ADDRESS_CHARACTERS = 254


class ReportFilters(serializers.DictField):
    """`{"region": "us"}` or `{"region": ["us", null]}`; null: the event does not have the dimension."""

    child = FilterValues()

    def to_internal_value(self, data: Any) -> dict[str, list[str | None]]:
        filters = super().to_internal_value(data)
        for key, values in filters.items():
            is_storable = all(
                len(value or "") <= MAX_FILTER_CHARACTERS and "\x00" not in (value or "") for value in values
            )
            if len(values) > MAX_FILTERED_VALUES or not is_storable:
                message = f"At most {MAX_FILTERED_VALUES} values of {MAX_FILTER_CHARACTERS} characters, without NUL."
                raise serializers.ValidationError({key: message})
        return {key: list(dict.fromkeys(values)) for key, values in filters.items()}

    def to_representation(self, value: Any) -> Any:
        return value


class ScheduleWrite(StrictSerializer):
    """When a report is due. Replaced as a whole."""

    frequency = serializers.ChoiceField(choices=Frequency.choices)
    hour = WholeNumber(min_value=0, max_value=23, default=7, help_text="Of local time.")
    weekday = serializers.ChoiceField(choices=WEEKDAYS, required=False, help_text="For weekly ones; else monday.")
    day = WholeNumber(
        min_value=1, max_value=31, required=False, help_text="Of the month, or its last day; for monthly ones."
    )
    zone = ZoneName(
        required=False, allow_null=True, max_length=64, help_text="Null: the organization's. Also of the range."
    )

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        for name, frequency in (("weekday", Frequency.WEEKLY), ("day", Frequency.MONTHLY)):
            if name in attributes and attributes["frequency"] != frequency:
                raise serializers.ValidationError({name: f"Only {frequency} reports have this."})
        return {
            "frequency": attributes["frequency"],
            "hour": attributes["hour"],
            "weekday": WEEKDAYS.index(attributes.get("weekday", WEEKDAYS[0])),
            "day_of_month": attributes.get("day", 1),
            "zone": attributes.get("zone") or "",
        }


class ReportFields(StrictSerializer):
    """The fields of a report that may change. What it counts never does."""

    name = Text(max_length=100)
    filter = ReportFilters(required=False)
    group_by = serializers.ListField(child=ExactText(max_length=128), required=False, max_length=MAX_GROUPS)
    granularity = serializers.ChoiceField(
        choices=[width.value for width in Granularity],
        required=False,
        allow_null=True,
        help_text="Null: a breakdown, one row per group.",
    )
    mode = serializers.ChoiceField(choices=MODES, required=False)
    range = serializers.ChoiceField(choices=ReportRange.choices, required=False)
    schedule = ScheduleWrite(required=False)
    recipients = serializers.ListField(
        child=Text(max_length=MAX_ADDRESS_CHARACTERS), min_length=1, max_length=MAX_RECIPIENTS
    )
    paused = Flag(required=False)

    @staticmethod
    def changes_of(attributes: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes in the words of the model."""
        names = {"filter": "filters", "range": "range_name", "paused": "is_paused"}
        kept = ("name", "filter", "group_by", "mode", "range", "recipients", "paused")
        changes = {names.get(name, name): attributes[name] for name in kept if name in attributes}
        if "granularity" in attributes:
            changes["granularity"] = attributes["granularity"] or ""
        return changes | attributes.get("schedule", {})


class ReportCreate(ReportFields):
    metric = ExactText(max_length=64)
    customer = ExactText(max_length=256, required=False, allow_null=True)


class ScheduleRead(serializers.Serializer):
    frequency = serializers.ChoiceField(choices=Frequency.choices)
    hour = serializers.IntegerField()
    weekday = serializers.ChoiceField(choices=WEEKDAYS, allow_null=True)
    day = serializers.IntegerField(allow_null=True)
    zone = serializers.CharField(allow_null=True)


class ReportRead(serializers.Serializer):
    id = serializers.CharField()
    name = serializers.CharField()
    metric = serializers.CharField()
    customer = serializers.CharField(allow_null=True)
    filter = serializers.DictField(child=serializers.ListField(child=serializers.CharField(allow_null=True)))
    group_by = serializers.ListField(child=serializers.CharField())
    granularity = serializers.CharField(allow_null=True)
    mode = serializers.ChoiceField(choices=MODES)
    range = serializers.ChoiceField(choices=ReportRange.choices)
    schedule = ScheduleRead()
    recipients = serializers.ListField(child=serializers.CharField())
    paused = serializers.BooleanField()
    next_due_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()

    def to_representation(self, report: Report) -> dict[str, Any]:
        return report_json(report)


def report_json(report: Report) -> dict[str, Any]:
    """Needs `metric`, `customer` and `recipients`."""
    return {
        "id": str(report.pk),
        "name": report.name,
        "metric": report.metric.code,
        "customer": report.customer.external_id if report.customer else None,
        "filter": report.filters,
        "group_by": report.group_by,
        "granularity": report.granularity or None,
        "mode": report.mode,
        "range": report.range_name,
        "schedule": {
            "frequency": report.frequency,
            "hour": report.hour,
            "weekday": WEEKDAYS[report.weekday] if report.frequency == Frequency.WEEKLY else None,
            "day": report.day_of_month if report.frequency == Frequency.MONTHLY else None,
            "zone": report.zone or None,
        },
        "recipients": sorted(recipient.email for recipient in report.recipients.all()),
        "paused": report.is_paused,
        "next_due_at": report.next_due_at,
        "created_at": report.created_at,
    }


class ReportListQuery(ListQuery):
    metric = Text(required=False, max_length=64)


class ReportRunRead(serializers.Serializer):
    id = serializers.CharField()
    due_at = serializers.DateTimeField()
    manual = serializers.BooleanField(help_text="Somebody asked for it, the schedule did not.")
    state = serializers.ChoiceField(choices=RunState.choices)
    start = serializers.DateTimeField(allow_null=True, help_text="Of the range; null before the first attempt.")
    end = serializers.DateTimeField(allow_null=True)
    rows = serializers.IntegerField(allow_null=True, help_text="Null: not known, as of a file too large to attach.")
    attached = serializers.BooleanField(allow_null=True, help_text="False: the file was too large.")
    attempts = serializers.IntegerField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    sent_at = serializers.DateTimeField(allow_null=True)
    error = serializers.CharField(allow_null=True)

    def to_representation(self, run: ReportRun) -> dict[str, Any]:
        return run_json(run)


def run_json(run: ReportRun) -> dict[str, Any]:
    return {
        "id": str(run.pk),
        "due_at": run.due_at,
        "manual": run.is_manual,
        "state": run.state,
        "start": run.range_start,
        "end": run.range_end,
        "rows": run.row_count,
        "attached": run.is_attached,
        "attempts": run.attempt_count,
        "next_attempt_at": run.next_attempt_at if run.state == RunState.PENDING else None,
        "sent_at": run.sent_at,
        "error": run.error or None,
    }
