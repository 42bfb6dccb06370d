"""The real servers in processes of their own, on the test database, for clients that speak HTTP.

They can be stopped and started again, which is what the tests of outages need.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

import httpx
from django.db import connection
from psycopg.conninfo import make_conninfo

from config.env import BASE_DIR
from config.processes import spawn

START_SECONDS = 30


class WebServer:
    """One server process: the web server, or (`interface="asgi"`) the streams. `url` stays the same over restarts."""

    def __init__(self, port: int, environment: dict[str, str], log: Path, *, interface: str = "wsgi") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            *(sys.executable, "-m", "granian", "--interface", interface, "--host", "127.0.0.1"),
            *("--port", str(port), "--http", "1", "--no-ws", "--workers", "1"),
            *(("--blocking-threads", "4") if interface == "wsgi" else ("--loop", "asyncio")),
            f"config.{interface}:application",
        ]

    def start(self) -> None:
        """Start it unless it runs. For the main thread alone: the server dies with the thread that started it."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as log:
            self._process = spawn(
                self._command,
                parent_death_signal=SIGKILL,
                environment=self.environment,
                output=log.fileno(),
                directory=BASE_DIR,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_answering():
            assert time.monotonic() < deadline, f"The server does not start:\n{self._log.read_text()[-2000:]}"
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_SECONDS)
            self._process = None

    def kill(self) -> None:
        """End all of the server's processes at once, in the middle of whatever they do."""
        if self._process is not None:
            os.killpg(self._process.pid, SIGKILL)
            self._process.wait(START_SECONDS)
            self._process = None

    def _is_answering(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", trust_env=False).is_success
        except httpx.TransportError:
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def url_of_test_database() -> str:
    settings = connection.settings_dict
    return make_conninfo(
        host=settings["HOST"],
        port=settings["PORT"] or None,
        user=settings["USER"],
        password=settings["PASSWORD"] or None,
        dbname=settings["NAME"],
    )


@dataclass(frozen=True, slots=True)
class Servers:
    """The web server and the one that it sends listeners to."""

    web: WebServer
    stream: WebServer


@contextmanager
def servers_on_test_database(directory: Path) -> Iterator[Servers]:
    """Yield the servers, not yet started; stop them at the end."""
    web_port, stream_port = _free_port(), _free_port()
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.base",
        "DATABASE_URL": url_of_test_database(),
        "PORT": str(web_port),
        "METERBOOK_STREAM_PORT": str(stream_port),
    }
    servers = Servers(
        WebServer(web_port, environment, directory / "web.log"),
        WebServer(stream_port, environment, directory / "stream.log", interface="asgi"),
    )
    try:
        yield servers
    finally:
        servers.stream.kill()  # it would wait for listeners to hang up
        servers.web.stop()
