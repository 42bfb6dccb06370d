"""Liveness, readiness, metrics and request ids."""

import time
from pathlib import Path

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from common.redis import redis_client
from config.heartbeat import record_heartbeat
from config.queues import QUICK_QUEUE, SLOW_QUEUE


def test_live_answers_without_a_database(client: Client) -> None:
    # No `db` mark: pytest-django would refuse a query.
    assert client.get("/health/live").json() == {"status": "ok"}


@pytest.mark.django_db
def test_ready_reports_every_check(client: Client) -> None:
    record_heartbeat(redis_client(), queues=(QUICK_QUEUE, SLOW_QUEUE), now=time.time())

    answer = client.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert set(answer.json()["checks"]) == {"database", "redis", "worker", "slow_worker", "rollup"}


@pytest.mark.django_db
@pytest.mark.parametrize(("silent", "check"), [(QUICK_QUEUE, "worker"), (SLOW_QUEUE, "slow_worker")])
def test_ready_is_degraded_while_no_worker_was_seen(client: Client, silent: str, check: str) -> None:
    record_heartbeat(redis_client(), queues=(QUICK_QUEUE, SLOW_QUEUE), now=time.time())
    record_heartbeat(redis_client(), queues=(silent,), now=time.time() - 100)

    answer = client.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert [name for name, found in answer.json()["checks"].items() if not found["ok"]] == [check]


@pytest.mark.django_db
def test_ready_is_unavailable_without_redis(client: Client, settings: Settings, tmp_path: Path) -> None:
    settings.REDIS_URL = f"unix://{tmp_path}/nobody.sock"
    redis_client.cache_clear()

    answer = client.get("/health/ready")
    redis_client.cache_clear()

    assert answer.status_code == 503
    assert answer.json()["checks"]["redis"]["ok"] is False
    assert "nobody.sock" not in answer.content.decode()


@pytest.mark.django_db
def test_metrics_count_requests_and_show_the_rollup_lag(client: Client) -> None:
    client.get("/health/live")

    text = client.get("/metrics").content.decode()

    assert 'meterbook_http_requests_total{method="GET",status="200"}' in text
    assert "meterbook_rollup_lag_seconds 0.0" in text


def test_request_id_of_the_caller_is_echoed(client: Client) -> None:
    answer = client.get("/health/live", headers={"X-Request-Id": "order-17"})

    assert answer.headers["X-Request-Id"] == "order-17"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "line\nbreak"], ids=["none", "space", "long", "newline"])
def test_unusable_request_id_is_replaced(client: Client, sent: str) -> None:
    answer = client.get("/health/live", headers={"X-Request-Id": sent})

    assert len(answer.headers["X-Request-Id"]) == 16
