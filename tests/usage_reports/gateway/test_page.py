"""The analytics page: what it shows of which requests, and that it shows the same as the endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization, User
from metering.dialects.gateway.models import Route
from metering.models import TypeHorizon
from metering.services.rollup import roll_up_organization
from tests.usage_reports.gateway.conftest import AnalyticsApi
from tests.usage_reports.gateway.traffic import SentRequest, make_requests, send

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(client_for: Callable[[User], Client], bob: User) -> Client:
    """Of somebody who may only look."""
    return client_for(bob)


@pytest.fixture
def url(org: Organization) -> str:
    return f"/o/{org.pk}/analytics/"


@pytest.fixture
def requests(org: Organization) -> list[SentRequest]:
    """A week of requests until now, some of them on a route that is defined."""
    now = datetime.now(UTC)
    Route.objects.create(organization=org, code="users-api", name="People", path_pattern="/users")
    made = make_requests(5, 120, first=now - timedelta(days=6), last=now)
    send(org, made, now=now)
    return made


def page_of(browser: Client, url: str) -> Any:
    answer = browser.get(url)
    assert answer.status_code == 200
    return answer.context["page"]


def text_of(answer: Any) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", answer.content.decode()))


def test_headlines_and_tables_are_those_of_the_endpoints(
    browser: Client, url: str, requests: list[SentRequest], analytics: AnalyticsApi
) -> None:
    page = page_of(browser, f"{url}?range=30d")

    figures = {figure.label: figure for figure in page.figures}
    errors = sum(request.status >= 400 for request in requests)
    assert figures["Requests"].value == len(requests)
    assert figures["Error rate"].value == (Decimal(errors * 100) / len(requests)).quantize(Decimal("0.01"))
    assert figures["Metered units"].value == sum(request.units for request in requests)
    summary = analytics.get("analytics/summary")["data"]["attributes"]
    assert abs(figures["p95 latency"].value - summary["latency_ms"]["p95"]) <= summary["latency_ms"]["p95"] / 100
    users, routes, statuses = page.tables
    for table, path, query in (
        (users, "users", {}),
        (routes, "routes", {}),
        (statuses, "aggregate", {"group_by": "status"}),
    ):
        rows = analytics.get(f"analytics/{path}", **query)["data"]
        shown = [(row.requests, row.errors, row.units) for row in table.rows]
        assert shown == [
            (row["attributes"]["requests"], row["attributes"]["errors"], row["attributes"]["metered_units"])
            for row in rows[: len(table.rows)]
        ]
        assert len(shown) + table.more_count == len(rows)
    assert {"People", "orders-api", "no route"} <= {row.label for row in routes.rows}


def test_charts_hold_every_request(browser: Client, url: str, requests: list[SentRequest]) -> None:
    volume, latency, rate = page_of(browser, url).charts

    succeeded, failed = volume.lines
    assert sum(succeeded.values) == sum(request.status < 400 for request in requests)
    assert sum(failed.values) == sum(request.status >= 400 for request in requests)
    assert len(volume.hover["buckets"]) == 30
    assert volume.hover["buckets"][-1].endswith("(so far)")
    assert [line.label for line in latency.lines] == ["p50", "p95", "p99"]
    assert all(p50 <= p95 <= p99 for p50, p95, p99 in zip(*(line.values for line in latency.lines), strict=True))
    assert max(rate.lines[0].values) <= 100


@pytest.mark.parametrize(("query", "unit"), [("range=7d", "day"), ("range=12m", "month")])
def test_points_are_as_wide_as_suits_the_range(browser: Client, url: str, query: str, unit: str) -> None:
    assert page_of(browser, f"{url}?{query}&status=2xx").charts[0].title == f"Requests by {unit}"


def test_filters_narrow_everything(browser: Client, url: str, requests: list[SentRequest]) -> None:
    failed = [request for request in requests if request.route == "users-api" and 400 <= request.status < 500]
    user = failed[0].user
    wanted = [request for request in failed if request.user == user]

    page = page_of(browser, f"{url}?user={user}&route=users-api&status=4xx")

    assert page.figures[0].value == len(wanted)
    assert {row.key for row in page.live_rows} <= {request.id for request in wanted}
    assert len(page.live_rows) == min(len(wanted), 20)
    assert page.stream_url.endswith(f"&user={user}&route=users-api&status=4xx")
    assert [option.value for option in page.statuses if option.is_chosen] == ["4xx"]
    assert page.clear_url == "?range=30d"


def test_rows_of_a_table_lead_to_their_requests(browser: Client, url: str, requests: list[SentRequest]) -> None:
    for table in page_of(browser, f"{url}?range=30d").tables:
        row = next(row for row in table.rows if row.url)
        assert page_of(browser, url + row.url).figures[0].value == row.requests


def test_what_makes_no_sense_is_left_out_and_told(browser: Client, url: str, requests: list[SentRequest]) -> None:
    page = page_of(browser, f"{url}?user=nobody&status=teapot&range=century")

    assert len(page.problems) == 3
    assert page.figures[0].value == len(requests)


def test_nothing_recorded_yet_shows_how_to_begin(browser: Client, url: str) -> None:
    answer = browser.get(url)

    assert answer.context["page"].first_request is not None
    assert "http://testserver/v1/requests" in text_of(answer)
    assert "meterbook.tracking.django.TrackingMiddleware" in text_of(answer)


def test_command_of_the_empty_page_records_a_request(browser: Client, url: str, api_client: Client) -> None:
    curl = browser.get(url).context["page"].first_request.curl
    body = re.search(r"-d '(.*)'", curl, re.DOTALL)
    assert body

    answer = api_client.post("/v1/requests", body[1], content_type="application/json")

    assert answer.json()["stored"] == 1
    page = page_of(browser, url)
    assert page.first_request is None
    assert [row.key for row in page.live_rows] == ["my-first-request"]


def test_live_update_answers_the_rows_of_its_keys_that_fit(
    browser: Client, url: str, requests: list[SentRequest]
) -> None:
    failed = next(request for request in requests if request.status >= 500)
    fine = next(request for request in requests if request.status < 400)

    answer = browser.get(f"{url}rows?status=5xx&key={failed.id}&key={fine.id}")

    assert [row.key for row in answer.context["rows"]] == [failed.id]
    assert f'data-key="{failed.id}"' in answer.content.decode()


def test_what_is_not_kept_is_told(browser: Client, url: str, org: Organization, requests: list[SentRequest]) -> None:
    now = datetime.now(UTC)
    roll_up_organization(organization_id=org.pk, now=now)
    kept_from = (now - timedelta(days=3)).replace(hour=0, minute=0, second=0, microsecond=0)
    TypeHorizon.objects.create(organization=org, event_type="api_request", raw_from=kept_from, rollups_from=kept_from)

    page = page_of(browser, f"{url}?range=90d")

    assert page.problems == [f"Totals before {kept_from:%-d %b %Y} are no longer kept."]
    assert page.figures[0].value == sum(request.at >= kept_from for request in requests)


def test_another_organizations_page_is_not_found(
    client_for: Callable[[User], Client], charlie: User, url: str, requests: list[SentRequest]
) -> None:
    assert client_for(charlie).get(url).status_code == 404
    assert client_for(charlie).get(f"{url}rows").status_code == 404


def test_queries_do_not_grow_with_the_requests(
    browser: Client, url: str, org: Organization, requests: list[SentRequest]
) -> None:
    def count() -> int:
        browser.get(url)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            browser.get(url)
        return len(queries)

    before = count()
    now = datetime.now(UTC)
    send(org, make_requests(6, 200, first=now - timedelta(days=20), last=now), now=now)

    assert count() == before
