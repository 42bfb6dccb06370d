"""Asking for usage: one number, a breakdown, a series, an export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from meterbook.periods import Period, time_text
from meterbook.usage import BreakdownRow, SeriesResult, Usage
from meterbook.wire import Call, Parameters, Plan, one_object, present

Filters = Mapping[str, str | Sequence[str]]


def query_realtime(customer: str | None, metric: str) -> Plan[Usage]:
    """Return the running totals of a customer (None: of all) in the current period, exact at this moment."""
    return Usage.from_json((yield from one_object(Call.get("/v1/usage/realtime", customer=customer, metric=metric))))


def query(
    *,
    metric: str,
    customer: str | None = None,
    period: Period | str = "current",
    filters: Filters | None = None,
    as_of: datetime | None = None,
) -> Plan[Usage]:
    """Return usage over exactly this range, of one customer or, without one, of all.

    `period` is a `Period`, or a name that the server resolves in the customer's own zone and cycle: `"current"`,
    `"last"` or a month like `"2026-11"`. All `filters` must match; several values of one key are alternatives.
    `as_of` answers what was known at that time. Raises `NotFoundError` for an unknown metric or customer.
    """
    parameters = _selection(metric, customer, period, filters, as_of)
    return Usage.from_json((yield from one_object(Call("GET", "/v1/usage", parameters))))


def breakdown(
    *,
    metric: str,
    group_by: str | Iterable[str],
    customer: str | None = None,
    period: Period | str = "current",
    filters: Filters | None = None,
    as_of: datetime | None = None,
) -> Plan[list[BreakdownRow]]:
    """Return usage per group. `group_by` names dimensions, and `customer` for all customers.

    Only for additive metrics (count, sum) do the rows sum to the total.
    """
    parameters = [*_selection(metric, customer, period, filters, as_of), *present(group_by=_listed(group_by))]
    body = yield from one_object(Call("GET", "/v1/usage/breakdown", parameters))
    return [BreakdownRow.from_json(row) for row in body["rows"]]


def series(
    *,
    metric: str,
    granularity: str = "day",
    customer: str | None = None,
    period: Period | str = "current",
    tz: str | None = None,
    mode: str | None = None,
    group_by: str | Iterable[str] = (),
    filters: Filters | None = None,
    as_of: datetime | None = None,
) -> Plan[SeriesResult]:
    """Return usage over time, one point per bucket, zero-filled.

    `granularity` is minute, hour, day, week or month; `mode` incremental (default), month_to_date or rolling_30d.
    """
    parameters = [
        *_selection(metric, customer, period, filters, as_of),
        *present(granularity=granularity, tz=tz, mode=mode, group_by=_listed(group_by)),
    ]
    return SeriesResult.from_json((yield from one_object(Call("GET", "/v1/usage/series", parameters))))


def export(
    *,
    metric: str,
    format: str = "csv",
    customer: str | None = None,
    period: Period | str = "current",
    granularity: str | None = None,
    tz: str | None = None,
    mode: str | None = None,
    group_by: str | Iterable[str] = (),
    filters: Filters | None = None,
    as_of: datetime | None = None,
) -> Call:
    """Iterate over the bytes of a file with a breakdown or, with `granularity`, a series.

    `format` is csv, ndjson or parquet. The parameters are those of `breakdown` and `series`.
    """
    body = {
        "metric": metric,
        "format": format,
        "customer": customer,
        **_span(period),
        "granularity": granularity,
        "tz": tz,
        "mode": mode,
        "group_by": _listed(group_by) or None,
        "filter": {key: _listed(values) for key, values in (filters or {}).items()} or None,
        "as_of": as_of and time_text(as_of),
    }
    given = {name: value for name, value in body.items() if value is not None}
    return Call.post("/v1/usage/export", given, is_repeatable=True)


def _selection(
    metric: str,
    customer: str | None,
    period: Period | str,
    filters: Filters | None,
    as_of: datetime | None,
) -> Parameters:
    return [
        *present(customer=customer, metric=metric, **_span(period)),
        *((f"filter[{key}]", value) for key, values in (filters or {}).items() for value in _listed(values)),
        *present(as_of=as_of and time_text(as_of)),
    ]


def _span(period: Period | str) -> dict[str, Any]:
    if isinstance(period, Period):
        return {"from": time_text(period.start), "to": time_text(period.end)}
    return {"period": period}


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
