"""Celery's way into billing: ids in, one service call each. All are idempotent and safe to run late or twice."""

from datetime import UTC, datetime, timedelta

import structlog
from celery import shared_task

from accounts.models import Organization
from billing.queries.reporting import list_due, list_organizations_that_report
from billing.services.reconciling import reconcile_usage
from billing.services.reporting import (
    REPORT_TASK,
    StripeNotConfigured,
    go_on,
    open_sink,
    plan_reports,
    send_reports,
)
from billing.services.traces import forget_settled_names

logger = structlog.get_logger(__name__)

# Less than what the broker waits before it gives the task to somebody else as well.
LONGEST_RUN = timedelta(minutes=8)


@shared_task(name="billing.report_usage")
def report_usage_task() -> None:
    """Have every organization that reports to Stripe do so, each in a task of its own; forget erased names there."""
    forget_settled_names()
    for organization in list_organizations_that_report():
        try:
            open_sink(organization=organization)
        except StripeNotConfigured:
            continue
        report_organization_task.delay(organization.pk)


@shared_task(name=REPORT_TASK)
def report_organization_task(organization_id: int, months: list[str] | None = None, from_customer_id: int = 0) -> None:
    """Plan and send what is lacking, of some months, else of all usage that Stripe still takes."""
    organization = Organization.objects.get(pk=organization_id)
    began = datetime.now(UTC)
    sink = open_sink(organization=organization)
    plan = plan_reports(
        organization=organization,
        months=months,
        now=began,
        from_customer_id=from_customer_id,
        until=began + LONGEST_RUN / 2,
    )
    sent = send_reports(organization=organization, sink=sink, months=months, until=began + LONGEST_RUN)
    if plan.resume_from is not None:
        go_on(organization=organization, months=months, from_customer_id=plan.resume_from)
    logger.info(
        "usage reported",
        organization=organization.pk,
        planned=len(plan.planned),
        failures=len(plan.failures),
        answers=dict(sent.answers),
        stopped_by=sent.stopped_by,
        ms=round((datetime.now(UTC) - began).total_seconds() * 1000),
    )


@shared_task(name="billing.send_usage_reports")
def send_usage_reports_task() -> None:
    """Send what is due again. Cheap when nothing is."""
    until = datetime.now(UTC) + LONGEST_RUN
    for organization in list_organizations_that_report():
        if not list_due(organization=organization, now=datetime.now(UTC)).exists():
            continue
        try:
            sink = open_sink(organization=organization)
        except StripeNotConfigured:
            continue
        sent = send_reports(organization=organization, sink=sink, until=until)
        logger.info("usage reports sent", organization=organization.pk, answers=dict(sent.answers))


@shared_task(name="billing.reconcile_usage")
def reconcile_usage_task() -> None:
    """Have every organization that reports to Stripe compared with it, each in a task of its own."""
    for organization in list_organizations_that_report():
        reconcile_organization_task.delay(organization.pk)


@shared_task(name="billing.reconcile_organization")
def reconcile_organization_task(organization_id: int, from_customer_id: int = 0) -> None:
    """Compare as many customers as there is time for, and have the rest done by another task."""
    organization = Organization.objects.get(pk=organization_id)
    try:
        sink = open_sink(organization=organization)
    except StripeNotConfigured:
        return
    until = datetime.now(UTC) + LONGEST_RUN
    comparison = reconcile_usage(organization=organization, sink=sink, from_customer_id=from_customer_id, until=until)
    if comparison.resume_from is not None:
        reconcile_organization_task.delay(organization_id, comparison.resume_from)
    logger.info(
        "usage compared with Stripe",
        organization=organization_id,
        days=comparison.days,
        drifts=comparison.drifts,
        failures=comparison.failures,
    )
