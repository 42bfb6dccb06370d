"""A live web server with known usage, and the official clients that ask about it.

Both are made once for all tests of a worker in this directory, which only read what is shared. That is committed, and
deleted after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import httpx
import pytest
from django.core.management import call_command
from pytest_django import DjangoDbBlocker

from metering.services.rollup import roll_up_organization
from tests import factories
from tests.clients.web_server import WebServer, servers_on_test_database
from tests.launchdarkly.cases import Case
from tests.launchdarkly.client import VERSIONS, Answer, OfficialClient, official_client
from tests.launchdarkly.contract import Endpoint
from tests.launchdarkly.oracle import Ids, Oracle, Report
from tests.launchdarkly.seed import ACME, SentEvent, draw_events

BATCH = 1000
# An id that clients know from elsewhere; everything else has the id that follows from its key.
SHOP_ID, STAGING_ID = "5f3a9c0e7b1d2468ace13579", "0123456789abcdef01234567"


class Tenant:
    """An organization of its own, spoken to through the native API."""

    def __init__(self, url: str, key: str, organization_id: int) -> None:
        self.url, self.key, self.organization_id = url, key, organization_id

    def post(self, path: str, body: Any) -> dict[str, Any]:
        return self._send("POST", path, body)

    def patch(self, path: str, body: Any) -> dict[str, Any]:
        return self._send("PATCH", path, body)

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        return self._send("GET", path, None, parameters)

    def issue_key(self, *scopes: str, **options: Any) -> str:
        return str(self.post("/v1/api-keys", {"name": "test", "scopes": scopes or ["usage:read"], **options})["text"])

    def install_catalog(self) -> None:
        self.post("/v1/catalogs/launchdarkly/install", {})

    def send(self, events: list[SentEvent]) -> None:
        for first in range(0, len(events), BATCH):
            batch = [event.as_json() for event in events[first : first + BATCH]]
            assert self.post("/v1/events", batch)["rejected"] == 0

    def _send(self, method: str, path: str, body: Any, parameters: Any = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = httpx.request(
            method, self.url + path, json=body, params=parameters, headers=headers, timeout=60, trust_env=False
        )
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return dict(answer.json())


@dataclass(frozen=True)
class World:
    """The organization whose usage is known. Its key is one that may read usage and nothing else."""

    tenant: Tenant
    key: str
    events: list[SentEvent]
    sent_at: datetime
    ids: Ids

    @cached_property
    def oracle(self) -> Oracle:
        return Oracle(self.events, self.ids)

    @cached_property
    def oracle_of_acme(self) -> Oracle:
        return self.oracle.of_customer(ACME)


@dataclass
class Asker:
    """Asks one client and says how an answer differs from what it should be."""

    client: OfficialClient
    world: World

    def ask(self, endpoint: Endpoint, case: Case, *, key: str | None = None) -> Answer:
        return self.client.call(self.world.tenant.url, key or self.world.key, endpoint, case.query, case.path)

    def differences(
        self, endpoint: Endpoint, case: Case, *, key: str | None = None, oracle: Oracle | None = None
    ) -> list[str]:
        """Return nothing if the answer is exactly right. Right is what was so when the call began, or when it ended."""
        expect = (oracle or self.world.oracle).report
        before = expect(endpoint, case.query, case.path, datetime.now(UTC))
        answer = self.ask(endpoint, case, key=key)
        if answer.status != 200:
            return [f"{endpoint.method} {case}: {answer.status} {answer.exception} {answer.body}"]
        if read_report(answer.data) == before:
            return []
        after = expect(endpoint, case.query, case.path, datetime.now(UTC))
        return [f"{endpoint.method} {case}: {line}" for line in compare(read_report(answer.data), after)]


def read_report(data: dict[str, Any]) -> Report:
    """Return a series as a table; its columns in the order of the answer."""
    metadata, series = data["metadata"], data["series"]
    names = {"time", *(str(place) for place in range(len(metadata)))}
    assert all(set(point) == names for point in series), f"A point has other columns than {names}."
    columns = {tuple(of.items()): [point[str(place)] for point in series] for place, of in enumerate(metadata)}
    assert len(columns) == len(metadata), f"Two columns are the same group: {metadata}"
    return Report([point["time"] for point in series], columns)


def compare(actual: Report, expected: Report) -> list[str]:
    """Return the differences, a line each, of which the first few say enough."""
    if actual.times != expected.times:
        return [f"times {_ends(actual.times)} instead of {_ends(expected.times)}"]
    if list(actual.columns) != list(expected.columns):
        return [f"columns {list(actual.columns)} instead of {list(expected.columns)}"]
    return [
        f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%dT%H:%M} {dict(column)}: {value} instead of {right}"
        for column, values in expected.columns.items()
        for time, value, right in zip(expected.times, actual.columns[column], values, strict=True)
        if value != right
    ][:3]


def _ends(times: list[int]) -> str:
    return f"{len(times)}: {times[:2]} … {times[-2:]}"


# --- the server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def server(
    clients: dict[str, OfficialClient],
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WebServer]:
    directory = tmp_path_factory.mktemp("launchdarkly")
    with django_db_blocker.unblock(), servers_on_test_database(directory) as servers:
        servers.web.start()
        yield servers.web
        call_command("flush", verbosity=0, interactive=False)


@pytest.fixture(scope="package")
def make_tenant(server: WebServer) -> Callable[[str], Tenant]:
    def make(name: str) -> Tenant:
        organization = factories.make_organization(name=name)
        return Tenant(server.url, factories.make_api_key(organization=organization).text, organization.pk)

    return make


@pytest.fixture(scope="package")
def world(make_tenant: Callable[[str], Tenant]) -> World:
    tenant = make_tenant("Initech")
    tenant.install_catalog()
    tenant.post("/v1/projects", {"key": "shop", "name": "Shop", "id": SHOP_ID})
    tenant.post("/v1/projects", {"key": "pay", "name": "Payments"})
    tenant.post("/v1/projects/shop/environments", {"key": "staging", "name": "Staging", "id": STAGING_ID})
    tenant.post("/v1/projects/shop/environments", {"key": "production", "name": "Production"})
    sent_at = datetime.now(UTC)
    events = draw_events(sent_at)
    tenant.send(events[BATCH:])
    roll_up_organization(organization_id=tenant.organization_id, now=sent_at)
    tenant.send(events[: 2 * BATCH])  # the first of them wait for a rollup, and the others are a retry: they count once
    return World(tenant, tenant.issue_key(), events, sent_at, learn_ids(tenant))


def learn_ids(tenant: Tenant) -> Ids:
    """Return the ids as the native API tells them and, of what nobody registered, as a report names them."""
    projects = {row["key"]: row["id"] for row in tenant.get("/v1/projects")["data"]}
    places = {"shop": ["production", "staging"], "pay": ["production"], "labs": ["test"]}
    registered = {("shop", row["key"]): row["id"] for row in tenant.get("/v1/projects/shop/environments")["data"]}
    learned = {
        (project, environment): _shown_id(tenant, "environmentId", projectKey=project, environmentKey=environment)
        for project, environments in places.items()
        for environment in environments
    }
    projects["labs"] = _shown_id(tenant, "projectId", projectKey="labs")
    return Ids(projects, learned | registered)


def _shown_id(tenant: Tenant, group: str, **filters: str) -> str:
    path = "/api/v2/usage/data-export-events"
    begin = str(int(datetime.now(UTC).timestamp() - timedelta(days=360).total_seconds()))
    [column] = tenant.get(path, groupBy=group, **{"from": begin}, **filters)["metadata"]
    return str(column[group])


# --- the clients --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def clients() -> Iterator[dict[str, OfficialClient]]:
    """Both versions. Their imports take seconds, which they have while the installation starts."""
    with ExitStack() as stack:
        yield {version: stack.enter_context(official_client(version)) for version in VERSIONS}


@pytest.fixture(scope="package", params=VERSIONS, ids="client-{}".format)
def client(request: pytest.FixtureRequest, clients: dict[str, OfficialClient]) -> OfficialClient:
    client = clients[request.param]
    assert client.reported_version == VERSIONS[request.param]
    return client


@pytest.fixture
def asker(client: OfficialClient, world: World) -> Asker:
    return Asker(client, world)
