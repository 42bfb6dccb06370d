"""Quotas: which one applies, what it counts, and the warnings that it declares."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from accounts.models import AuditEntry, Organization
from alerts.models import Quota, Threshold
from alerts.queries.quotas import check_quota
from alerts.services.quotas import QuotaExists, ThresholdCodeTaken, delete_quota
from alerts.services.thresholds import ThresholdDeclaredElsewhere, archive_threshold
from common.errors import InvalidInput, NotFound
from metering.services.metrics import archive_metric
from tests.alerts.gate import MICROSECOND, MINUTE, Gate
from tests.alerts.watch import Told
from tests.metering.meter import utc
from tests.scenarios.racing import race


@pytest.fixture
def gate(transactional_db: None, org: Organization, now: datetime) -> Gate:
    return Gate(org, now)


def warnings(**selection: Any) -> dict[str, Decimal]:
    live = Threshold.objects.all_tenants().filter(origin="quota", archived_at__isnull=True, **selection)
    return {threshold.code: threshold.value for threshold in live}


class TestWhatIsUsed:
    def test_usage_counts_before_the_worker_has_seen_it(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)

        gate.send_all({"customer": "ann", "type": "m", "value": "9.5"})

        assert (gate.check("0.5").is_allowed, gate.check("0.500000000000000001").is_allowed) == (True, False)
        gate.roll_up()
        assert (gate.check("0.5").is_allowed, gate.check("0.500000000000000001").is_allowed) == (True, False)

    def test_only_the_customers_own_usage_counts(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)

        gate.send_all({"customer": "bob", "type": "m", "value": 10})

        assert (gate.used(customer="ann"), gate.used(customer="bob")) == (Decimal(0), Decimal(10))

    def test_only_the_metrics_own_usage_counts(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.define("other", "sum")
        gate.limit(10)

        gate.send_all({"customer": "ann", "type": "other", "value": 10})

        assert gate.used() == Decimal(0)

    def test_open_reservations_count_beside_usage(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.send_all({"customer": "ann", "type": "m", "value": 3})

        gate.reserve(4)

        assert gate.used() == Decimal(7)

    def test_a_new_period_begins_at_zero(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.send_all({"customer": "ann", "type": "m", "value": 10})
        december = utc(2026, 12, 1)

        assert gate.used(at=december - MICROSECOND) == Decimal(10)
        assert gate.used(at=december) == Decimal(0)

    def test_the_reset_is_the_end_of_the_customers_own_period(self, gate: Gate) -> None:
        gate.define("m", "sum")
        ann = gate.customer("ann")
        ann.zone, ann.billing_cycle_day = "Asia/Kolkata", 5
        ann.save()

        check = check_quota(
            organization=gate.organization, metric=gate.metrics["m"], customer=ann, amount=Decimal(0), now=gate.now
        )

        assert check.reset_at == utc(2026, 12, 4, 18, 30)

    def test_a_void_gives_room_back(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.send_all({"customer": "ann", "type": "m", "value": 10, "idempotency_key": "ten"})

        gate.void("ten")

        assert gate.check(10).is_allowed

    @pytest.mark.parametrize(
        ("aggregation", "values", "used", "fits", "too_much"),
        [
            ("count", [1, 1], 2, 8, 9),
            ("sum", [4, 2], 6, 4, 5),
            ("count_unique", ["a", "b", "a"], 2, 8, 9),
            ("max", [7, 3], 7, 10, 11),
            ("latest", [12, 3], 3, 10, 11),
        ],
    )
    def test_every_aggregation_takes_an_amount_in_its_own_way(
        self, gate: Gate, aggregation: str, values: list[Any], used: int, fits: int, too_much: int
    ) -> None:
        gate.define("m", aggregation)
        gate.limit(10)

        for minute, value in enumerate(values):
            timestamp = utc(2026, 11, 20, 10, minute).isoformat()
            gate.send_all({"customer": "ann", "type": "m", "value": value, "timestamp": timestamp})

        assert gate.used() == Decimal(used)
        assert (gate.check(fits).is_allowed, gate.check(too_much).is_allowed) == (True, False)


class TestWhichApplies:
    def test_without_a_quota_everything_is_allowed(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.send_all({"customer": "ann", "type": "m", "value": 3})

        verdict = gate.check("1e20")

        assert (verdict.is_allowed, verdict.limit, verdict.used, verdict.remaining, verdict.level) == (
            True,
            None,
            Decimal(3),
            None,
            "ok",
        )

    def test_the_customers_own_comes_before_the_metrics(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.limit(20, customer="ann")

        assert (gate.check(customer="ann").limit, gate.check(customer="bob").limit) == (Decimal(20), Decimal(10))

    def test_an_unlimited_own_quota_lifts_the_metrics(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.limit(None, customer="ann")

        assert gate.check(11, customer="ann").is_allowed
        assert not gate.check(11, customer="bob").is_allowed

    def test_a_quota_of_another_metric_does_not_apply(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.define("other", "sum")
        gate.limit(0, metric="other", customer="ann")

        assert gate.check(5).limit is None

    def test_a_customer_never_seen_has_used_nothing_and_falls_under_the_metrics(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)
        gate.send_all({"customer": "ann", "type": "m", "value": 10})

        check = check_quota(
            organization=gate.organization, metric=gate.metrics["m"], customer=None, amount=Decimal(10), now=gate.now
        )

        assert (check.verdict.is_allowed, check.verdict.used) == (True, Decimal(0))


class TestSettings:
    def test_one_quota_per_metric_and_customer(self, gate: Gate) -> None:
        gate.define("m", "sum")
        for customer in (None, "ann"):
            gate.limit(10, customer=customer)
            with pytest.raises(QuotaExists):
                gate.limit(20, customer=customer)

        assert sorted(Quota.objects.all_tenants().values_list("limit", flat=True)) == [10, 10]

    def test_of_racing_creations_one_succeeds(self, gate: Gate) -> None:
        gate.define("m", "sum")

        def create() -> bool:
            try:
                gate.limit(10)
            except QuotaExists:
                return False
            return True

        assert sorted(race([create] * 6)) == [False] * 5 + [True]
        assert len(warnings()) == 3

    @pytest.mark.parametrize(
        ("settings", "field", "code"),
        [
            ({"value": -1}, "limit", "invalid_value"),
            ({"value": 1, "mode": "soft", "grace": -1}, "grace", "invalid_value"),
            ({"value": 1, "mode": "hard", "grace": 1}, "grace", "invalid_combination"),
            ({"value": 1, "mode": "warn", "grace": 1}, "grace", "invalid_combination"),
            ({"value": 1, "warning_percents": [0]}, "warning_percents", "invalid_value"),
            ({"value": 1, "warning_percents": [1001]}, "warning_percents", "invalid_value"),
            ({"value": 1, "warning_percents": range(1, 10)}, "warning_percents", "too_many"),
        ],
    )
    def test_meaningless_settings_are_refused(
        self, gate: Gate, settings: dict[str, Any], field: str, code: str
    ) -> None:
        gate.define("m", "sum")

        with pytest.raises(InvalidInput) as refused:
            gate.limit(settings.pop("value"), **settings)

        assert [(error.field, error.code) for error in refused.value.errors] == [(field, code)]
        assert Quota.objects.all_tenants().count() == 0

    def test_a_minimum_has_no_quota(self, gate: Gate) -> None:
        gate.define("m", "min")

        with pytest.raises(InvalidInput):
            gate.limit(10)

        assert gate.check(5).is_allowed

    def test_an_archived_metric_gets_no_quota(self, gate: Gate) -> None:
        metric = gate.define("m", "sum")
        archive_metric(organization=gate.organization, metric=metric, actor="test", now=gate.now)

        with pytest.raises(InvalidInput) as refused:
            gate.limit(10)

        assert refused.value.code == "metric_archived"

    def test_a_change_holds_at_once_and_is_audited_with_old_and_new(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10, customer="ann")

        gate.change(quota, limit=Decimal("12.5"), mode="soft", grace=Decimal(1))

        assert (gate.check("13.5").is_allowed, gate.check("13.6").is_allowed) == (True, False)
        entry = AuditEntry.objects.all_tenants().get(action="quota.updated")
        assert (entry.actor, entry.target) == ("test", "m of ann")
        assert entry.details == {
            "limit": {"from": "10", "to": "12.5"},
            "mode": {"from": "hard", "to": "soft"},
            "grace": {"from": "0", "to": "1"},
        }

    def test_a_change_to_the_same_writes_nothing(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10)

        gate.change(quota, limit=Decimal("10.0"), warning_percents=[100, 95, 80, 80])

        assert not AuditEntry.objects.all_tenants().filter(action="quota.updated").exists()

    def test_a_refused_change_changes_nothing(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10, mode="soft", grace=1)

        with pytest.raises(InvalidInput):
            gate.change(quota, mode="hard", limit=Decimal(20))

        quota.refresh_from_db()
        assert (quota.mode, quota.limit, warnings()["quota_100"]) == ("soft", Decimal(10), Decimal(10))

    def test_changing_one_that_was_deleted_meanwhile_is_refused(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10)
        delete_quota(quota=Quota.objects.all_tenants().get(), actor="test", now=gate.now)

        with pytest.raises(NotFound):
            gate.change(quota, limit=Decimal(20))

    def test_deleting_twice_is_the_same_as_once(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10)
        again = Quota.objects.all_tenants().get()

        for deleted in (quota, again):
            delete_quota(quota=deleted, actor="test", now=gate.now)

        assert gate.check(11).limit is None
        assert AuditEntry.objects.all_tenants().filter(action="quota.deleted").count() == 1


class TestWarnings:
    def test_each_is_told_once_per_period_from_its_exact_value_on(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(1000)

        gate.use("ann", "799.999999999999999999")
        assert gate.told() == []
        gate.use("ann", "0.000000000000000001")
        gate.use("ann", 1)
        gate.use("ann", 149)
        gate.use("ann", 100)

        expected = [
            Told("ann", "quota_80", Decimal(800), Decimal(800)),
            Told("ann", "quota_95", Decimal(950), Decimal(950)),
            Told("ann", "quota_100", Decimal(1000), Decimal(1050)),
        ]
        assert gate.told() == expected
        gate.use("ann", 800, at=utc(2026, 12, 1))
        assert gate.told() == [*expected, Told("ann", "quota_80", Decimal(800), Decimal(800))]

    def test_what_is_only_held_is_not_told(self, gate: Gate) -> None:
        """The log tells usage; a reservation may still be given back. The level of a check counts it."""
        gate.define("m", "sum")
        gate.limit(10)

        gate.reserve(9)
        gate.evaluate()

        assert (gate.told(), gate.check().level) == ([], "warning")

    @pytest.mark.parametrize("limit", [None, 0])
    def test_no_limit_and_none_at_all_declare_no_warnings(self, gate: Gate, limit: int | None) -> None:
        gate.define("m", "sum")
        gate.limit(limit)

        gate.use("ann", 100)

        assert (warnings(), gate.told()) == ({}, [])

    def test_a_metrics_warnings_are_not_for_customers_with_their_own_quota(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.define("other", "sum")
        gate.limit(10, warning_percents=[100])
        gate.limit(100, customer="ann", warning_percents=[100])
        gate.limit(None, customer="cleo")
        gate.limit(None, customer="dan", metric="other")

        for customer in ("ann", "bob", "cleo", "dan"):
            gate.use(customer, 50)
        gate.use("ann", 50)

        assert gate.told() == [
            Told("bob", "quota_100", Decimal(10), Decimal(50)),
            Told("dan", "quota_100", Decimal(10), Decimal(50)),
            Told("ann", "quota_100", Decimal(100), Decimal(100)),
        ]

    def test_ones_own_threshold_is_told_whatever_the_quota(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.threshold("m", "cap", 10)
        gate.limit(None, customer="ann")

        gate.use("ann", 10)

        assert gate.told() == [Told("ann", "cap", Decimal(10), Decimal(10))]

    def test_usage_that_had_reached_a_new_quotas_warning_is_told(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.use("ann", 9)

        gate.limit(10)
        gate.evaluate()

        assert gate.told() == [Told("ann", "quota_80", Decimal(8), Decimal(9))]

    def test_without_its_own_quota_a_customer_hears_of_the_metrics_again(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10, warning_percents=[100])
        own = gate.limit(100, customer="ann", warning_percents=[100])
        gate.use("ann", 50)
        assert gate.told() == []

        delete_quota(quota=own, actor="test", now=gate.now)
        gate.evaluate()

        assert gate.told() == [Told("ann", "quota_100", Decimal(10), Decimal(50))]

    def test_a_change_archives_what_no_longer_holds_and_leaves_the_rest_alone(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(100)
        kept = Threshold.objects.all_tenants().get(code="quota_95")

        gate.change(quota, warning_percents=[50, 95])

        assert warnings() == {"quota_50": Decimal(50), "quota_95": Decimal(95)}
        assert Threshold.objects.all_tenants().get(code="quota_95").pk == kept.pk
        gate.change(quota, limit=None)
        assert warnings() == {}
        gate.change(quota, limit=Decimal(10))
        assert warnings() == {"quota_50": Decimal(5), "quota_95": Decimal("9.5")}

    def test_a_raised_limit_may_be_warned_of_again(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10, warning_percents=[100])
        gate.use("ann", 10)

        gate.change(quota, limit=Decimal(20))
        gate.evaluate()
        gate.use("ann", 10)

        assert [told.level for told in gate.told()] == [Decimal(10), Decimal(20)]

    def test_other_settings_do_not_repeat_a_warning(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10, warning_percents=[100])
        gate.use("ann", 10)

        gate.change(quota, mode="soft", grace=Decimal(5))
        gate.evaluate()

        assert len(gate.told()) == 1

    def test_a_deleted_quota_warns_no_more(self, gate: Gate) -> None:
        gate.define("m", "sum")
        quota = gate.limit(10)

        delete_quota(quota=quota, actor="test", now=gate.now)
        gate.use("ann", 10)

        assert (warnings(), gate.told()) == ({}, [])

    def test_a_threshold_that_took_the_code_is_named_and_nothing_is_made(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.threshold("m", "quota_95", 3)

        with pytest.raises(ThresholdCodeTaken, match="quota_95"):
            gate.limit(10)

        assert (Quota.objects.all_tenants().count(), warnings()) == (0, {})

    def test_they_are_not_to_be_changed_by_themselves(self, gate: Gate) -> None:
        gate.define("m", "sum")
        gate.limit(10)

        with pytest.raises(ThresholdDeclaredElsewhere):
            archive_threshold(threshold=Threshold.objects.all_tenants()[0], actor="test", now=gate.now + MINUTE)
