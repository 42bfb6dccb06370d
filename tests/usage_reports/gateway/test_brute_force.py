"""Every endpoint against a plain count over the requests that were sent, before and after the worker rolled them up.

What is expected is computed in this file from the requests alone: by loops, `Fraction`s and a clock on the wall.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from accounts.models import Organization
from metering.services.rollup import roll_up_organization
from tests.usage_reports.gateway.conftest import AnalyticsApi, body_of
from tests.usage_reports.gateway.traffic import (
    ROUTES,
    STATUSES,
    USERS,
    SentRequest,
    make_requests,
    nearest_rank,
    send,
)

pytestmark = pytest.mark.django_db

FIRST, LAST = datetime(2026, 10, 12, 3, 20, tzinfo=UTC), datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
# The stated error of percentiles, and the rounding of what is shown.
ALPHA = Decimal("0.02") * (1 + Decimal("1e-9"))
SORT_FIELDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "requests": lambda row: Fraction(row["requests"]),
    "errors": lambda row: Fraction(row["errors"]),
    "units": lambda row: Fraction(row["metered_units"]),
    "bytes": lambda row: Fraction(row["bytes"]),
    "latency": lambda row: row["exact_mean"] or 0,
}
TIMES = ("hour", "day", "month")
KEYS: dict[str, Callable[[SentRequest], str | None]] = {
    "user": lambda request: request.user,
    "route": lambda request: request.route,
    "status": lambda request: str(request.status),
    "method": lambda request: request.method,
    "path": lambda request: request.path,
}
NAMES = {"user": "user_id", "route": "route_id", "day": "date"}


# --- what is expected -------------------------------------------------------------------------------------------


def time_name(at: datetime, width: str, zone: ZoneInfo) -> str:
    local = at.astimezone(zone)
    if width == "hour":
        return local.replace(minute=0, second=0, microsecond=0).isoformat()
    return f"{local:%Y-%m-%d}" if width == "day" else f"{local:%Y-%m}"


def name_of(request: SentRequest, group: str, zone: ZoneInfo) -> str | None:
    return time_name(request.at, group, zone) if group in TIMES else KEYS[group](request)


def rounded(value: Fraction, places: int) -> Decimal:
    """Round half to even; the numbers here are far from the limits of the context."""
    return (Decimal(value.numerator) / Decimal(value.denominator)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)


def numbers_of(requests: Sequence[SentRequest]) -> dict[str, Any]:
    """Return what a row says of these requests, with latencies in full for `check_latencies`."""
    errors = sum(request.status >= 400 for request in requests)
    latencies = [request.latency_ms for request in requests]
    mean = Fraction(sum(latencies)) / len(latencies) if latencies else None
    return {
        "requests": len(requests),
        "errors": errors,
        "error_rate": rounded(Fraction(errors, len(requests)), 6) if requests else 0,
        "metered_units": sum(request.units for request in requests),
        "bytes": sum(request.bytes for request in requests),
        "exact_mean": mean,
        "latencies": latencies,
    }


def check_numbers(shown: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("requests", "errors", "error_rate", "metered_units", "bytes"):
        assert shown[name] == expected[name], name
    check_latencies(shown["latency_ms"], expected)


def check_latencies(shown: dict[str, Decimal | None], expected: dict[str, Any]) -> None:
    if not expected["latencies"]:
        assert set(shown.values()) == {None}
        return
    assert shown["mean"] == rounded(expected["exact_mean"], 3)
    for percent in (50, 95, 99):
        exact = nearest_rank(expected["latencies"], percent)
        found = shown[f"p{percent}"]
        assert found is not None
        assert abs(found - exact) <= ALPHA * exact, (percent, found, exact)


# --- random questions -------------------------------------------------------------------------------------------


class Asker:
    """Random filters and ranges over one organization's requests, as query and as a choice of the requests."""

    def __init__(self, random: Random, requests: list[SentRequest], zone: ZoneInfo) -> None:
        self.random, self.requests, self.zone = random, requests, zone

    def ask(self) -> tuple[dict[str, str], list[SentRequest], datetime, datetime]:
        """Return a query, the requests that it is about in any order, and its half-open range."""
        query, start, end = self._range()
        found = [request for request in self.requests if start <= request.at < end]
        if self.random.random() < 0.4:
            query["user"] = self.random.choice(USERS)
            found = [request for request in found if request.user == query["user"]]
        if self.random.random() < 0.3:
            query["route"] = self.random.choice([route for route in ROUTES if route] + ["no-such-route"])
            found = [request for request in found if request.route == query["route"]]
        if self.random.random() < 0.4:
            query["status"] = self.random.choice([*map(str, STATUSES), "2xx", "3xx", "4xx", "5xx"])
            found = [request for request in found if has_status(request, query["status"])]
        return query, found, start, end

    def _range(self) -> tuple[dict[str, str], datetime, datetime]:
        start = FIRST + timedelta(seconds=self.random.randrange(30 * 86_400))
        end = start + timedelta(seconds=self.random.randrange(3600, 20 * 86_400))
        if self.random.random() < 0.4:
            return {"from_": start.isoformat(), "to": end.isoformat()}, start, end
        first, last = start.astimezone(self.zone).date(), end.astimezone(self.zone).date()
        query = {"from_": first.isoformat(), "to": last.isoformat()}
        return query, self.midnight(first), self.midnight(last + timedelta(days=1))

    def midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), self.zone).astimezone(UTC)

    def order(self) -> dict[str, str]:
        order = (
            {}
            if self.random.random() < 0.3
            else {"sort": self.random.choice(("", "-")) + self.random.choice(list(SORT_FIELDS))}
        )
        return order | ({} if self.random.random() < 0.5 else {"limit": str(self.random.randrange(1, 12))})


def has_status(request: SentRequest, wanted: str) -> bool:
    return str(request.status)[0] == wanted[0] if wanted.endswith("xx") else str(request.status) == wanted


def expected_rows(requests: list[SentRequest], groups: tuple[str, ...], zone: ZoneInfo) -> dict[tuple[Any, ...], Any]:
    rows: dict[tuple[Any, ...], list[SentRequest]] = {}
    for request in requests:
        rows.setdefault(tuple(name_of(request, group, zone) for group in groups), []).append(request)
    return {key: numbers_of(group) for key, group in rows.items()}


def in_order(rows: dict[tuple[Any, ...], Any], order: dict[str, str], *, is_of_time: bool) -> list[tuple[Any, ...]]:
    """Return the keys to be shown, as the documentation says."""

    def place(key: tuple[Any, ...]) -> list[tuple[bool, str]]:
        return [(value is None, value or "") for value in key]

    sort = order.get("sort", "" if is_of_time else "-requests")
    limit = int(order.get("limit", 1000 if is_of_time else 100))
    ordered = sorted(rows, key=place)
    if not sort:
        return ordered[-limit:]
    rank = SORT_FIELDS[sort.removeprefix("-")]
    return sorted(ordered, key=lambda key: rank(rows[key]), reverse=sort.startswith("-"))[:limit]


def check_rows(answer: Any, rows: dict[tuple[Any, ...], Any], groups: tuple[str, ...], order: dict[str, str]) -> None:
    is_of_time = groups[0] in TIMES
    shown = [tuple(row["attributes"][NAMES.get(group, group)] for group in groups) for row in answer["data"]]
    assert shown == in_order(rows, order, is_of_time=is_of_time)
    assert answer["meta"]["total"] == len(rows)
    assert answer["meta"]["count"] == len(shown)
    for row, key in zip(answer["data"], shown, strict=True):
        check_numbers(row["attributes"], rows[key])


# --- the endpoints ----------------------------------------------------------------------------------------------


def check_summary(api: AnalyticsApi, asker: Asker) -> None:
    query, requests, start, end = asker.ask()
    [attributes] = [api.get("analytics/summary", **query)["data"]["attributes"]]
    expected = numbers_of(requests)
    assert datetime.fromisoformat(attributes["from"]) == start
    assert datetime.fromisoformat(attributes["to"]) == end
    assert attributes["total_requests"] == expected["requests"]
    assert attributes["total_errors"] == expected["errors"]
    assert attributes["error_rate"] == expected["error_rate"]
    assert attributes["total_metered_units"] == expected["metered_units"]
    assert attributes["total_bytes"] == expected["bytes"]
    check_latencies(attributes["latency_ms"], expected)
    classes = [f"{request.status // 100}xx" for request in requests]
    assert attributes["by_status"] == {name: classes.count(name) for name in set(classes)}
    codes = [request.metering_error for request in requests if request.metering_error]
    by_code = {"total": len(codes), "by_code": {code: codes.count(code) for code in set(codes)}}
    by_code["refused"] = {"total": 0, "by_code": {}}
    assert attributes["metering_errors"] == (None if "status" in query else by_code)


def check_lists(api: AnalyticsApi, asker: Asker) -> None:
    for path, group in (("users", "user"), ("routes", "route")):
        query, requests, *_ = asker.ask()
        order = asker.order()
        answer = api.get(f"analytics/{path}", **query, **order)
        check_rows(answer, expected_rows(requests, (group,), asker.zone), (group,), order)


def check_aggregates(api: AnalyticsApi, asker: Asker) -> None:
    for group in (*TIMES, *KEYS):
        query, requests, *_ = asker.ask()
        order = asker.order()
        answer = api.get("analytics/aggregate", **query, **order, group_by=group)
        check_rows(answer, expected_rows(requests, (group,), asker.zone), (group,), order)


def check_calendar(api: AnalyticsApi, asker: Asker) -> None:
    for path, width in (("daily", "day"), ("monthly", "month")):
        for group in (None, asker.random.choice(("user", "route", "status", "method"))):
            query, requests, *_ = asker.ask()
            order = asker.order()
            groups = (width,) if group is None else (width, group)
            answer = api.get(f"analytics/{path}", **query, **order, **({"group_by": group} if group else {}))
            check_rows(answer, expected_rows(requests, groups, asker.zone), groups, order)


def list_names(start: datetime, end: datetime, width: str, zone: ZoneInfo) -> Iterator[str]:
    """Yield every hour, day or month that a clock on the wall shows within the range."""
    at = start
    seen = None
    while at < end:
        if (name := time_name(at, width, zone)) != seen:
            yield name
        seen = name
        at += timedelta(minutes=15) if width == "hour" else timedelta(hours=1)
    if (name := time_name(end - INSTANT, width, zone)) != seen:
        yield name


def is_running(name: str, width: str, zone: ZoneInfo) -> bool:
    """Tell whether the present is in the piece of time, or before it. The endpoints' clock is the real one."""
    now = datetime.now(UTC)
    if width == "hour":
        return datetime.fromisoformat(name) + timedelta(hours=1) > now
    return name >= time_name(now, width, zone)


def check_series(api: AnalyticsApi, asker: Asker) -> None:
    for order in ({}, asker.order()):
        width = asker.random.choice(TIMES)
        query, requests, start, end = asker.ask()
        answer = api.get("analytics/requests", **query, **order, **({} if width == "day" else {"group_by": width}))
        names = list_names(start, end, width, asker.zone)
        rows: dict[tuple[Any, ...], Any] = {(name,): numbers_of([]) for name in names}
        rows |= expected_rows(requests, (width,), asker.zone)
        check_rows(answer, rows, (width,), order)
        unfinished = {time_name(at, width, asker.zone) for at in (start - INSTANT, end)}
        for row in answer["data"]:
            name = row["attributes"][NAMES.get(width, width)]
            assert row["attributes"]["is_partial"] == (name in unfinished or is_running(name, width, asker.zone)), name


def check_export(api: AnalyticsApi, asker: Asker) -> None:
    query, requests, *_ = asker.ask()
    by_id = {request.id: request for request in requests}
    text = body_of(api.call("analytics/export", **query)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    objects = json.loads(body_of(api.call("analytics/export", **query, format="json")), parse_float=Decimal)
    assert sorted(row["request_id"] for row in rows) == sorted(by_id)
    assert [entry["request_id"] for entry in objects] == [row["request_id"] for row in rows]
    times = [datetime.fromisoformat(entry["timestamp"]) for entry in objects]
    assert times == sorted(times, reverse=True)
    for row, entry in zip(rows, objects, strict=True):
        request = by_id[row["request_id"]]
        told = (request.user, request.route, request.path, request.method, request.status, request.at)
        at = datetime.fromisoformat(entry["timestamp"])
        assert (*(entry[name] for name in ("user_id", "route_id", "path", "method", "status_code")), at) == told
        numbers: tuple[Any, ...] = (request.latency_ms, request.units, request.request_bytes, request.response_bytes)
        names = ("latency_ms", "metered_units", "request_bytes", "response_bytes")
        assert tuple(entry[name] for name in names) == numbers
        assert tuple(Decimal(row[name]) for name in names) == numbers
        assert (row["path"], row["metering_error"]) == (request.path or "", request.metering_error or "")


@pytest.mark.parametrize(
    ("seed", "zone"), [(1, "UTC"), (2, "America/St_Johns"), (3, "Europe/Berlin")], ids=["utc", "half hours", "berlin"]
)
def test_every_endpoint_answers_what_a_plain_count_does(
    seed: int, zone: str, org: Organization, analytics: AnalyticsApi, now: datetime
) -> None:
    Organization.objects.filter(pk=org.pk).update(zone=zone)
    requests = make_requests(seed, 250, first=FIRST, last=LAST)
    asker = Asker(Random(seed), requests, ZoneInfo(zone))
    checks = (check_summary, check_lists, check_aggregates, check_calendar, check_series, check_export)

    send(org, requests[:150], now=now)
    roll_up_organization(organization_id=org.pk, now=now)
    send(org, requests[150:], now=now)
    for check in checks:  # some rolled up, some pending
        check(analytics, asker)
    roll_up_organization(organization_id=org.pk, now=now)
    for check in checks:
        check(analytics, asker)
