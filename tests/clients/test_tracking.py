"""The recorder of requests against the real server: outages, bounds, settings, ends of processes. Each counts once."""

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import httpx
import pytest
from meterbook import Client, RetryPolicy
from meterbook.tracking.options import Sources
from meterbook.tracking.watch import BodyCopy, Watch

from accounts.models import Scope
from accounts.services import IssuedKey
from config.env import BASE_DIR
from tests import factories
from tests.clients.web_server import WebServer
from tests.runtime.installation import free_port

EAGER = RetryPolicy(first_delay=0.02, longest_delay=0.2)
SECONDS = 30.0


def request(path: str = "/", **fields: Any) -> Watch:
    """Return a request that is over."""
    watch = Watch("GET", path, None, 0)
    watch.status = 200
    for name, value in fields.items():
        setattr(watch, name, value)
    watch.end()
    return watch


def read_paths(client: Client) -> list[str]:
    return sorted(event.properties["path"] for event in client.list_events())


def wait_until(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _decompressed(call: httpx.Request) -> bytes:
    return gzip.decompress(call.read()) if call.headers.get("Content-Encoding") == "gzip" else call.read()


class TestSending:
    def test_requests_arrive_after_the_interval_and_full_batches_at_once(self, client: Client) -> None:
        with client.track_requests(flush_interval_ms=50) as recorder:
            assert recorder.add(request())
            wait_until(lambda: recorder.counters.stored == 1)
        with client.track_requests(flush_interval_ms=3_600_000, batch_size=100) as recorder:
            for _ in range(250):
                recorder.add(request())
            wait_until(lambda: recorder.counters.stored == 200)
            assert recorder.counters.pending == 50

        assert recorder.counters.stored == 250
        assert len(list(client.list_events())) == 251

    def test_closing_the_client_sends_what_is_left(self, server: WebServer, api_key: IssuedKey, client: Client) -> None:
        with Client(server.url, api_key.text, trust_env=False) as other:
            other.track_requests(flush_interval_ms=3_600_000).add(request())

        assert read_paths(client) == ["/"]

    def test_every_request_counts_once_through_outages_of_the_server(self, client: Client, server: WebServer) -> None:
        with client.track_requests(flush_interval_ms=10, batch_size=50, retry=EAGER) as recorder:
            is_over = threading.Event()

            def serve(name: str) -> None:
                number = 0
                while not is_over.is_set():
                    number += 1
                    assert recorder.add(request(f"/{name}/{number}"))
                    time.sleep(0.01)

            threads = [threading.Thread(target=serve, args=(name,)) for name in "abc"]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            server.kill()  # in the middle of a batch, whose answer nobody gets
            wait_until(lambda: recorder.last_failure is not None)
            server.start()
            time.sleep(0.3)
            is_over.set()
            for thread in threads:
                thread.join()
            assert recorder.flush(SECONDS)

        counters = recorder.counters
        assert (counters.pending, counters.dropped, counters.rejected) == (0, 0, 0)
        assert counters.recorded == counters.stored + counters.duplicates
        paths = read_paths(client)
        assert len(paths) == len(set(paths)) == counters.recorded > 30

    def test_repeated_attempts_send_the_same_bytes_compressed_unless_told_otherwise(self) -> None:
        seen: list[tuple[str | None, bytes]] = []

        def answer(call: httpx.Request) -> httpx.Response:
            if call.method == "GET":
                return httpx.Response(404, json={})
            seen.append((call.headers.get("Content-Encoding"), _decompressed(call)))
            if len(seen) < 3:
                raise httpx.ReadTimeout("nobody knows whether it arrived")
            return httpx.Response(200, json={"stored": 9})

        with Client("http://demo", "k", transport=httpx.MockTransport(answer)) as client:
            for is_compressed in (True, False):
                seen.clear()
                recorder = client.track_requests(
                    flush_interval_ms=3_600_000, batch_size=9, compression=is_compressed, retry=EAGER
                )
                for _ in range(9):
                    recorder.add(request("/" + "x" * 200))
                wait_until(lambda recorder=recorder: recorder.counters.stored == 9)
                assert recorder.close(SECONDS)
                assert len(set(seen)) == 1
                assert seen[0][0] == ("gzip" if is_compressed else None)

    def test_record_that_the_server_cannot_take_costs_no_other(
        self, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with client.track_requests() as recorder:
            recorder.add(request("/good"))
            recorder.add(request("/bad", user_id="x" * 300))
            recorder.add(request("/surrogate\ud800"))
            recorder.add(request("/good too"))

        counters = recorder.counters
        assert (counters.recorded, counters.stored, counters.rejected, counters.failed) == (3, 2, 1, 1)
        assert read_paths(client) == ["/good", "/good too"]
        assert "1 requests were rejected; the first: invalid_user_id" in caplog.text


ROUTES = {
    "data": [{"id": "ask", "method": "*", "path_pattern": "/ask", "metering_expr": "request.body.prompt.length"}],
    "next_cursor": None,
}


class Outage:
    """A server that cannot be reached until it is; then the paths and bodies of what it was sent.

    It knows of no routes, or keeps failing when asked for them, or has one that reads the bodies of `/ask`.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.has_routes: bool | None = None
        self.records: list[dict[str, Any]] = []

    def __call__(self, call: httpx.Request) -> httpx.Response:
        if not self.is_over:
            raise httpx.ConnectError("refused")
        if call.method == "GET" and self.has_routes is None:
            return httpx.Response(404, json={})
        if call.method == "GET":
            return httpx.Response(200, json=ROUTES) if self.has_routes else httpx.Response(500, json={})
        records = json.loads(_decompressed(call))
        self.records += records
        return httpx.Response(200, json={"stored": len(records)})


class TestBounds:
    @pytest.fixture
    def outage(self) -> Outage:
        return Outage()

    @pytest.fixture
    def cut_off(self, outage: Outage) -> Iterator[Client]:
        with Client("http://demo", "k", transport=httpx.MockTransport(outage)) as client:
            yield client

    def test_what_finds_no_room_is_dropped_and_counted_and_logged_once(
        self, cut_off: Client, outage: Outage, caplog: pytest.LogCaptureFixture
    ) -> None:
        recorder = cut_off.track_requests(max_requests=100, batch_size=50, retry=EAGER)
        started = time.monotonic()
        taken = [recorder.add(request(f"/{number}")) for number in range(500)]
        assert time.monotonic() - started < 2, "a request waited"

        assert (taken.count(True), recorder.counters.dropped) == (100, 400)
        assert caplog.text.count("no room") == 1
        assert 'meterbook_tracking_requests_total{outcome="dropped"} 400' in recorder.render_metrics()
        assert "meterbook_tracking_requests_pending 100" in recorder.render_metrics()

        outage.is_over = True
        assert recorder.close(SECONDS)
        assert [record["path"] for record in outage.records] == [f"/{number}" for number in range(100)]
        assert not recorder.add(request("/late"))

    def test_bodies_are_within_the_bound_too(self, cut_off: Client, outage: Outage) -> None:
        recorder = cut_off.track_requests(max_bytes=100_000, batch_size=1, retry=EAGER)
        for _ in range(20):
            watch = request()
            watch.response_body = BodyCopy(65_536)
            watch.response_body.take(b'"' + b"x" * 29_998 + b'"')
            recorder.add(watch)
        assert (recorder.counters.recorded, recorder.counters.dropped) == (3, 17)

        outage.is_over = True
        assert recorder.flush(SECONDS)
        assert recorder.add(request())  # there is room again
        assert recorder.close(SECONDS)
        assert recorder.counters.stored == len(outage.records) == 4

    def test_body_that_is_too_long_is_not_kept_at_all(self) -> None:
        copy = BodyCopy(10)
        for _ in range(3):
            copy.take(b"12345")

        assert (copy.read(), copy.weight) == (None, 0)
        assert BodyCopy(10).read() is None


class TestBodies:
    """Nobody knows yet which routes read bodies: the server takes records, but does not tell its routes."""

    @pytest.fixture
    def secretive(self) -> Outage:
        outage = Outage()
        outage.is_over, outage.has_routes = True, False
        return outage

    @pytest.fixture
    def asking(self, secretive: Outage) -> Iterator[Client]:
        with Client("http://demo", "k", transport=httpx.MockTransport(secretive)) as client:
            yield client

    @staticmethod
    def posted(path: str) -> Watch:
        body = BodyCopy(1000)
        body.take(b'{"password": "hunter2"}')
        return request(path, request_body=body)

    @pytest.mark.parametrize("is_on_disk", [False, True], ids=["in memory", "on disk"])
    def test_wait_until_the_routes_are_known(
        self, asking: Client, secretive: Outage, tmp_path: Path, is_on_disk: bool
    ) -> None:
        recorder = asking.track_requests(
            flush_interval_ms=10, database_path=tmp_path / "spool" if is_on_disk else None, retry=EAGER
        )
        for watch in (self.posted("/login"), request("/page"), self.posted("/ask")):
            recorder.add(watch)
        wait_until(lambda: recorder.counters.stored == 1)
        assert not recorder.flush(0.5)

        assert [record["path"] for record in secretive.records] == ["/page"]
        assert recorder.counters.pending == 2
        assert not any(b"hunter2" in file.read_bytes() for file in tmp_path.rglob("*.ndjson"))

        secretive.has_routes = True
        assert recorder.flush(SECONDS)
        bodies = {record["path"]: record.get("request_body") for record in secretive.records}
        assert bodies == {"/page": None, "/login": None, "/ask": {"password": "hunter2"}}
        assert recorder.close(SECONDS)

    @pytest.mark.parametrize("is_on_disk", [False, True], ids=["in memory", "on disk"])
    def test_are_left_out_at_the_end_where_the_routes_never_were(
        self, asking: Client, secretive: Outage, tmp_path: Path, is_on_disk: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        recorder = asking.track_requests(
            flush_interval_ms=10, database_path=tmp_path / "spool" if is_on_disk else None, retry=EAGER
        )
        recorder.add(self.posted("/ask"))

        assert recorder.close(SECONDS)

        assert [(record["path"], "request_body" in record) for record in secretive.records] == [("/ask", False)]
        assert caplog.text.count("go without their bodies") == 1


class TestSettings:
    def test_program_comes_before_environment_before_server_before_defaults(self) -> None:
        environment = {
            "METERBOOK_USAGE_BATCH_SIZE": "20",
            "APIGATE_USAGE_FLUSH_INTERVAL_MS": "30",
            "APIGATE_USAGE_BATCH_SIZE": "21",
        }
        server = {
            "usage_batch_size": 2,
            "usage_flush_interval_ms": 3,
            "usage_compression": False,
            "usage_store_ip": "off",
        }

        sources = Sources.read({}, environment)
        assert (sources.without_server().batch_size, sources.without_server().compression) == (20, True)
        tracking = sources.with_server(server)
        assert (tracking.batch_size, tracking.flush_interval_ms) == (20, 30)
        assert (tracking.compression, tracking.has_ip_address) == (False, False)
        assert Sources.read({"batch_size": 7}, environment).with_server(server).batch_size == 7
        assert Sources.read({}, {}).with_server({}).batch_size == 100
        assert Sources.read({}, {}).with_server({"usage_batch_size": 0, "usage_compression": "?"}).batch_size == 100

    @pytest.mark.parametrize("text", ["many", "0", "5001"])
    def test_environment_that_means_nothing_is_refused(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("METERBOOK_USAGE_BATCH_SIZE", text)
        with Client("http://demo", "k") as client, pytest.raises(ValueError, match=r"USAGE_BATCH_SIZE|A batch holds"):
            client.track_requests()

    def test_recorder_that_is_switched_off_asks_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("APIGATE_USAGE_TRACKING_ENABLED", "false")
        with Client("http://demo", "k") as client:
            assert not client.track_requests().is_enabled

    def test_key_that_may_only_write_is_enough(self, server: WebServer, client: Client, org: Any) -> None:
        key = factories.make_api_key(organization=org, scopes=[Scope.EVENTS_WRITE])
        with Client(server.url, key.text, trust_env=False) as writer:
            recorder = writer.track_requests()
            recorder.add(request())
            assert recorder.flush(SECONDS)
            assert not recorder.bodies.reads_responses

        assert read_paths(client) == ["/"]


# --- processes ---

PROGRAM = """
import os, pathlib, sys, time
from meterbook import Client, RetryPolicy
from meterbook.tracking.watch import Watch

client = Client(sys.argv[1], sys.argv[2], trust_env=False)
recorder = client.track_requests(flush_interval_ms=3_600_000, retry=RetryPolicy(first_delay=0.02, longest_delay=0.1))

def serve(name, count):
    for number in range(count):
        watch = Watch("GET", f"/{name}/{number}", None, 0)
        watch.status = 200
        watch.end()
        assert recorder.add(watch)

spool = pathlib.Path("usage.db")

def wait_until_written(count):
    while sum(file.read_bytes().count(b"\\n") for file in spool.rglob("*.ndjson")) < count:
        time.sleep(0.02)
"""


@pytest.fixture
def run(server: WebServer, api_key: IssuedKey, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return what starts a program of its own after the lines above; its spool is `usage.db`."""

    def run(program: str, **variables: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("METERBOOK_", "APIGATE_"))}
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM + program, server.url, api_key.text],
            env={**kept, **variables},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )

    return run


@contextmanager
def served(interface: str, server: WebServer, key: IssuedKey) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the tracked application with two workers; yield its address and the server's process."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "granian", "--interface", interface, "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "2", "--no-ws", "--no-log", f"tests.clients.tracked_application:{interface}"),
    ]
    variables = {"RECORD_URL": server.url, "RECORD_KEY": key.text}
    with subprocess.Popen(command, env={**os.environ, **variables}, cwd=BASE_DIR) as process:
        try:
            wait_until(lambda: is_listening(port))
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def is_listening(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


class TestProcesses:
    def test_exit_sends_what_is_left_of_parent_and_forked_children(self, run: Any, client: Client) -> None:
        process = run(
            """
serve("parent", 3)
for name in ("first", "second"):
    if os.fork() == 0:
        serve(name, 2)
        sys.exit()
os.wait(), os.wait()
"""
        )

        assert process.wait(SECONDS) == 0
        assert read_paths(client) == [
            *("/first/0", "/first/1", "/parent/0", "/parent/1", "/parent/2", "/second/0", "/second/1")
        ]

    def test_spool_survives_the_kill_of_processes_that_shared_it(
        self, run: Any, client: Client, server: WebServer, tmp_path: Path
    ) -> None:
        spool = {"APIGATE_USAGE_DATABASE_PATH": "usage.db"}
        server.stop()
        wait_in_vain = (
            'serve(os.environ["NAME"], 5); wait_until_written(10); print("spooled", flush=True); time.sleep(600)'
        )
        killed = [run(wait_in_vain, NAME=name, **spool) for name in ("first", "second")]
        for process in killed:
            assert process.stdout.readline() == "spooled\n"
            process.send_signal(SIGKILL)
            process.wait()

        server.start()
        heir = run(
            'serve("heir", 1)\nwhile any(spool.rglob("*.ndjson")): recorder.flush(20); time.sleep(0.02)', **spool
        )

        assert heir.wait(SECONDS) == 0
        assert read_paths(client) == sorted(
            [f"/{name}/{number}" for name in ("first", "second") for number in range(5)] + ["/heir/0"]
        )
        assert list((tmp_path / "usage.db").rglob("*.ndjson")) == []

    def test_requests_after_a_flush_go_by_themselves_with_a_spool_too(self, client: Client, tmp_path: Path) -> None:
        with client.track_requests(database_path=tmp_path / "spool", flush_interval_ms=20) as recorder:
            for stored_count in (1, 2, 3):
                recorder.add(request(f"/{stored_count}"))
                if stored_count == 2:
                    assert recorder.flush(SECONDS)
                wait_until(lambda expected=stored_count: recorder.counters.stored == expected)

        assert read_paths(client) == ["/1", "/2", "/3"]

    def test_spool_that_cannot_be_used_costs_no_request(
        self, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "file"
        path.write_text("not a directory")

        with client.track_requests(database_path=path) as recorder:
            recorder.add(request())

        assert read_paths(client) == ["/"]
        assert "Requests wait in memory alone" in caplog.text

    @pytest.mark.parametrize("interface", ["wsgi", "asgi"])
    def test_workers_of_a_server_send_what_is_left_when_they_are_stopped(
        self, interface: str, server: WebServer, api_key: IssuedKey, client: Client
    ) -> None:
        with served(interface, server, api_key) as (url, process):
            statuses = [httpx.get(f"{url}/{number}", trust_env=False).status_code for number in range(20)]
            assert read_paths(client) == []  # the interval is an hour
            process.send_signal(SIGTERM)
            process.wait(SECONDS)

        assert statuses == [200] * 19 + [500]
        events = list(client.list_events())
        assert sorted(event.properties["path"] for event in events) == sorted(f"/{number}" for number in range(20))
        assert sorted(event.properties["response_bytes"] for event in events) == [0] + [3_000] * 19
