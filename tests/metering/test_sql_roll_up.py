"""Rows of `metering.sql.roll_up`: series and buckets after a rollup, and which batches it claims."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from metering.models import BatchState, IngestBatch, Series, UsageChange
from metering.services.rollup import RolledUp, roll_up_chunk
from metering.sql import roll_up
from tests.metering.meter import Meter
from tests.metering.rows import rollup_rows, series_names, table_rows

pytestmark = pytest.mark.django_db


def event(value: Any, at: str, **fields: Any) -> dict[str, Any]:
    return {"customer": "ann", "type": "m", "value": value, "timestamp": at, **fields}


def test_each_width_has_one_row_per_series_and_bucket(meter: Meter) -> None:
    meter.define("m", "sum", dimensions=["region"])

    meter.send_all(
        event("5", "2026-11-20T10:00:00Z", properties={"region": "us"}),
        event("-2", "2026-11-20T10:00:59.999999Z", properties={"region": "eu"}),
        event("1", "2026-11-20T10:01:00Z"),
        event("9", "2026-11-19T23:59:59Z", customer="bob", properties={"region": "us"}),
    )
    meter.roll_up()

    ann, bob = "m/ann", "m/bob"
    assert rollup_rows(meter.organization, "minute") == {
        (ann, "11-20 10:00"): (2, 3, -2, 5, -2, "11-20 10:00:59"),
        (ann, "11-20 10:01"): (1, 1, 1, 1, 1, "11-20 10:01:00"),
        (f"{ann}/us", "11-20 10:00"): (1, 5, 5, 5, 5, "11-20 10:00:00"),
        (f"{ann}/eu", "11-20 10:00"): (1, -2, -2, -2, -2, "11-20 10:00:59"),
        (f"{ann}/None", "11-20 10:01"): (1, 1, 1, 1, 1, "11-20 10:01:00"),
        (bob, "11-19 23:59"): (1, 9, 9, 9, 9, "11-19 23:59:59"),
        (f"{bob}/us", "11-19 23:59"): (1, 9, 9, 9, 9, "11-19 23:59:59"),
    }
    assert rollup_rows(meter.organization, "hour") == {
        (ann, "11-20 10:00"): (3, 4, -2, 5, 1, "11-20 10:01:00"),
        (f"{ann}/us", "11-20 10:00"): (1, 5, 5, 5, 5, "11-20 10:00:00"),
        (f"{ann}/eu", "11-20 10:00"): (1, -2, -2, -2, -2, "11-20 10:00:59"),
        (f"{ann}/None", "11-20 10:00"): (1, 1, 1, 1, 1, "11-20 10:01:00"),
        (bob, "11-19 23:00"): (1, 9, 9, 9, 9, "11-19 23:59:59"),
        (f"{bob}/us", "11-19 23:00"): (1, 9, 9, 9, 9, "11-19 23:59:59"),
    }
    days = rollup_rows(meter.organization, "day")
    assert days[ann, "11-20 00:00"] == (3, 4, -2, 5, 1, "11-20 10:01:00")
    assert len(days) == 6


def test_a_later_batch_adds_to_what_the_bucket_holds(meter: Meter) -> None:
    meter.define("m", "sum")
    meter.send_all(event("5", "2026-11-20T10:00:30Z"), event("3", "2026-11-20T10:00:40Z"))
    meter.roll_up()

    meter.send_all(
        event("10", "2026-11-20T10:00:10Z"),  # greater, but earlier: the maximum, not the last
        event("-1", "2026-11-20T10:00:40Z"),  # at the instant of the last: the later arrival is
    )
    meter.roll_up()

    bucket = (4, 17, -1, 10, -1, "11-20 10:00:40")
    assert rollup_rows(meter.organization, "minute") == {("m/ann", "11-20 10:00"): bucket}
    assert rollup_rows(meter.organization, "hour") == {("m/ann", "11-20 10:00"): bucket}
    assert rollup_rows(meter.organization, "day") == {("m/ann", "11-20 00:00"): bucket}


def test_before_the_horizon_there_are_no_minutes(meter: Meter) -> None:
    meter.define("m", "sum")

    meter.send_all(event("1", "2026-11-16T23:59:59.999999Z"), event("2", "2026-11-17T00:00:00Z"))
    meter.roll_up()

    assert set(rollup_rows(meter.organization, "minute")) == {("m/ann", "11-17 00:00")}
    assert set(rollup_rows(meter.organization, "hour")) == {("m/ann", "11-16 23:00"), ("m/ann", "11-17 00:00")}


def test_events_without_a_number_count_and_sum_to_nothing(meter: Meter) -> None:
    meter.define("seats", "count_unique", event_type="m")
    meter.define("calls", "count", event_type="m")

    meter.send_all(event("s1", "2026-11-20T10:00:00Z"))
    meter.roll_up()

    assert rollup_rows(meter.organization, "day") == {
        ("seats/ann", "11-20 00:00"): (1, None, None, None, None, "11-20 10:00:00"),
        ("calls/ann", "11-20 00:00"): (1, 1, 1, 1, 1, "11-20 10:00:00"),
    }


def test_series_are_created_once_and_tell_null_from_its_name(meter: Meter) -> None:
    meter.define("m", "sum", dimensions=["region", "tier"])
    at = "2026-11-20T10:00:00Z"
    for _ in range(2):
        meter.send_all(
            event(1, at),
            event(1, at, properties={"region": "NULL"}),
            event(1, at, properties={"region": ""}),
            event(1, at, properties={"region": "a,b"}),
            event(1, at, properties={"region": "a", "tier": "b"}),
            event(1, at, properties={"region": 'a","b'}),
        )
        meter.roll_up()

    series = Series.objects.for_organization(meter.organization).exclude(dimensions=None)
    assert {tuple(values) for values in series.values_list("dimensions", flat=True)} == {
        (None, None),
        ("NULL", None),
        ("", None),
        ("a,b", None),
        ("a", "b"),
        ('a","b', None),
    }
    assert len(series_names(meter.organization)) == 7
    assert {row[2] for name, row in rollup_rows(meter.organization, "day").items() if name[0] != "m/ann"} == {1}
    assert {row[0] for name, row in rollup_rows(meter.organization, "day").items() if name[0] != "m/ann"} == {2}


def test_claims_the_oldest_batches_up_to_a_number_of_events(meter: Meter) -> None:
    meter.define("m", "sum")
    for _ in range(4):
        meter.send_all(*[event(1, "2026-11-20T10:00:00Z") for _ in range(3)])
    ids = [row[0] for row in table_rows(meter.organization, "metering_ingestbatch", "id")]

    def claim(max_batches: int, max_events: int) -> list[int]:
        batches = roll_up.claim_batches(
            organization_id=meter.organization.pk, max_batches=max_batches, max_events=max_events
        )
        assert all(batch.event_count == 3 for batch in batches)
        return [batch.id for batch in batches]

    assert claim(100, 100) == ids
    assert claim(2, 100) == ids[:2]
    assert claim(100, 1) == ids[:1], "at least one, however large"
    assert claim(100, 6) == ids[:2]
    assert claim(100, 7) == ids[:3]
    IngestBatch.objects.for_organization(meter.organization).filter(id=ids[0]).update(state=BatchState.ROLLED)
    assert claim(1, 100) == ids[1:2]


def test_a_chunk_records_what_it_changed(meter: Meter, now: datetime) -> None:
    first, second = meter.define("first", "sum", event_type="m"), meter.define("second", "max", event_type="m")
    meter.send_all(event(1, "2026-11-20T10:00:00Z"), event(1, "2026-11-20T10:00:00Z", customer="bob"))
    rolled = RolledUp()

    assert roll_up_chunk(organization_id=meter.organization.pk, now=now, rolled=rolled)
    assert not roll_up_chunk(organization_id=meter.organization.pk, now=now + timedelta(hours=1), rolled=rolled)

    customers = [meter.customer_id(name) for name in ("ann", "bob")]
    assert (rolled.batches, rolled.events) == (1, 2)
    [change] = UsageChange.objects.for_organization(meter.organization)
    assert set(zip(change.metric_ids, change.customer_ids, strict=True)) == set(
        product([first.pk, second.pk], customers)
    )
    assert change.earliest <= datetime(2026, 11, 20, 10, tzinfo=UTC) < change.latest
    assert not change.is_void
    [batch] = IngestBatch.objects.for_organization(meter.organization)
    assert (batch.state, batch.rolled_at) == (BatchState.ROLLED, now)
