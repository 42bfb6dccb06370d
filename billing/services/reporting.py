"""Reporting usage to Stripe: plan what is lacking, send what is due, have what was refused tried again.

Every attempt is written down and committed before it is made, and its answer after it: whatever dies in between, the
row tells that it may have arrived. Owns no rule (`billing.domain.reporting`) and no call (`billing.clients`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product

import structlog
from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from kombu.exceptions import OperationalError as BrokerError

from accounts.models import Organization
from accounts.services import record_audit
from billing.clients.failures import CallFailed
from billing.clients.meters import MeterEvent, MeterSink
from billing.domain.periods import BillingPeriod
from billing.domain.reporting import (
    LEASE,
    Answer,
    Finding,
    Outcome,
    Progress,
    ReportState,
    Step,
    claim,
    give_up,
    identify,
    judge,
    minute_of,
    month_name,
    next_sequence,
    next_step,
    periods_of_months,
    recent_periods,
    resolve,
    settle,
)
from billing.models import MAX_ERROR_CHARACTERS, StripeMeter, Subscription, UsageReport
from billing.queries.reporting import (
    PlannedReport,
    Target,
    find_stripe_customer,
    find_stripe_meter,
    left_to_people,
    list_due,
    list_entries,
    list_lacking,
    list_meters,
    list_targets,
    total_minute,
)
from billing.services.stripe_account import NotMapped
from billing.services.stripe_pace import MAX_THROTTLED, MAX_UNCLEAR, Pace, TokenBucket, pause_seconds
from common.errors import ApplicationError, Conflict
from common.telemetry import STRIPE_REPORTS

# How long a call of the API plans, and then sends; what is left then goes on in the background.
PLAN_AT_ONCE, SEND_AT_ONCE = timedelta(seconds=10), timedelta(seconds=10)
REPORT_TASK = "billing.report_organization"
TOO_OLD = "Stripe takes usage of the last 35 days only, and this is older: settle it with the customer directly."

logger = structlog.get_logger(__name__)


class NotRejected(Conflict):
    code = "not_rejected"


class NotLeftToPeople(Conflict):
    code = "not_left_to_people"


@dataclass(frozen=True, slots=True)
class PlanFailure:
    """A period of a subscription whose usage of a metric could not be planned, and why; the others were."""

    subscription: Subscription
    meter: StripeMeter
    month: str
    error: ApplicationError


@dataclass(slots=True)
class PlanRun:
    """`resume_from`: the customer with whom to go on, where there was no time for all; None: all were planned."""

    planned: list[PlannedReport] = field(default_factory=list)
    failures: list[PlanFailure] = field(default_factory=list)
    resume_from: int | None = None


@dataclass(slots=True)
class SendRun:
    """What a run sent, by answer. `stopped_by`: why it ended with rows still due, empty where it did not."""

    answers: Counter[str] = field(default_factory=Counter)
    stopped_by: str = ""
    is_out_of_time: bool = False


@dataclass(frozen=True, slots=True)
class ReportRun:
    """What one call did. `is_complete` False: the rest goes on in the background."""

    plan: PlanRun
    sent: SendRun

    @property
    def is_complete(self) -> bool:
        return self.plan.resume_from is None and not self.sent.is_out_of_time


def report_usage(*, organization: Organization, months: Sequence[str] | None, sink: MeterSink) -> ReportRun:
    """Plan and send the usage of some months, else all that Stripe still takes, as far as that takes seconds."""
    began = datetime.now(UTC)
    plan = plan_reports(organization=organization, months=months, now=began, until=began + PLAN_AT_ONCE)
    sent = send_reports(organization=organization, sink=sink, months=months, until=datetime.now(UTC) + SEND_AT_ONCE)
    run = ReportRun(plan, sent)
    if not run.is_complete:
        go_on(organization=organization, months=months, from_customer_id=plan.resume_from)
    return run


def go_on(*, organization: Organization, months: Sequence[str] | None, from_customer_id: int | None) -> None:
    """Have a worker do the rest. Where the queue is away, the next hour's run finds it."""
    arguments = [organization.pk, None if months is None else list(months), from_customer_id or 0]
    with suppress(BrokerError):
        current_app.send_task(REPORT_TASK, arguments)


# --- planning -------------------------------------------------------------------------------------------------


def plan_reports(
    *,
    organization: Organization,
    months: Sequence[str] | None,
    now: datetime,
    is_dry_run: bool = False,
    from_customer_id: int = 0,
    only_customer_id: int | None = None,
    until: datetime | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> PlanRun:
    """Append the rows that are lacking, of the billing periods that begin in some months; None: of all periods of which
    Stripe still takes usage. A dry run writes nothing. Idempotent, and safe beside others.

    Goes by customer, from `from_customer_id` on or only one, until the time is `until`. What cannot be planned does not
    stop the rest.
    """
    run = PlanRun()
    meters = list_meters(organization=organization)
    for target in list_targets(
        organization=organization, from_customer_id=from_customer_id, only_customer_id=only_customer_id
    ):
        if until is not None and clock() >= until:
            run.resume_from = target.subscription.customer_id
            break
        cycle = target.subscription.cycle
        periods = recent_periods(cycle, now=now) if months is None else periods_of_months(cycle, months, until=now)
        for meter, period in product(meters, periods):
            try:
                run.planned += _plan_period(target, meter, period, now, is_dry_run=is_dry_run)
            except ApplicationError as error:
                run.failures.append(PlanFailure(target.subscription, meter, month_name(period, cycle), error))
    if run.failures:
        logger.warning(
            "usage could not be planned",
            organization=organization.pk,
            failures=len(run.failures),
            first=run.failures[0].error.message,
        )
    return run


def _plan_period(
    target: Target, meter: StripeMeter, period: BillingPeriod, now: datetime, *, is_dry_run: bool
) -> list[PlannedReport]:
    if is_dry_run:
        return list_lacking(target=target, meter=meter, period=period, now=now)
    with transaction.atomic():
        # The lock before the reads: who waited for it sees the rows of who had it, and plans nothing twice.
        _lock_subscription(target.subscription)
        planned = list_lacking(target=target, meter=meter, period=period, now=now)
        UsageReport.objects.bulk_create(_row(report, now) for report in planned)
    return planned


def _lock_subscription(subscription: Subscription) -> None:
    rows = Subscription.objects.for_organization(subscription.organization_id).filter(pk=subscription.pk)
    rows.select_for_update(no_key=True).values_list("pk", flat=True).get()


def _row(report: PlannedReport, now: datetime) -> UsageReport:
    subscription = report.target.subscription
    row = UsageReport(
        organization_id=subscription.organization_id,
        subscription=subscription,
        metric=report.meter.metric,
        window_start=report.window.start,
        window_end=report.window.end,
        sequence=report.part.sequence,
        month=report.month,
        period_start=report.window.period.start,
        quantity=report.part.quantity,
        stripe_customer_id=report.target.stripe_customer_id,
        event_name=report.meter.event_name,
        event_time=report.window.event_time,
    )
    return _begin(row, now)


def _begin(row: UsageReport, now: datetime) -> UsageReport:
    """Name a new row and make it due."""
    row.identifier = identify(
        prefix=settings.STRIPE_IDENTIFIER_PREFIX,
        organization_id=row.organization_id,
        subscription_id=row.subscription_id,
        metric_id=row.metric_id,
        window_start=row.window_start,
        sequence=row.sequence,
    )
    row.state, row.next_attempt_at, row.created_at = ReportState.PENDING, now, now
    return row


# --- sending --------------------------------------------------------------------------------------------------


def send_reports(
    *,
    organization: Organization,
    sink: MeterSink,
    months: Sequence[str] | None = None,
    until: datetime | None = None,
    pace: Pace | None = None,
) -> SendRun:
    """Send the rows that are due, one after the other, and write down what came of each. Safe beside others.

    A row that is refused does not stop the rest; what concerns all of them does: no answer, no patience, no access.
    """
    pace = pace or Pace()
    run = SendRun()
    bucket = TokenBucket(pace=pace)
    unclear = throttled = 0
    while until is None or pace.now() < until:
        taken = _take_due(organization, months, pace.now())
        if taken is None:
            return run
        if taken.step == Step.GIVE_UP:
            run.answers["too_old"] += 1
            continue
        bucket.take()
        if taken.step == Step.ASK:
            run.answers[_ask(taken, sink, pace)] += 1
            continue
        outcome = _send(taken, sink, pace)
        run.answers[outcome.answer] += 1
        if outcome.answer == Answer.UNAUTHORIZED:
            run.stopped_by = outcome.message
            return run
        unclear = unclear + 1 if outcome.answer == Answer.UNCLEAR else 0
        throttled = throttled + 1 if outcome.answer == Answer.THROTTLED else 0
        if unclear >= MAX_UNCLEAR or throttled >= MAX_THROTTLED:
            run.stopped_by = outcome.message
            return run
        if throttled:
            pace.wait(pause_seconds(throttled, pace))
    run.is_out_of_time = True
    return run


@dataclass(frozen=True, slots=True)
class Taken:
    """A row that is ours for a while: as it was read, how far it is now, and what to do with it."""

    report: UsageReport
    progress: Progress
    step: Step


def _take_due(organization: Organization, months: Sequence[str] | None, now: datetime) -> Taken | None:
    """Take the row that has waited longest, by a committed lease; None where none is due. Others take other rows."""
    with transaction.atomic():
        due = list_due(organization=organization, now=now, months=months)
        report: UsageReport | None = due.select_for_update(skip_locked=True, no_key=True).first()
        if report is None:
            return None
        progress = report.progress
        step = next_step(progress, event_time=report.event_time, now=now)
        match step:
            case Step.SEND:
                progress = claim(progress, now=now)
            case Step.ASK:
                progress = resolve(progress, Finding.INCONCLUSIVE, now=now, message=progress.last_error)
            case Step.GIVE_UP:
                progress = give_up(progress, message=TOO_OLD)
        _write(report, progress, expected=report.progress)
        return Taken(report, progress, step)


def _send(taken: Taken, sink: MeterSink, pace: Pace) -> Outcome:
    report = taken.report
    event = MeterEvent(
        event_name=report.event_name,
        customer_id=report.stripe_customer_id,
        quantity=report.quantity,
        event_time=report.event_time,
        identifier=report.identifier,
        # Another one for each attempt: under the same key Stripe would repeat its first answer, even an error, for a
        # day. That nothing is counted twice is the identifier's part.
        attempt_key=f"{report.identifier}-{taken.progress.attempts}",
    )
    assert taken.progress.claimed_at is not None
    if pace.now() - taken.progress.claimed_at < LEASE / 2:
        outcome = sink.send(event)
    else:
        outcome = Outcome(Answer.UNCLEAR, "This process stood still for long, and somebody else may be sending it.")
    STRIPE_REPORTS.labels(outcome.answer).inc()
    settled = settle(taken.progress, outcome, now=pace.now(), jitter=pace.jitter())
    _write(report, settled, expected=taken.progress)
    if outcome.answer not in {Answer.ACCEPTED, Answer.DUPLICATE}:
        logger.warning("usage report", identifier=report.identifier, answer=outcome.answer, message=outcome.message)
    return outcome


def _ask(taken: Taken, sink: MeterSink, pace: Pace) -> Finding:
    """Find out whether a row arrived that was sent too long ago to be sent again."""
    report, now = taken.report, pace.now()
    totals = total_minute(report, now=now)
    if totals is None:
        return Finding.INCONCLUSIVE  # the lease is as long as the summaries need
    minute = minute_of(report.event_time)
    try:
        summary = sink.total(
            event_name=report.event_name, customer_id=report.stripe_customer_id, start=minute.start, end=minute.end
        )
    except CallFailed as error:
        finding, message = Finding.INCONCLUSIVE, str(error)[:MAX_ERROR_CHARACTERS]
    else:
        finding = judge(totals, summary)
        message = f"Stripe counts {summary} in its minute, where {totals.delivered} arrived for certain."
    with transaction.atomic():
        _lock_subscription(report.subscription)
        resolved = resolve(taken.progress, finding, now=now, message=message)
        if _write(report, resolved, expected=taken.progress) and resolved.state == ReportState.SUPERSEDED:
            _say_again(report, report.stripe_customer_id, report.event_name, now)
    return finding


def _write(report: UsageReport, progress: Progress, *, expected: Progress) -> bool:
    """Write how far a row has come, unless it is no longer where it was expected: its lease was over."""
    rows = UsageReport.objects.for_organization(report.organization_id).filter(
        pk=report.pk,
        state=expected.state,
        attempts=expected.attempts,
        next_attempt_at=expected.next_attempt_at,
    )
    return bool(rows.update(**{**asdict(progress), "last_error": progress.last_error[:MAX_ERROR_CHARACTERS]}))


# --- what people decide ---------------------------------------------------------------------------------------------


@transaction.atomic
def retry_report(*, report: UsageReport, actor: str, now: datetime) -> UsageReport:
    """Have a row said again that was refused or, as people found out, never arrived: by a new row under the names of
    today. The old one is superseded.

    Raises `NotRejected` for any other row, and `NotMapped` where customer or metric have no name at Stripe any more.
    """
    organization, subscription = report.organization, report.subscription
    _lock_subscription(subscription)
    customer = find_stripe_customer(organization=organization, customer=subscription.customer)
    meter = find_stripe_meter(organization=organization, metric=report.metric)
    if customer is None or meter is None:
        raise NotMapped("Say first what the customer and the metric are called at Stripe.")
    rows = UsageReport.objects.for_organization(organization).filter(pk=report.pk)
    given_up = rows.filter(Q(state=ReportState.REJECTED) | left_to_people(now))
    if not given_up.update(state=ReportState.SUPERSEDED, next_attempt_at=None):
        raise NotRejected(
            "Only a report that is rejected, or unknown for two days, is said again; the others settle by themselves."
        )
    again = _say_again(report, customer.stripe_customer_id, meter.event_name, now)
    record_audit(
        organization=organization,
        actor=actor,
        action="usage_report.retried",
        target=report.identifier,
        details={"by": again.identifier, "error": report.last_error},
    )
    return again


@transaction.atomic
def confirm_report(*, report: UsageReport, actor: str, now: datetime) -> UsageReport:
    """Note that a row arrived of which nobody else can tell. Raises `NotLeftToPeople` for any other row."""
    _lock_subscription(report.subscription)
    rows = UsageReport.objects.for_organization(report.organization_id).filter(pk=report.pk)
    unknown = rows.filter(left_to_people(now))
    if not unknown.update(state=ReportState.DELIVERED, delivered_at=now, next_attempt_at=None):
        raise NotLeftToPeople(
            "Only a report that has been unknown for two days is confirmed by hand; the others settle by themselves."
        )
    record_audit(
        organization=report.organization,
        actor=actor,
        action="usage_report.confirmed",
        target=report.identifier,
        details={"error": report.last_error},
    )
    report.refresh_from_db()
    return report


def _say_again(report: UsageReport, stripe_customer_id: str, event_name: str, now: datetime) -> UsageReport:
    """Append a row with the quantity of one that was just superseded, in its transaction and under its lock."""
    again = UsageReport(
        organization_id=report.organization_id,
        subscription=report.subscription,
        metric=report.metric,
        window_start=report.window_start,
        window_end=report.window_end,
        sequence=next_sequence(list_entries(report)),
        month=report.month,
        period_start=report.period_start,
        quantity=report.quantity,
        stripe_customer_id=stripe_customer_id,
        event_name=event_name,
        event_time=report.event_time,
    )
    _begin(again, now).save(force_insert=True)
    return again
