"""One installation under its supervisor, as `make run` starts it, and the processes of it that can be killed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any, LiteralString

import psutil
import psycopg
from redis import Redis, RedisError

from config.embedded import postgres, state
from config.env import BASE_DIR

START_SECONDS = 120
STOP_SECONDS = 90
LOOK_SECONDS = 0.05
# What the calling process points at is not what the installation uses.
FOREIGN_VARIABLES = ("DATABASE_URL", "REDIS_URL", "METERBOOK_SECRET_KEY", "DJANGO_SETTINGS_MODULE")
QUEUE = "meterbook:async-events"


class InstanceFailed(Exception):
    """The installation did not start, recover or stop in time; the message ends with its last words."""


@dataclass(slots=True)
class Instance:
    data_dir: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
        return own | {
            "METERBOOK_DATA_DIR": str(self.data_dir),
            "METERBOOK_HOST": "127.0.0.1",
            "METERBOOK_DEMO": "0",
            "PORT": str(self.port),
        }

    @property
    def log_path(self) -> Path:
        return self.data_dir.with_suffix(".log")

    # --- starting and stopping ---

    def start(self) -> None:
        command = [sys.executable, "-m", "config.runner", "--with-parent"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=BASE_DIR, env=self.environment, stdout=log, stderr=log)
        self.wait_until("ready", self.is_ready, START_SECONDS)

    def stop(self) -> None:
        """Stop politely; what does not go is killed, so that nothing is left behind."""
        if self.process is None:
            return
        tree = self.tree()
        self.process.send_signal(SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def is_ready(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise InstanceFailed(f"The supervisor ended.\n{self.last_words()}")
        return self.get("/health/ready").get("status") == "ok"

    def wait_until(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise InstanceFailed(f"Not {what} after {seconds:.0f} s.\n{self.last_words()}")
            time.sleep(LOOK_SECONDS)

    def last_words(self) -> str:
        return self.log_path.read_text(errors="replace")[-3000:]

    # --- asking ---

    def get(self, path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Return the JSON answer; empty while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers or {})
            return dict(json.loads(connection.getresponse().read()))
        except (OSError, http.client.HTTPException, ValueError):
            return {}
        finally:
            connection.close()

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a management command beside the installation."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=BASE_DIR, env=self.environment, capture_output=True, text=True)

    def query(self, statement: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database directly: the books of the server, not its opinion of them."""
        with psycopg.connect(self._service("DATABASE_URL")) as connection:
            return connection.execute(statement, values).fetchall()

    def holds(self, statement: LiteralString, *values: Any) -> bool:
        """Tell whether the statement finds a row; it does not while the database is down."""
        try:
            return bool(self.query(statement, *values))
        except psycopg.OperationalError:
            return False

    def is_settled(self) -> bool:
        """Tell whether no batch, no queued event and no changed usage waits."""
        try:
            with Redis.from_url(self._service("REDIS_URL")) as client:
                is_queue_empty = client.xlen(QUEUE) == 0
            return is_queue_empty and not (
                self.query("SELECT FROM metering_ingestbatch WHERE state = 0 LIMIT 1")
                or self.query("SELECT FROM metering_usage_change LIMIT 1")
            )
        except (RedisError, psycopg.OperationalError):
            return False

    def _service(self, name: str) -> str:
        """Return the address that the supervisor wrote down for everybody beside it."""
        lines = (self.data_dir / "run" / state.SERVICES_FILE).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)[name]

    # --- processes ---

    def tree(self) -> list[psutil.Process]:
        """Return the supervisor and everything below it."""
        assert self.process is not None
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def find(self, *words: str) -> psutil.Process | None:
        """Return the supervisor's own child whose command contains all the words, unless it is down right now."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                command = " ".join(child.cmdline())
                if all(word in command for word in words):
                    return child
        return None


@contextmanager
def temporary_instance() -> Iterator[Instance]:
    """Start an installation in a new directory on a free port; stop it and delete everything at the end."""
    base = Path(tempfile.mkdtemp(prefix="meterbook-chaos-"))
    base.chmod(0o711)  # PostgreSQL may run under another account than we do
    instance = Instance(base / "data", _free_port())
    try:
        instance.start()
        yield instance
    finally:
        instance.stop()
        postgres.remove(instance.data_dir)
        shutil.rmtree(base, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        port: int = attempt.getsockname()[1]
        return port
