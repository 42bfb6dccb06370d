"""What billing tells arrives as webhooks: who gets which, exactly once, signed like any other message."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from threading import Event
from typing import Any

import pytest
from django.db import transaction
from django.test import Client

from accounts.domain import Scope
from accounts.models import Organization, User
from alerts.models import MESSAGE_TYPES, Delivery, WebhookEndpoint
from alerts.services.billing_notices import MAX_NOTICES, Told, tell_notices
from alerts.services.webhooks import (
    EndpointDefinition,
    IssuedEndpoint,
    create_endpoint,
    delete_endpoint,
    replay_delivery,
    update_endpoint,
)
from alerts.tasks import tell_billing_notices_task
from billing.domain.notices import NoticeType
from billing.models import Notice
from billing.services import notices
from billing.services.budgets import evaluate_budgets, set_budget
from billing.services.notices import NewNotice, write_notice, write_notices
from tests import factories
from tests.alerts.receiver import Receiver, courier_at_work, running, wait_until
from tests.billing.seller import Seller, written
from tests.metering.meter import utc
from tests.pages.conftest import page_of, text_of
from tests.scenarios.racing import count_waiting, race

pytestmark = pytest.mark.django_db(transaction=True)
JSON = "application/json"
FINALISED, BUDGET, MISMATCH = NoticeType.INVOICE_FINALISED, NoticeType.BUDGET_CROSSED, NoticeType.USAGE_MISMATCH


@pytest.fixture(autouse=True)
def _private_addresses(settings: Any) -> None:
    settings.WEBHOOKS_MAY_BE_PRIVATE = True


def subscribe(organization: Organization, url: str = "http://127.0.0.1:1/", **fields: Any) -> IssuedEndpoint:
    definition = EndpointDefinition(url=url, **{"message_types": list(NoticeType), **fields})
    return create_endpoint(organization=organization, definition=definition, actor="test")


def tell_of(organization: Organization, now: datetime, *types: NoticeType, **payload: Any) -> None:
    write_notices(
        [
            NewNotice(organization_id=organization.pk, type=each, payload={"n": each, **payload}, at=now)
            for each in types
        ]
    )


def sent_to(endpoint: WebhookEndpoint) -> list[str]:
    deliveries = Delivery.objects.for_organization(endpoint.organization_id).filter(endpoint=endpoint)
    return list(deliveries.order_by("pk").values_list("message_type", flat=True))


def killed_after(work: Callable[[], object]) -> None:
    """Do it, and die before the commit."""
    with transaction.atomic():
        work()
        raise KeyboardInterrupt


class TestTelling:
    def test_every_endpoint_gets_what_it_asked_for(self, org: Organization, now: datetime) -> None:
        everything = subscribe(org).endpoint
        budgets = subscribe(org, message_types=[BUDGET]).endpoint
        alerts = subscribe(org, message_types=["alert.crossed"]).endpoint
        unnamed = subscribe(org, message_types=[]).endpoint
        disabled = subscribe(org).endpoint
        update_endpoint(endpoint=disabled, changes={"is_enabled": False}, actor="test", now=now)
        tell_of(org, now, *NoticeType)

        assert tell_notices() == Told(notices=8, messages=9)

        assert sent_to(everything) == list(NoticeType)
        assert [sent_to(each) for each in (budgets, alerts, unnamed, disabled)] == [[BUDGET], [], [], []]
        [delivery] = Delivery.objects.for_organization(org).filter(endpoint=budgets)
        assert delivery.payload == {"type": BUDGET, "timestamp": "2026-11-20T12:00:00Z", "data": {"n": BUDGET}}
        assert set(NoticeType) < set(MESSAGE_TYPES)

    def test_is_for_those_who_may_read_billing(
        self, org: Organization, api_client_for: Callable[..., Client], now: datetime
    ) -> None:
        developer = api_client_for(factories.make_api_key(organization=org, scopes=(Scope.METRICS_WRITE,)))
        billing, alerts = subscribe(org).endpoint, subscribe(org, message_types=[]).endpoint
        tell_of(org, now, FINALISED)
        tell_notices()
        [delivery] = Delivery.objects.for_organization(org)
        path, body = "/v1/webhook-endpoints", {"url": "http://127.0.0.1:1/", "message_types": [FINALISED]}
        for ask in (
            partial(developer.post, path, body, content_type=JSON),
            partial(developer.patch, f"{path}/{alerts.pk}", {"message_types": [BUDGET]}, content_type=JSON),
            partial(developer.patch, f"{path}/{billing.pk}", {"url": body["url"]}, content_type=JSON),
            partial(developer.get, f"{path}/{billing.pk}/deliveries"),
            partial(developer.get, f"{path}/{billing.pk}/deliveries/{delivery.pk}"),
        ):
            assert ask().status_code == 403
        update_endpoint(endpoint=billing, changes={"message_types": ["alert.crossed"]}, actor="test", now=now)
        assert developer.get(f"{path}/{billing.pk}/deliveries").status_code == 403, "it got some once"
        assert developer.get(f"{path}/{alerts.pk}/deliveries").status_code == 200

    def test_filter_of_metrics_is_for_messages_about_one(self, org: Organization, now: datetime) -> None:
        Seller(org, now).define("m", "sum")
        endpoint = subscribe(org, metric_codes=["m"]).endpoint
        tell_of(org, now, MISMATCH, metric="other")
        tell_of(org, now, MISMATCH, metric="m")
        tell_of(org, now, FINALISED)

        tell_notices()

        assert sent_to(endpoint) == [MISMATCH, FINALISED]

    def test_what_nobody_wants_is_dropped_and_nobody_elses_is_sent(
        self, org: Organization, other_org: Organization, now: datetime
    ) -> None:
        endpoint = subscribe(other_org).endpoint
        tell_of(org, now, FINALISED)

        assert tell_notices() == Told(notices=1, messages=0)

        assert not Notice.objects.all_tenants().exists()
        assert sent_to(endpoint) == []

    def test_kill_between_taking_and_telling_leaves_the_notice(self, org: Organization, now: datetime) -> None:
        endpoint = subscribe(org).endpoint
        tell_of(org, now, FINALISED)

        with pytest.raises(KeyboardInterrupt):
            killed_after(tell_notices)

        assert (sent_to(endpoint), Notice.objects.all_tenants().count()) == ([], 1)
        tell_notices()
        assert (sent_to(endpoint), Notice.objects.all_tenants().count()) == ([FINALISED], 0)

    def test_what_did_not_happen_is_not_told(self, org: Organization, now: datetime) -> None:
        with pytest.raises(KeyboardInterrupt):
            killed_after(partial(write_notice, organization=org, type=FINALISED, payload={}, now=now))

        assert not Notice.objects.all_tenants().exists()

    def test_the_commit_wakes_whoever_tells(
        self, org: Organization, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[dict[str, Any]] = []
        monkeypatch.setattr(notices, "wake_task", lambda **names: asked.append(names))

        with transaction.atomic():
            tell_of(org, now, FINALISED, BUDGET)
            assert asked == []

        assert asked == [{"task": tell_billing_notices_task.name, "organization_id": org.pk}]

    def test_several_at_once_tell_each_once(self, org: Organization, other_org: Organization, now: datetime) -> None:
        endpoints = [subscribe(each).endpoint for each in (org, other_org)]
        for _ in range(100):
            for each in (org, other_org):
                tell_of(each, now, FINALISED)

        told = race([tell_notices] * 3)

        assert sum(each.messages for each in told) == 200
        assert [len(sent_to(endpoint)) for endpoint in endpoints] == [100, 100]

    def test_endpoint_deleted_meanwhile_is_gone_with_its_messages(self, org: Organization, now: datetime) -> None:
        endpoint = subscribe(org).endpoint
        tell_of(org, now, *NoticeType)
        is_written, is_deleted = Event(), Event()

        def tell_slowly() -> None:
            with transaction.atomic():
                assert tell_notices().messages == len(NoticeType)
                is_written.set()
                wait_until(lambda: is_deleted.is_set() or count_waiting() > 0)

        def delete() -> None:
            wait_until(is_written.is_set)
            delete_endpoint(endpoint=endpoint, actor="test", now=now)
            is_deleted.set()

        race([tell_slowly, delete])

        assert not WebhookEndpoint.objects.for_organization(org).exists()
        assert not Delivery.objects.for_organization(org).exists()
        assert not Notice.objects.all_tenants().exists()

    def test_task_tells_more_than_one_step_holds(self, org: Organization, now: datetime) -> None:
        endpoint = subscribe(org).endpoint
        tell_of(org, now, *[FINALISED] * (MAX_NOTICES + 1))

        tell_billing_notices_task(org.pk)

        assert len(sent_to(endpoint)) == MAX_NOTICES + 1


def test_a_crossed_budget_arrives_signed_and_can_be_replayed(org: Organization, now: datetime) -> None:
    """From the usage event to the receiver."""
    seller = Seller(org, now)
    seller.define("calls", "sum")
    seller.plan("pro", written("per_unit", "0.5", metric="calls"))
    subscription = seller.subscribe("acme", "pro", start=utc(2026, 11, 1))
    set_budget(subscription=subscription, amount_minor=1000, levels=[80], actor="test", now=now)

    with running(Receiver()) as receiver, courier_at_work():
        issued = subscribe(org, receiver.url, message_types=[BUDGET])
        seller.use("acme", "calls", 1598, now)
        evaluate_budgets(organization=org, now=now)
        seller.use("acme", "calls", 2, now)
        evaluate_budgets(organization=org, now=now + timedelta(minutes=1))
        tell_notices()
        wait_until(lambda: len(receiver.received) == 1)
        delivery = Delivery.objects.for_organization(org).get()
        wait_until(lambda: Delivery.objects.for_organization(org).filter(state="delivered").exists())
        replay_delivery(delivery=delivery, actor="test", now=now)
        wait_until(lambda: len(receiver.received) == 2)

    first, again = receiver.received
    assert first.verify(issued.secret) == {
        "type": "budget.crossed",
        "timestamp": "2026-11-20T12:01:00Z",
        "data": {
            "subscription": str(subscription.pk),
            "customer": "acme",
            "level": 80,
            "budget_minor": "1000",
            "spend_minor": "800",
            "currency": "USD",
            "period": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
            "crossed_at": "2026-11-20T12:01:00Z",
        },
    }
    assert (again.body, again.message_id) == (first.body, first.message_id)


def test_pages_say_whom_a_message_of_billing_is_about(
    org: Organization, now: datetime, alice: User, client_for: Callable[[User], Client]
) -> None:
    endpoint = subscribe(org).endpoint
    tell_of(org, now, FINALISED, customer="acme")
    tell_notices()
    browser, url = client_for(alice), f"/o/{org.pk}/webhooks/{endpoint.pk}/"

    answer = browser.get(url)

    [row] = page_of(answer).deliveries
    assert (row.message_type, row.subject, row.subject_url) == (FINALISED, "acme", "")
    assert "acme" in text_of(answer)
    assert "acme" in text_of(browser.get(row.url))
    assert "budget.crossed" in text_of(browser.get(url + "edit"))
