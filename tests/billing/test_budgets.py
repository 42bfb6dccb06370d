"""Budgets: which levels are told when, exactly once, by mail and as notices; what can be set, by API and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.core import mail
from django.db import DatabaseError, connection, transaction
from django.test import Client

from accounts.models import AuditEntry, Organization, User
from billing.domain.budgets import percent_used, reached_levels
from billing.models import BillingProfile, Budget, BudgetCrossing, Notice, Subscription
from billing.services.budget_mails import PUT_OFF, send_due_mails
from billing.services.budgets import evaluate_budgets, remove_budget, set_budget
from billing.services.notices import take_notices
from billing.services.subscriptions import SubscriptionEnded
from billing.services.traces import iterate_rows, let_go
from billing.tasks import evaluate_organization_budgets_task, send_budget_mails_task
from common.errors import InvalidInput, NotFound
from metering.models import Horizon
from tests.alerts.receiver import wait_until
from tests.api.conftest import Api
from tests.billing.seller import Seller, written
from tests.metering.meter import utc
from tests.pages.conftest import page_of, text_of
from tests.scenarios.racing import count_waiting, race

pytestmark = pytest.mark.django_db
NOVEMBER, DECEMBER = utc(2026, 11, 1), utc(2026, 12, 1)


@pytest.fixture
def subscription(seller: Seller) -> Subscription:
    """One that costs a cent a call, from the first of November on."""
    seller.define("calls", "sum")
    seller.plan("pro", written("per_unit", 1, metric="calls"))
    return seller.subscribe("acme", "pro", start=NOVEMBER)


def budget_of(subscription: Subscription, seller: Seller, amount: int = 1000, **more: Any) -> Budget:
    return set_budget(subscription=subscription, amount_minor=amount, actor="test", now=seller.now, **more)


def spend(seller: Seller, amount: int, at: Any = None) -> None:
    seller.use("acme", "calls", amount, at or seller.now)


def evaluate(seller: Seller, **later: float) -> int:
    return evaluate_budgets(organization=seller.organization, now=seller.now + timedelta(**later)).crossings


def told(organization: Organization) -> list[tuple[int, int]]:
    """Return level and spend of each crossing, and check that each has its notice."""
    crossings = BudgetCrossing.objects.for_organization(organization).order_by("pk")
    found = [(crossing.level, crossing.spend_minor) for crossing in crossings]
    notices = Notice.objects.for_organization(organization).filter(type="budget.crossed").order_by("pk")
    assert [(each.payload["level"], int(each.payload["spend_minor"])) for each in notices] == found
    return found


@pytest.mark.parametrize(
    ("spent", "reached"),
    [(-5, []), (0, []), (499, []), (500, [50]), (501, [50]), (999, [50]), (1000, [50, 100]), (2500, [50, 100, 250])],
)
def test_level_is_reached_by_its_exact_amount(spent: int, reached: list[int]) -> None:
    assert reached_levels(spent, budget_minor=1000, levels=[50, 100, 250]) == reached


def test_level_between_two_amounts_is_reached_by_the_upper_one() -> None:
    assert reached_levels(2, budget_minor=7, levels=[30]) == []  # 30 % of 7 is 2.1
    assert reached_levels(3, budget_minor=7, levels=[30]) == [30]


@pytest.mark.parametrize(
    ("spent", "percent"), [(0, "0"), (799_999, "79.99"), (800_000, "80"), (1_234_567, "123.45"), (-1, "-0.01")]
)
def test_percent_is_rounded_down(spent: int, percent: str) -> None:
    assert percent_used(spent, budget_minor=1_000_000) == Decimal(percent)


class TestEvaluating:
    def test_one_below_exactly_and_one_above(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, levels=[50, 100])

        spend(seller, 499)
        assert evaluate(seller) == 0
        spend(seller, 1)
        assert evaluate(seller, minutes=1) == 1
        spend(seller, 1)
        assert evaluate(seller, minutes=2) == 0

        assert told(seller.organization) == [(50, 500)]
        notice = Notice.objects.for_organization(seller.organization).get()
        assert notice.payload == {
            "subscription": str(subscription.pk),
            "customer": "acme",
            "level": 50,
            "budget_minor": "1000",
            "spend_minor": "500",
            "currency": "USD",
            "period": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
            "crossed_at": "2026-11-20T12:01:00Z",
        }

    def test_several_levels_at_once_are_told_each(self, seller: Seller, subscription: Subscription) -> None:
        spend(seller, 1_000)
        budget_of(subscription, seller)

        evaluate(seller)

        assert told(seller.organization) == [(50, 1000), (80, 1000), (100, 1000)]
        assert seller.spend(subscription).spend.total_minor == 1000

    def test_new_period_arms_again_and_a_void_does_not(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, levels=[50])
        seller.send_all({"idempotency_key": "e", "customer": "acme", "type": "calls", "value": 600})
        evaluate(seller)

        seller.void("e")
        spend(seller, 700)
        evaluate(seller, minutes=1)
        assert told(seller.organization) == [(50, 600)]

        seller.now = DECEMBER + timedelta(hours=1)
        spend(seller, 500)
        evaluate(seller)

        assert told(seller.organization) == [(50, 600), (50, 500)]

    def test_spending_between_the_last_look_and_the_end_is_told(
        self, seller: Seller, subscription: Subscription
    ) -> None:
        budget_of(subscription, seller, levels=[50])
        evaluate(seller)
        seller.now = DECEMBER
        spend(seller, 500, DECEMBER - timedelta(microseconds=1))

        evaluate(seller)

        [crossing] = BudgetCrossing.objects.for_organization(seller.organization)
        assert (crossing.period_start, crossing.crossed_at) == (NOVEMBER, DECEMBER)
        # The end is looked at once; what comes later is history.
        assert evaluate(seller, minutes=1) == 0

    def test_ended_subscription_is_looked_at_once_more(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, levels=[50])
        evaluate(seller)
        spend(seller, 500, seller.now + timedelta(minutes=1))
        seller.cancel(subscription, "now", at=seller.now + timedelta(minutes=2))

        assert [evaluate(seller, minutes=3), evaluate(seller, minutes=4)] == [1, 0]

    def test_budget_made_after_a_period_does_not_tell_of_it(self, seller: Seller, subscription: Subscription) -> None:
        spend(seller, 5_000)
        seller.now = DECEMBER
        budget_of(subscription, seller)

        assert evaluate(seller) == 0

    def test_run_without_time_goes_on_with_the_others(self, seller: Seller, subscription: Subscription) -> None:
        second = seller.subscribe("globex", "pro", start=NOVEMBER)
        for each in (subscription, second):
            budget_of(each, seller)
        first, last = Budget.objects.for_organization(seller.organization).order_by("pk")
        Budget.objects.for_organization(seller.organization).filter(pk=first.pk).update(evaluated_at=seller.now)

        done = evaluate_budgets(organization=seller.organization, now=seller.now, seconds=0)
        assert (done.budgets, done.is_unfinished) == (0, True)
        done = evaluate_budgets(organization=seller.organization, now=seller.now)
        assert (done.budgets, done.is_unfinished) == (2, False)
        assert last.evaluated_at is None

    def test_one_that_cannot_be_read_does_not_hide_the_others(self, seller: Seller, subscription: Subscription) -> None:
        """In Kolkata periods begin at half past; of half hours only raw events tell, and those are let go."""
        lost = seller.subscribe("lost", "pro", start=utc(2026, 10, 31, 18, 30), zone="Asia/Kolkata", anchor_day=1)
        for each in (lost, subscription):
            budget_of(each, seller, levels=[50])
        for customer in ("lost", "acme"):
            seller.use(customer, "calls", 500, seller.now)
        seller.roll_up()
        horizon = Horizon.objects.for_organization(seller.organization)
        horizon.update(minutes_from=utc(2026, 11, 10), raw_from=utc(2026, 11, 10))

        done = evaluate_budgets(organization=seller.organization, now=seller.now)

        assert (done.budgets, done.crossings) == (2, 1)
        assert BudgetCrossing.objects.for_organization(seller.organization).get().budget.subscription == subscription

    def test_one_beyond_all_amounts_is_told_as_the_largest_and_stops_no_other(
        self, seller: Seller, subscription: Subscription
    ) -> None:
        other = seller.subscribe("zen", "pro", start=NOVEMBER)
        for each in (subscription, other):
            budget_of(each, seller, levels=[100])
        for name in ("acme", "zen"):
            seller.use(name, "calls", "9" * 30 if name == "acme" else 1000, seller.now)

        assert evaluate(seller) == 2

        assert sorted(told(seller.organization)) == [(100, 1000), (100, 2**63 - 1)]

    def test_other_currency_is_not_compared(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller)
        seller.plan("euro", written("per_unit", 1, metric="calls"), currency="EUR")
        seller.change(subscription, "euro", "period_end", at=seller.now)
        seller.now = DECEMBER + timedelta(hours=1)
        spend(seller, 5_000)

        assert evaluate(seller) == 0

        assert budget_of(subscription, seller).currency == "EUR"
        assert evaluate(seller, minutes=1) == 3


class TestSetting:
    def test_same_again_changes_nothing(self, seller: Seller, subscription: Subscription) -> None:
        first = budget_of(subscription, seller, email="cfo@example.test")
        again = budget_of(subscription, seller, email="cfo@example.test")

        assert first.pk == again.pk
        [entry] = AuditEntry.objects.for_organization(seller.organization).filter(action__startswith="budget.")
        assert (entry.action, entry.details["amount_minor"]) == ("budget.set", 1000)
        assert "example.test" not in str(entry.details)

    def test_another_amount_asks_anew_and_other_levels_do_not(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, levels=[50])
        spend(seller, 600)
        evaluate(seller)

        budget_of(subscription, seller, levels=[50, 60])
        evaluate(seller, minutes=1)
        assert told(seller.organization) == [(50, 600), (60, 600)]

        budget_of(subscription, seller, 1_100, levels=[50, 60])
        Notice.objects.for_organization(seller.organization).delete()
        evaluate(seller, minutes=2)
        assert told(seller.organization) == [(50, 600)]

    @pytest.mark.parametrize(
        ("values", "field", "code"),
        [
            ({"amount": 0}, "amount_minor", "out_of_range"),
            ({"amount": 10**15 + 1}, "amount_minor", "out_of_range"),
            ({"levels": []}, "levels", "invalid_length"),
            ({"levels": list(range(1, 12))}, "levels", "invalid_length"),
            ({"levels": [0]}, "levels", "out_of_range"),
            ({"levels": [1001]}, "levels", "out_of_range"),
            ({"levels": [80, 50]}, "levels", "not_ascending"),
            ({"levels": [50, 50]}, "levels", "not_ascending"),
            ({"email": "cfo"}, "email", "invalid"),
            ({"email": "a@example.test\nBcc: b@example.test"}, "email", "invalid"),
        ],
        ids=str,
    )
    def test_impossible_budget_is_refused(
        self, seller: Seller, subscription: Subscription, values: dict[str, Any], field: str, code: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            budget_of(subscription, seller, **values)

        [problem] = refused.value.errors
        assert (problem.field, problem.code) == (field, code)

    def test_bounds_are_accepted(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, 10**15, levels=[1, 2, 3, 4, 5, 6, 7, 8, 9, 1000])

    def test_ended_subscription_gets_none(self, seller: Seller, subscription: Subscription) -> None:
        seller.cancel(subscription, "now", at=seller.now)

        with pytest.raises(SubscriptionEnded):
            budget_of(subscription, seller)

    def test_erasing_the_customer_forgets_whom_to_write_to(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, email="cfo@example.test", levels=[50])
        spend(seller, 500)
        evaluate(seller)
        theirs: dict[str, Any] = {"organization": seller.organization, "customer": subscription.customer}

        handed_out = [row for row in iterate_rows(**theirs) if isinstance(row, BudgetCrossing)]
        let_go(**theirs, by="erased-1", now=seller.now)

        assert [(row.level, row.spend_minor) for row in handed_out] == [(50, 500)]
        assert Budget.objects.for_organization(seller.organization).get().email == ""

    def test_removing_takes_the_crossings_along(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller)
        spend(seller, 600)
        evaluate(seller)

        remove_budget(subscription=subscription, actor="test")

        assert not BudgetCrossing.objects.for_organization(seller.organization).exists()
        with pytest.raises(NotFound):
            remove_budget(subscription=subscription, actor="test")


class TestMailing:
    def test_one_mail_tells_what_one_evaluation_told(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, email="cfo@example.test")
        spend(seller, 810)
        evaluate(seller)

        assert [send_due_mails(now=seller.now), send_due_mails(now=seller.now)] == [1, 0]

        [sent] = mail.outbox
        assert sent.to == ["cfo@example.test"]
        assert sent.subject == f"acme: 80 % of the budget is spent ({seller.organization.name})"
        assert "8.10\u00a0USD (81 %)" in sent.body
        assert "1 November 2026 to 30 November 2026" in sent.body
        crossings = BudgetCrossing.objects.for_organization(seller.organization)
        assert crossings.filter(mailed_at__isnull=False, mail_due_at__isnull=True).count() == 2

    def test_tasks_do_it_by_the_clock(self, live_seller: Seller) -> None:
        live_seller.plan("fee", written("flat", 500))
        subscription = live_seller.subscribe("acme", "fee", start=live_seller.now)
        budget_of(subscription, live_seller, email="cfo@example.test")

        evaluate_organization_budgets_task(live_seller.organization.pk)
        send_budget_mails_task()

        assert told(live_seller.organization) == [(50, 500)]
        assert len(mail.outbox) == 1

    @pytest.mark.parametrize(("address", "mails"), [("payer@example.test", 1), ("", 0)], ids=["payer", "nobody"])
    def test_without_an_address_the_payer_is_written_to(
        self, seller: Seller, subscription: Subscription, address: str, mails: int
    ) -> None:
        BillingProfile.objects.create(organization=seller.organization, customer=subscription.customer, email=address)
        budget_of(subscription, seller)
        spend(seller, 500)
        evaluate(seller)

        assert send_due_mails(now=seller.now) == mails

        assert [sent.to for sent in mail.outbox] == [[address]] * mails
        assert not BudgetCrossing.objects.for_organization(seller.organization).filter(mail_due_at__isnull=False)

    def test_mail_that_nobody_takes_comes_later_and_crosses_nothing_again(
        self, seller: Seller, subscription: Subscription, settings: Any
    ) -> None:
        budget_of(subscription, seller, email="cfo@example.test")
        spend(seller, 500)
        evaluate(seller)
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1

        assert send_due_mails(now=seller.now) == 0
        settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
        assert send_due_mails(now=seller.now) == 0  # put off
        assert send_due_mails(now=seller.now + PUT_OFF) == 1

        assert evaluate(seller, minutes=20) == 0
        assert len(mail.outbox) == 1

    def test_what_no_server_takes_for_a_day_is_given_up(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, email="cfo@example.test")
        spend(seller, 500)
        evaluate(seller)

        assert send_due_mails(now=seller.now + timedelta(days=1, seconds=1)) == 0
        assert not BudgetCrossing.objects.for_organization(seller.organization).filter(mail_due_at__isnull=False)


@pytest.mark.django_db(transaction=True)
class TestAtOnce:
    def test_evaluators_at_once_tell_a_level_once(self, seller: Seller, subscription: Subscription) -> None:
        """Both have read the spend, and wait for a budget that somebody holds."""
        budget = budget_of(subscription, seller)
        spend(seller, 800)

        def evaluate_once() -> int:
            return evaluate(seller)

        def hold_until_both_wait() -> int:
            with transaction.atomic():
                Budget.objects.all_tenants().select_for_update().get(pk=budget.pk)
                wait_until(lambda: count_waiting() == 2)
            return 0

        assert sorted(race([hold_until_both_wait, evaluate_once, evaluate_once])) == [0, 0, 2]
        assert told(seller.organization) == [(50, 800), (80, 800)]

    def test_mail_is_sent_once_by_several(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, email="cfo@example.test")
        spend(seller, 500)
        evaluate(seller)

        assert sum(race([partial(send_due_mails, now=seller.now)] * 3)) == 1

    def test_notices_are_taken_once_by_several(self, seller: Seller, subscription: Subscription) -> None:
        budget_of(subscription, seller, levels=list(range(1, 11)))
        spend(seller, 1_000)
        evaluate(seller)

        def take() -> list[int]:
            with transaction.atomic():
                return [notice.pk for notice in take_notices(limit=4)]

        taken = [key for keys in race([take] * 3) for key in keys]
        while keys := take():
            taken += keys

        assert len(taken) == len(set(taken)) == 10

    def test_no_crossing_without_its_notice_and_none_twice(self, seller: Seller, subscription: Subscription) -> None:
        """The evaluation's transaction is undone by its last statement."""
        budget_of(subscription, seller)
        spend(seller, 500)
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION refuse_notice() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'full'; END $$; "
                "CREATE TRIGGER refuse BEFORE INSERT ON billing_notice EXECUTE FUNCTION refuse_notice()"
            )
        try:
            with pytest.raises(DatabaseError, match="full"):
                evaluate(seller)
            assert told(seller.organization) == []
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP FUNCTION refuse_notice CASCADE")

        evaluate(seller, minutes=1)
        assert told(seller.organization) == [(50, 500)]


@pytest.mark.django_db(transaction=True)
class TestApi:
    @pytest.fixture
    def path(self, live_seller: Seller) -> str:
        """The path of the budget of one that costs a cent a call."""
        live_seller.define("calls", "sum")
        live_seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = live_seller.subscribe("acme", "pro", start=live_seller.now - timedelta(days=1))
        return f"/v1/subscriptions/{made.pk}/budget"

    def test_budget_is_set_read_and_removed(self, api: Api, live_seller: Seller, path: str) -> None:
        put = api.call("PUT", path, {"amount_minor": 1000, "levels": [50, 100], "email": "cfo@example.test"})
        assert put.status_code == 200, put.content
        live_seller.use("acme", "calls", 567, live_seller.now)
        evaluate_budgets(organization=live_seller.organization, now=live_seller.now)

        found = api.get(path)

        [crossing] = found.pop("crossings")
        assert (crossing["level"], crossing["spend_minor"], crossing["budget_minor"]) == (50, "567", "1000")
        assert found.pop("period")["is_trial"] is False
        assert found == {
            "subscription": path.split("/")[3],
            "customer": "acme",
            "amount_minor": "1000",
            "currency": "USD",
            "currency_exponent": 2,
            "levels": [50, 100],
            "email": "cfo@example.test",
            "spend_minor": "567",
            "spend_currency": "USD",
            "is_comparable": True,
            "percent": "56.7",
        }
        assert api.call("DELETE", path).status_code == 204
        assert api.refuse("GET", path) == (404, "not_found", [])
        assert api.refuse("DELETE", path) == (404, "not_found", [])

    def test_levels_are_the_usual_ones_unless_told(self, api: Api, path: str) -> None:
        assert json.loads(api.call("PUT", path, {"amount_minor": 1}).content)["levels"] == [50, 80, 100]

    @pytest.mark.parametrize(
        ("body", "code", "field"),
        [
            ({}, "required", "amount_minor"),
            ({"amount_minor": "12.5"}, "invalid", "amount_minor"),
            ({"amount_minor": 0}, "min_value", "amount_minor"),
            ({"amount_minor": 1, "levels": [80, 50]}, "not_ascending", "levels"),
            ({"amount_minor": 1, "levels": [0]}, "min_value", "levels[0]"),
            ({"amount_minor": 1, "levels": None}, "null", "levels"),
            ({"amount_minor": 1, "email": "x\u0000@example.test"}, "null_characters_not_allowed", "email"),
            ({"amount_minor": 1, "currency": "EUR"}, "unknown_field", "currency"),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_named(self, api: Api, path: str, body: dict[str, Any], code: str, field: str) -> None:
        answer = api.call("PUT", path, body)

        [problem] = answer.json()["errors"]
        assert (answer.status_code, problem["code"], problem["field"]) == (422, code, field)

    def test_who_may(self, api_with: Any, live_seller: Seller, path: str) -> None:
        other = live_seller.customer("globex")
        body = {"amount_minor": 1000}

        assert api_with("billing:read").refuse("PUT", path, body)[0] == 403
        assert api_with("billing:write").call("PUT", path, body).status_code == 200
        acme = live_seller.customer("acme")
        assert api_with("billing:read", customer=acme).get(path)["amount_minor"] == "1000"
        assert api_with("billing:read", "billing:write", customer=acme).refuse("PUT", path, body)[0] == 403
        assert api_with("billing:read", customer=other).refuse("GET", path)[0] == 404


class TestPage:
    @pytest.fixture
    def shop(self, live_seller: Seller) -> Subscription:
        live_seller.define("calls", "sum")
        live_seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = live_seller.subscribe("acme", "pro", start=live_seller.now - timedelta(days=1))
        live_seller.use("acme", "calls", 900, live_seller.now)
        return made

    @pytest.fixture
    def url(self, shop: Subscription, org: Organization) -> str:
        return f"/o/{org.pk}/customers/{shop.customer_id}/billing"

    @pytest.fixture
    def browser(self, client_for: Callable[[User], Client], alice: User, org: Organization) -> Client:
        return client_for(alice)

    def block(self, browser: Client, url: str) -> Any:
        [card] = page_of(browser.get(url)).cards
        return card.budget

    def test_budget_is_set_shown_and_removed(
        self, browser: Client, url: str, shop: Subscription, org: Organization
    ) -> None:
        assert self.block(browser, url).bar is None
        values = {"amount": "7.50", "levels": "50, 100, 150", "email": "cfo@example.test"}

        answer = browser.post(self.block(browser, url).set_url, values, follow=True)

        assert "The budget is set." in text_of(answer)
        evaluate_budgets(organization=org, now=shop.created_at)
        bar = self.block(browser, url).bar
        assert (bar.spend, bar.amount, bar.percent) == ("9.00\u00a0USD", "7.50\u00a0USD", "120")
        assert (bar.fill, bar.is_over) == ("80%", True)  # of a bar that reaches to 150 %
        assert [(level.percent, level.place, level.told_at is None) for level in bar.levels] == [
            (50, "33.33%", False),
            (100, "66.67%", False),
            (150, "100%", True),
        ]
        browser.post(self.block(browser, url).remove_url, follow=True)
        assert self.block(browser, url).bar is None

    @pytest.mark.parametrize(
        "values",
        [
            {"amount": "1.005"},
            {"amount": "NaN"},
            {"amount": "1e99999"},
            {"amount": "-1"},
            {"amount": ""},
            {"levels": "fifty"},
            {"levels": "100, 50"},
            {"levels": "9" * 90},
            {"email": "nobody"},
        ],
        ids=str,
    )
    def test_impossible_budget_is_refused_in_words(
        self, browser: Client, url: str, shop: Subscription, values: dict[str, str]
    ) -> None:
        sent = {"amount": "10", "levels": "50", "email": ""} | values

        answer = browser.post(self.block(browser, url).set_url, sent, follow=True)

        assert "The budget is not set." in text_of(answer)
        assert not Budget.objects.for_organization(shop.organization_id).exists()

    def test_who_may_only_look_changes_nothing(
        self, client_for: Callable[[User], Client], bob: User, browser: Client, url: str, shop: Subscription
    ) -> None:
        viewer, set_url = client_for(bob), self.block(browser, url).set_url

        assert viewer.post(set_url, {"amount": "10", "levels": "50"}).status_code == 403
        assert self.block(viewer, url) is None
        browser.post(set_url, {"amount": "10", "levels": "50"})
        block = self.block(viewer, url)
        assert (block.bar.percent, block.form) == ("90", None)

    def test_budget_in_another_currency_says_so(
        self, browser: Client, url: str, shop: Subscription, org: Organization
    ) -> None:
        browser.post(self.block(browser, url).set_url, {"amount": "10", "levels": "50"})
        Budget.objects.for_organization(org).update(currency="EUR")

        assert "nothing is compared" in text_of(browser.get(url))
        assert self.block(browser, url).bar.percent == ""
