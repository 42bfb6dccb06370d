"""`POST /v1/billing/report-usage`, its state row by row, the names at Stripe, and what beat does by the hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from accounts.models import User
from billing.models import StripeCustomer, StripeDrift, StripeEvent, StripeMeter, UsageReport
from billing.services.reporting import plan_reports
from billing.tasks import reconcile_usage_task, report_usage_task, send_usage_reports_task
from tests import factories
from tests.api.conftest import Api
from tests.billing.pusher import Pusher
from tests.billing.reporter import Clock
from tests.billing.seller import Seller, written
from tests.billing.stripe_fake import FakeStripe, Fault

pytestmark = pytest.mark.django_db
PATH = "/v1/billing/report-usage"
KEY = "sk_test_of_this_test"


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def stripe(settings: Settings) -> Iterator[FakeStripe]:
    with FakeStripe(key=KEY, now=lambda: datetime.now(UTC)) as server:
        server.add_customer("cus_acme")
        server.add_meter("api_calls")
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = KEY, server.url
        yield server


@pytest.fixture
def used(live_seller: Seller, api: Api, now: datetime) -> Seller:
    """`acme/1` used 42 an hour ago, and is named at Stripe."""
    live_seller.define("calls", "sum")
    live_seller.plan("basic", written("per_unit", 1, metric="calls"))
    live_seller.subscribe("acme/1", "basic", start=now - timedelta(days=3))
    live_seller.use("acme/1", "calls", 42, now - timedelta(hours=1))
    api.call("PUT", "/v1/billing/stripe/customers/acme%2F1", {"stripe_customer_id": "cus_acme"})
    api.call("PUT", "/v1/billing/stripe/meters/calls", {"event_name": "api_calls"})
    return live_seller


def test_without_a_key_a_dry_run_shows_what_would_be_sent(used: Seller, api: Api) -> None:
    assert api.refuse("POST", PATH) == (409, "stripe_not_configured", [])

    answer = api.post(f"{PATH}?dry_run=true")

    [report] = answer["reports"]
    assert (answer["dry_run"], answer["is_complete"], answer["planned"]) == (True, True, 1)
    assert (report["customer"], report["stripe_customer_id"]) == ("acme/1", "cus_acme")
    assert (report["metric"], report["event_name"], report["quantity"]) == ("calls", "api_calls", "42")
    assert report["window"]["start"] <= report["timestamp"] < report["window"]["end"]
    assert not UsageReport.objects.for_organization(used.organization).exists()


def test_usage_is_sent_and_sent_once(used: Seller, api: Api, stripe: FakeStripe) -> None:
    first, again = api.post(PATH), api.post(PATH, {})

    assert (first["planned"], first["answers"], first["states"]["delivered"]) == (1, {"accepted": 1}, 1)
    assert (again["planned"], again["answers"], again["states"]["delivered"]) == (0, {}, 1)
    assert stripe.total("cus_acme", "api_calls") == Decimal(42)
    [row] = api.get(PATH)["data"]
    assert (row["state"], row["attempts"], row["last_error"]) == ("delivered", 1, "")
    assert api.get(f"{PATH}/{row['id']}") == row
    assert KEY not in str((first, row))


def test_a_month_reports_the_periods_that_begin_in_it(used: Seller, api: Api, stripe: FakeStripe) -> None:
    [planned] = api.post(PATH, {"dry_run": True})["reports"]
    month = planned["period"]

    assert api.post(f"{PATH}?period=2020-01")["planned"] == 0
    assert api.post(PATH, {"period": month})["planned"] == 1
    assert [row["period"] for row in api.get(PATH, period=month, state="delivered")["data"]] == [month]
    assert api.get(PATH, period="2020-01")["data"] == []
    assert api.get(PATH, state="rejected")["data"] == []
    assert len(api.get(PATH, customer="acme/1")["data"]) == 1


@pytest.mark.parametrize(
    ("query", "body", "field"),
    [
        ("period=2025-13", None, "period"),
        ("period=2025", None, "period"),
        ("dry_run=maybe", None, "dry_run"),
        ("", {"period": 5}, "period"),
        ("", {"dry_run": "yes"}, "dry_run"),
        ("", {"month": "2025-01"}, "month"),
        ("period=2025-01", {"period": "2025-02"}, "period"),
    ],
)
def test_what_has_no_meaning_is_refused(api: Api, query: str, body: Any, field: str) -> None:
    status, _, fields = api.refuse("POST", f"{PATH}?{query}", body)

    assert (status, fields) == (422, [field])


def test_current_and_last_name_months(api: Api) -> None:
    current, last = (api.post(PATH, {"period": period, "dry_run": True})["period"] for period in ("current", "last"))

    assert last < current <= f"{datetime.now(UTC) + timedelta(days=1):%Y-%m}"


def test_a_rejected_report_is_retried_under_its_new_name(used: Seller, api: Api, stripe: FakeStripe) -> None:
    customer = "/v1/billing/stripe/customers/acme%2F1"
    api.call("PUT", customer, {"stripe_customer_id": "cus_wrong"})
    api.post(PATH)
    [rejected] = api.get(PATH, state="rejected")["data"]

    api.call("PUT", customer, {"stripe_customer_id": "cus_acme"})
    again = api.post(f"{PATH}/{rejected['id']}/retry", status=201)
    api.post(PATH)

    assert (again["sequence"], again["stripe_customer_id"], again["state"]) == (1, "cus_acme", "pending")
    assert api.get(f"{PATH}/{rejected['id']}")["state"] == "superseded"
    assert stripe.total("cus_acme", "api_calls") == Decimal(42)
    assert api.refuse("POST", f"{PATH}/{again['id']}/retry")[:2] == (409, "not_rejected")


def test_people_say_of_an_unknown_report_what_became_of_it(used: Seller, api: Api, stripe: FakeStripe) -> None:
    stripe.faults = [Fault.DROP_AFTER]
    api.post(PATH)
    [unknown] = api.get(PATH, state="unknown")["data"]
    confirm = f"{PATH}/{unknown['id']}/confirm"
    assert api.refuse("POST", confirm)[:2] == (409, "not_left_to_people")
    rows = UsageReport.objects.for_organization(used.organization)
    rows.update(first_sent_at=datetime.now(UTC) - timedelta(days=2))

    assert api.post(confirm)["state"] == "delivered"
    assert api.refuse("POST", f"{PATH}/{2**64}/confirm")[0] == 404
    assert api.refuse("POST", f"{PATH}/{unknown['id']}/retry")[:2] == (409, "not_rejected")


def test_scopes_and_bounds_are_kept(used: Seller, api_with: Callable[..., Api]) -> None:
    reader = api_with("billing:read")

    assert reader.get(PATH)["data"] == []
    assert reader.refuse("POST", PATH, {"dry_run": True})[0] == 403
    assert reader.refuse("PUT", "/v1/billing/stripe/meters/calls", {"event_name": "x"})[0] == 403
    assert api_with("billing:read", customer=used.customer("acme/1")).refuse("GET", PATH)[0] == 403


def test_the_account_may_be_for_some_organizations_alone(
    used: Seller, api: Api, stripe: FakeStripe, settings: Settings
) -> None:
    settings.STRIPE_ORGANIZATIONS = (used.organization.pk + 1,)

    assert api.refuse("POST", PATH)[:2] == (409, "stripe_not_configured")
    assert stripe.calls == []


class TestNames:
    def test_names_are_listed_changed_and_forgotten(self, used: Seller, api: Api) -> None:
        customer = "/v1/billing/stripe/customers/acme%2F1"

        assert [row["customer"] for row in api.get("/v1/billing/stripe/customers")["data"]] == ["acme/1"]
        assert [row["event_name"] for row in api.get("/v1/billing/stripe/meters")["data"]] == ["api_calls"]
        api.call("PUT", "/v1/billing/stripe/meters/calls", {"event_name": "other"})
        assert api.get("/v1/billing/stripe/meters/calls")["event_name"] == "other"
        assert api.call("DELETE", customer).status_code == 204
        assert api.call("DELETE", customer).status_code == 204
        assert api.refuse("GET", customer)[0] == 404
        assert api.post(PATH, {"dry_run": True})["planned"] == 0

    def test_one_name_belongs_to_one_customer_and_one_metric(self, used: Seller, api: Api) -> None:
        used.customer("beta")
        used.define("more", "count")
        taken: list[tuple[str, dict[str, Any]]] = [
            ("customers/beta", {"stripe_customer_id": "cus_acme"}),
            ("meters/more", {"event_name": "api_calls"}),
        ]

        for path, body in taken:
            assert api.refuse("PUT", f"/v1/billing/stripe/{path}", body)[:2] == (409, "already_mapped")

    def test_names_must_be_possible(self, used: Seller, api: Api) -> None:
        used.define("peak", "max")
        base = "/v1/billing/stripe"

        assert api.refuse("PUT", f"{base}/customers/acme%2F1", {"stripe_customer_id": "acme"})[0] == 422
        assert api.refuse("PUT", f"{base}/meters/peak", {"event_name": "x"})[:2] == (422, "not_additive")
        assert api.refuse("PUT", f"{base}/meters/calls", {"event_name": ""})[0] == 422
        assert api.refuse("PUT", f"{base}/meters/nothing", {"event_name": "x"})[0] == 404


def test_staff_see_every_report_and_change_none(
    used: Seller, api: Api, stripe: FakeStripe, now: datetime, client_for: Callable[[User], Client]
) -> None:
    api.post(PATH)
    StripeDrift.objects.create(
        organization=used.organization,
        customer=used.customer("acme/1"),
        metric=used.metrics["calls"],
        day=now,
        ledger_quantity=1,
        stripe_quantity=2,
        found_at=now,
        checked_at=now,
    )
    staff = factories.make_user(name="Staff", is_staff=True)
    User.objects.filter(pk=staff.pk).update(is_superuser=True)
    client = client_for(staff)

    for model in (StripeCustomer, StripeMeter, UsageReport, StripeDrift):
        name, row = f"admin:billing_{model._meta.model_name}", model._default_manager.get()
        assert client.get(reverse(f"{name}_changelist"), {"q": "x"}).status_code == 200, model
        assert client.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200, model
        assert client.get(reverse(f"{name}_add")).status_code == 403, model


def test_days_that_differ_are_listed(used: Seller, api: Api, now: datetime) -> None:
    of_day = {"organization": used.organization, "customer": used.customer("acme/1"), "metric": used.metrics["calls"]}
    numbers = {"ledger_quantity": Decimal("1E+2"), "stripe_quantity": Decimal("99.50"), "found_at": now}
    for days, resolved_at in ((1, None), (2, now)):
        day = now - timedelta(days=days)
        StripeDrift.objects.create(**of_day, **numbers, day=day, checked_at=now, resolved_at=resolved_at)

    [drift] = api.get("/v1/billing/stripe/drifts")["data"]

    assert (drift["customer"], drift["metric"]) == ("acme/1", "calls")
    assert (drift["ledger_quantity"], drift["stripe_quantity"]) == ("100", "99.5")


@pytest.mark.usefixtures("eager_tasks")
class TestTasks:
    def test_the_hourly_task_reports_everybody_who_has_a_name(self, used: Seller, stripe: FakeStripe) -> None:
        report_usage_task()
        report_usage_task()

        assert stripe.total("cus_acme", "api_calls") == Decimal(42)

    def test_what_was_left_unsettled_is_sent_between_the_hours(
        self, used: Seller, stripe: FakeStripe, now: datetime
    ) -> None:
        stripe.faults = [Fault.DROP_AFTER]
        report_usage_task()
        rows = UsageReport.objects.for_organization(used.organization)
        assert [row.state for row in rows] == ["unknown"]
        rows.update(next_attempt_at=now)

        send_usage_reports_task()

        assert [row.state for row in rows.all()] == ["delivered"]
        assert stripe.total("cus_acme", "api_calls") == Decimal(42)

    def test_the_nightly_task_compares_everybody(self, used: Seller, stripe: FakeStripe, now: datetime) -> None:
        used.use("acme/1", "calls", 1, now - timedelta(days=2))

        reconcile_usage_task()

        drift = StripeDrift.objects.for_organization(used.organization).get()
        assert (drift.ledger_quantity, drift.stripe_quantity) == (Decimal(1), Decimal(0))

    def test_without_a_key_nothing_happens(self, used: Seller, now: datetime) -> None:
        plan_reports(organization=used.organization, months=None, now=now)

        report_usage_task()
        send_usage_reports_task()
        reconcile_usage_task()

        assert UsageReport.objects.for_organization(used.organization).get().state == "pending"


class TestDoctor:
    def examine(self, **options: Any) -> str:
        output = StringIO()
        call_command("stripe_doctor", stdout=output, **options)
        return output.getvalue()

    def complain(self, **options: Any) -> str:
        output = StringIO()
        with pytest.raises(SystemExit):
            call_command("stripe_doctor", stdout=output, **options)
        return output.getvalue()

    def test_a_sound_account_is_told_so(self, used: Seller, stripe: FakeStripe) -> None:
        told = self.examine()

        assert "api_calls: sound" in told
        assert "by hand: how long Stripe keeps an invoice open" in told
        assert {call.method for call in stripe.calls} == {"GET"}

    def test_every_defect_is_named(self, used: Seller, stripe: FakeStripe) -> None:
        stripe.customers.clear()
        stripe.add_meter("api_calls", formula="last", window="day")

        told = self.complain()

        assert "adds up by last" in told
        assert "only the last event of each day" in told
        assert "cus_acme" in told
        assert KEY not in told

    def test_how_long_invoices_stay_open_is_read_from_the_drafts_there(self, used: Seller, stripe: FakeStripe) -> None:
        stripe.renew("cus_acme")
        assert "keeps invoices open for less than 2:00:00 after their periods: in_1 1:00:00." in self.complain()

        stripe.invoices.clear()
        stripe.grace = timedelta(hours=2)
        stripe.renew("cus_acme")
        stripe.renew("cus_acme")
        # Made by a person, who may want it final at once.
        by_hand = stripe.invoices["in_3"]
        by_hand |= {"billing_reason": "manual", "automatically_finalizes_at": by_hand["created"] + 60}
        assert "invoices open" not in self.examine(), "nor is it to be looked at by hand"

    def test_who_is_not_reported_is_named(self, used: Seller, stripe: FakeStripe, now: datetime) -> None:
        """`beta` uses and has no name, `idle` has one and no subscription, `quiet` used it long ago, and `stranger`
        under no subscription."""
        for name in ("beta", "quiet"):
            used.subscribe(name, "basic", start=now - timedelta(days=60))
        used.use("beta", "calls", 1, now - timedelta(days=1))
        used.use("quiet", "calls", 1, now - timedelta(days=37))
        used.use("stranger", "calls", 1, now - timedelta(days=1))
        StripeCustomer.objects.create(
            organization=used.organization, customer=used.customer("idle"), stripe_customer_id="cus_idle"
        )
        stripe.add_customer("cus_idle")

        told = self.complain(customers=1)

        assert "Used what is reported, and have no name at Stripe: beta." in told
        assert "Named at Stripe, and without a subscription to report: idle." in told
        assert "1 of 2 customers were not looked up" in told

    def test_what_waits_for_people_is_counted(self, used: Seller, stripe: FakeStripe, now: datetime) -> None:
        organization = used.organization
        plan_reports(organization=organization, months=None, now=now)
        reports = UsageReport.objects.for_organization(organization)
        reports.update(created_at=now - timedelta(hours=3))
        assert "not settled has been waiting for 3:0" in self.complain()

        long_ago = now - timedelta(days=3)
        reports.update(state="unknown", first_sent_at=long_ago, created_at=long_ago)
        told = self.complain()
        assert "Of 1 reports nobody knows whether they arrived" in told
        assert "waiting" not in told

        reports.update(state="rejected", next_attempt_at=None)
        StripeDrift.objects.create(
            **{"organization": organization, "customer": used.customer("acme/1"), "metric": used.metrics["calls"]},
            **{"ledger_quantity": 1, "stripe_quantity": 2, "day": now, "found_at": now, "checked_at": now},
        )
        for place, owner in enumerate((organization, organization, None)):
            StripeEvent.objects.create(organization=owner, stripe_event_id=f"evt_{place}", payload={}, state="failed")
        told = self.complain()
        assert "1 days differ" in told
        assert "1 reports were rejected" in told
        assert "2 events of Stripe's failed;" in told
        assert "1 events of Stripe's failed before it was known whose they are" in told

    def test_who_only_pushes_invoices_is_examined_too(self, live_seller: Seller, stripe: FakeStripe) -> None:
        """With a key that need not read meters."""
        pusher = Pusher(live_seller, stripe, Clock(live_seller.now))
        pusher.issue()
        assert str(pusher.organization) in self.examine()
        stripe.customers.clear()
        pusher.push()

        told = self.complain()

        assert "acme: Stripe has no customer cus_acme." in told
        assert "1 invoices were rejected" in told
        assert not any(call.path.startswith("/v1/billing/meters") for call in stripe.calls)
