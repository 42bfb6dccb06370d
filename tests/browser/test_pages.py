"""What only a browser can show: that the pages work as a person uses them."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from accounts.models import Organization, User
from tests import factories
from tests.browser.conftest import NARROW
from tests.browser.looks import look_at
from tests.clients.web_server import Servers

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PAGES = [
    "",
    "metrics/flights/",
    "metrics/flights/?group_by=origin&range=90d",
    "metrics/hop/?group_by=customer&range=12m",
    "events/",
    "inbox/",
    "forwarding/",
    "forwarding/map",
    "forwarding/quarantine/",
    "customers/",
    "fleet/",
    "catalogs/",
    "new-metric",
    "routes/",
    "routes/new",
    "members/",
    "projects/",
    "keys/",
    "settings/",
    "audit/",
]


def test_person_signs_in_and_switches_organization(
    new_page: Callable[..., Page], complaints: list[str], alice: User, org: Organization
) -> None:
    second = factories.make_organization(name="Initrode", owner=alice)
    page = new_page()

    page.goto(f"/o/{org.pk}/events/")
    page.get_by_label("Email").fill(alice.email)
    page.get_by_label("Password").fill(factories.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    # Back to where they wanted to go.
    expect(page).to_have_url(re.compile(rf"/o/{org.pk}/events/$"))

    page.get_by_label("Organization: Initech").click()
    page.get_by_role("link", name="Initrode").click()
    expect(page).to_have_url(re.compile(rf"/o/{second.pk}/$"))
    expect(page.get_by_text("Nothing is metered yet")).to_be_visible()

    page.get_by_role("button", name="Sign out").click()
    page.goto("/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert complaints == []


@pytest.mark.usefixtures("flights")
class TestMetricPage:
    def test_filters_and_grouping_change_chart_and_address(self, page: Page, org: Organization) -> None:
        page.goto(f"/o/{org.pk}/")
        page.get_by_role("link", name="Flights").click()
        total = page.locator(".figure-value").first
        expect(total).to_have_text("30")
        expect(page.locator(".chart-bars rect")).to_have_count(10)

        page.get_by_label("Customer", exact=True).select_option("UA")
        expect(total).to_have_text("20")

        page.locator("summary", has_text="origin").click()
        page.get_by_label("JFK").check()
        page.keyboard.press("Escape")  # closing the menu applies it
        expect(total).to_have_text("10")
        expect(page.locator("summary", has_text="origin: JFK")).to_be_visible()

        page.get_by_label("Customer", exact=True).select_option("")
        page.get_by_label("Group by").select_option("customer")
        expect(page.locator(".legend li")).to_have_text(["B6", "UA"])
        expect(page.locator(".chart-bars rect")).to_have_count(20)

        # The address alone shows the same again.
        page.goto(page.url)
        expect(total).to_have_text("20")
        expect(page.locator(".legend li")).to_have_text(["B6", "UA"])

        page.get_by_role("link", name="Clear").click()
        expect(total).to_have_text("30")

    def test_range_is_picked_and_typed(self, page: Page, org: Organization) -> None:
        page.goto(f"/o/{org.pk}/metrics/flights/")

        page.get_by_role("link", name="7 days").click()
        expect(page.locator(".figure-value").first).to_have_text("21")

        page.locator("summary", has_text="\u2013").click()
        page.get_by_label("First day").fill("2026-01-01")
        page.get_by_label("Last day").fill("2026-01-03")
        page.get_by_role("button", name="Show these days").click()
        expect(page.locator(".figure-value").first).to_have_text("0")
        expect(page.get_by_text("Nothing was counted in this range.").first).to_be_visible()

    def test_numbers_under_pointer_and_arrow_keys(self, page: Page, org: Organization) -> None:
        page.goto(f"/o/{org.pk}/metrics/flights/?range=7d&group_by=origin")
        plot, tip = page.locator("[data-plot]"), page.locator("[data-tip]")
        expect(tip).to_be_hidden()

        box = plot.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 100)
        expect(tip).to_contain_text("JFK2")
        expect(tip).to_contain_text("EWR1")
        expect(tip).to_contain_text("Total3")

        page.mouse.move(0, 0)
        expect(tip).to_be_hidden()

        plot.focus()
        page.keyboard.press("ArrowLeft")
        expect(tip).to_contain_text("so far")
        page.keyboard.press("ArrowLeft")
        expect(tip).not_to_contain_text("so far")


@pytest.mark.usefixtures("flights")
class TestEventTail:
    def test_new_event_appears_by_itself(self, page: Page, org: Organization, send: Callable[..., None]) -> None:
        page.goto(f"/o/{org.pk}/events/")
        expect(page.locator("[data-live]")).to_have_attribute("data-state", "live")

        markup = "<b onclick=alert(1)>"
        send(factories.make_event(idempotency_key="fresh/1", customer="UA", type="flight", properties={"note": markup}))

        first = page.locator("#event-rows tr").first
        expect(first).to_have_attribute("data-key", "fresh/1")
        expect(first).to_contain_text(markup)

        first.get_by_role("link", name="fresh/1").click()
        expect(page.get_by_role("heading", name="fresh/1")).to_be_visible()

    def test_late_event_appears_too(self, page: Page, org: Organization, send: Callable[..., None]) -> None:
        """It happened long ago and so stands on no first page; the live view shows what arrives."""
        page.goto(f"/o/{org.pk}/events/")
        expect(page.locator("[data-live]")).to_have_attribute("data-state", "live")

        send(factories.make_event(idempotency_key="late", type="flight", timestamp="2020-02-29T00:00:00Z"))

        expect(page.locator("#event-rows tr").first).to_have_attribute("data-key", "late")

    def test_filtered_tail_shows_what_fits_alone(
        self, page: Page, org: Organization, send: Callable[..., None]
    ) -> None:
        page.goto(f"/o/{org.pk}/events/?customer=UA")
        expect(page.locator("[data-live]")).to_have_attribute("data-state", "live")

        send(
            factories.make_event(idempotency_key="other", customer="B6", type="flight"),
            factories.make_event(idempotency_key="fitting", customer="UA", type="flight"),
        )

        expect(page.locator("#event-rows tr").first).to_have_attribute("data-key", "fitting")
        expect(page.locator("tr[data-key=other]")).to_have_count(0)

    def test_without_the_stream_the_page_asks_every_few_seconds(
        self,
        new_page: Callable[..., Page],
        alice: User,
        org: Organization,
        servers: Servers,
        send: Callable[..., None],
    ) -> None:
        servers.stream.stop()
        page = new_page(alice)  # its console tells of the refused connection, as it should

        page.goto(f"/o/{org.pk}/events/")
        expect(page.locator("[data-live]")).to_have_attribute("data-state", "polling")
        send(factories.make_event(idempotency_key="polled", type="flight"))

        expect(page.locator("#event-rows tr").first).to_have_attribute("data-key", "polled", timeout=10_000)


@pytest.mark.usefixtures("flights")
class TestLook:
    def test_no_page_scrolls_sideways_or_complains(
        self, new_page: Callable[..., Page], complaints: list[str], alice: User, org: Organization
    ) -> None:
        page = new_page(alice)
        for path in PAGES:
            page.goto(f"/o/{org.pk}/{path}")
            look_at(page, path.replace("/", "-"))
        assert complaints == []

    def test_menu_of_a_narrow_screen_opens(self, new_page: Callable[..., Page], alice: User, org: Organization) -> None:
        page = new_page(alice, viewport=NARROW)
        page.goto(f"/o/{org.pk}/")
        customers = page.get_by_role("link", name="Customers")
        expect(customers).to_be_hidden()

        page.get_by_role("button", name="Menu").click()
        customers.click()

        expect(page.get_by_role("heading", name="Customers")).to_be_visible()

    def test_dark_follows_the_system_until_the_person_chooses(
        self, new_page: Callable[..., Page], alice: User, org: Organization
    ) -> None:
        page = new_page(alice, color_scheme="dark")
        page.goto(f"/o/{org.pk}/")
        assert luminance_of_background(page) < 0.1

        page.get_by_role("button", name="Light or dark").click()
        assert luminance_of_background(page) > 0.8

        page.goto(f"/o/{org.pk}/events/")
        assert luminance_of_background(page) > 0.8

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out_from_its_ground(
        self, new_page: Callable[..., Page], alice: User, org: Organization, scheme: str
    ) -> None:
        """WCAG AA: 4.5 to 1, for every pair of ink and ground that the stylesheet uses."""
        page = new_page(alice, color_scheme=scheme)
        page.goto(f"/o/{org.pk}/")
        pairs = [(ink, ground) for ink in INKS for ground in ("paper", "surface", "sunken", "hover", "raised")]
        pairs += [("on-accent", "accent"), ("accent-strong", "accent-soft"), ("on-danger", "danger")]
        pairs += [(kind, f"{kind}-soft") for kind in ("danger", "warning", "success")]

        too_faint = {pair: ratio for pair in pairs if (ratio := contrast(page, *pair)) < 4.5}

        assert too_faint == {}


INKS = ("ink", "ink-soft", "ink-faint", "accent", "danger", "warning", "success")


def luminance_of_background(page: Page) -> float:
    return luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def contrast(page: Page, ink: str, ground: str) -> float:
    """Return the contrast ratio of two tokens as the browser resolves them."""
    colours = page.evaluate(
        """names => names.map(name => {
            const probe = document.body.appendChild(document.createElement("i"));
            probe.style.color = `var(--${name})`;
            const colour = getComputedStyle(probe).color;
            probe.remove();
            return colour;
        })""",
        [ink, ground],
    )
    darker, lighter = sorted(luminance(colour) for colour in colours)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_new_key_is_shown_copied_and_works(page: Page, org: Organization, api: httpx.Client) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"/o/{org.pk}/keys/")

    page.get_by_label("Name").fill("backend")
    page.get_by_label("usage:read").check()
    page.get_by_role("button", name="Create key").click()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()

    copied: Any = page.evaluate("navigator.clipboard.readText()")
    assert api.get("/v1/metrics", headers={"Authorization": f"Bearer {copied}"}).status_code == 200

    page.get_by_role("row", name="backend").get_by_role("button", name="Change").click()
    page.get_by_role("button", name="Revoke now").click()
    expect(page.get_by_role("row", name="backend")).to_contain_text("revoked")


def test_waiting_events_are_counted_after_the_metric_is_defined(
    page: Page, org: Organization, api: httpx.Client
) -> None:
    """From a refused event to its number, without leaving the pages."""
    page.goto(f"/o/{org.pk}/settings/")
    page.get_by_label("Keep events that no metric listens to").check()
    page.get_by_role("button", name="Save").click()
    api.post("/v1/events", json=[factories.make_event(type="api.call") for _ in range(3)])

    page.goto(f"/o/{org.pk}/")
    page.get_by_role("link", name="See why").click()
    expect(page.get_by_text("No active metric listens to events of type 'api.call'.")).to_have_count(3)

    page.get_by_role("link", name="defining the metric").click()
    page.get_by_label("Code").fill("api.call")
    page.get_by_role("button", name="Create metric").click()
    expect(page.get_by_role("heading", name="Send the first event")).to_be_visible()

    page.goto(f"/o/{org.pk}/inbox/")
    page.get_by_role("button", name="Replay all").click()
    expect(page.get_by_text("3 counted now.")).to_be_visible()
    expect(page.get_by_text("Nothing waits")).to_be_visible()

    page.goto(f"/o/{org.pk}/metrics/api.call/")
    expect(page.locator(".figure-value").first).to_have_text("3")


def test_expression_is_checked_and_tried_while_it_is_typed(page: Page, org: Organization) -> None:
    page.goto(f"/o/{org.pk}/routes/new")
    page.get_by_label("Units are").select_option("custom")
    told = page.locator("#expression-check")

    page.get_by_label("Expression").fill("request.body.items.length *")
    expect(told).to_have_text("Column 28: The expression ends too early.")

    page.get_by_label("Expression").fill("request.body.items.length * 0.5")
    page.get_by_label("Request body").fill('{"items": [1, 2, 3]}')
    expect(told).to_have_text("With this sample: 1.5")

    page.get_by_role("button", name="Create route").click()
    expect(page.get_by_role("cell", name="request.body.items.length * 0.5")).to_be_visible()
