"""The process's Redis client; one connection pool, short time-outs so that a lost Redis cannot hang a request."""

from functools import cache

import redis
from django.conf import settings

TIMEOUT_SECONDS = 2.0


@cache
def redis_client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
