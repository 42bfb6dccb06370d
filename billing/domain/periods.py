"""Billing periods: contiguous half-open spans of a subscription, each from one anchor day to the next.

Pure: the same subscription has the same periods whoever asks and whenever. The anchor is clamped to the month, and
each boundary is derived from the month itself and never from the boundary before, so 31 January is followed by
28 February and that by 31 March.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from metering.domain import local_date, local_midnight


@dataclass(frozen=True, slots=True)
class Cycle:
    """What a subscription's periods follow from. Usage before `starts_at` or from `ends_at` on belongs to none."""

    starts_at: datetime
    anchor_day: int
    zone: ZoneInfo
    # Until then the first period, which costs nothing; None: there is no trial.
    trial_ends_at: datetime | None = None
    ends_at: datetime | None = None

    @property
    def charged_from(self) -> datetime:
        return self.trial_ends_at or self.starts_at


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    start: datetime
    end: datetime
    is_trial: bool = False


class Lasting(Protocol):
    """What runs from one moment to another, or on and on: a cycle, a pause."""

    @property
    def starts_at(self) -> datetime: ...

    @property
    def ends_at(self) -> datetime | None: ...


def period_at(cycle: Cycle, at: datetime) -> BillingPeriod | None:
    """Return the period that holds `at`; None before the first and after the last."""
    if at < cycle.starts_at or (cycle.ends_at is not None and at >= cycle.ends_at):
        return None
    if at < cycle.charged_from:
        return _clamped(cycle, cycle.starts_at, cycle.charged_from, is_trial=True)
    start = max(cycle.charged_from, _boundary_up_to(cycle, at))
    return _clamped(cycle, start, _boundary_after(cycle, start), is_trial=False)


def list_periods(cycle: Cycle, *, until: datetime) -> Iterator[BillingPeriod]:
    """Yield the periods that begin before `until`, in order and without gaps."""
    period = period_at(cycle, cycle.starts_at)
    while period is not None and period.start < until:
        yield period
        period = period_at(cycle, period.end)


def nominal_period(cycle: Cycle, period: BillingPeriod) -> BillingPeriod:
    """Return the period from one anchor to the next of which a period of the cycle is a part; of a trial, itself."""
    if period.is_trial:
        return period
    return BillingPeriod(_boundary_up_to(cycle, period.start), _boundary_after(cycle, period.start))


def calendar_month(*, year: int, month: int, zone: ZoneInfo) -> BillingPeriod:
    years, index = divmod(month, 12)
    return BillingPeriod(
        local_midnight(date(year, month, 1), zone), local_midnight(date(year + years, index + 1, 1), zone)
    )


def list_periods_of_month(cycle: Cycle, *, year: int, month: int) -> list[BillingPeriod]:
    """Return the periods that begin in a month of the cycle's zone, in order.

    Several, where a trial or a first period up to the anchor day comes before another; none, where a long trial
    goes on. Every period belongs to exactly one month.
    """
    whole = calendar_month(year=year, month=month, zone=cycle.zone)
    found = []
    period = period_at(cycle, max(whole.start, cycle.starts_at))
    while period is not None and period.start < whole.end:
        if period.start >= whole.start:
            found.append(period)
        period = period_at(cycle, period.end)
    return found


def list_gaps(taken: Iterable[Lasting], span: BillingPeriod) -> list[BillingPeriod]:
    """Return the parts of a span in which nothing of what is given runs, in order."""
    gaps, free_from = [], span.start
    for one in sorted(taken, key=lambda one: one.starts_at):
        ends_at = one.ends_at or span.end
        if ends_at <= one.starts_at or ends_at <= free_from:
            continue
        if one.starts_at > free_from:
            gaps.append(BillingPeriod(free_from, min(one.starts_at, span.end)))
        free_from = ends_at
        if free_from >= span.end:
            return gaps
    return [*gaps, BillingPeriod(free_from, span.end)]


def trial_end(starts_at: datetime, *, trial_days: int, zone: ZoneInfo) -> datetime | None:
    """Return when the same clock shows the same time, so many days later; None without a trial."""
    if not trial_days:
        return None
    return (starts_at.astimezone(zone) + timedelta(days=trial_days)).astimezone(UTC)


def default_anchor_day(charged_from: datetime, zone: ZoneInfo) -> int:
    """Return the anchor that makes the first charged period a whole one: its own local day."""
    return local_date(charged_from, zone).day


def _clamped(cycle: Cycle, start: datetime, end: datetime, *, is_trial: bool) -> BillingPeriod:
    return BillingPeriod(start, end if cycle.ends_at is None else min(end, cycle.ends_at), is_trial)


def _boundary(cycle: Cycle, year: int, month: int) -> datetime:
    """Return where the anchor day of a month begins; `month` may run past 12 or below 1."""
    years, index = divmod(month - 1, 12)
    year, month = year + years, index + 1
    day = min(cycle.anchor_day, monthrange(year, month)[1])
    return local_midnight(date(year, month, day), cycle.zone)


def _boundary_up_to(cycle: Cycle, at: datetime) -> datetime:
    local = local_date(at, cycle.zone)
    boundary = _boundary(cycle, local.year, local.month)
    return boundary if boundary <= at else _boundary(cycle, local.year, local.month - 1)


def _boundary_after(cycle: Cycle, at: datetime) -> datetime:
    local = local_date(at, cycle.zone)
    boundary = _boundary(cycle, local.year, local.month)
    return boundary if boundary > at else _boundary(cycle, local.year, local.month + 1)
