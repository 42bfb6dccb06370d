"""Erasing a customer: their raw events and their name go, what was counted of them stays without them.

Guarantees: totals over all customers do not change; the same name seen again is a new customer; whatever dies in
between, a second run takes the work up where it is and ends it once. In the order of the work:

1. What waits in the queue is stored, so that it counts.
2. One short transaction, under the rollup lock and alone at the ingest fence: what apps keep of them goes
   (`metering.traces`), so that nothing of ours goes on sending in their name; the `Erasure` row, by which reads and
   recounts know that raw events are missing; a random name; a new `metrics_version`, which makes every process forget
   the id behind the old name (`metering.services.ingest`). From here on no event of theirs is stored.
3. What is pending is rolled up; then the raw events go, some thousand per transaction.
4. The name goes from the dimensions that say whose something is, from every other table
   (`metering.queries.mentions`), and at last from the `Erasure` row.

Does not own the values of other dimensions: they are labels of totals, not of people.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.db import connection, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Coalesce
from pyroaring import BitMap

from accounts.models import ApiKey, AuditEntry, Customer, Organization
from accounts.services import record_audit
from common.errors import Conflict, NotFound
from metering.domain import EPOCH
from metering.models import Aggregation, Erasure, EventVoid, InboxEvent, Metric
from metering.queries.mentions import CUSTOMER_KEYS, Name, iterate_replacements, rows_of
from metering.services.ingest import ERASED_PREFIX
from metering.services.queue import drain_waiting
from metering.services.rollup import ensure_horizon, roll_up_known
from metering.services.wake import wake_task
from metering.sql import customer_traces, prune, roll_up
from metering.sql.store_events import FENCE_LOCK
from metering.traces import list_traces

ERASE_TASK = "metering.resume_erasures_of_organization"
STEP_ROWS = 2_000
# How long an erasure waits for its turn with the worker.
PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Erased:
    """What is done by now. Unfinished, another run takes it up."""

    # The name that is left.
    customer: str
    event_count: int
    is_finished: bool


def find_open_erasure(*, organization: Organization, external_id: str) -> Erasure | None:
    """Return the erasure of this name that was begun and not ended."""
    erasures = Erasure.objects.for_organization(organization).filter(finished_at__isnull=True)
    found: Erasure | None = erasures.filter(external_id=external_id).order_by("pk").first() if external_id else None
    return found


def erase_customer(
    *, organization: Organization, external_id: str, actor: str, now: datetime, budget: timedelta | None = None
) -> Erased:
    """Erase the customer, or go on with it. Returns unfinished when the budget is spent; then the worker goes on.

    Raises `NotFound`, also the second time: who was erased is not known any more. Raises `Unavailable` or
    `RollupBusy` where others would not let go; nothing of what was done is lost.
    """
    open_one = find_open_erasure(organization=organization, external_id=external_id)
    if open_one is not None:
        erased = resume_erasure(erasure=open_one, now=now, budget=budget)
        came_back = Customer.objects.for_organization(organization).filter(external_id=external_id)
        if not (erased.is_finished and came_back.exists()):
            return erased
    drain_waiting(now=now)
    erasure = _begin(organization, external_id, actor, now)
    return resume_erasure(erasure=erasure, now=now, budget=budget)


@transaction.atomic
def _begin(organization: Organization, external_id: str, actor: str, now: datetime) -> Erasure:
    # In the order of all: first the rollups, then the fence. After it no batch is under way that knows the old name.
    roll_up.lock(organization_id=organization.pk)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [FENCE_LOCK, organization.pk])
    ensure_horizon(organization_id=organization.pk, now=now)
    customers = Customer.objects.for_organization(organization).select_for_update(no_key=True)
    customer: Customer | None = customers.filter(external_id=external_id).first()
    if customer is None:
        raise NotFound("There is no such customer.")
    if Erasure.objects.for_organization(organization).filter(customer=customer).exists():
        raise Conflict("This customer was erased before; the name stands for nobody.", code="already_erased")
    left = f"{ERASED_PREFIX}{secrets.token_hex(8)}"
    for traces in list_traces():
        traces.let_go(organization=organization, customer=customer, by=left, now=now)
    erasure = Erasure.objects.create(
        organization=organization, customer=customer, external_id=external_id, actor=actor, started_at=now
    )
    customer.external_id, customer.name = left, ""
    customer.save(update_fields=["external_id", "name"])
    # A key of theirs could only send under the name that stands for nobody.
    ApiKey.objects.for_organization(organization).filter(customer=customer).update(
        name=customer.external_id, revoked_at=Coalesce("revoked_at", Value(now))
    )
    Organization.objects.filter(pk=organization.pk).update(metrics_version=F("metrics_version") + 1)
    return erasure


def resume_erasure(*, erasure: Erasure, now: datetime, budget: timedelta | None = None) -> Erased:
    """Do what is left to do. Two at once do some of it twice, to the same end."""
    organization, customer = erasure.organization, erasure.customer
    if erasure.finished_at is None:
        give_up_at = None if budget is None else time.monotonic() + budget.total_seconds()
        roll_up_known(organization_id=organization.pk, now=now, patience=PATIENCE)
        if not _delete_events(erasure, give_up_at):
            wake_task(task=ERASE_TASK, organization_id=organization.pk)
            return Erased(customer.external_id, _count_deleted(erasure), is_finished=False)
        _rename_members(erasure)
        _rename_dimensions(erasure)
        _forget_name(erasure)
        _finish(erasure, now)
    return Erased(customer.external_id, _count_deleted(erasure), is_finished=True)


def _count_deleted(erasure: Erasure) -> int:
    erasure.refresh_from_db(fields=["event_count"])
    return erasure.event_count


# --- raw events -----------------------------------------------------------------------------------------------


def _delete_events(erasure: Erasure, give_up_at: float | None) -> bool:
    """Delete the raw events, oldest first; return whether all are gone."""
    after: datetime | None = EPOCH
    while after is not None:
        if give_up_at is not None and time.monotonic() > give_up_at:
            return False
        after = _delete_step(erasure, after)
    return True


@transaction.atomic
def _delete_step(erasure: Erasure, after: datetime) -> datetime | None:
    """Delete the next events, with what voids of them say; return where to go on, None at the end."""
    step = prune.delete_customer_events(
        organization_id=erasure.organization_id, customer_id=erasure.customer_id, after=after, limit=STEP_ROWS
    )
    if step.row_count:
        rows = Erasure.objects.for_organization(erasure.organization_id).filter(pk=erasure.pk)
        rows.update(event_count=F("event_count") + step.row_count)
    if step.voided_keys:
        # A key may say anything, and no event bears it any more.
        entries = AuditEntry.objects.for_organization(erasure.organization_id).filter(action="event.voided")
        entries.filter(target__in=step.voided_keys).update(target=erasure.customer.external_id, details={})
    return step.latest


# --- members --------------------------------------------------------------------------------------------------


def _rename_members(erasure: Erasure) -> None:
    """Give members whom this customer alone had (seats, addresses) names that stand for nobody; counts stay."""
    metrics = Metric.objects.for_organization(erasure.organization_id).filter(aggregation=Aggregation.COUNT_UNIQUE)
    for metric in metrics:
        with transaction.atomic():
            # The worker numbers members and fills sets under this lock.
            roll_up.lock(organization_id=erasure.organization_id)
            _rename_members_of(erasure, metric)


def _rename_members_of(erasure: Erasure, metric: Metric) -> None:
    own = BitMap()
    for bitmap in customer_traces.iterate_member_sets(metric=metric, customer_id=erasure.customer_id, is_own=True):
        own |= bitmap
    if own:
        for bitmap in customer_traces.iterate_member_sets(metric=metric, customer_id=erasure.customer_id, is_own=False):
            own -= bitmap
    if own:
        customer_traces.rename_members(metric=metric, numbers=own, name=erasure.customer.external_id)


# --- dimensions -----------------------------------------------------------------------------------------------


def _rename_dimensions(erasure: Erasure) -> None:
    """Write the new name into those of their dimensions that say whose something is: `cluster`, say. Totals stay."""
    for metric in Metric.objects.for_organization(erasure.organization_id):
        places = [place for place, each in enumerate(metric.dimensions, start=1) if each["key"] in CUSTOMER_KEYS]
        if places:
            with transaction.atomic():
                roll_up.lock(organization_id=erasure.organization_id)
                customer_traces.rename_dimension_values(
                    metric=metric,
                    customer_id=erasure.customer_id,
                    places=places,
                    old=erasure.external_id,
                    new=erasure.customer.external_id,
                )


# --- the name -------------------------------------------------------------------------------------------------


def _forget_name(erasure: Erasure) -> None:
    """Delete what waits in the inbox for them, and write the new name wherever the old one is."""
    organization, old, new = erasure.organization, erasure.external_id, erasure.customer.external_id
    _delete_inbox(erasure)
    # What was said of them: their own name, for one.
    AuditEntry.objects.for_organization(organization).filter(
        action__startswith="customer.", target=old, created_at__lte=erasure.started_at
    ).update(target=new, details={})
    for row, columns in iterate_replacements(organization=organization, name=old, by=new, known_by=erasure.started_at):
        rows_of(type(row), organization).filter(pk=row.pk).update(**columns)
    name = Name(old)
    voids = EventVoid.objects.for_organization(organization).filter(
        Q(reason__contains=old) | Q(replacement_key__contains=old)
    )
    for void in voids:
        EventVoid.objects.for_organization(organization).filter(idempotency_key=void.idempotency_key).update(
            reason=name.replace_in_text(void.reason, new)[:1000],
            replacement_key=name.replace_in_text(void.replacement_key, new)[:256],
        )


def _delete_inbox(erasure: Erasure) -> None:
    rows = InboxEvent.objects.for_organization(erasure.organization_id).filter(received_at__lte=erasure.started_at)
    candidates = rows.filter(payload__contains=Name(erasure.external_id).as_json).order_by("pk")
    last = 0
    while step := list(candidates.filter(pk__gt=last)[:STEP_ROWS]):
        last = step[-1].pk
        theirs = [row.pk for row in step if _customer_of(row.payload) == erasure.external_id]
        rows.filter(pk__in=theirs).delete()


def _customer_of(payload: str) -> Any:
    decoded = msgspec.json.decode(payload)
    return decoded.get("customer") if isinstance(decoded, dict) else None


@transaction.atomic
def _finish(erasure: Erasure, now: datetime) -> None:
    """Forget the name itself, and leave the one trace that somebody was erased."""
    open_rows = Erasure.objects.for_organization(erasure.organization_id).filter(
        pk=erasure.pk, finished_at__isnull=True
    )
    if not open_rows.update(external_id="", finished_at=now):
        return  # somebody else was as far
    erasure.refresh_from_db()
    record_audit(
        organization=erasure.organization,
        actor=erasure.actor,
        action="customer.erased",
        target=erasure.customer.external_id,
        details={"events": erasure.event_count},
    )


def list_open_erasures() -> list[Erasure]:
    """Return what was begun and not ended, of all organizations: a process died, or spent its budget."""
    erasures = Erasure.objects.all_tenants().filter(finished_at__isnull=True)
    return list(erasures.select_related("organization", "customer").order_by("pk"))
