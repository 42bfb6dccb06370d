"""The explorer's page: what it shows is the usage query's answer, whatever its address asks for."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.test import Client

from accounts.models import Organization, User
from metering.catalogs import MetricDefinition
from metering.models import Aggregation, Metric
from metering.services.metrics import archive_metric, create_metric
from metering.services.rollup import roll_up_organization
from tests import factories

JSON = "application/json"
Explore = Callable[..., Any]
Send = Callable[..., None]
DefineMetric = Callable[..., Metric]


@pytest.fixture
def define_metric(org: Organization) -> DefineMetric:
    def define(code: str, aggregation: Aggregation, *keys: str, **fields: Any) -> Metric:
        dimensions = tuple({"key": key, "values": None, "strict": False} for key in keys)
        definition = MetricDefinition(code=code, aggregation=aggregation, dimensions=dimensions, **fields)
        return create_metric(organization=org, definition=definition, actor="test")

    return define


@pytest.fixture
def send(api_client: Client) -> Send:
    def send_events(*events: dict[str, Any]) -> None:
        answer = api_client.post("/v1/events", list(events), content_type=JSON).json()
        assert answer["stored"] == len(events), answer

    return send_events


@pytest.fixture
def noon() -> datetime:
    """Noon of yesterday, UTC: within every range that ends today, and never in the future."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return yesterday.replace(hour=12, minute=0, second=0, microsecond=0)


@pytest.fixture
def storage(define_metric: DefineMetric, send: Send, noon: datetime) -> Metric:
    """A sum with three dimensions: 10 + 20 from acme, 5 from bolt, 1 from cargo, the last without a tier; 36 in all."""
    metric = define_metric("storage", Aggregation.SUM, "region", "tier", "zone", unit="GB", name="Storage")
    quantities = [
        ("acme", "10", {"region": "eu", "tier": "hot", "zone": "a"}),
        ("acme", "20", {"region": "us", "tier": "cold", "zone": "a"}),
        ("bolt", "5", {"region": "eu", "tier": "cold", "zone": "b"}),
        ("cargo", "1", {"region": "us", "zone": "b"}),
    ]
    send(
        *(
            factories.make_event(
                customer=customer, type="storage", value=value, timestamp=noon.isoformat(), properties=properties
            )
            for customer, value, properties in quantities
        )
    )
    return metric


@pytest.fixture
def visit(client_for: Callable[[User], Client], alice: User, org: Organization) -> Explore:
    """Return a visitor of the explorer that answers with the response."""
    client = client_for(alice)
    return lambda query="", path="": client.get(f"/o/{org.pk}/explorer/{path}{query}")


@pytest.fixture
def explore(visit: Explore) -> Explore:
    """Return a visitor of the explorer that answers with the page's context."""

    def look(query: str = "") -> Any:
        answer = visit(query)
        assert answer.status_code == 200, answer.content.decode()
        return answer.context["page"]

    return look


def groups_of(page: Any) -> dict[tuple[str, ...], Decimal]:
    return {tuple(cell.label for cell in row.cells): row.value for row in page.results.groups.rows}


@pytest.mark.usefixtures("storage")
class TestNumbers:
    def test_first_metric_and_its_numbers_are_in_the_html(self, visit: Explore) -> None:
        html = visit().content.decode()

        assert '<data class="number" value="36" title="36">36</data>' in html
        assert "Storage by day" in html

    @pytest.mark.parametrize(
        ("query", "total"),
        [
            ("?metric=storage", "36"),
            ("?range=7d", "36"),
            ("?range=12m&granularity=month", "36"),
            ("?customer=acme", "30"),
            ("?filter[region]=eu", "15"),
            ("?filter[region]=eu&filter[tier]=hot", "10"),
            ("?filter[region]=eu&filter[region]=us&customer=bolt", "5"),
        ],
    )
    def test_address_narrows_every_part_of_the_page(self, explore: Explore, query: str, total: str) -> None:
        page = explore(query)

        assert page.results.figures[0].value == Decimal(total)
        assert sum(row.values[0] for row in page.results.table.rows) == Decimal(total)

    def test_up_to_three_groupings_split_the_same_total(self, explore: Explore) -> None:
        page = explore("?group_by=region&group_by=tier&group_by=customer")

        assert groups_of(page) == {
            ("us", "cold", "acme"): 20,
            ("eu", "hot", "acme"): 10,
            ("eu", "cold", "bolt"): 5,
            ("us", "(none)", "cargo"): 1,
        }
        assert page.results.groups.total == 36
        assert page.results.table.columns == [
            "us · cold · acme",
            "eu · hot · acme",
            "eu · cold · bolt",
            "us · (none) · cargo",
            "Total",
        ]
        assert [sum(line.values) for line in page.results.chart.lines] == [20, 10, 5, 1]

    def test_group_leads_to_its_own_numbers(self, explore: Explore) -> None:
        page = explore("?group_by=tier&group_by=customer&filter[region]=eu")
        hot, cold = page.results.groups.rows

        assert (hot.value, explore(hot.url).results.figures[0].value) == (10, 10)
        assert (cold.value, explore(cold.url).results.figures[0].value) == (5, 5)
        assert dict(parse_qsl(hot.url[1:]))["filter[region]"] == "eu"

    def test_group_without_the_dimension_is_shown_and_leads_nowhere(self, explore: Explore) -> None:
        rows = explore("?group_by=tier").results.groups.rows

        assert [(row.cells[0].label, row.value, bool(row.url)) for row in rows] == [
            ("cold", 25, True),
            ("hot", 10, True),
            ("(none)", 1, False),
        ]

    def test_one_customer_is_no_grouping(self, explore: Explore) -> None:
        page = explore("?customer=acme&group_by=customer&group_by=region")

        assert groups_of(page) == {("us",): 20, ("eu",): 10}


class TestManyGroups:
    @pytest.fixture
    def calls(self, define_metric: DefineMetric, send: Send, noon: datetime) -> None:
        """Nine routes, with one to nine calls each."""
        define_metric("calls", Aggregation.COUNT, "route", "method")
        routes = [f"/{letter}" for place, letter in enumerate("abcdefghi", start=1) for _ in range(place)]
        send(
            *(
                factories.make_event(
                    type="calls", timestamp=noon.isoformat(), properties={"route": route, "method": "GET"}
                )
                for route in routes
            )
        )

    @pytest.mark.parametrize("points_at_once", [20_000, 0], ids=["read together", "each line by itself"])
    @pytest.mark.parametrize("grouping", ["route", "route&group_by=method", "route&group_by=customer"])
    @pytest.mark.usefixtures("calls")
    def test_greatest_are_drawn_and_the_others_summed(
        self, explore: Explore, monkeypatch: pytest.MonkeyPatch, points_at_once: int, grouping: str
    ) -> None:
        monkeypatch.setattr("usage_reports.contexts.explorer.view.MAX_POINTS_AT_ONCE", points_at_once)

        page = explore(f"?group_by={grouping}")

        drawn = [(line.label[:2], sum(line.values)) for line in page.results.chart.lines[:-1]]
        assert drawn == [("/i", 9), ("/h", 8), ("/g", 7), ("/f", 6), ("/e", 5), ("/d", 4), ("/c", 3)]
        other = page.results.chart.lines[-1]
        assert (other.label, sum(other.values)) == ("Other (2)", 3)
        assert [row.value for row in page.results.groups.rows] == [9, 8, 7, 6, 5, 4, 3, 2, 1]
        assert [row.colour for row in page.results.groups.rows] == ["1", "2", "3", "4", "5", "6", "7", "", ""]
        assert "the 7 greatest of 9 groups and sums the other 2" in page.results.drawn_note

    def test_what_does_not_add_up_has_no_other(
        self, explore: Explore, define_metric: DefineMetric, send: Send, noon: datetime
    ) -> None:
        define_metric("visitors", Aggregation.COUNT_UNIQUE, "page", value_property="visitor")
        send(
            *(
                factories.make_event(
                    type="visitors", timestamp=noon.isoformat(), properties={"page": f"p{page}", "visitor": "ann"}
                )
                for page in range(9)
            )
        )

        page = explore("?group_by=page")

        assert [line.label for line in page.results.chart.lines] == [f"p{page}" for page in range(7)]
        assert not page.results.chart.layers
        assert len(page.results.groups.rows) == 9
        assert page.results.groups.total == 1
        assert "in the table alone" in page.results.drawn_note

    @pytest.mark.usefixtures("calls")
    def test_list_of_groups_ends_somewhere_and_says_so(self, explore: Explore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("usage_reports.contexts.explorer.results.MAX_GROUP_ROWS", 4)

        groups = explore("?group_by=route").results.groups

        assert (len(groups.rows), groups.row_count, groups.total) == (4, 9, 45)
        assert groups.note == "5 smaller ones are not listed; the total and the export hold them."


class TestWindows:
    """Month to date and rolling 30 days, over days whose values are known."""

    @pytest.fixture(autouse=True)
    def visitors(self, org: Organization, define_metric: DefineMetric, send: Send) -> None:
        """Ann on 10 and 20 March 2026 in eu, bob on 20 March and 2 April in us."""
        define_metric("visitors", Aggregation.COUNT_UNIQUE, "region", value_property="visitor")
        visits = [("ann", "eu", "03-10"), ("ann", "eu", "03-20"), ("bob", "us", "03-20"), ("bob", "us", "04-02")]
        send(
            *(
                factories.make_event(
                    type="visitors",
                    timestamp=f"2026-{day}T12:00:00Z",
                    properties={"visitor": visitor, "region": region},
                )
                for visitor, region, day in visits
            )
        )
        roll_up_organization(organization_id=org.pk, now=datetime.now(UTC))

    def values(self, page: Any) -> list[int]:
        return [int(row.values[-1]) for row in reversed(page.results.table.rows)]

    def test_month_to_date_grows_and_begins_again(self, explore: Explore) -> None:
        page = explore("?mode=month_to_date&first=2026-03-19&last=2026-04-03")

        assert self.values(page) == [1] + [2] * 12 + [0, 1, 1]
        assert page.results.figures[0].value == 1

    def test_rolling_30_days_look_back_before_the_range(self, explore: Explore) -> None:
        page = explore("?mode=rolling_30d&first=2026-04-08&last=2026-04-10&group_by=region")

        # The 30 days that end with 8 April begin with 10 March.
        assert self.values(page) == [2, 2, 2]
        assert groups_of(page) == {("eu",): 1, ("us",): 1}
        assert page.results.groups.count == 0

        page = explore("?mode=rolling_30d&first=2026-04-18&last=2026-04-20&group_by=region")
        # Ann's last day, 20 March, is 30 days before 18 April: still in it; on 19 April no more.
        assert self.values(page) == [2, 1, 1]
        assert groups_of(page) == {("us",): 1, ("eu",): 0}

    def test_granularity_and_mode_that_do_not_go_together_are_told(self, explore: Explore) -> None:
        page = explore("?mode=rolling_30d&granularity=month&range=12m")

        assert page.problems == ["Rolling 30 days is counted by day. Showing a width that fits."]
        granularities = {
            choice.label: (bool(choice.url), choice.reason) for choice in page.controls.granularities.choices
        }
        assert granularities["Day"] == (True, "")
        assert granularities["Month"] == (False, "Rolling 30 days is counted by day.")

    def test_mode_is_not_offered_for_ranges_too_long_for_days(self, explore: Explore) -> None:
        page = explore("?mode=month_to_date&first=2020-01-01&last=2026-04-01")

        reason = "Month to date is counted by day, for up to 800 days."
        assert page.problems == [f"{reason} Showing what each bucket adds."]
        assert [choice.reason for choice in page.controls.modes.choices][:2] == ["", reason]
        assert [bool(choice.url) for choice in page.controls.modes.choices] == [True, False, False]


@pytest.mark.usefixtures("storage")
class TestChoices:
    def test_every_link_of_the_controls_leads_to_what_it_says_without_complaint(self, explore: Explore) -> None:
        """Also across: a range whose granularity does not fit the next one leaves it out."""
        for query in ("?range=7d&granularity=hour", "?range=12m&granularity=month", "?mode=rolling_30d"):
            controls = explore(query).controls
            for row in (controls.ranges, controls.modes, controls.granularities):
                for choice in row.choices:
                    assert bool(choice.url) != bool(choice.reason)
                    if choice.url:
                        page = explore(choice.url)
                        same_row = next(
                            other
                            for other in (page.controls.ranges, page.controls.modes, page.controls.granularities)
                            if other.name == row.name
                        )
                        assert [other.label for other in same_row.choices if other.is_current] == [choice.label]
                        assert page.problems == []

    def test_every_choice_is_in_the_address(self, explore: Explore) -> None:
        asked = [
            ("metric", "storage"),
            ("first", "2026-01-05"),
            ("last", "2026-02-10"),
            ("mode", "month_to_date"),
            ("granularity", "day"),
            ("customer", "acme"),
            ("filter[region]", "eu"),
            ("filter[region]", "us"),
            ("group_by", "tier"),
            ("group_by", "zone"),
        ]
        query = "?" + "&".join(f"{name}={value}" for name, value in asked)

        page = explore(query)

        assert parse_qsl(urlsplit(page.share_url).query) == asked
        assert [option.value for field in page.controls.groupings for option in field.options if option.is_chosen] == [
            "tier",
            "zone",
            "",
        ]
        assert explore(f"?{urlsplit(page.share_url).query}").share_url == page.share_url

    def test_groupings_already_chosen_are_not_offered_again(self, explore: Explore) -> None:
        fields = explore("?group_by=tier").controls.groupings

        assert [[option.value for option in field.options] for field in fields] == [
            ["", "customer", "region", "tier", "zone"],
            ["", "customer", "region", "zone"],
        ]

    def test_values_too_many_to_list_are_typed(
        self, explore: Explore, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        roll_up_organization(organization_id=org.pk, now=datetime.now(UTC))
        monkeypatch.setattr("usage_reports.contexts.explorer.controls.MAX_LISTED_VALUES", 2)

        region, *_ = explore("?filter[region]=mars").controls.dimensions

        assert [(option.value, option.is_chosen) for option in region.options] == [
            ("mars", True),
            ("eu", False),
            ("us", False),
        ]
        assert (region.is_cut, region.is_searchable) == (True, False)

    @pytest.mark.parametrize(
        ("query", "problem"),
        [
            ("?range=forever", "There is no such range; showing the last 30 days."),
            ("?first=2026-02-10&last=2026-02-01", "The range ends before it begins; showing the last 30 days."),
            ("?first=x&last=2026-02-01", "A range needs two dates, like 2026-11-01; showing the last 30 days."),
            ("?first=2199-01-01&last=2199-02-01", "That range has not begun; showing today."),
            ("?granularity=eon", "“eon” is not among the choices of granularity."),
            ("?range=90d&granularity=hour", "By hour is for up to 14 days. Showing a width that fits."),
            ("?mode=sideways", "“sideways” is not among the choices of mode."),
            ("?customer=nobody%00", "There is no customer “nobody”; showing all customers."),
            ("?filter[colour]=red", "The metric has no dimension “colour”; that filter is left out."),
            ("?group_by=colour", "The metric has no dimension “colour” to group by."),
            (
                "?group_by=region&group_by=tier&group_by=zone&group_by=customer",
                "At most 3 groupings at a time; showing the first 3.",
            ),
        ],
    )
    def test_what_makes_no_sense_is_told_and_the_rest_shown(self, explore: Explore, query: str, problem: str) -> None:
        page = explore(query)

        assert page.problems == [problem]
        assert page.results or page.empty

    def test_hours_that_have_not_begun_are_cut_off(self, explore: Explore) -> None:
        page = explore("?range=7d&granularity=hour&mode=month_to_date")

        now = datetime.now(UTC)
        assert len(page.results.table.rows) in {6 * 24 + now.hour, 6 * 24 + now.hour + 1}
        assert page.results.table.rows[0].caveat == "so far"

    def test_days_that_have_not_begun_are_cut_off(self, explore: Explore) -> None:
        today = datetime.now(UTC).date()

        page = explore(f"?first={today - timedelta(days=3)}&last=2199-01-01")

        assert len(page.results.table.rows) == 4
        assert page.problems == []

    @pytest.mark.parametrize("query", ["?filter[region]=%00", "?filter[]=x", "?group_by=%00", "?metric=&range=&mode="])
    def test_rubbish_is_no_error(self, visit: Explore, query: str) -> None:
        assert visit(query).status_code == 200

    def test_read_that_is_too_large_is_refused_on_the_page(
        self, visit: Explore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("metering.queries.usage.MAX_POINTS", 5)

        answer = visit("?range=30d")

        assert answer.status_code == 422
        assert "Shorten the range or widen the buckets." in answer.content.decode()
        assert 'id="explorer-form"' in answer.content.decode()


class TestNothingToShow:
    def test_without_metrics_the_page_says_what_to_do(
        self, visit: Explore, client_for: Callable[[User], Client], bob: User, org: Organization
    ) -> None:
        html = visit().content.decode()
        assert "Nothing is metered yet" in html
        assert f"/o/{org.pk}/new-metric" in html

        viewers = client_for(bob).get(f"/o/{org.pk}/explorer/").content.decode()
        assert "Nothing is metered yet" in viewers
        assert "/new-metric" not in viewers

    def test_unknown_metric_is_404_with_others_to_choose(self, visit: Explore, storage: Metric) -> None:
        answer = visit("?metric=gone")

        assert answer.status_code == 404
        assert "There is no such metric." in answer.content.decode()
        assert [option.value for option in answer.context["page"].metrics] == ["storage"]

    def test_empty_range_tells_where_the_usage_is(self, explore: Explore, storage: Metric, noon: datetime) -> None:
        page = explore("?first=2020-01-01&last=2020-01-31&filter[region]=eu")

        assert page.empty.last_event_at == noon
        there = explore(page.empty.url)
        assert there.results.figures[0].value == 15
        assert there.controls.last_day == noon.date()
        assert there.controls.first_day == noon.date() - timedelta(days=30)

    def test_filters_that_nothing_ever_fits_can_be_cleared(self, explore: Explore, storage: Metric) -> None:
        page = explore("?filter[region]=mars")

        assert page.empty.last_event_at is None
        assert explore(page.empty.clear_url).results.figures[0].value == 36

    def test_metric_without_events_shows_how_to_send_one(self, visit: Explore, define_metric: DefineMetric) -> None:
        define_metric("fresh", Aggregation.COUNT)

        assert "Send the first event" in visit("?metric=fresh").content.decode()

    def test_archived_metric_can_still_be_looked_at(self, explore: Explore, org: Organization, storage: Metric) -> None:
        archive_metric(organization=org, metric=storage, actor="test", now=datetime.now(UTC))

        page = explore("?metric=storage")

        assert page.results.figures[0].value == 36
        assert page.metrics[0].label == "Storage · storage (archived)"


@pytest.mark.usefixtures("storage")
class TestAccess:
    PATHS = ["", "panel", "export?metric=storage", "suggestions?metric=storage&key=region"]

    @pytest.mark.parametrize("path", PATHS)
    def test_viewer_sees_what_the_owner_shared(
        self, client_for: Callable[[User], Client], bob: User, org: Organization, path: str
    ) -> None:
        assert client_for(bob).get(f"/o/{org.pk}/explorer/{path}").status_code == 200

    @pytest.mark.parametrize("path", PATHS)
    def test_outsider_gets_the_404_of_an_absent_organization(
        self, client_for: Callable[[User], Client], charlie: User, org: Organization, path: str
    ) -> None:
        outsider = client_for(charlie)

        foreign = outsider.get(f"/o/{org.pk}/explorer/{path}")
        absent = outsider.get(f"/o/999999/explorer/{path}")

        assert (foreign.status_code, absent.status_code) == (404, 404)
        assert foreign.content == absent.content

    @pytest.mark.parametrize("path", PATHS)
    def test_nobody_is_asked_to_sign_in_and_sent_back(self, client: Client, org: Organization, path: str) -> None:
        answer = client.get(f"/o/{org.pk}/explorer/{path}")

        assert answer.status_code == 302
        assert answer.headers["Location"].startswith(f"/accounts/login/?next=/o/{org.pk}/explorer/")

    def test_metric_and_customer_of_others_are_unknown(
        self, client_for: Callable[[User], Client], charlie: User, other_org: Organization
    ) -> None:
        outsider = client_for(charlie)
        url = f"/o/{other_org.pk}/explorer/"

        assert outsider.get(f"{url}?metric=storage").status_code == 404
        assert outsider.get(f"{url}export?metric=storage").status_code == 404
        assert outsider.get(f"{url}suggestions?metric=storage&key=region").status_code == 404
        assert outsider.get(f"{url}suggestions?key=customer").json() == {"values": []}


@pytest.mark.usefixtures("storage")
class TestPanel:
    def test_holds_the_same_as_the_page(self, visit: Explore) -> None:
        query = "?metric=storage&group_by=region"

        panel, page = visit(query, "panel").content.decode().strip(), visit(query).content.decode()

        assert panel.startswith("<div")
        assert "<html" not in panel
        # But for the moment through which they hold data.
        assert 'id="groups"' in panel
        assert panel.split("Data through")[0].strip() in page
        assert 'data-announcement="Storage by day and region' in panel

    def test_is_never_cached(self, visit: Explore) -> None:
        assert "no-store" in visit(path="panel").headers["Cache-Control"]


@pytest.mark.usefixtures("storage")
class TestSuggestions:
    @pytest.fixture(autouse=True)
    def rolled_up(self, storage: Metric, org: Organization) -> None:
        roll_up_organization(organization_id=org.pk, now=datetime.now(UTC))

    @pytest.mark.parametrize(
        ("query", "values"),
        [
            ("?metric=storage&key=region", ["eu", "us"]),
            ("?metric=storage&key=tier&typed=OL", ["cold"]),
            ("?metric=storage&key=tier&typed=%25", []),
            ("?key=customer&typed=o", ["bolt", "cargo"]),
            ("?key=customer&typed=%00", ["acme", "bolt", "cargo"]),
        ],
    )
    def test_are_known_values_that_hold_what_is_typed(self, visit: Explore, query: str, values: list[str]) -> None:
        assert visit(query, "suggestions").json() == {"values": values}

    @pytest.mark.parametrize("query", ["", "?metric=storage", "?metric=storage&key=colour", "?metric=x&key=region"])
    def test_of_nothing_known_are_404(self, visit: Explore, query: str) -> None:
        assert visit(query, "suggestions").status_code == 404


@pytest.mark.usefixtures("storage")
class TestExport:
    def test_holds_every_group_and_bucket_of_the_page(self, visit: Explore) -> None:
        answer = visit("?metric=storage&range=7d&group_by=region&filter[tier]=cold&format=csv", "export")

        lines = answer.getvalue().decode().split("\r\n")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert "attachment" in answer.headers["Content-Disposition"]
        assert lines[0] == "metric,group.region,bucket_start,value,is_partial"
        counted = [line.split(",")[1::2] for line in lines[1:] if line and line.split(",")[3] != "0"]
        assert counted == [["us", "20"], ["eu", "5"]]
        assert len(lines) == 1 + 7 * 2 + 1

    @pytest.mark.parametrize("name", ["csv", "ndjson", "parquet"])
    def test_every_link_of_the_page_downloads_a_file(self, explore: Explore, visit: Explore, name: str) -> None:
        links = {link.label.lower(): link.url for link in explore("?mode=month_to_date&customer=acme").exports}
        path, query = links[name].split("/explorer/")[1].split("?")

        answer = visit(f"?{query}", path)

        assert answer.status_code == 200
        assert answer.headers["Content-Disposition"].endswith(f'.{name}"')
        assert len(answer.getvalue()) > 100

    def test_is_not_offered_where_it_would_be_too_long(self, explore: Explore, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("page", "calls"):
            monkeypatch.setattr(f"usage_reports.contexts.explorer.{module}.MAX_ROWS", 10)

        page = explore("?range=30d")

        assert (page.exports, page.calls.curl, page.calls.python) == ([], "", "")
        assert page.calls.note == "30 points are more than one call or file gives. Narrow the range first."

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("?metric=gone", 404),
            ("?metric=storage&format=pdf", 422),
            ("?metric=storage&customer=nobody", 422),
            ("?metric=storage&filter[colour]=red", 422),
        ],
    )
    def test_what_cannot_be_exported_is_refused_and_not_something_else_given(
        self, visit: Explore, query: str, status: int
    ) -> None:
        assert visit(query, "export").status_code == status


@pytest.mark.usefixtures("storage")
def test_curl_call_asks_for_the_same_numbers(explore: Explore, api_client: Client) -> None:
    page = explore("?filter[region]=eu&group_by=tier&group_by=zone&mode=rolling_30d")
    words = shlex.split(page.calls.curl.replace("\\\n", " "))
    asked: dict[str, list[str]] = {}
    for place, word in enumerate(words):
        if word == "--data-urlencode":
            name, value = words[place + 1].split("=", 1)
            asked.setdefault(name, []).append(value)

    answer = api_client.get("/v1/usage/series", asked).json()

    by_api = {
        tuple(line["group"].values()): [Decimal(point[1]) for point in line["points"]] for line in answer["series"]
    }
    by_page = {tuple(line.label.split(" · ")): list(line.values) for line in page.results.chart.lines}
    assert by_page == by_api


@pytest.mark.usefixtures("storage")
def test_number_of_queries_does_not_grow_with_the_groups(
    visit: Explore, send: Send, noon: datetime, django_assert_max_num_queries: Any
) -> None:
    send(
        *(
            factories.make_event(
                type="storage", value="1", timestamp=noon.isoformat(), properties={"region": f"r{place}", "tier": "hot"}
            )
            for place in range(60)
        )
    )
    with django_assert_max_num_queries(30):
        assert visit("?group_by=region&group_by=tier").status_code == 200


def test_metric_page_leads_to_the_same_numbers_in_the_explorer(
    client_for: Callable[[User], Client], alice: User, org: Organization, storage: Metric
) -> None:
    client = client_for(alice)
    metric_page = client.get(f"/o/{org.pk}/metrics/storage/?range=7d&customer=acme&filter[region]=us&group_by=tier")

    explored = client.get(metric_page.context["page"].explorer_url).context["page"]

    assert explored.results.figures[0].value == 20
    assert groups_of(explored) == {("cold",): 20}
    assert len(explored.results.table.rows) == 7
