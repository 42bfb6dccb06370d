"""Reads of subscriptions: which there are, which plan version holds in a period."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

from accounts.models import Customer, Organization
from billing.domain.periods import BillingPeriod, period_at
from billing.models import PlanVersion, Subscription, SubscriptionPause, SubscriptionPhase
from common.errors import Conflict
from common.models import TenantQuerySet


class NeverCharged(Conflict):
    code = "never_started"


def list_subscriptions(*, organization: Organization) -> TenantQuerySet:
    return Subscription.objects.for_organization(organization).select_related("organization", "customer")


def list_organizations_with_subscriptions() -> list[int]:
    rows = Subscription.objects.all_tenants().values_list("organization", flat=True)
    return list(rows.order_by("organization").distinct())


def get_subscription(
    *, organization: Organization, subscription_id: int, customer_id: int | None = None
) -> Subscription:
    """Return the subscription. Raises `NotFound`, for a foreign id like for an absent one.

    `customer_id` is the one whose a bound key may see; None: anybody's.
    """
    rows = list_subscriptions(organization=organization)
    rows = rows if customer_id is None else rows.filter(customer_id=customer_id)
    return rows.get_by_id(subscription_id, "There is no such subscription.")


def list_of_customer(*, organization: Organization, customer: Customer) -> list[Subscription]:
    """Return the customer's subscriptions, the newest first."""
    return list(list_subscriptions(organization=organization).filter(customer=customer).order_by("-id"))


def list_phases(subscription: Subscription) -> list[SubscriptionPhase]:
    """Return which plan version held and will hold from when on, in order."""
    return list_phases_of([subscription], organization=subscription.organization)[subscription.pk]


def list_phases_of(
    subscriptions: Collection[Subscription], *, organization: Organization
) -> dict[int, list[SubscriptionPhase]]:
    """Return the phases of each subscription by its id, in order. One query."""
    rows = SubscriptionPhase.objects.for_organization(organization).filter(subscription__in=subscriptions)
    phases: dict[int, list[SubscriptionPhase]] = {subscription.pk: [] for subscription in subscriptions}
    for phase in rows.select_related("version", "version__plan").order_by("starts_at"):
        phases[phase.subscription_id].append(phase)
    return phases


def list_pauses_of(
    subscription_ids: Collection[int], *, organization: Organization
) -> dict[int, list[SubscriptionPause]]:
    """Return the pauses of each subscription that has any by its id, in order. One query."""
    rows = SubscriptionPause.objects.for_organization(organization).filter(subscription__in=subscription_ids)
    pauses: dict[int, list[SubscriptionPause]] = defaultdict(list)
    for row in rows.order_by("starts_at"):
        pauses[row.subscription_id].append(row)
    return dict(pauses)


def find_pause(subscription: Subscription, now: datetime) -> SubscriptionPause | None:
    """Return the pause that the subscription is in, else the next one."""
    pauses = list_pauses_of([subscription.pk], organization=subscription.organization).get(subscription.pk, [])
    return pause_from(pauses, now)


def pause_from(pauses: Sequence[SubscriptionPause], now: datetime) -> SubscriptionPause | None:
    return next((pause for pause in pauses if pause.ends_at is None or pause.ends_at > now), None)


def current_phase(phases: Sequence[SubscriptionPhase], subscription: Subscription, now: datetime) -> SubscriptionPhase:
    """Return the phase that holds now, of the subscription's in order; of one that is to come, the first one's."""
    at = max(now, subscription.starts_at)
    return next(phase for phase in reversed(phases) if phase.starts_at <= at)


def next_phase(
    phases: Sequence[SubscriptionPhase], subscription: Subscription, now: datetime
) -> SubscriptionPhase | None:
    """Return the phase that follows the one that holds now."""
    current = current_phase(phases, subscription, now)
    return next((phase for phase in phases if phase.starts_at > current.starts_at), None)


def version_of_period(
    phases: list[SubscriptionPhase], period: BillingPeriod, *, is_at_end: bool = False
) -> PlanVersion:
    """Return the plan version at a period's start, or with `is_at_end` the last that begins within it."""
    return next(
        phase.version
        for phase in reversed(phases)
        if phase.starts_at <= period.start or (is_at_end and phase.starts_at < period.end)
    )


def nearest_period(subscription: Subscription, at: datetime) -> BillingPeriod:
    """Return the period that holds `at`, else the first or the last one.

    Raises `NeverCharged` for a subscription that was ended before it began.
    """
    cycle = subscription.cycle
    period = period_at(cycle, at) or period_at(cycle, cycle.starts_at)
    if period is not None and cycle.ends_at is not None and at >= cycle.ends_at:
        period = period_at(cycle, cycle.ends_at - cycle.ends_at.resolution)
    if period is None:
        raise NeverCharged("The subscription was ended before it began; it has no billing period.")
    return period
