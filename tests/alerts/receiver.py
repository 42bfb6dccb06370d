"""Real HTTP servers on loopback that get webhooks, and a courier to send them. Adds no rules of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django.db import connection
from psycopg.conninfo import make_conninfo
from standardwebhooks import Webhook

from alerts.clients.webhooks import SystemResolver, WebhookSender
from alerts.courier import Courier
from alerts.domain import Slots

DEADLINE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in."""

    at: float
    headers: Mapping[str, str]
    body: bytes
    path: str = "/"

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def verify(self, secret: str) -> dict[str, Any]:
        """Return the message if the secret signed it, as a receiver would check it; else raise."""
        return dict(Webhook(secret).verify(self.body, dict(self.headers)))


Behaviour = Callable[[BaseHTTPRequestHandler], None]


def answering(status: int, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Behaviour:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@dataclass
class Receiver:
    """An endpoint that behaves as it is told, and remembers every request."""

    behave: Behaviour = field(default_factory=lambda: answering(204))
    received: list[Received] = field(default_factory=list)
    # Let go of handlers that hang.
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?from=meterbook"

    def hang(self, _: BaseHTTPRequestHandler) -> None:
        self.released.wait(DEADLINE_SECONDS)

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Send the headers' bytes one by one, and never come to their end."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.released.wait(0.2):
            handler.wfile.write(b"a")
            handler.wfile.flush()


@contextmanager
def running(receiver: Receiver) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(time.monotonic(), headers, body, self.path))
            self.close_connection = True
            receiver.behave(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # the other end hung up on a slow behaviour

    server = Server(("127.0.0.1", 0), Handler)
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def url_of_test_database() -> str:
    settings = connection.settings_dict
    return make_conninfo(
        host=settings["HOST"],
        port=settings["PORT"] or None,
        user=settings["USER"],
        password=settings["PASSWORD"] or None,
        dbname=settings["NAME"],
    )


@contextmanager
def courier_at_work(
    *, may_be_private: bool = True, attempt_seconds: float = 10.0, slots: Slots | None = None
) -> Iterator[Courier]:
    """Run a courier on a thread of its own for as long as the block lasts."""
    resolver = SystemResolver()
    courier = Courier(
        database_url=url_of_test_database(),
        sender=WebhookSender(may_be_private=may_be_private, resolve=resolver, attempt_seconds=attempt_seconds),
        slots=slots,
    )
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[BaseException] = []

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        await courier.run()

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bool(loops or failures))
    try:
        yield courier
    finally:
        loops[0].call_soon_threadsafe(courier.stop)
        thread.join(DEADLINE_SECONDS)
        resolver.close()
    assert failures == []


def wait_until(condition: Callable[[], bool], *, seconds: float = DEADLINE_SECONDS, explain: object = "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain
        time.sleep(0.02)
