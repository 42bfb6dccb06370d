"""Rows of `metering.sql.usage`, and the indexes by which they are found in a table of real size."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from metering.domain import Cut, Cutoff, Granularity, Span
from metering.queries import get_series, iterate_counted_events, list_breakdown, list_customer_groups
from metering.sql import usage
from metering.sql.usage import Selection
from tests import factories
from tests.metering.meter import Meter, utc
from tests.metering.rows import explain

TEN, ELEVEN, TWELVE = utc(2026, 11, 20, 10), utc(2026, 11, 20, 11), utc(2026, 11, 20, 12)


def event(value: Any, at: datetime, customer: str = "ann", **properties: Any) -> dict[str, Any]:
    sent = {"customer": customer, "type": "m", "value": value, "timestamp": at.isoformat()}
    return {**sent, "properties": properties}


@pytest.mark.django_db
class TestCells:
    @pytest.fixture
    def meter(self, meter: Meter) -> Meter:
        """Two hours of events, the first batch rolled up and the second pending."""
        meter.define("m", "sum", dimensions=["region"])
        meter.send_all(event(1, TEN, region="us"), event(2, ELEVEN, region="us"), event(4, TEN, "bob", region="eu"))
        meter.roll_up()
        meter.send_all(event(8, TEN, region="us"), event(16, ELEVEN + timedelta(minutes=1), region="eu"))
        return meter

    def cells(self, meter: Meter, *, edges: list[datetime], cut: Cut, **selection: Any) -> set[tuple[Any, ...]]:
        """Return (customer, group, bucket, count, sum, last value) of every cell."""
        lines = usage.list_cells(
            Selection(meter.metrics["m"], **selection), span=Span(edges[0], TWELVE), edges=edges, cut=cut
        )
        names = {meter.customer_id(name): name for name in ("ann", "bob")}
        return {
            (names.get(line.customer_id or 0), *line.group, bucket, cell.count, cell.sum, cell.last_value)
            for line in lines
            for bucket, cell in zip(line.buckets, line.cells(), strict=False)
        }

    def test_one_cell_per_bucket_with_rollups_and_tail_added_up(self, meter: Meter) -> None:
        hours = Cut(hours=[Span(TEN, TWELVE)])

        assert self.cells(meter, edges=[TEN], cut=hours) == {(None, 1, 5, Decimal(31), Decimal(16))}
        assert self.cells(meter, edges=[TEN, ELEVEN], cut=hours) == {
            (None, 1, 3, Decimal(13), Decimal(8)),
            (None, 2, 2, Decimal(18), Decimal(16)),
        }

    def test_raw_pieces_answer_like_rollups_and_not_for_the_tail_again(self, meter: Meter) -> None:
        by_rollup = self.cells(meter, edges=[TEN, ELEVEN], cut=Cut(hours=[Span(TEN, TWELVE)]), is_per_customer=True)
        by_raw = self.cells(meter, edges=[TEN, ELEVEN], cut=Cut(raw=[Span(TEN, TWELVE)]), is_per_customer=True)
        mixed = Cut(hours=[Span(ELEVEN, TWELVE)], raw=[Span(TEN, ELEVEN)])

        assert by_rollup == by_raw == self.cells(meter, edges=[TEN, ELEVEN], cut=mixed, is_per_customer=True)
        assert by_rollup == {
            ("ann", 1, 2, Decimal(9), Decimal(8)),
            ("ann", 2, 2, Decimal(18), Decimal(16)),
            ("bob", 1, 1, Decimal(4), Decimal(4)),
        }

    def test_groups_and_filters_read_the_combinations(self, meter: Meter) -> None:
        hours = Cut(hours=[Span(TEN, TWELVE)])

        assert self.cells(meter, edges=[TEN], cut=hours, group_by=["region"]) == {
            (None, "us", 1, 3, Decimal(11), Decimal(2)),
            (None, "eu", 1, 2, Decimal(20), Decimal(16)),
        }
        assert self.cells(meter, edges=[TEN], cut=hours, filters={"region": ["eu"]}, is_per_customer=True) == {
            ("ann", 1, 1, Decimal(16), Decimal(16)),
            ("bob", 1, 1, Decimal(4), Decimal(4)),
        }
        customers = [meter.customer_id("bob")]
        assert self.cells(meter, edges=[TEN], cut=hours, customer_ids=customers) == {
            (None, 1, 1, Decimal(4), Decimal(4))
        }

    def test_what_was_known_needs_no_rollup(self, meter: Meter) -> None:
        nothing = Cut(raw=[Span(TEN, TWELVE)])

        known = self.cells(meter, edges=[TEN], cut=nothing, as_of=meter.now)
        before = self.cells(meter, edges=[TEN], cut=nothing, as_of=meter.now - timedelta(microseconds=1))

        assert known == {(None, 1, 5, Decimal(31), Decimal(16))}
        assert before == set()


@pytest.mark.django_db
def test_operations_come_in_the_order_of_time_and_arrival_with_their_numbers(meter: Meter) -> None:
    metric = meter.define("m", "count_unique", dimensions=["region"])
    meter.send_all(event("b", ELEVEN, region="us"), event("a", ELEVEN))
    meter.roll_up()
    meter.send_all(event("new", TEN), {**event("a", ELEVEN), "operation": "remove"})
    ann = meter.customer_id("ann")

    rows = usage.list_operations(
        Selection(metric, group_by=["region"]), span=Span(TEN, TWELVE), raw=[Span(TEN, TWELVE)]
    )

    assert [(row.customer_id, row.group, row.occurred_at, row.operation, row.member, row.number) for row in rows] == [
        (ann, [None], TEN, 0, "new", None),
        (ann, ["us"], ELEVEN, 0, "b", 1),
        (ann, [None], ELEVEN, 0, "a", 0),
        (ann, [None], ELEVEN, 1, "a", 0),
    ]


ROLLED_EVENTS = 50_000
# How a statement may reach the tables that grow; anything else reads more than it answers.
PROBES = {
    "metering_event": {"event_by_offset", "event_by_customer_time", "event_by_time"},
    "metering_rollup_minute": {"metering_rollup_minute_pkey"},
    "metering_rollup_hour": {"metering_rollup_hour_pkey"},
    "metering_rollup_day": {"metering_rollup_day_pkey"},
    "metering_member_set": {"metering_member_set_pkey"},
    "metering_member": {"metering_member_pkey"},
    "metering_ingestbatch": {"batch_pending"},
}


@pytest.fixture(scope="module")
def large(django_db_setup: None, django_db_blocker: Any) -> Iterator[Meter]:
    """Over 50,000 events, the last 2,000 pending; rolled up and analyzed, as autovacuum would have."""
    with django_db_blocker.unblock():
        owner = factories.make_user()
        meter = Meter(factories.make_organization(name="Large", owner=owner), utc(2026, 11, 20, 12))
        meter.define("m", "sum", dimensions=["region"])
        meter.define("seats", "count_unique", event_type="m", value_property="seat", dimensions=["region"])
        for first in range(0, ROLLED_EVENTS, 5000):
            meter.send_all(*[_numbered_event(meter.now, number) for number in range(first, first + 5000)])
        meter.roll_up()
        meter.send_all(*[_numbered_event(meter.now, number) for number in range(2000)])
        with connection.cursor() as cursor:
            # As many batches as senders of small ones leave behind.
            cursor.execute(
                "INSERT INTO metering_ingestbatch (organization_id, id, state, event_count, feed_ids, received_at) "
                "SELECT organization_id, nextval('metering_ingestbatch_id_seq'), 1, 1, feed_ids, received_at "
                "FROM metering_ingestbatch, generate_series(1, 2000) WHERE organization_id = %s AND state = 1",
                [meter.organization.pk],
            )
            for table in (*PROBES, "metering_series", "metering_feed"):
                cursor.execute(f"VACUUM ANALYZE {table}")
        yield meter
        with connection.cursor() as cursor:
            for table in (*PROBES, "metering_series"):
                cursor.execute(f"DELETE FROM {table} WHERE organization_id = %s", [meter.organization.pk])
        meter.organization.delete()
        owner.delete()


def _numbered_event(now: datetime, number: int) -> dict[str, Any]:
    at = now - timedelta(minutes=number % 43_200)
    return event(1, at, f"c{number % 50}", region=f"r{number % 4}", seat=f"s{number % 3000}")


@pytest.mark.django_db
@pytest.mark.parametrize("code", ["m", "seats"])
@pytest.mark.parametrize("customer", ["c7", None], ids=["one customer", "all customers"])
@pytest.mark.parametrize("filters", [{}, {"region": ["r1"]}], ids=["unfiltered", "filtered"])
def test_every_read_of_a_large_table_probes_indexes_alone(
    large: Meter, code: str, customer: str | None, filters: dict[str, list[str]]
) -> None:
    start, end = utc(2026, 11, 1, 0, 0, 30), utc(2026, 11, 20, 11, 30, 30)
    names: dict[str, Any] = {
        "organization": large.organization,
        "metric": large.metrics[code],
        "start": start,
        "end": end,
        "customer_id": customer and large.customer_id(customer),
        "filters": filters,
    }

    for reached in (
        explain(lambda: list_breakdown(group_by=(), **names)),
        explain(lambda: list_breakdown(group_by=["region"], **names)),
        explain(lambda: get_series(granularity=Granularity.DAY, zone="Asia/Kolkata", now=large.now, **names)),
    ):
        assert "event_by_offset" in reached["metering_event"], "the tail, batch by batch"
        for table, ways in reached.items():
            assert ways <= PROBES.get(table, ways), f"{table}: {ways}"


@pytest.mark.django_db
@pytest.mark.parametrize("code", ["m", "seats"])
@pytest.mark.parametrize("as_of", [None, Cutoff(2**40, utc(2026, 11, 20, 12))], ids=["now", "at a cut-off"])
def test_reads_by_customer_and_of_their_events_probe_indexes_alone(large: Meter, code: str, as_of: Any) -> None:
    names: dict[str, Any] = {
        "organization": large.organization,
        "metric": large.metrics[code],
        "start": utc(2026, 11, 1, 0, 0, 30),
        "end": utc(2026, 11, 20, 11, 30, 30),
        "as_of": as_of,
    }
    one = large.customer_id("c7")
    several = [large.customer_id(f"c{number}") for number in range(10)]

    for reached in (
        explain(lambda: list_customer_groups(group_by=["region"], customer_ids=[one], **names)),
        explain(lambda: list_customer_groups(group_by=["region"], customer_ids=several, **names)),
        explain(lambda: list_customer_groups(group_by=[], customer_ids=several, **names)),
    ):
        for table, ways in reached.items():
            assert ways <= PROBES.get(table, ways), f"{table}: {ways}"
    reached = explain(lambda: iterate_counted_events(customer_id=one, limit=100, **names))
    assert reached["metering_event"] == {"event_by_customer_time"}
