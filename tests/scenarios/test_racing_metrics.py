"""Metrics that change while events arrive: an event counts exactly in the definitions that it was examined against."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from functools import partial
from threading import Event
from typing import Any, NamedTuple

import pytest
from django.db import connections

from accounts.models import Organization
from metering.models import Metric
from metering.services.metrics import ImmutableMetric, archive_metric, has_events, update_metric
from metering.sql import store_events
from tests.metering.meter import Meter, utc
from tests.scenarios.racing import START_SECONDS, race

pytestmark = pytest.mark.django_db(transaction=True)

NOVEMBER = (utc(2026, 11, 1), utc(2026, 12, 1))
BATCHES, SIZE = 40, 10


@pytest.fixture
def meter(org: Organization, now: datetime) -> Meter:
    meter = Meter(org, now)
    meter.define("first", "count", event_type="t")
    return meter


class Answered(NamedTuple):
    """A batch that was answered: when it was begun and done, and how many of its events were stored or refused."""

    begun: float
    done: float
    stored: int
    refused: frozenset[str]


def own_view(meter: Meter) -> Meter:
    """Return the meter with its own copy of the organization, as every request has one."""
    view = Meter(Organization.objects.get(pk=meter.organization.pk), meter.now)
    view.metrics = meter.metrics
    return view


class Middle:
    """Where a change races batches: at least a quarter of one sender's is through, and of each a quarter is left."""

    def __init__(self) -> None:
        self.is_reached = Event()
        self.is_over = Event()

    def keep(self, number: int) -> None:
        """Called by a sender before its batch of this number."""
        if number == BATCHES // 4:
            self.is_reached.set()
        if number == BATCHES * 3 // 4:
            assert self.is_over.wait(START_SECONDS)

    def act(self, change: Callable[[], object]) -> tuple[float, float]:
        """Make the change; return when that began and ended."""
        assert self.is_reached.wait(START_SECONDS)
        begun = time.monotonic()
        try:
            change()
            return begun, time.monotonic()
        finally:
            self.is_over.set()


def send_batches(
    meter: Meter, sender: int, properties: dict[str, Any], *, middle: Middle | None = None
) -> list[Answered]:
    answered = []
    for number in range(BATCHES):
        if middle is not None:
            middle.keep(number)
        begun = time.monotonic()
        result = own_view(meter).send(
            *[
                {
                    "idempotency_key": f"{sender}-{number}-{place}",
                    "customer": "c",
                    "type": "t",
                    "properties": properties,
                }
                for place in range(SIZE)
            ]
        )
        codes = frozenset(error.code for error in result.errors)
        answered.append(Answered(begun, time.monotonic(), result.stored, codes))
    return answered


def assert_rollups_equal_raw_events(meter: Meter, *codes: str) -> None:
    def values(**selection: Any) -> list[Any]:
        return [meter.usage(code, *NOVEMBER, **selection) for code in codes]

    pending = values()
    raw = values(as_of=meter.now + timedelta(days=1))
    meter.roll_up()
    assert pending == raw == values()


def test_a_new_metric_counts_the_events_after_it_and_none_before(meter: Meter) -> None:
    # Text that the second metric could never add up: had it not been examined, reading it would fail.
    numeric, words = {"x": "1", "y": "2.5"}, {"x": "1", "y": "not a number"}
    middle = Middle()

    *answers, change = race(
        [
            partial(send_batches, meter, 0, numeric, middle=middle),
            partial(send_batches, meter, 1, words, middle=middle),
            partial(middle.act, lambda: meter.define("second", "sum", event_type="t", value_property="y")),
        ]
    )

    numeric_batches, word_batches = answers
    assert all(answer.stored == SIZE for answer in numeric_batches)
    for answer in word_batches:
        if answer.done < change[0]:
            assert (answer.stored, answer.refused) == (SIZE, frozenset())
        elif answer.begun > change[1]:
            assert (answer.stored, answer.refused) == (0, frozenset({"invalid_value"}))
    surely = SIZE * sum(answer.begun > change[1] for answer in numeric_batches)
    surely_not = SIZE * sum(answer.done < change[0] for answer in numeric_batches)
    assert surely > 0
    counted = meter.usage("second", *NOVEMBER)
    assert surely <= counted.count <= SIZE * BATCHES - surely_not
    assert counted.value == counted.count * counted.max
    assert_rollups_equal_raw_events(meter, "first", "second")


def test_a_metric_made_between_examining_and_storing_counts_the_event(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The narrowest place: the batch is examined, and not yet behind the fence."""
    open_batch = store_events.open_batch

    def open_batch_late(**names: Any) -> int:
        if "second" not in meter.metrics:
            race([lambda: meter.define("second", "sum", event_type="t", value_property="y")])
        return open_batch(**names)

    monkeypatch.setattr(store_events, "open_batch", open_batch_late)
    result = own_view(meter).send(
        {"idempotency_key": "a", "customer": "c", "type": "t", "properties": {"y": 5}},
        {"idempotency_key": "b", "customer": "c", "type": "t", "properties": {"y": "not a number"}},
    )

    assert (result.stored, [error.code for error in result.errors]) == (1, ["invalid_value"])
    assert meter.value("second", *NOVEMBER) == 5
    assert_rollups_equal_raw_events(meter, "first", "second")


def test_a_change_of_metrics_waits_for_the_batch_that_is_being_stored(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_events = store_events.stage_events
    changes: list[Future[Metric]] = []

    def stage_events_beside_a_change(*arguments: Any, **names: Any) -> None:
        if not changes:
            changes.append(pool.submit(define_second))
            assert not wait(changes, timeout=0.3).done, "the fence holds it back"
        stage_events(*arguments, **names)

    def define_second() -> Metric:
        try:
            return meter.define("second", "sum", event_type="t", value_property="y")
        finally:
            connections.close_all()

    monkeypatch.setattr(store_events, "stage_events", stage_events_beside_a_change)
    with ThreadPoolExecutor(1) as pool:
        result = own_view(meter).send({"customer": "c", "type": "t", "properties": {"y": "not a number"}})
        changes[0].result(START_SECONDS)

    assert result.stored == 1
    assert meter.usage("second", *NOVEMBER).count == 0
    assert_rollups_equal_raw_events(meter, "first", "second")


def test_a_definition_changes_only_while_no_event_was_examined_against_it(meter: Meter) -> None:
    meter.define("second", "sum", event_type="t", value_property="x")
    outcomes = []

    def change() -> None:
        try:
            update_metric(
                organization=Organization.objects.get(pk=meter.organization.pk),
                metric=meter.metrics["second"],
                changes={"value_property": "y"},
                actor="test",
            )
        except ImmutableMetric:
            outcomes.append("immutable")
        else:
            outcomes.append("changed")

    # The change races the very first batches.
    race([partial(send_batches, meter, sender, {"x": "1", "y": "2.5"}) for sender in range(3)] + [change])

    meter.metrics["second"] = Metric.objects.for_organization(meter.organization).get(code="second")
    counted = meter.usage("second", *NOVEMBER)
    assert counted.count == 3 * BATCHES * SIZE
    assert counted.value == counted.count * {"immutable": 1, "changed": counted.max}[outcomes[0]]
    assert_rollups_equal_raw_events(meter, "first", "second")


def test_events_that_did_not_feed_a_metric_freeze_its_definition_too(meter: Meter) -> None:
    """Under another definition they would count in raw reads, unexamined, but not in the rollups."""
    second = meter.define("second", "sum", event_type="t", value_property="x")
    meter.send_all({"customer": "c", "type": "t", "properties": {"y": "not a number"}})
    meter.roll_up()

    assert has_events(second)
    with pytest.raises(ImmutableMetric):
        update_metric(organization=meter.organization, metric=second, changes={"value_property": "y"}, actor="test")
    assert meter.value("second", *NOVEMBER) == 0


def test_after_a_metric_is_archived_no_event_reaches_it_and_its_history_stays(meter: Meter) -> None:
    second = meter.define("second", "count", event_type="t")
    middle = Middle()

    answers, change = race(
        [
            partial(send_batches, meter, 0, {}, middle=middle),
            partial(
                middle.act,
                lambda: archive_metric(
                    organization=Organization.objects.get(pk=meter.organization.pk),
                    metric=second,
                    actor="test",
                    now=meter.now,
                ),
            ),
        ]
    )

    surely = SIZE * sum(answer.done < change[0] for answer in answers)
    surely_not = SIZE * sum(answer.begun > change[1] for answer in answers)
    assert all(answer.stored == SIZE for answer in answers), "the first metric still counts"
    assert meter.value("first", *NOVEMBER) == SIZE * BATCHES
    assert surely <= meter.value("second", *NOVEMBER) <= SIZE * BATCHES - surely_not
    assert_rollups_equal_raw_events(meter, "first", "second")

    archive_metric(
        organization=own_view(meter).organization, metric=meter.metrics["first"], actor="test", now=meter.now
    )
    assert [error.code for error in own_view(meter).send({"customer": "c", "type": "t"}).errors] == ["unknown_metric"]
    assert meter.value("first", *NOVEMBER) == SIZE * BATCHES
