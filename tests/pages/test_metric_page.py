"""One metric's page: its numbers are the API's, whatever the address asks for."""

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization
from metering.models import Aggregation, Metric
from metering.services.rollup import roll_up_organization
from tests import factories
from tests.pages.conftest import text_of

PageUrl = Callable[[str], str]
Send = Callable[..., None]


@pytest.fixture
def look(browser: Client, page_url: PageUrl) -> Callable[..., Any]:
    """Return a visitor of a metric's page that answers with the page's context."""

    def visit(query: str = "", code: str = "storage") -> Any:
        answer = browser.get(page_url(f"metrics/{code}/{query}"))
        assert answer.status_code == 200, answer.content.decode()
        return answer.context["page"]

    return visit


@pytest.mark.usefixtures("storage")
class TestNumbers:
    def test_total_is_in_the_html(self, browser: Client, page_url: PageUrl) -> None:
        page = text_of(browser.get(page_url("metrics/storage/")))

        assert '<data class="number" value="36" title="36">36</data>' in page
        assert "Storage by day" in page

    @pytest.mark.parametrize(
        ("query", "total"),
        [
            ("", "36"),
            ("?range=7d", "36"),
            ("?range=12m", "36"),
            ("?customer=acme", "30"),
            ("?filter[region]=eu", "15"),
            ("?filter[region]=eu&filter[tier]=hot", "10"),
            ("?filter[region]=eu&filter[region]=us", "36"),
            ("?customer=bolt&filter[tier]=hot", "0"),
            ("?first=2020-01-01&last=2020-01-31", "0"),
        ],
    )
    def test_address_narrows_every_part_of_the_page(self, look: Callable[..., Any], query: str, total: str) -> None:
        page = look(query)

        assert page.figures[0].value == Decimal(total)
        assert sum(row.values[0] for row in page.table.rows) == Decimal(total)
        assert page.breakdown.total == Decimal(total)
        assert sum((row.value for row in page.breakdown.rows), Decimal(0)) == Decimal(total)

    @pytest.mark.parametrize(
        "query", ["", "?group_by=customer", "?group_by=region&filter[tier]=cold", "?customer=acme"]
    )
    def test_api_call_on_the_page_answers_with_the_same_numbers(
        self, look: Callable[..., Any], api_client: Client, query: str
    ) -> None:
        page = look(query)
        words = shlex.split(page.api_call.replace("\\\n", " "))
        parameters = [words[place + 1].split("=", 1) for place, word in enumerate(words) if word == "--data-urlencode"]
        asked: dict[str, list[str]] = {}
        for name, value in parameters:
            asked.setdefault(name, []).append(value)

        answer = api_client.get("/v1/usage/series", asked).json()

        by_api = sorted(sum(Decimal(point[1]) for point in line["points"]) for line in answer["series"])
        by_page = sorted(sum(line.values) for line in page.chart.lines)
        assert by_page == by_api
        assert len(page.table.rows) == len(answer["series"][0]["points"])

    def test_chosen_granularity_is_kept_where_it_suits_the_range(self, look: Callable[..., Any]) -> None:
        assert look("?range=7d&by=hour").table.heading == "Hour"
        assert look("?range=90d&by=week").table.heading == "Week"
        assert look("?range=90d&by=hour").table.heading == "Day"
        assert look("?range=12m").table.heading == "Week"


class TestGrouping:
    def test_greatest_groups_have_a_line_and_the_others_share_one(
        self, look: Callable[..., Any], make_metric: Callable[..., Metric], send: Send, noon: datetime
    ) -> None:
        make_metric("calls", Aggregation.COUNT, dimensions=("route",))
        routes = [f"/{letter}" for place, letter in enumerate("abcdefghi", start=1) for _ in range(place)]
        send(
            *(
                factories.make_event(type="calls", timestamp=noon.isoformat(), properties={"route": route})
                for route in routes
            )
        )

        page = look("?group_by=route", code="calls")

        lines = {line.label: sum(line.values) for line in page.chart.lines}
        assert list(lines)[:7] == ["/i", "/h", "/g", "/f", "/e", "/d", "/c"]
        assert lines["everything else"] == 3
        assert page.table.columns == [*lines, "Total"]
        assert sum(lines.values()) == page.figures[0].value == 45

    def test_groups_that_do_not_add_up_have_no_rest_and_are_not_stacked(
        self, look: Callable[..., Any], make_metric: Callable[..., Metric], send: Send, noon: datetime
    ) -> None:
        make_metric("peak", Aggregation.MAX, dimensions=("host",))
        send(
            *(
                factories.make_event(
                    type="peak", value=str(place), timestamp=noon.isoformat(), properties={"host": f"h{place}"}
                )
                for place in range(1, 10)
            )
        )

        page = look("?group_by=host", code="peak")

        assert [line.label for line in page.chart.lines] == ["h9", "h8", "h7", "h6", "h5", "h4", "h3"]
        assert page.chart.layers == []
        assert page.figures[0].value == 9
        assert not page.breakdown.has_shares
        assert "each customer" in page.note

    def test_events_without_the_dimension_are_in_the_rest(
        self, look: Callable[..., Any], make_metric: Callable[..., Metric], send: Send, noon: datetime
    ) -> None:
        make_metric("calls", Aggregation.COUNT, dimensions=("route",))
        send(
            factories.make_event(type="calls", timestamp=noon.isoformat(), properties={"route": "/a"}),
            factories.make_event(type="calls", timestamp=noon.isoformat()),
        )

        page = look("?group_by=route", code="calls")

        assert {line.label: sum(line.values) for line in page.chart.lines} == {"/a": 1, "everything else": 1}
        assert [(row.label, row.url == "") for row in page.breakdown.rows] == [("(none)", True), ("/a", False)]

    @pytest.mark.usefixtures("storage")
    def test_one_customer_is_not_grouped_by_customer(self, look: Callable[..., Any]) -> None:
        page = look("?group_by=customer&customer=acme")

        assert [line.label for line in page.chart.lines] == ["Storage"]
        assert "customer" not in [option.value for option in page.filters.groupings]

    def test_sums_below_zero_are_lines(
        self, look: Callable[..., Any], make_metric: Callable[..., Metric], send: Send, noon: datetime
    ) -> None:
        make_metric("balance", Aggregation.SUM, dimensions=("kind",))
        for value, kind in (("-5", "a"), ("7", "b")):
            send(
                factories.make_event(type="balance", value=value, timestamp=noon.isoformat(), properties={"kind": kind})
            )

        page = look("?group_by=kind", code="balance")

        assert page.chart.layers == []
        assert not page.breakdown.has_shares


@pytest.mark.usefixtures("storage")
class TestControls:
    def test_values_of_a_dimension_come_from_the_data(self, look: Callable[..., Any], org: Organization) -> None:
        roll_up_organization(organization_id=org.pk, now=datetime.now(UTC))

        region, tier = look("?filter[tier]=cold").filters.dimensions

        assert {option.value for option in region.options} == {"eu", "us"}
        # Its own filter does not narrow a dimension's choices.
        assert {(option.value, option.is_chosen) for option in tier.options} == {("cold", True), ("hot", False)}

    def test_a_chosen_value_without_events_can_be_unchosen(self, look: Callable[..., Any]) -> None:
        region = look("?filter[region]=mars").filters.dimensions[0]

        assert ("mars", True) in {(option.value, option.is_chosen) for option in region.options}

    def test_every_link_keeps_the_rest_of_the_address(self, browser: Client, page_url: PageUrl) -> None:
        address = page_url("metrics/storage/?range=90d&customer=acme&filter[region]=eu&group_by=tier")
        page = browser.get(address).context["page"]

        links = [*page.filters.granularities, *page.filters.ranges]
        for link in links:
            narrowed = browser.get(page_url("metrics/storage/") + link.url).context["page"]
            assert narrowed.figures[0].value == 10, link.url
            assert narrowed.filters.customer == "acme"
            assert [line.label for line in narrowed.chart.lines] == ["hot"]

    def test_many_customers_are_typed_not_listed(self, look: Callable[..., Any], org: Organization) -> None:
        assert [option.value for option in look().filters.customers] == ["acme", "bolt", "cargo"]

        for number in range(100):
            factories.make_customer(organization=org, external_id=f"more_{number}")

        assert look().filters.customers is None

    def test_breakdown_can_be_by_any_key(self, look: Callable[..., Any]) -> None:
        assert [row.label for row in look().breakdown.rows] == ["acme", "bolt", "cargo"]
        assert [row.label for row in look("?breakdown=region").breakdown.rows] == ["us", "eu"]
        assert [row.share_text for row in look("?breakdown=region").breakdown.rows] == ["58.3\u202f%", "41.7\u202f%"]


@pytest.mark.usefixtures("storage")
class TestNonsense:
    @pytest.mark.parametrize(
        ("query", "problem"),
        [
            ("?range=fortnight", "There is no such range"),
            ("?first=2026-02-30&last=2026-03-01", "A range needs two dates"),
            ("?first=2026-03-02&last=2026-03-01", "The range ends before it begins"),
            ("?first=0001-01-01&last=9999-12-31", "The range ends before it begins"),
            ("?customer=nobody", "There is no customer “nobody”"),
            ("?filter[colour]=red", "The metric has no dimension “colour”"),
            ("?group_by=colour", "“colour” is not among the choices of group_by"),
            ("?by=fortnight", "“fortnight” is not among the choices of by"),
        ],
    )
    def test_is_told_and_left_out(self, look: Callable[..., Any], query: str, problem: str) -> None:
        page = look(query)

        assert page.problems[0].startswith(problem)
        assert page.figures[0].value == 36

    @pytest.mark.parametrize(
        "query", ["?customer=%00", "?filter[region]=%00a", "?customer=" + "x" * 5000, "?filter[]=x&filter[=y&first=%ff"]
    )
    def test_never_breaks_the_page(self, look: Callable[..., Any], query: str) -> None:
        look(query)

    def test_of_others_is_text(self, browser: Client, page_url: PageUrl) -> None:
        page = text_of(browser.get(page_url("metrics/storage/?customer=<script>alert(1)</script>")))

        assert "<script>alert" not in page

    def test_metric_of_nobody_is_404(self, browser: Client, page_url: PageUrl) -> None:
        assert browser.get(page_url("metrics/nothing/")).status_code == 404
        assert browser.get(page_url("metrics/%00/")).status_code == 404


def test_values_with_markup_are_text_in_chart_and_table(
    browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric], send: Send, noon: datetime
) -> None:
    make_metric("calls", Aggregation.COUNT, dimensions=("route",))
    nasty = "</script><script>alert(1)</script>"
    send(factories.make_event(type="calls", timestamp=noon.isoformat(), properties={"route": nasty}))

    page = text_of(browser.get(page_url("metrics/calls/?group_by=route")))

    assert "<script>alert" not in page
    assert "\\u003C/script\\u003E" in page


def test_days_are_the_organizations(
    look: Callable[..., Any], org: Organization, make_metric: Callable[..., Metric], send: Send
) -> None:
    """Half past eleven in the evening, UTC, is the next day in Berlin."""
    Organization.objects.filter(pk=org.pk).update(zone="Europe/Berlin")
    make_metric("calls", Aggregation.COUNT)
    evening = (datetime.now(UTC) - timedelta(days=3)).replace(hour=23, minute=30)
    send(factories.make_event(type="calls", timestamp=evening.isoformat()))

    page = look(code="calls")

    counted = [row.label for row in page.table.rows if row.values[0]]
    assert counted == [f"{evening + timedelta(days=1):%a %-d %b %Y}"]


def test_shows_every_part_of_the_definition(
    browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric]
) -> None:
    make_metric(
        "visitors",
        Aggregation.COUNT_UNIQUE,
        event_type="visit",
        value_property="user_id",
        dimensions=("site",),
        billing_cycle_day=15,
        unit="person",
    )

    page = text_of(browser.get(page_url("metrics/visitors/")))

    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(?:<span class=\"chip\">)?(.*?)(?:</span>)?</dd>", page))
    assert facts == {
        "Code": "visitors",
        "Aggregation": "distinct count",
        "Unit": "person",
        "Event type": "visit",
        "Value": "user_id",
        "Dimension": "site",
        "Period": "month, from day 15",
    }


def test_costs_the_same_for_twice_as_many_customers_and_values(
    browser: Client,
    page_url: PageUrl,
    make_metric: Callable[..., Metric],
    send: Send,
    noon: datetime,
    count_queries: Callable[[Client, str], int],
) -> None:
    make_metric("calls", Aggregation.COUNT, dimensions=("route",))

    def send_numbered(numbers: range) -> None:
        send(
            *(
                factories.make_event(
                    customer=f"c{number}",
                    type="calls",
                    timestamp=noon.isoformat(),
                    properties={"route": f"/{number}"},
                )
                for number in numbers
            )
        )

    send_numbered(range(8))
    addresses = [page_url(f"metrics/calls/?group_by={key}") for key in ("", "customer", "route")]
    before = [count_queries(browser, address) for address in addresses]

    send_numbered(range(8, 16))

    assert [count_queries(browser, address) for address in addresses] == before
