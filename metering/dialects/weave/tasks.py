"""Celery's way into the dialect. Safe to run late or twice."""

import structlog
from celery import shared_task
from django.utils import timezone

from metering.dialects.weave.services.pruning import prune_unowned_records

logger = structlog.get_logger(__name__)


@shared_task(name="weave.prune_quarantine")
def prune_quarantine() -> None:
    dropped = prune_unowned_records(now=timezone.now())
    if dropped:
        logger.warning(
            "records of instances that nobody mapped were dropped: they were too many or too old", rows=dropped
        )
