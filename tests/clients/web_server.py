"""The real web server in a process of its own, on the test database, for clients that speak HTTP.

It can be stopped and started again, which is what the tests of outages need.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

import httpx
from django.db import connection
from psycopg.conninfo import make_conninfo

from config.env import BASE_DIR
from config.processes import spawn

START_SECONDS = 30


class WebServer:
    """One web server process; `url` stays the same over restarts."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        command = [
            *(sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--http", "1", "--no-ws", "--workers", "1", "--blocking-threads", "4"),
            "config.wsgi:application",
        ]
        with self._log.open("ab") as log:
            self._process = spawn(
                command,
                parent_death_signal=SIGKILL,
                environment=self._environment,
                output=log.fileno(),
                directory=BASE_DIR,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_answering():
            assert time.monotonic() < deadline, f"The server does not start:\n{self._log.read_text()[-2000:]}"
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
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


def _test_database_url() -> str:
    settings = connection.settings_dict
    return make_conninfo(
        host=settings["HOST"],
        port=settings["PORT"] or None,
        user=settings["USER"],
        password=settings["PASSWORD"] or None,
        dbname=settings["NAME"],
    )


@contextmanager
def web_server(log: Path) -> Iterator[WebServer]:
    """Yield a server on the test database, not yet started; stop it at the end."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.base",
        "DATABASE_URL": _test_database_url(),
    }
    server = WebServer(environment, log)
    try:
        yield server
    finally:
        server.stop()
