"""What only a browser can show of alerts: the live feed, and that a person gets from a metric to its alert."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts.models import Customer, Organization, User
from alerts.models import Delivery, Quota, Threshold, WebhookEndpoint
from alerts.services.evaluation import evaluate_organization
from metering.services.rollup import roll_up_organization
from tests import factories
from tests.browser.conftest import NARROW, WIDE
from tests.clients.web_server import Servers

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

Use = Callable[..., None]
HOOK = "https://hooks.example.com/in/meterbook"
# What of a row that is stacked on a narrow screen lies beyond the card, where nobody scrolls.
CUT_OFF = """
[...document.querySelectorAll(".is-stacked td, .is-stacked th, .is-stacked td *, .is-stacked th *")]
    .filter(piece => getComputedStyle(piece.closest("tr")).display === "grid")
    .filter(piece => piece.getBoundingClientRect().right > innerWidth - 16)
    .map(piece => piece.textContent)
"""
# Of the browser's own patience for a broken stream and ours, and of a busy machine.
SECONDS = 20_000


@pytest.fixture
def watched(org: Organization, api: httpx.Client) -> None:
    """A count with a threshold at 3 for each customer."""
    metric = {"code": "calls", "name": "Calls", "aggregation": "count", "dimensions": [{"key": "region"}]}
    assert api.post("/v1/metrics", json=metric).status_code == 201
    threshold = {"code": "third_call", "metric": "calls", "value": 3}
    assert api.post("/v1/thresholds", json=threshold).status_code == 201


@pytest.fixture
def use(org: Organization, send: Callable[..., None], watched: None) -> Use:
    """Send events, then roll up and evaluate as the worker would."""

    def send_and_evaluate(customer: str, count: int) -> None:
        send(*(factories.make_event(customer=customer, type="calls") for _ in range(count)))
        now = timezone.now()
        roll_up_organization(organization_id=org.pk, now=now)
        evaluate_organization(organization_id=org.pk, now=now)

    return send_and_evaluate


def offsets(page: Page) -> list[str]:
    rows: list[str] = page.eval_on_selector_all("#alert-rows tr", "rows => rows.map(row => row.dataset.offset)")
    return rows


class TestFeed:
    def test_new_alerts_appear_by_themselves(self, page: Page, org: Organization, use: Use) -> None:
        page.goto(f"/o/{org.pk}/alerts/")
        expect(page.get_by_text("Nothing was crossed yet")).to_be_visible()
        expect(page.locator("[data-live]")).to_have_attribute("data-state", "live")

        markup = "<b onclick=alert(1)>"
        use(markup, 3)

        rows = page.locator("#alert-rows tr")
        expect(rows).to_have_count(1)
        expect(rows.first).to_contain_text(markup)
        expect(page.get_by_text("Nothing was crossed yet")).to_have_count(0)
        use("second", 3)
        expect(rows).to_have_count(2)
        assert offsets(page) == ["2", "1"]

        rows.first.get_by_role("link").first.click()
        expect(page.get_by_role("heading", name="second crossed third_call")).to_be_visible()

    def test_filtered_feed_shows_what_fits_alone(self, page: Page, org: Organization, use: Use) -> None:
        use("ann", 1)  # a customer has to be known to be filtered by
        page.goto(f"/o/{org.pk}/alerts/?customer=ann")
        expect(page.locator("[data-live]")).to_have_attribute("data-state", "live")

        use("bob", 3)
        use("ann", 2)

        expect(page.locator("#alert-rows tr")).to_have_count(1)
        expect(page.locator("#alert-rows tr").first).to_contain_text("ann")

    def test_what_happens_while_the_stream_is_away_is_shown_too(
        self, new_page: Callable[..., Page], alice: User, org: Organization, servers: Servers, use: Use
    ) -> None:
        page = new_page(alice)  # its console tells of the broken connection, as it should
        page.goto(f"/o/{org.pk}/alerts/")
        live = page.locator("[data-live]")
        expect(live).to_have_attribute("data-state", "live")
        use("before", 3)
        expect(page.locator("#alert-rows tr")).to_have_count(1)

        servers.stream.kill()
        expect(live).to_have_attribute("data-state", "polling", timeout=SECONDS)
        use("meanwhile", 3)
        expect(page.locator("#alert-rows tr")).to_have_count(2, timeout=SECONDS)

        servers.stream.start()
        expect(live).to_have_attribute("data-state", "live", timeout=2 * SECONDS)
        use("after", 3)
        expect(page.locator("#alert-rows tr")).to_have_count(3, timeout=SECONDS)
        assert offsets(page) == ["3", "2", "1"]

    def test_older_page_is_not_live(self, page: Page, org: Organization, use: Use) -> None:
        use("ann", 3)
        use("bob", 3)

        page.goto(f"/o/{org.pk}/alerts/?before=2")

        expect(page.locator("[data-live]")).to_have_text("Not live: a page of the past")
        assert offsets(page) == ["1"]


def test_from_a_metric_to_a_threshold_its_alert_and_its_reason(page: Page, org: Organization, use: Use) -> None:
    use("ann", 2)
    page.goto(f"/o/{org.pk}/metrics/calls/")
    page.get_by_role("navigation", name="About calls").get_by_role("link", name="Alerts").click()
    page.get_by_role("link", name="New threshold").click()

    page.get_by_label("Code").fill("second call")
    page.get_by_label("Value").fill("two")
    page.get_by_role("button", name="Create threshold").click()
    expect(page.locator(".field-error")).to_have_count(2)
    page.get_by_label("Code").fill("second_call")
    page.get_by_label("Value").fill("2")
    page.get_by_role("button", name="Create threshold").click()
    expect(page.get_by_text("second_call is watched from now on.")).to_be_visible()
    evaluate_organization(organization_id=org.pk, now=timezone.now())

    page.reload()
    page.get_by_role("row", name="ann").get_by_role("link", name="ann").first.click()
    expect(page.locator("#why")).to_contain_text("Fired: 2 reached 2, told at offset 1.")
    page.locator("#why").get_by_role("link", name="#1").click()
    expect(page.get_by_role("heading", name="ann crossed second_call")).to_be_visible()
    page.get_by_role("link", name="Why, in detail").click()
    expect(page).to_have_url(re.compile(r"/thresholds/\d+/\?customer=ann#why$"))

    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Archive").click()
    expect(page.get_by_text("second_call is archived")).to_be_visible()


def test_endpoint_is_made_its_secret_copied_tested_and_replayed(page: Page, org: Organization, watched: None) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"/o/{org.pk}/webhooks/")
    page.get_by_role("link", name="New endpoint").click()
    page.get_by_label("URL").fill("https://127.0.0.1/in")
    page.get_by_role("button", name="Create endpoint").click()
    expect(page.locator(".field-error")).to_contain_text("private address")

    page.get_by_label("URL").fill(HOOK)
    page.get_by_role("button", name="Create endpoint").click()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied: Any = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("whsec_")

    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_role("heading", name="alert.test pending")).to_be_visible()
    Delivery.objects.for_organization(org).update(state="failed", settled_at=timezone.now())
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("heading", name="alert.test pending")).to_be_visible()

    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("link", name=HOOK).click()
    page.get_by_role("button", name="Disable").click()
    expect(page.get_by_text("nothing more is sent to it")).to_be_visible()
    page.get_by_role("button", name="Delete this endpoint").click()
    expect(page.get_by_text("Nobody is told yet")).to_be_visible()


def test_quota_is_made_and_shows_its_use(page: Page, org: Organization, use: Use) -> None:
    use("ann", 9)
    page.goto(f"/o/{org.pk}/quotas/")
    page.get_by_role("link", name="New quota").click()
    page.get_by_label("Customer").fill("ann")
    page.get_by_label("Limit").fill("10")
    page.get_by_role("button", name="Create quota").click()

    expect(page.get_by_role("row", name="ann")).to_contain_text("9 warning")
    expect(page.locator(".share-fill").first).to_have_attribute("width", "90.00%")


class TestLook:
    @pytest.fixture
    def paths(self, org: Organization, api: httpx.Client, use: Use) -> list[str]:
        """Every page, with long names and something on it."""
        customer = "a-customer-whose-name-is-longer-than-most-people-would-ever-make-one"
        quota = {"metric": "calls", "customer": customer, "limit": "4"}
        url = f"{HOOK}/with/a/long/path/and/a/token/{'x' * 80}"
        endpoint = api.post("/v1/webhook-endpoints", json={"url": url}).json()["id"]
        delivery = api.post(f"/v1/webhook-endpoints/{endpoint}/test").json()["id"]
        use(customer, 3)
        long_code = {"code": "the_customer_has_called_three_times_and_that_is_all", "metric": "calls", "value": 3}
        assert api.post("/v1/thresholds", json=long_code).status_code == 201
        use(customer, 1)
        found = Customer.objects.for_organization(org).get(external_id=customer)
        assert api.post("/v1/quotas", json=quota).status_code == 201
        filtered = {"code": "silent_in_europe", "metric": "calls", "silence_seconds": 90, "filter": {"region": "eu"}}
        assert api.post("/v1/thresholds", json=filtered).status_code == 201
        threshold = Threshold.objects.for_organization(org).get(code="third_call")
        WebhookEndpoint.objects.for_organization(org).update(failing_since=timezone.now() - timedelta(days=1))
        quota_id = Quota.objects.for_organization(org).get().pk
        return [
            *("alerts/", "alerts/1/", "alerts/email", "thresholds/", "thresholds/new", "quotas/", "quotas/new"),
            *("webhooks/", "webhooks/new", "metrics/calls/alerts", f"customers/{found.pk}/alerts"),
            *(f"thresholds/{threshold.pk}/?customer={customer}", f"thresholds/{threshold.pk}/edit"),
            *(f"quotas/{quota_id}/", f"quotas/{quota_id}/edit"),
            *(f"webhooks/{endpoint}/", f"webhooks/{endpoint}/edit", f"webhooks/{endpoint}/deliveries/{delivery}/"),
        ]

    def test_no_page_scrolls_sideways_or_complains(
        self, new_page: Callable[..., Page], complaints: list[str], alice: User, org: Organization, paths: list[str]
    ) -> None:
        page = new_page(alice)
        for path in paths:
            answer = page.goto(f"/o/{org.pk}/{path}")
            assert answer is not None
            assert answer.status == 200, path
            for size in (WIDE, NARROW):
                page.set_viewport_size(size)  # type: ignore[arg-type]  # plain dictionaries
                assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
                assert page.evaluate(CUT_OFF) == [], path
        assert complaints == []

    def test_pages_work_without_scripts(
        self, new_page: Callable[..., Page], alice: User, org: Organization, paths: list[str]
    ) -> None:
        page = new_page(alice, java_script_enabled=False)
        page.goto(f"/o/{org.pk}/alerts/?metric=calls")
        expect(page.locator("[data-live]")).to_have_text("Reload to see newer ones")
        page.get_by_label("Customer").fill("nobody")
        page.get_by_role("button", name="Filter").click()
        expect(page.get_by_text("There is no customer “nobody”; showing all.")).to_be_visible()

        page.goto(f"/o/{org.pk}/thresholds/new?metric=calls")
        page.get_by_label("Code").fill("cap")
        page.get_by_label("Value").fill("5")
        page.get_by_role("button", name="Create threshold").click()
        expect(page.get_by_role("heading", name="cap")).to_be_visible()
