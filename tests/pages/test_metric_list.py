"""The list of metrics: each with its current period and its last days, at a bounded cost."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization
from accounts.services import update_organization
from metering.contexts import overview
from metering.models import Aggregation, Metric
from tests import factories
from tests.pages.conftest import text_of

PageUrl = Callable[[str], str]
Send = Callable[..., None]


def test_shows_the_value_over_all_customers_and_a_line_of_days(
    browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric], send: Send, noon: datetime
) -> None:
    make_metric("requests", Aggregation.COUNT, name="Requests", unit="request", period_type="fixed", period_days=3660)
    send(*(factories.make_event(customer=name, timestamp=noon.isoformat()) for name in ("acme", "acme", "bolt")))

    page = text_of(browser.get(page_url("")))

    assert '<data class="number" value="3" title="3">3</data>' in page
    assert 'aria-label="Requests, last 30 days, at most 3 a day"' in page
    assert "Data through" in page
    assert "Send the first event" not in page


def test_begins_with_how_to_send_the_first_event(browser: Client, page_url: PageUrl) -> None:
    page = text_of(browser.get(page_url(""), headers={"Host": "meter.example"}))

    assert "Nothing is metered yet" in page
    assert "curl http://meter.example/v1/events" in page
    assert "from meterbook import Client" in page


def test_example_of_the_first_event_is_accepted(
    browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric], api_client: Client
) -> None:
    """What the page tells to send, sent: the curl command's body, taken from the page's context."""
    make_metric("bytes", Aggregation.SUM, event_type="download", value_property="size", dimensions=("region",))

    command = browser.get(page_url("")).context["page"].first_event.curl
    body = command.split("-d '")[1].removesuffix("'")

    answer = api_client.post("/v1/events", body, content_type="application/json")
    assert answer.json()["stored"] == 1
    assert "Send the first event" not in text_of(browser.get(page_url("")))


def test_tells_that_events_wait(
    browser: Client, page_url: PageUrl, org: Organization, api_client: Client, make_metric: Callable[..., Metric]
) -> None:
    make_metric("requests", Aggregation.COUNT)
    update_organization(organization=org, actor="test", changes={"is_unmatched_kept": True})
    api_client.post("/v1/events", factories.make_event(type="unheard.of"), content_type="application/json")

    page = text_of(browser.get(page_url("")))

    assert "could not be counted" in page
    assert page_url("inbox/") in page


def test_names_of_metrics_are_text(browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric]) -> None:
    make_metric("requests", Aggregation.COUNT, name="<script>alert(1)</script>")

    page = text_of(browser.get(page_url("")))

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_goes_on_to_the_next_page(
    browser: Client, page_url: PageUrl, make_metric: Callable[..., Metric], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "PAGE_SIZE", 2)
    for number in range(3):
        make_metric(f"metric_{number}", Aggregation.COUNT)

    first = browser.get(page_url("")).context["page"]
    second = browser.get(page_url("") + first.next_url).context["page"]

    assert [row.metric.code for row in first.rows] == ["metric_0", "metric_1"]
    assert [row.metric.code for row in second.rows] == ["metric_2"]
    assert second.next_url == ""


def test_costs_the_same_for_twice_as_many_metrics_as_a_page_holds(
    browser: Client,
    page_url: PageUrl,
    make_metric: Callable[..., Metric],
    count_queries: Callable[[Client, str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "PAGE_SIZE", 3)
    for number in range(3):
        make_metric(f"metric_{number}", Aggregation.COUNT)
    before = count_queries(browser, page_url(""))

    for number in range(3, 6):
        make_metric(f"metric_{number}", Aggregation.COUNT)

    assert count_queries(browser, page_url("")) == before


def test_costs_the_same_for_twice_as_many_customers(
    browser: Client,
    page_url: PageUrl,
    storage: Metric,
    send: Send,
    noon: datetime,
    count_queries: Callable[[Client, str], int],
) -> None:
    before = count_queries(browser, page_url(""))

    more: list[dict[str, Any]] = [
        factories.make_event(customer=f"more_{number}", type="storage", value="1", timestamp=noon.isoformat())
        for number in range(3)
    ]
    send(*more)

    assert count_queries(browser, page_url("")) == before


class TestCustomerPage:
    def test_shows_the_customers_own_numbers(
        self, browser: Client, page_url: PageUrl, org: Organization, storage: Metric
    ) -> None:
        Metric.objects.for_organization(org).update(period_type="fixed", period_days=3660)
        acme = org.customers.get(external_id="acme")

        page = text_of(browser.get(page_url(f"customers/{acme.pk}/")))

        assert 'value="30"' in page
        assert 'value="36"' not in page
        assert page_url("metrics/storage/") + "?customer=acme" in page

    def test_is_404_for_another_organizations_customer(
        self, browser: Client, page_url: PageUrl, other_org: Organization
    ) -> None:
        foreign = factories.make_customer(organization=other_org, external_id="theirs")

        assert browser.get(page_url(f"customers/{foreign.pk}/")).status_code == 404
        assert browser.get(page_url(f"customers/{foreign.pk}/edit")).status_code == 404
        assert browser.get(page_url(f"customers/{10**30}/")).status_code == 404
