"""Plans and spend as a person uses them: the preview follows the slider, and everything fits narrow screens."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts.models import Organization, User
from tests.billing.seller import Seller, written
from tests.browser.conftest import NARROW, WIDE

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Where to put pictures of the pages, for whoever wants to look at them.
PICTURES = os.environ.get("METERBOOK_TEST_PICTURES")


@pytest.fixture
def shop(org: Organization) -> Seller:
    """A plan with four kinds of prices, and a customer ten days into it."""
    seller = Seller(org, timezone.now())
    seller.define("calls", "sum", name="API calls", unit="call", dimensions=["region"])
    seller.define("storage", "max", name="Storage", unit="GB")
    seller.plan(
        "pro",
        written("flat", 4900, name="Base fee"),
        written("per_unit", "0.1", metric="calls", filters={"region": ["eu", "us"]}, included_quantity=100_000),
        written("graduated", metric="calls", tiers=[(1000, 2), (10_000, 1), (None, "0.5", 500)]),
        written("package", 300, metric="storage", package_size=50),
        name="Pro",
    )
    made = seller.subscribe("acme", "pro", start=seller.now - timedelta(days=10))
    assert made.customer.external_id == "acme"
    at = seller.now - timedelta(hours=3)
    seller.use("acme", "calls", 115_000, at, region="us")
    seller.use("acme", "calls", 2500, at, region="ap")
    seller.use("acme", "storage", 120, at)
    return seller


def test_preview_follows_the_slider_and_what_is_written(page: Page, shop: Seller, org: Organization) -> None:
    page.goto(f"/o/{org.pk}/new-plan")
    page.get_by_label("Code").fill("max")
    page.get_by_label("Name").first.fill("Max")
    first = page.get_by_role("region", name="Price 1")
    first.get_by_label("Metric").select_option("calls")
    first.get_by_label("Model").select_option("per_unit")
    first.get_by_label("Amount").fill("10")
    preview = page.get_by_role("region", name="Preview")

    # The slider stands in the middle of 1 000.
    expect(preview.locator("tfoot")).to_contain_text("50.00")
    page.get_by_label("Quantity").fill("100")
    expect(preview.locator("tfoot")).to_contain_text("100.00")
    first.get_by_label("Amount").fill("0.1")
    expect(preview.locator("tfoot")).to_contain_text("1.00")

    page.get_by_role("button", name="Save as draft").click()
    expect(page.get_by_role("heading", name="Max")).to_be_visible()
    expect(page.get_by_text("0.001").first).to_be_visible()


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_pages_fit_and_do_not_complain(
    new_page: Callable[..., Page],
    alice: User,
    org: Organization,
    shop: Seller,
    complaints: list[str],
    size: dict[str, int],
    scheme: str,
) -> None:
    page = new_page(alice, viewport=size, color_scheme=scheme)
    customer = shop.customer("acme")
    for path in ("plans/", "plans/pro/", "plans/pro/new-version", f"customers/{customer.pk}/billing"):
        page.goto(f"/o/{org.pk}/{path}")
        if PICTURES:
            name = f"{path.strip('/').replace('/', '-')}-{size['width']}-{scheme}.png"
            page.screenshot(path=Path(PICTURES) / name, full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
    assert complaints == []
