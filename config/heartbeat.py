"""The worker's sign of life: a time in Redis, written with each Celery heartbeat, read by `/health/ready`."""

import redis

KEY = "meterbook:worker-heartbeat"
KEEP_SECONDS = 3600


def record_heartbeat(client: redis.Redis, *, now: float) -> None:
    client.set(KEY, str(now), ex=KEEP_SECONDS)


def seconds_since_heartbeat(client: redis.Redis, *, now: float) -> float | None:
    """Return the seconds since any worker was last seen; None if that was over an hour ago, or never."""
    value = client.get(KEY)
    return None if value is None else max(0.0, now - float(value))
