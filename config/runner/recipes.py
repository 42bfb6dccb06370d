"""The commands of our own processes: web, stream, workers, beat, courier, listener, and the two that run once."""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from signal import SIGKILL
from subprocess import Popen

from config.env import BASE_DIR
from config.processes import spawn
from config.queues import QUICK_QUEUE, SLOW_QUEUE
from config.runner.child import Recipe
from config.runner.plan import Plan

STREAM_BACKLOG = 4096


def child_environment(plan: Plan, services: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        **services,
        "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "config.settings.base"),
        "METERBOOK_DATA_DIR": str(plan.data_dir),
        "PORT": str(plan.port),
        "METERBOOK_STREAM_PORT": str(plan.stream_port),
        "METERBOOK_FORWARD_HOST": plan.forward_host,
        "METERBOOK_FORWARD_PORT": str(plan.forward_port),
        "METERBOOK_FORWARD_SECURE_HOST": plan.forward_secure_host,
        "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir(plan)),
        "PYTHONUNBUFFERED": "1",
        # glibc keeps a heap per thread otherwise, which doubles the memory of a threaded process.
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
    }


def metrics_dir(plan: Plan) -> Path:
    return plan.data_dir / "run" / "metrics"


def web(plan: Plan, environment: Mapping[str, str]) -> Recipe:
    command = [
        *_granian(plan.host, plan.port, interface="wsgi"),
        *("--workers", str(plan.web_workers), "--blocking-threads", str(plan.web_threads)),
        # Each thread keeps its database connection: an idle one should live long enough to be worth it.
        *("--blocking-threads-idle-timeout", "600", "--workers-kill-timeout", "10"),
        "config.wsgi:application",
    ]
    return _recipe("web", command, environment, grace_seconds=15)


def stream(plan: Plan, environment: Mapping[str, str]) -> Recipe:
    command = [
        *_granian(plan.host, plan.stream_port, interface="asgi"),
        *("--workers", "1", "--loop", "asyncio", "--backlog", str(STREAM_BACKLOG), "--workers-kill-timeout", "3"),
        "config.asgi:application",
    ]
    return _recipe("stream", command, environment, grace_seconds=6)


def worker(plan: Plan, environment: Mapping[str, str]) -> Recipe:
    queues = (QUICK_QUEUE,) if plan.slow_worker_threads else (QUICK_QUEUE, SLOW_QUEUE)
    return _worker("worker", queues, plan.worker_threads, environment)


def slow_worker(plan: Plan, environment: Mapping[str, str]) -> Recipe:
    return _worker("slow-worker", (SLOW_QUEUE,), plan.slow_worker_threads, environment)


def beat(environment: Mapping[str, str]) -> Recipe:
    # The schedule is kept in memory: a file of it can be left half-written by a kill, and nothing in it is needed.
    return _recipe("beat", [*_celery("beat"), "--scheduler", "celery.beat:Scheduler", "--pidfile="], environment)


def courier(environment: Mapping[str, str]) -> Recipe:
    # Attempts under way get a moment to end; those that do not are made again.
    return _recipe("courier", [sys.executable, "manage.py", "deliver_webhooks"], environment)


def forward(environment: Mapping[str, str]) -> Recipe:
    # What was read is stored and acknowledged first: the listener gives that nine seconds at most.
    return _recipe("forward", [sys.executable, "manage.py", "forward_listener"], environment, grace_seconds=12)


def preparation(environment: Mapping[str, str]) -> Recipe:
    return _recipe("meterbook", [sys.executable, "-m", "config.runner.prepare"], environment)


def demo(plan: Plan, environment: Mapping[str, str]) -> Recipe:
    command = [sys.executable, "-m", "config.runner.demo", "--url", plan.address]
    return _recipe("demo", command, environment, grace_seconds=5)


def _granian(host: str, port: int, *, interface: str) -> list[str]:
    return [
        *(sys.executable, "-m", "granian", "--interface", interface, "--host", host, "--port", str(port)),
        *("--http", "1", "--no-ws", "--respawn-failed-workers", "--log-level", "warning"),
    ]


def _worker(name: str, queues: Sequence[str], threads: int, environment: Mapping[str, str]) -> Recipe:
    command = [
        *_celery("worker"),
        *("--hostname", f"{name}@%h", "--queues", ",".join(queues)),
        *("--pool", "threads", "--concurrency", str(threads)),
        *("--without-gossip", "--without-mingle"),
    ]
    # A task under way may finish; one that does not is rolled back, and run again at the next start.
    return _recipe(name, command, environment, grace_seconds=10)


def _celery(action: str) -> list[str]:
    return [sys.executable, "-m", "celery", "--quiet", "--app", "config.worker", action, "--loglevel", "WARNING"]


def _recipe(name: str, command: Sequence[str], environment: Mapping[str, str], grace_seconds: float = 10) -> Recipe:
    return Recipe(name, partial(_start, command, environment), grace_seconds=grace_seconds)


def _start(command: Sequence[str], environment: Mapping[str, str], output: int) -> "Popen[bytes]":
    return spawn(command, parent_death_signal=SIGKILL, environment=environment, output=output, directory=BASE_DIR)
