"""Rows of `metering.sql.member_sets`: who was last added and last removed, per series and bucket."""

from __future__ import annotations

from typing import Any

import pytest

from tests.metering.meter import Meter
from tests.metering.rows import member_sets, table_rows

pytestmark = pytest.mark.django_db


def event(member: str, at: str, operation: str = "add", **fields: Any) -> dict[str, Any]:
    sent = {"customer": "ann", "type": "seats", "value": member, "timestamp": f"2026-11-{at}Z", "operation": operation}
    return {**sent, **fields}


def test_totals_have_hours_and_days_and_combinations_have_days(meter: Meter) -> None:
    meter.define("seats", "count_unique", dimensions=["region"])

    meter.send_all(
        event("ada", "20T10:00:00", properties={"region": "us"}),
        event("bob", "20T10:59:59", properties={"region": "eu"}),
        event("ada", "20T11:00:00", "remove", properties={"region": "us"}),
        event("cyd", "19T10:00:00", customer="bob"),
    )
    meter.roll_up()

    assert member_sets(meter.organization) == {
        ("seats/ann", "h", "11-20 10"): ({"ada", "bob"}, set()),
        ("seats/ann", "h", "11-20 11"): (set(), {"ada"}),
        ("seats/ann", "d", "11-20 00"): ({"bob"}, {"ada"}),
        ("seats/ann/us", "d", "11-20 00"): (set(), {"ada"}),
        ("seats/ann/eu", "d", "11-20 00"): ({"bob"}, set()),
        ("seats/bob", "h", "11-19 10"): ({"cyd"}, set()),
        ("seats/bob", "d", "11-19 00"): ({"cyd"}, set()),
        ("seats/bob/None", "d", "11-19 00"): ({"cyd"}, set()),
    }


@pytest.mark.parametrize(
    ("earlier", "later", "added", "removed"),
    [
        pytest.param([("10:00", "add")], [("10:30", "remove")], set(), {"m"}, id="removed later"),
        pytest.param([("10:30", "add")], [("10:00", "remove")], {"m"}, set(), id="a late remove comes before"),
        pytest.param([("10:30", "remove")], [("10:00", "add")], set(), {"m"}, id="a late add comes before"),
        pytest.param([("10:00", "remove")], [("10:00", "add")], {"m"}, set(), id="one instant: later arrival"),
        pytest.param([("10:00", "add")], [("10:00", "remove"), ("10:00", "add")], {"m"}, set(), id="back and forth"),
        pytest.param(
            [("10:00", "add"), ("10:20", "remove")],
            [("10:10", "add"), ("10:05", "remove")],
            set(),
            {"m"},
            id="late ones between",
        ),
        pytest.param([("10:00", "add")], [("10:00", "add")], {"m"}, set(), id="added twice"),
    ],
)
@pytest.mark.parametrize("rollups", [1, 2], ids=["one rollup", "two rollups"])
def test_the_last_operation_of_a_bucket_decides_whichever_way_it_arrives(
    meter: Meter, earlier: Any, later: Any, added: set[str], removed: set[str], rollups: int
) -> None:
    meter.define("seats", "count_unique")

    for batch in (earlier, later):
        meter.send_all(*[event("m", f"20T{minute}:00", operation) for minute, operation in batch])
        if rollups == 2:
            meter.roll_up()
    meter.roll_up()

    assert member_sets(meter.organization) == {
        ("seats/ann", "h", "11-20 10"): (added, removed),
        ("seats/ann", "d", "11-20 00"): (added, removed),
    }


def test_members_are_numbered_densely_per_metric(meter: Meter) -> None:
    first, second = meter.define("seats", "count_unique"), meter.define("rooms", "count_unique", event_type="seats")
    meter.send_all(event("b", "20T10:00:00"), event("a", "20T10:00:00"), event("b", "20T11:00:00"))
    meter.roll_up()
    meter.send_all(event("c", "20T10:00:00"), event("a", "20T10:00:00", customer="bob"))
    meter.roll_up()

    numbers = table_rows(meter.organization, "metering_member", "metric_id", "number", "member")

    for metric in (first, second):
        assert [row[1:] for row in numbers if row[0] == metric.pk] == [(0, "a"), (1, "b"), (2, "c")]


def test_a_void_gives_the_word_to_the_operation_before_it(meter: Meter) -> None:
    meter.define("seats", "count_unique", dimensions=["region"])
    us = {"region": "us"}
    meter.send_all(
        event("m", "20T10:00:00", idempotency_key="1", properties=us),
        event("m", "20T10:30:00", "remove", idempotency_key="2", properties=us),
        event("m", "20T09:00:00", "remove", idempotency_key="3", properties={"region": "eu"}),
    )
    meter.roll_up()

    meter.void("2")

    assert member_sets(meter.organization) == {
        ("seats/ann", "h", "11-20 10"): ({"m"}, set()),
        ("seats/ann", "h", "11-20 09"): (set(), {"m"}),
        ("seats/ann", "d", "11-20 00"): ({"m"}, set()),
        ("seats/ann/us", "d", "11-20 00"): ({"m"}, set()),
        ("seats/ann/eu", "d", "11-20 00"): (set(), {"m"}),
    }

    meter.void("1")

    assert member_sets(meter.organization) == {
        ("seats/ann", "h", "11-20 10"): (set(), set()),
        ("seats/ann", "h", "11-20 09"): (set(), {"m"}),
        ("seats/ann", "d", "11-20 00"): (set(), {"m"}),
        ("seats/ann/us", "d", "11-20 00"): (set(), set()),
        ("seats/ann/eu", "d", "11-20 00"): (set(), {"m"}),
    }
