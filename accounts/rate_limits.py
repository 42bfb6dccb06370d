"""The optional limit of requests per API key: a sliding minute, counted in Redis.

Consulted only where the organization sets a limit. While Redis is away every request is let through: a limit
protects the server from a flood, and refusing paying customers' usage would be the worse failure.
"""

from datetime import datetime
from functools import cache
from typing import Any

import redis
import structlog
from django.conf import settings

from accounts.domain import RATE_WINDOW_SECONDS, RateVerdict, judge_rate
from common.redis import ONCE_MORE

logger = structlog.get_logger("meterbook.rate_limits")

# Shorter than elsewhere: every request of a limited key waits this long for a Redis that does not answer.
TIMEOUT_SECONDS = 0.25

# Reads this minute's and the last one's count, and counts the request only if it fits: what was refused does not
# keep the key locked out. One round trip; atomic, so n parallel requests take exactly the room there is.
# KEYS: this minute, the last one. ARGV: limit, seconds left of this minute, seconds of a window.
_TAKE = """
local current = tonumber(redis.call('GET', KEYS[1]) or '0')
local previous = tonumber(redis.call('GET', KEYS[2]) or '0')
if current + math.floor(previous * ARGV[2] / ARGV[3]) < tonumber(ARGV[1]) then
  redis.call('INCR', KEYS[1])
  redis.call('EXPIRE', KEYS[1], 2 * ARGV[3])
end
return {current, previous}
"""


@cache
def _script() -> Any:
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry=ONCE_MORE
    )
    return client.register_script(_TAKE)


def take_request(*, key_id: int, limit: int, now: datetime) -> RateVerdict | None:
    """Count one request of the key if it fits; return the verdict, or None when Redis did not answer."""
    return take_share(name=str(key_id), limit=limit, now=now)


def take_share(*, name: str, limit: int, now: datetime) -> RateVerdict | None:
    """As `take_request`, of whatever the name stands for. Names that are numbers are keys' ids."""
    minute, second = divmod(int(now.timestamp()), RATE_WINDOW_SECONDS)
    seconds_left = RATE_WINDOW_SECONDS - second
    # The braces keep both keys on one node of a Redis cluster.
    keys = [f"meterbook:rate:{{{name}}}:{minute}", f"meterbook:rate:{{{name}}}:{minute - 1}"]
    try:
        current, previous = _script()(keys=keys, args=[limit, seconds_left, RATE_WINDOW_SECONDS])
    except redis.RedisError as error:
        logger.warning("rate_limit_skipped", reason=str(error))
        return None
    return judge_rate(limit=limit, current=current, previous=previous, seconds_left=seconds_left)
