"""The Stripe pages, the meters that are made there, and a difference that is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from accounts.models import AuditEntry, Organization, User
from billing.models import Notice, StripeCustomer, StripeDrift, StripeEvent, StripeMeter, UsageReport
from billing.services.reconciling import reconcile_usage
from billing.services.stripe_inbox import handle_due_events, handle_event, receive_event
from billing.services.stripe_names import forget_customer
from billing.services.traces import iterate_rows, let_go
from tests import factories
from tests.api.conftest import Api
from tests.billing.pusher import Pusher
from tests.billing.reporter import Clock, Reporter
from tests.billing.seller import Seller
from tests.billing.stripe_fake import METERS, FakeStripe, Fault
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def stripe(settings: Settings) -> Iterator[FakeStripe]:
    with FakeStripe(now=timezone.now) as server:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = server.key, server.url
        yield server


@pytest.fixture
def browser(client_for: Callable[[User], Client], alice: User, org: Organization) -> Client:
    return client_for(alice)


@pytest.fixture
def reporter(live_seller: Seller, stripe: FakeStripe) -> Reporter:
    """`acme` used 7 yesterday, and nothing is reported yet."""
    reporter = Reporter(live_seller, stripe, Clock(timezone.now()))
    now = timezone.now()
    reporter.subscribe("acme", start=now - timedelta(days=3))
    reporter.use("acme", 7, now - timedelta(days=1))
    return reporter


@pytest.fixture
def url(org: Organization) -> Callable[..., str]:
    return lambda name, *args: reverse(f"billing:{name}", args=[org.pk, *args])


Url = Callable[..., str]


class TestMeters:
    """`requests` has a sound meter, `calls` none, `hits` one that counts."""

    @pytest.fixture
    def named(self, reporter: Reporter) -> Reporter:
        for code in ("calls", "hits"):
            metric = reporter.seller.define(code, "sum", event_type=code)
            StripeMeter.objects.create(organization=reporter.organization, metric=metric, event_name=f"event_{code}")
        reporter.stripe.add_meter("event_hits", formula="count")
        return reporter

    def test_are_made_where_they_lack_and_told_where_they_differ(self, named: Reporter, api: Api) -> None:
        wrong = "The meter adds up by count; corrections need one that sums."
        outcomes = [
            ("calls", "event_calls", "created", []),
            ("hits", "event_hits", "differs", [wrong]),
            ("requests", "api_requests", "sound", []),
        ]

        path = "/v1/billing/stripe/meters/sync"

        def sync(query: str = "", body: Any = None) -> list[tuple[str, ...]]:
            return [tuple(meter.values()) for meter in api.post(f"{path}{query}", body)["meters"]]

        assert sync("?dry_run=true") == sync(body={"dry_run": True}) == outcomes
        assert api.refuse("POST", f"{path}?dry_run=true", {"dry_run": False}) == (422, "ambiguous", ["dry_run"])
        assert api.refuse("POST", path, {"dryrun": True})[::2] == (422, ["dryrun"])
        assert set(named.stripe.meters) == {"api_requests", "event_hits"}
        assert sync() == outcomes
        made = named.stripe.meters["event_calls"]
        assert (made["display_name"], made["default_aggregation"]["formula"]) == ("calls", "sum")
        assert made["customer_mapping"]["event_payload_key"] == "stripe_customer_id"
        assert made["value_settings"]["event_payload_key"] == "value"
        assert sync()[0][2] == "sound"
        assert named.stripe.meters["event_hits"]["default_aggregation"]["formula"] == "count"
        entries = AuditEntry.objects.for_organization(named.organization).filter(action="stripe_meters.created")
        assert [entry.details for entry in entries] == [{"event_names": ["event_calls"]}]

    def test_an_answer_that_is_lost_is_told_and_made_up_for(self, named: Reporter, api: Api) -> None:
        named.stripe.fault_paths, named.stripe.faults = METERS, [Fault.DROP_AFTER]

        outcomes = [
            [meter["outcome"] for meter in api.post("/v1/billing/stripe/meters/sync")["meters"]] for _ in range(2)
        ]

        assert outcomes == [["failed", "differs", "sound"], ["sound", "differs", "sound"]]

    def test_the_command_makes_them_and_ends_with_1_where_something_differs(self, named: Reporter) -> None:
        out = StringIO()
        with pytest.raises(SystemExit):
            call_command("sync_stripe_meters", "--dry-run", stdout=out)
        assert "calls → event_calls: would be created" in out.getvalue()
        with pytest.raises(SystemExit):
            call_command("sync_stripe_meters", stdout=out)
        assert "event_calls" in named.stripe.meters
        assert "hits → event_hits: differs" in out.getvalue()

    def test_without_a_key_nothing_is_asked(self, named: Reporter, api: Api, settings: Settings) -> None:
        settings.STRIPE_API_KEY = ""

        assert api.refuse("POST", "/v1/billing/stripe/meters/sync")[:2] == (409, "stripe_not_configured")


class TestDrifts:
    def test_a_difference_is_told_once_until_it_is_resolved_and_comes_back(self, reporter: Reporter) -> None:
        """Stripe forgets the event, remembers it, and forgets it again."""
        reporter.report()
        [event] = reporter.stripe.events
        reporter.clock.now += timedelta(days=1)

        def compare(events: list[Any]) -> int:
            reporter.stripe.events = events
            reconcile_usage(organization=reporter.organization, sink=reporter.sink, pace=reporter.clock.pace)
            return int(Notice.objects.for_organization(reporter.organization).count())

        assert [compare(events) for events in ([], [], [event], [event], [], [])] == [1, 1, 1, 1, 2, 2]
        notice = Notice.objects.for_organization(reporter.organization).earliest("id")
        assert (notice.type, notice.payload) == (
            "stripe.drift",
            {
                "kind": "usage_differs",
                "customer": "acme",
                "metric": "requests",
                "day": f"{event.received_at - timedelta(days=1):%Y-%m-%d}",
                "ledger_quantity": "7",
                "stripe_quantity": "0",
            },
        )
        assert StripeDrift.objects.for_organization(reporter.organization).count() == 1


class TestOverview:
    def test_without_anything_it_says_what_to_do_and_shows_no_key(
        self, browser: Client, url: Url, settings: Settings, org: Organization
    ) -> None:
        text = text_of(browser.get(url("stripe")))
        for hint in ("STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "/v1/stripe/webhook", "invoice.paid", "not pushed"):
            assert hint in text
        settings.STRIPE_API_KEY, settings.STRIPE_WEBHOOK_SECRETS = "sk_test_secret", ("whsec_secret",)
        answer = browser.get(url("stripe"))
        assert "key configured" in text_of(answer)
        assert b"sk_test" not in answer.content
        assert b"whsec" not in answer.content
        settings.STRIPE_ORGANIZATIONS = (org.pk + 1,)
        assert "may not report" in text_of(browser.get(url("stripe")))

    def test_names_and_forgets_customers_and_metrics(
        self, browser: Client, url: Url, live_seller: Seller, org: Organization
    ) -> None:
        customer = live_seller.customer("acme")
        live_seller.define("calls", "sum", event_type="call")
        live_seller.define("peak", "max", event_type="level")
        named = {"customer": "acme", "stripe_customer_id": "cus_acme"}

        wrong = [
            (named | {"customer": "nobody"}, "customer"),
            (named | {"stripe_customer_id": "acme"}, "stripe_customer_id"),
        ]
        for values, field in wrong:
            form = page_of(browser.post(url("name_stripe_customer"), values)).customer_form
            assert set(form.errors) == {field}
        assert browser.post(url("name_stripe_customer"), named).status_code == 302
        again = live_seller.customer("again")
        form = page_of(browser.post(url("name_stripe_customer"), named | {"customer": again.external_id})).customer_form
        assert "Another customer is cus_acme already." in str(form.errors)
        assert [row.stripe_customer_id for row in page_of(browser.get(url("stripe"))).customers] == ["cus_acme"]

        form = page_of(browser.post(url("name_stripe_meter"), {"metric": "peak", "event_name": "peak"})).meter_form
        assert set(form.errors) == {"metric"}
        assert browser.post(url("name_stripe_meter"), {"metric": "calls", "event_name": "calls"}).status_code == 302
        assert [row.metric for row in page_of(browser.get(url("stripe"))).meters] == ["calls"]

        browser.post(url("forget_stripe_customer", customer.pk))
        browser.post(url("forget_stripe_meter", "calls"))
        assert not StripeCustomer.objects.for_organization(org).exists()
        assert not StripeMeter.objects.for_organization(org).exists()

    def test_who_is_not_reported_is_listed(self, browser: Client, url: Url, reporter: Reporter) -> None:
        now = timezone.now()
        reporter.seller.subscribe("beta", "basic", start=now - timedelta(days=3))
        reporter.use("beta", 1, now - timedelta(days=1))
        idle = reporter.seller.customer("idle")
        StripeCustomer.objects.create(organization=reporter.organization, customer=idle, stripe_customer_id="cus_idle")

        page = page_of(browser.get(url("stripe")))

        assert [(row.external_id, row.reason) for row in page.gaps] == [
            ("beta", "Used what is reported, and has no name at Stripe."),
            ("idle", "Is cus_idle, without a subscription."),
        ]
        assert (page.figures[-1].label, page.figures[-1].count) == ("Not reported", 2)

    def test_a_viewer_looks_and_changes_nothing(
        self, client_for: Callable[[User], Client], bob: User, reporter: Reporter, url: Url
    ) -> None:
        viewer = client_for(bob)
        page = viewer.get(url("stripe"))
        if page.status_code == 200:
            assert page_of(page).customer_form is None
            assert page_of(page).meter_form is None
        for name in ("name_stripe_customer", "name_stripe_meter", "report_now", "sync_stripe_meters"):
            assert viewer.post(url(name)).status_code == 403
        assert not UsageReport.objects.for_organization(reporter.organization).exists()


class TestReports:
    def test_a_preview_sends_nothing_and_the_button_does(self, browser: Client, url: Url, reporter: Reporter) -> None:
        [row] = page_of(browser.get(url("report_now"))).rows
        assert (row.customer, row.metric, row.quantity) == ("acme", "requests", 7)
        assert reporter.stripe.events == []

        answer = browser.post(url("report_now"), follow=True)

        assert reporter.arrived() == Decimal(7)
        assert "Sent: 1 accepted." in text_of(answer)
        [row] = page_of(answer).rows
        assert (row.state, row.attempts, row.retry_url) == ("delivered", 1, "")

    def test_are_filtered_and_tried_again(self, browser: Client, url: Url, reporter: Reporter) -> None:
        reporter.stripe.customers.clear()
        reporter.report()
        [row] = reporter.rows()

        [shown] = page_of(browser.get(url("stripe_reports"), {"state": "rejected", "month": row.month})).rows
        assert shown.last_error == "400: No such customer: 'cus_acme'"
        assert page_of(browser.get(url("stripe_reports"), {"state": "delivered"})).rows == []
        assert page_of(browser.get(url("stripe_reports"), {"month": "1999-01"})).rows == []
        reporter.stripe.add_customer("cus_acme")
        assert browser.post(shown.retry_url).status_code == 302
        assert [row.state for row in reporter.rows()] == ["superseded", "pending"]
        assert browser.post(shown.retry_url).status_code == 409, "only once"

    def test_of_an_unknown_one_people_say_after_two_days_what_became_of_it(
        self, browser: Client, url: Url, reporter: Reporter
    ) -> None:
        reporter.stripe.faults = [Fault.DROP_AFTER]
        reporter.report()
        rows = UsageReport.objects.for_organization(reporter.organization)

        urls = [(row.confirm_url, row.retry_url) for row in page_of(browser.get(url("stripe_reports"))).rows]
        assert urls == [("", "")], "it may still settle by itself"
        rows.update(first_sent_at=timezone.now() - timedelta(days=2))
        [row] = page_of(browser.get(url("stripe_reports"))).rows
        assert row.retry_url
        assert browser.post(row.confirm_url).status_code == 302
        [row] = page_of(browser.get(url("stripe_reports"))).rows
        assert (row.state, row.confirm_url, row.retry_url) == ("delivered", "", "")

    def test_meters_are_compared_and_made(self, browser: Client, url: Url, reporter: Reporter) -> None:
        reporter.stripe.meters.clear()

        assert page_of(browser.get(url("sync_stripe_meters"))).lacking == 1
        browser.post(url("sync_stripe_meters"))
        assert page_of(browser.get(url("sync_stripe_meters"))).lacking == 0
        assert set(reporter.stripe.meters) == {"api_requests"}


class TestInvoicesAndEvents:
    @pytest.fixture
    def pusher(self, live_seller: Seller, stripe: FakeStripe) -> Pusher:
        pusher = Pusher(live_seller, stripe, Clock(timezone.now()))
        pusher.issue()
        return pusher

    def test_show_each_and_try_a_refused_one_again(self, browser: Client, url: Url, pusher: Pusher, api: Api) -> None:
        pusher.stripe.customers.clear()
        pusher.push()

        [row] = page_of(browser.get(url("stripe_invoices"), {"state": "rejected"})).rows
        assert (row.number, row.due, row.status) == ("INV-1", "53.30\u00a0USD", "")
        pusher.stripe.add_customer("cus_acme")
        assert browser.post(row.retry_url).status_code == 302
        pusher.clock.now = timezone.now()
        pusher.send()
        [row] = page_of(browser.get(url("stripe_invoices"))).rows
        assert (row.state, row.status, row.retry_url) == ("delivered", "open", "")
        [told] = api.get("/v1/billing/stripe/invoices", state="delivered")["data"]
        assert (told["number"], told["customer"], told["stripe_status"]) == ("INV-1", "acme", "open")
        retry = "/v1/billing/stripe/invoices/{}/retry"
        assert api.refuse("POST", retry.format(told["id"]))[:2] == (409, "not_rejected")
        assert api.refuse("POST", retry.format(2**64))[0] == 404

    @pytest.mark.parametrize("is_forgotten", [False, True], ids=["named", "named_before"])
    def test_events_of_others_are_not_shown_and_go_with_an_erased_customer(
        self, browser: Client, url: Url, pusher: Pusher, is_forgotten: bool
    ) -> None:
        pusher.push()
        [told] = pusher.stripe.invoices.values()
        now = timezone.now()
        for name, object_ in (("evt_1", told), ("evt_2", told | {"id": "in_else", "metadata": {}})):
            receive_event(event={"id": name, "type": "invoice.finalized", "data": {"object": object_}}, now=now)
        for kept in StripeEvent.objects.all_tenants():
            handle_event(event_id=kept.pk, now=now)

        assert [row.stripe_event_id for row in page_of(browser.get(url("stripe_events"))).rows] == ["evt_1"]
        theirs = {"organization": pusher.organization, "customer": pusher.subscription.customer}
        handed_out = [row.stripe_event_id for row in iterate_rows(**theirs) if isinstance(row, StripeEvent)]
        assert handed_out == ["evt_1"]
        if is_forgotten:
            forget_customer(**theirs, actor="test")
        let_go(**theirs, by="test", now=now)
        assert not StripeEvent.objects.all_tenants().exists()
        assert pusher.row().stripe_customer_id == ""

    @pytest.fixture
    def failed(self, pusher: Pusher, settings: Settings) -> StripeEvent:
        """What an installation did not handle that had lost its key for a while."""
        pusher.push()
        [told] = pusher.stripe.invoices.values()
        now, settings.STRIPE_API_KEY = timezone.now(), ""
        receive_event(event={"id": "evt_1", "type": "invoice.voided", "data": {"object": told}}, now=now)
        kept = StripeEvent.objects.all_tenants().get()
        assert handle_event(event_id=kept.pk, now=now) == "failed"
        settings.STRIPE_API_KEY = pusher.stripe.key
        return kept

    def test_a_failed_event_is_handled_again(self, browser: Client, url: Url, failed: StripeEvent) -> None:
        """Also one that nothing tries any more by itself."""
        events = StripeEvent.objects.all_tenants()
        events.update(attempts=10)
        [row] = page_of(browser.get(url("stripe_events"))).rows

        assert browser.post(row.retry_url).status_code == 302
        assert handle_due_events(now=timezone.now(), limit=5) == 1

        [shown] = page_of(browser.get(url("stripe_events"), {"state": "done"})).rows
        assert (shown.attempts, shown.error, shown.retry_url) == (1, "", "")
        assert browser.post(row.retry_url).status_code == 409
        entry = AuditEntry.objects.for_organization(events.get().organization_id).latest("id")
        assert (entry.action, entry.target) == ("stripe_event.retried", "evt_1")

    def test_the_admin_tries_again_what_failed_and_what_was_rejected(
        self, client_for: Callable[[User], Client], pusher: Pusher, failed: StripeEvent, reporter: Reporter
    ) -> None:
        reporter.stripe.customers.clear()
        reporter.report()
        pusher.issue(pusher.subscription)
        pusher.push()
        refused = pusher.rows()[-1]
        [report] = reporter.rows()
        assert (refused.state, report.state) == ("rejected", "rejected")
        staff = factories.make_user(name="Staff", is_staff=True)
        User.objects.filter(pk=staff.pk).update(is_superuser=True)
        client = client_for(staff)
        looking = factories.make_user(name="Looking", is_staff=True)
        looking.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))

        told = ""
        for row, action in ((failed, "handle_again"), (report, "retry"), (refused, "retry")):
            name = f"admin:billing_{row._meta.model_name}"
            assert client.get(reverse(f"{name}_changelist"), {"q": "x"}).status_code == 200
            assert client.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200
            rows = type(row).objects.all_tenants().values_list("pk", flat=True)
            chosen = {"action": action, "_selected_action": list(rows)}
            before = list(type(row).objects.all_tenants().order_by("pk").values())
            assert client_for(looking).post(reverse(f"{name}_changelist"), chosen, follow=True).status_code == 200
            assert list(type(row).objects.all_tenants().order_by("pk").values()) == before
            told += client.post(reverse(f"{name}_changelist"), chosen, follow=True).content.decode()

        for sentence in ("1 of 1 failed events", "1 of 1 rejected reports", "1 of 1 rejected invoices"):
            assert sentence in told
        failed.refresh_from_db()
        assert failed.state == "done"
        assert [row.state for row in reporter.rows()] == ["superseded", "pending"]
        assert pusher.rows()[-1].state == "pending"
        assert AuditEntry.objects.filter(actor=f"staff:{staff.email}", action__endswith=".retried").count() == 2
