"""Telling the worker that there is something to do, at most one waking task per organization at a time.

A mark in Redis debounces: the first commit after the worker looked sets it and publishes a task; the worker
removes it before it looks. A commit is thus either seen by the look or publishes anew.

A turn, in Redis as well, keeps the tasks of one organization from working against each other: who finds it taken
leaves at once, and who gives it back looks for the mark afterwards. What was committed before the task that left
came is thus either seen by a look, or the mark is still there when the turn is given back.

When Redis is away, or a process is killed in between, the beat's sweep finds the work instead; neither ingest nor
the work itself fails for a lost mark or turn, and locks in the database see to it that no work is done twice.
"""

from contextlib import suppress
from functools import partial

import structlog
from celery import current_app
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from common.redis import redis_client

logger = structlog.get_logger(__name__)

ROLL_UP_TASK = "metering.roll_up_organization"
DRAIN_TASK = "metering.drain_async_events"
# A mark whose task was lost expires by itself; the sweep has long done its work by then.
MARK_MILLISECONDS = 10_000
# A turn whose holder was killed expires by itself. The holder renews it with every step, which is shorter by far.
TURN_SECONDS = 5.0


class Turn:
    """The right to be the one that does a task's work for an organization. An optimization: it excludes nobody."""

    def __init__(self, *, task: str, organization_id: int) -> None:
        self._lock = redis_client().lock(f"turn:{task}:{organization_id}", timeout=TURN_SECONDS)

    def take(self) -> bool:
        """Return whether it is ours now; without Redis it is everybody's."""
        try:
            return self._lock.acquire(blocking=False)
        except RedisError:
            return True

    def keep(self) -> None:
        """Have it for the whole time again. Where it expired, others may be at the work too, which only costs time."""
        with suppress(RedisError):
            self._lock.reacquire()

    def give_back(self) -> None:
        """Let others have it. Look for the mark afterwards, never before."""
        with suppress(RedisError):
            self._lock.release()


def wake_rollup(*, organization_id: int) -> None:
    """Publish a rollup of the organization after the current transaction commits, unless one is on its way."""
    transaction.on_commit(lambda: _publish_once(_rollup_mark(organization_id), ROLL_UP_TASK, [organization_id]))


def wake_drain() -> None:
    """Publish a drain of the asynchronous events, unless one is on its way."""
    _publish_once("wake:drain", DRAIN_TASK, [])


def wake_followers(*, organization_id: int) -> None:
    """Publish the tasks that follow changed usage after the current transaction commits.

    Settings name them, since they belong to apps above this one. Their own sweep finds what a lost wake-up left.
    """
    for task in settings.USAGE_FOLLOWERS:
        transaction.on_commit(
            partial(_publish_once, _follower_mark(task, organization_id), task, [organization_id]), robust=True
        )


def wake_task(*, task: str, organization_id: int) -> None:
    """Publish one task of the organization now, unless it is on its way. Whatever is lost, its own sweep finds."""
    _publish_once(_follower_mark(task, organization_id), task, [organization_id])


def ask_follower(*, task: str, organization_id: int) -> None:
    """Set the mark without publishing: for whoever gives back the follower's turn."""
    try:
        redis_client().set(_follower_mark(task, organization_id), 1, px=MARK_MILLISECONDS)
    except RedisError as error:
        logger.warning("wake_up_lost", task=task, reason=str(error))


def is_follower_asked(*, task: str, organization_id: int) -> bool:
    return _is_set(_follower_mark(task, organization_id))


def clear_follower_mark(*, task: str, organization_id: int) -> None:
    """Let the next change publish the follower again. Call before looking at the changes, never after."""
    _clear(_follower_mark(task, organization_id))


def is_rollup_asked(*, organization_id: int) -> bool:
    """Tell whether something was committed since the mark was cleared."""
    return _is_set(_rollup_mark(organization_id))


def clear_rollup_mark(*, organization_id: int) -> None:
    """Let the next commit wake the worker again. Call before looking for work, never after."""
    _clear(_rollup_mark(organization_id))


def clear_drain_mark() -> None:
    _clear("wake:drain")


def _rollup_mark(organization_id: int) -> str:
    return f"wake:rollup:{organization_id}"


def _follower_mark(task: str, organization_id: int) -> str:
    return f"wake:{task}:{organization_id}"


def _publish_once(mark: str, task: str, arguments: list[int]) -> None:
    try:
        if redis_client().set(mark, 1, nx=True, px=MARK_MILLISECONDS):
            current_app.send_task(task, args=arguments, retry=False)
    except BrokerError as error:
        _clear(mark)
        logger.warning("wake_up_lost", task=task, reason=str(error))
    except RedisError as error:
        logger.warning("wake_up_lost", task=task, reason=str(error))


def _is_set(mark: str) -> bool:
    try:
        return bool(redis_client().exists(mark))
    except RedisError:
        return False  # the sweep looks


def _clear(mark: str) -> None:
    try:
        redis_client().delete(mark)
    except RedisError as error:
        # It expires by itself; until then the sweep looks.
        logger.warning("mark_not_cleared", mark=mark, reason=str(error))
