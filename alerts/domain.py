"""The rules of crossings, projections and quotas. No ORM, no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal

from django.db import models  # for `TextChoices` only

from common.numbers import WIDE
from metering.domain import Span

# A recurring threshold that one batch takes far past many multiples records the last so many; the log stays readable.
MAX_MULTIPLES_AT_ONCE = 100
# Before this much of a period has passed, a projection would multiply noise.
LEAST_PROJECTED_PERCENT = 5


class ThresholdKind(models.TextChoices):
    VALUE = "value"
    PERCENT = "percent_of_included", "percent of included"
    PROJECTED = "projected"
    SILENCE = "silence"


class ThresholdOrigin(models.TextChoices):
    OWN = "own"
    METRIC = "metric"
    QUOTA = "quota"


class DigestFrequency(models.TextChoices):
    SOON = "soon", "within a minute"
    HOURLY = "hourly"
    DAILY = "daily"


class QuotaMode(models.TextChoices):
    # Refuses what would go beyond the limit.
    HARD = "hard"
    # Lets a grace through beyond the limit, then refuses.
    SOFT = "soft"
    # Never refuses; the level tells.
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one evaluation finds: the multiples of the level that fire now, in order, and the state after it.

    `skipped` multiples were passed at once with so many others that they are not recorded one by one.
    """

    multiples: range
    fired: int
    arming: int
    skipped: int = 0


def judge(
    *,
    level: Decimal,
    is_recurring: bool,
    previous: Decimal,
    current: Decimal,
    fired: int,
    arming: int,
    has_void: bool,
) -> Judgement:
    """Say which multiples of `level` fire, given the value before and now and the greatest multiple that has fired.

    A multiple fires when the value first reaches it, and then not again in the period: a value that falls by itself
    (a gauge, a negative event) and comes back says nothing new. Only a void takes back what was told: where the value
    was at or above a fired multiple and is below it after a void, that multiple is armed again.
    """
    reached = _reached(level, current, is_recurring)
    if has_void and reached < fired and _reached(level, previous, is_recurring) > reached:
        fired, arming = reached, arming + 1
    first = fired + 1
    skipped = max(0, reached - fired - MAX_MULTIPLES_AT_ONCE)
    return Judgement(range(first + skipped, reached + 1), max(fired, reached), arming, skipped)


def _reached(level: Decimal, value: Decimal, is_recurring: bool) -> int:
    """Return the greatest multiple of the level that the value reaches; at most 1 unless it recurs."""
    if value < level:
        return 0
    if not is_recurring:
        return 1
    return int(WIDE.divide(value, level).to_integral_value(rounding=ROUND_FLOOR))


def project(value: Decimal, *, period: Span, now: datetime) -> Decimal | None:
    """Return the value at the period's end if it goes on as so far; None while it is too early to tell."""
    length, elapsed = _microseconds(period.end - period.start), _microseconds(now - period.start)
    if elapsed >= length:
        return value
    if elapsed * 100 < length * LEAST_PROJECTED_PERCENT:
        return None
    return WIDE.divide(WIDE.multiply(value, Decimal(length)), Decimal(elapsed))


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


# --- quotas ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QuotaVerdict:
    """Whether an amount fits, beside what is used and held. `limit` and `remaining` are None without a limit."""

    is_allowed: bool
    limit: Decimal | None
    used: Decimal
    remaining: Decimal | None
    level: str


def judge_quota(
    *,
    mode: QuotaMode,
    limit: Decimal | None,
    grace: Decimal,
    warning_percents: list[int],
    used: Decimal,
    amount: Decimal,
) -> QuotaVerdict:
    """Say whether `amount` fits beside `used`. `used` holds open reservations too.

    The level is of what is used already: `ok`, `warning` from the lowest warning percent, `grace` at the limit while
    more is let through, `exceeded` when nothing more is (a warning quota stays at `exceeded` and lets all through).
    """
    if limit is None:
        return QuotaVerdict(True, None, used, None, "ok")
    ceiling = WIDE.add(limit, grace) if mode == QuotaMode.SOFT else limit
    is_allowed = mode == QuotaMode.WARN or WIDE.add(used, amount) <= ceiling
    remaining = max(WIDE.subtract(limit, used), Decimal(0))
    return QuotaVerdict(is_allowed, limit, used, remaining, _quota_level(used, limit, ceiling, warning_percents))


def _quota_level(used: Decimal, limit: Decimal, ceiling: Decimal, warning_percents: list[int]) -> str:
    if used >= ceiling:
        return "exceeded"
    if used >= limit:
        return "grace"
    if warning_percents and WIDE.multiply(used, Decimal(100)) >= WIDE.multiply(limit, Decimal(min(warning_percents))):
        return "warning"
    return "ok"
