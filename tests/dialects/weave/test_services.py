"""Storing records: whose they are at the moment of the commit, which metrics come of them, what a release does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone
from structlog.testing import capture_logs

from accounts.models import Organization
from config.celery import app as celery_app
from metering.catalogs import CATALOGS, MetricDefinition
from metering.dialects.weave.domain import Arrival, Refused
from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.services import (
    discard_quarantined,
    map_instance,
    prune_unowned_records,
    pruning,
    release_quarantined,
    store_records,
    unmap_instance,
    update_weave_settings,
)
from metering.dialects.weave.services.intake import MAX_METRICS_CREATED
from metering.dialects.weave.services.quarantine import keep_refused
from metering.dialects.weave.tasks import prune_quarantine
from metering.dialects.weave.telemetry import AMOUNTS, EVENTS, QUARANTINE_DROPPED
from metering.models import Aggregation, Event, InboxEvent, Metric
from metering.services.metrics import archive_metric, create_metric
from tests.dialects.weave.listening import record, stored_keys, wait_until

pytestmark = pytest.mark.django_db


def arrive(*records: Any, at: datetime | None = None) -> tuple[int, int]:
    """Store the records; return how many were accepted and how many wait."""
    arrivals = [Arrival(each, "127.0.0.1:5", at or timezone.now()) for each in records]
    return tuple(store_records(arrivals=arrivals, now=timezone.now()))


def waiting() -> list[tuple[str, str, int | None]]:
    rows = QuarantinedRecord.objects.all_tenants().order_by("unique_key")
    return [(row.unique_key, row.reason, row.organization_id) for row in rows]


@pytest.fixture
def mapped(org: Organization) -> Organization:
    map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")
    return org


class TestWhoseTheyAre:
    def test_each_organization_counts_its_own_instances(self, mapped: Organization, other_org: Organization) -> None:
        map_instance(organization=other_org, internal_instance_id="77", customer_external_id="umbra", actor="test")

        # Flux numbers its events within an instance only: the same key is another record.
        assert arrive(record("5"), record("5", instance="77"), record("5", instance="no")) == (2, 1)
        assert stored_keys(mapped) == {"1234/5": 1}
        assert stored_keys(other_org) == {"77/5": 1}
        assert waiting() == [("5", "unknown_instance", None)]

    def test_two_instances_may_be_one_customer(self, mapped: Organization) -> None:
        map_instance(organization=mapped, internal_instance_id="77", customer_external_id="acme", actor="test")

        assert arrive(record("5"), record("5", instance="77")) == (2, 0)
        assert {event.customer.external_id for event in Event.objects.for_organization(mapped)} == {"acme"}

    def test_unmapped_instance_waits_from_then_on(self, mapped: Organization) -> None:
        arrive(record("before"))
        assert unmap_instance(organization=mapped, internal_instance_id="1234", actor="test")

        assert arrive(record("after")) == (0, 1)
        assert stored_keys(mapped) == {"1234/before": 1}
        assert not unmap_instance(organization=mapped, internal_instance_id="1234", actor="test")

    def test_what_waits_becomes_the_organizations_when_its_instance_is_mapped(self, org: Organization) -> None:
        arrive(record("5"), record("6", instance="no"))
        map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")

        assert waiting() == [("5", "unknown_instance", org.pk), ("6", "unknown_instance", None)]

    @pytest.mark.django_db(transaction=True)
    def test_record_that_arrives_while_its_instance_is_mapped_is_counted(self, org: Organization) -> None:
        """A mapping that is not committed is not seen; quarantining waits for it, and looks again."""
        results = []

        def store() -> None:
            results.append(arrive(record("5")))
            connection.close()

        def is_waiting() -> bool:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                return bool(cursor.fetchone()[0])

        thread = threading.Thread(target=store)
        with transaction.atomic():
            map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")
            thread.start()
            wait_until(is_waiting)
        thread.join()

        assert results == [(1, 0)]
        assert stored_keys(org) == {"1234/5": 1}
        assert waiting() == []


class TestMetrics:
    @pytest.fixture(autouse=True)
    def _mapped(self, mapped: Organization) -> None:
        self.org = mapped

    def test_known_type_becomes_the_catalogs_metric(self) -> None:
        assert arrive(record("1", amount_type="node-seconds", amount=60)) == (1, 0)

        [metric] = Metric.objects.for_organization(self.org)
        definition = next(each for each in CATALOGS["weave"].metrics if each.code == "node-seconds")
        assert (metric.code, metric.name, metric.catalog) == ("node-seconds", definition.name, "weave")

    def test_other_types_become_sum_metrics_of_their_own(self) -> None:
        records = [record(str(number), amount_type=name) for number, name in enumerate(("flux-sync", "Flux Sync"))]
        assert arrive(*records) == (2, 0)

        metrics = {metric.event_type: metric for metric in Metric.objects.for_organization(self.org)}
        assert metrics.keys() == {"flux-sync", "Flux Sync"}
        assert metrics["flux-sync"].code == "flux-sync"
        assert metrics["Flux Sync"].code.startswith("flux_sync.")
        assert {metric.aggregation for metric in metrics.values()} == {Aggregation.SUM}

    def test_type_whose_code_is_taken_gets_another(self) -> None:
        taken = MetricDefinition("flux-sync", Aggregation.COUNT, event_type="something else")
        create_metric(organization=self.org, definition=taken, actor="test")

        assert arrive(record("1", amount_type="flux-sync")) == (1, 0)
        codes = {metric.code: metric.event_type for metric in Metric.objects.for_organization(self.org)}
        assert codes.pop("flux-sync") == "something else"
        assert list(codes.values()) == ["flux-sync"]

    def test_none_is_created_where_the_organization_does_not_want_it(self) -> None:
        # Not even into the inbox: a record waits in one place.
        Organization.objects.filter(pk=self.org.pk).update(is_unmatched_kept=True)
        update_weave_settings(organization=self.org, is_metric_auto_created=False, actor="test")

        assert arrive(record("1"), record("2")) == (0, 2)
        assert {reason for _, reason, _ in waiting()} == {"unknown_metric"}
        assert not Metric.objects.for_organization(self.org).exists()
        assert not InboxEvent.objects.for_organization(self.org).exists()

    def test_archived_metric_does_not_come_back(self) -> None:
        arrive(record("1"))
        metric = Metric.objects.for_organization(self.org).get()
        archive_metric(organization=self.org, metric=metric, actor="test", now=timezone.now())

        assert arrive(record("2")) == (0, 1)
        assert Metric.objects.for_organization(self.org).count() == 1

    def test_so_many_are_created_and_no_more(self) -> None:
        rows = [
            Metric(
                organization=self.org, code=f"m{number}", event_type=f"m{number}", aggregation="sum", catalog="weave"
            )
            for number in range(MAX_METRICS_CREATED - 1)
        ]
        Metric.objects.bulk_create(rows)
        create_metric(organization=self.org, definition=MetricDefinition("own", Aggregation.SUM), actor="test")

        assert arrive(record("1", amount_type="a"), record("2", amount_type="b")) == (1, 1)
        assert waiting() == [("2", "unknown_metric", self.org.pk)]

    def test_negative_amounts_and_zero_count_as_they_are(self) -> None:
        assert arrive(record("1", amount=-5), record("2", amount=0)) == (2, 0)
        assert {event.value for event in Event.objects.for_organization(self.org)} == {Decimal(-5), Decimal(0)}


class TestTelemetry:
    def test_counts_by_known_types_and_has_no_label_that_senders_make_up(self, mapped: Organization) -> None:
        def read() -> dict[tuple[str, str], float]:
            samples = [sample for family in (*EVENTS.collect(), *AMOUNTS.collect()) for sample in family.samples]
            return {
                (sample.labels["status"], f"{sample.labels['amount_type']} {sample.name}"): sample.value
                for sample in samples
                if sample.name.endswith("_total")
            }

        # One of which no other test counts so much that a float cannot tell 7 more.
        known = "weavenet-seconds"
        before = read()
        arrive(
            record("1", amount_type=known, amount=7),
            record("2", amount_type="made-up", amount=2),
            record("3", amount_type=known, instance="no", amount=5),
        )
        arrive(record("4", amount_type=known, amount=-9), [1])
        after = read()

        assert {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name)} == {
            ("accepted", f"{known} billing_ingester_events_total"): 2,
            ("accepted", f"{known} billing_ingester_amounts_total"): 7,
            ("accepted", "other billing_ingester_events_total"): 1,
            ("accepted", "other billing_ingester_amounts_total"): 2,
            ("quarantined", f"{known} billing_ingester_events_total"): 1,
            ("quarantined", f"{known} billing_ingester_amounts_total"): 5,
            ("quarantined", "other billing_ingester_events_total"): 1,
        }


class TestBoundOfTheQuarantine:
    @pytest.fixture
    def wait(self) -> Callable[..., None]:
        def make(key: str, *, days_ago: float = 0.0, organization: Organization | None = None) -> None:
            arrived = timezone.now() - timedelta(days=days_ago)
            refused = Refused(Arrival(record(key), "127.0.0.1:5", arrived), "unknown_instance", "It waits.")
            keep_refused(refused=[refused], organization=organization)

        return make

    def test_oldest_of_nobody_go_when_they_are_too_many(
        self, org: Organization, wait: Callable[..., None], settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.FORWARD_QUARANTINE_ROWS = 3
        monkeypatch.setattr(pruning, "BATCH_ROWS", 2)
        wait("0", organization=org)
        for number in range(1, 9):
            wait(str(number))
        before = QUARANTINE_DROPPED._value.get()

        assert prune_unowned_records(now=timezone.now()) == 5
        assert [key for key, *_ in waiting()] == ["0", "6", "7", "8"]
        assert QUARANTINE_DROPPED._value.get() - before == 5
        assert prune_unowned_records(now=timezone.now()) == 0

    def test_old_ones_of_nobody_go_and_those_of_an_organization_stay(
        self, org: Organization, wait: Callable[..., None], settings: Any
    ) -> None:
        settings.FORWARD_QUARANTINE_DAYS = 90
        wait("owned", days_ago=400, organization=org)
        wait("old", days_ago=90.1)
        wait("young", days_ago=89.9)

        with capture_logs() as logs:
            prune_quarantine()

        assert [key for key, *_ in waiting()] == ["owned", "young"]
        assert [(line["log_level"], line["rows"]) for line in logs] == [("warning", 1)]

    def test_one_call_ends_and_the_next_goes_on(
        self, wait: Callable[..., None], settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.FORWARD_QUARANTINE_ROWS = 0
        monkeypatch.setattr(pruning, "BATCH_ROWS", 2)
        monkeypatch.setattr(pruning, "MAX_BATCHES", 2)
        for number in range(7):
            wait(str(number))

        assert [prune_unowned_records(now=timezone.now()) for _ in range(3)] == [4, 3, 0]

    def test_beat_looks_after_it(self, settings: Any) -> None:
        assert "weave.prune_quarantine" in {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
        assert "weave.prune_quarantine" in celery_app.tasks


class TestRelease:
    def test_counts_with_the_records_own_time_and_judges_by_its_arrival(self, org: Organization, now: datetime) -> None:
        Organization.objects.filter(pk=org.pk).update(late_limit_days=2)
        org.refresh_from_db()
        # It was on time when it arrived, a month ago; the other was late even then.
        on_time = (now - timedelta(days=31)).isoformat()
        late = (now - timedelta(days=40)).isoformat()
        arrive(record("5", occurred_at=on_time), record("6", occurred_at=late), at=now - timedelta(days=30))
        map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")

        result = release_quarantined(organization=org, actor="test", now=timezone.now())

        assert (result.counted, result.still_waiting) == (1, 1)
        [event] = Event.objects.for_organization(org)
        assert event.occurred_at == now - timedelta(days=31)
        assert waiting() == [("6", "too_late", org.pk)]

    def test_of_a_record_that_came_again_meanwhile_counts_once(self, org: Organization) -> None:
        arrive(record("5"))
        map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")
        arrive(record("5"))

        assert release_quarantined(organization=org, actor="test", now=timezone.now()).counted == 1
        assert stored_keys(org) == {"1234/5": 1}
        assert waiting() == []

    def test_leaves_what_is_anothers_and_what_cannot_be_read(
        self, mapped: Organization, other_org: Organization
    ) -> None:
        arrive(record("5", instance="no"), [1], record("6", amount_value="x"))
        map_instance(organization=other_org, internal_instance_id="77", customer_external_id="umbra", actor="test")
        before = waiting()

        for organization in (mapped, other_org):
            assert release_quarantined(organization=organization, actor="test", now=timezone.now()).counted == 0
        assert waiting() == before
        assert len(before) == 3

    def test_discards_what_is_seen_alone(self, mapped: Organization, other_org: Organization) -> None:
        arrive(record("5", amount_value="x"), record("6", instance="no"))
        ids = list(QuarantinedRecord.objects.all_tenants().values_list("pk", flat=True))

        # Of several organizations, nobody sees what nobody mapped.
        assert discard_quarantined(organization=other_org, ids=ids, actor="test") == 0
        assert discard_quarantined(organization=mapped, ids=ids, actor="test") == 1
        assert waiting() == [("6", "unknown_instance", None)]


class TestCommand:
    def test_maps_and_counts_what_waits(self, org: Organization) -> None:
        arrive(record("5"))
        output = StringIO()

        call_command("map_instance", "1234", organization=org.pk, customer="acme", stdout=output)

        assert output.getvalue() == "1234 is acme of Initech.\n1 records that waited are counted; 0 still wait.\n"
        assert stored_keys(org) == {"1234/5": 1}

    def test_says_what_is_wrong(self, mapped: Organization) -> None:
        with pytest.raises(CommandError, match="mapped already"):
            call_command("map_instance", "1234", organization=mapped.pk, customer="other")
        with pytest.raises(CommandError, match="no organization"):
            call_command("map_instance", "5", organization=0, customer="acme")
