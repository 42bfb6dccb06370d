"""Invoices as a person uses them: the sheets of the buttons work, and everything fits narrow screens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts.models import Organization, User
from billing.models import Invoice, InvoiceKind, Subscription
from tests.billing.invoices import END, FEE, ISSUED_AT, START, USAGE, Line, snapshot_of, store_invoice
from tests.billing.seller import Seller, written
from tests.browser.looks import look_at

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def acme(org: Organization) -> Subscription:
    seller = Seller(org, timezone.now())
    seller.define("calls", "sum", name="API calls", unit="call")
    seller.plan("pro", written("flat", 4900, name="Base fee"), written("per_unit", 2, metric="calls"))
    seller.customer("acme", name="Acme Aktiengesellschaft für Rechenleistung")
    return seller.subscribe("acme", "pro", start=START)


@pytest.fixture
def shown(acme: Subscription) -> Invoice:
    """One of every standing; the one that is open has lines of several kinds."""
    store_invoice(acme, "", state="draft", starts_at=END)
    store_invoice(acme, "INV-000002", FEE, kind=InvoiceKind.ADJUSTMENT, paid_at=ISSUED_AT)
    store_invoice(acme, "INV-000003", FEE, kind=InvoiceKind.ADJUSTMENT, sequence=1, state="void")
    adjusted = [
        {"kind": "recomputed", "name": "API calls", "quantity": "90", "amount": "180"},
        {"kind": "billed", "name": "INV-000001", "amount": "-380"},
    ]
    adjustment = Line("Adjustment of an earlier billing period", -200, kind="adjustment", steps=adjusted)
    long = Line("A name " * 20, 123456789, metric="calls", unit="call", quantity="1234567.25", steps=USAGE.steps)
    is_open = store_invoice(
        acme,
        "INV-000004",
        FEE,
        USAGE,
        long,
        adjustment,
        tax_percent=20,
        credits_minor=1000,
        sequence=2,
        kind=InvoiceKind.ADJUSTMENT,
        due_at=timezone.now() + timedelta(days=9),
        snapshot=snapshot_of(acme, customer={"name": "Acme Aktiengesellschaft für Rechenleistung"}),
    )
    note = Line("Base fee", -900, kind="credit", steps=[{"kind": "credit", "line": 1, "amount": "-900"}])
    store_invoice(acme, "CN-000001", note, kind=InvoiceKind.CREDIT_NOTE, credited_invoice=is_open, credits_minor=900)
    return is_open


def test_pages_fit_wide_and_narrow_screens(
    new_page: Callable[..., Page],
    alice: User,
    org: Organization,
    shown: Invoice,
    complaints: list[str],
) -> None:
    page = new_page(alice)
    page.goto(f"/o/{org.pk}/invoices/")
    look_at(page, "invoices")
    page.goto(f"/o/{org.pk}/invoices/{shown.pk}/")
    for steps in page.locator("details:not(.menu) summary").all():
        steps.click()
    look_at(page, "invoice")
    page.get_by_role("button", name="Credit note").click()
    expect(page.get_by_role("heading", name="Credit note", exact=True)).to_be_visible()
    look_at(page, "credit")
    assert complaints == []


def test_invoice_is_voided_after_a_question(page: Page, org: Organization, acme: Subscription) -> None:
    invoice = store_invoice(acme, "INV-000001", FEE)
    page.goto(f"/o/{org.pk}/invoices/{invoice.pk}/")
    questions: list[str] = []
    page.on("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))

    page.get_by_role("button", name="Void").click()
    sheet = page.locator("#void")
    sheet.get_by_label("Reason").fill("Sent to the wrong one")
    sheet.get_by_label("Invoice the period anew").check()
    sheet.get_by_role("button", name="Void").click()

    expect(page.get_by_text("INV-000001 is void.")).to_be_visible()
    assert questions == ["Void INV-000001? That cannot be undone."]
    expect(page.get_by_role("heading", level=1)).to_contain_text("void")
    expect(page.get_by_text("Sent to the wrong one").first).to_be_visible()
