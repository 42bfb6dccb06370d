"""Storing records: whose they are at the moment of the commit, which metrics come of them, what a release does."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import Organization
from metering.catalogs import CATALOGS, MetricDefinition
from metering.dialects.weave.domain import Arrival
from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.services import (
    discard_quarantined,
    map_instance,
    release_quarantined,
    store_records,
    unmap_instance,
    update_weave_settings,
)
from metering.dialects.weave.services.intake import MAX_METRICS_CREATED
from metering.dialects.weave.telemetry import AMOUNTS, EVENTS
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

        before = read()
        arrive(
            record("1", amount=7), record("2", amount_type="made-up", amount=2), record("3", instance="no", amount=5)
        )
        arrive(record("4", amount=-9), [1])
        after = read()

        assert {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name)} == {
            ("accepted", "samples billing_ingester_events_total"): 2,
            ("accepted", "samples billing_ingester_amounts_total"): 7,
            ("accepted", "other billing_ingester_events_total"): 1,
            ("accepted", "other billing_ingester_amounts_total"): 2,
            ("quarantined", "samples billing_ingester_events_total"): 1,
            ("quarantined", "samples billing_ingester_amounts_total"): 5,
            ("quarantined", "other billing_ingester_events_total"): 1,
        }


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
