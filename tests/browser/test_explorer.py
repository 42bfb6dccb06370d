"""The explorer as a person uses it: by pointer, by keyboard, without JavaScript, by the API calls it offers."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from django.test import Client
from playwright.sync_api import Page, Route, expect

from accounts.models import Organization, User
from accounts.services import IssuedKey
from metering.services.rollup import roll_up_organization
from tests import factories
from tests.browser.conftest import NARROW, WIDE
from tests.clients.web_server import WebServer

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

CALL_SECONDS = 60
# What a table shows, to be compared with what a call answers: {(bucket, group): value}, without zeros.
Numbers = dict[tuple[str, str], Decimal]


@pytest.fixture
def explorer_url(org: Organization, flights: None) -> str:
    return f"/o/{org.pk}/explorer/"


@pytest.fixture
def explorer(page: Page, explorer_url: str) -> Page:
    """Alice's page, on the explorer: 30 flights of ten days, 20 of UA and 10 of B6."""
    page.goto(f"{explorer_url}?metric=flights")
    page.evaluate("window.isFirstPaint = true")
    return page


def total(page: Page) -> Any:
    return page.locator(".figure-value").first


def query_of(page: Page) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(page.url).query)


def is_renewed_in_place(page: Page) -> bool:
    return bool(page.evaluate("window.isFirstPaint === true"))


def open_filter(page: Page, key: str) -> None:
    page.locator("summary", has_text=re.compile(f"^{key}")).click()


class TestInPlace:
    def test_choices_change_page_and_address_without_leaving_it(self, explorer: Page) -> None:
        explorer.get_by_label("Customer", exact=True).select_option("UA")
        expect(total(explorer)).to_have_text("20")

        open_filter(explorer, "origin")
        explorer.get_by_label("JFK").check()
        explorer.keyboard.press("Escape")  # closing the menu applies it
        expect(total(explorer)).to_have_text("10")

        explorer.get_by_role("link", name="7 days").click()
        expect(total(explorer)).to_have_text("7")

        explorer.get_by_label("Group by", exact=True).and_(explorer.locator("select")).select_option("dest")
        expect(explorer.locator("#groups tbody tr")).to_have_count(1)

        assert query_of(explorer) == [
            ("metric", "flights"),
            ("range", "7d"),
            ("mode", "incremental"),
            ("customer", "UA"),
            ("filter[origin]", "JFK"),
            ("group_by", "dest"),
        ]
        assert is_renewed_in_place(explorer)

        explorer.get_by_role("link", name="Clear", exact=True).click()
        expect(total(explorer)).to_have_text("21")
        assert is_renewed_in_place(explorer)

    def test_back_and_forward_go_through_the_choices(self, explorer: Page) -> None:
        customer = explorer.get_by_label("Customer", exact=True)
        customer.select_option("UA")
        expect(total(explorer)).to_have_text("20")
        customer.select_option("B6")
        expect(total(explorer)).to_have_text("10")

        explorer.go_back()
        expect(total(explorer)).to_have_text("20")
        expect(customer).to_have_value("UA")
        explorer.go_back()
        expect(total(explorer)).to_have_text("30")
        expect(customer).to_have_value("")
        explorer.go_forward()
        expect(total(explorer)).to_have_text("20")
        expect(customer).to_have_value("UA")
        assert is_renewed_in_place(explorer)

    def test_shared_link_shows_the_same_to_somebody_who_may_only_look(
        self, explorer: Page, new_page: Callable[..., Page], bob: User, complaints: list[str]
    ) -> None:
        explorer.context.grant_permissions(["clipboard-read", "clipboard-write"])
        explorer.get_by_label("Customer", exact=True).select_option("UA")
        explorer.get_by_label("Group by", exact=True).and_(explorer.locator("select")).select_option("origin")
        expect(explorer.locator("#groups tbody tr")).to_have_count(2)

        explorer.get_by_role("button", name="Copy link").click()
        expect(explorer.get_by_role("button", name="Copied")).to_be_visible()
        link = explorer.evaluate("navigator.clipboard.readText()")

        others = new_page(bob)
        others.goto(link)
        expect(total(others)).to_have_text("20")
        assert others.locator("#groups").inner_text() == explorer.locator("#groups").inner_text()

    def test_shared_link_is_absent_for_an_outsider(
        self, explorer: Page, new_page: Callable[..., Page], charlie: User, complaints: list[str]
    ) -> None:
        outsider = new_page(charlie)

        answer = outsider.goto(explorer.url)

        assert answer is not None
        assert answer.status == 404
        complaints.clear()  # the browser tells of the 404, as it should

    def test_group_narrows_and_the_focus_goes_along(self, explorer: Page) -> None:
        explorer.get_by_label("Group by", exact=True).and_(explorer.locator("select")).select_option("origin")
        explorer.locator("#groups").get_by_role("link", name="EWR").click()

        expect(total(explorer)).to_have_text("10")
        expect(explorer.get_by_role("heading", name="Flights by day")).to_be_focused()
        expect(explorer.locator("summary", has_text="origin: EWR")).to_be_visible()

    def test_days_are_typed(self, explorer: Page) -> None:
        today = datetime.now(UTC).date()
        explorer.locator("#days").click()
        explorer.get_by_label("First day").fill(str(today - timedelta(days=4)))
        explorer.get_by_label("Last day").fill(str(today - timedelta(days=3)))
        explorer.get_by_role("button", name="Show these days").click()

        expect(total(explorer)).to_have_text("6")
        # Two days are shown by hour; the numbers of a new chart are under the pointer too.
        explorer.locator("[data-plot]").focus()
        explorer.keyboard.press("ArrowLeft")
        expect(explorer.locator("[data-tip]")).to_contain_text("23:00")

    def test_other_metric_brings_its_own_choices(self, explorer: Page) -> None:
        explorer.get_by_label("Metric", exact=True).select_option("hop")

        expect(explorer.get_by_role("heading", name="Longest hop by day")).to_be_visible()
        expect(explorer).to_have_title(re.compile("^Longest hop by day"))

    def test_menu_in_use_is_left_alone_while_an_answer_arrives(self, explorer: Page) -> None:
        held: list[Route] = []
        explorer.route("**/explorer/panel*", lambda route: held.append(route))
        explorer.get_by_label("Customer", exact=True).select_option("UA")
        open_filter(explorer, "origin")
        explorer.get_by_label("EWR").check()

        held.pop().continue_()
        expect(total(explorer)).to_have_text("20")
        expect(explorer.get_by_label("EWR")).to_be_checked()

        explorer.unroute("**/explorer/panel*")
        explorer.keyboard.press("Escape")
        expect(total(explorer)).to_have_text("10")

    def test_newest_choice_wins_over_a_slower_one(self, explorer: Page) -> None:
        held: list[Route] = []
        explorer.route("**/explorer/panel*customer=UA*", lambda route: held.append(route))
        customer = explorer.get_by_label("Customer", exact=True)
        customer.select_option("UA")
        expect(explorer.locator("[data-explorer]")).to_have_attribute("aria-busy", "true")
        customer.select_option("B6")

        expect(total(explorer)).to_have_text("10")
        expect(explorer.locator("[data-explorer]")).not_to_have_attribute("aria-busy", "true")
        assert ("customer", "B6") in query_of(explorer)

    def test_customer_too_many_to_list_is_suggested(self, explorer: Page, explorer_url: str, org: Organization) -> None:
        for number in range(101):
            factories.make_customer(organization=org, external_id=f"line-{number:03}")
        explorer.goto(f"{explorer_url}?metric=flights")
        field = explorer.get_by_label("Customer", exact=True)

        field.press_sequentially("b")
        expect(explorer.locator("#customer-suggestions option")).to_have_attribute("value", "B6")

        field.fill("B6")
        field.press("Enter")
        expect(total(explorer)).to_have_text("10")

    def test_value_too_many_to_list_is_typed(
        self, explorer: Page, explorer_url: str, org: Organization, send: Callable[..., None]
    ) -> None:
        send(
            *(
                factories.make_event(type="flight", properties={"origin": f"A{number:03}", "dest": "BOS"})
                for number in range(101)
            )
        )
        roll_up_organization(organization_id=org.pk, now=datetime.now(UTC))
        explorer.goto(f"{explorer_url}?metric=flights")
        open_filter(explorer, "origin")
        field = explorer.get_by_label("Another value of origin")

        field.press_sequentially("jf")
        expect(explorer.locator("#suggestions-1 option")).to_have_attribute("value", "JFK")

        field.fill("JFK")
        field.press("Enter")
        expect(total(explorer)).to_have_text("20")
        expect(explorer.locator("#filter-1")).to_have_text("origin: JFK")
        expect(explorer.locator("#filter-1")).to_be_focused()


class TestFailures:
    def test_lost_connection_is_told_and_tried_again(
        self, new_page: Callable[..., Page], alice: User, explorer_url: str
    ) -> None:
        page = new_page(alice)  # its console tells of the failed request, as it should
        page.goto(f"{explorer_url}?metric=flights")
        page.route("**/explorer/panel*", lambda route: route.abort())
        page.get_by_label("Customer", exact=True).select_option("UA")

        error = page.get_by_role("alert")
        expect(error).to_contain_text("could not be loaded")
        expect(total(page)).to_have_text("30")

        page.unroute("**/explorer/panel*")
        error.get_by_role("button", name="Try again").click()
        expect(total(page)).to_have_text("20")
        expect(error).to_be_hidden()

    def test_who_is_signed_out_meanwhile_is_asked_to_sign_in(
        self, new_page: Callable[..., Page], alice: User, explorer_url: str
    ) -> None:
        page = new_page(alice)
        page.goto(f"{explorer_url}?metric=flights")
        page.context.clear_cookies()

        page.get_by_label("Customer", exact=True).select_option("UA")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

        page.get_by_label("Email").fill(alice.email)
        page.get_by_label("Password").fill(factories.PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(total(page)).to_have_text("20")


def test_works_without_javascript(new_page: Callable[..., Page], alice: User, explorer_url: str) -> None:
    page = new_page(alice, java_script_enabled=False)
    page.goto(explorer_url)

    page.get_by_label("Metric", exact=True).select_option("flights")
    page.get_by_label("Customer", exact=True).select_option("UA")
    page.get_by_label("Group by", exact=True).and_(page.locator("select")).select_option("origin")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(total(page)).to_have_text("20")
    expect(page.locator("#groups tbody tr")).to_have_count(2)

    page.get_by_role("link", name="Rolling 30 days").click()
    expect(page.get_by_role("heading", name="Flights, rolling 30 days, by day and origin")).to_be_visible()

    page.locator("#days").click()
    page.get_by_label("First day").fill("2026-01-01")
    page.get_by_label("Last day").fill("2026-01-03")
    page.get_by_role("button", name="Show these days").click()
    page.get_by_role("link", name="Show the days up to then").click()
    expect(total(page)).to_have_text("20")


class TestAccessibility:
    def test_every_control_has_a_name_and_every_id_is_unique(self, explorer: Page) -> None:
        explorer.get_by_label("Group by", exact=True).and_(explorer.locator("select")).select_option("origin")
        expect(explorer.locator("#groups tbody tr")).to_have_count(2)

        unnamed = explorer.evaluate(
            """() => [...document.querySelectorAll("#content :is(a[href], button, input, select, summary, [role])")]
                .filter(node => node.checkVisibility() && node.type !== "hidden")
                .filter(node => !(node.ariaLabel || node.labels?.length || node.textContent.trim()
                    || document.getElementById(node.getAttribute("aria-labelledby"))))
                .map(node => node.outerHTML.slice(0, 120))"""
        )
        assert [found for found in unnamed if 'role="status"' not in found and 'role="alert"' not in found] == []
        ids = explorer.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
        assert len(ids) == len(set(ids))
        dangling = explorer.evaluate(
            """() => [...document.querySelectorAll("[aria-labelledby], [aria-describedby], label[for]")]
                .flatMap(node => [node.getAttribute("aria-labelledby"), node.getAttribute("aria-describedby"),
                    node.getAttribute("for")])
                .filter(Boolean).flatMap(names => names.split(" ")).filter(id => !document.getElementById(id))"""
        )
        assert dangling == []

    def test_headings_and_tables_have_a_structure(self, explorer: Page) -> None:
        explorer.get_by_label("Group by", exact=True).and_(explorer.locator("select")).select_option("origin")
        expect(explorer.locator("#groups tbody tr")).to_have_count(2)

        assert explorer.locator("h1").all_inner_texts() == ["Explorer"]
        assert explorer.locator("#content h2").all_inner_texts() == [
            "Flights by day and origin",
            "Groups",
            "The chart as a table",
            "The same by API",
        ]
        for table in explorer.locator("#content table").all():
            assert table.locator("thead th").count() > 1
            assert table.locator("tbody tr").count() == table.locator("tbody th[scope=row]").count()
        chart = explorer.get_by_role("img", name=re.compile("Flights by day and origin.*tables below hold the numbers"))
        expect(chart).to_be_visible()

    def test_changes_are_said_and_the_focus_stays(self, explorer: Page) -> None:
        status = explorer.locator("[data-explorer-status]")
        expect(status).to_have_attribute("role", "status")
        customer = explorer.get_by_label("Customer", exact=True)
        customer.focus()
        customer.select_option("UA")

        expect(status).to_contain_text("Flights by day")
        expect(customer).to_be_focused()

        link = explorer.get_by_role("link", name="Month to date")
        link.focus()
        explorer.keyboard.press("Enter")
        expect(status).to_contain_text("Flights, month to date, by day")
        expect(link).to_be_focused()
        expect(link).to_have_attribute("aria-current", "true")

    def test_keyboard_reaches_everything_and_is_never_trapped(self, explorer: Page) -> None:
        explorer.locator("#content").evaluate("node => { node.tabIndex = -1; node.focus(); }")
        reached: list[str] = []
        for _ in range(80):
            explorer.keyboard.press("Tab")
            reached.append(
                explorer.evaluate("document.activeElement.id || document.activeElement.textContent.trim().slice(0, 30)")
            )
            if reached[-1] == "API reference":
                break
        assert reached[-1] == "API reference"
        wanted = ["metric", "7 days", "Last month", "days", "Incremental", "Week", "customer", "filter-1", "group-by-1"]
        places = [reached.index(name) for name in [*wanted, "CSV", "curl-call", "python-call"]]
        assert places == sorted(places)
        # What cannot be chosen is no stop.
        assert "Hour" not in reached

    def test_menu_is_opened_used_and_left_by_keyboard(self, explorer: Page) -> None:
        explorer.locator("#filter-1").focus()
        explorer.keyboard.press("Enter")
        explorer.keyboard.press("Tab")
        explorer.keyboard.press("Space")
        explorer.keyboard.press("Escape")

        expect(total(explorer)).to_have_text("10")
        expect(explorer.locator("#filter-1")).to_be_focused()

    def test_what_cannot_be_chosen_says_why(self, explorer: Page) -> None:
        hour = explorer.get_by_role("link", name="Hour")

        expect(hour).to_have_attribute("aria-disabled", "true")
        described_by = hour.get_attribute("aria-describedby")
        expect(explorer.locator(f"#{described_by}")).to_contain_text("By hour is for up to 14 days.")


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide", "narrow"])
def test_fits_every_screen_without_complaint(
    new_page: Callable[..., Page],
    complaints: list[str],
    alice: User,
    explorer_url: str,
    size: dict[str, int],
    scheme: str,
) -> None:
    page = new_page(alice, viewport=size, color_scheme=scheme)
    for query in (
        "?metric=flights",
        "?metric=flights&group_by=origin&group_by=dest&group_by=customer&range=90d",
        "?metric=hop&mode=rolling_30d&group_by=customer",
        "?metric=flights&first=2020-01-01&last=2020-01-02",
    ):
        page.goto(explorer_url + query)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], query
        for menu in page.locator("#content summary").all():
            menu.click()
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], (query, menu)
            widths = page.locator("details.menu[open] .menu-item-text").evaluate_all(
                "texts => texts.map(text => text.getBoundingClientRect().width)"
            )
            assert all(width > 20 for width in widths)  # the values can be read
            page.keyboard.press("Escape")
    assert complaints == []


class TestCalls:
    """The calls on the page are run as they stand, and answer with the numbers of its tables."""

    QUERIES = [
        "?metric=flights",
        "?metric=flights&mode=month_to_date&range=90d&customer=UA",
        "?metric=flights&group_by=origin&group_by=customer&filter[dest]=BOS&range=7d&granularity=hour",
        "?metric=hop&mode=rolling_30d&group_by=customer",
    ]

    @pytest.fixture(autouse=True)
    def odd_dimension(self, org: Organization, flights: None, send: Callable[..., None]) -> None:
        """A value that shells and Python would take for something else."""
        send(
            factories.make_event(
                customer="UA", type="flight", properties={"origin": """O'Hare "\\$1" ü""", "dest": "BOS", "distance": 1}
            )
        )
        roll_up_organization(organization_id=org.pk, now=datetime.now(UTC))

    @pytest.mark.parametrize("query", QUERIES)
    def test_curl(self, page: Page, explorer_url: str, api_key: IssuedKey, query: str) -> None:
        if shutil.which("curl") is None:
            pytest.skip("no curl is installed")
        page.goto(explorer_url + query)

        answer = json.loads(run(["sh", "-c", page.locator("#curl-call").inner_text()], api_key))

        by_call = {
            (time, " · ".join(line["group"].values())): Decimal(value)
            for line in answer["series"]
            for time, value in line["points"]
            if Decimal(value)
        }
        assert by_call == read_numbers(page)
        assert by_call

    @pytest.mark.parametrize("query", [*QUERIES, "?metric=flights&group_by=origin"])
    def test_python(self, page: Page, explorer_url: str, api_key: IssuedKey, query: str) -> None:
        page.goto(explorer_url + query)

        printed = run([sys.executable, "-c", page.locator("#python-call").inner_text()], api_key)

        by_call: Numbers = {}
        for line in printed.splitlines():
            time, *group, value = line.split(" ")
            if Decimal(value):
                by_call[time.replace("+00:00", "Z"), " ".join(group)] = Decimal(value)
        by_page = {(time, group.replace(" · ", " ")): value for (time, group), value in read_numbers(page).items()}
        assert by_call == by_page
        assert by_call

    def test_filter_by_an_odd_value(self, page: Page, explorer_url: str, api_key: IssuedKey) -> None:
        page.goto(f"{explorer_url}?metric=flights&group_by=origin")
        page.locator("#groups").get_by_role("link", name="O'Hare").click()
        expect(total(page)).to_have_text("1")

        for command in (
            ["sh", "-c", page.locator("#curl-call").inner_text()],
            [sys.executable, "-c", page.locator("#python-call").inner_text()],
        ):
            assert re.search(r'(?m)( 1$|"1"\])', run(command, api_key)), command

    def test_what_is_too_long_for_one_answer_comes_as_a_file(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        server: WebServer,
        alice: User,
        explorer_url: str,
        api_key: IssuedKey,
    ) -> None:
        monkeypatch.setattr("usage_reports.contexts.explorer.calls.MAX_POINTS", 5)
        browser = Client()
        browser.force_login(alice)
        url = (
            f"{explorer_url}?metric=flights&customer=UA&range=7d&group_by=origin&filter[origin]=JFK&filter[origin]=EWR"
        )
        calls = browser.get(url, headers={"host": urlsplit(server.url).netloc}).context["page"].calls
        assert "14 points" in calls.note

        files = []
        for command in (["sh", "-c", calls.curl], [sys.executable, "-c", calls.python]):
            run(command, api_key, directory=tmp_path)
            files.append((tmp_path / "usage.csv").read_text())

        lines = [line.split(",") for line in files[0].splitlines()]
        assert lines[0] == ["metric", "customer", "group.origin", "bucket_start", "value", "is_partial"]
        assert sorted(line[2] for line in lines[1:] if line[4] == "1") == ["EWR"] * 7 + ["JFK"] * 7
        assert files[1] == files[0]

    def test_export_holds_the_same(self, page: Page, explorer_url: str, api: httpx.Client) -> None:
        page.goto(f"{explorer_url}?metric=flights&group_by=origin&range=7d")

        with page.expect_download() as download:
            page.get_by_role("link", name="Export as NDJSON").click()

        rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
        by_file = {
            (row["bucket_start"], row["group.origin"]): Decimal(row["value"]) for row in rows if row["value"] != "0"
        }
        assert by_file == read_numbers(page)
        assert download.value.suggested_filename.startswith("usage-flights-")


def run(command: list[str], key: IssuedKey, *, directory: Path | None = None) -> str:
    environment = {"METERBOOK_API_KEY": key.text, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, env=environment, cwd=directory, capture_output=True, text=True, timeout=CALL_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_numbers(page: Page) -> Numbers:
    """Return what the table of the chart shows, but for zeros and the column of totals."""
    table = page.get_by_role("region", name="The chart as a table").locator("table")
    labels: list[str] = table.locator("thead th").all_text_contents()[1:]
    rows: list[list[str]] = table.evaluate(
        "table => [...table.tBodies[0].rows].map(row => [...row.querySelectorAll('data')].map(cell => cell.value))"
    )
    times = [text for text in table.locator("tbody th[scope=row]").all_text_contents()]
    is_grouped = labels[-1] == "Total"
    return {
        (utc_time(time), label if is_grouped else ""): Decimal(value)
        for time, row in zip(times, rows, strict=True)
        for label, value in zip(labels, row, strict=True)
        if Decimal(value) and label != "Total"
    }


def utc_time(label: str) -> str:
    """Read "Sat 21 Nov 2026" and "21 Nov 2026, 14:00", with or without a badge behind it."""
    found = re.search(r"(\d+ \w{3} \d{4})(?:, (\d\d:\d\d))?", label)
    assert found is not None, label
    moment = datetime.strptime(f"{found[1]} {found[2] or '00:00'}", "%d %b %Y %H:%M")
    return f"{moment:%Y-%m-%dT%H:%M:%S}Z"
