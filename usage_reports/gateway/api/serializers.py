"""What the analytics endpoints take. Shape and spelling are checked here; what is known and kept is not."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from common.api import StrictSerializer, Text, WholeNumber
from common.times import parse_time
from metering.api.serializers import ExactText
from metering.queries.usage import CALENDAR_END
from usage_reports.gateway.domain import SORTS, Grouping

STATUS = re.compile(r"[1-5](?:[0-9]{2}|xx)\Z", re.ASCII)
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", re.ASCII)
MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])\Z", re.ASCII)
FIRST_YEAR, LAST_YEAR = 1970, CALENDAR_END.year - 1
MAX_LIMIT = 1000
LIST_LIMIT, TIME_LIMIT = 100, MAX_LIMIT
FORMATS = ("csv", "json")
TIMES = (Grouping.HOUR, Grouping.DAY, Grouping.MONTH)
GROUPS = (Grouping.USER, Grouping.ROUTE, Grouping.STATUS, Grouping.METHOD)


@extend_schema_field({"type": "string", "description": "A date, which is a whole day, or an RFC 3339 time."})
class Edge(Text):
    """One end of a range: a `date`, or a `datetime` in UTC."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        edge = _parse_date(text) if DATE.match(text) else _parse_instant(text)
        if not FIRST_YEAR <= edge.year <= LAST_YEAR:
            message = f"A range lies within the years {FIRST_YEAR} to {LAST_YEAR}."
            raise serializers.ValidationError(message, "out_of_range")
        return edge


def _parse_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise serializers.ValidationError("There is no such day.", "invalid_date") from None


def _parse_instant(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError:
        message = "Use a date like 2026-11-20, or a time with an offset like 2026-11-20T10:00:00Z."
        raise serializers.ValidationError(message, "invalid_timestamp") from None


class StatusFilter(Text):
    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not STATUS.match(text):
            raise serializers.ValidationError("Use a status like 404, or a class of them like 5xx.", "invalid_status")
        return text


def choice_of(values: tuple[str, ...], **options: Any) -> serializers.ChoiceField:
    return serializers.ChoiceField(choices=[str(value) for value in values], **options)


class RequestQuery(StrictSerializer):
    """Which requests: the filters that everything about requests takes."""

    user = ExactText(required=False, max_length=256)
    route = ExactText(required=False, max_length=256)
    status = StatusFilter(required=False)


class SelectionQuery(RequestQuery):
    """Also takes `from` and `to`, whose names Python keeps for itself."""

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "from": Edge(required=False), "to": Edge(required=False)}


class ListQuery(SelectionQuery):
    sort = choice_of(SORTS, required=False)
    limit = WholeNumber(min_value=1, max_value=MAX_LIMIT, default=LIST_LIMIT)


class SeriesQuery(ListQuery):
    group_by = choice_of(TIMES, default=Grouping.DAY)
    limit = WholeNumber(min_value=1, max_value=MAX_LIMIT, default=TIME_LIMIT)


class CalendarQuery(ListQuery):
    group_by = choice_of(GROUPS, required=False)
    limit = WholeNumber(min_value=1, max_value=MAX_LIMIT, default=TIME_LIMIT)


class AggregateQuery(ListQuery):
    """The default of `limit` depends on the group."""

    group_by = choice_of(tuple(Grouping))
    limit = WholeNumber(min_value=1, max_value=MAX_LIMIT, required=False)


class ExportQuery(SelectionQuery):
    format = choice_of(FORMATS, default="csv")


class PeriodField(Text):
    """A month as its two numbers, or `current` or `last`."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        if text in {"current", "last"}:
            return text
        month = MONTH.match(text)
        if month is None or not FIRST_YEAR < int(month[1]) < LAST_YEAR:
            raise serializers.ValidationError("Use current, last or a month like 2026-11.", "invalid_period")
        return int(month[1]), int(month[2])


class PeriodQuery(StrictSerializer):
    period = PeriodField(default="current")
