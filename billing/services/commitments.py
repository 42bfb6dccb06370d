"""Writes of commitments: what a customer promises to spend on a subscription over some of its billing periods."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db import transaction
from django.db.models import F

from accounts.services import record_audit
from billing.domain.commitments import Term, list_terms
from billing.domain.periods import BillingPeriod as Span
from billing.domain.periods import period_at
from billing.models import BillingPeriod, Commitment, PeriodState, Subscription
from billing.queries.commitments import list_commitments
from billing.queries.subscriptions import list_phases
from billing.services.subscriptions import MAX_AHEAD, SubscriptionEnded
from common.errors import Conflict, InvalidInput

MAX_AMOUNT_MINOR = 10**14
MAX_PERIODS = 120
# Of one subscription, ended ones too.
MAX_COMMITMENTS = 100


class CommitmentOverlaps(Conflict):
    code = "commitment_overlaps"


class TermIsBilled(Conflict):
    code = "period_finalised"


class TooManyCommitments(Conflict):
    code = "too_many"


@transaction.atomic
def create_commitment(
    *,
    subscription: Subscription,
    amount_minor: int,
    actor: str,
    now: datetime,
    starts_at: datetime | None = None,
    period_count: int = 1,
    is_recurring: bool = False,
) -> Commitment:
    """Promise an amount over so many billing periods from the one that begins at `starts_at` (None: the current one).

    It is in the currency of the plan that holds at that time. Raises `InvalidInput`, `CommitmentOverlaps` where
    another one in that currency has a term at the same time, and `TermIsBilled` where the first term is over and its
    last invoice is finalised, so that nothing could be charged.
    """
    locked = _lock(subscription)
    if not 1 <= amount_minor <= MAX_AMOUNT_MINOR:
        raise InvalidInput.of("amount_minor", f"From 1 to {MAX_AMOUNT_MINOR}.", "out_of_range")
    if not 1 <= period_count <= MAX_PERIODS:
        raise InvalidInput.of("period_count", f"From 1 to {MAX_PERIODS} billing periods.", "out_of_range")
    period = _first_period(locked, starts_at, now)
    commitment = Commitment(
        organization_id=locked.organization_id,
        subscription=locked,
        amount_minor=amount_minor,
        currency=_currency_of(locked, period),
        starts_at=period.start,
        period_count=period_count,
        is_recurring=is_recurring,
        created_at=now,
    )
    _refuse_overlap(commitment)
    _refuse_billed(commitment)
    commitment.save()
    _count_revision(locked)
    _record(commitment, "commitment.created", actor)
    return commitment


@transaction.atomic
def end_commitment(*, commitment: Commitment, actor: str, now: datetime) -> Commitment | None:
    """Have it end now: a term that is over is still charged, the one that goes on is not. Again: nothing.

    Returns None where no term was over: nothing ever comes of such a commitment, so it is deleted, and another one may
    begin where it began. The audit log keeps it.
    """
    subscription = _lock(commitment.subscription)
    locked: Commitment | None = list_commitments(subscription=subscription).filter(pk=commitment.pk).first()
    if locked is None or locked.ended_at is not None:
        return locked
    _record(locked, "commitment.ended", actor)
    _count_revision(subscription)
    first = next(_terms(locked), None)
    if first is None or first.end > now:
        locked.delete()
        return None
    locked.ended_at = now
    locked.save(update_fields=["ended_at"])
    return locked


def _first_period(subscription: Subscription, starts_at: datetime | None, now: datetime) -> Span:
    """Return the period with which the first term begins. Raises `InvalidInput` where none begins then."""
    cycle = subscription.cycle
    if starts_at is None:
        period = period_at(cycle, max(now, cycle.starts_at))
        if period is None:
            raise SubscriptionEnded("The subscription has ended; it has no current billing period.")
        return period
    if starts_at > now + MAX_AHEAD:
        raise InvalidInput.of("starts_at", "A commitment starts within ten years.", "out_of_range")
    period = period_at(cycle, starts_at)
    if period is None:
        raise InvalidInput.of("starts_at", "The subscription does not run then.", "not_a_period_start")
    if period.start != starts_at:
        message = f"No billing period begins then; one begins at {period.start.isoformat()}."
        raise InvalidInput.of("starts_at", message, "not_a_period_start")
    return period


def _currency_of(subscription: Subscription, period: Span) -> str:
    phases = list_phases(subscription)
    holding = [phase for phase in phases if phase.starts_at <= period.start] or phases
    currency: str = holding[-1].version.currency
    return currency


def _refuse_overlap(commitment: Commitment) -> None:
    """Raise `CommitmentOverlaps` where a term of another commitment in the currency shares time with one of it."""
    others = list(list_commitments(subscription=commitment.subscription))
    if len(others) >= MAX_COMMITMENTS:
        raise TooManyCommitments(f"A subscription has up to {MAX_COMMITMENTS} commitments.")
    end = _end_of(commitment)
    for other in others:
        if other.currency != commitment.currency and other.starts_at != commitment.starts_at:
            continue
        other_end = _end_of(other)
        if (end is None or other.starts_at < end) and (other_end is None or commitment.starts_at < other_end):
            raise CommitmentOverlaps(
                f"Commitment {other.pk} has a term at the same time.", extra={"commitment": str(other.pk)}
            )


def _end_of(commitment: Commitment) -> datetime | None:
    """Return when its last term is over; None: another one always follows."""
    if commitment.is_recurring and commitment.ended_at is None and commitment.subscription.ends_at is None:
        return None
    end = commitment.starts_at
    for term in _terms(commitment):
        end = term.end
    return end


def _refuse_billed(commitment: Commitment) -> None:
    first = next(_terms(commitment))
    finalised = BillingPeriod.objects.for_organization(commitment.organization_id).filter(
        subscription=commitment.subscription, ends_at__gte=first.end, state=PeriodState.FINALISED
    )
    if finalised.exists():
        raise TermIsBilled("The first term is over and its invoice finalised: nothing of it could be charged.")


def _terms(commitment: Commitment) -> Iterator[Term]:
    return list_terms(
        commitment.subscription.cycle,
        starts_at=commitment.starts_at,
        period_count=commitment.period_count,
        is_recurring=commitment.is_recurring,
        ended_at=commitment.ended_at,
    )


def _lock(subscription: Subscription) -> Subscription:
    rows = Subscription.objects.for_organization(subscription.organization_id)
    locked: Subscription = (
        rows.select_related("organization", "customer")
        .select_for_update(of=("self",), no_key=True)
        .get(pk=subscription.pk)
    )
    return locked


def _count_revision(subscription: Subscription) -> None:
    """What was computed of its periods before may not become an invoice any more."""
    rows = Subscription.objects.for_organization(subscription.organization_id).filter(pk=subscription.pk)
    rows.update(revision=F("revision") + 1)


def _record(commitment: Commitment, action: str, actor: str) -> None:
    subscription = commitment.subscription
    details = {
        "amount_minor": commitment.amount_minor,
        "currency": commitment.currency,
        "starts_at": commitment.starts_at.isoformat(),
        "period_count": commitment.period_count,
        "is_recurring": commitment.is_recurring,
    }
    record_audit(
        organization=subscription.organization,
        actor=actor,
        action=action,
        target=f"{commitment.pk} of subscription {subscription.pk}",
        details=details,
    )
