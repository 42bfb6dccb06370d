"""From an invoice's line down to its events, and what the daily check found: wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from playwright.sync_api import Page, expect

from accounts.models import Organization, User
from billing.models import Invoice
from billing.services.invoice_runs import join_run, work_run
from billing.services.usage_checks import check_usage
from tests.billing.seller import Seller, written
from tests.browser.looks import look_at

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

START = datetime(2026, 8, 1, tzinfo=UTC)


@pytest.fixture
def invoices(org: Organization) -> list[Invoice]:
    """August, and September, which adjusts it; a planted fault in August."""
    seller = Seller(org, datetime(2026, 10, 20, 12, tzinfo=UTC))
    seller.define("calls", "sum", dimensions=["region"], name="API calls", unit="call")
    tiers = [(500, "1.5"), (1000, 1, 40), (None, "0.1234")]
    seller.plan(
        "pro",
        written("flat", 4900, name="Base fee"),
        written("graduated", metric="calls", tiers=tiers, included_quantity=100, filters={"region": ["us", "ap"]}),
        written("per_unit", 2, metric="calls", name="Calls elsewhere, which has a rather long name for a price"),
    )
    seller.customer("acme", name="Acme Aktiengesellschaft für Rechenleistung")
    seller.subscribe("acme", "pro", start=START, zone="Europe/Vienna")
    for number in range(70):
        at = START + timedelta(hours=10 * number)
        seller.use("acme", "calls", f"{17 + number % 9}.25", at, region=("us", "ap", "eu")[number % 3])
    for month in (9, 10):
        at = datetime(2026, month, 4, tzinfo=UTC)
        seller.roll_up()
        work_run(run=join_run(organization=org, actor="test", now=at), clock=lambda at=at: at)
        seller.use("acme", "calls", 700, START + timedelta(days=month), region="us")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE metering_event SET value = 1234567.125 WHERE value = 17.25")
    check_usage(organization=org, now=seller.now)
    return list(Invoice.objects.for_organization(org).filter(state="finalised").order_by("number"))


def test_pages_lead_from_amount_to_events_and_fit(
    new_page: Callable[..., Page],
    alice: User,
    org: Organization,
    invoices: list[Invoice],
    complaints: list[str],
) -> None:
    page = new_page(alice)
    august, september = invoices
    for name, path in {
        "fee": f"invoices/{august.pk}/lines/1",
        "usage": f"invoices/{august.pk}/lines/2",
        "adjustment": f"invoices/{september.pk}/lines/4",
        "checks": "billing-checks",
    }.items():
        page.goto(f"/o/{org.pk}/{path}")
        look_at(page, f"explain-{name}")

    page.goto(f"/o/{org.pk}/invoices/{august.pk}/lines/2")
    expect(page.get_by_text("differ").first).to_be_visible()
    page.goto(f"/o/{org.pk}/invoices/{august.pk}/")
    page.get_by_role("button", name="Derive it again").click()
    expect(page.get_by_text("It comes to something else than it says.")).to_be_visible()
    look_at(page, "explain-verify")
    assert complaints == []
