"""The process's Redis client; one connection pool, short time-outs so that a lost Redis cannot hang a request.

A command that finds its connection closed, as after a restart of Redis, is sent once more at once. The library's own
way is to wait and try again for seconds, in every request.
"""

from functools import cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_SECONDS = 2.0
ONCE_MORE = Retry(NoBackoff(), 1)


@cache
def redis_client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry=ONCE_MORE
    )
