"""Celery's way into billing: ids in, one service call each. All are idempotent and safe to run late or twice."""

from datetime import UTC, datetime, timedelta

import structlog
from celery import shared_task

from accounts.models import Organization
from billing.queries.budgets import list_organizations_with_budgets
from billing.queries.credits import list_organizations_with_expired_grants
from billing.queries.reporting import list_due, list_organizations_that_report
from billing.queries.stripe_invoices import is_being_pushed, list_due_pushes, list_organizations_that_push
from billing.queries.subscriptions import list_organizations_with_subscriptions
from billing.queries.usage_checks import list_organizations_with_billed_periods
from billing.services.budget_mails import send_due_mails
from billing.services.budgets import evaluate_budgets
from billing.services.credits import expire_grants
from billing.services.invoice_mails import mail_invoices
from billing.services.invoice_runs import INVOICE_TASK, INVOICE_WORKERS, join_run, work_run
from billing.services.reconciling import reconcile_usage
from billing.services.reporting import REPORT_TASK, go_on, plan_reports, send_reports
from billing.services.stripe_account import StripeNotConfigured, open_invoices, open_sink
from billing.services.stripe_inbox import HANDLE_TASK, handle_due_events, handle_event, prune_events
from billing.services.stripe_invoices import plan_pushes, send_pushes
from billing.services.traces import forget_settled_names
from billing.services.usage_checks import check_usage
from metering.services.cutoffs import CutoffBusy

logger = structlog.get_logger(__name__)

# Less than what the broker waits before it gives the task to somebody else as well.
LONGEST_RUN = timedelta(minutes=8)
# At once, where many events of Stripe's were lost together; the next sweeps do the rest.
MAX_SWEPT_EVENTS = 200
# Until the next round would queue the same again.
BUDGET_SECONDS = 60
PUSH_SECONDS = 60
# Half a minute, a minute, two …: whoever holds up a cut-off for longer is found by tomorrow's check.
BUSY_RETRIES = 5


@shared_task(name="billing.run_invoices")
def run_invoices_task() -> None:
    """Have what is due invoiced, of every organization with subscriptions, each by tasks of its own."""
    for organization_id in list_organizations_with_subscriptions():
        for _ in range(INVOICE_WORKERS):
            work_invoice_run_task.delay(organization_id)


@shared_task(name=INVOICE_TASK)
def work_invoice_run_task(organization_id: int, actor: str = "schedule") -> None:
    """Join the run that is under way, or begin one, and work at it; what there is no time for the next hour's does."""
    organization = Organization.objects.get(pk=organization_id)
    began = datetime.now(UTC)
    run = join_run(organization=organization, actor=actor, now=began)
    work_run(run=run, until=began + LONGEST_RUN)
    run.refresh_from_db()
    logger.info(
        "invoice run worked at",
        organization=organization_id,
        run=run.pk,
        drafted=run.drafted,
        finalised=run.finalised,
        failed=run.failed,
        ms=round((datetime.now(UTC) - began).total_seconds() * 1000),
    )


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


@shared_task(name="billing.mail_invoices")
def mail_invoices_task() -> None:
    """Mail the invoices that were finalised and not mailed yet. Cheap when there are none."""
    counts = mail_invoices(now=datetime.now(UTC))
    if counts.sent or counts.failed:
        logger.info("invoices mailed", sent=counts.sent, failed=counts.failed)


@shared_task(name="billing.evaluate_budgets")
def evaluate_budgets_task() -> None:
    """Have the budgets of every organization that has some evaluated, each in a task of its own."""
    for organization_id in list_organizations_with_budgets():
        evaluate_organization_budgets_task.apply_async((organization_id,), expires=BUDGET_SECONDS)


@shared_task(name="billing.evaluate_organization_budgets")
def evaluate_organization_budgets_task(organization_id: int) -> None:
    organization = Organization.objects.get(pk=organization_id)
    evaluated = evaluate_budgets(organization=organization, now=datetime.now(UTC))
    if evaluated.crossings or evaluated.is_unfinished:
        logger.info(
            "budgets evaluated",
            organization=organization_id,
            budgets=evaluated.budgets,
            crossings=evaluated.crossings,
            unfinished=evaluated.is_unfinished,
        )


@shared_task(name="billing.send_budget_mails")
def send_budget_mails_task() -> None:
    """Send what is due; two that run at once share the work."""
    sent = send_due_mails(now=datetime.now(UTC))
    if sent:
        logger.info("mailed", mails=sent)


@shared_task(name="billing.push_invoices")
def push_invoices_task() -> None:
    """Have finalised invoices paid at Stripe, where an organization wants that, and end there what has ended here."""
    for organization in list_organizations_that_push():
        now = datetime.now(UTC)
        planned = plan_pushes(organization=organization, now=now)
        if is_being_pushed(organization=organization, now=now):
            continue  # else a month's end would fill every worker with one organization's invoices
        if planned or list_due_pushes(organization=organization, now=now).exists():
            push_organization_invoices_task.apply_async((organization.pk,), expires=PUSH_SECONDS)


@shared_task(name="billing.push_organization_invoices")
def push_organization_invoices_task(organization_id: int) -> None:
    organization = Organization.objects.get(pk=organization_id)
    try:
        sink = open_invoices(organization=organization)
    except StripeNotConfigured:
        return
    run = send_pushes(organization=organization, sink=sink, until=datetime.now(UTC) + LONGEST_RUN)
    logger.info("invoices pushed", organization=organization_id, answers=dict(run.answers), stopped_by=run.stopped_by)


@shared_task(name=HANDLE_TASK)
def handle_stripe_event_task(event_id: int) -> None:
    handle_event(event_id=event_id, now=datetime.now(UTC))


@shared_task(name="billing.sweep_stripe_events")
def sweep_stripe_events_task() -> None:
    """Handle the events that were not. Cheap when there are none."""
    swept = handle_due_events(now=datetime.now(UTC), limit=MAX_SWEPT_EVENTS)
    if swept:
        logger.info("Stripe events swept", events=swept)


@shared_task(name="billing.prune_stripe_events")
def prune_stripe_events_task() -> None:
    deleted = prune_events(now=datetime.now(UTC))
    logger.info("Stripe events pruned", events=deleted)


@shared_task(name="billing.expire_credits")
def expire_credits_task() -> None:
    """Book what is left of grants that can pay nothing any more. Cheap when there are none."""
    for organization in list_organizations_with_expired_grants(now=datetime.now(UTC)):
        began = datetime.now(UTC)
        expired = expire_grants(organization=organization, now=began)
        if expired:
            logger.info(
                "credits expired",
                organization=organization.pk,
                grants=expired,
                ms=round((datetime.now(UTC) - began).total_seconds() * 1000),
            )


@shared_task(name="billing.check_usage")
def check_usage_task() -> None:
    """Have every organization with billed periods checked, each in a task of its own."""
    for organization_id in list_organizations_with_billed_periods():
        check_organization_usage_task.delay(organization_id)


@shared_task(
    name="billing.check_organization_usage", autoretry_for=(CutoffBusy,), retry_backoff=30, max_retries=BUSY_RETRIES
)
def check_organization_usage_task(organization_id: int, from_period_id: int = 0) -> None:
    """Compare as many periods as there is time for, and have the rest done by another task."""
    organization = Organization.objects.get(pk=organization_id)
    began = datetime.now(UTC)
    run = check_usage(organization=organization, now=began, until=began + LONGEST_RUN, from_period_id=from_period_id)
    if run.resume_from is not None:
        check_organization_usage_task.delay(organization_id, run.resume_from)
    logger.info(
        "billed usage compared",
        organization=organization_id,
        periods=run.periods,
        compared=run.compared,
        differing=run.differing,
        ms=round((datetime.now(UTC) - began).total_seconds() * 1000),
    )
