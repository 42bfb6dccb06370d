"""The supervisor, with real servers: starts, heals, and leaves nothing behind, however it ends."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from celery import Celery

from config.embedded import postgres
from config.env import BASE_DIR
from config.queues import SLOW_QUEUE
from config.settings.celery import broker_url
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
    installation = Installation(base_dir / "first", free_port(), METERBOOK_SLOW_WORKER_THREADS="2").start()
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
    parts = ("bin/postgres", "redis-server", "config.wsgi", "--hostname worker@", "--hostname slow-worker@")
    killed = [installation.find(part) for part in parts]

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


def test_rollups_do_not_wait_behind_slow_tasks(installation: Installation) -> None:
    key = installation.create_organization("Initech")
    base = f"http://127.0.0.1:{installation.port}"
    with (
        httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}, timeout=30) as api,
        psycopg.connect(installation.services()["DATABASE_URL"]) as somebody,
    ):
        metric = {"code": "calls", "name": "Calls", "aggregation": "count", "event_type": "call"}
        assert api.post("/v1/metrics", json=metric).status_code == 201
        somebody.execute("SELECT FROM accounts_organization FOR NO KEY UPDATE")
        publish_invoice_runs(installation, count=12)  # more than there are threads, and none can end
        wait_for(lambda: count_waiting(somebody) >= 2, 30, installation.explain)

        event = {"idempotency_key": "1", "customer": "c", "type": "call"}
        assert api.post("/v1/events", json=event).json()["stored"] == 1

        wait_for(lambda: count_pending(installation) == 0, 10, installation.explain)
        assert count_waiting(somebody) >= 2
    wait_for(lambda: installation.get("/health/ready").get("status") == "ok", 30, installation.explain)


def publish_invoice_runs(installation: Installation, count: int) -> None:
    # Not current: whatever later tests publish goes to the broker of the tests.
    with Celery(broker=broker_url(installation.services()["REDIS_URL"]), set_as_current=False) as app:
        for _ in range(count):
            app.send_task("billing.work_invoice_run", [1], queue=SLOW_QUEUE)


def count_waiting(connection: psycopg.Connection) -> int:
    """Return how many wait for a lock."""
    [count] = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() or (0,)
    return int(count)


def count_pending(installation: Installation) -> int:
    return int(installation.get("/health/ready")["checks"]["rollup"]["pending_batches"])


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
