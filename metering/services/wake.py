"""Telling the worker that there is something to do, at most one waking task per organization at a time.

A mark in Redis debounces: the first commit after the worker looked sets it and publishes a task; the worker
removes it before it looks. A commit is thus either seen by the look or publishes anew. When Redis is away the
beat's sweep finds the work instead; neither ingest nor the work itself fails for a lost mark.
"""

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


def wake_rollup(*, organization_id: int) -> None:
    """Publish a rollup of the organization after the current transaction commits, unless one is on its way."""
    transaction.on_commit(lambda: _publish_once(f"wake:rollup:{organization_id}", ROLL_UP_TASK, [organization_id]))


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


def clear_follower_mark(*, task: str, organization_id: int) -> None:
    """Let the next change publish the follower again. Call before looking at the changes, never after."""
    _clear(_follower_mark(task, organization_id))


def _follower_mark(task: str, organization_id: int) -> str:
    return f"wake:{task}:{organization_id}"


def clear_rollup_mark(*, organization_id: int) -> None:
    """Let the next commit wake the worker again. Call before looking for work, never after."""
    _clear(f"wake:rollup:{organization_id}")


def clear_drain_mark() -> None:
    _clear("wake:drain")


def _publish_once(mark: str, task: str, arguments: list[int]) -> None:
    try:
        if redis_client().set(mark, 1, nx=True, px=MARK_MILLISECONDS):
            current_app.send_task(task, args=arguments, retry=False)
    except BrokerError as error:
        _clear(mark)
        logger.warning("wake_up_lost", task=task, reason=str(error))
    except RedisError as error:
        logger.warning("wake_up_lost", task=task, reason=str(error))


def _clear(mark: str) -> None:
    try:
        redis_client().delete(mark)
    except RedisError as error:
        # It expires by itself; until then the sweep looks.
        logger.warning("mark_not_cleared", mark=mark, reason=str(error))
