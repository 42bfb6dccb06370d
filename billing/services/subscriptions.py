"""Writes of subscriptions: begin, change the plan, pause, end.

Of a subscription that is prorated (the default) everything holds from its very moment on; of one that is not, a plan
holds for whole billing periods. What was billed before does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from django.db import IntegrityError, transaction
from django.db.models import F, Q

from accounts.models import Customer, Organization, known_zones
from accounts.services import record_audit
from billing.domain.periods import BillingPeriod, default_anchor_day, period_at, trial_end
from billing.models import Plan, PlanVersion, Subscription, SubscriptionPause, SubscriptionPhase
from billing.queries.subscriptions import current_phase, list_of_customer, list_phases, list_phases_of
from billing.services.periods import end_open_periods
from billing.services.plans import get_version_to_subscribe
from common.errors import Conflict, InvalidInput
from metering.queries import usage_zone

# Far enough for any contract, and well inside what calendars can be reckoned with.
MAX_AHEAD = timedelta(days=3660)


class SubscriptionEnded(Conflict):
    code = "subscription_ended"


class AlreadySubscribed(Conflict):
    code = "already_subscribed"


class KeyReused(Conflict):
    code = "idempotency_key_reused"


class CurrencyChanges(Conflict):
    code = "currency_changes"


class AlreadyPaused(Conflict):
    code = "already_paused"


class NotPaused(Conflict):
    code = "not_paused"


class When(StrEnum):
    NOW = "now"
    PERIOD_END = "period_end"


@dataclass(frozen=True, slots=True)
class SubscriptionDefinition:
    """`version` None: the plan's current one. `zone` and `anchor_day` None: the customer's, else what follows."""

    customer: Customer
    plan: Plan
    version: PlanVersion | None = None
    starts_at: datetime | None = None
    anchor_day: int | None = None
    zone: str | None = None
    trial_days: int | None = None
    is_prorated: bool = True
    # Under which the same request, repeated, answers with the same subscription.
    idempotency_key: str = ""

    @property
    def digest(self) -> str:
        """What tells two requests apart that have the same key."""
        version = None if self.version is None else self.version.pk
        start = None if self.starts_at is None else self.starts_at.astimezone(UTC)
        given: tuple[object, ...] = (self.customer.pk, self.plan.pk, version, start, self.anchor_day, self.zone)
        given = (*given, self.trial_days) if self.is_prorated else (*given, self.trial_days, self.is_prorated)
        return sha256("|".join("" if part is None else str(part) for part in given).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Subscribed:
    """`is_new` is False where the request was a repeated one."""

    subscription: Subscription
    is_new: bool


@transaction.atomic
def create_subscription(
    *, organization: Organization, definition: SubscriptionDefinition, actor: str, now: datetime
) -> Subscribed:
    """Put a customer on a plan. A start in the past charges what was used since.

    Defaults: starts now; the customer's zone, else the organization's; the customer's cycle day, else the local day
    on which charging begins, so that the first period is a whole one; the version's trial.

    Repeating a request under its idempotency key answers with the same subscription, whatever became of it. Raises
    `KeyReused` for a key of another request, and without a key `AlreadySubscribed` where the customer would be
    charged for the plan twice.
    """
    starts_at = definition.starts_at or now
    # Two requests for one customer wait for each other.
    Customer.objects.for_organization(organization).select_for_update(no_key=True).get(pk=definition.customer.pk)
    earlier = _find_earlier(organization, definition)
    if earlier is not None:
        return Subscribed(earlier, is_new=False)
    version = get_version_to_subscribe(plan=definition.plan, version=definition.version)
    if not definition.idempotency_key:
        _refuse_second(organization, definition, starts_at)
    subscription, details = _create(organization, definition, version, starts_at, now)
    _add_phase(subscription, version, starts_at, now)
    _record(subscription, "subscription.created", actor, _named(version) | details)
    return Subscribed(subscription, is_new=True)


def _find_earlier(organization: Organization, definition: SubscriptionDefinition) -> Subscription | None:
    """Return the subscription that was made under the same key. Raises `KeyReused` if it is of something else."""
    if not definition.idempotency_key:
        return None
    rows = Subscription.objects.for_organization(organization).select_related("organization", "customer")
    earlier: Subscription | None = rows.filter(idempotency_key=definition.idempotency_key).first()
    if earlier is not None and earlier.request_digest != definition.digest:
        raise KeyReused("This idempotency key was used for another subscription.")
    return earlier


def _refuse_second(organization: Organization, definition: SubscriptionDefinition, starts_at: datetime) -> None:
    """Raise `AlreadySubscribed` where a subscription of the customer has the plan at `starts_at` or later."""
    running = [
        subscription
        for subscription in list_of_customer(organization=organization, customer=definition.customer)
        if subscription.ends_at is None or subscription.ends_at > max(starts_at, subscription.starts_at)
    ]
    for subscription_id, phases in list_phases_of(running, organization=organization).items():
        ends = [following.starts_at for _, following in pairwise(phases)] + [None]
        if any(
            phase.version.plan_id == definition.plan.pk and (end is None or end > starts_at)
            for phase, end in zip(phases, ends, strict=True)
        ):
            raise AlreadySubscribed(
                f"The customer has this plan already, with subscription {subscription_id}.",
                extra={"subscription": str(subscription_id)},
            )


def _create(
    organization: Organization,
    definition: SubscriptionDefinition,
    version: PlanVersion,
    starts_at: datetime,
    now: datetime,
) -> tuple[Subscription, dict[str, Any]]:
    """Create the row with what its periods follow from; return that for the audit log too."""
    if starts_at > now + MAX_AHEAD:
        raise InvalidInput.of("start", "A subscription starts within ten years.", "out_of_range")
    zone_name = definition.zone or usage_zone(organization=organization, customer=definition.customer).key
    if zone_name not in known_zones():
        raise InvalidInput.of("zone", "Use an IANA time zone, like Europe/Berlin.", "invalid_zone")
    zone = ZoneInfo(zone_name)
    days = version.trial_days if definition.trial_days is None else definition.trial_days
    trial_ends_at = trial_end(starts_at, trial_days=days, zone=zone)
    anchor_day = (
        definition.anchor_day
        or definition.customer.billing_cycle_day
        or default_anchor_day(trial_ends_at or starts_at, zone)
    )
    try:
        with transaction.atomic():
            subscription = Subscription.objects.create(
                organization=organization,
                customer=definition.customer,
                starts_at=starts_at,
                anchor_day=anchor_day,
                zone=zone_name,
                trial_ends_at=trial_ends_at,
                is_prorated=definition.is_prorated,
                created_at=now,
                idempotency_key=definition.idempotency_key,
                request_digest=definition.digest if definition.idempotency_key else "",
            )
    except IntegrityError:
        # Of the same customer `_find_earlier` would have found it.
        raise KeyReused("This idempotency key was used for another customer's subscription.") from None
    details = {"starts_at": starts_at.isoformat(), "anchor_day": anchor_day, "zone": zone_name, "trial_days": days}
    return subscription, details


@transaction.atomic
def cancel_subscription(*, subscription: Subscription, when: When, actor: str, now: datetime) -> Subscription:
    """End it now, which cuts its period short, or with the period.

    Cut short, fees are charged in proportion, unless it is not prorated. One that has not begun ends as it begins.
    Cancelling again may only bring the end nearer. Raises `SubscriptionEnded`.
    """
    locked = _lock_running(subscription, now)
    ends_at = max(now, locked.starts_at)
    if when == When.PERIOD_END and (period := period_at(locked.cycle, now)) is not None:
        ends_at = period.end
    if locked.ends_at is None or ends_at < locked.ends_at:
        locked.ends_at, locked.canceled_at = ends_at, now
        locked.save(update_fields=["ends_at", "canceled_at"])
        _touch(locked)
        end_open_periods(subscription=locked, ends_at=ends_at)
        details = {"when": str(when), "ends_at": ends_at.isoformat()}
        _record(locked, "subscription.canceled", actor, details)
    return locked


@transaction.atomic
def change_plan(
    *,
    subscription: Subscription,
    plan: Plan,
    version: PlanVersion | None,
    when: When,
    actor: str,
    now: datetime,
) -> Subscription:
    """Put it on another plan or version, now or with the next period. Takes the place of a change still to come.

    `now` charges what is used from here on under the new plan, and the fees of both in proportion; without proration
    the whole current period under the new one. Raises `SubscriptionEnded`, also where it ends before the next period
    begins, and `CurrencyChanges` where one period would be charged in two currencies.
    """
    locked = _lock_running(subscription, now)
    chosen = get_version_to_subscribe(plan=plan, version=version)
    period = period_at(locked.cycle, now)
    starts_at = _change_from(locked, period, when, now)
    if locked.ends_at is not None and starts_at >= locked.ends_at:
        raise SubscriptionEnded("The subscription ends before another period begins.")
    former = current_phase(list_phases(locked), locked, now).version
    if period is not None and starts_at != period.start and starts_at < period.end:
        _refuse_other_currency(former, chosen)
    # What was to come, and what already changed at the same edge, is superseded; the audit log keeps both.
    SubscriptionPhase.objects.for_organization(locked.organization_id).filter(
        subscription=locked, starts_at__gte=starts_at
    ).delete()
    _add_phase(locked, chosen, starts_at, now)
    _touch(locked)
    details = {"when": str(when), "from": _named(former), "to": _named(chosen), "starts_at": starts_at.isoformat()}
    _record(locked, "subscription.plan_changed", actor, details)
    return locked


def _change_from(subscription: Subscription, period: BillingPeriod | None, when: When, now: datetime) -> datetime:
    """Return from when on a change of plan holds. In a trial, which is charged under no plan, from its start."""
    if period is None:
        return subscription.starts_at
    if when == When.PERIOD_END:
        return period.end
    return now if subscription.is_prorated and not period.is_trial else period.start


def _refuse_other_currency(former: PlanVersion, chosen: PlanVersion) -> None:
    if former.currency != chosen.currency:
        raise CurrencyChanges(
            f"The current period is charged in {former.currency}, and one invoice has one currency. "
            "Change at the end of the period."
        )


@transaction.atomic
def pause_subscription(
    *, subscription: Subscription, when: When, resumes_at: datetime | None, actor: str, now: datetime
) -> Subscription:
    """Charge nothing from now, or from the next period on, until it is resumed or until `resumes_at`.

    Usage goes on being counted and is not charged. Raises `AlreadyPaused`, `SubscriptionEnded`.
    """
    locked = _lock_running(subscription, now)
    period = period_at(locked.cycle, now)
    starts_at = max(now, locked.starts_at) if when == When.NOW or period is None else period.end
    if resumes_at is not None and resumes_at <= starts_at:
        raise InvalidInput.of("resumes_at", "After the pause begins.", "out_of_range")
    rows = SubscriptionPause.objects.for_organization(locked.organization_id).filter(subscription=locked)
    if rows.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=starts_at)).exists():
        raise AlreadyPaused("The subscription is paused already; resume it first.")
    SubscriptionPause.objects.create(
        organization_id=locked.organization_id,
        subscription=locked,
        starts_at=starts_at,
        ends_at=resumes_at,
        created_at=now,
    )
    _touch(locked)
    details = {"starts_at": starts_at.isoformat(), "resumes_at": resumes_at and resumes_at.isoformat()}
    _record(locked, "subscription.paused", actor, details)
    return locked


@transaction.atomic
def resume_subscription(*, subscription: Subscription, actor: str, now: datetime) -> Subscription:
    """End the pause now, or take back one that is still to come. Raises `NotPaused`."""
    locked = _lock_running(subscription, now)
    rows = SubscriptionPause.objects.for_organization(locked.organization_id).filter(subscription=locked)
    pause = rows.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=now)).order_by("starts_at").first()
    if pause is None:
        raise NotPaused("The subscription is not paused.")
    if pause.starts_at >= now:
        pause.delete()
    else:
        pause.ends_at = now
        pause.save(update_fields=["ends_at"])
    _touch(locked)
    _record(locked, "subscription.resumed", actor, {"paused_from": pause.starts_at.isoformat()})
    return locked


def _touch(subscription: Subscription) -> None:
    """Tell who is computing an invoice of it that what they read is no longer so."""
    rows = Subscription.objects.for_organization(subscription.organization_id).filter(pk=subscription.pk)
    rows.update(revision=F("revision") + 1)


def _lock_running(subscription: Subscription, now: datetime) -> Subscription:
    rows = Subscription.objects.for_organization(subscription.organization_id)
    locked: Subscription = (
        rows.select_related("organization", "customer")
        .select_for_update(of=("self",), no_key=True)
        .get(pk=subscription.pk)
    )
    if locked.ends_at is not None and (locked.ends_at <= now or locked.ends_at <= locked.starts_at):
        raise SubscriptionEnded("The subscription has ended; make another one.")
    return locked


def _add_phase(subscription: Subscription, version: PlanVersion, starts_at: datetime, now: datetime) -> None:
    SubscriptionPhase.objects.create(
        organization_id=subscription.organization_id,
        subscription=subscription,
        version=version,
        starts_at=starts_at,
        created_at=now,
    )


def _named(version: PlanVersion) -> dict[str, Any]:
    return {"plan": version.plan.code, "version": version.number}


def _record(subscription: Subscription, action: str, actor: str, details: dict[str, Any]) -> None:
    record_audit(
        organization=subscription.organization,
        actor=actor,
        action=action,
        target=f"{subscription.pk} of {subscription.customer.external_id}"[:320],
        details=details,
    )
