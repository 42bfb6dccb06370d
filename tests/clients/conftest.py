"""Fixtures for clients that speak HTTP to the real web server."""

from collections.abc import Callable, Iterator

import pytest

from accounts.services import IssuedKey
from meterbook import Client, RetryPolicy
from tests.clients.web_server import WebServer, web_server

# Tests of failures should not wait as long as people would.
IMPATIENT = RetryPolicy(attempts=3, first_delay=0.02, longest_delay=0.1)


@pytest.fixture(scope="session")
def shared_server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    with web_server(tmp_path_factory.mktemp("server") / "web.log") as server:
        yield server


@pytest.fixture
def server(shared_server: WebServer, transactional_db: None) -> WebServer:
    """A running server that sees what the test writes, and the other way round."""
    shared_server.start()
    return shared_server


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
