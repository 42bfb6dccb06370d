"""One view for all rows of the table: who asks, about what, and the answer as the official clients read it."""

from __future__ import annotations

from typing import Any

import msgspec
from django.http import HttpResponse
from django.utils import timezone
from rest_framework.request import Request

from accounts.api.base import CallerView
from accounts.domain import Scope
from common.api import StrictSerializer
from usage_reports.launchdarkly.authentication import KeyAuthentication
from usage_reports.launchdarkly.endpoints import Answer, Endpoint
from usage_reports.launchdarkly.engine import Report, get_report, list_values
from usage_reports.launchdarkly.parameters import read_request
from usage_reports.launchdarkly.schema import ReportSchema
from usage_reports.launchdarkly.split import Shown
from usage_reports.launchdarkly.subjects import get_subject, require_known

JSON = "application/json"
MILLISECONDS = 1000

_encoder = msgspec.json.Encoder(decimal_format="number")


class ReportView(CallerView):
    """Made once for each row: `ReportView.as_view(endpoint=row)`."""

    authentication_classes = [KeyAuthentication]
    http_method_names = ["get", "head"]
    scopes = {"GET": Scope.USAGE_READ}
    methods_for_bound_keys = frozenset({"GET"})
    schema = ReportSchema()

    endpoint: Endpoint = None  # type: ignore[assignment]  # `as_view` sets it, and sets only what the class has

    def read_query(self, request: Request, serializer_class: type[StrictSerializer]) -> dict[str, Any]:
        """Leave the parameters to `parameters.read_request`, which knows the row."""
        return {}

    def get(self, request: Request, **path: str) -> HttpResponse:
        subject = get_subject(self.caller, self.endpoint)
        asked = read_request(self.endpoint, path=path, parameters=request.query_params, now=timezone.now())
        links = {"self": {"href": request.get_full_path(), "type": JSON}}
        if self.endpoint.answer != Answer.SERIES:
            return _respond(
                {"_links": links, self.endpoint.answer.value: _list_json(self.endpoint, list_values(subject, asked))}
            )
        report = get_report(subject, asked)
        if report.is_empty:
            require_known(self.caller, subject, asked)
        return _respond({"_links": links, **series_json(report)})


def series_json(report: Report) -> dict[str, Any]:
    """Return the points by their time in Unix milliseconds; column `i` of each is described by `metadata[i]`."""
    names = ["time", *map(str, range(len(report.columns)))]
    times = [int(start.timestamp()) * MILLISECONDS for start in report.starts]
    rows = zip(times, *report.columns, strict=True)
    return {"metadata": report.metadata, "series": [dict(zip(names, row, strict=True)) for row in rows]}


def _list_json(endpoint: Endpoint, rows: list[Shown]) -> list[Any]:
    if endpoint.answer == Answer.SDKS:
        return [name for (name,) in rows]
    return [dict(zip(("sdk", "version"), row, strict=True)) for row in rows]


def _respond(body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(_encoder.encode(body), content_type=JSON)
