"""A throw-away installation: embedded servers and our own processes, started exactly as `make run` starts them.

The commands are those of `config.runner.recipes` and the servers' settings those of `config.embedded`; what differs
is that the benchmark decides when the worker runs, and deletes everything at the end.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals

from config.embedded import memory, postgres, redis, state
from config.runner import recipes
from config.runner.child import Recipe
from config.runner.plan import Plan, read_plan

# Ten million events with their indexes and rollups, and the write-ahead log beside them.
NEEDED_DISK_BYTES = 16 * 2**30
WEB_PATIENCE_SECONDS = 60


class CannotMeasure(Exception):
    """The machine lacks something that the benchmark needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A running installation. `processes` are the roots of the process trees, by the names of `make run`."""

    plan: Plan
    environment: dict[str, str]
    log: int
    processes: dict[str, subprocess.Popen[bytes]]

    @property
    def port(self) -> int:
        return self.plan.port

    @property
    def log_path(self) -> Path:
        return _log_path(self.plan.data_dir)

    @contextmanager
    def running(self, *names: str) -> Iterator[None]:
        """Run some of our processes (`web`, `worker`, … by their recipes' names) for as long as the block lasts."""
        with ExitStack() as stack:
            for name in names:
                recipe = self._recipe(name)
                process = self.processes[name] = recipe.start(self.log)
                stack.callback(self.processes.pop, name)
                stack.callback(_end, process, SIGTERM, recipe.grace_seconds)
            for name, port in (("web", self.port), ("stream", self.plan.stream_port)):
                if name in names:
                    self._await(name, partial(_answers, port))
            if "forward" in names:
                self._await("forward", partial(_listens, self.plan.forward_port))
            yield

    def _recipe(self, name: str) -> Recipe:
        match name:
            case "web":
                return recipes.web(self.plan, self.environment)
            case "stream":
                return recipes.stream(self.plan, self.environment)
            case "worker":
                return recipes.worker(self.plan, self.environment)
            case "slow-worker":
                return recipes.slow_worker(self.plan, self.environment)
            case "beat":
                return recipes.beat(self.environment)
            case "forward":
                return recipes.forward(self.environment)
        raise ValueError(name)

    def _await(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WEB_PATIENCE_SECONDS
        while not is_ready():
            if time.monotonic() > deadline or self.processes[name].poll() is not None:
                raise CannotMeasure(f"The {name} server does not answer:\n{self.log_path.read_text()[-2000:]}")
            time.sleep(0.05)


@contextmanager
def temporary_installation() -> Iterator[Installation]:
    """Start the servers in a new directory, migrate, and delete everything at the end; also says it to Django."""
    with ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="meterbook-bench-"))
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        base.chmod(0o711)  # PostgreSQL may run under another account than we do
        data_dir = base / "data"
        state.create_data_dir(data_dir)
        _require_disk(data_dir)
        for name in ("DATABASE_URL", "REDIS_URL"):
            os.environ.pop(name, None)  # never a database that somebody uses
        os.environ |= {"METERBOOK_DATA_DIR": str(data_dir), "PORT": str(_free_port()), "METERBOOK_HOST": "127.0.0.1"}
        os.environ["METERBOOK_FORWARD_PORT"] = str(_free_port())
        plan = read_plan(os.environ)
        log = os.open(_log_path(data_dir), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        stack.callback(os.close, log)
        processes: dict[str, subprocess.Popen[bytes]] = {}
        services = {
            "DATABASE_URL": _start_postgres(data_dir, log, processes, stack),
            "REDIS_URL": _start_redis(data_dir, log, processes, stack),
            "METERBOOK_SECRET_KEY": state.ensure_secret_key(data_dir),
        }
        recipes.metrics_dir(plan).mkdir(mode=0o700)
        environment = recipes.child_environment(plan, services)
        os.environ |= services | {"DJANGO_SETTINGS_MODULE": environment["DJANGO_SETTINGS_MODULE"]}
        subprocess.run([sys.executable, "-m", "config.runner.prepare"], env=environment, check=True)
        yield Installation(plan, environment, log, processes)


def _start_postgres(data_dir: Path, log: int, processes: dict[str, subprocess.Popen[bytes]], stack: ExitStack) -> str:
    site = postgres.prepare(data_dir, say=_say)
    stack.callback(postgres.remove, data_dir)
    server = processes["postgres"] = postgres.start(site, parent_death_signal=SIGQUIT, output=log)
    stack.callback(_end, server, SIGQUIT, 60)  # at once: nothing of it is kept
    postgres.wait_until_ready(site, server, say=_say)
    postgres.ensure_database(site.url())
    return site.url()


def _start_redis(data_dir: Path, log: int, processes: dict[str, subprocess.Popen[bytes]], stack: ExitStack) -> str:
    site = redis.prepare(data_dir)
    server = processes["redis"] = redis.start(site, parent_death_signal=SIGKILL, output=log)
    stack.callback(_end, server, SIGINT, 10)
    redis.wait_until_ready(site, server, say=_say)
    return site.url


def _end(process: subprocess.Popen[bytes], signal: Signals, patience: float) -> None:
    process.send_signal(signal)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        port: int = attempt.getsockname()[1]
        return port


def _require_disk(path: Path) -> None:
    if memory.free_disk_bytes(path) < NEEDED_DISK_BYTES:
        raise CannotMeasure(f"{path} has less than {NEEDED_DISK_BYTES // 2**30} GiB free; set TMPDIR to a larger disk.")


def _log_path(data_dir: Path) -> Path:
    return data_dir / "run" / "processes.log"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
