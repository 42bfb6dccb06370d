"""Celery's way into the gateway: ids in, one service call each. All are safe to run late or twice."""

import structlog
from celery import shared_task
from django.conf import settings
from django.utils import timezone

from accounts.models import Organization
from metering.dialects.gateway.services.cleanup import (
    FINISH_TASK,
    clean_up_by_settings,
    finish_cleanup,
    list_organizations,
)
from metering.services.rollup import RollupBusy
from metering.services.wake import clear_follower_mark

logger = structlog.get_logger(__name__)


@shared_task(name="gateway.clean_up_usage")
def clean_up_usage() -> None:
    """Let go of old requests, unless the installation keeps everything."""
    if not settings.USAGE_CLEANUP_ENABLED:
        return
    for organization in list_organizations():
        try:
            cleanup = clean_up_by_settings(organization=organization, now=timezone.now())
        except RollupBusy:
            logger.warning("cleanup_put_off", organization=organization.pk)
            continue  # the next round looks again
        if any(cleanup.deleted.rows.values()):
            logger.info("usage_cleaned_up", organization=organization.pk, **cleanup.deleted.rows)


@shared_task(name=FINISH_TASK)
def finish_cleanup_task(organization_id: int) -> None:
    clear_follower_mark(task=FINISH_TASK, organization_id=organization_id)
    organization = Organization.objects.filter(pk=organization_id).first()
    if organization is not None:
        deleted = finish_cleanup(organization=organization, now=timezone.now())
        logger.info("cleanup_finished", organization=organization_id, **deleted.rows)
