"""A whole installation under test: the supervisor as `make run` starts it, with data and ports of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from config.embedded.state import SERVICES_FILE
from config.env import BASE_DIR

START_SECONDS = 90
# What the test run itself points at must not be what the installation uses.
OWN_VARIABLES = ("DATABASE_URL", "REDIS_URL", "METERBOOK_SECRET_KEY", "DJANGO_SETTINGS_MODULE", "PYTEST_CURRENT_TEST")


class Installation:
    def __init__(self, data_dir: Path, port: int, **variables: str) -> None:
        self.data_dir = data_dir
        self.port = port
        self.variables = variables
        self.log = data_dir.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Installation":
        environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
        environment |= {"METERBOOK_DATA_DIR": str(self.data_dir), "PORT": str(self.port)}
        environment |= {"METERBOOK_DEMO": "0", "METERBOOK_WEB_WORKERS": "1", "METERBOOK_FORWARD_PORT": "0"}
        # The worker does everything: a process less to start.
        environment |= {"METERBOOK_SLOW_WORKER_THREADS": "0", **self.variables}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "config.runner"], cwd=BASE_DIR, env=environment, stdout=log, stderr=log
            )
        return self

    def wait_until_ready(self) -> "Installation":
        wait_for(lambda: self.get("/health/ready").get("status") == "ok", START_SECONDS, self.explain)
        return self

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON answer; empty while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return dict(json.loads(connection.getresponse().read()))
        except (OSError, http.client.HTTPException, ValueError):
            return {}
        finally:
            connection.close()

    def create_organization(self, name: str) -> str:
        """Return an API key with every scope of a new organization."""
        command = [sys.executable, "manage.py", "create_organization", "--json"]
        command += ["--name", name, "--email", f"{name.lower()}@example.test"]
        environment = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
        environment |= {"METERBOOK_DATA_DIR": str(self.data_dir), **self.variables}
        done = subprocess.run(command, cwd=BASE_DIR, env=environment, capture_output=True, timeout=60, check=True)
        return str(json.loads(done.stdout)["api_key"])

    def services(self) -> dict[str, str]:
        """Return the addresses of its servers, by the names of their variables."""
        lines = (self.data_dir / "run" / SERVICES_FILE).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def processes(self) -> list[psutil.Process]:
        """Return the supervisor and everything below it."""
        assert self.process is not None
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def find(self, part: str) -> psutil.Process:
        """Return the supervisor's own living child whose command contains the words; wait while it is started anew."""
        wait_for(lambda: bool(self._living_children(part)), 30, self.explain)
        return self._living_children(part)[0]

    def _living_children(self, part: str) -> list[psutil.Process]:
        assert self.process is not None
        return [child for child in psutil.Process(self.process.pid).children() if part in command_of(child)]

    def end(self, with_signal: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(with_signal)
        return self.process.wait(60)

    def explain(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def wait_for(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_of(process: psutil.Process) -> str:
    """Return its command, empty when it has ended: the supervisor's dead children stay listed until it looks."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run; psutil compares start times, so a reused process id does not deceive."""
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
