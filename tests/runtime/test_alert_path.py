"""From an event over HTTP to whoever is told: the log, the stream, and a webhook, on a whole installation."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from signal import SIGTERM
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.runtime.installation import Installation, free_port, wait_for

TOLD_SECONDS = 30


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    data_dir: Path = tmp_path_factory.mktemp("alert-path") / "var"
    running = Installation(data_dir, free_port(), METERBOOK_PRIVATE_WEBHOOKS="1").start()
    try:
        yield running.wait_until_ready()
    finally:
        running.end(SIGTERM)


@pytest.fixture
def api(installation: Installation) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {installation.create_organization('Initech')}"}
    base = f"http://127.0.0.1:{installation.port}"
    with httpx.Client(base_url=base, headers=headers, follow_redirects=True, timeout=30) as client:
        yield client


@contextmanager
def webhook_receiver() -> Iterator[tuple[str, Queue[tuple[dict[str, str], bytes]]]]:
    """A real server on loopback; what it gets comes out of the queue."""
    received: Queue[tuple[dict[str, str], bytes]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()
            received.put((dict(self.headers), body))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", received
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def listening(api: httpx.Client, **parameters: str) -> Iterator[Queue[tuple[str, dict[str, Any]]]]:
    """Read the stream in a thread; (id, data) of its messages come out of the queue."""
    messages: Queue[tuple[str, dict[str, Any]]] = Queue()
    is_open = threading.Event()

    def read(stream: httpx.Response) -> None:
        fields: dict[str, str] = {}
        try:
            for line in stream.iter_lines():
                is_open.set()
                name, _, value = line.partition(": ")
                if line == "" and "data" in fields:
                    messages.put((fields.get("id", ""), json.loads(fields["data"])))
                fields = {} if line == "" else {**fields, name: value}
        except httpx.HTTPError:
            return  # closed below

    with api.stream("GET", "/v1/alerts/stream", params=parameters) as stream:
        assert stream.status_code == 200
        threading.Thread(target=read, args=(stream,), daemon=True).start()
        assert is_open.wait(TOLD_SECONDS)
        yield messages


def test_an_event_that_crosses_is_told_by_log_stream_and_webhook(api: httpx.Client) -> None:
    created = api.post(
        "/v1/metrics",
        json={"code": "calls", "aggregation": "sum", "thresholds": [{"code": "cap", "value": "100"}]},
    )
    assert created.status_code == 201
    with webhook_receiver() as (url, received), listening(api) as messages:
        endpoint = api.post("/v1/webhook-endpoints", json={"url": url}).json()

        for value in (99, 2, 50):
            event = {"customer": "acme", "metric": "calls", "value": value}
            assert api.post("/v1/events", json=event).json()["stored"] == 1

        offset, streamed = messages.get(timeout=TOLD_SECONDS)
        headers, body = received.get(timeout=TOLD_SECONDS)
        wait_for(lambda: len(api.get("/v1/alerts").json()["data"]) > 0, TOLD_SECONDS)
        [logged] = api.get("/v1/alerts").json()["data"]

    assert offset == logged["offset"] == "1"
    assert streamed == logged
    assert (logged["customer"], logged["threshold_code"], logged["threshold_value"]) == ("acme", "cap", "100")
    assert logged["value_at_cross"] in {"101", "151"}  # the evaluation may have seen the third event too
    message = Webhook(endpoint["secret"]).verify(body, headers)
    assert (message["type"], message["data"]) == ("alert.crossed", logged)
    assert api.get("/v1/usage/realtime", params={"metric": "calls", "customer": "acme"}).json()["alert_flags"] == [
        "cap"
    ]
