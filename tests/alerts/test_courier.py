"""Who gets which message, how soon, and how often: a courier, real receivers, the real database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import AuditEntry, Organization
from alerts.domain import Slots
from alerts.models import Delivery, DeliveryAttempt, WebhookEndpoint
from alerts.services.webhooks import (
    EndpointDefinition,
    IssuedEndpoint,
    create_endpoint,
    replay_delivery,
    rotate_secret,
    send_test,
    update_endpoint,
)
from config.env import BASE_DIR
from tests.alerts.receiver import (
    Receiver,
    answering,
    courier_at_work,
    running,
    url_of_test_database,
    wait_until,
)
from tests.alerts.watch import Watch

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _private_addresses(settings: Any, transactional_db: None) -> None:
    settings.WEBHOOKS_MAY_BE_PRIVATE = True


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running(Receiver()) as receiver:
        yield receiver


def subscribe(organization: Organization, receiver: Receiver, **fields: Any) -> IssuedEndpoint:
    definition = EndpointDefinition(url=receiver.url, **fields)
    return create_endpoint(organization=organization, definition=definition, actor="test")


def send_sample(endpoint: WebhookEndpoint) -> Delivery:
    return send_test(endpoint=endpoint, now=timezone.now())


def fresh(row: Any) -> Any:
    row.refresh_from_db()
    return row


def settled(delivery: Delivery, state: str) -> bool:
    return bool(fresh(delivery).state == state)


def attempts_of(delivery: Delivery) -> list[tuple[int | None, str]]:
    attempts = DeliveryAttempt.objects.for_organization(delivery.organization_id).filter(delivery=delivery)
    return list(attempts.order_by("pk").values_list("status_code", "error"))


def make_due(delivery: Delivery) -> None:
    """Let the time pass until the next attempt."""
    Delivery.objects.all_tenants().filter(pk=delivery.pk).update(next_attempt_at=timezone.now())
    connection.cursor().execute("NOTIFY meterbook_alerts")


class TestDelivering:
    def test_a_crossing_arrives_signed(self, watch: Watch, receiver: Receiver) -> None:
        issued = subscribe(watch.organization, receiver)
        watch.define("m", "sum")
        watch.threshold("m", "cap", 10)

        with courier_at_work():
            watch.use("ann", "12.5")
            wait_until(lambda: len(receiver.received) == 1)
            delivery = Delivery.objects.for_organization(watch.organization).get()
            wait_until(lambda: settled(delivery, "delivered"))

        [received] = receiver.received
        message = received.verify(issued.secret)
        assert message == {
            "type": "alert.crossed",
            "timestamp": "2026-11-20T12:00:00Z",
            "data": {
                "offset": "1",
                "customer": "ann",
                "metric": "m",
                "threshold_code": "cap",
                "threshold_value": "10",
                "value_at_cross": "12.5",
                "period": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
                "triggered_at": "2026-11-20T12:00:00Z",
            },
        }
        assert received.path == "/hook?from=meterbook"
        assert received.headers["content-type"] == "application/json"
        assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert received.message_id == delivery.message_id
        assert attempts_of(delivery) == [(204, "")]

    def test_only_subscribed_types_and_metrics_arrive(self, watch: Watch, receiver: Receiver) -> None:
        watch.define("m", "sum")
        watch.define("n", "sum")
        watch.threshold("m", "cap", 1)
        watch.threshold("n", "cap", 1)
        subscribe(watch.organization, receiver, metric_codes=["n"])
        subscribe(watch.organization, receiver, message_types=["endpoint.disabled"])

        watch.send_all(*({"customer": "ann", "type": name, "value": 1} for name in ("m", "n")))
        watch.evaluate()

        told = Delivery.objects.for_organization(watch.organization).values_list("payload__data__metric", flat=True)
        assert list(told) == ["n"]

    def test_another_organizations_crossing_arrives_nowhere(
        self, watch: Watch, receiver: Receiver, other_org: Organization
    ) -> None:
        subscribe(other_org, receiver)
        watch.define("m", "sum")
        watch.threshold("m", "cap", 1)

        watch.use("ann", 1)

        assert Delivery.objects.all_tenants().count() == 0

    def test_both_secrets_sign_after_a_rotation_until_the_grace_ends(
        self, org: Organization, receiver: Receiver
    ) -> None:
        issued = subscribe(org, receiver)
        rotated = rotate_secret(endpoint=issued.endpoint, actor="test", now=timezone.now())

        with courier_at_work():
            send_sample(issued.endpoint)
            wait_until(lambda: len(receiver.received) == 1)
            WebhookEndpoint.objects.for_organization(org).update(previous_secret_until=timezone.now())
            send_sample(issued.endpoint)
            wait_until(lambda: len(receiver.received) == 2)

        during, after = receiver.received
        assert during.verify(rotated.secret) == during.verify(issued.secret)
        assert len(during.headers["webhook-signature"].split(" ")) == 2
        assert after.verify(rotated.secret)["type"] == "alert.test"
        assert len(after.headers["webhook-signature"].split(" ")) == 1

    def test_a_disabled_endpoint_gets_nothing(self, watch: Watch, receiver: Receiver) -> None:
        issued = subscribe(watch.organization, receiver)
        pending = send_sample(issued.endpoint)
        update_endpoint(endpoint=issued.endpoint, changes={"is_enabled": False}, actor="test", now=timezone.now())
        watch.define("m", "sum")
        watch.threshold("m", "cap", 1)

        watch.use("ann", 1)

        assert list(Delivery.objects.all_tenants()) == [pending]
        assert fresh(pending).state == "failed"


class TestTrouble:
    """What one endpoint does is no other's concern."""

    def test_bad_endpoints_delay_nobody(self, org: Organization, other_org: Organization) -> None:
        with ExitStack() as stack:
            good, failing, hanging, dripping, redirecting = (stack.enter_context(running(Receiver())) for _ in range(5))
            failing.behave = answering(500, body=b"boom" * 1000)
            hanging.behave = hanging.hang
            dripping.behave = dripping.drip
            redirecting.behave = answering(302, headers={"Location": good.url})
            bad = [subscribe(org, one).endpoint for one in (failing, hanging, dripping, redirecting)]
            fine = [subscribe(org, good).endpoint, subscribe(other_org, good).endpoint]
            for _ in range(8):
                for endpoint in bad:
                    send_sample(endpoint)

            with courier_at_work(attempt_seconds=20):
                wait_until(lambda: all(one.received for one in (failing, hanging, dripping, redirecting)))
                started = time.monotonic()
                deliveries = [send_sample(endpoint) for _ in range(10) for endpoint in fine]
                wait_until(lambda: len(good.received) >= 20)
                # Long before any of the slow ones is given up.
                assert time.monotonic() - started < 15
                wait_until(lambda: all(settled(delivery, "delivered") for delivery in deliveries))
                assert len(hanging.received) == 4
                assert len(dripping.received) == 4
                for one in (hanging, dripping):
                    one.released.set()

            assert {received.message_id for received in good.received} == {one.message_id for one in deliveries}
            [first, *_] = attempts_of(bad[0].deliveries.order_by("pk")[0])
            assert first == (500, "It answered 500.")
            answer = DeliveryAttempt.objects.all_tenants().filter(delivery__endpoint=bad[0])[0].answer
            assert answer == "boom" * 250
            [redirected, *_] = attempts_of(bad[3].deliveries.order_by("pk")[0])
            assert redirected == (302, "It answered 302; redirects are not followed.")

    def test_a_hanging_endpoint_is_left_after_a_while(self, org: Organization, receiver: Receiver) -> None:
        receiver.behave = receiver.hang
        delivery = send_sample(subscribe(org, receiver).endpoint)

        with courier_at_work(attempt_seconds=0.5):
            wait_until(lambda: fresh(delivery).attempt_count == 1)

        assert attempts_of(delivery) == [(None, "No answer within 0.5 s.")]
        assert timedelta(seconds=3) < delivery.next_attempt_at - timezone.now() < timedelta(seconds=10)

    def test_an_endpoint_nobody_listens_at(self, org: Organization) -> None:
        with running(Receiver()) as gone:
            issued = subscribe(org, gone)
        delivery = send_sample(issued.endpoint)

        with courier_at_work():
            wait_until(lambda: fresh(delivery).attempt_count == 1)

        [(status, error)] = attempts_of(delivery)
        assert status is None
        assert error.startswith("The connection failed:")
        assert fresh(issued.endpoint).failing_since is not None

    def test_a_200_counts_though_its_body_never_ends(self, org: Organization, receiver: Receiver) -> None:
        def ramble(handler: Any) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
            handler.wfile.flush()
            receiver.released.wait(30)

        receiver.behave = ramble
        delivery = send_sample(subscribe(org, receiver).endpoint)

        with courier_at_work():
            wait_until(lambda: settled(delivery, "delivered"))

        assert DeliveryAttempt.objects.all_tenants().get().answer == "hello"

    def test_an_answer_that_never_ends_is_cut_off(self, org: Organization, receiver: Receiver) -> None:
        def flood(handler: Any) -> None:
            while not receiver.released.is_set():
                handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

        receiver.behave = flood
        delivery = send_sample(subscribe(org, receiver).endpoint)

        with courier_at_work():
            wait_until(lambda: fresh(delivery).attempt_count == 1)

        assert attempts_of(delivery) == [(None, "The answer does not end.")]

    def test_nul_bytes_in_an_answer_are_kept_readable(self, org: Organization, receiver: Receiver) -> None:
        receiver.behave = answering(500, body=b"a\x00b\xff")
        delivery = send_sample(subscribe(org, receiver).endpoint)

        with courier_at_work():
            wait_until(lambda: fresh(delivery).attempt_count == 1)

        assert DeliveryAttempt.objects.all_tenants().get().answer == "a\ufffdb\ufffd"

    def test_a_private_address_is_not_reached(self, org: Organization, receiver: Receiver) -> None:
        delivery = send_sample(subscribe(org, receiver).endpoint)

        with courier_at_work(may_be_private=False):
            wait_until(lambda: fresh(delivery).attempt_count == 1)

        assert receiver.received == []
        [(status, error)] = attempts_of(delivery)
        assert (status, error) == (None, "url: The URL begins with https://.")

    def test_a_failing_endpoint_is_tried_one_message_at_a_time(self, org: Organization, receiver: Receiver) -> None:
        receiver.behave = receiver.hang
        endpoint = subscribe(org, receiver).endpoint
        WebhookEndpoint.objects.for_organization(org).update(failing_since=timezone.now())
        for _ in range(5):
            send_sample(endpoint)

        with courier_at_work(attempt_seconds=3):
            wait_until(lambda: len(receiver.received) == 2)
            first, second = receiver.received

        assert second.at - first.at > 2.5


class TestRetries:
    def test_a_failure_is_tried_again_under_the_same_id(self, org: Organization, receiver: Receiver) -> None:
        receiver.behave = answering(503, headers={"Retry-After": "3600"})
        issued = subscribe(org, receiver)
        delivery = send_sample(issued.endpoint)

        with courier_at_work():
            wait_until(lambda: fresh(delivery).attempt_count == 1)
            assert delivery.state == "pending"
            assert timedelta(minutes=59) < delivery.next_attempt_at - timezone.now() <= timedelta(minutes=60)
            receiver.behave = answering(200)
            make_due(delivery)
            wait_until(lambda: settled(delivery, "delivered"))

        assert [received.message_id for received in receiver.received] == [delivery.message_id] * 2
        assert attempts_of(delivery) == [(503, "It answered 503."), (200, "")]
        assert fresh(issued.endpoint).failing_since is None
        assert delivery.settled_at is not None

    def test_410_switches_the_endpoint_off_at_once(self, org: Organization, receiver: Receiver) -> None:
        receiver.behave = answering(410)
        issued = subscribe(org, receiver)
        with running(Receiver()) as other:
            listening = subscribe(org, other, message_types=["endpoint.disabled"])
            delivery = send_sample(issued.endpoint)

            with courier_at_work():
                wait_until(lambda: len(other.received) == 1)

            message = other.received[0].verify(listening.secret)
        assert message["type"] == "endpoint.disabled"
        assert message["data"] == {
            "id": str(issued.endpoint.pk),
            "description": "",
            "reason": "It answered 410 Gone.",
        }
        assert fresh(issued.endpoint).disabled_reason == "It answered 410 Gone."
        assert issued.endpoint.is_notice_due
        assert fresh(delivery).state == "failed"
        [entry] = AuditEntry.objects.for_organization(org).filter(action="webhook_endpoint.disabled")
        assert entry.actor == "courier"

    def test_failing_for_three_days_switches_the_endpoint_off(self, org: Organization, receiver: Receiver) -> None:
        receiver.behave = answering(500)
        issued = subscribe(org, receiver)
        delivery, later = send_sample(issued.endpoint), send_sample(issued.endpoint)
        long_ago = timezone.now() - 3 * DAY
        WebhookEndpoint.objects.for_organization(org).update(failing_since=long_ago)
        Delivery.objects.for_organization(org).filter(pk=delivery.pk).update(first_attempt_at=long_ago)
        Delivery.objects.for_organization(org).filter(pk=later.pk).update(next_attempt_at=timezone.now() + DAY)

        with courier_at_work():
            wait_until(lambda: settled(delivery, "failed"))

        assert fresh(issued.endpoint).disabled_at is not None
        assert issued.endpoint.disabled_reason == "Every attempt of 3 days failed."
        assert issued.endpoint.is_notice_due
        assert fresh(later).state == "failed"

    def test_failing_for_less_does_not(self, org: Organization, receiver: Receiver) -> None:
        receiver.behave = answering(500)
        issued = subscribe(org, receiver)
        delivery = send_sample(issued.endpoint)
        almost = timezone.now() - 3 * DAY + timedelta(hours=1)
        WebhookEndpoint.objects.for_organization(org).update(failing_since=almost)
        Delivery.objects.for_organization(org).update(first_attempt_at=almost)

        with courier_at_work():
            wait_until(lambda: fresh(delivery).attempt_count == 1)

        assert delivery.state == "pending"
        assert delivery.next_attempt_at <= almost + 3 * DAY
        assert fresh(issued.endpoint).disabled_at is None

    def test_a_message_is_given_up_after_three_days(self, org: Organization, receiver: Receiver) -> None:
        receiver.behave = answering(500)
        delivery = send_sample(subscribe(org, receiver).endpoint)
        Delivery.objects.for_organization(org).update(first_attempt_at=timezone.now() - 3 * DAY)

        with courier_at_work():
            wait_until(lambda: settled(delivery, "failed"))

        assert delivery.settled_at is not None

    def test_a_replay_sends_the_same_message_for_another_three_days(
        self, org: Organization, receiver: Receiver
    ) -> None:
        issued = subscribe(org, receiver)
        delivery = send_sample(issued.endpoint)

        with courier_at_work():
            wait_until(lambda: settled(delivery, "delivered"))
            receiver.behave = answering(500)
            replay_delivery(delivery=delivery, actor="test", now=timezone.now())
            wait_until(lambda: fresh(delivery).attempt_count == 2)

        first, second = receiver.received
        assert (first.message_id, first.body) == (second.message_id, second.body)
        assert delivery.state == "pending"
        assert delivery.settled_at is None
        # The first pause again, not the second.
        assert delivery.next_attempt_at - timezone.now() < timedelta(seconds=10)

    def test_an_unreadable_secret_fails_without_a_request(self, org: Organization, receiver: Receiver) -> None:
        delivery = send_sample(subscribe(org, receiver).endpoint)
        WebhookEndpoint.objects.for_organization(org).update(secret=b"sealed under another key")

        with courier_at_work():
            wait_until(lambda: fresh(delivery).attempt_count == 1)

        assert attempts_of(delivery) == [(None, "The secret cannot be read since SECRET_KEY changed; rotate it.")]
        assert receiver.received == []


@contextmanager
def courier_process(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.base",
        "DATABASE_URL": url_of_test_database(),
        "METERBOOK_PRIVATE_WEBHOOKS": "1",
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "deliver_webhooks"],
            cwd=BASE_DIR,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class TestProcesses:
    def test_killed_in_the_middle_the_message_is_sent_again_when_the_lease_ends(
        self, org: Organization, receiver: Receiver, tmp_path: Path
    ) -> None:
        receiver.behave = receiver.hang
        issued = subscribe(org, receiver)
        delivery = send_sample(issued.endpoint)
        with courier_process(tmp_path / "courier.log") as courier:
            wait_until(lambda: bool(receiver.received), explain=(tmp_path / "courier.log").read_text)
            courier.send_signal(signal.SIGKILL)
            courier.wait()
        receiver.behave = answering(200)

        with courier_at_work():
            # While the lease lives, nobody else sends it: another message passes by.
            passing = send_sample(issued.endpoint)
            wait_until(lambda: settled(passing, "delivered"))
            assert fresh(delivery).state == "pending"
            assert delivery.leased_until is not None
            assert delivery.leased_until > timezone.now()
            make_due(delivery)
            wait_until(lambda: settled(delivery, "delivered"))

        ids = [received.message_id for received in receiver.received]
        assert ids == [delivery.message_id, passing.message_id, delivery.message_id]

    def test_told_to_stop_it_ends_soon_and_gives_back_what_it_had_begun(
        self, org: Organization, receiver: Receiver, tmp_path: Path
    ) -> None:
        receiver.behave = receiver.hang
        delivery = send_sample(subscribe(org, receiver).endpoint)
        with courier_process(tmp_path / "courier.log") as courier:
            wait_until(lambda: bool(receiver.received), explain=(tmp_path / "courier.log").read_text)
            courier.send_signal(signal.SIGTERM)
            assert courier.wait(30) == 0

        assert fresh(delivery).state == "pending"
        assert delivery.leased_until is None
        assert delivery.next_attempt_at <= timezone.now()

    def test_two_beside_each_other_send_everything_once(self, org: Organization, receiver: Receiver) -> None:
        endpoints = [subscribe(org, receiver).endpoint for _ in range(5)]
        with transaction.atomic():
            deliveries = [send_sample(endpoint) for _ in range(20) for endpoint in endpoints]

        with courier_at_work(), courier_at_work():
            wait_until(lambda: not Delivery.objects.all_tenants().exclude(state="delivered").exists())

        sent = sorted(received.message_id for received in receiver.received)
        assert sent == sorted(delivery.message_id for delivery in deliveries)

    def test_more_than_fits_at_once_is_all_sent(self, org: Organization, receiver: Receiver) -> None:
        endpoints = [subscribe(org, receiver).endpoint for _ in range(4)]
        for endpoint in endpoints:
            send_sample(endpoint)

        with courier_at_work(slots=Slots(total=1, per_organization=1, per_endpoint=1)):
            wait_until(lambda: len(receiver.received) == 4)
            wait_until(lambda: not Delivery.objects.all_tenants().exclude(state="delivered").exists())

    def test_connections_that_break_are_opened_anew(self, org: Organization, receiver: Receiver) -> None:
        endpoint = subscribe(org, receiver).endpoint
        with courier_at_work():
            send_sample(endpoint)
            wait_until(lambda: len(receiver.received) == 1)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            again = send_sample(endpoint)
            wait_until(lambda: settled(again, "delivered"))
