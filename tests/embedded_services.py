"""pytest plugin (`-p tests.embedded_services`): one PostgreSQL and one Redis for the whole test run.

Starts them before Django reads its settings, unless DATABASE_URL and REDIS_URL name servers to use. Under
pytest-xdist the controller starts them and the workers inherit the addresses. Everything lives in a temporary
directory and is deleted at the end; if the run is killed, the kernel stops the servers with it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, SIGQUIT, Signals

import pytest

from config.embedded import postgres, redis, state

# A test's data need not survive a power cut; a killed server still loses nothing.
FAST_AND_SMALL = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "max_connections": "200",
}
_running = ExitStack()


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Iterator[None]:
    """A wrapper runs before every plain implementation, among them pytest-django's, which reads the settings."""
    if "METERBOOK_SECRET_KEY" not in os.environ:
        os.environ["METERBOOK_SECRET_KEY"] = "only-for-tests"
    if "DATABASE_URL" not in os.environ or "REDIS_URL" not in os.environ:
        _start_missing(_create_data_dir())
    _use_own_redis_database()
    return (yield)


def pytest_unconfigure() -> None:
    _running.close()


def _create_data_dir() -> Path:
    base = Path(tempfile.mkdtemp(prefix="meterbook-tests-"))
    _running.callback(shutil.rmtree, base, ignore_errors=True)
    base.chmod(0o711)  # PostgreSQL may run under another account than the tests
    data_dir = base / "data"
    state.create_data_dir(data_dir)
    os.environ["METERBOOK_DATA_DIR"] = str(data_dir)
    return data_dir


def _use_own_redis_database() -> None:
    """Give each worker of a parallel run another of Redis's 16 databases, as pytest-django does for PostgreSQL."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and os.environ["REDIS_URL"].endswith("?db=0"):
        os.environ["REDIS_URL"] = os.environ["REDIS_URL"].removesuffix("0") + str((int(worker) + 1) % 16)


def _start_missing(data_dir: Path) -> None:
    log = os.open(data_dir / "run" / "services.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _running.callback(os.close, log)
    if "DATABASE_URL" not in os.environ:
        database = postgres.prepare(data_dir, say=print, overrides=FAST_AND_SMALL)
        _running.callback(postgres.remove, data_dir)
        server = postgres.start(database, parent_death_signal=SIGQUIT, output=log)
        _running.callback(_end, server, SIGQUIT)  # at once, without a checkpoint
        postgres.wait_until_ready(database, server, say=print)
        postgres.ensure_database(database.url())
        os.environ["DATABASE_URL"] = database.url()
    if "REDIS_URL" not in os.environ:
        cache = redis.prepare(data_dir)
        server = redis.start(cache, parent_death_signal=SIGKILL, output=log)
        _running.callback(_end, server, SIGKILL)
        redis.wait_until_ready(cache, server, say=print)
        os.environ["REDIS_URL"] = cache.url


def _end(server: subprocess.Popen[bytes], signal: Signals) -> None:
    server.send_signal(signal)
    server.wait(30)
