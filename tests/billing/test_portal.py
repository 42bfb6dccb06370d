"""The customer portal: who gets in by which link, what is seen there, and that nothing of anybody else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core import signing
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEntry, Customer, Organization, User
from billing.models import Budget, InvoiceKind, Subscription
from billing.portal import LINK_SALT, SESSION_SALT, sign_link
from billing.services.portal_links import MAX_SECONDS
from billing.views.portal import REQUESTS_PER_MINUTE
from metering.services.erasure import erase_customer
from tests import factories
from tests.api.conftest import Api
from tests.billing.invoices import FEE, USAGE, Line, store_invoice
from tests.billing.seller import Seller, written
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db

COOKIE = settings.PORTAL_COOKIE_NAME


@dataclass(frozen=True)
class Visit:
    """A browser of nobody who is signed in."""

    client: Client

    def follow(self, url: str) -> Any:
        return self.client.get(urlsplit(url).path)

    def enter(self, customer: Customer) -> Client:
        """Follow a good link."""
        token = sign_link(customer, expires_at=timezone.now() + timedelta(hours=1))
        answer = self.follow(f"/portal/enter/{token}")
        assert (answer.status_code, answer["Location"]) == (302, "/portal/")
        return self.client


@pytest.fixture
def visit() -> Visit:
    return Visit(Client(enforce_csrf_checks=True))


@pytest.fixture
def acme(live_seller: Seller) -> Subscription:
    live_seller.define("calls", "sum", name="Calls", unit="call")
    live_seller.plan("pro", written("flat", 4900, name="Base fee"), written("per_unit", 2, metric="calls"))
    made = live_seller.subscribe("acme/ä", "pro", start=live_seller.now - timedelta(days=20))
    live_seller.use("acme/ä", "calls", 301, live_seller.now - timedelta(hours=2))
    return made


@pytest.fixture
def zen(live_seller: Seller, acme: Subscription) -> Subscription:
    """Somebody else's: nothing of it may ever be seen by acme."""
    made = live_seller.subscribe("zen-secret", "pro", start=live_seller.now - timedelta(days=20))
    live_seller.use("zen-secret", "calls", 987654, live_seller.now - timedelta(hours=2))
    return made


def link_path(customer: str) -> str:
    return f"/v1/billing/customers/{customer}/portal-link"


class TestLink:
    def test_leads_by_a_cookie_to_an_address_without_a_token(self, api: Api, acme: Subscription, visit: Visit) -> None:
        made = api.post(link_path("acme/%C3%A4"), {"expires_in_seconds": 120}, status=201)
        assert made["url"].startswith(f"{settings.PUBLIC_URL}/portal/enter/")

        entered = visit.follow(made["url"])

        assert (entered.status_code, entered["Location"]) == (302, "/portal/")
        assert entered["Referrer-Policy"] == "no-referrer"
        assert "no-store" in entered["Cache-Control"]
        cookie = entered.cookies[COOKIE]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/portal/")
        assert 100 < cookie["max-age"] <= 120
        shown = visit.client.get("/portal/")
        assert "Pro" in text_of(shown)
        assert "no-store" in shown["Cache-Control"]
        assert made["url"].rpartition("/")[2] not in text_of(shown)
        entry = AuditEntry.objects.for_organization(acme.organization).get(action="portal_link.created")
        assert entry.target == "acme/ä"
        assert made["url"].rpartition("/")[2] not in str(entry.details)

    def test_is_dead_when_tampered_with_expired_or_of_somebody_erased(
        self, acme: Subscription, visit: Visit, live_seller: Seller
    ) -> None:
        customer, now = acme.customer, timezone.now()
        good = sign_link(customer, expires_at=now + timedelta(minutes=5))
        expired = sign_link(customer, expires_at=now - timedelta(seconds=1))
        payload, _, rest = good.partition(":")
        another = signing.dumps([customer.organization_id, customer.pk + 1, 2**40], salt=LINK_SALT)
        swapped = f"{another.partition(':')[0]}:{rest}"
        session = signing.dumps([customer.organization_id, customer.pk, 2**40], salt=SESSION_SALT)
        unsigned = f"{payload}:{rest.partition(':')[0]}:"
        for token in (good[:-1], swapped, session, unsigned, "x", "a:b:c", another):
            answer = visit.client.get(f"/portal/enter/{token}")
            assert (answer.status_code, COOKIE in answer.cookies) == (404, False), token
            assert answer["Referrer-Policy"] == "no-referrer"
        answer = visit.client.get(f"/portal/enter/{expired}")
        assert (answer.status_code, COOKIE in answer.cookies) == (410, False)
        assert "another one" in answer.content.decode()

        visit.enter(customer)
        assert visit.client.get("/portal/").status_code == 200
        erase_customer(organization=acme.organization, external_id="acme/ä", actor="test", now=now)
        assert visit.client.get("/portal/").status_code == 403
        assert visit.client.get(f"/portal/enter/{good}").status_code == 404

    def test_is_dead_with_its_organization(self, visit: Visit, other_org: Organization) -> None:
        customer = factories.make_customer(organization=other_org, external_id="gone")
        visit.enter(customer)
        customer.delete()
        assert visit.client.get("/portal/").status_code == 403

    def test_is_made_by_those_alone_who_may_write_billing(
        self, acme: Subscription, zen: Subscription, api: Api, api_with: Callable[..., Api], outsider_client: Client
    ) -> None:
        path = link_path("acme/%C3%A4")
        bound = api_with("admin", customer=acme.customer)
        assert bound.refuse("POST", path)[:2] == (403, "bound_key")
        assert bound.refuse("POST", link_path("zen-secret"))[:2] == (403, "bound_key")
        assert api_with("billing:read").refuse("POST", path)[:2] == (403, "missing_scope")
        assert Api(outsider_client).refuse("POST", path)[0] == 404
        for seconds in (59, MAX_SECONDS + 1, "x", None, 60.5):
            assert api.refuse("POST", path, {"expires_in_seconds": seconds})[2] == ["expires_in_seconds"]
        erase_customer(organization=acme.organization, external_id="zen-secret", actor="test", now=timezone.now())
        left = zen.customer.__class__.objects.for_organization(acme.organization).get(pk=zen.customer_id)
        assert api.refuse("POST", link_path(left.external_id))[0] == 404

    def test_is_shown_to_a_member_who_asks_for_it(
        self, acme: Subscription, visit: Visit, client_for: Callable[[User], Client], alice: User, bob: User
    ) -> None:
        path = f"/o/{acme.organization_id}/customers/{acme.customer_id}/portal-link"

        url = page_of(client_for(alice).post(path)).link.url

        assert visit.follow(url).status_code == 302
        assert client_for(bob).post(path).status_code == 403


class TestVisit:
    def test_needs_a_cookie_of_ours_that_has_not_expired(self, acme: Subscription, visit: Visit) -> None:
        organization_id, pk = acme.organization_id, acme.customer_id
        link = sign_link(acme.customer, expires_at=timezone.now() + timedelta(hours=1))
        for cookie in (None, "", "x", link, signing.dumps([organization_id, pk, 1], salt=SESSION_SALT)):
            if cookie is not None:
                visit.client.cookies[COOKIE] = cookie
            for path in ("", "invoices/", "invoices/1/", "invoices/1/pdf", "invoices/1/csv"):
                answer = visit.client.get(f"/portal/{path}")
                assert answer.status_code == 403, (cookie, path)
                assert "ask for another one" in answer.content.decode()

    def test_ends_when_it_is_left(self, acme: Subscription) -> None:
        browser = Visit(Client()).enter(acme.customer)
        assert browser.post("/portal/leave").status_code == 200
        assert browser.get("/portal/").status_code == 403

    def test_is_told_to_wait_beyond_its_share(
        self, acme: Subscription, visit: Visit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert REQUESTS_PER_MINUTE >= 60
        monkeypatch.setattr("billing.views.portal.REQUESTS_PER_MINUTE", 0)
        answer = visit.enter(acme.customer).get("/portal/")
        assert answer.status_code == 429
        assert int(answer["Retry-After"]) > 0


class TestPages:
    def test_overview_has_spend_usage_credits_and_nobody_else(
        self, acme: Subscription, zen: Subscription, api: Api, visit: Visit
    ) -> None:
        granted = {"customer": "acme/ä", "currency": "USD", "amount_minor": 700, "name": "Hello"}
        api.post("/v1/credits", granted, status=201)
        api.call("PATCH", "/v1/billing/settings", {"seller_name": "Initech Ltd."})
        store_invoice(acme, "INV-7", FEE, USAGE)
        store_invoice(zen, "INV-8", FEE)

        visitor = visit.enter(acme.customer)
        answer = visitor.get("/portal/")

        text, page = text_of(answer), page_of(answer)
        [mine] = page.subscriptions
        # 4900, and 301 at 2.
        assert mine.spend.total == "55.02\u00a0USD"
        assert [chart.title for chart in mine.charts] == ["Cost by day, USD", "Calls by day, call"]
        assert [sum(chart.lines[0].values) for chart in mine.charts] == [Decimal("55.02"), 301]
        assert [(each.currency, each.balance) for each in page.balances] == [("USD", "7.00\u00a0USD")]
        assert [row.number for row in page.invoices] == ["INV-7"]
        assert "Initech Ltd." in text
        assert "Meterbook" not in text
        for secret in ("zen-secret", "INV-8", "987", f"/o/{acme.organization_id}/"):
            assert secret not in text
        api.post(f"/v1/subscriptions/{acme.pk}/pause", {})
        [paused] = page_of(visitor.get("/portal/")).subscriptions
        assert (mine.status, paused.status) == ("active", "paused")

    def test_invoices_are_those_that_were_issued_to_the_customer(
        self, acme: Subscription, zen: Subscription, visit: Visit
    ) -> None:
        issued = store_invoice(acme, "INV-1", FEE, USAGE, tax_percent=20)
        note = store_invoice(
            acme, "CN-1", Line("Base fee", -900), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=issued
        )
        void = store_invoice(acme, "INV-2", FEE, kind=InvoiceKind.ADJUSTMENT, state="void")
        draft = store_invoice(acme, "", state="draft", kind=InvoiceKind.ADJUSTMENT, sequence=1)
        theirs = store_invoice(zen, "INV-3", FEE)
        browser = visit.enter(acme.customer)

        rows = page_of(browser.get("/portal/invoices/")).rows

        assert [(row.number, row.standing) for row in rows] == [
            ("INV-2", "void"),
            ("CN-1", "credit note"),
            ("INV-1", "overdue" if timezone.now() >= issued.due_at else "open"),
        ]
        for each in (issued, note, void):
            for kind in ("", "pdf", "csv"):
                assert browser.get(f"/portal/invoices/{each.pk}/{kind}").status_code == 200, (each, kind)
        for pk in (draft.pk, theirs.pk, 10**18, 10**30):
            for kind in ("", "pdf", "csv"):
                assert browser.get(f"/portal/invoices/{pk}/{kind}").status_code == 404, (pk, kind)
        page = page_of(browser.get(f"/portal/invoices/{issued.pk}/"))
        assert page.printed.totals[0].label == "Subtotal"
        assert [row.number for row in page.credit_notes] == ["CN-1"]
        assert browser.get(f"/portal/invoices/{issued.pk}/pdf").content.startswith(b"%PDF")
        # Who followed another's link since sees the other's alone.
        visit.enter(zen.customer)
        assert browser.get(f"/portal/invoices/{issued.pk}/").status_code == 404
        assert browser.get(f"/portal/invoices/{theirs.pk}/").status_code == 200

    def test_budget_is_the_visitors_own_to_set_and_remove(
        self, acme: Subscription, zen: Subscription, visit: Visit
    ) -> None:
        path = f"/portal/subscriptions/{acme.pk}/budget"
        sent = {"amount": "99.90", "levels": "50, 100", "email": "spam@example.test"}
        visit.enter(acme.customer)
        assert visit.client.post(path, sent).status_code == 403  # without the form's token
        browser = Visit(Client()).enter(acme.customer)

        def budgets() -> list[tuple[Any, ...]]:
            rows = Budget.objects.for_organization(acme.organization)
            return [(row.subscription_id, row.amount_minor, row.levels, row.email) for row in rows]

        assert browser.post(path, sent).status_code == 302
        assert budgets() == [(acme.pk, 9990, [50, 100], "")]
        assert page_of(browser.get("/portal/")).subscriptions[0].bar.percent == "55.07"
        for wrong in ({"amount": "lots"}, {"amount": "0"}, {"levels": "100, 50"}, {"amount": "1e999"}):
            assert browser.post(path, sent | wrong).status_code == 302
            assert "The budget stays as it was." in text_of(browser.get("/portal/"))
        assert browser.post(f"/portal/subscriptions/{zen.pk}/budget", sent).status_code == 404
        assert budgets() == [(acme.pk, 9990, [50, 100], "")]
        actors = AuditEntry.objects.for_organization(acme.organization).filter(action__startswith="budget.")
        assert set(actors.values_list("actor", flat=True)) == {"portal"}
        browser.post(path, {"action": "remove"})
        assert budgets() == []

    def test_of_a_customer_without_anything_say_so(self, org: Organization, visit: Visit) -> None:
        browser = visit.enter(factories.make_customer(organization=org, external_id="new"))
        assert "There is nothing that you are subscribed to." in text_of(browser.get("/portal/"))
        assert "No invoices yet" in text_of(browser.get("/portal/invoices/"))
