"""Bytes of the real client, replayed over a socket against the running web server, and how it hangs up."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from accounts.models import Organization
from accounts.services import IssuedKey
from metering.dialects.influx.api.views import MAX_BODY_BYTES
from metering.dialects.influx.models import AnonymousReport, Server
from metering.models import Event, Metric
from tests.clients.web_server import WebServer, servers_on_test_database

pytestmark = pytest.mark.django_db(transaction=True)

CAPTURES = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "fixtures").glob("*.http"))}
# The one thing that a replay cannot keep: the token of whoever made the capture.
CAPTURED_TOKEN = b"tok-abc"
SECONDS = 20


class Answer(NamedTuple):
    status: int
    body: bytes
    connection: str | None
    # Whether the server ended the connection: the client keeps every other one open for ever.
    is_closed: bool


Exchange = Callable[[bytes], Answer]


@pytest.fixture(scope="module")
def running_server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    with servers_on_test_database(tmp_path_factory.mktemp("influx")) as servers:
        yield servers.web


@pytest.fixture
def exchange(running_server: WebServer, transactional_db: None) -> Exchange:
    """Return a sender of bytes, each on a connection of its own, which waits for the answer and for the end."""
    running_server.start()
    address = urlsplit(running_server.url)

    def send(request: bytes) -> Answer:
        with socket.create_connection((str(address.hostname), address.port or 0), timeout=SECONDS) as connection:
            connection.sendall(request)
            response = HTTPResponse(connection)
            response.begin()
            body = response.read()
            is_closed = connection.recv(1) == b""
            return Answer(response.status, body, response.headers["Connection"], is_closed)

    return send


def request_bytes(path: str, body: str, *, token: str = "", method: str = "POST") -> bytes:
    """Return a request as the client writes it."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1:24401",
        "User-Agent: Go-http-client/1.1",
        f"Content-Length: {len(body.encode())}",
        "Content-Type: application/json",
        *([f"X-Authorization: {token}"] if token else []),
        "Accept-Encoding: gzip",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def with_token(name: str, key: IssuedKey) -> bytes:
    return CAPTURES[name].replace(CAPTURED_TOKEN, key.text.encode())


def test_captures_replayed_are_taken_and_stored(exchange: Exchange, org: Organization, api_key: IssuedKey) -> None:
    for name in CAPTURES:
        answer = exchange(with_token(name, api_key))
        assert (answer.status, json.loads(answer.body)) == (201, {}), name
        assert (answer.connection, answer.is_closed) == ("close", True), name

    server = Server.objects.for_organization(org).get()
    assert (server.cluster_id, server.server_id, server.product) == ("clus1", "serv1", "influxdb")
    assert (server.host, server.version) == ("example.com", "1.0")
    events = Event.objects.for_organization(org).values_list("properties__field", "value")
    assert dict(events) == {
        "blks_write": Decimal(39),
        "blks_write_bytes": Decimal(2421),
        "points_write": Decimal(39),
        "ratio": Decimal("0.5"),
        "up": Decimal(1),
    }
    anonymous = AnonymousReport.objects.get()
    assert (anonymous.kind, anonymous.product, anonymous.value_count) == ("usage", "chronograf-ng", 1)
    assert anonymous.payload.encode() == CAPTURES["influx-usage-anon"].partition(b"\r\n\r\n")[2]


def test_the_captured_token_is_unknown_here(exchange: Exchange) -> None:
    for name in ("influx-server", "influx-stats"):
        answer = exchange(CAPTURES[name])
        assert answer.status == 401
        assert isinstance(json.loads(answer.body)["error"], str)
        assert (answer.connection, answer.is_closed) == ("close", True)


def test_every_answer_hangs_up_and_can_be_read(exchange: Exchange, api_key: IssuedKey) -> None:
    """Each with the status that the client is to notice, from whichever part of the server."""
    long = '[{"tags": null, "values": {"text": "%s"}}]' % ("x" * MAX_BODY_BYTES)
    cases = {
        404: [
            ("GET", "/api/v1/servers", ""),
            ("PUT", "/api/v1/servers", long),
            ("POST", "/api/v1/servers/", "{}"),
            ("POST", "/api/v1/x", long),
        ],
        422: [
            ("POST", "/api/v1/servers", "{"),
            ("POST", "/api/v1/servers", ""),
            ("POST", "/api/v1/usage/", "[]"),
            ("POST", "/api/v1/usage/a%00b", "[]"),
            ("POST", "/api/v1/usage/p", long),
        ],
        201: [
            ("POST", "//api/v1/usage/p", "null"),
            ("POST", "/api/v1/usage/influxdb%20cluster", '[{"tags": null, "values": {"n": 9007199254740993}}]'),
            ("POST", "/api/v1/usage/%ff", "null"),
        ],
    }
    for status, requests in cases.items():
        for method, path, body in requests:
            answer = exchange(request_bytes(path, body, token=api_key.text, method=method))
            assert answer.status == status, (method, path, answer.status)
            assert (answer.connection, answer.is_closed) == ("close", True), (method, path)
            told = json.loads(answer.body)
            assert status == 201 or isinstance(told["error"], str)
            assert status != 422 or all(isinstance(messages, list) for messages in told["errors"].values())
    product, value = Event.objects.for_organization(api_key.api_key.organization).values_list(
        "properties__product", "value"
    )[0]
    assert (product, value) == ("influxdb cluster", Decimal(9007199254740993))


def test_racing_first_reports_make_one_server_and_one_metric(
    exchange: Exchange, org: Organization, api_key: IssuedKey
) -> None:
    """The fleet starts at once: nobody installed the catalog, and one server has two reporters."""
    bodies = [
        json.dumps([{"values": {"cluster_id": "clus1", "server_id": f"serv{number % 4}", "n": number}}])
        for number in range(16)
    ]
    requests = [request_bytes("/api/v1/usage/influxdb", body, token=api_key.text) for body in bodies]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(exchange, requests))

    assert [answer.status for answer in answers] == [201] * 16
    assert Metric.objects.for_organization(org).count() == 1
    assert Server.objects.for_organization(org).count() == 4
    assert set(Event.objects.for_organization(org).values_list("value", flat=True)) == set(range(16))


def test_a_refused_token_is_told_after_a_long_body(exchange: Exchange) -> None:
    body = '[{"tags": null, "values": {"text": "%s"}}]' % ("x" * (MAX_BODY_BYTES // 2))

    answer = exchange(request_bytes("/api/v1/usage/p", body, token="unknown"))

    assert (answer.status, answer.is_closed) == (401, True)


def test_other_addresses_keep_their_connections(exchange: Exchange, running_server: WebServer) -> None:
    """What tells that the end of a connection above is the answer's doing."""
    address = urlsplit(running_server.url)
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=SECONDS) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            response = HTTPResponse(connection)
            response.begin()
            response.read()
            assert response.status == 200
