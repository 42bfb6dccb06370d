"""Distinct counts and reports: a million members over a year, exactly, for every day of it and split three ways.

One customer's contexts, seen by six SDKs of two projects with two environments each, and beside them some usage of
every other metric of the catalog. Four fifths of the context events bring each member once; the others come from 50,000
members that are active all year. Reports read rollups and member sets, whose number is that of days and combinations
of dimensions, however many events they stand for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import combinations, cycle, islice, product
from typing import Any
from urllib.parse import urlencode

import msgspec
from django.db import connection

from benchmarks.history import YEAR, History
from benchmarks.installation import Installation
from benchmarks.load import Connection, LoadFailed
from benchmarks.reads import Read, fetch, fetch_value, moment_text, usage_path
from benchmarks.report import Measurement, latencies
from benchmarks.tenant import ACTOR, Tenant
from common.redis import redis_client
from metering.catalogs import CATALOGS
from metering.feeds import list_feed_ids
from metering.models import Aggregation, Metric
from metering.queries.member_counts import PREFIX
from metering.services.metrics import install_catalog
from usage_reports.launchdarkly.endpoints import ENDPOINTS, Answer, Endpoint

CATALOG = "launchdarkly"
CONTEXTS = "ld_contexts"
# Of every other metric; enough for each combination of its dimensions to occur on every day.
OTHER_EVENTS = 30_000
MEMBER_OF_NUMBER = """
    'member-' || CASE WHEN mod(number, 5) < 4 THEN number / 5 * 4 + mod(number, 5)
                      ELSE mod(abs(hashint8(number)::bigint), 50000) END
"""
# Name, type and application id of an SDK, and the category of its contexts.
SDKS = (
    ("js-client", "client", "web", "browser"),
    ("react", "client", "shop", "browser"),
    ("ios", "client", "phone", "mobile"),
    ("android", "client", "phone", "mobile"),
    ("go-server", "server", "gateway", "backend"),
    ("python-server", "server", "worker", "backend"),
)
PROJECTS, ENVIRONMENTS = ("web", "app"), ("production", "test")
# Other dimensions take two values each, but no metric more than so many combinations.
MAX_COMBINATIONS = 48
GROUPS_AT_ONCE = 3
# Kinds of questions per endpoint: so many sets of groups, in each aggregation.
MAX_GROUP_SETS = 3
REPEATS = 100
FIRST = "asked first, p50 ms"
PATH_VALUES = {
    "projectKey": PROJECTS[0],
    "environmentKey": ENVIRONMENTS[0],
    "featureFlagKey": "flagKey-0",
    "type": "received",
    "source": "client",
}


def list_histories(tenant: Tenant, *, member_count: int, now: datetime) -> list[History]:
    """Return what to write into the tenant's organization: the contexts first."""
    install_catalog(organization=tenant.organization, name=CATALOG, actor=ACTOR)
    return [
        _plan(tenant, definition.code, member_count=member_count, now=now) for definition in CATALOGS[CATALOG].metrics
    ]


def _plan(tenant: Tenant, code: str, *, member_count: int, now: datetime) -> History:
    metric = Metric.objects.for_organization(tenant.organization).get(code=code)
    name, number = next(iter(tenant.customer_ids.items()))
    own = replace(tenant, metric=metric, feed_id=list_feed_ids(metric)[0], customer_ids={name: number})
    is_distinct = metric.aggregation == Aggregation.COUNT_UNIQUE
    return History(
        own,
        member_count * 5 // 4 if code == CONTEXTS else OTHER_EVENTS,
        now,
        value="NULL" if is_distinct else "mod(number, 100)::numeric / 4",
        own_properties=f"jsonb_build_object('contextKey', {MEMBER_OF_NUMBER})" if is_distinct else "'{}'::jsonb",
        properties=_list_context_properties() if code == CONTEXTS else _list_properties(metric),
    )


def _list_context_properties() -> list[str]:
    return [
        _json(
            projectKey=project,
            environmentKey=environment,
            contextKind=kind,
            sdkName=sdk,
            sdkType=type_,
            sdkAppId=app,
            category=category,
            anonymous=anonymous,
        )
        for project, environment, kind, (sdk, type_, app, category), anonymous in product(
            PROJECTS, ENVIRONMENTS, ("user", "user", "device"), SDKS, ("true", "false")
        )
    ]


def _list_properties(metric: Metric) -> list[str]:
    keys = [dimension["key"] for dimension in metric.dimensions]
    values = [
        (dimension["values"] or [f"{dimension['key']}-{n}" for n in range(2)])[:2] for dimension in metric.dimensions
    ]
    places = {"projectKey": PROJECTS, "environmentKey": ENVIRONMENTS}
    several = product(*(places.get(key, default) for key, default in zip(keys, values, strict=True)))
    return [_json(**dict(zip(keys, one, strict=True))) for one in islice(several, MAX_COMBINATIONS)]


def _json(**properties: str) -> str:
    return msgspec.json.encode(properties).decode()


# --- native reads ---------------------------------------------------------------------------------------------


def list_distinct_reads(now: datetime) -> list[Read]:
    year = {"from": moment_text(now - YEAR), "to": moment_text(now), "granularity": "day"}
    return [
        Read("the month so far", [usage_path("realtime", metric=CONTEXTS)]),
        Read("month to date, daily for a year", [usage_path("series", metric=CONTEXTS, mode="month_to_date", **year)]),
        Read("rolling 30 days, daily for a year", [usage_path("series", metric=CONTEXTS, mode="rolling_30d", **year)]),
        Read("the whole year", [usage_path("", metric=CONTEXTS, **{"from": year["from"], "to": year["to"]})]),
    ]


def check_against_raw(installation: Installation, history: History) -> None:
    """Refuse figures of wrong answers: the year's members over HTTP must be those of the raw events."""
    path = usage_path("", metric=CONTEXTS, **{"from": moment_text(history.start), "to": moment_text(history.now)})
    value = fetch_value(installation, history, path)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT properties ->> 'contextKey') FROM metering_event "
            "WHERE organization_id = %s AND feed_id = %s AND occurred_at >= %s AND occurred_at < %s",
            [history.tenant.organization.pk, history.tenant.feed_id, history.start, history.now],
        )
        expected: int = cursor.fetchone()[0]
    if value != expected:
        raise LoadFailed(f"The server counts {value} members, the raw events name {expected}.")


# --- report endpoints -----------------------------------------------------------------------------------------


def measure_endpoints(
    installation: Installation,
    tenant: Tenant,
    endpoints: Sequence[Endpoint],
    *,
    part: str,
    now: datetime,
    seconds: float,
) -> Iterator[Measurement]:
    """Yield one line per endpoint: every kind of question first with nothing remembered, then again in turn."""
    http = Connection(installation.port, tenant.api_key)
    for endpoint in endpoints:
        paths = list(_list_paths(endpoint, now))
        _forget()
        first = [_time(http, path) for path in paths]
        later: list[float] = []
        deadline = time.perf_counter() + seconds
        for path in cycle(paths):
            if time.perf_counter() > deadline or len(later) >= REPEATS:
                break
            later.append(_time(http, path))
        figures = {
            "questions": len(paths),
            **latencies([*first, *later]),
            FIRST: latencies(first)["p50 ms"],
            "asked first, slowest ms": round(max(first), 2),
        }
        yield Measurement(part, endpoint.path, figures)
    http.close()


def list_distinct_endpoints() -> list[Endpoint]:
    return [row for row in ENDPOINTS if row.metric == CONTEXTS and row.answer == Answer.SERIES]


def _time(http: Connection, path: str) -> float:
    started = time.perf_counter()
    fetch(http, path)
    return (time.perf_counter() - started) * 1000


def _forget() -> None:
    """Forget the counts that earlier questions left in Redis."""
    client = redis_client()
    for key in client.scan_iter(f"{PREFIX}*", count=1000):
        client.delete(key)


def _list_paths(endpoint: Endpoint, now: datetime) -> Iterator[str]:
    """Yield a year by day in every aggregation, split by several sets of three groups where there are three."""
    path = "/api/v2/usage/" + endpoint.path.format_map(PATH_VALUES)
    year = {} if endpoint.range.is_fixed else {"from": _milliseconds(now - YEAR), "to": _milliseconds(now)}
    names = [group.name for group in endpoint.groups]
    sets = list(islice(combinations(names, min(GROUPS_AT_ONCE, len(names))), MAX_GROUP_SETS))
    for aggregation in endpoint.aggregations or (None,):
        query: dict[str, Any] = dict(year)
        if aggregation is not None and endpoint.has_aggregation_parameter:
            query["aggregationType"] = aggregation.name
        for groups in sets:
            yield f"{path}?{urlencode(query | {endpoint.group_parameter: groups}, doseq=True)}"


def _milliseconds(moment: datetime) -> str:
    return str(int(moment.timestamp() * 1000))
