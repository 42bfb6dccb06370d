"""The supervisor, with real servers: starts, heals, and leaves nothing behind, however it ends."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.embedded import postgres
from config.env import BASE_DIR
from tests.runtime.installation import OWN_VARIABLES, Installation, alive, free_port, wait_for

pytestmark = pytest.mark.xdist_group("supervisor")  # one after the other, on the same data


@pytest.fixture(scope="module")
def base_dir() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="meterbook-runner-"))
    base.chmod(0o711)  # as root, PostgreSQL runs under another account
    yield base
    for data_dir in base.iterdir():
        if data_dir.is_dir():
            postgres.remove(data_dir)
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def installation(base_dir: Path) -> Iterator[Installation]:
    """One for the whole module, since a start takes seconds; each test leaves it running."""
    installation = Installation(base_dir / "first", free_port()).start()
    try:
        yield installation.wait_until_ready()
    finally:
        assert installation.end(signal.SIGTERM) == 0


def test_second_installation_runs_beside_and_stops_cleanly(installation: Installation, base_dir: Path) -> None:
    other = Installation(base_dir / "second", free_port()).start().wait_until_ready()
    processes = other.processes()

    assert other.end(signal.SIGINT) == 0

    assert alive(processes) == []
    assert installation.get("/health/live") == {"status": "ok"}


def test_killed_children_come_back(installation: Installation) -> None:
    killed = [
        installation.find(part) for part in ("bin/postgres", "redis-server", "config.wsgi", "config.worker worker")
    ]

    for child in killed:
        child.kill()

    wait_for(lambda: not alive(killed), 5)
    installation.wait_until_ready()


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_recovers(installation: Installation) -> None:
    processes = installation.processes()

    installation.end(signal.SIGKILL)

    wait_for(lambda: not alive(processes), 15, lambda: f"left over: {alive(processes)}")
    installation.start().wait_until_ready()


def test_second_start_is_refused_with_a_reason(installation: Installation) -> None:
    same_port = _refusal(METERBOOK_DATA_DIR=f"{installation.data_dir}-other", PORT=str(installation.port))
    same_data = _refusal(METERBOOK_DATA_DIR=str(installation.data_dir), PORT=str(free_port()))

    assert f"Port {installation.port} is taken." in same_port
    assert "Meterbook already runs on" in same_data
    assert installation.get("/health/ready")["status"] == "ok"


def _refusal(**variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    answer = subprocess.run(
        [sys.executable, "-m", "config.runner"],
        cwd=BASE_DIR,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert answer.returncode == 1
    return answer.stdout
