"""Liveness, readiness and metrics: what an operator's machinery asks.

`/health/live` tells that this process answers. `/health/ready` tells whether requests can succeed (database and
Redis: 503 if not) and whether the background keeps up (workers, rollup lag: reported, since reads stay exact
without it). `/metrics` is Prometheus text over all processes of this installation.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from common.redis import redis_client
from config.heartbeat import seconds_since_heartbeat
from config.queues import QUICK_QUEUE, SLOW_QUEUE

WORKER_SILENCE_SECONDS = 15
# Beyond this the rollups no longer keep up; reads stay exact, but slow down with the tail.
LAG_LIMIT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class RollupLag:
    """What waits to be rolled up: how many batches, and the age of the oldest in seconds."""

    pending_batches: int
    seconds: float


def get_rollup_lag() -> RollupLag:
    """One query over the pending batches alone. Uses index: batch_pending (partial)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), COALESCE(EXTRACT(EPOCH FROM now() - min(received_at)), 0)::float8 "
            "FROM metering_ingestbatch "
            "WHERE state = 0"
        )
        pending, seconds = cursor.fetchone()
    return RollupLag(pending, max(0.0, seconds))


@require_safe
def live(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 `ok`, 200 `degraded` (only the background is behind) or 503 `unavailable`; each check says why."""
    checks = {"database": _ask(_check_database), "redis": _ask(_check_redis)}
    checks["worker"] = _ask(partial(_check_worker, QUICK_QUEUE))
    checks["slow_worker"] = _ask(partial(_check_worker, SLOW_QUEUE))
    lag = checks["rollup"] = _ask(_check_rollup) if checks["database"]["ok"] else {"ok": False}
    if not (checks["database"]["ok"] and checks["redis"]["ok"]):
        status = "unavailable"
    else:
        is_keeping_up = checks["worker"]["ok"] and checks["slow_worker"]["ok"] and lag["ok"]
        status = "ok" if is_keeping_up else "degraded"
    answer = JsonResponse({"status": status, "checks": checks}, status=503 if status == "unavailable" else 200)
    answer.headers["Cache-Control"] = "no-store"
    return answer


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Add up the counters of all processes where they share a directory (`make run`), else show this process's."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it registers itself
    else:
        registry.register(_Everything())
    registry.register(_Background())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Everything(Collector):
    def collect(self) -> Any:
        return REGISTRY.collect()


class _Background(Collector):
    """Gauges asked of the stores when somebody looks; absent while a store is down."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            lag = get_rollup_lag()
            yield GaugeMetricFamily("meterbook_rollup_lag_seconds", "Age of the oldest pending batch.", lag.seconds)
            yield GaugeMetricFamily("meterbook_pending_batches", "Batches not rolled up yet.", lag.pending_batches)
        except DatabaseError:
            pass


def _ask(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the check's findings with how long it took; a store's refusal is a finding too."""
    started = time.perf_counter()
    try:
        findings = check()
    except (DatabaseError, RedisError) as error:
        # The class alone: messages of drivers quote addresses and names.
        findings = {"ok": False, "error": type(error).__name__}
    return findings | {"ms": round((time.perf_counter() - started) * 1000, 1)}


def _check_database() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return {"ok": True}


def _check_redis() -> dict[str, Any]:
    return {"ok": bool(redis_client().ping())}


def _check_worker(queue: str) -> dict[str, Any]:
    silence = seconds_since_heartbeat(redis_client(), queue=queue, now=time.time())
    if silence is None:
        return {"ok": False, "last_seen_seconds": None}
    return {"ok": silence < WORKER_SILENCE_SECONDS, "last_seen_seconds": round(silence, 1)}


def _check_rollup() -> dict[str, Any]:
    lag = get_rollup_lag()
    return {
        "ok": lag.seconds < LAG_LIMIT_SECONDS,
        "lag_seconds": round(lag.seconds, 3),
        "pending_batches": lag.pending_batches,
    }
