"""Invoice runs: everything that is due, by as many workers as there are, re-runnable at any point.

The subscriptions are in buckets, and a worker holds the bucket that it is at by a lock of its session: two workers
share the work, and the bucket of a killed one is free at once. Exactly-once does not rest on that but on
`billing.services.invoicing`. Owns the order of work and its progress.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import structlog
from celery import current_app
from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q
from kombu.exceptions import OperationalError as BrokerError

from accounts.models import Organization
from billing.models import BillingPeriod, InvoiceRun, InvoiceState, PeriodState, Subscription
from billing.queries.settings import get_settings
from billing.services.invoicing import draft_periods, finalise_leftovers, finalise_periods, halve
from billing.services.periods import close_periods, open_periods
from common.errors import ApplicationError
from common.models import TenantQuerySet
from metering.services.cutoffs import CutoffBusy

# So many subscriptions are computed and written at once: enough to share the reads, few enough for flat memory and
# for short waits at the number series.
CHUNK = 250
BUCKETS = 32
# Tasks that work at one run; one is enough for most, two finish a large one sooner.
INVOICE_WORKERS = 2
INVOICE_TASK = "billing.work_invoice_run"
# A run without a sign of life for so long is not joined any more.
LOST_AFTER = timedelta(minutes=10)
_BUCKET_LOCK = 0x4D42_0100

logger = structlog.get_logger(__name__)
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@transaction.atomic
def join_run(*, organization: Organization, actor: str, now: datetime) -> InvoiceRun:
    """Return the run that is under way, else begin one: write down the periods there are and which have ended."""
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    rows = InvoiceRun.objects.for_organization(organization).filter(finished_at__isnull=True)
    run: InvoiceRun | None = rows.filter(seen_at__gt=now - LOST_AFTER).order_by("-pk").first()
    if run is not None:
        return run
    rows.update(finished_at=now)
    open_periods(organization=organization, now=now)
    close_periods(organization=organization, settings=get_settings(organization), now=now)
    total = _list_due(organization, now).count() + _list_draftless(organization, now).count()
    # The schedule begins one twice an hour; of those that found nothing only the last is worth a row.
    idle = InvoiceRun.objects.for_organization(organization).filter(finished_at__isnull=False)
    idle.filter(total=0, drafted=0, finalised=0, failed=0).delete()
    return InvoiceRun.objects.create(
        organization=organization, started_by=actor, total=total, started_at=now, seen_at=now
    )


def request_run(*, organization: Organization, actor: str, now: datetime) -> InvoiceRun:
    """Begin a run, or join the one under way, and have workers do it."""
    run = join_run(organization=organization, actor=actor, now=now)
    for _ in range(INVOICE_WORKERS):
        # Where the queue is away, the next hour's run finds what is due.
        with suppress(BrokerError):
            current_app.send_task(INVOICE_TASK, [organization.pk, actor])
    return run


def work_run(*, run: InvoiceRun, clock: Clock = utc_now, until: datetime | None = None) -> None:
    """Work at a run until nothing is due, or until the time is up; beside others. Not inside a transaction."""
    organization = run.organization
    failed: set[int] = set()
    for bucket in _list_busy_buckets(organization, clock()):
        with _hold_bucket(organization, bucket) as is_held:
            if is_held:
                try:
                    _work_bucket(run, bucket, failed, clock, until)
                except CutoffBusy:
                    # The usage is being changed for longer than is waited: the next run does what is left.
                    logger.warning("bucket left", organization=organization.pk, bucket=bucket)
        if until is not None and clock() >= until:
            break
    finish_run(run=run, failed=failed, now=clock())


def _list_busy_buckets(organization: Organization, now: datetime) -> list[int]:
    """Return the buckets in which there is anything to do; in another order for each worker, so that few meet."""
    rows = [
        _of_buckets(_list_due(organization, now)),
        _of_buckets(_list_draftless(organization, now)),
        _of_buckets(_list_ended(organization, now), "pk"),
    ]
    found = {bucket for each in rows for bucket in each.order_by().values_list("bucket", flat=True).distinct()}
    return random.sample(sorted(found), len(found))


def finish_run(*, run: InvoiceRun, failed: Collection[int], now: datetime) -> None:
    """Note that a run is over, if nothing that can be done is left."""
    left = _list_due(run.organization, now).exclude(Q(pk__in=failed) | ~Q(problem="")).exists()
    if not left:
        _mine(run).filter(finished_at__isnull=True).update(finished_at=now, seen_at=now)


def _work_bucket(run: InvoiceRun, bucket: int, failed: set[int], clock: Clock, until: datetime | None) -> None:
    organization = run.organization
    while until is None or clock() < until:
        now = clock()
        due = _of_buckets(_list_due(organization, now).exclude(pk__in=failed)).filter(bucket=bucket)
        period_ids = list(due.values_list("pk", flat=True)[:CHUNK])
        if not period_ids:
            break
        result = finalise_periods(organization=organization, period_ids=period_ids, now=now)
        failed.update(result.problems)
        _note(run, now, finalised=result.period_count, failed=len(result.problems))
    while until is None or clock() < until:
        now = clock()
        waiting = _of_buckets(_list_draftless(organization, now).exclude(pk__in=failed)).filter(bucket=bucket)
        period_ids = list(waiting.values_list("pk", flat=True)[:CHUNK])
        if not period_ids:
            break
        failed.update(_draft(run, period_ids, now))
    _adjust_ended(organization, bucket, clock())


def _draft(run: InvoiceRun, period_ids: Sequence[int], now: datetime) -> set[int]:
    """Make drafts; return the periods that have none now: a draft is only for looking at, so nothing waits for it."""
    try:
        drafted = draft_periods(organization=run.organization, period_ids=period_ids, now=now)
    except ApplicationError as error:
        if len(period_ids) > 1:
            for half in halve(period_ids):
                _draft(run, half, now)
            return set(period_ids)
        logger.warning("draft not made", organization=run.organization_id, period=period_ids[0], code=error.code)
        drafted = 0
    _note(run, now, drafted=drafted)
    # Those without anything to charge have no draft either.
    return set(period_ids)


def _adjust_ended(organization: Organization, bucket: int, now: datetime) -> None:
    """Invoice what came to be known of subscriptions that have ended."""
    rows = _of_buckets(_list_ended(organization, now), "pk").filter(bucket=bucket)
    ids = list(rows.order_by("pk").values_list("pk", flat=True))
    for start in range(0, len(ids), CHUNK):
        finalise_leftovers(organization=organization, subscription_ids=ids[start : start + CHUNK], now=now)


def _list_due(organization: Organization, now: datetime) -> TenantQuerySet:
    """Return the periods whose invoice is to be made final now: of each subscription the oldest that is not."""
    rows = BillingPeriod.objects.for_organization(organization)
    oldest = rows.exclude(state=PeriodState.FINALISED).order_by("subscription", "starts_at").distinct("subscription")
    due = rows.filter(pk__in=oldest.values("pk"), state=PeriodState.GRACE, grace_ends_at__lte=now)
    return due.order_by("ends_at", "pk")


def _list_draftless(organization: Organization, now: datetime) -> TenantQuerySet:
    rows = BillingPeriod.objects.for_organization(organization).filter(state=PeriodState.GRACE, grace_ends_at__gt=now)
    return rows.exclude(invoices__state=InvoiceState.DRAFT).order_by("pk")


def _list_ended(organization: Organization, now: datetime) -> TenantQuerySet:
    """Return the subscriptions that have ended, have no period left to be billed, and are still adjusted.

    Whatever its age, one that has a period of which what was billed was voided.
    """
    since = now - timedelta(days=get_settings(organization).adjustment_days)
    periods = BillingPeriod.objects.for_organization(organization)
    voided = periods.filter(
        subscription=OuterRef("pk"), state=PeriodState.FINALISED, is_waived=False, billed_quantities__isnull=True
    )
    ended = Subscription.objects.for_organization(organization).filter(Q(ends_at__gt=since) | Exists(voided))
    unfinished = periods.exclude(state=PeriodState.FINALISED)
    return ended.filter(ends_at__lte=now).exclude(pk__in=unfinished.values("subscription"))


def _of_buckets(rows: TenantQuerySet, key: str = "subscription_id") -> TenantQuerySet:
    return rows.annotate(bucket=F(key) % BUCKETS)


@contextmanager
def _hold_bucket(organization: Organization, bucket: int) -> Iterator[bool]:
    """Hold a bucket, if nobody else does. The session's lock: it goes with the connection of a killed worker."""
    key = [_BUCKET_LOCK + bucket, organization.pk]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", key)
        [is_held] = cursor.fetchone()
    try:
        yield is_held
    finally:
        if is_held:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", key)


def _note(run: InvoiceRun, now: datetime, *, drafted: int = 0, finalised: int = 0, failed: int = 0) -> None:
    _mine(run).update(
        drafted=F("drafted") + drafted,
        finalised=F("finalised") + finalised,
        failed=F("failed") + failed,
        seen_at=now,
    )


def _mine(run: InvoiceRun) -> TenantQuerySet:
    return InvoiceRun.objects.for_organization(run.organization_id).filter(pk=run.pk)
