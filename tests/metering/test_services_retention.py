"""Letting go of raw events and minutes: in two steps, in bounded batches, without changing any number."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from structlog.testing import capture_logs

from accounts.models import Organization
from metering.domain import Granularity
from metering.models import Event, EventVoid, Horizon, IngestBatch
from metering.queries import Usage, get_series
from metering.queries.reading import RangeNotKept
from metering.services import retention
from metering.services.retention import Pruned, prune_organization
from metering.services.voids import TooOldToVoid
from tests.metering.meter import Meter, utc
from tests.metering.rows import member_sets, rollup_rows

pytestmark = pytest.mark.django_db

DAYS_KEPT = 30
NOVEMBER = (utc(2026, 11, 1), utc(2026, 12, 1))
# A month after the fixture's now, the first events lie behind the horizon and the later ones do not.
LATER = utc(2026, 12, 10, 9)
KEPT_FROM = utc(2026, 11, 10)


@pytest.fixture
def meter(meter: Meter) -> Meter:
    """Events of three days, rolled up; raw events are kept for 30 days."""
    meter.organization.raw_retention_days = DAYS_KEPT
    meter.define("m", "sum", dimensions=["region"])
    meter.define("peak", "max", event_type="m")
    meter.define("level", "latest", event_type="m")
    meter.define("seats", "count_unique", event_type="m", value_property="seat", dimensions=["region"])
    for key, value, at in (
        ("old 1", 1, utc(2026, 11, 1, 10)),
        ("old 2", 10, utc(2026, 11, 9, 23, 59, 59, 999_999)),
        ("kept 1", 100, KEPT_FROM),
        ("kept 2", 1000, utc(2026, 11, 20, 11)),
    ):
        meter.send_all(event(key, value, at), at=at)
    meter.roll_up()
    return meter


def event(key: str, value: Any, at: datetime, **properties: Any) -> dict[str, Any]:
    sent = {"idempotency_key": key, "customer": "ann", "type": "m", "value": value, "timestamp": at.isoformat()}
    return {**sent, "properties": {"region": "us", "seat": key, **properties}}


def prune(meter: Meter, now: datetime = LATER) -> Pruned:
    return prune_organization(organization=meter.organization, now=now)


def keys(meter: Meter) -> list[str]:
    rows = Event.objects.for_organization(meter.organization).order_by("offset")
    return list(rows.values_list("idempotency_key", flat=True))


def all_usage(meter: Meter, *span: datetime, **selection: Any) -> list[Usage]:
    return [meter.usage(code, *span, **selection) for code in ("m", "peak", "level", "seats")]


def test_the_first_run_only_moves_the_horizon_and_the_second_deletes(meter: Meter) -> None:
    first = prune(meter)

    horizon = Horizon.objects.for_organization(meter.organization).get()
    assert (horizon.raw_from, horizon.minutes_from) == (KEPT_FROM, utc(2026, 12, 7))
    assert (first.events, len(keys(meter))) == (0, 4)

    second = prune(meter, LATER + timedelta(hours=1))

    assert keys(meter) == ["kept 1", "kept 2"]
    assert (second.events, second.batches) == (2, 2)
    assert rollup_rows(meter.organization, "minute") == {}
    assert prune(meter, LATER + timedelta(hours=2)) == Pruned(events=0, minutes=0, batches=0, voids=0)


def test_no_number_changes(meter: Meter) -> None:
    def numbers() -> list[Any]:
        whole_days = utc(2026, 11, 1), utc(2026, 11, 21)
        return [
            all_usage(meter, *NOVEMBER),
            all_usage(meter, *whole_days, customer="ann", filters={}),
            meter.breakdown("m", *NOVEMBER, "region"),
            meter.breakdown("seats", *whole_days, "region"),
            # Whole hours of a day that is no longer kept, and a ragged end where it still is.
            all_usage(meter, utc(2026, 11, 1, 10), utc(2026, 11, 9, 23)),
            all_usage(meter, utc(2026, 11, 1), utc(2026, 11, 20, 11, 0, 0, 1)),
            get_series(
                organization=meter.organization,
                metric=meter.metrics["m"],
                start=NOVEMBER[0],
                end=NOVEMBER[1],
                granularity=Granularity.DAY,
                zone="Europe/Berlin",
                now=LATER,
            ).lines,
        ]

    before = numbers()
    for hours in range(3):
        prune(meter, LATER + timedelta(hours=hours))
        assert numbers() == before
    assert before[0][0].value == 1111


def test_a_range_that_cuts_an_hour_no_longer_kept_is_refused_not_guessed(meter: Meter) -> None:
    for _ in range(2):
        prune(meter)

    for start, end in [
        (utc(2026, 11, 1, 10, 30), utc(2026, 11, 30)),
        (utc(2026, 11, 1), utc(2026, 11, 9, 23, 59)),
        (utc(2026, 11, 9, 23, 59, 59), utc(2026, 11, 20)),
    ]:
        with pytest.raises(RangeNotKept):
            meter.usage("m", start, end)
    with pytest.raises(RangeNotKept):
        meter.usage("m", *NOVEMBER, as_of=meter.now)
    # Sets of combinations are kept by the day.
    with pytest.raises(RangeNotKept):
        meter.usage("seats", utc(2026, 11, 1, 10), utc(2026, 11, 20), filters={"region": ["us"]})
    # From the horizon on, every microsecond can be asked for.
    assert meter.value("m", KEPT_FROM, KEPT_FROM + timedelta(microseconds=1)) == 100
    assert meter.usage("m", KEPT_FROM, NOVEMBER[1], as_of=meter.now).value == 1100


def test_what_is_not_yet_rolled_up_or_just_arrived_stays(meter: Meter) -> None:
    prune(meter)
    meter.send_all(event("late", 5, utc(2026, 11, 2)), at=LATER)
    meter.send_all(event("early and late", 7, utc(2026, 11, 2)), at=utc(2026, 11, 3))

    prune(meter)
    assert keys(meter) == ["kept 1", "kept 2", "late", "early and late"]

    meter.roll_up(at=LATER)
    prune(meter)
    # A late event keeps its full time, so that its retry is still recognised.
    assert keys(meter) == ["kept 1", "kept 2", "late"]
    assert meter.send(event("late", 5, utc(2026, 11, 2)), at=LATER).duplicates == 1
    assert meter.value("m", *NOVEMBER) == 1123


def test_voids_go_with_their_event_so_that_the_key_is_free_again(meter: Meter) -> None:
    meter.void("old 1", at=utc(2026, 11, 30))
    for _ in range(2):
        prune(meter)

    assert not EventVoid.objects.for_organization(meter.organization).exists()
    # Another event under the key is not the one that was taken back.
    meter.send_all(event("old 1", 50, LATER), at=LATER)
    assert meter.value("m", LATER - timedelta(days=1), LATER + timedelta(days=1)) == 50
    meter.void("old 1", at=LATER)


def test_an_event_whose_hour_is_no_longer_kept_is_not_voided(meter: Meter) -> None:
    prune(meter)

    with pytest.raises(TooOldToVoid):
        meter.void("old 1", at=LATER)
    meter.void("kept 1", at=LATER)

    assert meter.value("m", *NOVEMBER) == 1011


def test_the_horizon_never_moves_back(meter: Meter) -> None:
    prune(meter)
    meter.organization.raw_retention_days = 300

    prune(meter)

    assert Horizon.objects.for_organization(meter.organization).get().raw_from == KEPT_FROM


def test_what_is_not_billed_yet_is_kept_with_a_day_before_and_logged(meter: Meter, settings: Any) -> None:
    settings.UNBILLED_FROM = "tests.metering.test_services_retention.unbilled_from"

    with capture_logs() as logs:
        for _ in range(2):
            prune(meter)

    horizon = Horizon.objects.for_organization(meter.organization).get()
    assert horizon.raw_from == utc(2026, 11, 4)
    assert keys(meter) == ["old 2", "kept 1", "kept 2"]
    [held, _] = [entry for entry in logs if entry["event"] == "raw events are kept for what is not billed yet"]
    assert (held["kept_from"], held["by_setting"]) == ("2026-11-04T00:00:00+00:00", "2026-11-10T00:00:00+00:00")
    # Where nobody is billed nothing is held.
    settings.UNBILLED_FROM = None
    prune(meter)
    horizon.refresh_from_db()
    assert horizon.raw_from == KEPT_FROM


def unbilled_from(organization: Organization, gone_before: datetime | None) -> datetime:
    """Tell, as billing does, that a subscription began within an hour."""
    assert gone_before in {None, utc(2026, 11, 4)}
    return utc(2026, 11, 5, 10, 17, 33)


def test_without_a_limit_every_raw_event_is_kept(meter: Meter) -> None:
    meter.organization.raw_retention_days = None
    for _ in range(2):
        prune(meter, utc(2036, 1, 1))

    assert len(keys(meter)) == 4
    assert IngestBatch.objects.for_organization(meter.organization).count() == 4
    assert meter.value("m", utc(2026, 11, 1, 10), utc(2026, 11, 1, 10, 0, 1)) == 1


def test_deletes_come_in_bounded_batches(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    meter.send_all(
        *[event(f"many {place}", 1, utc(2026, 11, 5, place % 24)) for place in range(25)], at=utc(2026, 11, 6)
    )
    meter.roll_up()
    total = meter.value("m", *NOVEMBER)
    prune(meter)
    monkeypatch.setattr(retention, "DELETE_ROWS", 10)
    deleted: list[int] = []

    def note(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if "DELETE FROM metering_event\n" in str(sql):
            deleted.append(context["cursor"].rowcount)
        return result

    with connection.execute_wrapper(note):
        pruned = prune(meter)

    assert deleted == [10, 10, 7]
    assert pruned.events == 27
    assert meter.value("m", *NOVEMBER) == total


class TestMembersOfDaysNoLongerKept:
    """Sets tell who was last added and removed; only raw events can tell which of two operations came last."""

    @pytest.fixture
    def meter(self, meter: Meter) -> Meter:
        day = utc(2026, 11, 2)
        for hour, operation, region in ((10, "add", "us"), (12, "remove", "eu")):
            sent = event(f"{operation} m", 1, day + timedelta(hours=hour), seat="m", region=region)
            meter.send_all({**sent, "operation": operation}, at=day + timedelta(hours=hour))
        meter.roll_up()
        for _ in range(2):
            prune(meter)
        return meter

    def test_a_customers_total_is_still_exact(self, meter: Meter) -> None:
        assert meter.value("seats", utc(2026, 11, 2), utc(2026, 11, 3)) == 0
        assert meter.value("seats", utc(2026, 11, 2), utc(2026, 11, 2, 12)) == 1

    def test_each_group_is_still_exact_and_what_joins_contradicting_ones_is_refused(self, meter: Meter) -> None:
        day = utc(2026, 11, 2), utc(2026, 11, 3)

        assert meter.breakdown("seats", *day, "region") == {("us",): 1, ("eu",): 0}
        with pytest.raises(RangeNotKept):
            meter.usage("seats", *day, filters={"region": ["us", "eu"]})

    def test_a_late_operation_does_not_overrule_what_was_recorded(self, meter: Meter) -> None:
        late = {**event("late", 1, utc(2026, 11, 2, 11), seat="m", region="us"), "operation": "add"}
        fresh = {**event("fresh", 1, utc(2026, 11, 2, 11), seat="n", region="us"), "operation": "add"}
        meter.send_all(late, fresh, at=LATER)
        meter.roll_up(at=LATER)

        sets = member_sets(meter.organization)

        assert sets["seats/ann", "d", "11-02 00"] == ({"n"}, {"m"})
        assert meter.value("seats", utc(2026, 11, 2), utc(2026, 11, 3)) == Decimal(1)
