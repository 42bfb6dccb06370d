"""`POST /v1/usage/export`: a breakdown or a series as a file."""

from __future__ import annotations

import re
from typing import Any

from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request

from accounts.domain import Scope
from common.api import Text
from metering.api import serializers as shapes
from metering.api.base import get_subject
from metering.api.usage import UsageView
from metering.domain import Granularity, Mode
from metering.export_files import answer_with_file
from metering.export_formats import FORMATS
from metering.queries.exports import (
    ExportSelection,
    UsageTable,
    breakdown_table,
    series_table,
)
from metering.queries.periods import usage_zone

SERIES_ONLY = ("tz", "mode")


@extend_schema_field({"type": ["string", "null", "array"], "minItems": 1, "items": {"type": ["string", "null"]}})
class FilterValues(serializers.Field[Any, Any, Any, Any]):
    """One value, or a list of values of which any will do; null: the event does not have the dimension."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return self.to_internal_value(data)  # DRF would take null for an absent field

    def to_internal_value(self, data: Any) -> tuple[str | None, ...]:
        values = data if isinstance(data, list) else [data]
        if not values or not all(value is None or isinstance(value, str) for value in values):
            raise serializers.ValidationError("Give a string or null, or a list of such.", "invalid")
        return tuple(values)


class ExportWrite(shapes.RangeQuery):
    """The parameters of a breakdown, or with `granularity` those of a series, and the file's format."""

    filter = serializers.DictField(child=FilterValues(), required=False)
    group_by = serializers.ListField(child=Text(max_length=128), required=False, max_length=shapes.MAX_DIMENSIONS + 1)
    granularity = serializers.ChoiceField(choices=[choice.value for choice in Granularity], required=False)
    tz = shapes.ZoneName(required=False, max_length=64)
    mode = serializers.ChoiceField(choices=shapes.MODES, required=False)
    format = serializers.ChoiceField(choices=list(FORMATS), default="csv")

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        for name in SERIES_ONLY:
            if name in attributes and "granularity" not in attributes:
                raise serializers.ValidationError({name: "Only a series has this; give `granularity` too."})
        return attributes


class ExportView(UsageView):
    scopes = {"POST": Scope.USAGE_READ}
    methods_for_bound_keys = frozenset({"POST"})
    queries = {}
    free_name = re.compile(r"(?!)")  # filters stand in the body

    @extend_schema(
        operation_id="export_usage",
        request=ExportWrite,
        responses={(200, export_format.content_type): OpenApiTypes.BINARY for export_format in FORMATS.values()},
    )
    def post(self, request: Request) -> FileResponse:
        self.query = self.read_body(ExportWrite)
        self.free = self.query.get("filter", {})
        self.subject = get_subject(self.caller, metric=self.query["metric"], customer=self.query.get("customer"))
        self._check_names()
        selection = self._read_export()
        return answer_with_file(self._table(selection), selection, FORMATS[self.query["format"]])

    def _read_export(self) -> ExportSelection:
        group_by = self.query.get("group_by", [])
        customer = self.subject.customer
        return ExportSelection(
            **self.read_selection(),
            span=self.read_span(),
            customer_name=customer.external_id if customer and "customer" not in group_by else None,
            group_by=group_by,
        )

    def _table(self, selection: ExportSelection) -> UsageTable:
        if "granularity" not in self.query:
            return breakdown_table(selection)
        zone = usage_zone(organization=self.caller.organization, customer=self.subject.customer)
        return series_table(
            selection,
            granularity=Granularity(self.query["granularity"]),
            zone=self.query.get("tz") or zone.key,
            mode=Mode(self.query.get("mode", Mode.INCREMENTAL)),
            now=self.now,
        )
