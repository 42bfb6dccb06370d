"""Celery's way into alerts: ids in, one service call each. All are idempotent and safe to run late or twice."""

import structlog
from celery import Task, shared_task
from django.conf import settings
from django.utils import timezone

from accounts.models import Membership, Organization
from alerts.queries.due import list_organizations_to_evaluate
from alerts.services.billing_notices import tell_notices
from alerts.services.deliveries import prune_deliveries
from alerts.services.emails import mail_sample, send_due_mails
from alerts.services.evaluation import EVALUATE_TASK, EvaluationBusy, evaluate_in_turn
from alerts.services.reservations import prune_reservations
from alerts.services.silence import check_silence
from metering.services.wake import clear_follower_mark

logger = structlog.get_logger(__name__)

# An evaluation that finds its lock taken, by a look for silence, or that lost a race comes back soon.
BUSY_RETRY_SECONDS = 0.1
MAX_BUSY_RETRIES = 50
MAX_STEPS_PER_TASK = 10


@shared_task(name=EVALUATE_TASK, bind=True, max_retries=MAX_BUSY_RETRIES)
def evaluate_organization_task(self: Task, organization_id: int) -> None:
    try:
        evaluated = evaluate_in_turn(organization_id=organization_id, now=timezone.now(), max_steps=MAX_STEPS_PER_TASK)
    except EvaluationBusy as busy:
        if self.request.retries == MAX_BUSY_RETRIES:
            return  # the next sweep looks after it
        raise self.retry(exc=busy, countdown=BUSY_RETRY_SECONDS) from None
    if evaluated.is_unfinished:
        evaluate_organization_task.delay(organization_id)
    if evaluated.crossings:
        logger.info("crossed", organization=organization_id, crossings=evaluated.crossings)


@shared_task(name="alerts.sweep_changes")
def sweep_changes() -> None:
    """Find the changes whose wake-up was lost, and new thresholds. Cheap when there are none."""
    for organization_id in list_organizations_to_evaluate():
        evaluate_organization_task.delay(organization_id)


@shared_task(name="alerts.tell_billing_notices")
def tell_billing_notices_task(organization_id: int | None = None) -> None:
    """Tell what billing wrote down, of all organizations; the id is of the one that woke us. Cheap without news."""
    if organization_id is not None:
        clear_follower_mark(task=settings.NOTICE_FOLLOWER, organization_id=organization_id)
    notices = messages = 0
    for _ in range(MAX_STEPS_PER_TASK):
        told = tell_notices()
        notices, messages = notices + told.notices, messages + told.messages
        if not told.is_unfinished:
            break
    else:
        tell_billing_notices_task.delay()
    if messages:
        logger.info("billing told", notices=notices, messages=messages)


@shared_task(name="alerts.check_silence")
def check_silence_task() -> None:
    for organization in Organization.objects.filter(thresholds__kind="silence").distinct():
        try:
            check_silence(organization=organization, now=timezone.now())
        except EvaluationBusy:
            continue  # the next round comes within the minute


@shared_task(name="alerts.prune_reservations")
def prune_reservations_task() -> None:
    for organization in Organization.objects.all():
        pruned = prune_reservations(organization=organization, now=timezone.now())
        if pruned:
            logger.info("reservations_pruned", organization=organization.pk, count=pruned)


@shared_task(name="alerts.send_due_mails")
def send_due_mails_task() -> None:
    """Send what is due; two that run at once share the work."""
    sent = send_due_mails(now=timezone.now())
    if sent:
        logger.info("mailed", mails=sent)


@shared_task(
    name="alerts.send_test_email", autoretry_for=(OSError,), retry_backoff=30, retry_backoff_max=600, max_retries=3
)
def send_test_email_task(membership_id: int) -> None:
    memberships = Membership.objects.all_tenants().select_related("user", "organization")
    membership = memberships.filter(pk=membership_id).first()
    if membership is not None:
        mail_sample(membership=membership)


@shared_task(name="alerts.prune_deliveries")
def prune_deliveries_task() -> None:
    for organization in Organization.objects.filter(webhook_endpoints__isnull=False).distinct():
        deleted = prune_deliveries(organization=organization, now=timezone.now())
        if deleted:
            logger.info("pruned deliveries", organization=organization.pk, deliveries=deleted)
