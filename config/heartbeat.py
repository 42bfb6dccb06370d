"""The workers' signs of life: a time in Redis for each queue, written with each Celery heartbeat of a worker that takes
tasks from it, read by `/health/ready`."""

from collections.abc import Iterable

import redis

KEEP_SECONDS = 3600


def record_heartbeat(client: redis.Redis, *, queues: Iterable[str], now: float) -> None:
    for queue in queues:
        client.set(_key(queue), str(now), ex=KEEP_SECONDS)


def seconds_since_heartbeat(client: redis.Redis, *, queue: str, now: float) -> float | None:
    """Return the seconds since a worker of the queue was seen; None if that was over an hour ago, or never."""
    value = client.get(_key(queue))
    return None if value is None else max(0.0, now - float(value))


def _key(queue: str) -> str:
    return f"meterbook:heartbeat:{queue}"
