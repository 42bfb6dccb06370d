"""Making invoices final: what was computed becomes rows that never change, with numbers that have no gaps.

Guarantees: one invoice per subscription, period and kind, whoever races; all of a chunk or nothing of it; every
invoice charges exactly the usage that its cut-off knows. Computed is outside of the writing transaction, so that
nobody waits for it; what changed meanwhile (`Subscription.revision`) is left for the next pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from django.db import DataError, transaction
from django.db.models import F

from accounts.models import Organization
from accounts.services import record_audit
from billing.models import (
    MAX_ERROR_CHARACTERS,
    BillingPeriod,
    BillingSettings,
    Invoice,
    InvoiceKind,
    InvoiceState,
    PeriodState,
    Subscription,
)
from billing.queries.invoicing import ComputedInvoice, ComputedPeriod, compute_leftovers, compute_periods
from billing.queries.settings import get_settings
from billing.services.invoice_rows import make_invoice, set_billed, store_invoices
from common.errors import ApplicationError, Conflict
from common.models import TenantQuerySet
from metering.domain import Cutoff
from metering.services.cutoffs import CutoffBusy, snapshot_at_cutoff

# So often a draft is computed anew where its subscription changes meanwhile.
ATTEMPTS = 3


class NotInGrace(Conflict):
    code = "not_in_grace"


class SubscriptionBusy(Conflict):
    code = "subscription_busy"


class NotStorable(Conflict):
    code = "not_storable"


@dataclass(slots=True)
class ChunkResult:
    """What became of some periods. The stale ones changed while they were computed, and are to be done again."""

    finalised: list[Invoice] = field(default_factory=list)
    # Periods that are done, with or without an invoice.
    period_count: int = 0
    stale: list[int] = field(default_factory=list)
    problems: dict[int, ApplicationError] = field(default_factory=dict)

    def add(self, other: ChunkResult) -> None:
        self.finalised += other.finalised
        self.period_count += other.period_count
        self.stale += other.stale
        self.problems |= other.problems


def finalise_invoice(*, invoice: Invoice, actor: str, now: datetime) -> Invoice:
    """Make a draft final at once, whatever is left of its grace. Raises `NotInGrace` for what is no draft, or has
    nothing left to charge, and what keeps it from being computed. Not inside a transaction."""
    rows = Invoice.objects.for_organization(invoice.organization_id)
    for _ in range(ATTEMPTS):
        if not rows.filter(pk=invoice.pk, state=InvoiceState.DRAFT).exists():
            raise NotInGrace("Only a draft can be made final.")
        result = finalise_periods(organization=invoice.organization, period_ids=[invoice.period_id], now=now)
        for problem in result.problems.values():
            raise problem
        if not result.stale:
            break
    else:
        raise SubscriptionBusy("The subscription is being changed. Try again in a moment.")
    final: Invoice | None = (
        rows.select_related("organization", "customer", "subscription", "period").filter(pk=invoice.pk).first()
    )
    if final is None:
        raise NotInGrace("Nothing is left to be charged, so there is no invoice.")
    record_audit(organization=final.organization, actor=actor, action="invoice.finalised", target=final.number)
    return final


def finalise_periods(*, organization: Organization, period_ids: Sequence[int], now: datetime) -> ChunkResult:
    """Make the invoices of periods that are in grace final; at most one of a subscription, its oldest.

    What cannot be computed keeps nobody else from it: its period says why. Raises `CutoffBusy`, which is nobody's
    fault: nothing more was done then. Not inside a transaction.
    """
    result = ChunkResult()
    try:
        _finalise(organization, period_ids, now, result)
    except CutoffBusy:
        raise
    except ApplicationError as error:
        if len(period_ids) == 1:
            _note_problem(organization, period_ids[0], error)
            result.problems[period_ids[0]] = error
            return result
        for half in halve(period_ids):
            result.add(finalise_periods(organization=organization, period_ids=half, now=now))
    return result


def halve(ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Where one of many cannot be done, halves find it in few steps."""
    middle = len(ids) // 2
    return ids[:middle], ids[middle:]


@contextmanager
def _refuse_unstorable() -> Iterator[None]:
    """Have what a column refuses, a number too large or a text too long, be a refusal like any other: of one period,
    that halves find. Around a transaction, which it undoes."""
    try:
        yield
    except DataError as error:
        said = str(error).partition("\n")[0]
        raise NotStorable(f"It cannot be stored: {said}.") from error


@_refuse_unstorable()
def _finalise(organization: Organization, period_ids: Sequence[int], now: datetime, result: ChunkResult) -> None:
    with snapshot_at_cutoff(organization=organization) as cutoff:
        periods = list(_list_periods(organization, period_ids))
        revisions = {period.subscription_id: period.subscription.revision for period in periods}
        computed = compute_periods(periods, organization=organization, now=now, known_at=cutoff.at)
    settings = get_settings(organization)
    with transaction.atomic():
        locked = _lock(organization, revisions)
        fresh = [each for each in computed if each.period.subscription_id in locked]
        in_grace = _list_in_grace(organization, period_ids)
        done = [each for each in fresh if each.period.pk in in_grace]
        result.stale += [each.period.pk for each in computed if each.period.subscription_id not in locked]
        result.finalised += _store(organization, settings, done, cutoff, now)
        result.period_count += len(done)


def finalise_leftovers(*, organization: Organization, subscription_ids: Sequence[int], now: datetime) -> list[Invoice]:
    """Invoice what came to be known of subscriptions that have no period any more on whose invoice it could stand.

    What changed meanwhile is left for the next pass. What cannot be computed keeps nobody else from it: the last period
    of that subscription that is billed at all says why. Raises `CutoffBusy`. Not inside a transaction.
    """
    rows = BillingPeriod.objects.for_organization(organization)
    try:
        invoices = _finalise_leftovers(organization, subscription_ids, now)
    except CutoffBusy:
        raise
    except ApplicationError as error:
        if len(subscription_ids) > 1:
            return [
                invoice
                for half in halve(subscription_ids)
                for invoice in finalise_leftovers(organization=organization, subscription_ids=half, now=now)
            ]
        billed = rows.filter(subscription__in=subscription_ids, is_waived=False)
        _note_problem(organization, billed.latest("starts_at").pk, error)
        return []
    rows.filter(subscription__in=subscription_ids).exclude(problem="").update(problem="")
    return invoices


@_refuse_unstorable()
def _finalise_leftovers(organization: Organization, subscription_ids: Sequence[int], now: datetime) -> list[Invoice]:
    with snapshot_at_cutoff(organization=organization) as cutoff:
        rows = Subscription.objects.for_organization(organization).filter(pk__in=subscription_ids)
        revisions = dict(rows.values_list("pk", "revision"))
        computed = compute_leftovers(subscription_ids, organization=organization, now=now, known_at=cutoff.at)
    changed = [each for each in computed if each.others or each.unchanged]
    if not changed:
        return []
    settings = get_settings(organization)
    with transaction.atomic():
        locked = _lock(organization, revisions)
        fresh = [each for each in changed if each.period.subscription_id in locked]
        wanted = [invoice for each in fresh for invoice in each.others]
        invoices = store_invoices(organization, settings, wanted, cutoff, now)
        _note_billed(organization, fresh, wanted)
        _touch(organization, {each.period.subscription_id for each in fresh})
    return invoices


def _list_periods(organization: Organization, period_ids: Sequence[int]) -> TenantQuerySet:
    rows = BillingPeriod.objects.for_organization(organization).filter(pk__in=period_ids).order_by("pk")
    return rows.select_related("subscription__customer", "subscription__organization")


def _lock(organization: Organization, revisions: Mapping[int, int]) -> set[int]:
    """Lock subscriptions in the order of their ids; return those that are as they were when they were read."""
    rows = Subscription.objects.for_organization(organization).filter(pk__in=revisions).order_by("pk")
    locked = rows.select_for_update(no_key=True).values_list("pk", "revision")
    return {pk for pk, revision in locked if revision == revisions[pk]}


def _list_in_grace(organization: Organization, period_ids: Sequence[int]) -> set[int]:
    rows = BillingPeriod.objects.for_organization(organization).filter(pk__in=period_ids, state=PeriodState.GRACE)
    return set(rows.values_list("pk", flat=True))


def _note_problem(organization: Organization, period_id: int, error: ApplicationError) -> None:
    rows = BillingPeriod.objects.for_organization(organization).filter(pk=period_id, is_waived=False)
    rows.update(problem=error.message[:MAX_ERROR_CHARACTERS])


@_refuse_unstorable()
def draft_periods(*, organization: Organization, period_ids: Sequence[int], now: datetime) -> int:
    """Make a draft for each of some periods in grace that has none; return how many. Idempotent."""
    periods = list(_list_periods(organization, period_ids))
    computed = compute_periods(periods, organization=organization, now=now, known_at=now)
    revisions = {period.subscription_id: period.subscription.revision for period in periods}
    with transaction.atomic():
        # Of a period that was finalised meanwhile there is no draft any more.
        unchanged = _lock(organization, revisions)
        in_grace = _list_in_grace(organization, period_ids)
        drafts = [
            make_invoice(each.invoice.kind, each.period, each.invoice.content, now)
            for each in computed
            if each.invoice and each.period.pk in in_grace and each.period.subscription_id in unchanged
        ]
        # Where another run was faster, its draft stands.
        Invoice.objects.bulk_create(drafts, ignore_conflicts=True, batch_size=1_000)
    return len(drafts)


def _store(
    organization: Organization,
    settings: BillingSettings,
    computed: Sequence[ComputedPeriod],
    cutoff: Cutoff,
    now: datetime,
) -> list[Invoice]:
    """Write the invoices of some periods. In the caller's transaction, under the subscriptions' locks."""
    wanted = [invoice for each in computed for invoice in (each.invoice, *each.others) if invoice is not None]
    invoices = store_invoices(organization, settings, wanted, cutoff, now)
    _note_billed(organization, computed, wanted)
    done = BillingPeriod.objects.for_organization(organization).filter(pk__in=[each.period.pk for each in computed])
    done.update(state=PeriodState.FINALISED, finalised_at=now, problem="")
    # A draft of a period that turned out to have nothing to charge.
    empty = [each.period.pk for each in computed if each.invoice is None]
    if empty:
        drafts = Invoice.objects.for_organization(organization).filter(state=InvoiceState.DRAFT)
        drafts.filter(period__in=empty, kind=InvoiceKind.PERIOD).delete()
    _touch(organization, [each.period.subscription_id for each in computed])
    return invoices


def _note_billed(
    organization: Organization, computed: Sequence[ComputedPeriod], invoices: Sequence[ComputedInvoice]
) -> None:
    said = [*(each.unchanged for each in computed), *(each.quantities for each in invoices)]
    set_billed(organization, {pk: of_one for mapping in said for pk, of_one in mapping.items()})


def _touch(organization: Organization, subscription_ids: Collection[int]) -> None:
    """Have everybody who computes invoices of these subscriptions at this moment begin anew."""
    rows = Subscription.objects.for_organization(organization).filter(pk__in=subscription_ids)
    rows.update(revision=F("revision") + 1)
