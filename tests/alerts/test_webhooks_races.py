"""An evaluation and the courier, or a person at the endpoints, at the same time: nobody trips over the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from accounts.models import Organization
from alerts.domain import Answer
from alerts.models import Crossing, Delivery, DeliveryAttempt, WebhookEndpoint
from alerts.services import deliveries, evaluation, log
from alerts.services.evaluation import EvaluationBusy
from alerts.services.webhooks import EndpointDefinition, create_endpoint, delete_endpoint, update_endpoint
from alerts.sql.due_deliveries import ClaimedDelivery, claim_deliveries, list_waiting
from tests.alerts.receiver import wait_until
from tests.alerts.watch import Watch
from tests.scenarios.racing import race


@pytest.fixture
def endpoint(watch: Watch) -> WebhookEndpoint:
    watch.define("m", "sum")
    watch.threshold("m", "cap", 10)
    definition = EndpointDefinition(url="https://hooks.test/")
    return create_endpoint(organization=watch.organization, definition=definition, actor="test").endpoint


def beside(action: Callable[[], Any]) -> None:
    """Do it now, on another connection, and wait for its end."""
    race([action])


def before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, action: Callable[[], Any]) -> None:
    """Let something happen in the middle of an evaluation, once, just before it calls a function."""
    original = getattr(module, name)

    def interrupted(**arguments: Any) -> Any:
        monkeypatch.setattr(module, name, original)
        action()
        return original(**arguments)

    monkeypatch.setattr(module, name, interrupted)


def deliveries_of(organization: Organization) -> list[int]:
    return list(Delivery.objects.for_organization(organization).values_list("crossing__offset", flat=True))


class TestEvaluation:
    def test_an_endpoint_noted_as_failing_meanwhile_disturbs_no_evaluation(
        self, watch: Watch, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = WebhookEndpoint.objects.all_tenants()
        before(monkeypatch, log, "enqueue_crossings", lambda: beside(lambda: rows.update(failing_since=timezone.now())))

        watch.use("ann", 10)

        assert deliveries_of(watch.organization) == [1]

    def test_an_endpoint_deleted_meanwhile_makes_it_begin_again(
        self, watch: Watch, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watch.evaluate()  # the log begins
        delete = lambda: delete_endpoint(endpoint=endpoint, actor="test", now=timezone.now())  # noqa: E731
        before(monkeypatch, evaluation, "append_crossings", lambda: beside(delete))

        with pytest.raises(EvaluationBusy):
            watch.use("ann", 10)
        watch.evaluate()

        assert Crossing.objects.all_tenants().count() == 1
        assert Delivery.objects.all_tenants().count() == 0

    @pytest.mark.parametrize("has_log", [True, False])
    def test_a_deletion_waits_for_the_deliveries_that_are_being_written(
        self, watch: Watch, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch, has_log: bool
    ) -> None:
        if has_log:
            watch.evaluate()
        deletion = threading.Thread(
            target=lambda: beside(lambda: delete_endpoint(endpoint=endpoint, actor="test", now=timezone.now()))
        )

        def begin() -> None:
            deletion.start()
            disabled = WebhookEndpoint.objects.all_tenants().filter(disabled_at__isnull=False)
            # Its first step is through; the second meets our lock.
            wait_until(lambda: race([disabled.exists])[0])

        before(monkeypatch, log, "enqueue_crossings", begin)

        watch.use("ann", 10)
        deletion.join(60)

        assert not deletion.is_alive()
        assert Crossing.objects.all_tenants().count() == 1
        assert WebhookEndpoint.objects.all_tenants().count() == 0
        assert Delivery.objects.all_tenants().count() == 0

    def test_switched_off_while_it_is_told(
        self, watch: Watch, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The delivery stays pending, is not sent, and is sent when the endpoint is on again."""

        def switch(is_on: bool) -> None:
            update_endpoint(endpoint=endpoint, changes={"is_enabled": is_on}, actor="test", now=timezone.now())

        before(monkeypatch, log, "enqueue_crossings", lambda: beside(lambda: switch(False)))

        watch.use("ann", 10)

        # The clock of the test stands before the machine's: it is due.
        assert deliveries_of(watch.organization) == [1]
        assert list_waiting(now=timezone.now() + timedelta(days=1), limit=10) == []
        switch(True)
        waiting = list_waiting(now=timezone.now() + timedelta(days=1), limit=10)
        assert [lane.endpoint_id for lane in waiting] == [endpoint.pk]

    def test_what_the_courier_writes_holds_up_no_evaluation(self, watch: Watch, endpoint: WebhookEndpoint) -> None:
        written, told = threading.Event(), threading.Event()

        def write_slowly() -> bool:
            with transaction.atomic():
                assert deliveries._lock_endpoint(endpoint.organization_id, endpoint.pk) is not None
                written.set()
                return told.wait(20)

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(lambda: race([write_slowly]))
            written.wait(20)
            watch.use("ann", 10)
            told.set()

        assert writing.result() == [True], "the evaluation waited for the courier"


class TestLostLeases:
    def test_an_outcome_that_comes_after_the_lease_is_somebody_elses(
        self, watch: Watch, endpoint: WebhookEndpoint
    ) -> None:
        watch.use("ann", 10)
        now = timezone.now()
        [late] = claim_deliveries(slots={endpoint.pk: 1}, now=now, until=now + timedelta(seconds=30))
        again = now + timedelta(seconds=30)
        [newer] = claim_deliveries(slots={endpoint.pk: 1}, now=again, until=again + timedelta(seconds=30))

        def record(claimed: ClaimedDelivery, status: int) -> bool:
            return deliveries.record_attempt(
                claimed=claimed, attempted_at=again, answer=Answer(1, status), now=again, jitter=Fraction(0)
            )

        assert not record(late, 500)
        assert DeliveryAttempt.objects.all_tenants().count() == 0
        assert record(newer, 200)
        assert not record(newer, 200)
        assert DeliveryAttempt.objects.all_tenants().count() == 1
        assert Delivery.objects.all_tenants().get().state == "delivered"

    def test_an_outcome_for_a_deleted_endpoint_is_nobodys(self, watch: Watch, endpoint: WebhookEndpoint) -> None:
        watch.use("ann", 10)
        now = timezone.now()
        [claimed] = claim_deliveries(slots={endpoint.pk: 1}, now=now, until=now + timedelta(seconds=30))
        delete_endpoint(endpoint=endpoint, actor="test", now=now)

        assert not deliveries.record_attempt(
            claimed=claimed, attempted_at=now, answer=Answer(1, 200), now=now, jitter=Fraction(0)
        )


class TestClaims:
    def test_of_many_couriers_each_delivery_goes_to_one(self, watch: Watch, endpoint: WebhookEndpoint) -> None:
        watch.send_all(*({"customer": f"c{n}", "type": "m", "value": 10} for n in range(40)))
        watch.evaluate()
        now = timezone.now() + timedelta(days=1)
        until = now + timedelta(seconds=30)

        claims = race([lambda: claim_deliveries(slots={endpoint.pk: 8}, now=now, until=until)] * 6)

        taken = [claimed.id for several in claims for claimed in several]
        assert len(taken) == len(set(taken)) >= 8
        left = claim_deliveries(slots={endpoint.pk: 40}, now=now, until=until)
        assert len(left) == 40 - len(taken)
        assert claim_deliveries(slots={endpoint.pk: 40}, now=now, until=until) == []
        assert list_waiting(now=now, limit=10) == []
        # The lease is over.
        assert len(claim_deliveries(slots={endpoint.pk: 40}, now=until, until=until + timedelta(1))) == 40

    def test_the_longest_waiting_endpoint_comes_first(self, watch: Watch, endpoint: WebhookEndpoint) -> None:
        now = timezone.now()
        definition = EndpointDefinition(url="https://hooks.test/")
        others = [
            create_endpoint(organization=watch.organization, definition=definition, actor="test").endpoint
            for _ in range(3)
        ]
        for one, seconds in ((endpoint, 1), (others[0], 3), (others[1], -1), (others[2], 2)):
            for later in range(3):
                Delivery.objects.create(
                    organization=watch.organization,
                    endpoint=one,
                    message_type="alert.test",
                    payload={},
                    next_attempt_at=now - timedelta(seconds=seconds) + timedelta(hours=later),
                )

        waiting = list_waiting(now=now, limit=10)

        assert [lane.endpoint_id for lane in waiting] == [others[0].pk, others[2].pk, endpoint.pk]
        assert [lane.endpoint_id for lane in list_waiting(now=now, limit=2)] == [others[0].pk, others[2].pk]
