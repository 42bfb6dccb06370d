"""Distinct counts: a million members over a year, exactly, for every day of it.

Half of the events bring each of the million members once; the other half come from 50,000 that are active all year.
"""

from __future__ import annotations

from datetime import datetime

from django.db import connection

from benchmarks.history import YEAR, History
from benchmarks.installation import Installation
from benchmarks.load import LoadFailed
from benchmarks.reads import Read, fetch_value, moment_text, usage_path
from benchmarks.tenant import create_tenant
from benchmarks.workload import EVENT_TYPE
from metering.catalogs import MetricDefinition
from metering.models import Aggregation

METRIC = "active_members"
MEMBERS = MetricDefinition(code=METRIC, aggregation=Aggregation.COUNT_UNIQUE, event_type=EVENT_TYPE)
MEMBER_OF_NUMBER = """
    'member-' || CASE WHEN mod(number, 2) = 0 THEN number / 2 ELSE mod(abs(hashint8(number)::bigint), 50000) END
"""


def plan_history(*, member_count: int, now: datetime) -> History:
    tenant = create_tenant(f"{member_count:,} members", MEMBERS)
    return History(tenant, 2 * member_count, now, value="NULL", member=MEMBER_OF_NUMBER)


def list_reads(now: datetime) -> list[Read]:
    year = {"from": moment_text(now - YEAR), "to": moment_text(now), "granularity": "day"}
    return [
        Read("distinct: the month so far", [usage_path("realtime", metric=METRIC)]),
        Read(
            "distinct: month to date, daily for a year",
            [usage_path("series", metric=METRIC, mode="month_to_date", **year)],
        ),
        Read(
            "distinct: rolling 30 days, daily for a year",
            [usage_path("series", metric=METRIC, mode="rolling_30d", **year)],
        ),
        Read("distinct: the whole year", [usage_path("", metric=METRIC, **{"from": year["from"], "to": year["to"]})]),
    ]


def check_against_raw(installation: Installation, history: History) -> None:
    """Refuse figures of wrong answers: the year's members over HTTP must be those of the raw events."""
    path = usage_path("", metric=METRIC, **{"from": moment_text(history.start), "to": moment_text(history.now)})
    value = fetch_value(installation, history, path)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT member) FROM metering_event "
            "WHERE organization_id = %s AND occurred_at >= %s AND occurred_at < %s",
            [history.tenant.organization.pk, history.start, history.now],
        )
        expected: int = cursor.fetchone()[0]
    if value != expected:
        raise LoadFailed(f"The server counts {value} members, the raw events name {expected}.")
