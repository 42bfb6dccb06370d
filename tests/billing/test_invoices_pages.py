"""Pages of invoices: the list, one invoice, and what its buttons do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization, Role, User
from billing.contexts.invoices import grace_text
from billing.models import BillingPeriod, Invoice, InvoiceKind, Subscription
from billing.services.invoice_runs import join_run, work_run
from tests import factories
from tests.api.conftest import Api
from tests.billing.invoices import END, FEE, ISSUED_AT, START, USAGE, Line, store_invoice
from tests.billing.seller import Seller, written
from tests.pages.conftest import page_of, text_of

pytestmark = pytest.mark.django_db

PageUrl = Callable[[str], str]


@pytest.fixture
def browser(client_for: Callable[[User], Client], alice: User, org: Organization) -> Client:
    return client_for(alice)


@pytest.fixture
def page_url(org: Organization) -> PageUrl:
    return lambda path: f"/o/{org.pk}/{path}"


@pytest.fixture
def acme(live_seller: Seller) -> Subscription:
    live_seller.define("calls", "sum", unit="call")
    live_seller.plan("pro", written("flat", 4900, name="Base fee"), written("per_unit", 2, metric="calls"))
    return live_seller.subscribe("acme", "pro", start=START)


class TestList:
    def test_says_how_each_stands(self, browser: Client, page_url: PageUrl, acme: Subscription) -> None:
        overdue = store_invoice(acme, "INV-1", FEE, USAGE)
        store_invoice(acme, "CN-1", Line("Fee", -900), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=overdue)
        store_invoice(acme, "INV-2", FEE, kind=InvoiceKind.ADJUSTMENT, paid_at=ISSUED_AT)
        draft = store_invoice(acme, "", state="draft", starts_at=END)
        due = datetime.now(UTC) + timedelta(hours=5, minutes=30)
        BillingPeriod.objects.for_organization(acme.organization).filter(pk=draft.period_id).update(grace_ends_at=due)

        rows = page_of(browser.get(page_url("invoices/"))).rows

        assert [(row.number, row.standing, row.note, row.amount) for row in rows] == [
            ("", "draft", "final in 5\u202fh", "0.00\u00a0USD"),
            ("INV-2", "paid", "2 Nov 2026", "49.00\u00a0USD"),
            ("CN-1", "credit note", "for INV-1", "\u22129.00\u00a0USD"),
            ("INV-1", "overdue", "due 16 Nov 2026", "52.75\u00a0USD"),
        ]
        assert rows[3].period == "1 Oct 2026 \u2013 31 Oct 2026"

        def numbers(query: str) -> list[str]:
            return [row.number for row in page_of(browser.get(page_url(f"invoices/?{query}"))).rows]

        assert numbers("status=overdue") == ["INV-1"]
        assert numbers("customer=acme&status=credit_note") == ["CN-1"]
        assert numbers("customer=nobody") == []
        assert "There is no customer nobody." in text_of(browser.get(page_url("invoices/?customer=nobody")))

    def test_empty_list_says_when_the_first_comes(
        self, browser: Client, page_url: PageUrl, live_seller: Seller
    ) -> None:
        assert "Nobody is subscribed" in text_of(browser.get(page_url("invoices/")))
        live_seller.plan("pro", written("flat", 4900))
        subscription = live_seller.subscribe("acme", "pro", start=START)
        assert "when a billing period ends" in text_of(browser.get(page_url("invoices/")))
        BillingPeriod.objects.create(
            organization=subscription.organization, subscription=subscription, starts_at=START, ends_at=END
        )
        assert "The first one comes on 1 Nov 2026" in text_of(browser.get(page_url("invoices/")))

    def test_queries_do_not_grow_with_the_invoices(
        self, browser: Client, page_url: PageUrl, live_seller: Seller, acme: Subscription
    ) -> None:
        def count() -> int:
            with CaptureQueriesContext(
                connection,
            ) as queries:
                assert browser.get(page_url("invoices/")).status_code == 200
            return len(queries)

        store_invoice(acme, "INV-1", FEE)
        count()
        before = count()
        for place in range(5):
            one = store_invoice(live_seller.subscribe(f"customer-{place}", "pro", start=START), f"A-{place}", FEE)
            store_invoice(
                one.subscription, f"CN-{place}", Line("x", -1), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=one
            )
        assert count() == before

    @pytest.mark.parametrize(
        ("left", "text"),
        [
            (timedelta(0), "final with the next run"),
            (timedelta(seconds=59), "final within the minute"),
            (timedelta(seconds=60), "final in 1\u202fmin"),
            (timedelta(hours=47, minutes=59), "final in 47\u202fh"),
            (timedelta(hours=48), "final in 2\u202fd"),
        ],
        ids=["over", "seconds", "minute", "hours", "days"],
    )
    def test_grace_clock(self, left: timedelta, text: str) -> None:
        assert grace_text(BillingPeriod(grace_ends_at=ISSUED_AT + left), ISSUED_AT) == text


class TestOne:
    def test_shows_lines_with_steps_taxes_and_totals(
        self, browser: Client, page_url: PageUrl, acme: Subscription
    ) -> None:
        invoice = store_invoice(acme, "INV-1", FEE, USAGE, tax_percent=20, credits_minor=1000)
        store_invoice(acme, "CN-1", Line("Fee", -900), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=invoice)

        answer = browser.get(page_url(f"invoices/{invoice.pk}/"))

        page = page_of(answer)
        fee, usage = page.lines
        assert (fee.name, fee.quantity, fee.amount) == ("Base fee", None, "49.00\u00a0USD")
        assert [(step.text, step.amount) for step in usage.steps] == [
            ("100 included", "0.00\u00a0USD"),
            ("30 at 0.125\u00a0USD", "3.75\u00a0USD"),
        ]
        assert [(total.label, total.amount) for total in page.totals] == [
            ("Subtotal", "52.75\u00a0USD"),
            ("VAT, 20\u202f%", "10.55\u00a0USD"),
            ("Total", "63.30\u00a0USD"),
            ("Paid with credits", "\u221210.00\u00a0USD"),
            ("Due", "53.30\u00a0USD"),
        ]
        text = text_of(answer)
        for said in ("CN-1", "Ring 2", "Pro v1", "given its number"):
            assert said in text
        pdf = browser.get(page_url(f"invoices/{invoice.pk}/pdf"))
        assert (pdf["Content-Type"], pdf.content[:5]) == ("application/pdf", b"%PDF-")
        assert b"INV-1" in browser.get(page_url(f"invoices/{invoice.pk}/csv")).content

    def test_viewers_look_developers_and_strangers_do_not(
        self,
        client_for: Callable[[User], Client],
        page_url: PageUrl,
        bob: User,
        charlie: User,
        org: Organization,
        acme: Subscription,
    ) -> None:
        invoice = store_invoice(acme, "INV-1", FEE)
        developer = factories.make_user()
        factories.make_membership(organization=org, user=developer, role=Role.DEVELOPER)
        page = page_url(f"invoices/{invoice.pk}/")

        shown = page_of(client_for(bob).get(page))
        assert (shown.void_form, shown.credit_form, shown.paid_form) == (None, None, None)
        for action in ("finalise", "void", "credit", "mark-paid"):
            assert client_for(bob).post(f"{page}{action}").status_code == 403
        for path in ("", "pdf", "csv"):
            assert client_for(developer).get(page + path).status_code == 403
            assert client_for(charlie).get(page + path).status_code == 404
        assert client_for(bob).get(page_url("invoices/999999999999999999999/")).status_code == 404


class TestActions:
    """Buttons, with the services behind them; the API's way to the same is beside each."""

    @pytest.fixture
    def finals(self, live_seller: Seller, acme: Subscription) -> list[Invoice]:
        """The final invoice of October: 4900, and 100 calls at 2 cents."""
        live_seller.use("acme", "calls", 100, START + timedelta(days=3))
        at = END + timedelta(days=2)
        work_run(run=join_run(organization=live_seller.organization, actor="test", now=at), clock=lambda: at)
        return list(Invoice.objects.for_organization(live_seller.organization).order_by("pk"))

    def post(self, browser: Client, url: str, **form: Any) -> str:
        return text_of(browser.post(url, form, follow=True))

    @pytest.mark.django_db(transaction=True)
    def test_draft_is_made_final(
        self, browser: Client, api: Api, page_url: PageUrl, live_seller: Seller, acme: Subscription
    ) -> None:
        at = END + timedelta(hours=1)
        work_run(run=join_run(organization=live_seller.organization, actor="test", now=at), clock=lambda: at)
        draft = Invoice.objects.for_organization(live_seller.organization).get()
        url = page_url(f"invoices/{draft.pk}/")
        assert page_of(browser.get(url)).can_finalise

        assert "It is final, as INV-000001." in self.post(browser, f"{url}finalise")

        page = page_of(browser.get(url))
        assert (page.can_finalise, page.title, page.total) == (False, "Invoice INV-000001", "49.00\u00a0USD")
        assert "Only a draft can be made final." in self.post(browser, f"{url}finalise")
        assert api.refuse("POST", f"/v1/invoices/{draft.pk}/finalize")[:2] == (409, "not_in_grace")

    @pytest.mark.django_db(transaction=True)
    def test_run_does_what_is_due_and_says_how_far_it_is(
        self, browser: Client, page_url: PageUrl, live_seller: Seller, acme: Subscription
    ) -> None:
        assert page_of(browser.get(page_url("invoices/"))).run is None

        assert "The run has begun" in self.post(browser, page_url("run-invoices"))

        page = page_of(browser.get(page_url("invoices/")))
        assert (page.run.is_over, page.run.progress) == (False, "0 of 1 billing period")
        periods = BillingPeriod.objects.for_organization(live_seller.organization)
        periods.filter(starts_at=START).update(problem="The usage is not kept.")
        assert "acme, 1 Oct 2026 \u2013 31 Oct 2026: The usage is not kept." in text_of(
            browser.get(page_url("invoices/"))
        )
        work_run(run=join_run(organization=live_seller.organization, actor="test", now=datetime.now(UTC)))
        page = page_of(browser.get(page_url("invoices/")))
        assert [row.standing for row in page.rows] == ["open"]
        assert (page.run.is_over, page.run.failed, page.problems) == (True, 0, [])
        assert page.run.progress == "1 of 1 billing period"

    @pytest.mark.django_db(transaction=True)
    def test_credited_line_by_line_then_whole(
        self, browser: Client, api: Api, page_url: PageUrl, finals: list[Invoice]
    ) -> None:
        [final] = finals
        url, api_url = page_url(f"invoices/{final.pk}/"), f"/v1/invoices/{final.pk}"
        page = page_of(browser.get(url))
        assert [name for name in page.credit_form.fields] == ["reason", "idempotency_key", "line_1", "line_2"]
        key = page.credit_form["idempotency_key"].value()
        assert key != page_of(browser.get(url)).credit_form["idempotency_key"].value()

        def credit(**form: str) -> str:
            return self.post(browser, f"{url}credit", idempotency_key=key, **form)

        assert "is no amount of USD" in credit(reason="x", line_1="1.005")
        assert "is no amount" in credit(reason="x", line_1="lots")
        assert "what is left of the line" in credit(reason="x", line_1="49.01")
        assert "Reason: " in credit(line_1="9")
        # A double click issues one.
        for _ in range(2):
            assert "CN-000001 is issued." in credit(reason="late", line_1="9", line_2="0,50")
        assert "This form was sent before" in credit(reason="late", line_1="9")
        page = page_of(browser.get(url))
        assert [(note.number, note.amount) for note in page.credit_notes] == [("CN-000001", "\u22129.50\u00a0USD")]
        assert page.outstanding == "41.50\u00a0USD"
        assert page.void_form is None

        body = {"reason": "late", "lines": [{"position": 1, "amount_minor": 100}]}
        note = api.post(f"{api_url}/credit", body, status=201)
        assert (note["number"], note["kind"], note["total_minor"]) == ("CN-000002", "credit_note", "-100")
        assert note["lines"][0]["steps"] == [
            {"kind": "credit", "name": None, "line": 1, "amount_minor": "-100"}
            | dict.fromkeys(("from_quantity", "to_quantity", "quantity", "unit_amount", "flat_amount"))
        ]
        for lines in ([], [{"position": 0, "amount_minor": 1}], [{"position": 1, "amount_minor": 1}] * 2):
            assert api.refuse("POST", f"{api_url}/credit", {"reason": "x", "lines": lines})[0] == 422
        rest = api.post(f"{api_url}/credit", {"reason": "all"}, status=201)
        assert (rest["total_minor"], rest["status"]) == ("-4050", "credit_note")
        told = api.get(api_url)
        assert (told["status"], told["payment_reference"], len(told["credit_notes"])) == ("paid", "CN-000003", 3)
        assert page_of(browser.get(url)).credit_form is None

    @pytest.mark.django_db(transaction=True)
    def test_paid_or_void_with_what_is_said_of_it(
        self, browser: Client, api: Api, page_url: PageUrl, finals: list[Invoice]
    ) -> None:
        [final] = finals
        url, api_url = page_url(f"invoices/{final.pk}/"), f"/v1/invoices/{final.pk}"

        assert "And then: " in self.post(browser, f"{url}void", reason="wrong")
        assert api.refuse("POST", f"{api_url}/void", {"reason": "x"})[2] == ["reissue"]
        assert api.refuse("POST", f"{api_url}/mark-paid", {})[2] == ["reference"]
        assert "INV-000001 is paid." in self.post(browser, f"{url}mark-paid", reference="bank 7")
        page = page_of(browser.get(url))
        assert (page.standing, page.outstanding, page.void_form, page.paid_form) == (
            "paid",
            "0.00\u00a0USD",
            None,
            None,
        )
        assert "bank 7" in text_of(browser.get(url))
        assert [row.what for row in page.history if row.who] == ["marked as paid"]
        assert api.refuse("POST", f"{api_url}/void", {"reason": "x", "reissue": True})[:2] == (409, "already_paid")

        other = store_invoice(final.subscription, "X-1", FEE, kind=InvoiceKind.ADJUSTMENT)
        other_url = page_url(f"invoices/{other.pk}/")
        assert "X-1 is void." in self.post(browser, f"{other_url}void", reason="a mistake", reissue="no")
        shown = page_of(browser.get(other_url))
        assert (shown.standing, shown.outstanding, shown.credit_form) == ("void", "", None)
        assert "a mistake" in text_of(browser.get(other_url))
        third = store_invoice(final.subscription, "X-2", FEE, kind=InvoiceKind.ADJUSTMENT, sequence=1)
        voided = api.post(f"/v1/invoices/{third.pk}/void", {"reason": "twice", "reissue": True})
        assert (voided["state"], voided["void_reason"], voided["number"]) == ("void", "twice", "X-2")
