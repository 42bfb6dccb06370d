"""Celery's way into the dialect. Safe to run late or twice."""

import structlog
from celery import shared_task
from django.utils import timezone

from metering.dialects.influx.services.anonymous import prune_anonymous_reports

logger = structlog.get_logger(__name__)


@shared_task(name="influx.prune_anonymous_reports")
def prune_anonymous_reports_task() -> None:
    deleted = prune_anonymous_reports(now=timezone.now())
    if deleted:
        logger.info("pruned anonymous reports", rows=deleted)
