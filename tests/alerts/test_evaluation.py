"""What is told, to whom, how often: evaluation over real usage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from alerts.models import Crossing, ThresholdState
from alerts.queries import falls
from alerts.services import evaluation
from alerts.services.evaluation import EVALUATE_TASK, EvaluationBusy, evaluate_in_turn, evaluate_organization
from common.redis import redis_client
from metering.models import UsageChange
from metering.services.metrics import update_metric
from metering.services.rollup import RollupBusy
from metering.services.wake import Turn, clear_follower_mark, is_follower_asked
from tests.alerts.watch import Told, Watch
from tests.metering.meter import utc
from tests.scenarios.racing import race

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def count_changes() -> int:
    return UsageChange.objects.all_tenants().count()


class TestFiring:
    def test_reaching_the_value_exactly_fires(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 100)

        watch.use("ann", "99.999999999999999999")
        assert watch.told() == []
        watch.use("ann", "0.000000000000000001")

        assert watch.told() == [Told("ann", "cap", Decimal(100), Decimal(100))]

    def test_once_per_period(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)

        for _ in range(3):
            watch.use("ann", 10)
        watch.use("ann", -30)
        watch.use("ann", 30)

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    def test_again_in_the_next_period(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)

        watch.use("ann", 10)
        watch.use("ann", 11, at=utc(2026, 12, 1))

        assert watch.told() == [
            Told("ann", "cap", Decimal(10), Decimal(10)),
            Told("ann", "cap", Decimal(10), Decimal(11)),
        ]

    def test_each_customer_on_its_own(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)

        watch.send_all(*({"customer": name, "type": "m", "value": 6} for name in ("ann", "bob", "ann")))
        watch.evaluate()

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(12))]

    def test_many_customers_at_once(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 5)

        watch.send_all(*({"customer": f"c{n:02}", "type": "m", "value": n} for n in range(40)))
        watch.evaluate()

        assert watch.told() == [Told(f"c{n:02}", "cap", Decimal(5), Decimal(n)) for n in range(5, 40)]

    def test_one_customers_threshold_leaves_the_others_alone(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.use("ann", 1)
        watch.threshold("m", "cap", 10, customer="ann")

        watch.use("bob", 50)
        assert watch.told() == []
        watch.use("ann", 9)

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    def test_usage_that_had_reached_a_new_threshold_fires(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.use("ann", 10)
        watch.threshold("m", "cap", 10)

        watch.evaluate()

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    def test_filters_are_anded(self, watch: Watch) -> None:
        watch.define("m", "sum", dimensions=["cloud", "region"])
        watch.threshold("m", "cap", 10, filters={"cloud": ["aws"], "region": ["us", "eu"]})

        for cloud, region in (("aws", "us"), ("gcp", "us"), ("aws", "asia")):
            watch.use("ann", 8, properties={"cloud": cloud, "region": region})
        assert watch.told() == []
        watch.use("ann", 2, properties={"cloud": "aws", "region": "eu"})

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    @pytest.mark.parametrize(
        ("aggregation", "values", "expected"),
        [
            ("count", [1, 1, 1], Decimal(3)),
            ("sum", [1, 1, 1], Decimal(3)),
            ("max", [1, 2, 3], Decimal(3)),
            ("min", [3, 4, 5], Decimal(3)),
            ("latest", [1, 2, 3], Decimal(3)),
            ("count_unique", ["a", "b", "c"], Decimal(3)),
        ],
    )
    def test_every_aggregation(self, watch: Watch, aggregation: str, values: list[Any], expected: Decimal) -> None:
        watch.define("m", aggregation)
        watch.threshold("m", "cap", 3)

        for minute, value in enumerate(values):
            watch.use("ann", value, timestamp=utc(2026, 11, 20, 10, minute))

        assert watch.told() == [Told("ann", "cap", Decimal(3), expected)]

    def test_recurring_tells_every_multiple_passed(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "each", 100, is_recurring=True)

        watch.use("ann", 350)
        watch.use("ann", 49)
        watch.use("ann", 1)

        assert [(told.level, told.value) for told in watch.told()] == [
            (Decimal(100), Decimal(350)),
            (Decimal(200), Decimal(350)),
            (Decimal(300), Decimal(350)),
            (Decimal(400), Decimal(400)),
        ]

    def test_projection_tells_before_the_value_is_reached(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "soon", 300, kind="projected")

        watch.use("ann", 50, at=utc(2026, 11, 2))  # too early to tell
        watch.use("ann", 49, at=utc(2026, 11, 11))  # a third of the month
        assert watch.told() == []
        watch.use("ann", 1, at=utc(2026, 11, 11))

        assert watch.told() == [Told("ann", "soon", Decimal(300), Decimal(300))]


class TestPeriods:
    def test_late_event_crosses_in_the_period_before(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)

        watch.use("ann", 10, timestamp=utc(2026, 10, 31, 23, 59, 59, 999_999))

        assert [crossing.period_start for crossing in Crossing.objects.all_tenants()] == [utc(2026, 10, 1)]

    def test_history_older_than_that_tells_nobody(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)

        watch.use("ann", 10, timestamp=utc(2026, 9, 30, 23, 59, 59, 999_999))

        assert watch.told() == []

    def test_the_customers_zone_decides_the_period(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.use("ann", 1)
        customer = watch.organization.customers.get(external_id="ann")
        customer.zone = "Asia/Kolkata"
        customer.save()

        watch.use("ann", 9, timestamp=utc(2026, 10, 31, 18, 30))

        assert [crossing.period_start for crossing in Crossing.objects.all_tenants()] == [utc(2026, 10, 31, 18, 30)]


class TestVoids:
    def test_a_void_that_takes_it_below_arms_it_again(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.use("ann", 9)
        watch.use("ann", 1, idempotency_key="one")

        watch.void("one")
        watch.evaluate()
        watch.use("ann", 3)

        assert [told.value for told in watch.told()] == [Decimal(10), Decimal(12)]

    @pytest.mark.parametrize(
        ("kept", "voided", "later", "told"),
        [
            pytest.param(0, 10, 12, [10, 12], id="back above"),
            pytest.param(9, 1, 1, [10, 10], id="back where it was"),
            pytest.param(10, 5, 5, [15], id="never below"),
            pytest.param(0, 10, 9, [10], id="still below"),
        ],
    )
    @pytest.mark.parametrize("aggregation", ["sum", "max"])
    def test_a_void_and_new_usage_that_are_seen_together(
        self, watch: Watch, aggregation: str, kept: int, voided: int, later: int, told: list[int]
    ) -> None:
        """What the void did is told, though no evaluation came in between."""
        watch.define("m", aggregation)
        watch.threshold("m", "cap", 10)
        if aggregation == "max":  # the same story, of peaks
            voided, later = kept + voided, kept + later
        for key, value in (("kept", kept), ("voided", voided)):
            watch.send_all({"customer": "ann", "type": "m", "value": value, "idempotency_key": key})
        watch.evaluate()

        watch.void("voided", at=watch.now + SECOND)
        watch.send_all({"customer": "ann", "type": "m", "value": later}, at=watch.now + 2 * SECOND)
        watch.evaluate(at=watch.now + 3 * SECOND)

        assert [each.value for each in watch.told()] == told

    def test_a_void_is_judged_once(self, watch: Watch) -> None:
        """A second void, of an event of the same moment, does not bring up the first one's fall again."""
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.send_all(
            {"customer": "ann", "type": "m", "value": 10, "idempotency_key": "ten"},
            {"customer": "ann", "type": "m", "value": 1, "idempotency_key": "one"},
        )
        watch.evaluate()
        for number, key in enumerate(("ten", "one")):
            at = watch.now + (number + 1) * MINUTE
            watch.void(key, at=at)
            watch.send_all({"customer": "ann", "type": "m", "value": 20}, at=at + SECOND)
            watch.evaluate(at=at + 2 * SECOND)

        assert [told.value for told in watch.told()] == [Decimal(11), Decimal(21)]

    def test_replaced_by_as_much_it_never_was_below(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.use("ann", 10, idempotency_key="ten")
        at = watch.now + SECOND

        watch.replace("ten", {"customer": "ann", "type": "m", "value": 11, "idempotency_key": "eleven"}, at=at)
        watch.evaluate(at=at + SECOND)

        assert [told.value for told in watch.told()] == [Decimal(10)]

    def test_a_void_among_too_many_events_is_judged_by_what_is_left(
        self, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(falls, "MAX_EVENTS", 1)
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.use("ann", 10, idempotency_key="ten")

        watch.void("ten", at=watch.now + SECOND)
        for value in (6, 6):
            watch.send_all({"customer": "ann", "type": "m", "value": value}, at=watch.now + 2 * SECOND)
        watch.evaluate(at=watch.now + 3 * SECOND)

        assert [told.value for told in watch.told()] == [Decimal(10)]

    def test_a_void_that_leaves_it_above_changes_nothing(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.use("ann", 30)
        watch.use("ann", 5, idempotency_key="five")

        watch.void("five")
        watch.evaluate()
        watch.use("ann", 1)

        assert [told.value for told in watch.told()] == [Decimal(30)]

    def test_a_void_of_a_batch_not_rolled_up_yet(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.send_all({"customer": "ann", "type": "m", "value": 10, "idempotency_key": "ten"})

        watch.void("ten")
        watch.evaluate()
        watch.use("ann", 10)

        assert [told.value for told in watch.told()] == [Decimal(10)]

    def test_recurring_arms_only_what_was_taken_back(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "each", 10, is_recurring=True)
        watch.use("ann", 15)
        watch.use("ann", 20, idempotency_key="twenty")

        watch.void("twenty")
        watch.evaluate()
        watch.use("ann", 5)

        assert [told.level for told in watch.told()] == [Decimal(n) for n in (10, 20, 30, 20)]

    def test_replacing_by_less_arms_it_again(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.use("ann", 10, idempotency_key="ten")

        watch.replace("ten", {"customer": "ann", "type": "m", "value": 1, "idempotency_key": "one"})
        watch.evaluate()
        watch.use("ann", 9)

        assert [told.value for told in watch.told()] == [Decimal(10), Decimal(10)]


class TestDeclaredByMetrics:
    def test_a_metrics_own_thresholds_fire(self, watch: Watch) -> None:
        watch.define("m", "sum", thresholds=({"code": "cap", "value": "10", "recurring": False},))

        watch.use("ann", 10)

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    def test_a_changed_value_may_fire_again(self, watch: Watch) -> None:
        metric = watch.define("m", "sum", thresholds=({"code": "cap", "value": "10", "recurring": False},))
        watch.use("ann", 15)

        for value in ("20", "12"):
            changes = {"thresholds": [{"code": "cap", "value": value, "recurring": False}]}
            update_metric(organization=watch.organization, metric=metric, changes=changes, actor="test")
            watch.organization.refresh_from_db()
            watch.evaluate()
        watch.evaluate()

        assert [told.level for told in watch.told()] == [Decimal(10), Decimal(12)]

    def test_removed_from_the_metric_it_watches_no_more(self, watch: Watch) -> None:
        metric = watch.define("m", "sum", thresholds=({"code": "cap", "value": "10", "recurring": False},))
        watch.use("ann", 1)
        update_metric(organization=watch.organization, metric=metric, changes={"thresholds": []}, actor="test")

        watch.use("ann", 50)

        assert watch.told() == []


class TestTurns:
    @pytest.fixture(autouse=True)
    def _nobody_is_at_it(self, watch: Watch) -> None:
        redis_client().delete(f"turn:{EVALUATE_TASK}:{watch.organization.pk}")
        clear_follower_mark(task=EVALUATE_TASK, organization_id=watch.organization.pk)

    def test_who_finds_the_turn_taken_leaves_it_to_the_one_that_has_it(
        self, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A change that comes after the other's last look, whose own evaluation finds the turn still taken."""
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        evaluate = partial(evaluate_in_turn, organization_id=watch.organization.pk, now=watch.now, max_steps=10)
        give_back, values = Turn.give_back, [10]

        def use_and_give_back(turn: Turn) -> None:
            if values:
                watch.send_all({"customer": "ann", "type": "m", "value": values.pop()})
                watch.roll_up()
                clear_follower_mark(task=EVALUATE_TASK, organization_id=watch.organization.pk)  # its task runs already
                assert evaluate().changes == 0
            give_back(turn)

        monkeypatch.setattr(Turn, "give_back", use_and_give_back)
        evaluate()

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    def test_turn_that_comes_free_meanwhile_is_taken(self, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who had it may have looked for the mark just before it was set."""
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.send_all({"customer": "ann", "type": "m", "value": 10})
        watch.roll_up()
        other, ask = Turn(task=EVALUATE_TASK, organization_id=watch.organization.pk), evaluation.ask_follower
        assert other.take()

        def give_back_and_ask(**names: Any) -> None:
            other.give_back()
            ask(**names)

        monkeypatch.setattr(evaluation, "ask_follower", give_back_and_ask)
        evaluate_in_turn(organization_id=watch.organization.pk, now=watch.now, max_steps=10)

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    def test_change_is_seen_or_may_wake_anew_whenever_it_comes(
        self, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that is committed just before the mark goes publishes nothing, so the snapshot must not be older."""
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.evaluate()
        clear = evaluation.clear_follower_mark

        def use() -> None:
            watch.send_all({"customer": "ann", "type": "m", "value": 10})
            watch.roll_up()

        def use_and_clear(**names: Any) -> None:
            race([use])
            clear(**names)

        monkeypatch.setattr(evaluation, "clear_follower_mark", use_and_clear)
        evaluate_organization(organization_id=watch.organization.pk, now=watch.now)

        is_asked = is_follower_asked(task=EVALUATE_TASK, organization_id=watch.organization.pk)
        assert is_asked or watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]


class TestExactlyOnce:
    def test_eight_workers_on_the_same_changes_tell_once(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "each", 10, is_recurring=True)
        watch.send_all(*({"customer": f"c{n}", "type": "m", "value": 25} for n in range(6)))
        watch.roll_up()

        def evaluate() -> int:
            while True:
                try:
                    return evaluate_organization(organization_id=watch.organization.pk, now=watch.now).crossings
                except EvaluationBusy:
                    continue

        crossings = race([evaluate] * 8)

        assert sum(crossings) == 12
        assert len(watch.told()) == 12
        assert count_changes() == 0

    def test_a_death_before_the_commit_leaves_the_changes(self, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.send_all({"customer": "ann", "type": "m", "value": 10})
        watch.roll_up()
        append = evaluation.append_crossings

        def append_and_die(**names: Any) -> None:
            append(**names)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(evaluation, "append_crossings", append_and_die)
            with pytest.raises(KeyboardInterrupt):
                watch.evaluate()
        assert (watch.told(), count_changes()) == ([], 1)
        watch.evaluate()

        assert watch.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    def test_a_rollup_that_fails_announces_no_change(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.send_all({"customer": "ann", "type": "m", "value": 10})

        def roll_up_and_die() -> None:
            with transaction.atomic():
                watch.roll_up()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            roll_up_and_die()

        assert count_changes() == 0

    def test_offsets_are_given_in_the_order_of_commits(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "each", 1, is_recurring=True)

        def until_done(work: Callable[[], object]) -> None:
            while True:
                with suppress(RollupBusy, EvaluationBusy):
                    work()
                    return

        def use(customer: str) -> None:
            for _ in range(10):
                watch.send_all({"customer": customer, "type": "m", "value": 1})
                until_done(watch.evaluate)

        race([partial(use, f"c{n}") for n in range(4)])
        watch.evaluate()

        assert len(watch.told()) == 40

    def test_evaluating_again_writes_nothing(self, watch: Watch) -> None:
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)
        watch.use("ann", 10)
        states = list(ThresholdState.objects.all_tenants().values())

        evaluate_organization(organization_id=watch.organization.pk, now=watch.now + timedelta(hours=1))

        assert list(ThresholdState.objects.all_tenants().values()) == states
