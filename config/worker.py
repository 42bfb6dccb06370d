"""What every Celery process does besides its tasks: structured logs, a sign of life, a count of tasks.

Worker and beat are started with `celery --app config.worker`. Signals here are Celery's own, about processes; never
about the domain.
"""

import gc
import logging.config
import time
import warnings
from typing import Any

import redis
import structlog
from celery import Task, signals
from celery.exceptions import CPendingDeprecationWarning
from celery.platforms import SecurityWarning  # type: ignore[attr-defined]  # missing in the stubs
from django.conf import settings

from common.redis import redis_client
from common.telemetry import TASKS
from config.celery import app  # noqa: F401  (what `--app` looks for)
from config.heartbeat import record_heartbeat

logger = structlog.get_logger("meterbook.task")
_started: dict[str, float] = {}
_queues: set[str] = set()

# As root in a container is usual; Celery's danger there is pickled messages, and ours are JSON.
warnings.filterwarnings("ignore", category=SecurityWarning)
# Said at every lost connection, about a default of the next major version. Our tasks may run twice, and may finish.
warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)


@signals.setup_logging.connect
def set_up_logging(**_: Any) -> None:
    """Use Django's logging settings; a receiver here keeps Celery from installing its own."""
    logging.config.dictConfig(settings.LOGGING)


@signals.celeryd_after_setup.connect
def note_queues(instance: Any, **_: Any) -> None:
    _queues.update(instance.app.amqp.queues.consume_from)


@signals.worker_ready.connect
def freeze_long_lived_objects(**_: Any) -> None:
    gc.collect()
    gc.freeze()


@signals.heartbeat_sent.connect
def note_heartbeat(**_: Any) -> None:
    try:
        record_heartbeat(redis_client(), queues=_queues, now=time.time())
    except redis.RedisError as error:
        # Readiness reports the silence; the next beat comes in two seconds.
        logger.debug("heartbeat not recorded", error=type(error).__name__)


@signals.task_prerun.connect
def note_start(task_id: str, task: "Task[Any, Any]", **_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task_id=task_id)
    _started[task_id] = time.perf_counter()
    logger.debug("task started", task=task.name)


@signals.task_postrun.connect
def note_end(task_id: str, task: "Task[Any, Any]", state: str | None = None, **_: Any) -> None:
    seconds = time.perf_counter() - _started.pop(task_id, time.perf_counter())
    TASKS.labels(task.name, (state or "unknown").lower()).inc()
    logger.debug("task ended", task=task.name, outcome=state, ms=round(seconds * 1000))
