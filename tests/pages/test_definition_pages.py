"""Defining metrics: the form says what the API says, and catalogs are installed once."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization
from metering.forms import dimensions_text, parse_dimensions, parse_thresholds, thresholds_text
from metering.models import Aggregation, Metric
from tests import factories
from tests.pages.conftest import text_of

PageUrl = Callable[[str], str]
MINIMAL = {"code": "calls", "aggregation": "count", "period_type": "calendar"}


class TestNewMetric:
    def test_everything_that_was_written_is_kept(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        form = {
            "code": "storage.gb",
            "name": "Storage",
            "unit": "GB",
            "description": "What is kept",
            "event_type": "disk",
            "aggregation": "max",
            "value_property": "size",
            "dimensions": "region\nplan = free | paid up\ntier == hot | cold\n",
            "period_type": "fixed",
            "billing_cycle_day": "",
            "period_days": "7",
            "thresholds": "hard_cap = 1000.50\nsteps = 10 recurring",
        }

        answer = browser.post(page_url("new-metric"), form)

        assert answer.headers["Location"] == page_url("metrics/storage.gb/")
        metric = Metric.objects.for_organization(org).get(code="storage.gb")
        assert (metric.name, metric.unit, metric.description) == ("Storage", "GB", "What is kept")
        assert (metric.aggregation, metric.event_type, metric.value_property) == ("max", "disk", "size")
        assert (metric.period_type, metric.period_days) == ("fixed", 7)
        assert metric.dimensions == [
            {"key": "region", "values": None, "strict": False},
            {"key": "plan", "values": ["free", "paid up"], "strict": False},
            {"key": "tier", "values": ["hot", "cold"], "strict": True},
        ]
        assert metric.thresholds == [
            {"code": "hard_cap", "value": "1000.5", "recurring": False},
            {"code": "steps", "value": "10", "recurring": True},
        ]

    def test_event_type_is_the_code_unless_said(self, browser: Client, page_url: PageUrl, org: Organization) -> None:
        browser.post(page_url("new-metric"), MINIMAL)

        assert Metric.objects.for_organization(org).get().event_type == "calls"

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"code": "Not A Code"}, "code"),
            ({"code": ""}, "code"),
            ({"aggregation": "median"}, "aggregation"),
            ({"dimensions": "customer"}, "dimensions"),
            ({"dimensions": "a\na"}, "dimensions"),
            ({"dimensions": "a =="}, "dimensions"),
            ({"dimensions": "\n".join(f"key{number}" for number in range(17))}, "dimensions"),
            ({"thresholds": "cap = many"}, "thresholds"),
            ({"thresholds": "cap = 1 sometimes"}, "thresholds"),
            ({"thresholds": "\n".join(f"t{number} = 1" for number in range(9))}, "thresholds"),
            ({"billing_cycle_day": "29"}, "billing_cycle_day"),
            ({"period_type": "fixed", "period_days": "99999"}, "period_type"),
        ],
    )
    def test_refusals_stand_at_the_field(
        self, browser: Client, page_url: PageUrl, org: Organization, changes: dict[str, str], field: str
    ) -> None:
        answer = browser.post(page_url("new-metric"), MINIMAL | changes)

        assert answer.status_code == 200
        assert list(answer.context["page"].form.errors) == [field]
        assert not Metric.objects.for_organization(org).exists()

    def test_a_code_that_is_taken_is_refused(
        self, browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric]
    ) -> None:
        make_metric("calls", Aggregation.COUNT)

        assert "There is a metric" in text_of(browser.post(page_url("new-metric"), MINIMAL))


class TestEditMetric:
    def test_name_may_change_although_events_were_counted(
        self, browser: Client, page_url: PageUrl, storage: Metric
    ) -> None:
        browser.post(page_url("metrics/storage/edit"), {"name": "Disks", "unit": "TB", "thresholds": "cap = 5"})

        storage.refresh_from_db()
        assert (storage.name, storage.unit) == ("Disks", "TB")
        assert storage.thresholds == [{"code": "cap", "value": "5", "recurring": False}]

    def test_meaning_does_not_change_once_events_were_counted(
        self, browser: Client, page_url: PageUrl, storage: Metric
    ) -> None:
        page = text_of(browser.get(page_url("metrics/storage/edit")))
        assert "can no longer change" in page

        forged = {"name": "x", "aggregation": "max", "dimensions": "other", "period_type": "day", "event_type": "y"}
        browser.post(page_url("metrics/storage/edit"), forged)

        storage.refresh_from_db()
        assert (storage.aggregation, storage.period_type, storage.event_type) == ("sum", "calendar", "storage")
        assert [dimension["key"] for dimension in storage.dimensions] == ["region", "tier"]

    def test_meaning_may_change_before_the_first_event(
        self, browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric]
    ) -> None:
        metric = make_metric("calls", Aggregation.COUNT, dimensions=("route",))

        form = {"aggregation": "sum", "event_type": "call", "period_type": "week", "dimensions": "path"}
        browser.post(page_url("metrics/calls/edit"), form)

        metric.refresh_from_db()
        assert (metric.code, metric.aggregation, metric.event_type, metric.period_type) == (
            "calls",
            "sum",
            "call",
            "week",
        )
        assert [dimension["key"] for dimension in metric.dimensions] == ["path"]

    def test_dimensions_that_the_form_cannot_write_are_left_alone(
        self, browser: Client, page_url: PageUrl, api_client: Client, org: Organization
    ) -> None:
        dimensions = [{"key": "expression", "values": ["a | b", "c"], "strict": False}]
        api_client.post(
            "/v1/metrics",
            {"code": "calls", "aggregation": "count", "dimensions": dimensions},
            content_type="application/json",
        )

        browser.post(page_url("metrics/calls/edit"), MINIMAL | {"name": "Calls", "dimensions": ""})

        metric = Metric.objects.for_organization(org).get(code="calls")
        assert (metric.name, metric.dimensions) == ("Calls", dimensions)

    def test_archived_metric_stays_readable_and_counts_no_more(
        self, browser: Client, page_url: PageUrl, storage: Metric, api_client: Client, noon: datetime
    ) -> None:
        browser.post(page_url("metrics/storage/archive"))

        page = browser.get(page_url("metrics/storage/"))
        assert "archived" in text_of(page)
        assert page.context["page"].figures[0].value == 36
        event = factories.make_event(type="storage", value="1", timestamp=noon.isoformat())
        refusal = api_client.post("/v1/events", event, content_type="application/json")
        assert refusal.json()["errors"][0]["code"] == "unknown_metric"


@pytest.mark.parametrize(
    "dimensions",
    [
        [],
        [{"key": "region", "values": None, "strict": False}],
        [{"key": "a:b", "values": ["x y", "z"], "strict": True}, {"key": "c", "values": ["1"], "strict": False}],
    ],
)
def test_dimensions_survive_the_form(dimensions: list[dict[str, Any]]) -> None:
    assert parse_dimensions(dimensions_text(dimensions)) == dimensions


def test_thresholds_survive_the_form() -> None:
    thresholds = [
        {"code": "cap", "value": "10.5", "recurring": False},
        {"code": "each", "value": "1", "recurring": True},
    ]

    assert parse_thresholds(thresholds_text(thresholds)) == thresholds


class TestCatalogs:
    def test_installs_once_and_adds_what_is_missing(
        self, browser: Client, page_url: PageUrl, org: Organization
    ) -> None:
        card = next(card for card in browser.get(page_url("catalogs/")).context["page"].catalogs if card.name == "demo")
        assert not card.is_installed

        browser.post(page_url("catalogs/demo/install"))
        browser.post(page_url("catalogs/demo/install"))

        assert Metric.objects.for_organization(org).filter(catalog="demo").count() == len(card.metrics)
        cards = browser.get(page_url("catalogs/")).context["page"].catalogs
        assert next(card for card in cards if card.name == "demo").is_installed

    def test_an_unknown_catalog_is_404(self, browser: Client, page_url: PageUrl) -> None:
        assert browser.post(page_url("catalogs/nothing/install")).status_code == 404

    def test_viewer_may_not_install(self, viewers_browser: Client, page_url: PageUrl, org: Organization) -> None:
        assert viewers_browser.post(page_url("catalogs/demo/install")).status_code == 403
        assert not Metric.objects.for_organization(org).exists()
