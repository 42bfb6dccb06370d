"""What the lists read: the database puts paths in order, and numbers that are not shown are not read."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from metering.services.rollup import roll_up_organization
from tests.usage_reports.gateway.conftest import AnalyticsApi
from tests.usage_reports.gateway.traffic import SentRequest, send

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def requests(org: Organization) -> None:
    """Each of 40 users sends one request more than the one before, on a path of its own, each a byte longer."""
    now = datetime.now(UTC)
    requests = [
        SentRequest(
            f"{user}/{n}", f"usr_{user:02}", now, path=f"/{user:02}", response_bytes=user, status=200 + user % 3
        )
        for user in range(40)
        for n in range(user + 1)
    ]
    send(org, requests, now=now)
    roll_up_organization(organization_id=org.pk, now=now)


def read_by_path(analytics: AnalyticsApi, **query: str) -> tuple[list[str], list[str]]:
    """Return the paths, and the statements that read events."""
    with CaptureQueriesContext(connection) as queries:
        answer = analytics.get("analytics/aggregate", group_by="path", **query)
    assert answer["meta"]["total"] == 40
    reads = [query["sql"] for query in queries if "properties ->> 'path'" in query["sql"]]
    return [row["id"] for row in answer["data"]], reads


def test_paths_take_one_statement_that_returns_no_more_than_is_shown(analytics: AnalyticsApi) -> None:
    paths, reads = read_by_path(analytics, limit="3")

    assert paths == ["/39", "/38", "/37"]
    assert len(reads) == 1
    with connection.cursor() as cursor:
        cursor.execute(reads[0])
        assert len(cursor.fetchall()) == 3


def test_paths_of_equal_means_are_in_the_order_of_their_names(org: Organization, analytics: AnalyticsApi) -> None:
    """A third of a microsecond's digits is more than a quotient has unless it is asked for them."""
    now = datetime.now(UTC)
    third = Decimal("0.000000000000000003")
    sent = {"/b": [third, third, third], "/a": [third], "/c": [third, third, third + Decimal("0.000000000000000001")]}
    requests = [
        SentRequest(f"{path}{n}", "usr_00", now, path=path, latency_ms=latency + 1)
        for path, latencies in sent.items()
        for n, latency in enumerate(latencies)
    ]
    send(org, requests, now=now)

    answer = analytics.get("analytics/aggregate", group_by="path", sort="latency", limit="3")

    assert [row["id"] for row in answer["data"]] == ["/a", "/b", "/c"]


def test_numbers_that_do_not_decide_the_order_are_read_of_the_shown_alone(
    org: Organization, analytics: AnalyticsApi
) -> None:
    with CaptureQueriesContext(connection) as queries:
        answer = analytics.get("analytics/users", limit="1", sort="-bytes")

    assert [row["id"] for row in answer["data"]] == ["usr_39"]
    assert answer["data"][0]["attributes"]["bytes"] == 39 * 40
    reads = [query["sql"] for query in queries if "FROM metering_series AS series" in query["sql"]]
    of_one = [sql for sql in reads if "series.customer_id = ANY" in sql]
    # All users by requests and by bytes; one by errors, units, latencies and their histogram.
    assert (len(reads) - len(of_one), len(of_one)) == (2, 4)


def test_names_of_many_customers_are_one_parameter(org: Organization, analytics: AnalyticsApi) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert analytics.get("analytics/users")["meta"]["total"] == 40

    assert not any("accounts_customer" in query["sql"] and query["sql"].count(", ") > 40 for query in queries)
