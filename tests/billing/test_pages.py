"""Pages of billing: the list, the editor with its preview, one plan, and a customer's subscriptions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization, Role, User
from billing.models import Plan, PlanVersion, Subscription
from tests import factories
from tests.billing.seller import Seller, written
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db

PageUrl = Callable[[str], str]


@pytest.fixture
def browser(client_for: Callable[[User], Client], alice: User, org: Organization) -> Client:
    return client_for(alice)


@pytest.fixture
def viewer(client_for: Callable[[User], Client], bob: User) -> Client:
    return client_for(bob)


@pytest.fixture
def page_url(org: Organization) -> PageUrl:
    return lambda path: f"/o/{org.pk}/{path}"


def form(*prices: dict[str, str], **fields: str) -> dict[str, str]:
    """Return the editor's form as a browser sends it, with one price left empty."""
    sent = {
        "currency": "USD",
        "trial_days": "0",
        "prices-TOTAL_FORMS": str(len(prices) + 1),
        "prices-INITIAL_FORMS": "0",
    }
    for place, price in enumerate(prices):
        sent |= {f"prices-{place}-{name}": value for name, value in price.items()}
    return sent | fields


FEE = {"model": "flat", "amount": "4900", "name": "Base fee"}
TIERS = {"metric": "calls", "model": "graduated", "tiers": "100: 10\nbeyond: 0.5 + 20", "filters": "region = us | eu"}


@pytest.fixture
def shop(live_seller: Seller) -> Seller:
    live_seller.define("calls", "sum", unit="call", dimensions=["region"])
    return live_seller


class TestEditor:
    def test_makes_a_plan_of_what_is_written(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        sent = form(FEE, TIERS, code="pro", name="Pro", action="activate")

        answer = browser.post(page_url("new-plan"), sent)

        assert answer.headers["Location"] == page_url("plans/pro/")
        version = PlanVersion.objects.for_organization(shop.organization).get()
        assert version.state == "active"
        fee, tiers = version.prices.order_by("position")
        assert (fee.metric, fee.amount, fee.name) == (None, 4900, "Base fee")
        assert (tiers.metric.code, tiers.filters) == ("calls", {"region": ["eu", "us"]})
        assert tiers.tiers == [
            {"up_to": "100", "unit_amount": "10", "flat_amount": "0"},
            {"up_to": None, "unit_amount": "0.5", "flat_amount": "20"},
        ]

    def test_problems_stand_at_the_fields_of_their_price(
        self, browser: Client, page_url: PageUrl, shop: Seller
    ) -> None:
        cases: list[tuple[dict[str, str], str]] = [
            ({"model": "per_unit", "amount": "1"}, "metric"),
            ({"model": "flat", "amount": "lots"}, "amount"),
            ({"model": "flat", "amount": "-1"}, "amount"),
            ({"metric": "calls", "amount": "1"}, "model"),
            (TIERS | {"tiers": "nonsense"}, "tiers"),
            (TIERS | {"tiers": "100: 10"}, "tiers"),
            (TIERS | {"filters": "place = us"}, "filters"),
            (TIERS | {"filters": "region"}, "filters"),
        ]
        for price, field in cases:
            sent = form(FEE, price, code="pro", name="Pro", action="activate")
            editor = page_of(browser.post(page_url("new-plan"), sent)).editor
            assert [set(each.errors) for each in editor.prices.forms[:2]] == [set(), {field}], price
        for changes in ({"currency": "XXX"}, {"trial_days": "-1"}, {"code": "Pro!"}, {"name": ""}):
            sent = form(FEE, **{"code": "pro", "name": "Pro"} | changes)
            assert set(page_of(browser.post(page_url("new-plan"), sent)).editor.form.errors) == set(changes)
        assert not Plan.objects.for_organization(shop.organization).exists()

    def test_preview_is_what_the_rating_says_where_the_slider_stands(
        self, browser: Client, page_url: PageUrl, shop: Seller
    ) -> None:
        """Half as far again as the last edge are 150 calls, of which 80 % are 120: 100 at 10, 20 at 0.5, and 20."""
        sent = form(FEE, TIERS, code="pro", name="Pro", action="preview", at="80")

        preview = page_of(browser.post(page_url("new-plan"), sent)).preview

        assert [(row.quantity, row.amount) for row in preview.rows] == [
            (None, "49.00\u00a0USD"),
            (120, "10.30\u00a0USD"),
        ]
        assert preview.total == "59.30\u00a0USD"
        assert [step.amount for step in preview.rows[1].steps] == ["10.00\u00a0USD", "0.30\u00a0USD"]
        assert not Plan.objects.for_organization(shop.organization).exists()

    def test_preview_of_what_is_wrong_says_so(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        answer = browser.post(page_url("new-plan"), form({"model": "flat"}, code="pro", name="Pro", action="preview"))

        assert page_of(answer).preview is None

    def test_another_price_is_one_more_form(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        editor = page_of(browser.post(page_url("new-plan"), form(FEE, code="pro", action="add"))).editor

        assert len(editor.prices.forms) == 3
        assert 'value="Base fee"' in text_of(browser.post(page_url("new-plan"), form(FEE, action="add")))

    def test_draft_is_changed_and_activated(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        browser.post(page_url("new-plan"), form(FEE, TIERS, code="pro", name="Pro", action="draft"))
        edit = page_url("plans/pro/versions/1/edit")

        shown = text_of(browser.get(edit))
        assert "beyond: 0.5 + 20" in shown
        assert "region = us | eu" in shown
        browser.post(edit, form(FEE | {"amount": "100"}, action="draft"))
        browser.post(page_url("plans/pro/versions/1/activate"))

        version = PlanVersion.objects.for_organization(shop.organization).get()
        assert (version.state, [price.amount for price in version.prices.all()]) == ("active", [100])
        assert browser.post(edit, form(FEE, action="draft")).status_code == 409

    def test_new_version_begins_as_the_current_one(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        shop.plan("pro", written("flat", 4900, name="Base fee"))

        assert 'value="4900"' in text_of(browser.get(page_url("plans/pro/new-version")))
        answer = browser.post(page_url("plans/pro/new-version"), form(FEE | {"amount": "5900"}, action="activate"))

        assert answer.headers["Location"] == page_url("plans/pro/?version=2")
        assert "59.00\u00a0USD" in text_of(browser.get(page_url("plans/pro/")))


class TestPlans:
    def test_are_listed_and_shown(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        assert "Nothing is sold yet" in text_of(browser.get(page_url("plans/")))
        shop.plan("pro", written("per_unit", "0.1", metric="calls", included_quantity=1000), is_default=True)
        shop.plan("draft", is_active=False)

        [draft, pro] = page_of(browser.get(page_url("plans/"))).rows

        assert (draft.version, pro.version, pro.is_default) == ("", "v1", True)
        assert pro.prices == ["calls: 0.001\u00a0USD per call, beyond 1\u202f000 included"]
        # Half as far again as what is included are 1 500, of which a third is 500 and all are 1 500.
        assert [
            page_of(browser.get(page_url(f"plans/pro/?at={at}"))).preview.total for at in ("0", "100", "999", "x")
        ] == ["0.00\u00a0USD", "0.50\u00a0USD", "0.50\u00a0USD", "0.00\u00a0USD"]
        for path in ("plans/none/", "plans/pro/?version=9", "plans/pro/?version=x"):
            assert browser.get(page_url(path)).status_code == 404

    def test_are_archived_and_made_the_default(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        shop.plan("pro")

        browser.post(page_url("plans/pro/make-default"))
        assert page_of(browser.get(page_url("plans/"))).rows[0].is_default
        browser.post(page_url("plans/pro/archive"))
        [row] = page_of(browser.get(page_url("plans/"))).rows
        assert (row.is_default, row.is_archived) == (False, True)

    def test_viewers_look_and_developers_do_not(
        self, viewer: Client, page_url: PageUrl, shop: Seller, client_for: Callable[[User], Client]
    ) -> None:
        shop.plan("pro")
        shop.customer("acme")
        developer = factories.make_user()
        factories.make_membership(organization=shop.organization, user=developer, role=Role.DEVELOPER)

        assert "New version" not in text_of(viewer.get(page_url("plans/pro/")))
        assert viewer.post(page_url("plans/pro/archive")).status_code == 403
        assert viewer.get(page_url("new-plan")).status_code == 403
        client = client_for(developer)
        assert client.get(page_url("plans/")).status_code == 403
        assert "/plans/" not in text_of(client.get(page_url("metrics/calls/")))


class TestCustomer:
    def card(self, browser: Client, url: str) -> Any:
        [card] = page_of(browser.get(url)).cards
        return card

    def test_subscribes_spends_changes_and_ends(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        customer = shop.customer("acme")
        url = page_url(f"customers/{customer.pk}/billing")
        assert "There is no plan to subscribe to" in text_of(browser.get(url))
        shop.plan("pro", written("flat", 4900), written("per_unit", 2, metric="calls", included_quantity=10))
        shop.plan("max", written("flat", 9900))
        start = (shop.now - timedelta(days=10)).date()

        assert (
            browser.post(url, {"plan": "pro", "start": start.isoformat(), "anchor_day": ""}).headers["Location"] == url
        )
        shop.use("acme", "calls", 25, shop.now - timedelta(hours=2), region="us")

        card = self.card(browser, url)
        assert (card.plan, card.status, card.spend.total) == ("Pro", "active", "49.30\u00a0USD")
        fee, calls = card.spend.lines
        assert (fee.projected, calls.amount) == ("49.00\u00a0USD", "0.30\u00a0USD")
        assert [(step.text, step.amount) for step in calls.steps] == [
            ("10 included", "0.00\u00a0USD"),
            ("15 at 0.02\u00a0USD", "0.30\u00a0USD"),
        ]
        assert card.spend.projected
        assert (card.chart.title, sum(card.chart.lines[0].values)) == ("Cost by day, USD", Decimal("49.30"))
        assert card.chart.lines[0].values[0] == 49

        made = Subscription.objects.for_organization(shop.organization).get()
        browser.post(page_url(f"subscriptions/{made.pk}/change-plan"), {"plan": "max", "when": "period_end"})
        assert self.card(browser, url).change.startswith("Max v1 from ")
        browser.post(page_url(f"subscriptions/{made.pk}/change-plan"), {"plan": "max", "when": "now"})
        # What was used under the former plan stays charged, and of both fees a part.
        assert len(self.card(browser, url).spend.lines) == 3
        browser.post(page_url(f"subscriptions/{made.pk}/pause"))
        paused = self.card(browser, url)
        assert (paused.status, paused.can_change, paused.pause[:13]) == ("paused", True, "Paused since ")
        browser.post(page_url(f"subscriptions/{made.pk}/cancel"), {"when": "now"})
        ended = self.card(browser, url)
        assert (ended.status, ended.can_change, ended.chart) == ("ended", False, None)

    def test_refusals_stand_in_the_form(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        shop.plan("pro")
        url = page_url(f"customers/{shop.customer('acme').pk}/billing")

        for sent, field in (
            ({"plan": "none"}, "plan"),
            ({"plan": "pro", "anchor_day": "32"}, "anchor_day"),
            ({"plan": "pro", "start": "2025-02-30"}, "start"),
            ({"plan": "pro", "start": "9999-01-01"}, "start"),
            ({"plan": "pro", "start": "2099-01-01"}, "start"),
        ):
            assert set(page_of(browser.post(url, sent)).form.errors) == {field}, sent
        assert not Subscription.objects.for_organization(shop.organization).exists()

    def test_usage_without_a_price_is_told(self, browser: Client, page_url: PageUrl, shop: Seller) -> None:
        shop.plan("pro", written("per_unit", 1, metric="calls", filters={"region": ["us"]}))
        made = shop.subscribe("acme", "pro", start=shop.now - timedelta(days=1))
        shop.use("acme", "calls", 1, shop.now - timedelta(hours=1), region="eu")

        shown = text_of(browser.get(page_url(f"customers/{made.customer_id}/billing")))

        assert "Some usage has no price: calls" in shown
