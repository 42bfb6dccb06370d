"""The customer portal and the simulator in a real browser: the link, the form of the budget, and all pages fit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts.models import Organization, User
from billing.models import InvoiceKind, PlanVersion
from billing.portal import sign_link
from tests.billing.invoices import FEE, ISSUED_AT, USAGE, Line, store_invoice
from tests.billing.seller import Seller, written
from tests.browser.looks import look_at

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def shop(org: Organization, api: httpx.Client) -> Seller:
    """Some customers in their second month, one of them with invoices and credit; and a draft of other prices."""
    seller = Seller(org, timezone.now())
    seller.define("calls", "sum", name="API calls", unit="call", dimensions=["region"])
    seller.define("storage", "max", name="Storage", unit="GB")
    seller.plan(
        "pro",
        written("flat", 4900, name="Base fee"),
        written("per_unit", "0.1", metric="calls", filters={"region": ["eu", "us"]}, included_quantity=100_000),
        written("package", 300, metric="storage", package_size=50),
        name="Pro",
    )
    next_prices = (written("flat", 3900), written("per_unit", "0.2", metric="calls", included_quantity=60_000))
    seller.plan("next", *next_prices, name="Next year", is_active=False)
    for place, name in enumerate(("acme", "bolt", "cargo", "delta-with-a-rather-long-name-of-its-own-that-wraps")):
        seller.subscribe(name, "pro", start=seller.now - timedelta(days=65), anchor_day=1)
        for day in range(1, 62, 6):
            at = seller.now - timedelta(days=day)
            seller.use(name, "calls", 14_000 * (place + 1) + 700 * day, at, region="us")
            seller.use(name, "storage", 40 + day, at)
    made = seller.customer("acme").subscriptions.get()
    issued = store_invoice(made, "INV-000001", FEE, USAGE, tax_percent=20)
    store_invoice(made, "CN-000001", Line("Base fee", -900), kind=InvoiceKind.CREDIT_NOTE, credited_invoice=issued)
    store_invoice(made, "INV-000002", FEE, kind=InvoiceKind.ADJUSTMENT, paid_at=ISSUED_AT)
    credit = {"customer": "acme", "currency": "USD", "amount_minor": 2500, "name": "Welcome"}
    assert api.post("/v1/credits", json=credit).status_code == 201
    return seller


def test_pages_work_fit_and_do_not_complain(
    new_page: Callable[..., Page],
    alice: User,
    org: Organization,
    shop: Seller,
    complaints: list[str],
) -> None:
    customer = shop.customer("acme")
    token = sign_link(customer, expires_at=shop.now + timedelta(hours=1))
    portal = new_page()
    portal.goto(f"/portal/enter/{token}")
    assert portal.url.endswith("/portal/")
    portal.get_by_text("Set a budget").click()
    portal.get_by_label("Budget, USD").fill("80")
    portal.get_by_role("button", name="Set budget").click()
    expect(portal.get_by_text("The budget is set.")).to_be_visible()
    look_at(portal, "portal")
    portal.get_by_role("link", name="Invoices", exact=True).click()
    look_at(portal, "portal-invoices")
    portal.get_by_role("link", name="INV-000001").click()
    expect(portal.get_by_text("Amount due")).to_be_visible()
    look_at(portal, "portal-invoice")
    portal.get_by_role("button", name="Leave").click()
    look_at(portal, "portal-left")

    member = new_page(alice)
    member.goto(f"/o/{org.pk}/simulator/")
    look_at(member, "simulator-empty")
    version = PlanVersion.objects.for_organization(org).get(plan__code="next")
    member.get_by_label("Plan version").select_option(str(version.pk))
    member.get_by_role("button", name="Simulate").click()
    expect(member.get_by_role("heading", name="Customers by difference")).to_be_visible()
    look_at(member, "simulator")
    member.goto(f"/o/{org.pk}/customers/{customer.pk}/billing")
    member.get_by_role("button", name="Portal link").click()
    expect(member.get_by_role("link", name="Open")).to_be_visible()
    look_at(member, "portal-link")
    assert complaints == []
