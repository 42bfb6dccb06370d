"""Fixtures for clients that speak HTTP: to the real web server, or to a whole installation with worker and stream."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
from meterbook import Client, RetryPolicy
from meterbook.enforcement import UsageCaps

from accounts.services import IssuedKey
from tests.clients.alert_servers import KEY, AlertServers
from tests.clients.web_server import Servers, WebServer, servers_on_test_database
from tests.runtime.installation import Installation, free_port

# Tests of failures should not wait as long as people would.
IMPATIENT = RetryPolicy(attempts=3, first_delay=0.02, longest_delay=0.1)
READY_SECONDS = 60.0

MakeCaps = Callable[..., UsageCaps]


@pytest.fixture(scope="session")
def servers(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers_on_test_database(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def server(servers: Servers, transactional_db: None) -> WebServer:
    """A running web server that sees what the test writes, and the other way round."""
    servers.web.start()
    return servers.web


@pytest.fixture
def stream_server(servers: Servers, server: WebServer) -> WebServer:
    """The running server of streams, to which the web server redirects."""
    servers.stream.start()
    return servers.stream


@pytest.fixture
def client_of(server: WebServer) -> Iterator[Callable[[IssuedKey | str], Client]]:
    """Return a maker of impatient clients with the given key."""
    clients: list[Client] = []

    def make(key: IssuedKey | str) -> Client:
        client = Client(server.url, key if isinstance(key, str) else key.text, retry=IMPATIENT, trust_env=False)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(client_of: Callable[[IssuedKey | str], Client], api_key: IssuedKey) -> Client:
    """A client of `org` with every scope."""
    return client_of(api_key)


# --- servers that interrupt at will ---


@pytest.fixture
def alert_servers() -> Iterator[AlertServers]:
    with AlertServers().running() as servers:
        yield servers


@pytest.fixture
def alert_client(alert_servers: AlertServers) -> Iterator[Client]:
    with Client(alert_servers.url, KEY, retry=IMPATIENT, trust_env=False) as client:
        yield client


@pytest.fixture
def make_caps(alert_client: Client) -> Iterator[MakeCaps]:
    """Return a maker of caps that have read the log; by default of the threshold `cap`."""
    made: list[UsageCaps] = []

    def make(**options: Any) -> UsageCaps:
        caps = UsageCaps(alert_client, **{"thresholds": {"cap"}, **options})
        made.append(caps)
        assert caps.wait_until_ready(READY_SECONDS), caps.last_failure
        return caps

    yield make
    for caps in made:
        caps.close()


# --- a whole installation ---


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization of its own on an installation."""

    url: str
    api_key: str


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One for all tests of clients, since a start takes seconds: they belong to the xdist group `client_installation`
    and leave it running."""
    data_dir: Path = tmp_path_factory.mktemp("clients") / "var"
    running = Installation(data_dir, free_port(), METERBOOK_PRIVATE_WEBHOOKS="1").start()
    try:
        yield running.wait_until_ready()
    finally:
        running.end(SIGTERM)


_tenant_numbers = itertools.count(1)


@pytest.fixture
def tenant(installation: Installation) -> Tenant:
    api_key = installation.create_organization(f"Tenant{next(_tenant_numbers)}")
    return Tenant(f"http://127.0.0.1:{installation.port}", api_key)


@pytest.fixture
def tenant_client(tenant: Tenant) -> Iterator[Client]:
    with Client(tenant.url, tenant.api_key, trust_env=False) as client:
        yield client
