"""A user's data handed out as a whole, and erased as a whole: nothing is left but totals that belong to nobody."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import ApiKey, AuditEntry, Customer, Organization, Scope
from alerts.models import Crossing, Delivery, Threshold
from metering import queries, tasks
from metering.dialects.gateway.models import GatewaySettings
from metering.domain import Span
from metering.incoming import IncomingEvent
from metering.models import Erasure, Event, EventVoid, InboxEvent, Member, Metric
from metering.queries.mentions import Name
from metering.queries.reading import RangeNotKept
from metering.services import erasure as erasing
from metering.services import ingest, queue
from metering.services.erasure import erase_customer, list_open_erasures
from metering.services.rebuild import BEGINNING, END, repair_slice, verify_slice
from metering.services.rollup import roll_up_organization
from tests import factories
from tests.dialects.gateway.everywhere import find_everywhere
from tests.scenarios.racing import race

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_queue")]
JSON = "application/json"
USER, IP, PATH, SEAT = "usr_7f3kq", "203.0.113.77", "/secret-path-of-theirs", "laptop-of-theirs"
# Somebody whose name only looks alike, and who stays.
OTHER = f"{USER}-b"
PERSONAL = (IP, PATH, SEAT, "Frieda Mustermann", "their-agent")


def post(client: Client, url: str, body: Any) -> Any:
    answer = client.post(url, body, content_type=JSON)
    assert answer.status_code in {200, 201, 202}, answer.content
    return answer.json()


def record(number: int, user: str = USER, ip: str = IP, path: str = PATH) -> dict[str, Any]:
    return {
        "request_id": f"{user}/{number}",
        "user_id": user,
        "api_key_id": "key-of-theirs" if user == USER else "key-of-other",
        "method": "GET",
        "path": path,
        "timestamp": (timezone.now() - timedelta(hours=number)).isoformat(),
        "status_code": 200,
        "latency_ms": 12.5,
        "request_bytes": 10,
        "response_bytes": 90,
        "ip_address": ip,
    }


@pytest.fixture
def gateway(org: Organization, api_client: Client) -> Client:
    """A user who left traces wherever one can, beside another one with fewer."""
    org.is_unmatched_kept = True
    org.save()
    GatewaySettings.objects.create(organization=org, usage_store_ip="full")
    for definition in (
        {"code": "seats", "aggregation": "count_unique", "event_type": "seat", "value_property": "seat"},
        {"code": "calls", "aggregation": "sum", "dimensions": [{"key": "region"}]},
    ):
        post(api_client, "/v1/metrics", definition)
    requests = [record(number) for number in range(5)] + [record(9, OTHER, "198.51.100.1", "/other")]
    post(api_client, "/v1/requests", requests)
    seat = {"type": "seat", "customer": USER, "properties": {"seat": SEAT, "agent": "their-agent"}}
    shared = {"type": "seat", "properties": {"seat": "meeting-room"}}
    post(api_client, "/v1/events", [seat, shared | {"customer": USER}, shared | {"customer": OTHER}])
    calls = {"metric": "calls", "value": 7, "properties": {"region": "eu"}}
    post(api_client, "/v1/events", [calls | {"customer": USER, "idempotency_key": f"call-{USER}"}])
    roll_up_organization(organization_id=org.pk, now=timezone.now())
    post(api_client, "/v1/events/" + f"{USER}/4" + "/void", {"reason": f"asked for by {USER}"})
    unheard = calls | {"metric": "unheard", "customer": USER, "properties": {"ip": IP}}
    assert api_client.post("/v1/events", [unheard], content_type=JSON).json()["rejected"] == 1
    post(api_client, "/v1/events", [calls | {"customer": USER}])  # not rolled up yet
    post(
        api_client, "/v1/events?durability=async", [calls | {"customer": USER, "properties": {"agent": "their-agent"}}]
    )
    _leave_traces_in_other_apps(org, api_client)
    return api_client


def _leave_traces_in_other_apps(org: Organization, client: Client) -> None:
    customer = Customer.objects.for_organization(org).get(external_id=USER)
    client.patch(f"/v1/customers/{USER}", {"name": "Frieda Mustermann"}, content_type=JSON)
    post(client, "/v1/api-keys", {"name": f"key of {USER}", "scopes": ["events:write"], "customer": USER})
    post(client, "/v1/quotas", {"metric": "calls", "customer": USER, "limit": 1000})
    post(client, "/v1/thresholds", {"code": "much", "metric": "calls", "customer": USER, "value": 5})
    post(
        client, "/v1/quota/reserve", {"metric": "calls", "customer": USER, "amount": 1, "idempotency_key": f"r {USER}"}
    )
    report = {"name": f"Usage of {USER}", "metric": "calls", "customer": USER, "recipients": ["cfo@example.test"]}
    post(client, "/v1/reports", report)
    endpoint = post(client, "/v1/webhook-endpoints", {"url": "https://hooks.test/x", "description": f"for {USER}."})
    now = timezone.now()
    crossing = Crossing.objects.create(
        organization=org,
        offset=1,
        threshold=Threshold.objects.for_organization(org).get(code="much"),
        metric=Metric.objects.for_organization(org).get(code="calls"),
        customer=customer,
        period_start=now,
        period_end=now + timedelta(days=1),
        threshold_code="much",
        threshold_value=5,
        previous_value=0,
        value_at_cross=7,
        triggered_at=now,
    )
    Delivery.objects.create(
        organization=org,
        endpoint_id=endpoint["id"],
        message_type="alert.crossed",
        crossing=crossing,
        payload={"type": "alert.crossed", "timestamp": "x", "data": {"customer": USER, "metric": "calls"}},
        next_attempt_at=now,
    )


def erase(client: Client, user: str = USER) -> Any:
    return client.delete(f"/admin/users/{user}/delete-usage")


def month_totals(org: Organization) -> dict[str, Any]:
    """Return every metric's total over all customers and by its dimensions, over whole days."""
    start = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
    span = {"organization": org, "start": start, "end": start + timedelta(days=4)}
    found: dict[str, Any] = {}
    for metric in Metric.objects.for_organization(org):
        found[metric.code] = queries.get_usage(**span, metric=metric)
        for dimension in metric.dimensions:
            rows = queries.list_breakdown(**span, metric=metric, group_by=[dimension["key"]])
            found[f"{metric.code} by {dimension['key']}"] = [(row.group, row.usage) for row in rows]
    return found


class TestErasure:
    def test_nothing_personal_is_left_and_no_total_changes(self, gateway: Client, org: Organization) -> None:
        queue.drain_queue(now=timezone.now())
        before = month_totals(org)
        assert before["calls"].value == 21
        assert before["seats"].value == 2
        post(gateway, "/v1/events?durability=async", [{"customer": OTHER, "metric": "calls", "value": 1}])
        assert len(find_everywhere(*PERSONAL)) > 4

        answer = erase(gateway)

        assert answer.status_code == 200, answer.content
        done = answer.json()["data"]["attributes"]
        assert (done["finished"], done["deleted_events"]) == (True, 10)
        assert find_everywhere(*PERSONAL, "key-of-theirs") == set()
        # The other one's name begins alike: it is taken out of the search, not out of the database.
        Customer.objects.for_organization(org).filter(external_id=OTHER).update(external_id="other")
        Event.objects.for_organization(org).filter(idempotency_key__startswith=OTHER).delete()
        assert find_everywhere(USER) == set()
        after = month_totals(org)
        assert after.pop("calls").value == before.pop("calls").value + 1
        del after["calls by region"], before["calls by region"]
        assert after == before

    def test_what_waits_is_counted_first(self, gateway: Client, org: Organization) -> None:
        """Nobody lost what was answered with 202, and no worker has looked yet."""
        assert queue.count_waiting() == 1

        erase(gateway)

        assert queue.count_waiting() == 0
        assert month_totals(org)["calls"].value == 21

    def test_the_totals_belong_to_a_name_that_stands_for_nobody(self, gateway: Client, org: Organization) -> None:
        left = erase(gateway).json()["data"]["id"]

        assert left.startswith("deleted-")
        customer = Customer.objects.for_organization(org).get(external_id=left)
        assert customer.name == ""
        assert not Event.objects.for_organization(org).filter(customer_id=customer.pk).exists()
        [entry] = AuditEntry.objects.for_organization(org).filter(action="customer.erased")
        assert (entry.target, entry.details) == (left, {"events": 10})
        assert entry.actor.startswith("key:")
        [erased] = Erasure.objects.for_organization(org)
        assert (erased.external_id, erased.finished_at is None) == ("", False)
        targets = AuditEntry.objects.for_organization(org).values_list("target", flat=True)
        assert f"calls of {left}" in targets
        [delivery] = Delivery.objects.for_organization(org)
        assert delivery.payload["data"] == {"customer": left, "metric": "calls"}
        assert not EventVoid.objects.for_organization(org).exists()
        assert not InboxEvent.objects.for_organization(org).exists()

    def test_who_only_looks_alike_stays(self, gateway: Client, org: Organization) -> None:
        erase(gateway)

        assert Event.objects.for_organization(org).filter(idempotency_key=f"{OTHER}/9").exists()
        assert Customer.objects.for_organization(org).filter(external_id=OTHER).exists()
        members = set(Member.objects.for_organization(org).values_list("member", flat=True))
        assert "meeting-room" in members  # which both had
        assert len(members) == 2

    def test_their_keys_end(self, gateway: Client, org: Organization) -> None:
        left = erase(gateway).json()["data"]["id"]

        key = ApiKey.objects.for_organization(org).get(customer__isnull=False)
        assert (key.name, key.revoked_at is None) == (left, False)

    def test_rollups_agree_with_what_is_left(self, gateway: Client, org: Organization) -> None:
        queue.drain_queue(now=timezone.now())
        before = month_totals(org)
        erase(gateway)

        found: list[Any] = []
        verify_slice(organization=org, span=Span(BEGINNING, END), report=found.append)
        assert found == []
        repair_slice(organization=org, span=Span(BEGINNING, END), now=timezone.now(), report=found.append)
        assert (found, month_totals(org)) == ([], before)

    def test_the_same_user_comes_back_as_another(self, gateway: Client, org: Organization) -> None:
        left = erase(gateway).json()["data"]["id"]

        post(gateway, "/v1/requests", [record(0)])

        new = Customer.objects.for_organization(org).get(external_id=USER)
        assert new.external_id != left
        assert Event.objects.for_organization(org).filter(customer_id=new.pk).count() == 1
        post(gateway, "/v1/requests", [record(1)])
        second = erase(gateway).json()["data"]["id"]
        assert second != left

    def test_nobody_sends_in_the_name_that_is_left(self, gateway: Client, org: Organization) -> None:
        left = erase(gateway).json()["data"]["id"]

        answer = gateway.post("/v1/events", [{"customer": left, "metric": "calls", "value": 1}], content_type=JSON)

        assert [row["code"] for row in answer.json()["errors"]] == ["invalid_customer"]
        assert gateway.delete(f"/admin/users/{left}/delete-usage").json()["code"] == "already_erased"

    def test_a_range_that_cuts_an_hour_of_theirs_is_refused_and_others_are_read(
        self, gateway: Client, org: Organization
    ) -> None:
        metric = Metric.objects.for_organization(org).get(code="api_requests")
        second = Event.objects.for_organization(org).get(idempotency_key=f"{USER}/2").occurred_at
        minute = second.replace(second=0, microsecond=0)
        whole = {"organization": org, "metric": metric, "end": timezone.now() + timedelta(days=1)}
        value = queries.get_usage(**whole, start=minute).value
        erase(gateway)

        assert queries.get_usage(**whole, start=minute).value == value
        cut = minute + timedelta(microseconds=1)
        with pytest.raises(RangeNotKept):
            queries.get_usage(**whole, start=cut)
        other = Customer.objects.for_organization(org).get(external_id=OTHER)
        assert queries.get_usage(**whole, start=cut, customer_id=other.pk).value == 0
        # Where they did nothing, nothing is missing.
        assert queries.get_usage(**whole, start=cut + timedelta(minutes=5)).value == 2


class TestIngestMeanwhile:
    @staticmethod
    def send(org: Organization, key: str) -> None:
        event = IncomingEvent(idempotency_key=key, customer=USER, metric="calls", value=1)
        result = ingest.ingest_events(organization=org, events=[event], now=timezone.now())
        assert (result.stored, result.errors) == (1, [])

    def test_a_process_that_remembers_the_old_id_does_not_bring_it_back(
        self, gateway: Client, org: Organization
    ) -> None:
        stale = Organization.objects.get(pk=org.pk)
        old = Customer.objects.for_organization(org).get(external_id=USER)
        ingest._customer_ids[org.pk, stale.metrics_version, USER] = old.pk
        erase(gateway)

        self.send(stale, "by a process that has heard nothing")
        fresh = Organization.objects.get(pk=org.pk)
        self.send(fresh, "by one that has")

        assert not Event.objects.for_organization(org).filter(customer_id=old.pk).exists()
        new = Customer.objects.for_organization(org).get(external_id=USER)
        assert Event.objects.for_organization(org).filter(customer_id=new.pk).count() == 2

    def test_a_batch_that_found_the_id_just_before_is_examined_anew(
        self, gateway: Client, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = Customer.objects.for_organization(org).get(external_id=USER)
        store = ingest._store

        def erase_first(*arguments: Any) -> None:
            monkeypatch.setattr(ingest, "_store", store)
            assert erase(gateway).status_code == 200
            store(*arguments)

        fresh = Organization.objects.get(pk=org.pk)
        monkeypatch.setattr(ingest, "_store", erase_first)
        self.send(fresh, "racing")

        assert not Event.objects.for_organization(org).filter(customer_id=old.pk).exists()
        assert Event.objects.for_organization(org).filter(idempotency_key="racing").exists()


@pytest.mark.django_db(transaction=True)
def test_senders_and_readers_at_work_lose_nothing_and_keep_nothing(gateway: Client, org: Organization) -> None:
    """Several connections, as in life; all senders share one memory of ids."""
    old = Customer.objects.for_organization(org).get(external_id=USER)
    before = month_totals(org)["calls"].value
    rounds, has_begun = 15, threading.Event()

    def send(name: str) -> int:
        for turn in range(rounds):
            caller = Organization.objects.get(pk=org.pk)  # as every request learns it with its key
            event = IncomingEvent(idempotency_key=f"{name} {turn}", customer=USER, metric="calls", value=1)
            result = ingest.ingest_events(organization=caller, events=[event], now=timezone.now())
            assert (result.stored, result.errors) == (1, [])
            if turn == 3:
                has_begun.set()
        return rounds

    def erase_in_between() -> int:
        assert has_begun.wait(60)
        erase_customer(organization=org, external_id=USER, actor="test", now=timezone.now())
        return 0

    assert sum(race([lambda: send("a"), lambda: send("b"), erase_in_between])) == 2 * rounds

    assert not Event.objects.for_organization(org).filter(customer_id=old.pk).exists()
    roll_up_organization(organization_id=org.pk, now=timezone.now())
    assert month_totals(org)["calls"].value == before + 7 + 2 * rounds  # and the one of the queue
    found: list[Any] = []
    verify_slice(organization=org, span=Span(BEGINNING, END), report=found.append)
    assert found == []


class Killed(BaseException):
    """A process that dies where it stands."""


class TestRestart:
    @pytest.mark.parametrize(
        "stage",
        [
            "roll_up_known",
            "_delete_events",
            "_rename_members",
            "_rename_dimensions",
            "_delete_inbox",
            "iterate_replacements",
            "_finish",
        ],
    )
    def test_whatever_dies_the_next_run_ends_it(
        self, gateway: Client, org: Organization, monkeypatch: pytest.MonkeyPatch, stage: str
    ) -> None:
        before = month_totals(org)
        monkeypatch.setattr(erasing, stage, _die)
        with pytest.raises(Killed):
            erase_customer(organization=org, external_id=USER, actor="test", now=timezone.now())
        monkeypatch.undo()
        [left] = list_open_erasures()
        assert left.external_id == USER

        answer = erase(gateway)

        assert answer.json()["data"]["attributes"] == {
            "finished": True,
            "deleted_events": 10,
            "remaining_customer": left.customer.external_id,
        }
        assert find_everywhere(IP, SEAT, "Frieda Mustermann") == set()
        assert list_open_erasures() == []
        assert AuditEntry.objects.for_organization(org).filter(action="customer.erased").count() == 1
        after = month_totals(org)
        assert after.pop("calls").value == before.pop("calls").value + 7  # of the queue
        assert (after["api_requests"], after["seats"]) == (before["api_requests"], before["seats"])

    def test_who_came_back_before_the_end_is_erased_as_well(
        self, gateway: Client, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(erasing, "_rename_members", _die)
        with pytest.raises(Killed):
            erase_customer(organization=org, external_id=USER, actor="test", now=timezone.now())
        monkeypatch.undo()
        post(gateway, "/v1/requests", [record(7)])

        assert erase(gateway).json()["data"]["attributes"]["deleted_events"] == 1

        assert find_everywhere(IP, SEAT) == set()
        assert not Customer.objects.for_organization(org).filter(external_id=USER).exists()
        assert Erasure.objects.for_organization(org).filter(finished_at__isnull=False).count() == 2

    def test_a_budget_that_is_spent_leaves_the_rest_to_the_worker(
        self, gateway: Client, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(erasing, "STEP_ROWS", 3)
        steps: list[int] = []
        delete = erasing.prune.delete_customer_events

        def note(**names: Any) -> Any:
            done = delete(**names)
            steps.append(done.row_count)
            return done

        monkeypatch.setattr(erasing.prune, "delete_customer_events", note)
        now = timezone.now()
        asked: list[Any] = []
        monkeypatch.setattr(erasing, "wake_task", lambda **names: asked.append(names["task"]))

        first = erase_customer(
            organization=org, external_id=USER, actor="test", now=now, budget=timedelta(microseconds=-1)
        )
        assert (first.is_finished, first.event_count) == (False, 0)
        assert asked == [erasing.ERASE_TASK]
        tasks.resume_erasures()

        assert steps == [3, 3, 3, 1, 0]
        assert list_open_erasures() == []


def _die(*_: Any, **__: Any) -> Any:
    raise Killed


class TestExport:
    def test_everything_that_is_held_is_in_it_and_nothing_of_others(self, gateway: Client, org: Organization) -> None:
        answer = gateway.get(f"/admin/users/{USER}/export-data")

        assert answer.status_code == 200
        assert answer["Content-Disposition"] == f'attachment; filename="{USER}.json"'
        text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]  # it streams
        document = json.loads(text)
        assert document["customer"]["name"] == "Frieda Mustermann"
        assert {row["metric"]: row["value"] for row in document["usage"]} == {
            "api_bytes": 400,
            "api_latency": 4,
            "api_latency_ms": 50,
            "api_requests": 4,
            "api_units": 4,
            "calls": 14,
            "seats": 2,
        }
        assert len(document["events"]) == 9
        voided = next(row for row in document["events"] if row["idempotency_key"] == f"{USER}/4")
        assert (voided["properties"]["ip_address"], voided["void_reason"]) == (IP, f"asked for by {USER}")
        assert [row["properties"] for row in document["queued_events"]] == [{"agent": "their-agent"}]
        tables = {row["table"] for row in document["records"]}
        assert tables >= {
            "accounts.ApiKey",
            "accounts.AuditEntry",
            "alerts.Crossing",
            "alerts.Delivery",
            "alerts.Quota",
            "alerts.Reservation",
            "alerts.Threshold",
            "alerts.WebhookEndpoint",
            "metering.InboxEvent",
            "usage_reports.Report",
        }
        columns = {column for row in document["records"] for column in row}
        assert columns.isdisjoint({"secret", "previous_secret", "secret_hash", "token_hash"})
        for foreign in (OTHER, "198.51.100.1", "key-of-other"):
            assert foreign not in text

    def test_a_user_of_no_requests_is_a_short_document(self, api_client: Client, org: Organization) -> None:
        factories.make_customer(organization=org, external_id="new/one")

        document = json.loads(b"".join(api_client.get("/admin/users/new/one/export-data").streaming_content))  # type: ignore[attr-defined]

        assert (document["user_id"], document["events"], document["usage"]) == ("new/one", [], [])


@pytest.mark.parametrize("word", ["export-data", "delete-usage"])
class TestWhoMay:
    def test_admins_alone(
        self, org: Organization, api_client_for: Callable[..., Client], outsider_client: Client, word: str
    ) -> None:
        factories.make_customer(organization=org, external_id=USER)
        key = factories.make_api_key(organization=org, scopes=(Scope.USAGE_READ, Scope.EVENTS_WRITE))
        send = {"export-data": "get", "delete-usage": "post"}[word]
        url = f"/admin/users/{USER}/{word}"

        assert getattr(api_client_for(key), send)(url).status_code == 403
        assert getattr(outsider_client, send)(url).status_code == 404
        assert Customer.objects.for_organization(org).filter(external_id=USER).exists()

    def test_an_unknown_user_is_not_found(self, api_client: Client, word: str) -> None:
        send = {"export-data": api_client.get, "delete-usage": api_client.delete}[word]

        for user in ("nobody", "with%00nul", "x" * 300):
            assert send(f"/admin/users/{user}/{word}").status_code == 404


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("of acme.", "of NOBODY."),
        ("acme", "NOBODY"),
        ("(acme), acme/7", "(NOBODY), NOBODY/7"),
        ("acme-eu acme_2 acme.eu me@acme bacme acme7", "acme-eu acme_2 acme.eu me@acme bacme acme7"),
    ],
)
def test_a_name_is_replaced_where_it_is_a_word_of_its_own(text: str, expected: str) -> None:
    assert Name("acme").replace_in_text(text, "NOBODY") == expected


def test_a_name_that_could_be_any_number_is_replaced_where_it_names_a_customer() -> None:
    content = {"customer": "5", "limit": {"from": "5", "to": 5}, "users": [{"user_id": "5"}]}

    assert Name("5").replace_in_json(content, "NOBODY") == {
        "customer": "NOBODY",
        "limit": {"from": "5", "to": 5},
        "users": [{"user_id": "NOBODY"}],
    }
