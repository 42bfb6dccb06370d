"""Rows of `metering.sql.recount`: what a void does to the buckets that hold the event, and to no others."""

from __future__ import annotations

from typing import Any

import pytest

from metering.services.metrics import archive_metric
from tests.metering.meter import Meter
from tests.metering.rows import rollup_rows

pytestmark = pytest.mark.django_db


def event(key: str, value: Any, at: str, **fields: Any) -> dict[str, Any]:
    sent = {"idempotency_key": key, "customer": "ann", "type": "m", "value": value, "timestamp": f"2026-11-{at}Z"}
    return {**sent, **fields}


def test_only_the_buckets_of_the_event_change(meter: Meter) -> None:
    meter.define("m", "sum", dimensions=["region"])
    us, eu = {"region": "us"}, {"region": "eu"}
    meter.send_all(
        event("1", 5, "20T10:00:00", properties=us),
        event("2", 9, "20T10:00:30", properties=us),
        event("3", 7, "20T10:00:45", properties=eu),
        event("4", 1, "20T10:59:00", properties=us),
        event("5", 2, "20T11:00:00", properties=us),
        event("6", 100, "20T10:00:30", customer="bob", properties=us),
    )
    meter.roll_up()
    before = {width: rollup_rows(meter.organization, width) for width in ("minute", "hour", "day")}

    meter.void("2")

    expected = {
        "minute": {
            ("m/ann", "11-20 10:00"): (2, 12, 5, 7, 7, "11-20 10:00:45"),
            ("m/ann/us", "11-20 10:00"): (1, 5, 5, 5, 5, "11-20 10:00:00"),
        },
        "hour": {
            ("m/ann", "11-20 10:00"): (3, 13, 1, 7, 1, "11-20 10:59:00"),
            ("m/ann/us", "11-20 10:00"): (2, 6, 1, 5, 1, "11-20 10:59:00"),
        },
        "day": {
            ("m/ann", "11-20 00:00"): (4, 15, 1, 7, 2, "11-20 11:00:00"),
            ("m/ann/us", "11-20 00:00"): (3, 8, 1, 5, 2, "11-20 11:00:00"),
        },
    }
    for width, changed in expected.items():
        assert rollup_rows(meter.organization, width) == before[width] | changed


def test_the_last_event_of_a_bucket_takes_the_bucket_along(meter: Meter) -> None:
    meter.define("m", "max")
    meter.define("other", "count", event_type="m")
    meter.send_all(event("1", 5, "20T10:00:00"), event("2", 7, "20T11:00:00"))
    meter.roll_up()

    meter.void("1")

    assert set(rollup_rows(meter.organization, "hour")) == {("m/ann", "11-20 11:00"), ("other/ann", "11-20 11:00")}
    meter.void("2")
    for width in ("minute", "hour", "day"):
        assert rollup_rows(meter.organization, width) == {}


def test_pending_events_of_the_bucket_stay_out_of_it(meter: Meter) -> None:
    meter.define("m", "sum")
    meter.send_all(event("1", 5, "20T10:00:00"), event("2", 7, "20T10:00:00"))
    meter.roll_up()
    meter.send_all(event("3", 100, "20T10:00:00"))

    meter.void("1")

    bucket = (1, 7, 7, 7, 7, "11-20 10:00:00")
    assert rollup_rows(meter.organization, "day") == {("m/ann", "11-20 00:00"): bucket}
    meter.roll_up()
    assert rollup_rows(meter.organization, "day")["m/ann", "11-20 00:00"][:2] == (2, 107)


def test_a_void_of_a_pending_event_leaves_the_rollups_alone(meter: Meter) -> None:
    meter.define("m", "sum")
    meter.send_all(event("1", 5, "20T10:00:00"))
    meter.roll_up()
    meter.send_all(event("2", 7, "20T10:00:00"))
    before = rollup_rows(meter.organization, "day")

    meter.void("2")
    assert rollup_rows(meter.organization, "day") == before
    meter.roll_up()

    assert rollup_rows(meter.organization, "day") == before


def test_before_the_minutes_begin_hours_and_days_are_recounted(meter: Meter) -> None:
    meter.define("m", "sum")
    meter.send_all(event("1", 5, "01T10:00:00"), event("2", 7, "01T10:30:00"))
    meter.roll_up()

    meter.void("1")

    assert rollup_rows(meter.organization, "minute") == {}
    assert rollup_rows(meter.organization, "hour") == {("m/ann", "11-01 10:00"): (1, 7, 7, 7, 7, "11-01 10:30:00")}
    assert rollup_rows(meter.organization, "day") == {("m/ann", "11-01 00:00"): (1, 7, 7, 7, 7, "11-01 10:30:00")}


def test_an_archived_metric_is_recounted_too(meter: Meter) -> None:
    metric = meter.define("m", "sum")
    meter.send_all(event("1", 5, "20T10:00:00"), event("2", 7, "20T10:30:00"))
    meter.roll_up()
    archive_metric(organization=meter.organization, metric=metric, actor="test", now=meter.now)

    meter.void("1")

    assert rollup_rows(meter.organization, "day")["m/ann", "11-20 00:00"][:2] == (1, 7)
