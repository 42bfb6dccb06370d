"""Reservations: held, used or given back; nobody gets more than there is, whoever asks at once."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any

import pytest
from django.db import connection, transaction

from accounts.models import Organization
from alerts.models import Reservation, ReservationState
from alerts.services import reservations
from alerts.services.quotas import delete_quota
from alerts.services.reservations import (
    RESERVATION_RETENTION,
    QuotaExceeded,
    ReservationExpired,
    ReservationSettled,
    prune_reservations,
)
from alerts.tasks import prune_reservations_task
from common.errors import Conflict, InvalidInput
from metering.models import Event
from metering.services.metrics import archive_metric
from tests import factories
from tests.alerts.gate import MICROSECOND, MINUTE, Gate
from tests.metering.meter import utc
from tests.scenarios.racing import race

MONTH = (utc(2026, 11, 1), utc(2026, 12, 1))


@pytest.fixture
def gate(transactional_db: None, org: Organization, now: datetime) -> Gate:
    return Gate(org, now)


def refusal(error: Any) -> list[tuple[str, str]]:
    return [(one.field, one.code) for one in error.value.errors]


def events() -> dict[str, Event]:
    return {event.idempotency_key: event for event in Event.objects.all_tenants()}


class TestReserving:
    def test_what_fits_exactly_is_given_and_one_unit_more_is_not(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.reserve("9.5")

        with pytest.raises(QuotaExceeded):
            gate.reserve("0.500000000000000001")
        held = gate.reserve("0.5")

        assert (held.check.verdict.used, held.check.verdict.remaining, held.check.verdict.level) == (
            Decimal(10),
            Decimal(0),
            "exceeded",
        )

    def test_a_refusal_says_how_the_quota_stands_and_holds_nothing(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.reserve(8)

        with pytest.raises(QuotaExceeded, match=r"Only 2 of the quota is left") as refused:
            gate.reserve(3)

        verdict = refused.value.check.verdict
        assert (verdict.is_allowed, verdict.limit, verdict.used, verdict.remaining, verdict.level) == (
            False,
            Decimal(10),
            Decimal(8),
            Decimal(2),
            "warning",
        )
        assert refused.value.check.reset_at == utc(2026, 12, 1)
        assert gate.used() == Decimal(8)

    @pytest.mark.parametrize(
        ("settings", "amounts", "given"),
        [
            ({"value": 10, "mode": "soft", "grace": 2}, [10, 2, 1], [True, True, False]),
            ({"value": 10, "mode": "soft", "grace": 2}, [13], [False]),
            ({"value": 10, "mode": "warn"}, [10, 100], [True, True]),
            ({"value": 0}, ["0.000000000000000001"], [False]),
            ({"value": 0, "mode": "soft", "grace": 1}, [1, 1], [True, False]),
            ({"value": None}, ["1e29", "1e29"], [True, True]),
        ],
        ids=["grace", "beyond-grace", "warn", "none", "none-but-grace", "unlimited"],
    )
    def test_every_mode(self, gate: Gate, settings: dict[str, Any], amounts: list[Any], given: list[bool]) -> None:
        gate.define("m", "sum")
        gate.limit(settings.pop("value"), **settings)

        assert [gate.fits(amount) for amount in amounts] == given

    def test_without_a_quota_it_is_given(self, gate: Gate) -> None:
        gate.define("m", "sum")

        assert gate.reserve(10).check.verdict.limit is None

    def test_customers_and_metrics_have_room_of_their_own(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.define("other", "sum")
        for metric in ("m", "other"):
            gate.limit(10, metric=metric)

        given = [
            gate.fits(10, customer=customer, metric=metric) for customer in ("ann", "bob") for metric in ("m", "other")
        ]

        assert given == [True] * 4

    @pytest.mark.parametrize("aggregation", ["max", "min", "latest", "count_unique"])
    def test_only_counts_and_sums_can_be_reserved(self, gate: Gate, aggregation: str) -> None:
        gate.define("m", aggregation)

        with pytest.raises(InvalidInput) as refused:
            gate.reserve(1)

        assert refusal(refused) == [("metric", "not_reservable")]

    @pytest.mark.parametrize(
        ("aggregation", "amount", "code"),
        [
            ("sum", "0", "invalid_value"),
            ("sum", "-1", "invalid_value"),
            ("count", "1.5", "invalid_value"),
            ("count", "5001", "too_many"),
        ],
    )
    def test_amounts_that_could_not_be_used_are_refused(
        self, gate: Gate, aggregation: str, amount: str, code: str
    ) -> None:
        gate.define("m", aggregation)

        with pytest.raises(InvalidInput) as refused:
            gate.reserve(amount)

        assert refusal(refused) == [("amount", code)]

    def test_an_archived_metric_gives_nothing(self, gate: Gate) -> None:
        metric = gate.define("m", "sum")
        archive_metric(organization=gate.organization, metric=metric, actor="test", now=gate.now)

        with pytest.raises(InvalidInput) as refused:
            gate.reserve(1)

        assert refusal(refused) == [("metric", "metric_archived")]


class TestExpiry:
    def test_the_amount_comes_back_by_time_alone(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.reserve(10)
        end = gate.now + MINUTE

        assert gate.used(at=end - MICROSECOND) == Decimal(10)
        assert not gate.fits(1, at=end - MICROSECOND)
        assert gate.used(at=end) == Decimal(0)
        assert gate.fits(10, at=end)

    def test_the_state_is_expired_from_that_moment_on(self, gate: Gate) -> None:
        gate.define("m", "sum")
        reservation = gate.reserve(10).reservation

        assert reservation.state_at(gate.now + MINUTE - MICROSECOND) == "open"
        assert reservation.state_at(gate.now + MINUTE) == "expired"

    def test_a_reservation_open_over_the_end_of_the_period_is_held_in_the_next(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        december = utc(2026, 12, 1)
        held = gate.reserve(6, at=december - MICROSECOND)

        assert gate.used(at=december) == Decimal(6)
        gate.commit(held, at=december)

        assert gate.used(at=december) == Decimal(6)
        assert gate.value("m", *MONTH) == Decimal(0)

    def test_committed_late_it_counts_if_it_still_fits(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        held = gate.reserve(6)
        gate.send_all({"customer": "ann", "type": "m", "value": 4})

        committed = gate.commit(held, at=gate.now + MINUTE)

        assert (committed.state, gate.used(at=gate.now + MINUTE)) == ("committed", Decimal(10))

    def test_committed_late_it_is_refused_if_the_room_is_taken(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        held = gate.reserve(6)
        later = gate.now + MINUTE
        gate.reserve("4.000000000000000001", at=later)

        with pytest.raises(ReservationExpired):
            gate.commit(held, at=later)

        assert (events(), gate.used(at=later)) == ({}, Decimal("4.000000000000000001"))
        gate.commit(held, "5.999999999999999999", at=later)
        assert gate.used(at=later) == Decimal(10)

    def test_in_time_it_is_committed_although_others_have_taken_more_than_there_is(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        held = gate.reserve(6)
        gate.send_all({"customer": "ann", "type": "m", "value": 10})

        gate.commit(held, at=gate.now + MINUTE - MICROSECOND)

        assert gate.used() == Decimal(16)


class TestCommitting:
    def test_what_was_held_becomes_usage_once(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        held = gate.reserve("2.5")

        committed = gate.commit(held)

        assert (committed.state, committed.committed_amount, committed.settled_at) == (
            "committed",
            Decimal("2.5"),
            gate.now,
        )
        assert gate.used() == gate.value("m", *MONTH, customer="ann") == Decimal("2.5")
        [(key, event)] = events().items()
        assert (key, event.value, event.occurred_at) == (f"reservation:{committed.public_id}", Decimal("2.5"), gate.now)

    def test_a_part_of_it_gives_the_rest_back(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        held = gate.reserve(10)

        gate.commit(held, 4)

        assert (gate.used(), gate.fits(6)) == (Decimal(4), True)

    @pytest.mark.parametrize("amount", [None, "3"])
    def test_again_it_answers_the_same_and_stores_nothing(self, gate: Gate, amount: str | None) -> None:
        gate.define("m", "sum")
        held = gate.reserve(3)

        first = gate.commit(held, amount)
        second = gate.commit(held, amount, at=gate.now + timedelta(days=2))

        assert (first.settled_at, second.settled_at, second.committed_amount) == (gate.now, gate.now, Decimal(3))
        assert gate.used() == Decimal(3)

    @pytest.mark.parametrize("again", [None, "1"])
    def test_again_with_another_amount_it_is_refused(self, gate: Gate, again: str | None) -> None:
        gate.define("m", "sum")
        held = gate.reserve(3)
        gate.commit(held, 2)

        with pytest.raises(ReservationSettled) as refused:
            gate.commit(held, again)

        assert (refused.value.code, gate.used()) == ("already_committed", Decimal(2))

    @pytest.mark.parametrize(
        ("amount", "code"),
        [("3.000000000000000001", "exceeds_reservation"), ("0", "invalid_value"), ("-1", "invalid_value")],
    )
    def test_more_than_was_reserved_and_less_than_something_are_refused(
        self, gate: Gate, amount: str, code: str
    ) -> None:
        gate.define("m", "sum")
        held = gate.reserve(3)

        with pytest.raises(InvalidInput) as refused:
            gate.commit(held, amount)

        assert (refusal(refused), gate.used()) == ([("amount", code)], Decimal(3))

    def test_after_a_release_it_is_refused(self, gate: Gate) -> None:
        gate.define("m", "sum")
        held = gate.reserve(3)
        gate.release(held)

        with pytest.raises(ReservationSettled) as refused:
            gate.commit(held)

        assert (refused.value.code, events()) == ("already_released", {})

    def test_properties_and_time_are_the_events(self, gate: Gate) -> None:
        gate.define("m", "sum", dimensions=["region"])
        held = gate.reserve(3)

        gate.commit(held, properties={"region": "eu"}, timestamp=utc(2026, 11, 2))

        assert gate.breakdown("m", *MONTH, "region") == {("eu",): Decimal(3)}
        [event] = events().values()
        assert event.occurred_at == utc(2026, 11, 2)

    def test_the_amount_is_the_property_that_the_metric_sums(self, gate: Gate) -> None:
        gate.define("m", "sum", event_type="job", value_property="usage.seconds", dimensions=["region"])
        held = gate.reserve("1e3")

        gate.commit(held, properties={"region": "eu"})

        assert gate.breakdown("m", *MONTH, "region") == {("eu",): Decimal(1000)}
        [event] = events().values()
        assert (event.value, event.properties) == (None, {"region": "eu", "usage.seconds": 1000})

    def test_a_property_that_says_the_amount_twice_is_refused(self, gate: Gate) -> None:
        gate.define("m", "sum", value_property="seconds")
        held = gate.reserve(3)

        with pytest.raises(InvalidInput) as refused:
            gate.commit(held, properties={"seconds": 2})

        assert refusal(refused) == [("properties.seconds", "invalid_property")]

    def test_a_count_grows_by_so_many_events(self, gate: Gate) -> None:
        gate.define("m", "count", dimensions=["region"])
        gate.limit(10)
        held = gate.reserve(4)

        committed = gate.commit(held, 3, properties={"region": "eu"})

        assert (gate.used(), gate.breakdown("m", *MONTH, "region")) == (Decimal(3), {("eu",): Decimal(3)})
        key = f"reservation:{committed.public_id}"
        assert set(events()) == {key, f"{key}:2", f"{key}:3"}
        gate.roll_up()
        assert gate.used() == Decimal(3)

    def test_a_count_of_a_property_needs_the_property(self, gate: Gate) -> None:
        """Another metric of the type would take the event without it, and the reserved one would not grow."""
        gate.define("m", "count", event_type="call", value_property="cached")
        gate.define("all", "count", event_type="call")
        held = gate.reserve(2)

        with pytest.raises(InvalidInput) as refused:
            gate.commit(held, properties={"region": "eu"})
        gate.commit(held, properties={"cached": True})

        assert refusal(refused) == [("properties.cached", "value_required")]
        assert gate.used() == Decimal(2)

    def test_all_metrics_that_listen_to_the_type_are_fed(self, gate: Gate) -> None:
        gate.define("m", "sum", event_type="job")
        gate.define("jobs", "count", event_type="job")
        gate.define("longest", "max", event_type="job")

        gate.commit(gate.reserve("2.5"))

        assert [gate.value(code, *MONTH, customer="ann") for code in ("m", "jobs", "longest")] == [
            Decimal("2.5"),
            Decimal(1),
            Decimal("2.5"),
        ]

    @pytest.mark.parametrize(
        ("event", "field", "code"),
        [
            ({}, None, None),
            ({"properties": {"region": "moon"}}, "properties.region", "invalid_dimension_value"),
            ({"properties": {"region": None}}, "properties.region", "invalid_property"),
            ({"timestamp": utc(2027, 1, 1)}, "timestamp", "timestamp_in_future"),
        ],
        ids=["accepted", "strict-dimension", "null", "future"],
    )
    def test_what_ingest_refuses_stays_reserved(
        self, gate: Gate, event: dict[str, Any], field: str | None, code: str | None
    ) -> None:
        gate.define("m", "sum", dimensions=[{"key": "region", "values": ["eu"], "strict": True}])
        held = gate.reserve(3)

        if field is None:
            gate.commit(held, **event)
            return
        with pytest.raises(InvalidInput) as refused:
            gate.commit(held, **event)

        assert (refused.value.code, refusal(refused)) == (code, [(field, code)])
        assert (Reservation.objects.all_tenants().get().state, events()) == ("open", {})

    def test_of_a_metric_that_was_archived_meanwhile_nothing_is_recorded(self, gate: Gate) -> None:
        metric = gate.define("m", "sum")
        held = gate.reserve(3)
        archive_metric(organization=gate.organization, metric=metric, actor="test", now=gate.now)

        with pytest.raises(InvalidInput) as refused:
            gate.commit(held)

        assert (refused.value.code, gate.release(held).state) == ("unknown_metric", "released")

    @pytest.mark.parametrize("value", [3, 4], ids=["same", "other"])
    def test_somebody_elses_event_under_its_key_is_no_commit(self, gate: Gate, value: int) -> None:
        gate.define("m", "sum")
        held = gate.reserve(3)
        key = f"reservation:{held.reservation.public_id}"
        gate.send_all({"customer": "ann", "type": "m", "value": value, "idempotency_key": key})

        with pytest.raises((Conflict, InvalidInput)) as refused:
            gate.commit(held)

        assert (refused.value.code, Reservation.objects.all_tenants().get().state) == ("conflict", "open")

    def test_event_and_settlement_are_one_transaction(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        held = gate.reserve(3)

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(reservations, "_settle", die)
            with pytest.raises(KeyboardInterrupt):
                gate.commit(held)
        assert (events(), gate.used()) == ({}, Decimal(3))
        gate.commit(held)

        assert gate.used() == gate.value("m", *MONTH) == Decimal(3)

    def test_it_outlives_its_quota(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10)
        held = gate.reserve(3)
        delete_quota(quota=quota, actor="test", now=gate.now)

        gate.commit(held)

        assert gate.used() == Decimal(3)


class TestReleasing:
    def test_the_amount_comes_back_at_once(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        held = gate.reserve(10)

        gate.release(held)

        assert (gate.used(), gate.fits(10), events()) == (Decimal(0), True, {})

    def test_again_it_changes_nothing(self, gate: Gate) -> None:
        gate.define("m", "sum")
        held = gate.reserve(10)

        gate.release(held)
        again = gate.release(held, at=gate.now + MINUTE)

        assert (again.state, again.settled_at) == ("released", gate.now)

    def test_after_a_commit_it_is_refused(self, gate: Gate) -> None:
        gate.define("m", "sum")
        held = gate.reserve(10)
        gate.commit(held)

        with pytest.raises(ReservationSettled) as refused:
            gate.release(held)

        assert (refused.value.code, gate.used()) == ("already_committed", Decimal(10))

    def test_an_expired_one_can_still_be_released(self, gate: Gate) -> None:
        gate.define("m", "sum")
        held = gate.reserve(10)

        assert gate.release(held, at=gate.now + MINUTE).state == "released"


class TestIdempotencyKeys:
    def test_the_same_request_gets_the_same_reservation(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)

        first = gate.reserve(6, key="job 1")
        second = gate.reserve("6.0", key="job 1", at=gate.now + MINUTE / 2)

        assert (first.reservation.pk, first.is_new, second.is_new) == (second.reservation.pk, True, False)
        assert second.reservation.expires_at == gate.now + MINUTE
        assert (second.check.verdict.used, second.check.verdict.remaining) == (Decimal(6), Decimal(4))

    def test_it_is_the_same_although_nothing_more_fits_or_it_is_over(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(6)
        held = gate.reserve(6, key="job 1")

        for settle, state in ((None, "open"), (gate.commit, "committed")):
            if settle:
                settle(held)
            assert gate.reserve(6, key="job 1").reservation.state == state

        assert gate.used() == Decimal(6)

    @pytest.mark.parametrize(
        "other",
        [{"amount": 7}, {"customer": "bob"}, {"metric": "other"}, {"duration": 2 * MINUTE}],
        ids=["amount", "customer", "metric", "duration"],
    )
    def test_another_request_under_it_is_refused(self, gate: Gate, other: dict[str, Any]) -> None:
        gate.define("m", "sum")
        gate.define("other", "sum")
        gate.reserve(6, key="job 1")

        with pytest.raises(Conflict):
            gate.reserve(**{"amount": 6, "key": "job 1", **other})

        assert Reservation.objects.all_tenants().count() == 1

    def test_a_refused_request_does_not_use_it_up(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(5)
        assert not gate.fits(6, key="job 1")

        gate.change(quota, limit=Decimal(6))

        assert gate.fits(6, key="job 1")

    def test_other_organizations_have_their_own(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.reserve(6, key="job 1")
        elsewhere = Gate(factories.make_organization(), gate.now)
        elsewhere.define("m", "sum")

        assert elsewhere.reserve(1, key="job 1").is_new

    def test_of_racing_repetitions_one_holds_the_amount(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(100)

        held = race([partial(gate.reserve, 10, key="job 1")] * 8)

        assert len({one.reservation.pk for one in held}) == 1
        assert sum(one.is_new for one in held) == 1
        assert gate.used() == Decimal(10)

    def test_of_racing_strangers_under_one_key_one_succeeds(self, gate: Gate) -> None:
        """They take different locks, so only the constraint stands between them."""
        gate.define("m", "sum")

        def reserve(customer: str) -> bool:
            try:
                gate.reserve(10, customer=customer, key="job 1")
            except Conflict:
                return False
            return True

        names = [f"c{number}" for number in range(8)]
        for name in names:
            gate.customer(name)

        assert sorted(race([partial(reserve, name) for name in names])) == [False] * 7 + [True]


class TestConcurrency:
    def test_sixty_four_callers_for_forty_places(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(40)
        gate.customer("ann")

        given = race([partial(gate.fits, 1)] * 64)

        assert sum(given) == 40
        assert gate.used() == Decimal(40)

    def test_nobody_reads_before_the_one_in_front_has_committed(self, gate: Gate) -> None:
        """The narrowest place: a caller that waits for the lock must see what its holder did."""
        gate.define("m", "sum")
        gate.limit(10)
        gate.customer("ann")

        def hold() -> bool:
            with transaction.atomic():
                given = gate.fits(10)
                wait_until_someone_waits()
                return given

        def follow() -> bool:
            wait_until_locked()
            return gate.fits(10)

        assert race([hold, follow]) == [True, False]

    def test_settling_at_the_same_time_neither_loses_nor_doubles_room(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(40)
        gate.customer("ann")

        def take(number: int) -> tuple[int, int]:
            """Reserve until refused; commit every second one and release the others. Return both counts."""
            committed = released = 0
            for turn in count():
                try:
                    held = gate.reserve(1)
                except QuotaExceeded:
                    return committed, released
                if (turn + number) % 2:
                    gate.commit(held)
                    committed += 1
                else:
                    gate.release(held)
                    released += 1
            raise AssertionError("never refused")

        taken = race([partial(take, number) for number in range(6)])

        assert sum(committed for committed, _ in taken) == 40
        assert gate.used() == gate.value("m", *MONTH) == Decimal(40)

    def test_usage_that_is_ingested_meanwhile_counts_from_its_commit_on(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(40)
        gate.customer("ann")

        def ingest() -> int:
            for _ in range(10):
                gate.send_all({"customer": "ann", "type": "m", "value": 1})
            return 0

        def reserve() -> int:
            return sum(gate.fits(1) for _ in range(12))

        given = sum(race([ingest, *[reserve] * 5]))

        # 10 were ingested in any case: at most 40 were given, at least what the ingest left; then it is full.
        assert 30 <= given <= 40
        assert gate.used() == 10 + given
        assert not gate.fits(1)

    def test_a_check_never_sees_a_commit_half_done(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.customer("ann")
        held = [gate.reserve(1) for _ in range(15)]

        def commit() -> set[Decimal]:
            for one in held:
                gate.commit(one)
            return set()

        def watch() -> set[Decimal]:
            return {gate.used() for _ in range(60)}

        _, *seen = race([commit, watch, watch])

        assert set.union(*seen) == {Decimal(15)}

    def test_committing_and_releasing_at_once_one_of_them_wins(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.customer("ann")

        def attempt(settle: Any, held: Any) -> bool:
            try:
                settle(held)
            except ReservationSettled:
                return False
            return True

        for _ in range(5):
            held = gate.reserve(1)
            outcomes = race([partial(attempt, settle, held) for settle in (gate.commit, gate.release) * 3])
            state = Reservation.objects.all_tenants().get(pk=held.reservation.pk).state
            # All of the winner's kind succeed, the others are refused.
            assert outcomes == [state == ReservationState.COMMITTED, state == ReservationState.RELEASED] * 3

        committed = Reservation.objects.all_tenants().filter(state=ReservationState.COMMITTED).count()
        assert gate.value("m", *MONTH) == committed


class TestPruning:
    def test_only_what_is_long_over_is_deleted(self, gate: Gate) -> None:
        gate.define("m", "sum")
        settled_late = gate.reserve(1, key="settled late")
        gate.reserve(1, key="expired")
        gate.release(gate.reserve(1, key="released"))
        gate.reserve(1, key="younger", at=gate.now + MICROSECOND)
        gate.commit(settled_late, at=gate.now + timedelta(days=1))
        long_after = gate.now + MINUTE + RESERVATION_RETENTION

        assert prune_reservations(organization=gate.organization, now=long_after) == 0
        assert prune_reservations(organization=gate.organization, now=long_after + MICROSECOND) == 2

        assert set(Reservation.objects.all_tenants().values_list("idempotency_key", flat=True)) == {
            "settled late",
            "younger",
        }
        assert gate.value("m", *MONTH) == Decimal(1)

    def test_in_as_many_steps_as_it_takes(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reservations, "DELETE_ROWS", 2)
        gate.define("m", "sum")
        for _ in range(5):
            gate.reserve(1)

        assert prune_reservations(organization=gate.organization, now=gate.now + timedelta(days=30)) == 5

    def test_the_task_looks_at_every_organization(self, gate: Gate) -> None:
        elsewhere = Gate(factories.make_organization(), gate.now)
        for one in (gate, elsewhere):
            one.define("m", "sum")
            one.reserve(1, at=utc(2020, 1, 1))

        prune_reservations_task()

        assert Reservation.objects.all_tenants().count() == 0


# --- waiting for another connection ---------------------------------------------------------------------------


def wait_until_locked() -> None:
    _wait_for_lock(is_granted=True)


def wait_until_someone_waits() -> None:
    _wait_for_lock(is_granted=False)


def _wait_for_lock(*, is_granted: bool) -> None:
    with connection.cursor() as cursor:
        for _ in range(6_000):
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND granted = %s",
                [reservations.RESERVATION_LOCK, is_granted],
            )
            if cursor.fetchone()[0]:
                return
            cursor.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("nobody came to the lock within a minute")
