"""What a caller asks about: the metric behind an endpoint, and whether what a request names exists at all."""

from __future__ import annotations

from datetime import datetime

from accounts.access import Caller
from accounts.queries import list_projects
from common.errors import NotFound, PermissionRefused
from common.times import EPOCH
from metering import queries
from metering.domain import DAY, ceil_time
from metering.models import Metric
from metering.queries.reading import Filters
from usage_reports.launchdarkly.endpoints import ENDPOINTS, UNKNOWN, Endpoint
from usage_reports.launchdarkly.engine import Subject
from usage_reports.launchdarkly.parameters import MAX_SHOWN_CHARACTERS, ReportRequest


def get_subject(caller: Caller, endpoint: Endpoint) -> Subject:
    """Return what the endpoint is about, for this caller. Raises `PermissionRefused` and `NotFound`."""
    if caller.metric_codes and endpoint.metric not in caller.metric_codes:
        raise PermissionRefused(f"This key may not read the metric {endpoint.metric}.")
    metric = _find_metric(caller, endpoint.metric)
    if metric is None or not endpoint.dimensions <= _dimensions_of(metric):
        raise NotFound(
            f"There is no metric {endpoint.metric} as this endpoint needs it. "
            "Install the catalog with POST /v1/catalogs/launchdarkly/install."
        )
    return Subject(caller.organization, metric, caller.customer_id)


def require_known(caller: Caller, subject: Subject, request: ReportRequest) -> None:
    """Raise `NotFound` if the request names a flag or project that nobody registered and no event ever named.

    For answers without usage: any other names only what there is.
    """
    if any(entry.dimension == "flagKey" for entry in request.endpoint.path_filters):
        if not _was_ever_named(subject, request.filters, request.now):
            raise NotFound("There is no such flag in this project and environment.")
    elif request.endpoint.refuses_unknown_projects:
        for key in request.filters.get("projectKey", []):
            if key is not None and key != UNKNOWN and not _is_known_project(caller, key, request.now):
                raise NotFound(f"There is no such project: {key[:MAX_SHOWN_CHARACTERS]}.")


def _is_known_project(caller: Caller, key: str, now: datetime) -> bool:
    if list_projects(caller.organization).filter(key=key).exists():
        return True
    return any(
        _was_ever_named(Subject(caller.organization, metric, caller.customer_id), {"projectKey": [key]}, now)
        for metric in filter(None, (_find_metric(caller, code) for code in sorted({row.metric for row in ENDPOINTS})))
        if "projectKey" in _dimensions_of(metric)
    )


def _was_ever_named(subject: Subject, filters: Filters, now: datetime) -> bool:
    """Tell whether any event of the metric has these values, of all time."""
    groups = queries.list_groups(
        organization=subject.organization,
        metric=subject.metric,
        start=EPOCH,
        end=ceil_time(now, DAY),
        group_by=(),
        customer_id=subject.customer_id,
        filters=filters,
    )
    return bool(groups)


def _find_metric(caller: Caller, code: str) -> Metric | None:
    try:
        return queries.get_known_metric(organization=caller.organization, code=code)
    except NotFound:
        return None


def _dimensions_of(metric: Metric) -> frozenset[str]:
    return frozenset(dimension["key"] for dimension in metric.dimensions)
