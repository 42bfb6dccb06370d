"""How fast Stripe is called: the clock of a run, the tokens of the account, the pauses that Stripe asks for.

Stripe limits an account, whoever calls it, so the tokens are kept in Redis, by key: all workers of the installation
share them. Without Redis each run has its own.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import structlog
from django.conf import settings
from redis.exceptions import RedisError

from common.redis import redis_client

# After so many calls in a row without an answer the network or Stripe is away, and a run ends.
MAX_UNCLEAR = 3
# As many times a run waits when it is told to be slower; then it leaves the rest to the next one.
MAX_THROTTLED = 6
LONGEST_PAUSE_SECONDS = 8.0
# Never so many wait for a token: where the next one is as far away, the clock of who took the last one is wrong.
MAX_WAITING = 200
MICROSECOND = timedelta(microseconds=1)

# Takes the next free moment, and answers in how many microseconds it comes. Atomic, so that two get two moments.
# KEYS: when the next moment is free. ARGV: now, the distance of two moments, the longest queue; all microseconds.
_TAKE = """
local now, interval, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local free = tonumber(redis.call('GET', KEYS[1]) or '0')
if free < now or free > now + longest then
  free = now
end
redis.call('SET', KEYS[1], string.format('%.0f', free + interval), 'PX', math.ceil(longest / 1000) + 60000)
return string.format('%.0f', free - now)
"""

logger = structlog.get_logger(__name__)
_jitter = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Pace:
    """The clock that a run goes by, and how it waits. Tests have their own, and with it tokens of their own."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    wait: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = _jitter.random
    # Whose tokens are taken; empty: those of the installation's account.
    account: str = ""


class TokenBucket:
    """At most so many calls a second, evenly; of the account at Stripe."""

    def __init__(self, *, pace: Pace) -> None:
        self._interval = timedelta(seconds=1) / settings.STRIPE_CALLS_PER_SECOND
        self._pace = pace
        self._key = f"meterbook:stripe-pace:{pace.account or _name(settings.STRIPE_API_KEY)}"
        self._free_at: datetime | None = None

    def take(self) -> None:
        """Wait for a token."""
        now = self._pace.now()
        try:
            waiting = self._take_shared(now)
        except RedisError as error:
            logger.warning("Stripe's tokens are this run's own", reason=str(error))
            waiting = self._take_own(now)
        if waiting:
            self._pace.wait(waiting.total_seconds())

    def _take_shared(self, now: datetime) -> timedelta:
        moment, interval = (now - datetime.fromtimestamp(0, UTC)) // MICROSECOND, self._interval // MICROSECOND
        arguments = [moment, interval, MAX_WAITING * interval]
        return int(_script()(keys=[self._key], args=arguments)) * MICROSECOND

    def _take_own(self, now: datetime) -> timedelta:
        free_at = max(self._free_at or now, now)
        self._free_at = free_at + self._interval
        return free_at - now


@cache
def _script() -> Any:
    return redis_client().register_script(_TAKE)


def _name(api_key: str) -> str:
    """Return what a key is called where it may not be read."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:16]


def pause_seconds(throttled: int, pace: Pace) -> float:
    """Return how long to be quiet after so many refusals for haste: doubling, half of it by chance."""
    whole = min(0.5 * 2.0**throttled, LONGEST_PAUSE_SECONDS)
    return whole / 2 + whole / 2 * pace.jitter()
