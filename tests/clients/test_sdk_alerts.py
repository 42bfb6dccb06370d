"""Alerts through the SDK against the real servers: thresholds, the log, webhooks, and subscriptions over restarts."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from signal import SIGTERM
from typing import Any

import pytest
from meterbook import (
    Alert,
    AlreadyExistsError,
    AsyncClient,
    Client,
    ConflictError,
    Event,
    NotFoundError,
    PermissionRefusedError,
    Subscription,
    Threshold,
    ValidationError,
    WebhookMessage,
    WebhookVerificationError,
    verify_webhook,
)

from accounts.models import Scope
from accounts.services import IssuedKey
from tests import factories
from tests.clients.conftest import Tenant
from tests.runtime.installation import Installation, wait_for

SECONDS = 60.0


class TestThresholds:
    @pytest.fixture(autouse=True)
    def _metric(self, client: Client) -> None:
        thresholds = [Threshold("declared", 500)]
        client.metrics.create("compute", "sum", dimensions=["region"], thresholds=thresholds)
        client.ingest(Event(customer="acme", metric="compute", value=40, properties={"region": "eu"}))

    def test_created_threshold_reads_back(self, client: Client) -> None:
        created = client.thresholds.create(
            "cap", "compute", value="100.5", customer="acme", filters={"region": ["us", "eu"]}, recurring=True
        )

        assert client.thresholds.get(created.id) == created
        assert created in client.thresholds.list(metric="compute", customer="acme")
        assert (created.code, created.metric, created.customer) == ("cap", "compute", "acme")
        assert (created.value, created.recurring, created.origin) == (Decimal("100.5"), True, "own")
        assert created.filters == {"region": ("eu", "us")}
        assert (created.percent_of_included, created.projected, created.silence_seconds) == (None, None, None)

    @pytest.mark.parametrize("kind", ["percent_of_included", "projected", "silence_seconds"])
    def test_every_kind_reads_back_as_itself(self, kind: str, client: Client) -> None:
        given: dict[str, Any] = {kind: 90}

        created = client.thresholds.create("cap", "compute", **given)

        assert getattr(created, kind) == 90
        assert created.value is None

    def test_what_the_metric_declares_is_listed_and_not_changed_here(self, client: Client) -> None:
        [declared] = client.thresholds.list(metric="compute")

        assert (declared.code, declared.origin) == ("declared", "metric")
        with pytest.raises(ConflictError):
            client.thresholds.update(declared.id, value=1)

    def test_code_that_is_taken_raises_already_exists(self, client: Client) -> None:
        client.thresholds.create("cap", "compute", value=1)

        with pytest.raises(AlreadyExistsError):
            client.thresholds.create("cap", "compute", value=2)

    def test_given_fields_change_and_the_others_stay(self, client: Client) -> None:
        created = client.thresholds.create("cap", "compute", value=100)

        changed = client.thresholds.update(created.id, value="99.5")

        assert (changed.id, changed.value, changed.code) == (created.id, Decimal("99.5"), "cap")

    def test_two_kinds_at_once_are_refused_by_field(self, client: Client) -> None:
        with pytest.raises(ValidationError) as caught:
            client.thresholds.create("cap", "compute", value=1, projected=2)

        assert caught.value.errors[0].field == "projected"

    def test_deleted_threshold_is_no_longer_listed(self, client: Client) -> None:
        created = client.thresholds.create("cap", "compute", value=100)

        client.thresholds.delete(created.id)

        assert [threshold.code for threshold in client.thresholds.list()] == ["declared"]

    def test_trace_tells_why_it_did_not_fire(self, client: Client) -> None:
        created = client.thresholds.create("cap", "compute", value=100)

        trace = client.thresholds.trace(created.id, "acme")

        assert trace.outcome == "below"
        assert [trace.usage, trace.level] == [40, 100]
        assert (trace.customer, trace.metric, trace.crossings) == ("acme", "compute", ())
        assert "60 to go" in trace.explanation

    def test_unknown_id_is_not_found(self, client: Client) -> None:
        with pytest.raises(NotFoundError):
            client.thresholds.get("987654321")


class TestWithoutTheRight:
    def test_subscribe_tells_at_once(self, client_of: Callable[[Any], Client], api_key: IssuedKey) -> None:
        organization = api_key.api_key.organization
        writer = client_of(factories.make_api_key(organization=organization, scopes=(Scope.EVENTS_WRITE,)))

        with pytest.raises(PermissionRefusedError):
            writer.alerts.subscribe()

    @pytest.mark.usefixtures("stream_server")
    def test_subscription_with_an_offset_raises_to_its_consumer(
        self, client_of: Callable[[Any], Client], api_key: IssuedKey
    ) -> None:
        organization = api_key.api_key.organization
        writer = client_of(factories.make_api_key(organization=organization, scopes=(Scope.EVENTS_WRITE,)))

        with writer.alerts.subscribe(since_offset=0) as subscription, pytest.raises(PermissionRefusedError):
            subscription.get(SECONDS)


# --- on a whole installation ---


def cross(client: Client, names: range, *, metric: str = "calls") -> None:
    """Let each of these customers cross the threshold once: one alert each."""
    client.ingest([Event(customer=f"c{number}", metric=metric, value=100) for number in names])


def take(subscription: Subscription, count: int) -> list[Alert]:
    alerts = [subscription.get(SECONDS) for _ in range(count)]
    assert None not in alerts, f"no alert within {SECONDS} s after {alerts}"
    return [alert for alert in alerts if alert is not None]


@pytest.fixture
def calls(tenant_client: Client) -> Client:
    """A client whose organization has a metric with a threshold."""
    tenant_client.metrics.create("calls", "sum", thresholds=[Threshold("cap", 100)])
    tenant_client.metrics.create("bytes", "sum", thresholds=[Threshold("cap", 100)])
    return tenant_client


@pytest.mark.xdist_group("client_installation")
class TestInstallation:
    def test_alert_arrives_as_the_log_has_it(self, calls: Client) -> None:
        with calls.alerts.subscribe() as subscription:
            calls.ingest(Event(customer="acme", metric="calls", value="100.25"))
            [alert] = take(subscription, 1)

        assert calls.alerts.list() == [alert]
        assert list(calls.list_alerts("acme")) == [alert]
        assert (alert.offset, alert.customer, alert.metric, alert.threshold_code) == (1, "acme", "calls", "cap")
        assert (alert.threshold_value, alert.value_at_cross) == (Decimal(100), Decimal("100.25"))
        assert alert.period.start <= datetime.now(UTC) < alert.period.end
        assert subscription.offsets() == 1
        assert subscription.dropped() == 0

    def test_filters_narrow_the_log_and_the_stream(self, calls: Client) -> None:
        with (
            calls.alerts.subscribe(customers=["c1", "c3"], metrics=["calls"]) as narrow,
            calls.alerts.subscribe() as wide,
        ):
            for metric in ("bytes", "calls"):
                cross(calls, range(4), metric=metric)
            everything = take(wide, 8)

            assert {alert.customer for alert in take(narrow, 2)} == {"c1", "c3"}

        wanted = [alert for alert in everything if alert.customer in {"c1", "c3"} and alert.metric == "calls"]
        assert calls.alerts.list(customers=["c1", "c3"], metrics="calls") == wanted
        assert calls.alerts.list(since=2, limit=3) == everything[2:5]
        assert list(calls.list_alerts(since_offset=1, page_size=2)) == everything[1:]

    def test_reader_that_stops_for_long_gets_every_offset_in_order(self, calls: Client) -> None:
        with calls.alerts.subscribe(buffer=64) as subscription:
            cross(calls, range(1500))
            wait_for(lambda: len(calls.alerts.list(since=1499)) == 1, SECONDS)

            offsets = [alert.offset for alert in take(subscription, 1500)]
            cross(calls, range(1500, 1501))
            [last] = take(subscription, 1)

        assert offsets == list(range(1, 1501))
        assert last.offset == 1501
        assert subscription.dropped() > 0

    def test_persisted_offset_resumes_in_another_process_as_it_were(self, calls: Client, tenant: Tenant) -> None:
        with calls.alerts.subscribe() as subscription:
            cross(calls, range(10))
            take(subscription, 4)
            position = subscription.offsets()
        cross(calls, range(10, 15))

        with (
            Client(tenant.url, tenant.api_key, trust_env=False) as other,
            other.alerts.subscribe(since_offset=position) as resumed,
        ):
            assert [alert.offset for alert in take(resumed, 11)] == list(range(5, 16))

    def test_killed_servers_cost_no_alert(self, calls: Client, installation: Installation) -> None:
        with calls.alerts.subscribe() as subscription:
            offsets: list[int] = []
            for round_number, parts in enumerate([("config.asgi",), ("config.wsgi",), ("config.asgi", "config.wsgi")]):
                cross(calls, range(round_number * 20, round_number * 20 + 10))
                offsets += [alert.offset for alert in take(subscription, 5)]
                for part in parts:
                    installation.find(part).kill()
                installation.wait_until_ready()
                cross(calls, range(round_number * 20 + 10, round_number * 20 + 20))
                offsets += [alert.offset for alert in take(subscription, 15)]

            assert offsets == list(range(1, 61))
            assert subscription.get(0.5) is None  # none comes twice

    def test_restarted_installation_costs_no_alert(
        self, calls: Client, tenant: Tenant, installation: Installation
    ) -> None:
        async def listen(offsets: list[int], is_open: threading.Event) -> None:
            async with (
                AsyncClient(tenant.url, tenant.api_key, trust_env=False) as client,
                client.alerts.subscribe() as subscription,
            ):
                is_open.set()
                while len(offsets) < 30:
                    alert = await subscription.get(SECONDS)
                    assert alert is not None
                    offsets.append(alert.offset)

        awaited: list[int] = []
        is_open = threading.Event()
        listener = threading.Thread(target=lambda: asyncio.run(listen(awaited, is_open)), daemon=True)
        listener.start()
        assert is_open.wait(SECONDS)
        with calls.alerts.subscribe() as subscription:
            cross(calls, range(10))
            offsets = [alert.offset for alert in take(subscription, 7)]

            installation.end(SIGTERM)
            installation.start().wait_until_ready()
            cross(calls, range(10, 30))

            offsets += [alert.offset for alert in take(subscription, 23)]
            assert subscription.get(0.5) is None
        listener.join(SECONDS)

        assert offsets == list(range(1, 31))
        assert awaited == list(range(1, 31))

    def test_async_list_and_thresholds(self, calls: Client, tenant: Tenant) -> None:
        cross(calls, range(3))
        wait_for(lambda: len(calls.alerts.list()) == 3, SECONDS)

        async def story() -> tuple[list[int], list[int], str]:
            async with AsyncClient(tenant.url, tenant.api_key, trust_env=False) as client:
                listed = [alert.offset for alert in await client.alerts.list(since=1)]
                iterated = [alert.offset async for alert in client.list_alerts(page_size=2)]
                threshold = await client.thresholds.create("more", "calls", value=1000)
                return listed, iterated, (await client.thresholds.trace(threshold.id, "c1")).outcome

        assert asyncio.run(story()) == ([2, 3], [1, 2, 3], "below")


class Receiver:
    """A webhook endpoint as a customer of ours would write it, on loopback."""

    def __init__(self) -> None:
        self.url = ""
        self.secrets: list[str] = []
        self.messages: Queue[WebhookMessage | Exception] = Queue()

    @contextmanager
    def running(self) -> Iterator["Receiver"]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    message: WebhookMessage | Exception = verify_webhook(receiver.secrets, self.headers, body)
                except WebhookVerificationError as error:
                    message = error
                self.send_response(204 if isinstance(message, WebhookMessage) else 400)
                self.end_headers()
                receiver.messages.put(message)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/hook"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def take(self) -> WebhookMessage:
        message = self.messages.get(timeout=SECONDS)
        assert isinstance(message, WebhookMessage), message
        return message


@pytest.mark.xdist_group("client_installation")
class TestWebhooks:
    def test_endpoint_reads_back_and_changes(self, calls: Client) -> None:
        created = calls.webhooks.create("http://127.0.0.1:9/hook", description="Ours", metrics=["calls"])

        assert created.secret is not None
        assert created.secret.startswith("whsec_")
        assert created.secret not in repr(created)
        assert (created.enabled, created.metrics, created.message_types) == (True, ("calls",), ())
        read = calls.webhooks.get(created.id)
        assert (read.id, read.url, read.description, read.secret) == (created.id, created.url, "Ours", None)

        changed = calls.webhooks.update(created.id, enabled=False, metrics=[])
        assert (changed.enabled, changed.metrics, changed.description) == (False, (), "Ours")

        calls.webhooks.delete(created.id)
        assert calls.webhooks.list() == []

    def test_message_is_received_verified_and_replayed(self, calls: Client) -> None:
        with Receiver().running() as receiver:
            endpoint = calls.webhooks.create(receiver.url)
            receiver.secrets = [str(endpoint.secret)]

            calls.ingest(Event(customer="acme", metric="calls", value=150))
            message = receiver.take()
            [alert] = calls.alerts.list()
            assert (message.type, message.alert) == ("alert.crossed", alert)

            wait_for(lambda: next(calls.webhooks.deliveries(endpoint.id)).state == "delivered", SECONDS)
            [delivery] = calls.webhooks.deliveries(endpoint.id, state="delivered")
            assert (delivery.message_id, delivery.type) == (message.id, "alert.crossed")
            [attempt] = calls.webhooks.delivery(endpoint.id, delivery.id).attempts
            assert (attempt.status_code, attempt.error) == (204, "")

            calls.webhooks.replay(endpoint.id, delivery.id)
            assert receiver.take().id == message.id

    def test_old_and_new_secret_both_verify_during_a_rotation(self, calls: Client) -> None:
        with Receiver().running() as receiver:
            endpoint = calls.webhooks.create(receiver.url)
            rotated = calls.webhooks.rotate_secret(endpoint.id)
            assert rotated.previous_secret_until is not None

            for secret in (str(endpoint.secret), rotated.secret):
                receiver.secrets = [secret]
                calls.webhooks.test(endpoint.id)
                message = receiver.take()
                assert (message.type, message.alert) == ("alert.test", None)
