"""Letting go of old requests: which days, of which events, in which steps, and that no number changes by it."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client

from accounts.models import AuditEntry, Customer, Organization
from common.errors import InvalidInput
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway import tasks
from metering.dialects.gateway.models import GatewaySettings
from metering.dialects.gateway.services import cleanup
from metering.dialects.gateway.services.cleanup import Cleanup, clean_up_by_hand, clean_up_by_settings
from metering.domain import Span
from metering.models import Event, EventVoid, IngestBatch, Metric, RollupDay, RollupHour, Series, TypeHorizon
from metering.queries.reading import RangeNotKept, Reading
from metering.services import ingest, type_retention
from metering.services.metrics import install_catalog
from metering.services.rebuild import repair_slice, verify_slice
from metering.services.voids import TooOldToVoid
from tests import factories
from tests.metering.meter import Meter, utc
from tests.scenarios.racing import race

pytestmark = pytest.mark.django_db
JSON = "application/json"
HOUR = timedelta(hours=1)
_numbers = count(1)
# The clock stands at noon of 20 November 2026.
OLD, RECENT = utc(2026, 10, 1, 10, 15), utc(2026, 11, 10, 10, 15)
KEPT_FROM = utc(2026, 10, 21)
AUTUMN = utc(2026, 9, 1), utc(2026, 12, 1)


@pytest.fixture
def meter(org: Organization, now: datetime) -> Meter:
    """Two old requests and a recent one, beside events of another type of the same days; all rolled up."""
    meter = Meter(org, now)
    install_catalog(organization=org, name="api-gateway", actor="test")
    meter.metrics = {metric.code: metric for metric in Metric.objects.for_organization(org)}
    meter.define("other", "sum", event_type="other", dimensions=["region"])
    for key, at in (("old 1", OLD), ("old 2", OLD + timedelta(days=1)), ("recent", RECENT)):
        meter.send_all(request(key, at), at=at)
        meter.send_all({**request(f"other {key}", at), "type": "other", "value": 5}, at=at)
    meter.roll_up()
    return meter


def request(key: str, at: datetime, customer: str = "ann", **properties: Any) -> dict[str, Any]:
    return {
        "idempotency_key": key,
        "customer": customer,
        "type": EVENT_TYPE,
        "timestamp": at.isoformat(),
        "properties": {
            "route_id": "users",
            "method": "GET",
            "status": "200",
            "path": "/users/7",
            "latency_ms": 20,
            "latency_bucket": "75",
            "total_bytes": 100,
            "metered_units": 2,
            **properties,
        },
    }


def by_hand(meter: Meter, days: int | None = 30, **names: Any) -> Cleanup:
    older_than = None if days is None else timedelta(days=days)
    return clean_up_by_hand(
        organization=meter.organization, actor="test", older_than=older_than, **{"now": meter.now, **names}
    )


def by_settings(meter: Meter, now: datetime) -> Cleanup:
    return clean_up_by_settings(organization=meter.organization, now=now)


def keys(meter: Meter) -> list[str]:
    rows = Event.objects.for_organization(meter.organization).order_by("offset")
    return list(rows.values_list("idempotency_key", flat=True))


def numbers(meter: Meter) -> list[Any]:
    found: list[Any] = [meter.usage(code, *AUTUMN) for code in sorted(meter.metrics)]
    found += [meter.breakdown(code, *AUTUMN, "customer", "status") for code in ("api_requests", "api_units")]
    found.append(meter.usage("api_requests", utc(2026, 10, 1, 10), utc(2026, 10, 1, 11)))
    return found


def differences(meter: Meter) -> list[Any]:
    found: list[Any] = []
    verify_slice(organization=meter.organization, span=Span(utc(2026, 1, 1), utc(2027, 1, 1)), report=found.append)
    return found


class TestByHand:
    def test_old_requests_go_and_events_of_other_types_stay(self, meter: Meter) -> None:
        before = numbers(meter)

        done = by_hand(meter)

        assert keys(meter) == ["other old 1", "other old 2", "recent", "other recent"]
        assert (done.is_finished, done.requests_before) == (True, KEPT_FROM)
        assert done.deleted.rows == {"events": 2, "voids": 0, "batches": 2}
        assert (done.deleted.earliest, done.deleted.latest) == (OLD, OLD + timedelta(days=1))
        assert numbers(meter) == before
        assert meter.value("api_units", *AUTUMN) == 6
        assert differences(meter) == []
        whole = Span(utc(2026, 1, 1), utc(2027, 1, 1))
        assert repair_slice(organization=meter.organization, span=whole, now=meter.now, report=print) == 0
        assert numbers(meter) == before
        assert by_hand(meter).deleted.rows == {}

    def test_a_range_that_cuts_an_hour_is_refused_for_requests_alone(self, meter: Meter) -> None:
        meter.send_all(request("late", OLD), at=meter.now)
        by_hand(meter)

        with pytest.raises(RangeNotKept):
            meter.usage("api_requests", OLD, AUTUMN[1])
        with pytest.raises(RangeNotKept):
            meter.usage("api_requests", *AUTUMN, as_of=meter.now)
        assert meter.value("other", OLD, AUTUMN[1]) == 15
        assert meter.value("api_requests", KEPT_FROM, RECENT + timedelta(microseconds=1)) == 1
        with pytest.raises(TooOldToVoid):
            meter.void("late")

    def test_what_is_pending_is_rolled_up_first(self, meter: Meter) -> None:
        meter.send_all(request("pending", OLD), at=OLD)
        assert IngestBatch.objects.for_organization(meter.organization).filter(state=0).count() == 1

        by_hand(meter)

        assert "pending" not in keys(meter)
        assert meter.value("api_requests", *AUTUMN) == 4

    def test_what_arrived_late_keeps_its_full_time(self, meter: Meter) -> None:
        meter.send_all(request("late", OLD), at=meter.now)

        by_hand(meter)

        assert keys(meter)[-1] == "late"
        assert meter.send(request("late", OLD)).duplicates == 1
        assert [error.code for error in meter.send(request("late", OLD + HOUR)).errors] == ["conflict"]

    def test_a_repetition_of_what_went_is_refused_and_not_counted_again(self, meter: Meter) -> None:
        """Nothing tells it from a new one any more."""
        by_hand(meter)
        other_old = {**request("other late", OLD), "type": "other", "value": 5}

        # The sender's organization is as it was when it asked: this process has not heard of the horizon.
        again = meter.send(request("old 1", OLD), request("new", RECENT), other_old)

        assert again.stored == 2  # raw events of the other type are all kept
        assert [(error.index, error.code, error.field) for error in again.errors] == [(0, "event_too_old", "timestamp")]
        whole = meter.send(request("old 1", KEPT_FROM - timedelta(microseconds=1)), request("old 2", KEPT_FROM))
        assert (whole.stored, [error.index for error in whole.errors]) == (1, [0])
        with pytest.raises(InvalidInput):
            meter.send(request("newer", RECENT), request("old 1", OLD), is_atomic=True)
        meter.roll_up()
        assert "newer" not in keys(meter)
        assert meter.value("api_requests", *AUTUMN) == 3 + 2

    def test_a_repetition_is_refused_also_by_who_examined_it_before_the_horizon_moved(
        self, meter: Meter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = ingest._store

        def clean_first(*arguments: Any) -> None:
            monkeypatch.setattr(ingest, "_store", store)
            by_hand(meter)
            store(*arguments)

        monkeypatch.setattr(ingest, "_store", clean_first)

        assert [error.code for error in meter.send(request("old 1", OLD)).errors] == ["event_too_old"]

    def test_voids_go_with_their_event(self, meter: Meter) -> None:
        meter.void("old 1")
        meter.void("other old 1")

        assert by_hand(meter).deleted.rows["voids"] == 1
        [left] = EventVoid.objects.for_organization(meter.organization)
        assert left.idempotency_key == "other old 1"
        assert (meter.value("api_requests", *AUTUMN), differences(meter)) == (2, [])

    def test_a_dry_run_counts_and_changes_nothing(self, meter: Meter) -> None:
        told = by_hand(meter, is_dry_run=True)

        assert told.is_dry_run
        assert told.deleted.rows["events"] == 2
        assert (told.deleted.earliest, told.deleted.latest) == (OLD, OLD + timedelta(days=1))
        assert len(keys(meter)) == 6
        assert not TypeHorizon.objects.for_organization(meter.organization).exists()
        assert not AuditEntry.objects.for_organization(meter.organization).filter(action__startswith="gateway").exists()

    def test_steps_are_bounded_and_all_is_deleted_at_equal_times(
        self, meter: Meter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meter.send_all(*[request(f"same {number}", OLD) for number in range(25)], at=OLD)
        monkeypatch.setattr(type_retention, "STEP_ROWS", 10)
        deleted: list[int] = []
        step = type_retention.prune.delete_old_events

        def note(**names: Any) -> Any:
            done = step(**names)
            deleted.append(done.row_count)
            return done

        monkeypatch.setattr(type_retention.prune, "delete_old_events", note)

        by_hand(meter)

        assert deleted == [10, 10, 7, 0]
        assert len(keys(meter)) == 4

    def test_the_worker_does_what_the_budget_left(self, meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type_retention, "STEP_ROWS", 1)
        asked: list[Any] = []
        monkeypatch.setattr(cleanup, "wake_task", lambda **names: asked.append(names))

        done = by_hand(meter, budget=timedelta(0))

        assert (done.is_finished, done.deleted.rows["events"]) == (False, 1)
        assert asked == [{"task": "gateway.finish_cleanup", "organization_id": meter.organization.pk}]
        # Whatever is deleted already, no read takes what is left for the whole.
        with pytest.raises(RangeNotKept):
            meter.usage("api_requests", OLD, AUTUMN[1])
        tasks.finish_cleanup_task(meter.organization.pk)
        assert keys(meter) == ["other old 1", "other old 2", "recent", "other recent"]

    def test_unbilled_time_is_kept(self, meter: Meter, settings: Any) -> None:
        settings.BILLED_UNTIL = "tests.dialects.gateway.test_cleanup.billed_until"

        done = by_hand(meter)

        assert (done.requests_before, done.totals_before) == (utc(2026, 10, 2), utc(2025, 11, 20))
        assert "old 1" not in keys(meter)
        assert "old 2" in keys(meter)

    @pytest.mark.parametrize("is_customers", [False, True])
    def test_where_midnight_cuts_an_hour_two_months_stay_whole(self, meter: Meter, is_customers: bool) -> None:
        if is_customers:
            Customer.objects.for_organization(meter.organization).update(zone="Asia/Kolkata")
        else:
            meter.organization.zone = "Asia/Kolkata"
        edge = utc(2026, 9, 30, 18, 30)  # the first of October in India
        meter.send_all(request("september", edge - timedelta(seconds=1)), request("october", edge), at=edge)
        meter.send_all(request("august", utc(2026, 8, 20)), at=utc(2026, 8, 20))

        assert by_hand(meter).requests_before == utc(2026, 9, 28 if is_customers is False else 29)

        assert "august" not in keys(meter)
        assert meter.value("api_requests", edge, utc(2026, 10, 31, 18, 30)) == 3

    def test_a_young_history_stays_readable(self, meter: Meter) -> None:
        by_hand(meter, days=300)

        assert meter.value("api_requests", utc(2025, 1, 1, 0, 0, 1), AUTUMN[1]) == 3

    def test_a_read_under_way_tells_that_its_events_went(self, meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
        """The horizon moves, and the events go, after the read has looked at the one and before it reads the others."""
        prepare = Reading.cut

        def cut(self: Reading, *arguments: Any, **names: Any) -> Any:
            found = prepare(self, *arguments, **names)
            monkeypatch.setattr(Reading, "cut", prepare)
            by_hand(meter)
            return found

        monkeypatch.setattr(Reading, "cut", cut)

        with pytest.raises(RangeNotKept):
            meter.usage("api_requests", OLD, AUTUMN[1])


def billed_until(organization: Organization) -> datetime:
    return utc(2026, 10, 2, 7)


class TestBySettings:
    def test_the_first_run_moves_the_horizon_and_the_next_deletes(self, meter: Meter) -> None:
        before = numbers(meter)

        first = by_settings(meter, meter.now)
        assert (first.deleted.rows, len(keys(meter))) == ({}, 6)
        with pytest.raises(RangeNotKept):
            meter.usage("api_requests", OLD, AUTUMN[1])

        second = by_settings(meter, meter.now + HOUR)
        assert second.deleted.rows == {"events": 2, "voids": 0, "batches": 2}
        assert numbers(meter) == before
        [entry] = AuditEntry.objects.for_organization(meter.organization).filter(action="gateway.cleaned_up")
        assert (entry.actor, entry.details["deleted"]["events"]) == ("cleanup", 2)

    def test_the_days_are_the_organizations_own(self, meter: Meter) -> None:
        GatewaySettings.objects.create(organization=meter.organization, usage_retention_days=49)
        for hours in range(2):
            by_settings(meter, meter.now + hours * HOUR)

        assert [key for key in keys(meter) if not key.startswith("other")] == ["old 2", "recent"]

    def test_the_task_visits_those_who_record_requests_unless_it_is_switched_off(
        self, meter: Meter, other_org: Organization, settings: Any
    ) -> None:
        """A metric that listens to the same event type by chance is nobody's gateway."""
        other = Meter(other_org, meter.now)
        other.define("mine", "count", event_type=EVENT_TYPE)
        other.send_all(request("old", utc(2020, 1, 1)), at=utc(2020, 1, 1))
        settings.USAGE_CLEANUP_ENABLED = False
        tasks.clean_up_usage()
        assert not TypeHorizon.objects.all_tenants().exists()

        settings.USAGE_CLEANUP_ENABLED = True
        tasks.clean_up_usage()

        [horizon] = TypeHorizon.objects.all_tenants()
        assert horizon.organization == meter.organization


class TestTotals:
    """With 365 days by default, a year and more later."""

    LATER = utc(2027, 11, 20, 12)

    @pytest.fixture
    def meter(self, meter: Meter) -> Meter:
        by_settings(meter, self.LATER)
        return meter

    def test_they_go_in_two_steps_an_hour_apart(self, meter: Meter) -> None:
        horizon = TypeHorizon.objects.for_organization(meter.organization).get()
        assert horizon.rollups_from == utc(2026, 11, 20)
        assert RollupDay.objects.for_organization(meter.organization).count() > 0
        with pytest.raises(RangeNotKept):
            meter.usage("api_requests", *AUTUMN)
        series_before = Series.objects.for_organization(meter.organization).count()

        assert "hours" not in by_settings(meter, self.LATER + HOUR / 2).deleted.rows
        done = by_settings(meter, self.LATER + HOUR)

        # 3 requests, each in the total and one combination of 5 metrics; none had a metering error.
        assert (done.deleted.rows["hours"], done.deleted.rows["days"]) == (30, 30)
        left = Series.objects.for_organization(meter.organization)
        assert done.deleted.rows["series"] == series_before - left.count() == 10
        assert {Metric.objects.get(pk=row.metric_id).code for row in left} == {"other"}
        assert meter.value("other", *AUTUMN) == 15
        assert RollupHour.objects.for_organization(meter.organization).count() == 6
        assert differences(meter) == []

    def test_what_is_kept_is_read_and_what_is_not_is_refused(self, meter: Meter) -> None:
        meter.send_all(request("new", self.LATER), at=self.LATER)
        meter.roll_up(at=self.LATER)

        assert meter.value("api_requests", utc(2026, 11, 20), self.LATER + HOUR) == 1
        for start in (utc(2026, 11, 19), utc(2026, 1, 1)):
            with pytest.raises(RangeNotKept) as refused:
                meter.usage("api_requests", start, self.LATER)
            assert refused.value.code == "range_not_kept"

    def test_a_late_request_does_not_bring_a_part_of_a_total_back(self, meter: Meter) -> None:
        for _ in range(2):
            by_settings(meter, self.LATER + HOUR)
        refused = meter.send(request("late", OLD), at=self.LATER + 2 * HOUR).errors
        meter.roll_up(at=self.LATER + 2 * HOUR)
        assert [error.code for error in refused] == ["event_too_old"]

        with pytest.raises(RangeNotKept):
            meter.usage("api_requests", *AUTUMN)
        assert "days" not in by_settings(meter, self.LATER + 3 * HOUR).deleted.rows
        assert differences(meter) == []


def test_totals_of_this_month_and_the_last_stay_whatever_the_setting_says(meter: Meter) -> None:
    GatewaySettings.objects.create(organization=meter.organization, usage_aggregate_retention_days=1)
    meter.send_all(request("august", utc(2026, 8, 1)), at=utc(2026, 8, 1))
    meter.roll_up()

    by_settings(meter, meter.now)

    horizon = TypeHorizon.objects.for_organization(meter.organization).get()
    assert horizon.rollups_from == utc(2026, 9, 29)  # two days before October, for customers far in the east
    assert meter.value("api_requests", utc(2026, 10, 1), AUTUMN[1]) == 3


class TestEndpoint:
    URL = "/admin/analytics/cleanup"

    @pytest.fixture
    def old_requests(self, org: Organization) -> None:
        meter = Meter(org, utc(2026, 1, 1))
        install_catalog(organization=org, name="api-gateway", actor="test")
        meter.send_all(request("old", utc(2026, 1, 1, 5)), at=utc(2026, 1, 1, 5))

    @pytest.mark.usefixtures("old_requests")
    def test_it_answers_what_it_did(self, api_client: Client, org: Organization) -> None:
        dry = api_client.post(self.URL, {"older_than": "30d", "dry_run": True}, content_type=JSON)
        assert dry.status_code == 200
        told = dry.json()["data"]["attributes"]
        assert (told["dry_run"], told["rows"]["events"], told["from"]) == (True, 1, "2026-01-01T05:00:00Z")
        assert Event.objects.for_organization(org).count() == 1

        done = api_client.post(self.URL, {"older_than": "30d"}, content_type=JSON).json()["data"]

        assert done["type"] == "usage_cleanup"
        assert (done["attributes"]["finished"], done["attributes"]["dry_run"]) == (True, False)
        assert done["attributes"]["rows"]["events"] == 1
        assert not Event.objects.for_organization(org).exists()
        assert api_client.get("/v1/logs").json()["data"][0]["code"] == "gateway.cleaned_up"

    @pytest.mark.parametrize(
        "older_than",
        ["0d", "-5d", "30", "", "d", "1.5d", "30 d", "30D", "030d", "36501d", "99999d", "\uff13d", 30, None],
    )
    def test_an_age_that_is_none_is_refused(self, api_client: Client, older_than: Any) -> None:
        answer = api_client.post(self.URL, {"older_than": older_than}, content_type=JSON)

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "older_than"

    def test_only_admins_clean_up(self, api_client_for: Any, org: Organization) -> None:
        reader = api_client_for(factories.make_api_key(organization=org, scopes=("usage:read", "events:write")))
        assert reader.post(self.URL, {}, content_type=JSON).status_code == 403


@pytest.mark.django_db(transaction=True)
class TestBesideIngest:
    """On connections of their own, as in life."""

    @pytest.fixture
    def big(self, meter: Meter) -> Meter:
        for _ in range(4):
            events = [request(f"many {next(_numbers)}", OLD + timedelta(seconds=number)) for number in range(1_000)]
            meter.send_all(*events, at=OLD + timedelta(days=1))
        meter.roll_up()
        return meter

    def test_ingest_does_not_wait_for_a_step_that_is_not_committed(self, big: Meter) -> None:
        """However slow the disk: whoever waits here waits for ever, or until the lock's time is up."""
        by_settings(big, big.now)
        rows = Event.objects.for_organization(big.organization).filter(idempotency_key__startswith="many")
        going = list(rows.order_by("occurred_at").values_list("idempotency_key", "occurred_at")[:100])
        has_deleted, has_sent = threading.Event(), threading.Event()

        def delete() -> int:
            with transaction.atomic():
                step = next(type_retention.delete_raw(organization=big.organization, event_type=EVENT_TYPE))
                has_deleted.set()
                assert has_sent.wait(60)
            return step.rows["events"]

        def send() -> int:
            assert has_deleted.wait(60)
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '10s'")
            big.organization.refresh_from_db()  # as every request does
            fresh = [request(f"fresh {number}", big.now) for number in range(100)]
            answer = big.send(*fresh, *[request(key, at) for key, at in going])
            assert {error.code for error in answer.errors} == {"event_too_old"}
            has_sent.set()
            return answer.stored

        assert race([delete, send]) == [type_retention.STEP_ROWS, 100]

    def test_totals_stay_while_both_are_at_it(self, big: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type_retention, "STEP_ROWS", 500)
        before = big.value("api_units", *AUTUMN)
        rounds = 10

        def send() -> int:
            return sum(
                big.send_all(*[request(f"new {turn} {number}", RECENT) for number in range(50)]).stored
                for turn in range(rounds)
            )

        def read() -> int:
            values = [big.value("api_units", *AUTUMN) for _ in range(rounds)]
            assert values == sorted(values)
            assert values[0] >= before
            return 0

        def clean() -> int:
            return by_hand(big).deleted.rows["events"]

        assert race([send, clean, read]) == [50 * rounds, 4_002, 0]
        big.roll_up()
        assert big.value("api_units", *AUTUMN) == before + 2 * 50 * rounds
        assert differences(big) == []
