"""What invoices come to beside usage: commitments, credits, taxes; who says the same; what is not kept any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client

from accounts.models import AuditEntry, User
from billing.domain.invoices import InvoiceContent
from billing.domain.periods import BillingPeriod as Span
from billing.models import (
    BillingPeriod,
    BillingProfile,
    CreditGrant,
    GrantKind,
    Invoice,
    InvoiceKind,
    InvoiceLine,
    InvoiceRun,
    Subscription,
)
from billing.queries import find_unbilled_from, invoicing
from billing.queries.billing_usage import get_billing_usage
from billing.queries.charges import list_charges
from billing.queries.invoicing import draft_content
from billing.queries.preview import preview_month
from billing.queries.spend import get_period_spend
from billing.services.commitments import create_commitment
from billing.services.corrections import void_invoice
from billing.services.credits import expire_grants, grant_credits
from billing.services.invoice_rows import make_invoice
from billing.services.invoicing import finalise_leftovers
from billing.services.tax_rates import TaxRateDefinition, create_tax_rate
from metering.models import Horizon
from metering.services.erasure import erase_customer
from metering.services.retention import prune_organization
from tests.api.conftest import Api
from tests.billing.auditor import audit, settings_of
from tests.billing.seller import Seller, written
from tests.billing.test_invoicing import send, utc
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db(transaction=True)


def commit(subscription: Subscription, amount: int, start: datetime, periods: int, *, recurs: bool = False) -> None:
    create_commitment(
        subscription=subscription,
        amount_minor=amount,
        starts_at=start,
        period_count=periods,
        is_recurring=recurs,
        actor="test",
        now=start,
    )


def charged(seller: Seller, *months: int) -> int:
    """Return what final invoices charge of periods that begin in some months of 2026."""
    rows = InvoiceLine.objects.for_organization(seller.organization).filter(invoice__state="finalised")
    return sum(line.amount_minor for line in rows.select_related("period") if line.period.starts_at.month in months)


class TestCommitment:
    def test_is_charged_up_to_with_the_last_period_and_holds_whatever_comes_late(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "pro", start=utc(2026, 3, 1))
        commit(made, 10_000, utc(2026, 3, 1), 3, recurs=True)
        for month, value in ((3, 2000), (4, 3000), (5, 1000)):
            seller.use("acme", "calls", value, utc(2026, month, 10))

        *_, may = seller.run(utc(2026, 6, 3))
        assert seller.lines(may) == [("usage", 1000, 1000), ("true_up", 1, 4000)]

        # What comes late eats up the true-up first: nothing in sum, then what is beyond the commitment.
        seller.use("acme", "calls", 500, utc(2026, 4, 11))
        *_, june = seller.run(utc(2026, 7, 3))
        assert seller.lines(june) == [("usage", 0, 0), ("adjustment", 1, 500), ("adjustment", 1, -500)]
        assert charged(seller, 3, 4, 5) == 10_000
        seller.use("acme", "calls", 5000, utc(2026, 5, 11))
        *_, july = seller.run(utc(2026, 8, 3))
        assert seller.lines(july) == [("usage", 0, 0), ("adjustment", 1, 1500)]
        assert charged(seller, 3, 4, 5) == 11_500
        # The next term, of which nothing was used.
        *_, august = seller.run(utc(2026, 9, 3))
        assert seller.lines(august) == [("usage", 0, 0), ("true_up", 1, 10_000)]
        audit(seller.organization)
        assert charged(seller, 6, 7, 8) == 10_000

    def test_counts_what_was_billed_of_periods_that_are_adjusted_no_more(self, seller: Seller) -> None:
        settings_of(seller.organization, adjustment_days=20)
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = seller.subscribe("acme", "pro", start=utc(2026, 7, 1))
        commit(made, 5000, utc(2026, 7, 1), 2)
        seller.use("acme", "calls", 1000, utc(2026, 7, 10))
        seller.use("acme", "calls", 2000, utc(2026, 8, 10))
        seller.run(utc(2026, 8, 3))
        seller.use("acme", "calls", 700, utc(2026, 7, 11))

        *_, august = seller.run(utc(2026, 9, 3))

        assert seller.lines(august) == [("usage", 2000, 2000), ("true_up", 1, 2000)]
        assert charged(seller, 7, 8) == 5000
        audit(seller.organization)

    def test_counts_and_charges_nothing_in_another_currency(self, seller: Seller) -> None:
        seller.plan("usd", written("flat", 100))
        seller.plan("eur", written("flat", 70), currency="EUR")
        made = seller.subscribe("acme", "usd", start=utc(2026, 7, 1))
        commit(made, 5000, utc(2026, 7, 1), 1)
        commit(made, 9000, utc(2026, 8, 1), 2)
        seller.change(made, "eur", "period_end", at=utc(2026, 8, 10))

        july, august, september = seller.run(utc(2026, 10, 3))

        assert [(each.currency, seller.lines(each)[1:]) for each in (july, august, september)] == [
            ("USD", [("true_up", 1, 4900)]),
            ("USD", []),
            ("EUR", []),
        ]
        audit(seller.organization)


class TestCredits:
    def test_pay_by_priority_until_they_are_used_or_expire(self, seller: Seller) -> None:
        seller.plan("pro", written("flat", 500))
        seller.subscribe("acme", "pro", start=utc(2026, 7, 1))

        def grant(amount: int, priority: int, *, since: datetime, until: datetime | None = None) -> CreditGrant:
            made = grant_credits(
                organization=seller.organization,
                customer=seller.customer("acme"),
                currency="USD",
                amount_minor=amount,
                kind=GrantKind.PREPAID,
                priority=priority,
                effective_at=since,
                expires_at=until,
                actor="test",
                now=since,
            )
            return made.grant

        first = grant(300, 1, since=utc(2026, 7, 5), until=utc(2026, 8, 2))
        prepaid = grant(600, 50, since=utc(2026, 7, 1))
        short = grant(90, 1, since=utc(2026, 7, 1), until=utc(2026, 7, 31))
        later = grant(1000, 0, since=utc(2026, 9, 15))

        july, august, september = seller.run(utc(2026, 10, 3))

        assert [each.credits_minor for each in (july, august, september)] == [500, 400, 500]
        assert expire_grants(organization=seller.organization, now=utc(2026, 10, 3)) == 1
        # 300 of the first and 200 of the prepaid one; what is left of that; 500 of the one for later.
        taken = {
            pk: sorted((entry.kind, entry.amount_minor) for entry in each.entries.all())
            for pk, each in ((each.pk, each) for each in (first, prepaid, short, later))
        }
        assert taken[first.pk] == [("applied", -300), ("granted", 300)]
        assert taken[prepaid.pk] == [("applied", -400), ("applied", -200), ("granted", 600)]
        assert taken[short.pk] == [("expired", -90), ("granted", 90)]
        assert taken[later.pk] == [("applied", -500), ("granted", 1000)]
        audit(seller.organization)


class TestTaxes:
    def test_are_those_of_the_place_and_day_and_go_back_with_an_adjustment(self, seller: Seller) -> None:
        def rate(code: str, percent: str, country: str = "") -> None:
            definition = TaxRateDefinition(code, code.upper(), Decimal(percent), country)
            create_tax_rate(organization=seller.organization, definition=definition, actor="test", now=seller.now)

        rate("de", "19", "DE")
        rate("de-extra", "0.5", "DE")
        rate("rest", "10")
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        for name, fields in {
            "de": {"country": "DE"},
            "free": {"country": "DE", "is_tax_exempt": True},
            "other": {},
        }.items():
            seller.subscribe(name, "pro", start=utc(2026, 8, 1))
            BillingProfile.objects.create(organization=seller.organization, customer=seller.customer(name), **fields)
            send(seller, name, name, 333, utc(2026, 8, 5))

        found = {each.customer.external_id: each for each in seller.run(utc(2026, 9, 3))}
        # 63.27 and 1.665; none; 33.3.
        assert [(name, found[name].tax_minor) for name in ("de", "free", "other")] == [
            ("de", 63 + 2),
            ("free", 0),
            ("other", 33),
        ]
        for name in ("de", "free", "other"):
            seller.void(name)
        september = seller.run(utc(2026, 10, 3))[3:]
        back = {each.customer.external_id: each for each in september}
        assert [(back[name].total_minor, back[name].due_minor) for name in ("de", "free", "other")] == [
            (-398, 0),
            (-333, 0),
            (-366, 0),
        ]
        audit(seller.organization)


def test_every_reader_says_the_same_of_a_period(seller: Seller) -> None:
    seller.define("calls", "sum", dimensions=["region"])
    seller.define("peak", "max", event_type="calls")
    seller.plan(
        "pro",
        written("flat", 4900),
        written("volume", metric="calls", tiers=[(100, "1.5"), (None, "0.7", 25)], filters={"region": ["eu"]}),
        written("graduated", metric="calls", tiers=[(10, 9), (None, "0.333")], included_quantity=3),
        written("package", 150, metric="peak", package_size=7, maximum=400),
    )
    made = seller.subscribe("acme", "pro", start=utc(2026, 9, 1))
    for day in range(1, 30):
        seller.use("acme", "calls", day, utc(2026, 9, day), region="eu" if day % 3 else "us")
    [draft] = seller.run(utc(2026, 10, 1, 1))
    now = utc(2026, 10, 1, 2)
    period = Span(utc(2026, 9, 1), utc(2026, 10, 1))

    spend = get_period_spend(subscription=made, period=period, now=now)
    content = draft_content(invoice=draft, now=now)
    preview = preview_month(
        organization=seller.organization,
        customer=made.customer,
        charges=list_charges(spend.version),
        currency="USD",
        month=(2026, 9),
        now=now,
    )
    usage = {
        code: get_billing_usage(
            organization=seller.organization, customer=made.customer, metric=metric, year=2026, month=9, now=now
        )
        for code, metric in seller.metrics.items()
    }
    [final] = seller.run(utc(2026, 10, 2))

    said = [(line.rated.quantity, line.rated.amount_minor) for line in spend.spend.lines]
    # 300 in the eu: 210 and 25. 135 in the us, 3 of them included: 90 and 122 thirds of a cent, nearly. The peak of 29
    # is five packages, of which no more than 400 is charged.
    assert said == [(1, 4900), (300, 235), (135, 131), (29, 400)]
    assert [(line.quantity, line.amount_minor) for line in content.lines] == said
    assert [(line.rated.quantity, line.rated.amount_minor) for line in preview.lines] == said
    assert [(quantity, amount) for _, quantity, amount in seller.lines(final)] == said
    by_usage = [
        (line.rated.quantity, line.rated.amount_minor) for code in usage for line in usage[code].periods[0].lines
    ]
    assert by_usage == said[1:]
    totals = (spend.spend.total_minor, content.total_minor, preview.total_minor, draft.total_minor)
    assert set(totals) == {final.total_minor}


class TestTooLarge:
    """An event may hold thirty digits; an amount is at most 9,223,372,036,854,775,807."""

    def test_amount_stops_nobody_else_and_its_period_says_why(
        self, seller: Seller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 100, metric="calls"))
        vat = TaxRateDefinition("vat", "VAT", Decimal(20), "AT")
        create_tax_rate(organization=seller.organization, definition=vat, actor="test", now=seller.now)
        most = 92_233_720_368_547_758
        for name, value in (("fits", most), ("large", most + 1), ("taxed", most), ("zen", 7)):
            seller.subscribe(name, "pro", start=utc(2026, 9, 1))
            send(seller, name, name, value, utc(2026, 9, 2))
        BillingProfile.objects.create(organization=seller.organization, customer=seller.customer("taxed"), country="AT")
        problems = BillingPeriod.objects.for_organization(seller.organization).exclude(problem="").order_by("pk")

        def said() -> dict[str, str]:
            return {each.subscription.customer.external_id: each.problem[:30] for each in problems.all()}

        drafts = seller.run(utc(2026, 10, 1, 1))
        found = seller.run(utc(2026, 10, 3))

        totals = {"fits": 9_223_372_036_854_775_800, "zen": 700}
        assert {each.customer.external_id: each.total_minor for each in drafts} == totals
        assert {each.customer.external_id: each.total_minor for each in found if each.number} == totals
        assert said() == {name: "The invoice comes to more than" for name in ("large", "taxed")}
        # Whatever else a column refuses stops nobody either.
        monkeypatch.setattr(invoicing, "MAX_MINOR", 10**40)
        seller.run(utc(2026, 10, 3, 1))
        assert said() == {name: "It cannot be stored: bigint ou" for name in ("large", "taxed")}
        monkeypatch.undo()
        for name in ("large", "taxed"):
            seller.void(name)
        assert [each.total_minor for each in seller.run(utc(2026, 10, 4))[2:]] == [0, 0]
        assert said() == {}
        audit(seller.organization)

    def test_adjustment_of_an_ended_subscription_stops_no_other(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 100, metric="calls"))
        ended = [seller.subscribe(name, "pro", start=utc(2026, 9, 1)) for name in ("large", "other")]
        for each in ended:
            seller.cancel(each, "period_end", at=utc(2026, 9, 20))
        seller.run(utc(2026, 10, 3))
        send(seller, "huge", "large", 10**20, utc(2026, 9, 2))
        send(seller, "small", "other", 3, utc(2026, 9, 2))

        [adjustment] = finalise_leftovers(
            organization=seller.organization,
            subscription_ids=[each.pk for each in ended],
            now=utc(2026, 10, 4),
        )

        problems = BillingPeriod.objects.for_organization(seller.organization).exclude(problem="")
        assert (adjustment.number, adjustment.total_minor) == ("INV-000003", 300)
        assert [each.subscription.customer.external_id for each in problems.all()] == ["large"]
        seller.void("huge")
        assert len(seller.run(utc(2026, 10, 5))) == 3
        assert not problems.exists()

    def test_amount_is_told_as_it_is_and_refused_in_words(self, live_seller: Seller, api: Api) -> None:
        seller = live_seller
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", "9" * 28, metric="calls"))
        start = seller.now - timedelta(days=32)
        made = seller.subscribe("acme", "pro", start=start)
        settings_of(seller.organization, grace_hours=720)
        [draft] = seller.run(seller.now)
        for at in (start, seller.now):
            seller.use("acme", "calls", "9" * 30, at)

        spend = api.get(f"/v1/subscriptions/{made.pk}/spend")

        # (10^28 - 1) times (10^30 - 1).
        assert spend["total_minor"] == "9" * 27 + "8" + "99" + "0" * 27 + "1"
        assert api.refuse("POST", f"/v1/invoices/{draft.pk}/finalize")[:2] == (409, "amount_too_large")
        assert api.refuse("GET", f"/v1/invoices/{draft.pk}")[:2] == (409, "amount_too_large")
        assert api.refuse("POST", "/v1/invoices/preview", {"subscription": str(made.pk)})[:2] == (
            409,
            "amount_too_large",
        )

    def test_name_of_a_line_is_cut_at_that_of_the_plan(self, seller: Seller) -> None:
        seller.plan("long", written("flat", 300, name="p" * 200), name="L" * 200)
        seller.plan("other", written("flat", 300))
        made = seller.subscribe("acme", "long", start=utc(2026, 9, 1))
        seller.change(made, "other", "now", at=utc(2026, 9, 11))

        [invoice] = seller.run(utc(2026, 10, 3))

        names = list(invoice.lines.order_by("position").values_list("name", flat=True))
        assert names == ["L" * 97 + "…: " + "p" * 200, "Other: Plan fee"]


class TestNotKept:
    """Raw events of 20 days are kept, and subscriptions of customers who used something long before."""

    STARTS = {"even": utc(2026, 9, 1), "odd": utc(2026, 9, 1, 10, 17, 33), "other": utc(2026, 9, 1)}

    @pytest.fixture
    def used(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        for name in self.STARTS:
            seller.customer(name)
            seller.use(name, "calls", 5, utc(2026, 9, 1, 10, 17, 40))
            seller.use(name, "calls", 3, utc(2026, 9, 1, 10, 17, 20))
        seller.roll_up()
        seller.organization.raw_retention_days = 20
        seller.organization.save()

    def subscribe(self, seller: Seller) -> None:
        for name, start in self.STARTS.items():
            seller.subscribe(name, "pro", start=start)

    def prune(self, seller: Seller, at: datetime) -> datetime | None:
        """Let go, and return what is kept from when on."""
        prune_organization(organization=seller.organization, now=at)
        return Horizon.objects.for_organization(seller.organization).get().raw_from

    @pytest.mark.usefixtures("used")
    def test_what_is_not_billed_yet_is(self, seller: Seller) -> None:
        self.subscribe(seller)

        assert self.prune(seller, seller.now) == utc(2026, 8, 31)

        # The first three seconds are before the first period of one of them.
        found = seller.run(utc(2026, 10, 3))
        assert sorted((each.customer.external_id, each.total_minor) for each in found) == [
            ("even", 8),
            ("odd", 5),
            ("other", 8),
        ]
        # October goes on being unbilled, and September goes.
        assert self.prune(seller, seller.now) == utc(2026, 9, 30)
        seller.run(utc(2026, 11, 3))
        assert self.prune(seller, seller.now) == utc(2026, 10, 31)
        audit(seller.organization)

    @pytest.mark.usefixtures("used")
    def test_stops_nobody_else_and_is_tried_again(self, seller: Seller) -> None:
        """What was let go before a subscription began in that time is gone."""
        assert self.prune(seller, seller.now) == utc(2026, 10, 31)
        self.subscribe(seller)

        found = seller.run(utc(2026, 10, 3))

        assert sorted((each.customer.external_id, each.total_minor) for each in found) == [("even", 8), ("other", 8)]
        [problem] = BillingPeriod.objects.for_organization(seller.organization).exclude(problem="")
        assert (problem.subscription.customer.external_id, problem.state) == ("odd", "grace")
        assert "no longer kept" in problem.problem
        seller.run(utc(2026, 10, 4))
        runs = InvoiceRun.objects.for_organization(seller.organization).order_by("pk")
        assert [(run.finalised, run.failed, run.finished_at is not None) for run in runs] == [
            (2, 1, True),
            (0, 1, True),
        ]
        audit(seller.organization)
        # It keeps nothing of what others need no more.
        seller.run(utc(2026, 12, 3))
        assert find_unbilled_from(seller.organization) == utc(2026, 9, 1, 10, 17, 33)
        assert self.prune(seller, utc(2027, 1, 20)) == utc(2026, 11, 30)

    def test_is_waived_so_that_the_periods_after_it_have_their_turn(
        self, seller: Seller, api: Api, client_for: Callable[[User], Client], alice: User
    ) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("flat", 100), written("per_unit", 1, metric="calls"))
        for name in ("api", "page"):
            seller.use(name, "calls", 5, utc(2026, 8, 1, 10, 17, 40))
        seller.roll_up()
        seller.organization.raw_retention_days = 20
        seller.organization.save()
        prune_organization(organization=seller.organization, now=seller.now)
        for name in ("api", "page"):
            seller.subscribe(name, "pro", start=utc(2026, 8, 1, 10, 17, 33))
        assert seller.run(utc(2026, 11, 3)) == []
        stuck = BillingPeriod.objects.for_organization(seller.organization).exclude(problem="").order_by("pk")
        for each in stuck:
            # As of when it could still be computed.
            content = InvoiceContent("USD", [], [], 0, 0, 0, 0, 0, {}, seller.now)
            make_invoice(InvoiceKind.PERIOD, each, content, seller.now).save()

        by_api, by_page = api.get("/v1/billing/problems")["data"]
        assert (by_api["customer"], by_page["customer"], by_api["state"]) == ("api", "page", "grace")
        assert "no longer kept" in by_api["problem"]
        way = f"/v1/billing/periods/{by_api['id']}/waive"
        assert api.refuse("POST", way, {"reason": " "})[0] == 422
        waived = api.post(way, {"reason": "Gone."})
        assert (waived["state"], waived["is_waived"], waived["problem"]) == ("finalised", True, "")
        assert api.refuse("POST", way, {"reason": "Gone."})[:2] == (409, "not_waivable")
        browser, here = client_for(alice), f"/o/{seller.organization.pk}"
        [shown] = page_of(browser.get(f"{here}/invoices/")).problems
        assert shown.period_id == int(by_page["id"])
        answer = browser.post(f"{here}/billing-periods/{shown.period_id}/waive", {"reason": "Gone too."}, follow=True)
        assert "The billing period is waived" in text_of(answer)
        assert page_of(answer).problems == []

        # August is never charged, September and October are.
        found = seller.run(utc(2026, 11, 4))
        assert sorted((each.customer.external_id, each.period.starts_at.month, each.total_minor) for each in found) == [
            ("api", 9, 100),
            ("api", 10, 100),
            ("page", 9, 100),
            ("page", 10, 100),
        ]
        entries = AuditEntry.objects.filter(organization=seller.organization, action="billing_period.waived")
        assert [entry.details["reason"] for entry in entries.order_by("pk")] == ["Gone.", "Gone too."]
        audit(seller.organization)

    def test_of_an_ended_subscription_is_looked_at_once_and_stays_as_it_was_billed(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        made = seller.subscribe("odd", "pro", start=utc(2026, 3, 1, 10, 17, 33))
        seller.cancel(made, "period_end", at=utc(2026, 3, 20))
        seller.run(utc(2026, 4, 3))
        seller.use("odd", "calls", 5, utc(2026, 3, 1, 10, 17, 40))
        _, late = seller.run(utc(2026, 4, 5))
        seller.roll_up()
        seller.organization.raw_retention_days = 20
        seller.organization.save()
        prune_organization(organization=seller.organization, now=seller.now)
        void_invoice(invoice=late, reason="wrong", is_reissued=False, actor="test", now=seller.now)

        assert len(seller.run(seller.now)) == 2

        assert BillingPeriod.objects.for_organization(seller.organization).get().billed_quantities == []

    def test_of_an_erased_customer_is_not_adjusted_and_the_rest_is_charged(self, seller: Seller) -> None:
        seller.define("calls", "sum")
        seller.plan("pro", written("per_unit", 1, metric="calls"))
        # The first period begins within an hour; of that hour an erasure leaves the total alone.
        seller.subscribe("odd", "pro", start=utc(2026, 9, 1, 10, 17, 33))
        seller.subscribe("even", "pro", start=utc(2026, 9, 1))
        for name in ("odd", "even"):
            seller.use(name, "calls", 5, utc(2026, 9, 1, 10, 17, 40))
            seller.use(name, "calls", 7, utc(2026, 10, 5))
        seller.run(utc(2026, 10, 3))
        ids = {name: seller.customer(name).pk for name in ("odd", "even")}
        for name in ("odd", "even"):
            erase_customer(organization=seller.organization, external_id=name, actor="test", now=seller.now)

        invoices = seller.run(utc(2026, 11, 3))

        assert {each.customer_id: seller.lines(each) for each in invoices[2:]} == {
            pk: [("usage", 7, 7)] for pk in ids.values()
        }
        assert Invoice.objects.for_organization(seller.organization).filter(number="").count() == 0
        audit(seller.organization)
