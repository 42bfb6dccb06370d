"""Fixtures for pages: a browser per person, some usage to look at, and a counter of queries."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Organization, User
from metering.catalogs import MetricDefinition
from metering.models import Aggregation, Metric
from metering.services.metrics import create_metric
from tests import factories
from tests.alerts.watch import Watch

JSON = "application/json"


@pytest.fixture
def browser(client_for: Callable[[User], Client], alice: User, org: Organization) -> Client:
    """Alice's: she owns `org`."""
    return client_for(alice)


@pytest.fixture
def viewers_browser(client_for: Callable[[User], Client], bob: User) -> Client:
    """Bob's: he may look."""
    return client_for(bob)


@pytest.fixture
def outsiders_browser(client_for: Callable[[User], Client], charlie: User, other_org: Organization) -> Client:
    return client_for(charlie)


@pytest.fixture
def page_url(org: Organization) -> Callable[[str], str]:
    """Return a maker of addresses of `org`."""

    def make(path: str) -> str:
        return f"/o/{org.pk}/{path}"

    return make


@pytest.fixture
def make_metric(org: Organization) -> Callable[..., Metric]:
    def make(code: str, aggregation: Aggregation = Aggregation.SUM, **fields: Any) -> Metric:
        dimensions = tuple({"key": key, "values": None, "strict": False} for key in fields.pop("dimensions", ()))
        definition = MetricDefinition(code=code, aggregation=aggregation, dimensions=dimensions, **fields)
        return create_metric(organization=org, definition=definition, actor="test")

    return make


@pytest.fixture
def send(api_client: Client) -> Callable[..., None]:
    """Send events of `org` through the API, all of which must be stored."""

    def send_events(*events: dict[str, Any]) -> None:
        answer = api_client.post("/v1/events", list(events), content_type=JSON).json()
        assert answer["stored"] == len(events), answer

    return send_events


@pytest.fixture
def noon() -> datetime:
    """Noon of yesterday, UTC: within every range that a page offers, and never in the future."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return yesterday.replace(hour=12, minute=0, second=0, microsecond=0)


@pytest.fixture
def storage(make_metric: Callable[..., Metric], send: Callable[..., None], noon: datetime) -> Metric:
    """A sum with two dimensions and three customers: 10 + 20 from acme, 5 from bolt, 1 from cargo; 36 in all."""
    metric = make_metric("storage", unit="GB", name="Storage", dimensions=("region", "tier"))
    quantities = [
        ("acme", "10", "eu", "hot"),
        ("acme", "20", "us", "cold"),
        ("bolt", "5", "eu", "cold"),
        ("cargo", "1", "us", "hot"),
    ]
    send(
        *(
            factories.make_event(
                customer=customer,
                type="storage",
                value=value,
                timestamp=noon.isoformat(),
                properties={"region": region, "tier": tier},
            )
            for customer, value, region, tier in quantities
        )
    )
    return metric


@pytest.fixture
def watch(transactional_db: None, org: Organization) -> Watch:
    """Evaluation in real transactions. Now is the real now: pages look at the current period."""
    return Watch(org, timezone.now())


@pytest.fixture
def crossed(watch: Watch) -> Watch:
    """A cap of 10 on a sum in GB: ann is at 12 by way of 4, bob at 3."""
    watch.define("m", "sum", unit="GB", dimensions=["region"], period_type="fixed", period_days=3660)
    watch.threshold("m", "cap", 10)
    watch.use("ann", 4)
    watch.use("bob", 3)
    watch.use("ann", 8)
    return watch


@pytest.fixture
def count_queries() -> Callable[[Client, str], int]:
    """Return a counter of the queries of one visit; the first visit, which may fill caches, is not counted."""

    def count(client: Client, url: str) -> int:
        assert client.get(url).status_code == 200, url
        with CaptureQueriesContext(connection) as queries:
            client.get(url)
        return len(queries)

    return count


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.status_code
    text: str = response.content.decode()
    return text


def page_of(response: Any) -> Any:
    """Return the page's context."""
    assert response.status_code == 200, response.status_code
    return response.context["page"]


def form_errors(response: Any) -> dict[str, list[str]]:
    return {name: list(messages) for name, messages in page_of(response).form.errors.items()}
