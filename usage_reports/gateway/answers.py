"""The shapes of the answers: rows and summaries as the JSON objects of `docs/gateway.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from metering.dialects.gateway.latency import RELATIVE_ERROR
from metering.domain import local_date
from usage_reports.gateway.domain import Grouping, Key, Percentiles, Row, Sort, Totals, label_of, number
from usage_reports.gateway.engine import RowList, Selection, Summary
from usage_reports.gateway.user_usage import UserUsage

ERROR_BOUND = {"latency_relative_error": RELATIVE_ERROR}
# Under which names a group stands in a row.
_NAMES = {
    Grouping.PATH: "path",
    Grouping.ROUTE: "route_id",
    Grouping.USER: "user_id",
    Grouping.STATUS: "status",
    Grouping.METHOD: "method",
}
RouteNames = Mapping[str | None, str]


def summary_json(selection: Selection, summary: Summary) -> dict[str, Any]:
    totals = summary.totals
    attributes = {
        **_range_json(selection),
        "total_requests": totals.requests,
        "total_errors": totals.errors,
        "error_rate": number(totals.error_rate),
        "total_metered_units": number(totals.units),
        "total_bytes": number(totals.bytes),
        "latency_ms": _latency_json(totals, summary.percentiles),
        **ERROR_BOUND,
        "by_status": summary.by_status,
        "metering_errors": _metering_errors_json(summary),
    }
    return {"data": {"type": "usage_summary", "attributes": attributes}}


def _metering_errors_json(summary: Summary) -> dict[str, Any] | None:
    """Return the errors among the requests that count and, beside them, those for which requests were refused."""
    if summary.metering_errors is None or summary.refused is None:
        return None
    return _by_code(summary.metering_errors) | {"refused": _by_code(summary.refused)}


def _by_code(counts: dict[str, int]) -> dict[str, Any]:
    return {"total": sum(counts.values()), "by_code": counts}


def list_json(
    kind: str,
    selection: Selection,
    groups: Sequence[Grouping],
    found: RowList,
    *,
    routes: RouteNames,
    sort: Sort | None,
    limit: int,
    is_dense: bool = False,
) -> dict[str, Any]:
    """Return a list of rows; of a dense series each also says whether it is cut short."""
    rows = []
    for row in found.rows:
        names = _names_of(row.key, groups, selection.zone, routes)
        partial = {"is_partial": row.is_partial} if is_dense else {}
        texts = [value for name, value in names.items() if name != "route_name"]
        rows.append({"type": kind, "id": label_of(texts), "attributes": names | partial | _numbers_json(row)})
    meta = {
        **_range_json(selection),
        "group_by": [str(group) for group in groups],
        "sort": None if sort is None else str(sort),
        "limit": limit,
        "count": len(rows),
        "total": found.total,
        **ERROR_BOUND,
    }
    return {"data": rows, "meta": meta}


def user_usage_json(usage: UserUsage) -> dict[str, Any]:
    totals = usage.summary.totals
    attributes = {
        "period": usage.month,
        "total_requests": totals.requests,
        "total_bytes": number(totals.bytes),
        "total_metered_units": number(totals.units),
        "quota_limit": number(usage.quota_limit),
        "quota_used_percent": number(usage.quota_used_percent),
        "by_route": [
            {"route_id": route.route_id, "route_name": route.name, "requests": route.requests}
            for route in usage.by_route
        ],
        "by_status": usage.summary.by_status,
    }
    return {"data": {"type": "usage", "attributes": attributes}}


def _range_json(selection: Selection) -> dict[str, Any]:
    return {
        "from": selection.span.start.astimezone(UTC),
        "to": selection.span.end.astimezone(UTC),
        "timezone": selection.zone.key,
    }


def _names_of(key: Key, groups: Sequence[Grouping], zone: ZoneInfo, routes: RouteNames) -> dict[str, str | None]:
    """Return what names the row: its time, then its groups, in their order."""
    names: dict[str, str | None] = {}
    values = iter(key.group)
    for group in groups:
        if group in _NAMES:
            names[_NAMES[group]] = value = next(values)
            if group == Grouping.ROUTE:
                names["route_name"] = routes.get(value)
        elif key.start is not None:
            names |= _time_name(group, key.start, zone)
    return names


def _time_name(group: Grouping, start: datetime, zone: ZoneInfo) -> dict[str, str | None]:
    if group == Grouping.HOUR:
        return {"hour": start.astimezone(zone).isoformat()}
    day = local_date(start, zone).isoformat()
    return {"date": day} if group == Grouping.DAY else {"month": day[:7]}


def _numbers_json(row: Row) -> dict[str, Any]:
    totals = row.totals
    return {
        "requests": totals.requests,
        "errors": totals.errors,
        "error_rate": number(totals.error_rate),
        "metered_units": number(totals.units),
        "bytes": number(totals.bytes),
        "latency_ms": _latency_json(totals, row.percentiles),
    }


def _latency_json(totals: Totals, percentiles: Percentiles) -> dict[str, Any]:
    return {
        "mean": number(totals.mean_latency_ms),
        "p50": number(percentiles.p50),
        "p95": number(percentiles.p95),
        "p99": number(percentiles.p99),
    }
