"""Celery's way into scheduled reports: ids in, one service call each. All are safe to run late or twice."""

import structlog
from celery import shared_task
from django.utils import timezone

from accounts.models import Organization
from usage_reports.queries import list_run_ids_to_send
from usage_reports.services.runs import make_due_runs, prune_runs, send_run

logger = structlog.get_logger(__name__)

MAX_RUNS_PER_SWEEP = 1_000
# Until the next sweep would queue the run again.
QUEUED_SECONDS = 60


def enqueue_run(run_id: int) -> None:
    send_run_task.apply_async((run_id,), expires=QUEUED_SECONDS)


@shared_task(name="usage_reports.send_due_reports")
def send_due_reports_task() -> None:
    """Make the runs that have come due, and queue whatever waits to be sent."""
    made = make_due_runs(now=timezone.now())
    run_ids = list_run_ids_to_send(now=timezone.now(), limit=MAX_RUNS_PER_SWEEP)
    for run_id in run_ids:
        enqueue_run(run_id)
    if made or run_ids:
        logger.info("reports due", made=made, queued=len(run_ids))


@shared_task(name="usage_reports.send_run")
def send_run_task(run_id: int) -> None:
    state = send_run(run_id=run_id, now=timezone.now())
    if state is not None:
        logger.info("report run", run=run_id, state=state.value)


@shared_task(name="usage_reports.prune_runs")
def prune_runs_task() -> None:
    for organization in Organization.objects.filter(usage_reports__isnull=False).distinct():
        deleted = prune_runs(organization=organization, now=timezone.now())
        if deleted:
            logger.info("pruned report runs", organization=organization.pk, rows=deleted)
