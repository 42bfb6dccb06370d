"""Stripe's webhooks: who may tell us something, what is kept, and what comes of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Organization
from billing.clients.meters import MeterEvent
from billing.models import InboxState, Invoice, Notice, StripeEvent, StripeInvoice
from billing.services.reconciling import reconcile_usage
from billing.services.stripe_inbox import handle_due_events, handle_event, prune_events, receive_event
from billing.services.stripe_names import name_customer
from billing.tasks import push_invoices_task, sweep_stripe_events_task
from tests import factories
from tests.billing.pusher import Pusher
from tests.billing.reporter import Clock, Reporter
from tests.billing.seller import Seller
from tests.billing.stripe_fake import INVOICES, FakeStripe
from tests.metering.meter import utc

URL = "/v1/stripe/webhook"
SECRET = "whsec_of_the_test"


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


@pytest.fixture
def stripe(clock: Clock, settings: Settings) -> Iterator[FakeStripe]:
    with FakeStripe(now=clock.read) as server:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = server.key, server.url
        settings.STRIPE_WEBHOOK_SECRETS = (SECRET,)
        yield server


@pytest.fixture
def pusher(seller: Seller, stripe: FakeStripe, clock: Clock) -> Pusher:
    """`INV-1` is pushed."""
    stripe.fault_paths = INVOICES
    pusher = Pusher(seller, stripe, clock)
    pusher.issue()
    pusher.push()
    return pusher


def sign(body: str, secret: str = SECRET, *, age: int = 0) -> str:
    """Sign as https://docs.stripe.com/webhooks#verify-manually says."""
    at = int(time.time()) - age
    signature = hmac.new(secret.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
    return f"t={at},v1={signature}"


def post(client: Client, event: Any, *, signature: str | None = None, **signing: Any) -> Any:
    body = event if isinstance(event, str) else json.dumps(event)
    headers = {"Stripe-Signature": sign(body, **signing) if signature is None else signature}
    return client.post(URL, body, content_type="application/json", headers=headers)


def event(type: str, told: dict[str, Any], name: str = "evt_1") -> dict[str, Any]:
    return {"id": name, "object": "event", "type": type, "data": {"object": told}}


def invoice_event(pusher: Pusher, type: str, name: str = "evt_1") -> dict[str, Any]:
    """As Stripe sends it: a picture of the invoice when it happened, which may be old."""
    [told] = pusher.stripe.invoices.values()
    return event(type, told | {"status": "whatever it was"}, name)


def take(told: dict[str, Any], at: datetime) -> StripeEvent:
    """Receive and handle."""
    receive_event(event=told, now=at)
    handle_event(event_id=StripeEvent.objects.all_tenants().get(stripe_event_id=told["id"]).pk, now=at)
    return StripeEvent.objects.all_tenants().get(stripe_event_id=told["id"])


def notices(organization: Organization) -> list[tuple[str, dict[str, Any]]]:
    return [(row.type, row.payload) for row in Notice.objects.for_organization(organization).order_by("id")]


@pytest.mark.django_db
class TestWebhook:
    def test_is_kept_once_and_handled(
        self, client: Client, pusher: Pusher, eager_tasks: None, django_capture_on_commit_callbacks: Callable[..., Any]
    ) -> None:
        pusher.stripe.pay(pusher.row().stripe_invoice_id)
        told = invoice_event(pusher, "invoice.paid")

        with django_capture_on_commit_callbacks(execute=True):
            first, second = post(client, told), post(client, told)

        assert [answer.status_code for answer in (first, second)] == [200, 200]
        assert [answer.json()["is_new"] for answer in (first, second)] == [True, False]
        kept = StripeEvent.objects.all_tenants().get()
        assert (kept.state, kept.attempts, kept.payload, kept.organization) == ("done", 1, told, pusher.organization)
        assert [type for type, _ in notices(pusher.organization)] == ["payment.updated"]

    def test_the_tasks_of_the_clock_push_and_sweep(
        self, live_seller: Seller, stripe: FakeStripe, eager_tasks: None
    ) -> None:
        pusher = Pusher(live_seller, stripe, Clock(timezone.now()))
        pusher.issue()
        push_invoices_task()
        pusher.stripe.pay(pusher.row().stripe_invoice_id)
        receive_event(event=invoice_event(pusher, "invoice.paid"), now=timezone.now())
        sweep_stripe_events_task()

        assert (pusher.row().state, pusher.row().stripe_status) == ("delivered", "paid")

    def test_the_clock_sends_no_second_worker_where_one_pushes(
        self, live_seller: Seller, stripe: FakeStripe, eager_tasks: None
    ) -> None:
        """Each would take minutes for what one organization has at a month's end, and leave none for anybody else."""
        pusher = Pusher(live_seller, stripe, Clock(timezone.now()))
        pusher.issue()
        pusher.issue()
        pusher.plan()
        at_work = StripeInvoice.objects.for_organization(pusher.organization).filter(pk=pusher.rows()[0].pk)
        at_work.update(state="sending", next_attempt_at=timezone.now() + timedelta(minutes=5))
        push_invoices_task()
        assert stripe.invoices == {}

        at_work.update(next_attempt_at=timezone.now() - timedelta(seconds=1))
        push_invoices_task()
        assert [row.state for row in pusher.rows()] == ["delivered", "delivered"]

    def test_only_what_stripe_signed_a_moment_ago_is_kept(self, client: Client, stripe: FakeStripe) -> None:
        told = event("invoice.paid", {"id": "in_1"})
        genuine = sign(json.dumps(told))
        refused = [
            post(client, told, secret="whsec_of_another"),
            post(client, told, age=301),
            post(client, told, signature=""),
            post(client, told, signature="t=x,v1=y"),
            post(client, told, signature=f"{genuine},v1=\u00e9"),
            post(client, told, signature=genuine.replace("v1=", "v0=")),
            post(client, told | {"id": "evt_2"}, signature=genuine),
            client.post(URL, b"\xff\xfe", content_type="application/json", headers={"Stripe-Signature": genuine}),
        ]

        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")
        assert not StripeEvent.objects.all_tenants().exists()
        assert post(client, told, age=290).status_code == 200

    def test_two_secrets_hold_while_one_is_replaced(
        self, client: Client, stripe: FakeStripe, settings: Settings
    ) -> None:
        settings.STRIPE_WEBHOOK_SECRETS = ("whsec_new", SECRET)

        assert post(client, event("a", {}, "evt_1")).status_code == 200
        assert post(client, event("a", {}, "evt_2"), secret="whsec_new").status_code == 200

    def test_bodies_that_are_no_events_are_refused(self, client: Client, stripe: FakeStripe) -> None:
        bodies = {
            "no json": "invalid_json",
            "[" * 100_000: "invalid_json",
            '{"id": "evt_1", "type": "a", "n": NaN}': "invalid_json",
            "[1]": "invalid_event",
            '{"id": 5, "type": "a"}': "invalid_event",
            '{"id": "evt_1"}': "invalid_event",
            '{"id": "evt_1", "type": "%s"}' % ("x" * 256): "invalid_event",
            '{"id": "evt_1", "type": "a", "n": "\\u0000"}': "invalid_event",
            '{"id": "evt_1", "type": "a", "n": "\\ud800"}': "invalid_event",
        }
        for body, code in bodies.items():
            answer = post(client, body)
            assert (answer.status_code, answer.json()["code"]) == (400, code), body[:50]
        large = post(client, json.dumps(event("a", {"text": "x" * 512 * 1024})))
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")

    def test_without_a_secret_nothing_is_taken(self, client: Client) -> None:
        answer = post(client, event("invoice.paid", {}))

        assert (answer.status_code, answer.json()["code"]) == (404, "stripe_webhook_not_configured")
        assert client.get(URL).status_code == 405


@pytest.mark.django_db
class TestInvoices:
    def test_a_payment_is_written_down_as_stripe_has_it(self, pusher: Pusher) -> None:
        paid_at, row = utc(2026, 11, 21, 9), pusher.row()
        pusher.clock.now = paid_at
        pusher.stripe.pay(row.stripe_invoice_id)

        handled = take(invoice_event(pusher, "invoice.paid"), paid_at + timedelta(minutes=3))

        assert (handled.state, handled.organization) == ("done", pusher.organization)
        invoice = Invoice.objects.for_organization(pusher.organization).get()
        assert (invoice.paid_at, invoice.payment_reference) == (paid_at, f"stripe:{row.stripe_invoice_id}")
        assert pusher.row().stripe_status == "paid"
        [(type, payload)] = notices(pusher.organization)
        assert type == "payment.updated"
        assert payload == {
            "invoice": str(invoice.pk),
            "number": "INV-1",
            "customer": "acme",
            "status": "paid",
            "due_minor": "5330",
            "currency": "USD",
            "paid_at": "2026-11-21T09:00:00Z",
            "stripe_invoice_id": row.stripe_invoice_id,
            "stripe_status": "paid",
            "hosted_url": row.hosted_url,
        }

    def test_pages_lead_only_to_what_a_browser_can_trust(self, pusher: Pusher) -> None:
        row = pusher.row()
        for address in ("javascript:alert(1)", f"https://invoice.stripe.test/{'x' * 1000}"):
            pusher.stripe.invoices[row.stripe_invoice_id]["hosted_invoice_url"] = address
            take(invoice_event(pusher, "invoice.finalized", f"evt_{len(address)}"), pusher.clock.now)
            assert pusher.row().hosted_url == ""

    def test_the_order_of_events_does_not_matter(self, pusher: Pusher) -> None:
        """Whatever arrives last, the invoice is what it is there now; a failed attempt to pay is told each time."""
        pusher.stripe.pay(pusher.row().stripe_invoice_id)
        types = ("invoice.paid", "invoice.finalized", "invoice.payment_failed", "invoice.paid")
        for place, type in enumerate(types):
            take(invoice_event(pusher, type, f"evt_{place}"), pusher.clock.now)

        assert pusher.row().stripe_status == "paid"
        assert [payload["status"] for _, payload in notices(pusher.organization)] == ["paid", "payment_failed"]

    def test_what_was_paid_here_already_stays_as_it_was(self, pusher: Pusher) -> None:
        invoices = Invoice.objects.for_organization(pusher.organization)
        invoices.update(paid_at=utc(2026, 11, 10), payment_reference="by hand")
        pusher.stripe.pay(pusher.row().stripe_invoice_id)
        take(invoice_event(pusher, "invoice.paid"), pusher.clock.now)

        assert invoices.values_list("paid_at", "payment_reference").get() == (utc(2026, 11, 10), "by hand")

    @pytest.mark.parametrize("ended_by", ["void", "credit"])
    def test_a_payment_of_what_has_ended_here_is_left_to_people(self, pusher: Pusher, ended_by: str) -> None:
        """It was paid there before its end was told, and the event tells it first."""
        pusher.stripe.pay(pusher.row().stripe_invoice_id)
        invoice = pusher.row().invoice
        getattr(pusher, ended_by)(invoice)
        before = (invoice.refresh_from_db(), invoice.paid_at, invoice.payment_reference)
        for name in ("evt_1", "evt_2"):
            assert take(invoice_event(pusher, "invoice.paid", name), pusher.clock.now).state == "done"

        row = pusher.row()
        assert (row.state, row.stripe_status, row.next_attempt_at) == ("rejected", "paid", None)
        assert f"{ended_by}ed here, and paid at Stripe as in_1: give the money back there." in row.last_error
        assert (invoice.refresh_from_db(), invoice.paid_at, invoice.payment_reference) == before
        assert [payload["status"] for _, payload in notices(pusher.organization)] == ["paid"]

    def test_an_event_that_overtakes_the_answer_finds_its_invoice(self, pusher: Pusher) -> None:
        """The answer to the creation was lost, and the next attempt has not come yet."""
        rows = StripeInvoice.objects.for_organization(pusher.organization)
        rows.update(stripe_invoice_id="", stripe_status="", state="unknown", next_attempt_at=pusher.clock.now)

        assert take(invoice_event(pusher, "invoice.voided"), pusher.clock.now).state == "done"
        assert pusher.row().stripe_invoice_id
        assert pusher.row().stripe_status == "open", "as it is there, whatever the event said"

    def test_what_is_not_ours_is_ignored_without_asking(self, pusher: Pusher, settings: Settings) -> None:
        pusher.stripe.calls.clear()
        other = event("invoice.paid", {"id": "in_other", "customer": "cus_acme", "metadata": {}}, "evt_other")
        forged = {"meterbook_invoice": "elsewhere-1-1"}
        elsewhere = event("invoice.paid", {"id": "in_else", "customer": "cus_acme", "metadata": forged}, "evt_else")
        unknown = event("charge.refunded", {"id": "ch_1"}, "evt_unknown")
        odd = {"id": "evt_odd", "type": "invoice.paid", "data": ["nothing"]}

        assert [take(told, pusher.clock.now).state for told in (other, elsewhere, unknown, odd)] == ["ignored"] * 4
        settings.STRIPE_ORGANIZATIONS = (pusher.organization.pk + 1,)
        assert take(invoice_event(pusher, "invoice.paid"), pusher.clock.now).state == "ignored"
        assert pusher.stripe.calls == []


@pytest.mark.django_db
class TestFailures:
    def test_are_tried_again_after_a_pause_that_doubles(self, pusher: Pusher, settings: Settings) -> None:
        settings.STRIPE_API_KEY = ""
        now = pusher.clock.now
        failed = take(invoice_event(pusher, "invoice.paid"), now)

        assert (failed.state, failed.attempts, failed.organization) == ("failed", 1, pusher.organization)
        assert "STRIPE_API_KEY" in failed.error
        assert handle_due_events(now=now + timedelta(seconds=29), limit=10) == 0
        assert handle_due_events(now=now + timedelta(seconds=30), limit=10) == 1
        assert handle_due_events(now=now + timedelta(seconds=89), limit=10) == 0, "the second pause is a minute"
        settings.STRIPE_API_KEY = pusher.stripe.key
        assert handle_due_events(now=now + timedelta(seconds=90), limit=10) == 1
        failed.refresh_from_db()
        assert (failed.state, failed.attempts, failed.error) == ("done", 3, "")

    def test_end_after_ten_attempts(self, pusher: Pusher, settings: Settings) -> None:
        settings.STRIPE_API_KEY = ""
        now = pusher.clock.now
        take(invoice_event(pusher, "invoice.paid"), now)
        for _ in range(20):
            now += timedelta(hours=1)
            handle_due_events(now=now, limit=10)

        assert StripeEvent.objects.all_tenants().get().attempts == 10

    def test_a_worker_that_is_killed_and_a_wake_up_that_is_lost_are_made_up_for(
        self, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receive_event(event=invoice_event(pusher, "invoice.paid"), now=pusher.clock.now)
        kept = StripeEvent.objects.all_tenants().get()

        def kill(**_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("billing.services.stripe_inbox.record_remote", kill)
            with pytest.raises(KeyboardInterrupt):
                handle_due_events(now=pusher.clock.now, limit=10)
        kept.refresh_from_db()
        assert (kept.state, kept.error) == ("failed", "The attempt did not end.")
        handle_due_events(now=pusher.clock.now + timedelta(minutes=1), limit=10)
        kept.refresh_from_db()
        assert kept.state == InboxState.DONE

    def test_what_nobody_foresaw_stops_no_other_event(self, pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
        real = "billing.services.stripe_inbox._parse_reference"
        monkeypatch.setattr(real, lambda told: 1 // 0)
        receive_event(event=invoice_event(pusher, "invoice.paid"), now=pusher.clock.now)
        receive_event(event=event("charge.refunded", {}, "evt_2"), now=pusher.clock.now)

        assert handle_due_events(now=pusher.clock.now, limit=10) == 2
        states = StripeEvent.objects.all_tenants().order_by("id").values_list("state", "error")
        assert list(states) == [("failed", "ZeroDivisionError: see the log."), ("ignored", "")]

    def test_old_events_are_forgotten(self, stripe: FakeStripe) -> None:
        now = timezone.now()
        receive_event(event=event("a", {}, "evt_old"), now=now - timedelta(days=91))
        receive_event(event=event("a", {}, "evt_new"), now=now - timedelta(days=89))

        assert prune_events(now=now) == 1
        assert StripeEvent.objects.all_tenants().get().stripe_event_id == "evt_new"


@pytest.mark.django_db
class TestCustomersAndMeters:
    def test_whoever_named_a_customer_hears_that_it_was_deleted(self, pusher: Pusher, other_org: Organization) -> None:
        other = factories.make_customer(organization=other_org, external_id="also-acme")
        name_customer(
            organization=other_org, customer=other, stripe_customer_id="cus_acme", actor="test", now=pusher.clock.now
        )

        assert take(event("customer.deleted", {"id": "cus_acme"}), pusher.clock.now).state == "done"

        told = {"kind": "customer_deleted", "stripe_customer_id": "cus_acme"}
        assert notices(pusher.organization) == [("stripe.drift", told | {"customer": "acme"})]
        assert notices(other_org) == [("stripe.drift", told | {"customer": "also-acme"})]
        assert take(event("customer.deleted", {"id": "cus_nobody"}, "evt_2"), pusher.clock.now).state == "ignored"

    def test_what_a_meter_refused_later_is_noted_at_the_report_and_found_by_night(
        self, seller: Seller, stripe: FakeStripe, clock: Clock
    ) -> None:
        """Accepted and delivered, as far as the sender can know; the rest comes by the inbox and the comparison."""
        reporter = Reporter(seller, stripe, clock)
        reporter.subscribe("acme", start=utc(2026, 11, 1))
        reporter.use("acme", 7, utc(2026, 11, 18, 10))
        reporter.use("acme", 100, utc(2026, 11, 19, 10))
        stripe.rejections = ["meter_event_customer_not_found"]
        assert reporter.report().answers == {"accepted": 2}

        handled = take(stripe.report_rejections("evt_1", "api_requests"), clock.now)

        assert (handled.state, handled.organization) == ("done", reporter.organization)
        assert [(row.quantity, row.state, row.last_error) for row in reporter.rows()] == [
            (7, "delivered", "Stripe refused it later: It is meter_event_customer_not_found."),
            (100, "delivered", ""),
        ]
        [(type, payload)] = notices(reporter.organization)
        assert (type, payload["kind"], payload["error_count"]) == ("stripe.drift", "events_refused", "1")
        assert payload["errors"] == {"meter_event_customer_not_found": "1"}
        clock.now += timedelta(hours=16)
        assert reconcile_usage(organization=reporter.organization, sink=reporter.sink, pace=clock.pace).drifts == 1
        _, (_, told) = notices(reporter.organization)
        assert (told["kind"], told["day"]) == ("usage_differs", "2026-11-18")
        assert (told["ledger_quantity"], told["stripe_quantity"]) == ("7", "0")
        assert reporter.report().answers == {}, "people have to see why"

    def test_without_a_sample_of_ours_the_meter_tells_whose_it_is(
        self, seller: Seller, stripe: FakeStripe, clock: Clock
    ) -> None:
        """Somebody else reports to the same meter."""
        reporter = Reporter(seller, stripe, clock)
        stripe.add_customer("cus_theirs")
        stripe.rejections = ["meter_event_customer_not_found"]
        reporter.sink.send(MeterEvent("api_requests", "cus_theirs", Decimal(1), clock.now, "theirs", "theirs-1"))

        assert take(stripe.report_rejections("evt_1", "api_requests"), clock.now).state == "done"
        assert [type for type, _ in notices(reporter.organization)] == ["stripe.drift"]
