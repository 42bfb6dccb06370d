"""Rollups and member sets against raw events: agreement is seen, every kind of damage is named and repaired."""

from __future__ import annotations

from datetime import datetime, timedelta
from io import StringIO
from itertools import pairwise
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.models import Organization
from metering import queries
from metering.catalogs import MetricDefinition
from metering.incoming import IncomingEvent
from metering.models import (
    Aggregation,
    Event,
    Horizon,
    Member,
    MemberSet,
    Metric,
    RollupDay,
    RollupHour,
    RollupMinute,
    Series,
)
from metering.services import rebuild
from metering.services.ingest import ingest_events
from metering.services.metrics import archive_metric, create_metric
from metering.services.retention import prune_organization
from metering.services.rollup import roll_up_organization
from metering.services.voids import void_event
from metering.sql import roll_up

pytestmark = pytest.mark.django_db

REGION = ({"key": "region", "values": None, "strict": False},)
# Eight days; on each, cust_42 has three totals and two regions in two metrics, cust_7 three totals and one region.
DAY_BUCKETS = 8 * (3 + 2 * 2 + 3 + 1 * 2)
TABLES = (RollupMinute, RollupHour, RollupDay, MemberSet)


@pytest.fixture
def usage(org: Organization, now: datetime) -> Organization:
    """An organization with usage of a week: two customers, two regions, values and members, all rolled up."""
    for code, aggregation, value_property in (
        ("bytes", Aggregation.SUM, "bytes"),
        ("users", Aggregation.COUNT_UNIQUE, "user"),
        ("requests", Aggregation.COUNT, ""),
    ):
        definition = MetricDefinition(
            code,
            aggregation,
            event_type="request",
            value_property=value_property,
            dimensions=REGION if code != "requests" else (),
        )
        create_metric(organization=org, definition=definition, actor="test")
    events = []
    for hours in range(0, 7 * 24, 5):
        events.append(request(now, hours, user=f"u{hours % 4}", region="eu" if hours % 2 else "us", bytes=hours))
        events.append(request(now, hours, customer="cust_7", user=f"u{hours % 3}", bytes=1))
    assert ingest_events(organization=org, events=events, now=now).stored == len(events)
    roll_up_organization(organization_id=org.pk, now=now)
    return org


def request(
    now: datetime,
    hours: int = 0,
    *,
    key: str = "",
    customer: str = "cust_42",
    operation: str = "add",
    **properties: Any,
) -> IncomingEvent:
    """Return an event that happened so many hours before `now`."""
    return IncomingEvent(
        idempotency_key=key or f"{customer}-{hours}",
        customer=customer,
        type="request",
        timestamp=(now - timedelta(hours=hours)).isoformat(),
        operation=operation,
        properties=properties,
    )


def verify(
    org: Organization, *, start: datetime | None = None, end: datetime | None = None
) -> list[rebuild.Difference]:
    found: list[rebuild.Difference] = []
    for each in rebuild.list_slices(organization=org, start=start, end=end):
        rebuild.verify_slice(organization=org, span=each.span, report=found.append)
    return found


def repair(org: Organization, now: datetime) -> int:
    return sum(
        rebuild.repair_slice(organization=org, span=each.span, now=now, report=lambda _: None)
        for each in rebuild.list_slices(organization=org)
    )


def contents(org: Organization) -> list[Any]:
    """Return all that is stored, apart from the ids of series, which a repair may give anew."""
    names = {series.id: (series.metric_id, series.customer_id, series.dimensions) for series in Series.objects.all()}
    stored = []
    for table in TABLES:
        rows: Any = table.objects.for_organization(org).values()
        stored.append(
            sorted(
                str((names[row["series_id"]], [_plain(row[name]) for name in sorted(row) if name != "series_id"]))
                for row in rows
            )
        )
    return stored


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def execute(statement: str) -> int:
    """Return how many rows the statement touched."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.rowcount


def test_what_the_worker_made_agrees_with_the_raw_events(usage: Organization) -> None:
    assert verify(usage) == []


def test_pending_batches_and_voided_events_are_not_missed(usage: Organization, now: datetime) -> None:
    late = [
        request(now, key="pending", user="u9", region="eu", bytes=5),
        request(now, key="voided", user="u8", region="eu", bytes=7),
    ]
    ingest_events(organization=usage, events=late, now=now)
    void_event(organization=usage, idempotency_key="voided", reason="test", actor="test", now=now)
    void_event(organization=usage, idempotency_key="cust_42-5", reason="test", actor="test", now=now)

    assert verify(usage) == []

    roll_up_organization(organization_id=usage.pk, now=now)
    assert verify(usage) == []


def test_removed_members_and_absent_dimensions_agree_too(usage: Organization, now: datetime) -> None:
    for hours, operation in ((1, "add"), (2, "remove"), (30, "remove")):
        event = request(now, hours, key=f"op-{hours}", operation=operation, user="u1")
        ingest_events(organization=usage, events=[event], now=now)
        roll_up_organization(organization_id=usage.pk, now=now)

    assert verify(usage) == []


DAMAGE = {
    "count": "UPDATE metering_rollup_hour SET event_count = event_count + 1",
    "null sum": "UPDATE metering_rollup_day SET value_sum = NULL WHERE value_sum IS NOT NULL",
    "latest": "UPDATE metering_rollup_minute SET last_offset = last_offset - 1",
    "missing": "DELETE FROM metering_rollup_day",
    "missing set": "DELETE FROM metering_member_set WHERE width = 'd'",
    "wrong set": "UPDATE metering_member_set SET removed = added WHERE width = 'h'",
    "extra": """
        INSERT INTO metering_rollup_hour (organization_id, series_id, bucket_start, event_count, last_at, last_offset)
        SELECT organization_id, series_id, bucket_start + interval '1 hour', 1, last_at, last_offset
        FROM metering_rollup_hour
    """,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_every_damaged_row_is_reported_and_repaired(usage: Organization, now: datetime, damage: str) -> None:
    sound = contents(usage)
    damaged = execute(damage)

    assert len(verify(usage)) == damaged > 0
    assert contents(usage) != sound  # verifying repairs nothing

    assert repair(usage, now) == damaged
    assert verify(usage) == []
    assert contents(usage) == sound


@pytest.mark.parametrize("table", ["metering_series", "metering_member", *(table._meta.db_table for table in TABLES)])
def test_loss_of_a_whole_table_is_repaired(usage: Organization, now: datetime, table: str) -> None:
    sound = contents(usage)
    execute(f"DELETE FROM {table}")
    assert verify(usage)

    repair(usage, now)

    assert verify(usage) == []
    assert contents(usage) == sound


def test_difference_names_its_bucket_and_both_sides(usage: Organization, now: datetime) -> None:
    metric = Metric.objects.get(code="bytes")
    series = Series.objects.get(metric=metric, dimensions=["eu"])
    bucket = now.replace(hour=7)
    RollupHour.objects.filter(series_id=series.id, bucket_start=bucket).update(event_count=4, value_sum="12.5")

    [difference] = verify(usage)

    reading = f'("{bucket:%Y-%m-%d %H:%M:%S}+00",'
    assert (difference.table, difference.metric, difference.customer) == ("metering_rollup_hour", "bytes", "cust_42")
    assert (difference.dimensions, difference.bucket_start) == ({"region": "eu"}, bucket)
    assert difference.stored.startswith(f"4 events, sum 12.5, min 5, max 5, last {reading}")
    assert difference.counted.startswith(f"1 events, sum 5, min 5, max 5, last {reading}")


def test_repaired_numbers_are_what_a_read_then_answers(usage: Organization, now: datetime) -> None:
    metric = Metric.objects.get(code="users")
    span: dict[str, Any] = {"start": now - timedelta(days=9), "end": now + timedelta(days=1)}
    before = queries.get_usage(organization=usage, metric=metric, **span)
    Member.objects.for_organization(usage).delete()
    for table in (*TABLES, Series):
        table.objects.for_organization(usage).delete()
    assert queries.get_usage(organization=usage, metric=metric, **span).value == 0

    repair(usage, now)

    assert queries.get_usage(organization=usage, metric=metric, **span) == before
    assert before.value == 4


def test_history_of_an_archived_metric_is_checked(usage: Organization, now: datetime) -> None:
    metric = Metric.objects.get(code="requests")
    archive_metric(organization=usage, metric=metric, actor="test", now=now)
    execute("DELETE FROM metering_rollup_day")

    assert "requests" in {difference.metric for difference in verify(usage)}


def test_only_the_days_of_the_range_are_looked_at(usage: Organization, now: datetime) -> None:
    execute("UPDATE metering_rollup_day SET event_count = event_count + 1")
    noon = now - timedelta(days=2)

    found = verify(usage, start=noon, end=noon + timedelta(microseconds=1))

    assert {difference.bucket_start for difference in found} == {noon.replace(hour=0)}


def test_nothing_is_expected_beyond_the_horizon(usage: Organization, now: datetime) -> None:
    execute("UPDATE metering_event SET received_at = occurred_at")
    usage.raw_retention_days = 4
    usage.save()
    prune_organization(organization=usage, now=now)
    prune_organization(organization=usage, now=now)
    horizon = Horizon.objects.for_organization(usage).get()
    assert not Event.objects.for_organization(usage).filter(occurred_at__lt=horizon.raw_from).exists()
    days_before = RollupDay.objects.for_organization(usage).filter(bucket_start__lt=horizon.raw_from).count()

    assert verify(usage) == []
    assert repair(usage, now) == 0

    assert days_before > 0
    assert RollupDay.objects.for_organization(usage).filter(bucket_start__lt=horizon.raw_from).count() == days_before


def test_before_the_first_rollup_there_is_nothing_to_differ(org: Organization, now: datetime) -> None:
    definition = MetricDefinition("requests", Aggregation.COUNT, event_type="request")
    create_metric(organization=org, definition=definition, actor="test")
    ingest_events(organization=org, events=[request(now)], now=now)

    assert verify(org) == []
    assert repair(org, now) == 0


def test_buckets_of_no_metric_are_orphans(usage: Organization, now: datetime) -> None:
    execute(
        "INSERT INTO metering_rollup_day (organization_id, series_id, bucket_start, event_count, last_at, last_offset) "
        "SELECT organization_id, 999999, bucket_start, event_count, last_at, last_offset "
        "FROM metering_rollup_day LIMIT 1"
    )

    assert [(found.metric, found.counted) for found in verify(usage)] == [("", "nothing")]

    assert repair(usage, now) == 1
    assert verify(usage) == []


def test_other_organizations_are_left_alone(usage: Organization, other_org: Organization, now: datetime) -> None:
    execute("UPDATE metering_rollup_day SET event_count = event_count + 1")

    assert verify(other_org) == []
    assert repair(other_org, now) == 0
    assert verify(usage)


def test_slices_are_bounded_and_cover_every_day(usage: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "SLICE_EVENTS", 25)

    slices = rebuild.list_slices(organization=usage)

    assert sum(each.event_count for each in slices) == Event.objects.for_organization(usage).count()
    assert max(each.event_count for each in slices) <= 25
    assert all(first.span.end <= second.span.start for first, second in pairwise(slices))
    assert verify(usage) == []


class TestCommand:
    def test_verify_succeeds_when_all_agrees(self, usage: Organization) -> None:
        assert run("--verify", "--organization", str(usage.pk)) == "Rollups and raw events agree.\n"

    def test_verify_prints_differences_and_fails(self, usage: Organization) -> None:
        execute("DELETE FROM metering_rollup_day")
        output = StringIO()

        with pytest.raises(CommandError, match=f"{DAY_BUCKETS} stored buckets differ") as failure:
            call_command("rebuild_rollups", "--verify", stdout=output)

        assert failure.value.returncode == 1
        lines = output.getvalue().splitlines()
        assert len(lines) == DAY_BUCKETS
        assert all("stored: nothing" in line for line in lines)

    def test_only_the_first_differences_are_printed(self, usage: Organization) -> None:
        execute("DELETE FROM metering_rollup_day")

        lines = run("--limit", "3").splitlines()

        assert lines[3:] == [f"… and {DAY_BUCKETS - 3} more", f"{DAY_BUCKETS} buckets were repaired."]

    def test_without_verify_it_repairs(self, usage: Organization) -> None:
        execute("DELETE FROM metering_rollup_day")

        assert run().endswith(f"{DAY_BUCKETS} buckets were repaired.\n")
        assert run("--verify").endswith("Rollups and raw events agree.\n")

    def test_range_is_given_as_dates_or_times(self, usage: Organization, now: datetime) -> None:
        execute("DELETE FROM metering_rollup_day")

        assert run("--verify", "--from", "2031-01-01").endswith("agree.\n")
        assert run("--verify", "--to", "2020-01-01T00:00:00+02:00").endswith("agree.\n")
        with pytest.raises(CommandError, match="before --to"):
            run("--from", "2026-01-02", "--to", "2026-01-01")
        with pytest.raises(CommandError, match="RFC 3339"):
            run("--from", "yesterday")

    def test_unknown_organization_is_refused(self, db: None) -> None:
        with pytest.raises(CommandError, match="no organization 12345"):
            run("--organization", "12345")


def run(*arguments: str) -> str:
    output = StringIO()
    call_command("rebuild_rollups", *arguments, stdout=output)
    return output.getvalue()


@pytest.mark.django_db(transaction=True)
def test_repair_waits_for_whoever_changes_the_rollups(usage: Organization, now: datetime) -> None:
    """A second connection holds the rollup lock: repairing does not begin before it lets go."""
    execute("DELETE FROM metering_rollup_day")
    rival = connection.copy()
    with rival.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", [roll_up.ROLLUP_LOCK, usage.pk])
        execute("SET lock_timeout = '200ms'")
        with pytest.raises(Exception, match="lock timeout"):
            repair(usage, now)
        assert verify(usage)  # takes no lock
        cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [roll_up.ROLLUP_LOCK, usage.pk])
    rival.close()
    execute("RESET lock_timeout")

    assert repair(usage, now) == DAY_BUCKETS
    assert verify(usage) == []
