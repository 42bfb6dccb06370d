"""Celery's way into metering: ids in, one service call each. All are idempotent and safe to run late or twice."""

import structlog
from celery import Task, current_app, shared_task
from django.conf import settings
from django.utils import timezone
from redis.exceptions import LockError

from accounts.models import Organization
from metering.models import BatchState, IngestBatch
from metering.services.erasure import ERASE_TASK, list_open_erasures, resume_erasure
from metering.services.queue import count_waiting, drain_queue
from metering.services.retention import prune_organization
from metering.services.rollup import RollupBusy, roll_up_in_turn
from metering.services.wake import DRAIN_TASK, ROLL_UP_TASK, clear_follower_mark, wake_followers

logger = structlog.get_logger(__name__)

# A rollup that finds the lock taken, by a void or a rebuild, comes back soon; the sweep would too, but later.
BUSY_RETRY_SECONDS = 0.2
MAX_BUSY_RETRIES = 25
# After so many chunks a busy organization goes to the end of the queue, so that a few of them cannot keep all of the
# worker's threads from the others.
MAX_CHUNKS_PER_TASK = 10


@shared_task(name=ROLL_UP_TASK, bind=True, max_retries=MAX_BUSY_RETRIES)
def roll_up_organization_task(self: Task, organization_id: int, is_swept: bool = False) -> None:
    try:
        rolled = roll_up_in_turn(
            organization_id=organization_id,
            now=timezone.now(),
            max_chunks=MAX_CHUNKS_PER_TASK,
            tell_followers=run_followers,
        )
    except RollupBusy as busy:
        if is_swept or self.request.retries == MAX_BUSY_RETRIES:
            return  # somebody is at this work, and the next sweep looks after it
        raise self.retry(exc=busy, countdown=BUSY_RETRY_SECONDS) from None
    if rolled.is_unfinished:
        roll_up_organization_task.delay(organization_id)
    if rolled.batches:
        logger.debug("rolled_up", organization=organization_id, batches=rolled.batches, events=rolled.events)


def run_followers(*, organization_id: int) -> None:
    """Run the tasks that follow changed usage here and now: as messages they would wait for a thread, and run beside
    the next chunk, which takes both of them longer. One that fails is published, for another try and its own log.
    """
    for name in settings.USAGE_FOLLOWERS:
        try:
            current_app.tasks[name](organization_id)
        except Exception as error:
            logger.warning("follower_put_off", task=name, organization=organization_id, reason=repr(error))
            wake_followers(organization_id=organization_id)


@shared_task(name="metering.sweep_pending_batches")
def sweep_pending_batches() -> None:
    """Find the work whose wake-up was lost: pending batches and queued events. Cheap when there is none."""
    pending = IngestBatch.objects.all_tenants().filter(state=BatchState.PENDING)
    for organization_id in pending.values_list("organization_id", flat=True).distinct():
        roll_up_organization_task.delay(organization_id, is_swept=True)
    if count_waiting():
        drain_async_events.delay()


@shared_task(name=DRAIN_TASK)
def drain_async_events() -> None:
    try:
        drained = drain_queue(now=timezone.now())
    except LockError:
        return  # another drain is at work and will find these events too, or the sweep will
    if drained and count_waiting():
        drain_async_events.delay()


@shared_task(name="metering.resume_erasures")
def resume_erasures() -> None:
    """End what an erasure left when its process died or its request had taken long enough."""
    for erasure in list_open_erasures():
        try:
            erased = resume_erasure(erasure=erasure, now=timezone.now())
        except RollupBusy:
            continue  # the next round comes soon
        logger.info("erasure_resumed", organization=erasure.organization_id, events=erased.event_count)


@shared_task(name=ERASE_TASK)
def resume_erasures_of_organization(organization_id: int) -> None:
    clear_follower_mark(task=ERASE_TASK, organization_id=organization_id)
    for erasure in list_open_erasures():
        if erasure.organization_id == organization_id:
            resume_erasure(erasure=erasure, now=timezone.now())


@shared_task(name="metering.prune_expired_rows")
def prune_expired_rows() -> None:
    for organization in Organization.objects.all():
        prune_organization(organization=organization, now=timezone.now())
