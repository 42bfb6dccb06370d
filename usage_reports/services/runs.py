"""The runs of scheduled reports: made when they are due, sent once, tried again, given up.

A run exists once for each report and due time, by a constraint. Whoever sends it holds a lease, counts the attempt
before it begins, and writes down each mail as soon as the mail server took it. So a worker that is killed between
the two repeats that one mail and no other; none is lost. The repeated mail has the same Message-ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from smtplib import SMTPDataError, SMTPRecipientsRefused
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Q
from kombu.exceptions import OperationalError as BrokerUnavailable

from accounts.models import Organization
from accounts.services import record_audit
from common.errors import ApplicationError, TooManyRequests
from common.mail import MailRun
from usage_reports import queries
from usage_reports.domain import RETRY_PAUSES, RunState, latest_due_time, plan_retry
from usage_reports.models import Report, ReportDelivery, ReportRecipient, ReportRun
from usage_reports.services.mails import ReportMail, write_report_mail
from usage_reports.services.reports import lock_report, plan

# Longer than building a file or sending one mail may take; renewed before every mail.
LEASE = timedelta(minutes=5)
MAX_REPORTS_PER_SWEEP = 1_000
# Between two sendings by hand of one report.
MANUAL_PAUSE = timedelta(minutes=1)
# A year of history, and the month that one compares it with.
RUN_LIFETIME = timedelta(days=400)
MAX_ERROR_CHARACTERS = 500
SUPERSEDED = "A newer one came due before this could be sent."

logger = structlog.get_logger("meterbook.reports")


# --- making runs ----------------------------------------------------------------------------------------------


def make_due_runs(*, now: datetime) -> int:
    """Make a run of each report whose time has come; return how many.

    After a while without workers a report gets one run, for its newest due time, and not one for each that was missed.
    """
    for report_id in queries.list_moved_report_ids(limit=MAX_REPORTS_PER_SWEEP):
        _plan_anew(report_id, now)
    due = queries.list_due_report_ids(now=now, limit=MAX_REPORTS_PER_SWEEP)
    return sum(_make_due_run(report_id, now) for report_id in due)


@transaction.atomic
def _make_due_run(report_id: int, now: datetime) -> bool:
    report = _lock_report(report_id)
    if report is None or report.next_due_at is None or report.next_due_at > now:
        return False
    due_at = latest_due_time(report.schedule, now=now, zone=ZoneInfo(report.zone_name))
    queries.list_runs(report=report).filter(state=RunState.PENDING, is_manual=False, due_at__lt=due_at).update(
        state=RunState.SKIPPED, error=SUPERSEDED
    )
    run = ReportRun(organization_id=report.organization_id, report=report, due_at=due_at, next_attempt_at=now)
    ReportRun.objects.bulk_create([run], ignore_conflicts=True)
    plan(report, now)
    report.save(update_fields=["next_due_at", "planned_zone"])
    return True


@transaction.atomic
def _plan_anew(report_id: int, now: datetime) -> None:
    """Reckon in the organization's new zone. What is due already stays so: the old zone said it first."""
    report = _lock_report(report_id)
    if report is not None and report.next_due_at is not None and report.next_due_at > now:
        plan(report, now)
        report.save(update_fields=["next_due_at", "planned_zone"])


def _lock_report(report_id: int) -> Report | None:
    """Return the report with its row locked; None: it is gone, or another worker is at it."""
    reports = Report.objects.all_tenants().select_for_update(of=("self",), skip_locked=True)
    found: Report | None = reports.select_related("organization").filter(pk=report_id).first()
    return found


def request_run(*, report: Report, actor: str, now: datetime) -> ReportRun:
    """Send a report now, whether or not it is paused. Raises `TooManyRequests` within a minute of the last time."""
    with transaction.atomic():
        lock_report(report)
        last = queries.list_runs(report=report).filter(is_manual=True).order_by("-due_at").first()
        if last is not None and now - last.due_at < MANUAL_PAUSE:
            seconds = (MANUAL_PAUSE - (now - last.due_at)) // timedelta(seconds=1) + 1
            raise TooManyRequests(
                "It was sent by hand within the minute.", headers={"Retry-After": str(max(1, seconds))}
            )
        run = ReportRun.objects.create(
            organization_id=report.organization_id, report=report, due_at=now, is_manual=True, next_attempt_at=now
        )
        record_audit(organization=report.organization, actor=actor, action="report.sent", target=report.name)
        transaction.on_commit(partial(_enqueue_run, run.pk))
    return run


def _enqueue_run(run_id: int) -> None:
    from usage_reports.tasks import enqueue_run

    try:
        enqueue_run(run_id)
    except BrokerUnavailable as error:
        # The run stands; the next sweep finds it.
        logger.warning("run not queued", run=run_id, reason=str(error))


# --- sending --------------------------------------------------------------------------------------------------


def send_run(*, run_id: int, now: datetime) -> RunState | None:
    """Try to send a run; return its state afterwards, None where there was nothing to do for us.

    Safe to call at any time, twice, and by several at once: the lease admits one, what was mailed is left out.
    """
    run = _claim(run_id, now)
    if run is None:
        return None
    if run.attempt_count > len(RETRY_PAUSES) + 1:
        return _settle(run, RunState.FAILED, error="It was begun again and again, and never ended.")
    recipients = queries.list_recipients_to_mail(report=run.report)
    if not recipients:
        return _settle(run, RunState.SKIPPED, error="Nobody is left to send it to.")
    try:
        mail = write_report_mail(run.report, due_at=run.due_at)
    except ApplicationError as error:
        return _settle(run, RunState.FAILED, error=error.message)
    try:
        problems = _mail_everybody(run, mail, recipients)
    except LeaseLost:
        return None
    if not problems:
        return _settle(run, RunState.SENT, sent_at=datetime.now(UTC), error="")
    logger.warning("report not sent", run=run.pk, reason=problems[0], others=len(problems) - 1)
    next_attempt_at = plan_retry(attempts=run.attempt_count, now=now)
    if next_attempt_at is None:
        return _settle(run, RunState.FAILED, error=" ".join(problems))
    return _settle(run, RunState.PENDING, next_attempt_at=next_attempt_at, error=" ".join(problems))


class LeaseLost(Exception):
    """Another worker has the run now, or it was taken back meanwhile. Nothing more may be sent of it."""


def _claim(run_id: int, now: datetime) -> ReportRun | None:
    """Take the run and count the attempt; None: it is not due, settled, gone, or somebody else's."""
    clock = datetime.now(UTC)  # of leases; `now` may be late
    waiting = ReportRun.objects.all_tenants().filter(pk=run_id, state=RunState.PENDING, next_attempt_at__lte=now)
    free = waiting.filter(Q(leased_until__isnull=True) | Q(leased_until__lte=clock))
    leased_until = clock + LEASE
    with transaction.atomic():
        run: ReportRun | None = free.select_for_update(skip_locked=True).first()
        if run is None:
            return None
        run.leased_until, run.attempt_count = leased_until, run.attempt_count + 1
        run.save(update_fields=["leased_until", "attempt_count"])
    reports = Report.objects.for_organization(run.organization_id).select_related("organization", "metric", "customer")
    report: Report | None = reports.filter(pk=run.report_id).first()
    if report is None:
        return None  # deleted this moment, and the run with it
    run.report = report
    return run


def _mail_everybody(run: ReportRun, mail: ReportMail, recipients: Sequence[ReportRecipient]) -> list[str]:
    """Mail whoever has not got this run yet; return what went wrong, a sentence for each address it is about.

    Raises `LeaseLost`.
    """
    deliveries = ReportDelivery.objects.for_organization(run.organization_id).filter(run=run)
    had = set(deliveries.values_list("email", flat=True))
    _renew(run, **mail.facts())
    problems: list[str] = []
    with MailRun() as mail_run:
        for recipient in recipients:
            if recipient.address in had:
                continue
            _renew(run)
            try:
                mail_run.send(to=[recipient.address], **mail.to_recipient(recipient, run_id=run.pk))
            except (SMTPRecipientsRefused, SMTPDataError) as error:
                problems.append(f"{recipient.address}: {_reason(error)}.")
            except OSError as error:
                # The mail server is away: the others would wait for it in vain as well.
                return [*problems, f"The mail server did not take it ({type(error).__name__})."]
            else:
                _note_delivery(run, recipient.address)
    return problems


def _reason(error: SMTPRecipientsRefused | SMTPDataError) -> str:
    """Return what the mail server said."""
    code: int
    text: bytes | str
    if isinstance(error, SMTPRecipientsRefused):
        code, text = next(iter(error.recipients.values()))
    else:
        code, text = error.smtp_code, error.smtp_error
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    return f"{code} {words}".replace("\x00", "").strip()[:200]


def _note_delivery(run: ReportRun, address: str) -> None:
    try:
        with transaction.atomic():
            ReportDelivery.objects.create(
                organization_id=run.organization_id, run=run, email=address, sent_at=datetime.now(UTC)
            )
    except IntegrityError:
        raise LeaseLost from None  # the report was deleted


def _renew(run: ReportRun, **facts: Any) -> None:
    leased_until = datetime.now(UTC) + LEASE
    if not _own(run).update(leased_until=leased_until, **facts):
        raise LeaseLost
    run.leased_until = leased_until


def _settle(run: ReportRun, state: RunState, *, error: str, **facts: Any) -> RunState | None:
    """Write down how the attempt ended and give the run back; None: it was not ours any more."""
    changed = _own(run).update(state=state, error=error[:MAX_ERROR_CHARACTERS], leased_until=None, **facts)
    return state if changed else None


def _own(run: ReportRun) -> Any:
    """Return the run's row as long as the lease is ours and nobody has taken the run back."""
    runs = ReportRun.objects.for_organization(run.organization_id)
    return runs.filter(pk=run.pk, leased_until=run.leased_until, state=RunState.PENDING)


# --- forgetting -----------------------------------------------------------------------------------------------


def prune_runs(*, organization: Organization, now: datetime) -> int:
    """Delete runs that are old enough to be forgotten; return how many rows went."""
    runs = ReportRun.objects.for_organization(organization).exclude(state=RunState.PENDING)
    return int(runs.filter(due_at__lt=now - RUN_LIFETIME).delete()[0])
