"""Invoices as documents: what stands on the pages of the PDF, and the mails that carry it."""

from __future__ import annotations

import smtplib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.mail import EmailMultiAlternatives
from django.db import connection

from accounts.models import Customer
from billing.documents import pdf
from billing.documents.pdf import DocumentFailed, DocumentTooLarge, render_pdf
from billing.documents.printed import document_name
from billing.documents.words import span_text, stored_step_text
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.domain.periods import BillingPeriod
from billing.domain.taxes import TaxLine
from billing.models import BillingProfile, BillingSettings, Invoice, InvoiceKind, InvoiceState, Subscription
from billing.queries.invoices import get_content
from billing.services.invoice_mails import mail_invoices, send_invoice
from billing.tasks import mail_invoices_task
from common.mail import MailRun
from tests.billing.invoices import DUE_AT, END, FEE, ISSUED_AT, START, USAGE, Line, snapshot_of, store_invoice
from tests.billing.pdf_text import MISSING, pages_of, text_of
from tests.billing.seller import Seller, written

OCTOBER = BillingPeriod(START, END)
# Of what the built-in fonts are meant to cover.
LETTERS = "Žluťoučký kůň, Łódź, Škoda, Țară, İstanbul, ẞß, Ångström; Привет, Київ; Ελληνικά; € £ ¥ ₽ ₴ \u2212 \u2013"


def line(name: str, amount_minor: int, **fields: Any) -> InvoiceLineContent:
    return InvoiceLineContent(
        **{
            "kind": "fee",
            "name": name,
            "period": OCTOBER,
            "period_id": 1,
            "starts_at": START,
            "ends_at": END,
            "quantity": Decimal(1),
            "included_quantity": Decimal(0),
            "amount_minor": amount_minor,
            "steps": [],
        }
        | fields
    )


def content(*lines: InvoiceLineContent, currency: str = "EUR", credits_minor: int = 0, **parts: Any) -> InvoiceContent:
    """Return content with 20 % of VAT."""
    subtotal = sum(each.amount_minor for each in lines)
    tax = subtotal * 20 // 100
    subscription = Subscription(pk=7, zone="UTC", customer=Customer(external_id="acme"))
    return InvoiceContent(
        currency=currency,
        lines=lines,
        taxes=[TaxLine("vat", "VAT", Decimal(20), subtotal, tax)],
        subtotal_minor=subtotal,
        tax_minor=tax,
        total_minor=subtotal + tax,
        credits_minor=credits_minor,
        due_minor=max(0, subtotal + tax - credits_minor),
        snapshot=snapshot_of(subscription, **parts),
        known_at=ISSUED_AT,
    )


def invoice(**fields: Any) -> Invoice:
    """Return an invoice that is not stored."""
    finalised = {"state": InvoiceState.FINALISED, "number": "INV-12", "issued_at": ISSUED_AT, "due_at": DUE_AT}
    return Invoice(**finalised | {"currency": "EUR", "due_minor": 1} | fields)


def render(*lines: InvoiceLineContent, of: Invoice | None = None, **parts: Any) -> bytes:
    return render_pdf(invoice=of or invoice(), content=content(*lines, **parts))


class TestPages:
    def test_say_what_the_invoice_says(self) -> None:
        """4900 and 375 are 5275, 20 % of it 1055; of 6330 credits paid 1000."""
        usage = line(
            "API calls", 375, kind="usage", quantity=Decimal("1234.5"), unit="call", metric_code="calls",
            steps=USAGE.steps, ends_at=datetime(2026, 10, 15, 14, 30, tzinfo=UTC),
        )  # fmt: skip

        [page] = pages_of(render(line("Base fee", 4900), usage, credits_minor=1000))

        runs = page.split("\n")
        assert runs[0] == "Invoice"
        for label, value in (
            ("Number", "INV-12"),
            ("Date", "2 Nov 2026"),
            ("Billing period", "1 Oct 2026 \u2013 31 Oct 2026"),
            ("Plan", "Pro v1"),
            ("Due", "16 Nov 2026"),
            ("Base fee", "1 Oct 2026 \u2013 31 Oct 2026"),
            ("API calls", "1 Oct 2026 \u2013 15 Oct 2026, 14:30"),
            ("100 included", "30 at 0.125\u00a0EUR: 3.75\u00a0EUR"),
            ("1\u202f234.5", "call"),
            ("call", "3.75\u00a0EUR"),
            ("Subtotal", "52.75\u00a0EUR"),
            ("VAT, 20\u202f% of 52.75\u00a0EUR", "10.55\u00a0EUR"),
            ("Total", "63.30\u00a0EUR"),
            ("Paid with credits", "\u221210.00\u00a0EUR"),
            ("Amount due", "53.30\u00a0EUR"),
        ):
            assert (label, value) in set(pairwise(runs)), label
        for said in (
            "Initech Ltd.",
            "1 Main Street",
            "Tax ID US-1",
            "Acme AG",
            "1010 Wien",
            "Tax ID ATU1",
            "Thank you.",
        ):
            assert said in runs
        assert runs[-2:] == ["Invoice INV-12", "1 of 1"]

    def test_amounts_have_the_decimals_of_their_currency(self) -> None:
        for currency, amount in (("JPY", "4\u202f900\u00a0JPY"), ("KWD", "4.900\u00a0KWD"), ("USD", "49.00\u00a0USD")):
            assert amount in text_of(render(line("Fee", 4900), currency=currency))

    def test_letters_of_european_scripts_are_there(self) -> None:
        text = text_of(render(line(LETTERS, 1), customer={"name": LETTERS}, seller={"name": LETTERS}))

        assert text.count(LETTERS) == 3
        assert MISSING not in text
        assert MISSING in text_of(render(line("\u6f22", 1)))  # a Chinese letter needs a font of the server's

    def test_text_is_never_markup(self) -> None:
        wild = '#panic("x") *b* _i_ $x^2$ <l> @r \\ // /* `raw` #{ [ ] } = - + "q" https://x.test #import "/etc/passwd"'
        parts = {"customer": {"name": wild, "address": wild}, "seller": {"name": wild, "tax_id": wild}, "footer": wild}

        text = text_of(render(line(wild, 1, kind="usage", unit=wild), **parts))

        assert text.replace(" ", "").count(wild.replace(" ", "")) == 7  # lines end where there was a space

    def test_long_words_break_and_long_names_wrap(self) -> None:
        name = "x" * 300

        file = render(line(name, 1), line("many words " * 27, 1), customer={"name": name})

        assert text_of(file).count(name) == 2
        assert max(len(run.replace("\u200b", "")) for run in pages_of(file)[0].split("\n")) < 100
        assert text_of(file).replace(" ", "").count("manywords") == 27

    def test_several_hundred_lines_go_on_over_pages(self) -> None:
        names = [f"Line number {place:04}." for place in range(400)]

        pages = pages_of(render(*(line(name, 100) for name in names)))

        assert len(pages) > 5
        for place, page in enumerate(pages, start=1):
            assert page.endswith(f"Invoice INV-12\n{place} of {len(pages)}")
        with_lines = [page for page in pages if "Line number" in page]
        assert all("Description\nQuantity\nAmount" in page for page in with_lines)
        assert [run for page in pages for run in page.split("\n") if run.startswith("Line number")] == names
        assert [place for place, page in enumerate(pages, start=1) if "Amount due" in page] == [len(pages)]

    def test_drafts_voids_and_credit_notes_say_so(self) -> None:
        many = [line("Fee", 1) for _ in range(60)]
        draft = pages_of(render(*many, of=invoice(state="draft", number="", issued_at=None, due_at=None)))
        void = pages_of(render(*many, of=invoice(state="void", voided_at=ISSUED_AT + timedelta(days=1))))
        note = invoice(kind=InvoiceKind.CREDIT_NOTE, number="CN-3", due_at=None, credited_invoice=invoice())
        [credited] = pages_of(render(line("Fee", -500), of=note))

        assert len(draft) == len(void) > 1
        assert all("DRAFT" in page for page in draft)
        assert "Draft invoice" in draft[0]
        assert "It may change." in draft[-1]
        assert all("VOID" in page for page in void)
        assert "Voided on 3 Nov 2026." in void[-1]
        assert credited.startswith("Credit note\n")
        assert "Number\nCN-3\nFor invoice\nINV-12\n" in credited
        assert "Total credited\n\u22126.00\u00a0EUR" in credited
        assert "due" not in credited.lower()


class TestFile:
    def test_same_bytes_each_time_dated_as_the_invoice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = render(line("Fee", 1))
        pdf._compiler.cache_clear()  # another process, another day
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")

        assert render(line("Fee", 1)) == first
        assert render(line("Fee", 2)) != first
        assert b"D:20261102000000" in first
        paid = invoice(paid_at=ISSUED_AT, payment_reference="bank", mailed_at=ISSUED_AT)
        assert render(line("Fee", 1), of=paid) == first

    def test_several_at_once(self) -> None:
        """A compiler refuses a second caller; ours has them wait."""
        with ThreadPoolExecutor(4) as pool:
            files = list(pool.map(lambda place: text_of(render(line(f"Fee {place}.", 1))), range(16)))

        assert all(f"Fee {place}." in text for place, text in enumerate(files))

    def test_error_of_the_template_is_logged_and_told(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "invoice.typ").write_text("#no-such-thing")
        monkeypatch.setattr(pdf, "TEMPLATE", tmp_path / "invoice.typ")
        pdf._compiler.cache_clear()
        try:
            with pytest.raises(DocumentFailed, match="could not be made"):
                render(line("Fee", 1))
        finally:
            pdf._compiler.cache_clear()
        assert "no-such-thing" in caplog.text

    def test_more_lines_than_anybody_prints_are_refused(self) -> None:
        with pytest.raises(DocumentTooLarge, match="2001 lines"):
            render(*[line("Fee", 1)] * 2001)

    def test_names_are_those_of_files(self) -> None:
        assert document_name(invoice(number="IN/V\u20ac 1"), "pdf") == "IN_V__1.pdf"
        assert document_name(invoice(pk=9, number=""), "csv") == "draft-9.csv"


class TestWords:
    def test_spans_are_days_with_times_where_they_are_not_whole(self) -> None:
        vienna = ZoneInfo("Europe/Vienna")
        midnight = datetime(2026, 10, 31, 23, 0, tzinfo=UTC)  # of 1 November there, after the clocks went back
        noon = datetime(2026, 11, 5, 11, 0, tzinfo=UTC)
        day = timedelta(days=1)

        assert span_text(midnight, midnight + 30 * day, vienna) == "1 Nov 2026 \u2013 30 Nov 2026"
        assert span_text(midnight, midnight + day, vienna) == "1 Nov 2026"
        assert span_text(midnight, noon, vienna) == "1 Nov 2026 \u2013 5 Nov 2026, 12:00"
        assert span_text(noon, midnight + 30 * day, vienna) == "5 Nov 2026, 12:00 \u2013 30 Nov 2026"

    def test_steps_of_adjustments_and_true_ups_have_words(self) -> None:
        told = [
            stored_step_text(step, "USD").text
            for step in (
                {"kind": "recomputed", "name": "Calls", "quantity": "12.50", "amount": "5"},
                {"kind": "recomputed", "name": "Fee", "amount": "5"},
                {"kind": "billed", "name": "INV-3", "amount": "-5"},
                {"kind": "commitment", "amount": "100"},
                {"kind": "billed", "amount": "-60"},
                {"kind": "rounding", "amount": "0.5"},
            )
        ]

        assert told == [
            "Calls, 12.5, as it is known now",
            "Fee, as it is known now",
            "less what INV-3 charged",
            "the commitment",
            "less what was billed in the term",
            "rounding",
        ]


# --- mails ----------------------------------------------------------------------------------------------------


@pytest.fixture
def acme(seller: Seller) -> Subscription:
    """A subscription whose customer has an address, of an organization that mails invoices."""
    seller.plan("pro", written("flat", 4900, name="Base fee"))
    subscription = seller.subscribe("acme", "pro", start=START)
    BillingSettings.objects.create(organization=seller.organization, is_mailed=True)
    BillingProfile.objects.create(
        organization=seller.organization, customer=subscription.customer, email="billing@acme.test"
    )
    return subscription


SOON = ISSUED_AT + timedelta(minutes=3)


@pytest.mark.django_db
class TestMails:
    def test_carries_the_pdf_and_is_sent_once(
        self, acme: Subscription, mailoutbox: list[EmailMultiAlternatives]
    ) -> None:
        stored = store_invoice(acme, "INV-1", FEE, USAGE)

        assert send_invoice(invoice=stored, now=SOON)
        assert not send_invoice(invoice=stored, now=SOON)
        mail_invoices_task()

        [mail] = mailoutbox
        assert (mail.to, mail.subject) == (["billing@acme.test"], "Invoice INV-1 of Initech Ltd.")
        for said in ("52.75\u00a0USD", "16 Nov 2026", "1 Oct 2026 \u2013 31 Oct 2026", "INV-1.pdf", "Thank you."):
            assert said in mail.body
            assert said in str(mail.alternatives[0][0])
        [(name, file, kind)] = mail.attachments
        assert (name, kind) == ("INV-1.pdf", "application/pdf")
        stored.refresh_from_db()
        assert stored.mailed_at == SOON
        assert file == render_pdf(invoice=stored, content=get_content(invoice=stored, now=SOON))
        assert "INV-1" in text_of(bytes(file))

    def test_run_takes_what_is_due_and_nothing_else(
        self, seller: Seller, acme: Subscription, mailoutbox: list[EmailMultiAlternatives]
    ) -> None:
        nobody = seller.subscribe("nobody", "pro", start=START)  # without an address
        wanted = store_invoice(acme, "INV-1", FEE)
        note = store_invoice(
            acme, "CN-1", Line("Base fee", -900), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=wanted
        )
        store_invoice(acme, "INV-2", FEE, kind=InvoiceKind.ADJUSTMENT, issued_at=ISSUED_AT - timedelta(days=4))
        store_invoice(acme, "INV-3", FEE, kind=InvoiceKind.ADJUSTMENT, sequence=1, state="void")
        store_invoice(acme, "INV-4", FEE, kind=InvoiceKind.ADJUSTMENT, sequence=2, mailed_at=ISSUED_AT)
        store_invoice(acme, "", state="draft", starts_at=END)
        store_invoice(nobody, "INV-5", FEE)

        counts = mail_invoices(now=SOON)

        assert (counts.sent, counts.failed) == (2, 0)
        assert [mail.subject for mail in mailoutbox] == [
            "Invoice INV-1 of Initech Ltd.",
            "Credit note CN-1 of Initech Ltd.",
        ]
        assert "for invoice INV-1" in mailoutbox[1].body
        assert "Credited: \u22129.00\u00a0USD" in mailoutbox[1].body
        assert note.number in mailoutbox[1].body
        BillingSettings.objects.for_organization(seller.organization).update(is_mailed=False)
        store_invoice(acme, "INV-6", FEE, kind=InvoiceKind.ADJUSTMENT, sequence=3)
        assert mail_invoices(now=SOON).sent == 0

    def test_refused_address_holds_up_nobody_and_is_tried_again_once_an_hour(
        self, seller: Seller, acme: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = seller.subscribe("zen", "pro", start=START)
        BillingProfile.objects.create(organization=seller.organization, customer=other.customer, email="zen@ok.test")
        store_invoice(acme, "INV-1", FEE)
        broken = store_invoice(acme, "INV-2", FEE, kind=InvoiceKind.ADJUSTMENT, snapshot={"seller": {}})
        last = store_invoice(other, "INV-3", FEE)
        tried: list[str] = []

        def send(self: MailRun, *, to: list[str], **_: Any) -> None:
            tried.extend(to)
            if to == ["billing@acme.test"]:
                raise smtplib.SMTPRecipientsRefused({to[0]: (550, b"no such mailbox")})

        monkeypatch.setattr(MailRun, "send", send)

        counts = mail_invoices(now=SOON)

        assert (counts.sent, counts.failed) == (1, 2)
        assert tried == ["billing@acme.test", "zen@ok.test"]
        last.refresh_from_db()
        broken.refresh_from_db()
        assert (last.mailed_at, broken.mailed_at) == (SOON, None)
        tried.clear()
        for minute in range(0, 3 * 60 + 1, 2):
            mail_invoices(now=ISSUED_AT + timedelta(minutes=minute))
        assert len(tried) == 10 + 3  # in each run of the first 20 minutes, then after 1, 2 and 3 hours
        assert mail_invoices(now=ISSUED_AT + timedelta(days=3, seconds=1)).failed == 0

    def test_mail_server_that_is_away_ends_the_run_and_loses_nothing(
        self, acme: Subscription, monkeypatch: pytest.MonkeyPatch, mailoutbox: list[EmailMultiAlternatives]
    ) -> None:
        store_invoice(acme, "INV-1", FEE)
        store_invoice(acme, "INV-2", FEE, kind=InvoiceKind.ADJUSTMENT)

        def refuse(self: MailRun, **_: Any) -> None:
            raise ConnectionRefusedError

        with monkeypatch.context() as away:
            away.setattr(MailRun, "send", refuse)
            assert mail_invoices(now=SOON).failed == 1
        assert mail_invoices(now=SOON).sent == 2
        assert len(mailoutbox) == 2


@pytest.mark.django_db(transaction=True)
def test_two_runs_at_once_send_one_mail(acme: Subscription, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run comes by while the mail is on its way."""
    store_invoice(acme, "INV-1", FEE)
    sent: list[int] = []

    def send(self: MailRun, **_: Any) -> None:
        sent.append(1)
        with ThreadPoolExecutor(1) as other:
            assert other.submit(_run_elsewhere).result().sent == 0

    monkeypatch.setattr(MailRun, "send", send)

    assert mail_invoices(now=SOON).sent == 1
    assert len(sent) == 1


def _run_elsewhere() -> Any:
    try:
        return mail_invoices(now=SOON)
    finally:
        connection.close()
