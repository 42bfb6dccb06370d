"""Making at Stripe the meters that metrics are reported to. Never changes or deletes one that is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.conf import settings

from accounts.models import Organization
from accounts.services import record_audit
from billing.clients.failures import CallFailed
from billing.clients.stripe import CUSTOMER_KEY, SUM, VALUE_KEY, Meter, StripeMeters
from billing.models import StripeMeter
from billing.queries.reporting import list_meters
from common.errors import Unavailable


class MeterOutcome(StrEnum):
    # It was made; of a dry run: it would be.
    CREATED = "created"
    SOUND = "sound"
    # It is there and not as reporting needs it.
    DIFFERS = "differs"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SyncedMeter:
    """What came of one metric's meter, and what is wrong with it."""

    metric: str
    event_name: str
    outcome: MeterOutcome
    problems: tuple[str, ...] = ()


def sync_meters(
    *, organization: Organization, account: StripeMeters, actor: str, now: datetime, is_dry_run: bool = False
) -> list[SyncedMeter]:
    """Make the meters that metrics are to be reported to and that Stripe lacks. Idempotent.

    Raises `Unavailable` where Stripe cannot be asked which there are.
    """
    try:
        rows = account.list_meters()
    except CallFailed as error:
        raise Unavailable(f"Stripe could not be asked for its meters. {error}") from None
    # Of several of one event name the active one counts, and there is at most one of these.
    there = {row.event_name: row for row in sorted(rows, key=lambda row: row.is_active)}
    synced = [
        _sync(named, there.get(named.event_name), account, now, is_dry_run=is_dry_run)
        for named in list_meters(organization=organization)
    ]
    made = [each.event_name for each in synced if each.outcome == MeterOutcome.CREATED]
    if made and not is_dry_run:
        record_audit(
            organization=organization,
            actor=actor,
            action="stripe_meters.created",
            target=made[0],
            details={"event_names": made},
        )
    return synced


def _sync(
    named: StripeMeter, meter: Meter | None, account: StripeMeters, now: datetime, *, is_dry_run: bool
) -> SyncedMeter:
    metric = named.metric.code
    if meter is not None:
        problems = tuple(list_defects(meter))
        outcome = MeterOutcome.DIFFERS if problems else MeterOutcome.SOUND
        return SyncedMeter(metric, named.event_name, outcome, problems)
    if not is_dry_run:
        # Stripe takes an event name once, so that the key is for a double click alone: an error is not kept for long.
        key = f"{settings.STRIPE_IDENTIFIER_PREFIX}-{named.organization_id}-meter-{named.pk}-{now:%Y%m%d%H%M}"
        try:
            account.create_meter(named.event_name, display_name=metric, key=key)
        except CallFailed as error:
            return SyncedMeter(metric, named.event_name, MeterOutcome.FAILED, (str(error),))
    return SyncedMeter(metric, named.event_name, MeterOutcome.CREATED)


def list_defects(meter: Meter) -> Iterator[str]:
    """Yield what is wrong with a meter that usage is to be reported to."""
    if not meter.is_active:
        yield "The meter is not active."
    if meter.formula != SUM:
        yield f"The meter adds up by {meter.formula}; corrections need one that sums."
    if meter.event_time_window:
        yield f"The meter counts only the last event of each {meter.event_time_window}."
    if (meter.customer_key, meter.value_key) != (CUSTOMER_KEY, VALUE_KEY):
        keys = f"{meter.customer_key} and {meter.value_key}"
        yield f"The meter reads {keys} from its events, not {CUSTOMER_KEY} and {VALUE_KEY}."
