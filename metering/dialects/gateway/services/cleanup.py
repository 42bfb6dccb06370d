"""Letting go of old requests: by the organization's settings every hour, or by hand when somebody asks.

Owns which days go and how much is done at once; how rows go is `metering.services.type_retention`'s. Everything that
`api_request` events feed is meant, the gateway's own metrics and others alike.

What is not billed is kept: neither requests nor totals after the time that `settings.BILLED_UNTIL` tells go. Totals of
the current and the previous calendar month stay whatever anybody says. Single requests are not needed for a bill, since
totals outlive them; but where midnight cuts a UTC hour (in India, say) only they know what of it is whose month. There,
unless somebody tells what is billed, they stay for the same two months.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import add
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils.module_loading import import_string

from accounts.models import MAX_DAYS, Customer, Organization
from accounts.services import record_audit
from common.errors import InvalidInput
from metering.catalogs import API_GATEWAY
from metering.catalogs.api_gateway import EVENT_TYPE
from metering.dialects.gateway.services.settings import get_settings
from metering.domain import DAY, HOUR, floor_time, local_date, month_start
from metering.models import Metric
from metering.services import type_retention
from metering.services.rollup import roll_up_known
from metering.services.type_retention import Deleted
from metering.services.wake import wake_task

FINISH_TASK = "gateway.finish_cleanup"
ACTOR = "cleanup"
# How long a cleanup waits for its turn with the worker.
PATIENCE = timedelta(seconds=30)
# After each step a pause of twice its time: at most a third of the disk is asked for, the rest is ingest's.
PAUSE_FACTOR = 2
MAX_PAUSE_SECONDS = 0.5

_AGE = re.compile(r"([1-9][0-9]{0,4})d\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What was done, or with `is_dry_run` what would be. Unfinished, the worker does the rest."""

    is_dry_run: bool
    is_finished: bool
    # Single requests before this go, and totals before that.
    requests_before: datetime
    totals_before: datetime
    deleted: Deleted


def parse_age(text: str) -> timedelta:
    """Read `30d`. Raises `InvalidInput` for everything else: `30`, `0d`, `-5d`."""
    match = _AGE.match(text)
    if match is None or int(match[1]) > MAX_DAYS:
        raise InvalidInput.of("older_than", f"Say a number of days from 1d to {MAX_DAYS}d, like 30d.")
    return timedelta(days=int(match[1]))


def list_organizations() -> list[Organization]:
    """Return those that record requests."""
    metrics = Metric.objects.all_tenants().filter(catalog=API_GATEWAY.name)
    return list(Organization.objects.filter(pk__in=metrics.values("organization")).order_by("pk"))


# --- the two ways ---------------------------------------------------------------------------------------------


def clean_up_by_settings(*, organization: Organization, now: datetime) -> Cleanup:
    """Delete what lies behind the horizons of the last run, then move them on. Safe to repeat."""
    limits = _Limits.of(organization, None, now)
    roll_up_known(organization_id=organization.pk, now=now, patience=PATIENCE)
    pace = _Pace(None)
    deleted = pace.follow(_delete_due(organization, now))
    limits.move(organization, now)
    return _report(organization, limits, deleted, actor=ACTOR, is_finished=True)


def clean_up_by_hand(
    *,
    organization: Organization,
    actor: str,
    now: datetime,
    older_than: timedelta | None,
    is_dry_run: bool = False,
    budget: timedelta | None = None,
) -> Cleanup:
    """Delete single requests older than that (by default: than the setting says) at once, and totals that are due.

    When the budget is spent, the worker goes on. Totals go in two steps an hour apart, whoever asks. Raises
    `RollupBusy` where the worker does not let go.
    """
    limits = _Limits.of(organization, older_than, now)
    if is_dry_run:
        return Cleanup(True, True, limits.requests_before, limits.totals_before, limits.count(organization))
    roll_up_known(organization_id=organization.pk, now=now, patience=PATIENCE)
    limits.move(organization, now)
    pace = _Pace(budget)
    deleted = pace.follow(_delete_due(organization, now))
    if pace.is_spent:
        wake_task(task=FINISH_TASK, organization_id=organization.pk)
    return _report(organization, limits, deleted, actor=actor, is_finished=not pace.is_spent)


def finish_cleanup(*, organization: Organization, now: datetime) -> Deleted:
    """Delete what a cleanup by hand did not get to: all that lies behind the horizons."""
    return _Pace(None).follow(_delete_due(organization, now))


def _delete_due(organization: Organization, now: datetime) -> Iterator[Deleted]:
    yield from type_retention.delete_raw(organization=organization, event_type=EVENT_TYPE)
    yield from type_retention.delete_rollups(organization=organization, event_type=EVENT_TYPE, now=now)


def _report(organization: Organization, limits: _Limits, deleted: Deleted, *, actor: str, is_finished: bool) -> Cleanup:
    """Tell what was done, in the audit log too if a person asked or anything went."""
    if actor != ACTOR or any(deleted.rows.values()):
        record_audit(
            organization=organization,
            actor=actor,
            action="gateway.cleaned_up",
            target="usage",
            details={
                "requests_before": limits.requests_before.isoformat(),
                "totals_before": limits.totals_before.isoformat(),
                "deleted": deleted.rows,
                "is_finished": is_finished,
            },
        )
    return Cleanup(False, is_finished, limits.requests_before, limits.totals_before, deleted)


# --- which days -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Limits:
    """Whole UTC days: single requests before the one go, and totals before the other."""

    requests_before: datetime
    totals_before: datetime

    @classmethod
    def of(cls, organization: Organization, older_than: timedelta | None, now: datetime) -> _Limits:
        kept = get_settings(organization)
        age = older_than or timedelta(days=kept.usage_retention_days)
        requests_before = now - age
        totals_before = now - timedelta(days=kept.usage_aggregate_retention_days)
        totals_before = min(totals_before, _previous_month(organization, now))
        billed_until = _find_billed_until(organization)
        if billed_until is not None:
            requests_before, totals_before = min(requests_before, billed_until), min(totals_before, billed_until)
        if _has_periods_that_cut_hours(organization, now):
            requests_before = min(requests_before, _previous_month(organization, now))
        return cls(floor_time(requests_before, DAY), floor_time(totals_before, DAY))

    def move(self, organization: Organization, now: datetime) -> None:
        type_retention.move_raw_horizon(
            organization=organization, event_type=EVENT_TYPE, before=self.requests_before, now=now
        )
        type_retention.move_rollups_horizon(
            organization=organization, event_type=EVENT_TYPE, before=self.totals_before, now=now
        )

    def count(self, organization: Organization) -> Deleted:
        raw = type_retention.count_raw(organization=organization, event_type=EVENT_TYPE, before=self.requests_before)
        return raw + type_retention.count_rollups(
            organization=organization, event_type=EVENT_TYPE, before=self.totals_before
        )


def _find_billed_until(organization: Organization) -> datetime | None:
    if settings.BILLED_UNTIL is None:
        return None
    tell: Callable[[Organization], datetime | None] = import_string(settings.BILLED_UNTIL)
    return tell(organization)


def _has_periods_that_cut_hours(organization: Organization, now: datetime) -> bool:
    """Tell whether a day begins within a UTC hour for the organization or a customer with a zone of its own."""
    zones = Customer.objects.for_organization(organization).exclude(zone=None).values_list("zone", flat=True)
    offsets = (
        now.astimezone(ZoneInfo(name)).utcoffset() for name in {organization.zone, *filter(None, zones.distinct())}
    )
    return any(offset is not None and offset % HOUR for offset in offsets)


def _previous_month(organization: Organization, now: datetime) -> datetime:
    """Return where the calendar month before the current one begins, wherever the organization's customers are."""
    zone = ZoneInfo(organization.zone)
    today = local_date(now, zone)
    # A customer's own zone may be up to 26 hours ahead.
    return month_start(today.year, today.month - 1, 1, zone) - 2 * DAY


# --- pace -----------------------------------------------------------------------------------------------------


class _Pace:
    """Takes one step after the other with pauses between, until all are done or the budget is spent."""

    def __init__(self, budget: timedelta | None) -> None:
        self._give_up_at = None if budget is None else time.monotonic() + budget.total_seconds()
        self.is_spent = False

    def follow(self, steps: Iterator[Deleted]) -> Deleted:
        done: list[Deleted] = []
        began = time.monotonic()
        for step in steps:
            done.append(step)
            ended = time.monotonic()
            if self._give_up_at is not None and ended > self._give_up_at:
                self.is_spent = True
                break
            time.sleep(min(PAUSE_FACTOR * (ended - began), MAX_PAUSE_SECONDS))
            began = time.monotonic()
        return reduce(add, done, Deleted())
