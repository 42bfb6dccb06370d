"""Simulations: past periods under other prices, against the engine asked one by one and against sums by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization, User
from billing.domain.periods import BillingPeriod
from billing.models import BillingPeriod as PeriodRow
from billing.models import Plan, PlanVersion
from billing.queries import get_period_spend, rate_period
from billing.queries.charges import list_charges
from billing.queries.simulation import Draft, SimulatedCustomer, SimulationTotals, iterate_simulation
from billing.services.periods import open_periods
from metering.services.erasure import erase_customer
from tests import factories
from tests.api.conftest import Api
from tests.billing.seller import Seller, written
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


SEPTEMBER, OCTOBER, NOVEMBER = utc(2026, 9, 1), utc(2026, 10, 1), utc(2026, 11, 1)
MONTHS = [BillingPeriod(SEPTEMBER, OCTOBER), BillingPeriod(OCTOBER, NOVEMBER)]
SPAN = {"from": "2026-09-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}


def draft_of(version: PlanVersion) -> Draft:
    return Draft(list_charges(version), version.currency)


def version_of(plan: Plan) -> PlanVersion:
    return PlanVersion.objects.for_organization(plan.organization_id).select_related("plan").get(plan=plan)


def simulate(seller: Seller, draft: Draft, *customers: str, **span: datetime) -> dict[str, SimulatedCustomer]:
    rows = iterate_simulation(
        organization=seller.organization,
        draft=draft,
        start=span.get("start", SEPTEMBER),
        end=span.get("end", NOVEMBER),
        now=seller.now,
        customers=customers or None,
    )
    return {row.customer.external_id: row for row in rows}


def amounts(rows: dict[str, SimulatedCustomer]) -> dict[str, tuple[int, int, int]]:
    return {name: (row.before_minor, row.after_minor, row.period_count) for name, row in rows.items()}


@pytest.fixture
def shop(seller: Seller) -> Seller:
    """Two plans of a sum with parts and of a maximum, and a default plan."""
    seller.define("calls", "sum", dimensions=["region"])
    seller.define("storage", "max")
    tiers = [(100, 10), (None, 1)]
    seller.plan(
        "pro",
        written("flat", 4900),
        written("per_unit", "0.5", metric="calls", filters={"region": ["us", "eu"]}, included_quantity=10),
        written("graduated", metric="calls", tiers=tiers),
        written("package", 300, metric="storage", package_size=50),
    )
    seller.plan("basic", written("per_unit", 3, metric="calls"))
    seller.plan("free", written("volume", metric="calls", tiers=tiers), is_default=True)
    return seller


@pytest.fixture
def draft(shop: Seller) -> Draft:
    plan = shop.plan(
        "next",
        written("flat", 1000, name="Seat"),
        written("per_unit", 2, metric="calls", filters={"region": ["us"]}, included_quantity=20),
        written("per_unit", "1.5", metric="calls", maximum=400),
        written("per_unit", "10", metric="storage"),
        is_active=False,
    )
    return draft_of(version_of(plan))


class TestAmounts:
    def test_are_those_of_the_engine_for_every_customer_and_period(self, shop: Seller, draft: Draft) -> None:
        plans = {"ann": "pro", "bea": "pro", "cem": "basic", "dot": "pro", "eve": ""}
        subscriptions = [shop.subscribe(name, plan, start=SEPTEMBER) for name, plan in plans.items() if plan]
        for place, name in enumerate(plans, start=1):
            for month in (9, 10):
                shop.use(name, "calls", 40 * place + month, utc(2026, month, 10), region="us")
                shop.use(name, "calls", 7 * place, utc(2026, month, 11), region="ap")
                shop.use(name, "storage", 30 * place, utc(2026, month, 12))
        shop.roll_up()

        found = simulate(shop, draft)

        now, organization = shop.now, shop.organization
        for each in subscriptions:
            spent = [get_period_spend(subscription=each, period=month, now=now).spend.total_minor for month in MONTHS]
            assert found[each.customer.external_id].before_minor == sum(spent) > 0
        free = list_charges(PlanVersion.objects.for_organization(organization).get(plan__code="free"))
        for name in plans:
            customer = shop.customer(name)

            def rated(charges: Any, of: Any = customer) -> int:
                return sum(
                    rate_period(
                        organization=organization, customer=of, charges=charges, currency="USD", period=month, now=now
                    ).total_minor
                    for month in MONTHS
                )

            assert (found[name].after_minor, found[name].period_count) == (rated(draft.charges), 2)
            if name == "eve":
                assert found[name].before_minor == rated(free) > 0
        # Ann's by hand, two months: 1000, 29 or 30 of 49 or 50 from the US at 2, 7 others at 1.5, 30 GB at 10.
        assert found["ann"].after_minor == (1000 + 58 + 11 + 300) + (1000 + 60 + 11 + 300)

    def test_are_prorated_paused_and_in_trial_as_they_were_but_cut_by_no_change_of_the_plan(self, shop: Seller) -> None:
        """Of 31 days in October 16 from the 16th on, the tenth of them in two plans; the trial is free in both."""
        draft = draft_of(
            version_of(
                shop.plan(
                    "next", written("flat", 3100), written("graduated", metric="calls", tiers=[(9, 10), (None, 1)])
                )
            )
        )
        short = shop.subscribe("short", "pro", start=utc(2026, 10, 16), anchor_day=1)
        shop.change(short, "basic", "now", at=utc(2026, 10, 26))
        shop.subscribe("trial", "basic", start=OCTOBER, anchor_day=1, trial_days=31)
        for name in ("short", "trial"):
            shop.use(name, "calls", 6, utc(2026, 10, 17))
            shop.use(name, "calls", 5, utc(2026, 10, 27))

        found = simulate(shop, draft, start=OCTOBER)

        # Before: 4900 for ten days of 31, and 6 calls by the tiers at 10; then 5 at 3.
        prorated = round(4900 * 25 / 31) - round(4900 * 15 / 31)
        assert amounts(found) == {
            "short": (prorated + 60 + 15, 1600 + 9 * 10 + 2, 1),
            "trial": (0, 0, 1),
        }

    def test_of_other_currencies_are_told_and_not_compared(self, shop: Seller, draft: Draft) -> None:
        shop.plan("euro", written("flat", 700), currency="EUR")
        shop.subscribe("both", "euro", start=SEPTEMBER)
        shop.subscribe("both", "basic", start=OCTOBER)
        shop.subscribe("euros", "euro", start=SEPTEMBER)
        shop.use("both", "calls", 5, utc(2026, 10, 2))

        found = simulate(shop, draft)

        assert amounts(found) == {"both": (15, 1000 + 8, 1), "euros": (0, 0, 0)}
        others = {name: [vars_of(each) for each in row.uncompared.values()] for name, row in found.items()}
        assert others == {"both": [("EUR", 1400, 2)], "euros": [("EUR", 1400, 2)]}
        totals = SimulationTotals()
        for row in found.values():
            totals.add(row)
        assert (totals.customer_count, totals.more_count, totals.less_count, totals.same_count) == (2, 1, 0, 0)
        assert [vars_of(each) for each in totals.uncompared.values()] == [("EUR", 2800, 4)]

    def test_are_of_periods_that_begin_in_the_range_and_have_begun(self, shop: Seller, draft: Draft) -> None:
        shop.subscribe("mid", "basic", start=utc(2026, 8, 15))
        ended = shop.subscribe("ended", "basic", start=utc(2026, 7, 1), anchor_day=1)
        shop.cancel(ended, "now", at=utc(2026, 8, 20))
        shop.subscribe("coming", "basic", start=utc(2026, 12, 1))
        shop.customer("idle")

        found = simulate(shop, draft, start=utc(2026, 8, 16), end=utc(2027, 1, 1))

        # 15 September, October and November; who has no subscription has three months under the default plan.
        assert {name: row.period_count for name, row in found.items()} == {"mid": 3, "idle": 3}
        assert set(simulate(shop, draft, "mid")) == {"mid"}
        assert simulate(shop, draft, start=utc(2030, 1, 1), end=utc(2030, 2, 1)) == {}

    def test_of_usage_that_is_not_kept_are_left_out_alone(self, shop: Seller, draft: Draft) -> None:
        """Nobody knows any more what somebody erased used in the first half of an hour."""
        shop.subscribe("kept", "basic", start=SEPTEMBER)
        shop.subscribe("gone", "basic", start=utc(2026, 9, 2, 10, 30), anchor_day=1)
        for name in ("kept", "gone"):
            shop.use(name, "calls", 5, utc(2026, 9, 2, 10, 45))
        shop.roll_up()
        erase_customer(organization=shop.organization, external_id="gone", actor="test", now=shop.now)

        kept, gone = simulate(shop, draft).values()

        assert (kept.before_minor, kept.after_minor, kept.period_count, kept.unknown_count) == (15, 2008, 2, 0)
        assert (gone.before_minor, gone.after_minor, gone.period_count, gone.unknown_count) == (0, 1000, 1, 1)

    def test_cost_reads_by_metric_and_span_however_many_customers_there_are(self, shop: Seller, draft: Draft) -> None:
        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                simulate(shop, draft)
            return len(captured)

        shop.subscribe("first", "pro", start=SEPTEMBER)
        before = queries()
        for place in range(12):
            shop.subscribe(f"more-{place}", "pro", start=SEPTEMBER)

        assert queries() == before


def vars_of(each: Any) -> tuple[str, int, int]:
    return each.currency, each.before_minor, each.period_count


class TestApi:
    @pytest.fixture
    def live(self, live_seller: Seller) -> Seller:
        live_seller.define("calls", "sum")
        live_seller.plan("pro", written("flat", 1000), written("per_unit", 2, metric="calls"))
        for place, name in enumerate("abcde"):
            live_seller.subscribe(name, "pro", start=SEPTEMBER)
            live_seller.use(name, "calls", 100 * place, utc(2026, 10, 3))
        return live_seller

    PRICES = [{"model": "flat", "amount": 900}, {"metric": "calls", "model": "per_unit", "amount": 3}]
    PLAN = {"currency": "USD", "prices": PRICES}

    def test_answers_pages_of_customers_and_totals_of_all(self, api: Api, live: Seller) -> None:
        """Two months each: 2000 before, 1800 after, and 2 or 3 for each call."""
        body = {"plan": self.PLAN, **SPAN, "limit": 2}
        pages, cursor = [], None
        while True:
            answer = api.post("/v1/billing/simulate", body | ({"cursor": cursor} if cursor else {}))
            pages.append([row["customer"] for row in answer["data"]])
            assert answer["totals"] == {
                "customers": 5,
                "periods": 10,
                "before_minor": "12000",
                "after_minor": "12000",
                "difference_minor": "0",
                "pay_more": 2,
                "pay_less": 2,
                "pay_the_same": 1,
                "not_compared": [],
                "periods_not_kept": 0,
            }
            cursor = answer["next_cursor"]
            if cursor is None:
                break
        assert pages == [["a", "b"], ["c", "d"], ["e"]]
        assert answer["data"] == [
            {
                "customer": "e",
                "currency": "USD",
                "periods": 2,
                "before_minor": "2800",
                "after_minor": "3000",
                "difference_minor": "200",
                "not_compared": [],
                "periods_not_kept": 0,
            }
        ]

    def test_takes_a_stored_version_and_named_customers(self, api: Api, live: Seller) -> None:
        pro = Plan.objects.for_organization(live.organization).get(code="pro")
        live.version(pro, written("flat", 5), is_active=False)
        body = {**SPAN, "customers": ["b", "c"]}

        stored = api.post("/v1/billing/simulate", body | {"plan": {"code": "pro", "version": 2}})
        current = api.post("/v1/billing/simulate", body | {"plan": {"code": "pro"}})

        assert [row["after_minor"] for row in stored["data"]] == ["10", "10"]
        assert [row["difference_minor"] for row in current["data"]] == ["0", "0"]

    def test_refuses_what_has_no_meaning_or_is_too_much(
        self, api: Api, live: Seller, other_org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        factories.make_customer(organization=other_org, external_id="theirs")
        path, whole = "/v1/billing/simulate", {"plan": self.PLAN, **SPAN}
        unknown = [{"metric": "nothing", "model": "per_unit", "amount": 1}]
        cases: list[tuple[dict[str, Any], tuple[int, str, list[str]]]] = [
            ({"from": SPAN["to"]}, (422, "invalid_range", ["from"])),
            ({"from": "2025-10-30T23:59:59Z"}, (422, "range_too_long", ["to"])),
            ({"customers": ["a", "theirs"]}, (422, "invalid", ["customers[1]"])),
            ({"customers": []}, (422, "invalid", ["customers"])),
            ({"cursor": "nonsense"}, (422, "invalid_cursor", ["cursor"])),
            ({"plan": {"currency": "USD", "prices": unknown}}, (422, "invalid", ["plan.prices[0].metric"])),
            ({"plan": {"code": "pro", "prices": []}}, (422, "invalid", ["plan.prices"])),
            ({"plan": 5}, (422, "invalid", ["plan"])),
            ({"plan": {"code": "absent"}}, (404, "not_found", [])),
            ({"plan": {"code": "pro", "version": 9}}, (404, "not_found", [])),
        ]
        for changes, refusal in cases:
            assert api.refuse("POST", path, whole | changes) == refusal, changes
        far = whole | {"from": "9999-12-30T00:00:00Z", "to": "9999-12-31T23:59:59Z"}
        assert api.post(path, far)["totals"]["customers"] == 0
        monkeypatch.setattr("billing.queries.simulation.MAX_CUSTOMERS", 4)
        assert api.refuse("POST", path, whole) == (422, "too_many_customers", ["customers"])

    def test_is_not_for_bound_keys_nor_for_those_who_may_not_see_prices(
        self, live: Seller, api_with: Callable[..., Api]
    ) -> None:
        whole = {"plan": self.PLAN, **SPAN}
        bound = api_with("admin", customer=live.customer("a"))
        assert bound.refuse("POST", "/v1/billing/simulate", whole)[:2] == (403, "bound_key")
        assert api_with("usage:read").refuse("POST", "/v1/billing/simulate", whole)[:2] == (403, "missing_scope")


class TestPage:
    @pytest.fixture
    def browser(self, client_for: Callable[[User], Client], alice: User) -> Client:
        return client_for(alice)

    def test_shows_the_largest_differences_first_and_all_as_csv(
        self, browser: Client, live_seller: Seller, org: Organization
    ) -> None:
        last_month = live_seller.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        last_month = last_month.replace(
            year=last_month.year - (last_month.month == 1), month=(last_month.month - 2) % 12 + 1
        )
        live_seller.define("calls", "sum")
        live_seller.plan("pro", written("per_unit", 10, metric="calls"))
        for name, calls in (("small", 100), ("none", 0), ("large", 900), ("=sum", 10)):
            live_seller.subscribe(name, "pro", start=last_month, anchor_day=1)
            live_seller.use(name, "calls", calls, last_month)
        draft = version_of(live_seller.plan("next", written("per_unit", 5, metric="calls"), is_active=False))
        page = f"/o/{org.pk}/simulator/"

        assert "Try a price before you charge it" in text_of(browser.get(page))
        answer = browser.get(page, {"version": draft.pk})

        results = page_of(answer).results
        assert (results.before, results.after) == ("101.00\u00a0USD", "50.50\u00a0USD")
        assert (results.difference, results.percent) == ("\u221250.50\u00a0USD", "\u221250\u202f%")
        assert [row.external_id for row in results.rows] == ["large", "small", "=sum", "none"]
        assert (results.totals.less_count, results.totals.same_count) == (3, 1)
        # Steps of 10 USD: 45 less is in the fifth, 5 and 0.50 less in the first, and none at all apart.
        less, same, more = results.chart.lines
        assert (less.values, same.values) == ([1, 0, 0, 0, 2, 0], [0, 0, 0, 0, 0, 1])
        assert not any(more.values)
        table = browser.get(results.csv_url)
        rows = list(csv.DictReader(io.StringIO(b"".join(table.streaming_content).decode())))
        assert [(row["customer"], row["difference_minor"]) for row in rows] == [
            ("small", "-500"),
            ("none", "0"),
            ("large", "-4500"),
            ("'=sum", "-50"),
        ]

    def test_asks_again_where_the_address_is_not_clear(
        self, browser: Client, live_seller: Seller, org: Organization
    ) -> None:
        page = f"/o/{org.pk}/simulator/"
        assert "There is no plan to try" in text_of(browser.get(page))
        version = version_of(live_seller.plan("pro", written("flat", 1)))
        assert "Nothing to compare" in text_of(browser.get(page, {"version": version.pk}))
        for query in ({"version": "x"}, {"version": version.pk, "first": "1999-01"}, {"version": 0}):
            assert page_of(browser.get(page, query)).problem
            assert browser.get(f"{page}csv", query).status_code == 422


class TestInvoicePreview:
    def test_says_what_the_invoice_would_and_writes_nothing(
        self, api: Api, live_seller: Seller, api_with: Callable[..., Api]
    ) -> None:
        """5000 and 3000 to the commitment, a tenth as tax, 1000 are paid already; written down or not yet."""
        live_seller.plan("pro", written("flat", 5000, name="Base fee"))
        made = live_seller.subscribe("acme", "pro")
        api.post("/v1/tax-rates", {"code": "vat", "name": "VAT", "percent": 10}, status=201)
        api.post("/v1/credits", {"customer": "acme", "currency": "USD", "amount_minor": 1000, "name": "Hi"}, status=201)
        api.post(f"/v1/subscriptions/{made.pk}/commitments", {"amount_minor": 8000, "period_count": 1}, status=201)
        body, path = {"subscription": str(made.pk)}, "/v1/invoices/preview"

        answer = api.post(path, body)

        assert {name: answer[name] for name in ("subtotal_minor", "tax_minor", "total_minor", "due_minor")} == {
            "subtotal_minor": "8000",
            "tax_minor": "800",
            "total_minor": "8800",
            "due_minor": "7800",
        }
        assert [(line["kind"], line["amount_minor"]) for line in answer["lines"]] == [
            ("fee", "5000"),
            ("true_up", "3000"),
        ]
        assert (answer["customer"], answer["period_state"], answer["credits_minor"]) == ("acme", "open", "1000")
        rows = PeriodRow.objects.for_organization(live_seller.organization)
        assert not rows.exists()
        open_periods(organization=live_seller.organization, now=live_seller.now)
        again = api.post(path, body)
        assert again | {"known_at": ""} == answer | {"known_at": ""}
        own = api_with("billing:read", customer=made.customer)
        assert own.post(path, body)["total_minor"] == "8800"
        other = api_with("billing:read", customer=live_seller.customer("zen"))
        assert other.refuse("POST", path, body)[0] == 404
        rows.update(state="finalised", grace_ends_at=live_seller.now)
        assert api.refuse("POST", path, body)[:2] == (409, "already_finalised")
        for wrong in ({"subscription": "x"}, {}, {"subscription": "9" * 20}):
            assert api.refuse("POST", path, wrong)[0] in {404, 422}
