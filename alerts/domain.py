"""The rules of crossings, projections and quotas. No ORM, no clock, no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

from django.db import models  # for `TextChoices` only

from common.numbers import WIDE

# A recurring threshold that one batch takes far past many multiples records the last so many; the log stays readable.
MAX_MULTIPLES_AT_ONCE = 100


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


@dataclass(frozen=True, slots=True)
class Fall:
    """The value just before and just after a void."""

    before: Decimal
    after: Decimal


def judge(
    *,
    level: Decimal,
    is_recurring: bool,
    previous: Decimal,
    current: Decimal,
    fired: int,
    arming: int,
    has_void: bool,
    falls: Sequence[Fall] = (),
) -> Judgement:
    """Say which multiples of `level` fire, given the value before and now and the greatest multiple that has fired.

    A multiple fires when the value first reaches it, and then not again in the period: a value that falls by itself
    (a gauge, a negative event) and comes back says nothing new. Only a void takes back what was told: where the value
    was at or above a fired multiple and is below it after a void, that multiple is armed again. It may be back above
    by now: `falls` say what the voids since `previous` did.
    """
    reached = _reached(level, current, is_recurring)
    lowest = fired
    for fall in (Fall(previous, current), *falls) if has_void else ():
        after = _reached(level, fall.after, is_recurring)
        if _reached(level, fall.before, is_recurring) > after:
            lowest = min(lowest, after)
    if lowest < fired:
        fired, arming = lowest, arming + 1
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


# --- quotas ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QuotaVerdict:
    """Whether an amount fits, beside what is used and held. `limit` and `remaining` are None without a limit.

    `remaining` counts to the limit, not into a grace, and never below zero.
    """

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
    warning_percents: Sequence[int],
    used: Decimal,
    after: Decimal,
) -> QuotaVerdict:
    """Say whether usage may go from `used` to `after`. Both hold open reservations too.

    What reaches the limit exactly is let through. The level is of what is used already: `ok`, `warning` from the
    lowest warning percent, `grace` from the limit on while more is let through, `exceeded` when nothing more is (a
    quota that only warns stays at `exceeded` and lets all through).
    """
    if limit is None:
        return QuotaVerdict(True, None, used, None, "ok")
    ceiling = WIDE.add(limit, grace) if mode == QuotaMode.SOFT else limit
    is_allowed = mode == QuotaMode.WARN or after <= ceiling
    remaining = max(WIDE.subtract(limit, used), Decimal(0))
    return QuotaVerdict(is_allowed, limit, used, remaining, _quota_level(used, limit, ceiling, warning_percents))


def _quota_level(used: Decimal, limit: Decimal, ceiling: Decimal, warning_percents: Sequence[int]) -> str:
    if used >= ceiling:
        return "exceeded"
    if used >= limit:
        return "grace"
    if warning_percents and used >= warning_value(limit, min(warning_percents)):
        return "warning"
    return "ok"


def warning_value(limit: Decimal, percent: int) -> Decimal:
    """Return the usage at which so many percent of a limit are reached, exactly."""
    return WIDE.divide(WIDE.multiply(limit, Decimal(percent)), Decimal(100))


# --- deliveries -----------------------------------------------------------------------------------------------

# The pause after the first failure, the second …; the last one repeats. Up to a quarter is added at random, so that
# what failed together does not come back together.
RETRY_PAUSES = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
    timedelta(hours=8),
    timedelta(hours=12),
)
# From the first attempt of a message to its last; and how long an endpoint may fail before it is switched off.
GIVE_UP_AFTER = timedelta(days=3)
# However long an endpoint asks for.
LONGEST_PAUSE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request to an endpoint. `error` says what went wrong, `text` is the answer's beginning."""

    duration_ms: int
    status_code: int | None = None
    error: str = ""
    text: str = ""
    # How long the endpoint asks us to stay away.
    retry_after: timedelta | None = None

    @property
    def is_success(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


def plan_retry(
    *, failures: int, first_attempt_at: datetime, now: datetime, jitter: Fraction, retry_after: timedelta | None = None
) -> datetime | None:
    """Return when to try again after so many failures; None: never. `jitter` lies between 0 and 1.

    The last attempt comes when the time is up, not before: an endpoint that is back by then still gets its message.
    """
    deadline = first_attempt_at + GIVE_UP_AFTER
    if now >= deadline:
        return None
    pause = RETRY_PAUSES[min(failures, len(RETRY_PAUSES)) - 1]
    pause += pause * jitter.numerator // (4 * jitter.denominator)
    if retry_after is not None:
        pause = max(pause, min(retry_after, LONGEST_PAUSE))
    return min(now + pause, deadline)


@dataclass(frozen=True, slots=True)
class Lane:
    """An endpoint, as the courier's planning sees it. A failing one waits for most of each attempt."""

    endpoint_id: int
    organization_id: int
    is_failing: bool


@dataclass(frozen=True, slots=True)
class Slots:
    """How many attempts may be under way at once. What fails takes its share at most, and never all of it."""

    total: int = 200
    per_organization: int = 40
    per_endpoint: int = 4
    per_failing_endpoint: int = 1
    failing: int = 50


def allot_slots(*, waiting: Sequence[Lane], under_way: Iterable[Lane], slots: Slots) -> dict[int, int]:
    """Return how many more attempts each waiting endpoint may begin, dealt out one by one in the given order."""
    endpoints, organizations, failing = Counter[int](), Counter[int](), 0
    for lane in under_way:
        endpoints[lane.endpoint_id] += 1
        organizations[lane.organization_id] += 1
        failing += lane.is_failing
    total = endpoints.total()
    allotted: dict[int, int] = {}
    for lane in [lane for _ in range(slots.per_endpoint) for lane in waiting]:
        most = slots.per_failing_endpoint if lane.is_failing else slots.per_endpoint
        if (
            total < slots.total
            and organizations[lane.organization_id] < slots.per_organization
            and endpoints[lane.endpoint_id] < most
            and not (lane.is_failing and failing >= slots.failing)
        ):
            total += 1
            endpoints[lane.endpoint_id] += 1
            organizations[lane.organization_id] += 1
            failing += lane.is_failing
            allotted[lane.endpoint_id] = allotted.get(lane.endpoint_id, 0) + 1
    return allotted


# A daily digest is there when people begin to work.
DAILY_DIGEST_HOUR = 7


def latest_digest_time(frequency: DigestFrequency, *, now: datetime, zone: ZoneInfo) -> datetime:
    """Return the last moment up to `now` at which such a digest was due, as UTC."""
    if frequency == DigestFrequency.SOON:
        return now
    local = now.astimezone(zone)
    if frequency == DigestFrequency.HOURLY:
        # By the clock of UTC: in a zone's own the hour of a change of clocks comes twice, or not at all.
        return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    due = datetime.combine(local.date(), time(DAILY_DIGEST_HOUR), tzinfo=zone)
    if due > local:
        due = datetime.combine(local.date() - timedelta(days=1), time(DAILY_DIGEST_HOUR), tzinfo=zone)
    return due.astimezone(UTC)
