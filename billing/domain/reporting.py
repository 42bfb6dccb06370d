"""The pure rules of reporting usage to a payment provider: windows, what is still to be said, and what an answer means.

The ledger (`metering.queries`) is the truth and the provider a sink. A row of the outbox says one signed quantity
about one window; a window's rows add up to what the ledger said when they were planned. No ORM, no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from functools import reduce
from itertools import combinations

from billing.domain.periods import BillingPeriod, Cycle, list_periods, period_at
from metering.domain import DAY, EXACT, MINUTE, SECOND, Span, ceil_time, floor_time, local_date

# Stripe takes events that are at most 35 days old; a little less, so that one is not too old when it arrives.
# https://docs.stripe.com/api/billing/meter-event/create
MAX_AGE = timedelta(days=35) - timedelta(minutes=10)
# https://docs.stripe.com/changelog/dahlia/2026-04-22/billing-meter-event-values-validation
MAX_DIGITS = 15
# An identifier is unique for 24 hours at least. An hour less, for the clocks and the way.
# https://docs.stripe.com/api/billing/meter-event/create
RESEND_WITHIN = timedelta(hours=23)
# Who sent and was not heard of for so long was killed; far longer than a call may take.
LEASE = timedelta(minutes=5)
# A row that has been unknown for so long was asked for a day, and the summaries cannot tell: people have to.
LEFT_TO_PEOPLE_AFTER = timedelta(days=2)
# How long an event may take to show in the summaries, which Stripe calls eventually consistent and gives no number for.
SUMMARY_LAG = timedelta(hours=1)
# Of a day that ended so long ago every usage that came in time was reported and shows in the summaries.
RECONCILE_AFTER = timedelta(hours=3)
FIRST_DELAY = timedelta(seconds=30)
LONGEST_DELAY = timedelta(hours=1)
# Summaries are floating-point numbers, exact to as many digits.
SUMMARY_PRECISION = Decimal("1e-14")
# More unknown rows of one minute than that a person must look at: their combinations double with each.
MAX_UNKNOWN = 10
ZERO = Decimal(0)


# --- windows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """The part of one UTC day that lies in one billing period: what one row is about. Half-open."""

    period: BillingPeriod
    start: datetime
    end: datetime

    @property
    def event_time(self) -> datetime:
        """Return the first whole second in the window, which is all that Stripe's timestamps can say.

        A period that lies between two seconds has none; then the one before it.
        """
        first = ceil_time(self.start, SECOND)
        return first if first < self.end else floor_time(self.start, SECOND)


def month_name(period: BillingPeriod, cycle: Cycle) -> str:
    """Return the local month in which a period begins, by which people name it: `2025-01`."""
    return f"{local_date(period.start, cycle.zone):%Y-%m}"


def periods_of_months(cycle: Cycle, months: Collection[str], *, until: datetime) -> list[BillingPeriod]:
    """Return the periods that begin in one of the months and before `until`, in order."""
    return [period for period in list_periods(cycle, until=until) if month_name(period, cycle) in months]


def recent_periods(cycle: Cycle, *, now: datetime) -> list[BillingPeriod]:
    """Return the periods of which something can still be reported, in order."""
    first = period_at(cycle, now - MAX_AGE)
    return [
        period
        for period in list_periods(cycle, until=now)
        if period.end > now - MAX_AGE and (first is None or period.start >= first.start)
    ]


def own_spans(period: BillingPeriod, taken: Sequence[Span]) -> Iterator[Span]:
    """Yield the parts of a period that no other subscription reports."""
    start = period.start
    for span in sorted(taken):
        if span.start > start and start < period.end:
            yield Span(start, min(span.start, period.end))
        start = max(start, span.end)
    if start < period.end:
        yield Span(start, period.end)


def list_windows(period: BillingPeriod, span: Span) -> list[Window]:
    """Cut a part of a period at UTC midnights. What comes before the first whole second joins the next day's window."""
    edges = [span.start]
    midnight = floor_time(span.start, DAY) + DAY
    while midnight < span.end:
        if ceil_time(span.start, SECOND) < midnight:
            edges.append(midnight)
        midnight += DAY
    return [Window(period, start, end) for start, end in zip(edges, [*edges[1:], span.end], strict=True)]


def sum_into_windows(
    windows: Sequence[Window], daily: Sequence[tuple[datetime, Decimal]]
) -> list[tuple[Window, Decimal]]:
    """Give each window its quantity; `daily` are the quantities of the UTC days by their start."""
    totals = [ZERO] * len(windows)
    for day, quantity in daily:
        place = next(place for place, window in enumerate(windows) if day < window.end)
        totals[place] = EXACT.add(totals[place], quantity)
    return list(zip(windows, totals, strict=True))


# --- what is still to be said ---------------------------------------------------------------------------------


class ReportState(StrEnum):
    # Planned; nobody has sent it.
    PENDING = "pending"
    # Somebody took it, and may have sent it.
    SENDING = "sending"
    DELIVERED = "delivered"
    # It was sent and no answer came: it may have arrived.
    UNKNOWN = "unknown"
    # Refused for good. It counts as said until somebody has it tried again, so that it is not planned every hour anew.
    REJECTED = "rejected"
    # Refused or lost, and another row says the same again.
    SUPERSEDED = "superseded"


UNSETTLED = (ReportState.PENDING, ReportState.SENDING, ReportState.UNKNOWN)

# Which states may follow which; whatever writes a state goes by this.
TRANSITIONS: Mapping[ReportState, frozenset[ReportState]] = {
    ReportState.PENDING: frozenset({ReportState.SENDING, ReportState.REJECTED}),
    ReportState.SENDING: frozenset(
        {
            ReportState.SENDING,
            ReportState.PENDING,
            ReportState.DELIVERED,
            ReportState.UNKNOWN,
            ReportState.REJECTED,
        }
    ),
    ReportState.UNKNOWN: frozenset({ReportState.SENDING, ReportState.DELIVERED, ReportState.SUPERSEDED}),
    ReportState.REJECTED: frozenset({ReportState.SUPERSEDED}),
    ReportState.DELIVERED: frozenset(),
    ReportState.SUPERSEDED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a window, as far as the plan needs it."""

    sequence: int
    quantity: Decimal
    state: ReportState


@dataclass(frozen=True, slots=True)
class Part:
    """A row to be appended to a window."""

    sequence: int
    quantity: Decimal


def plan_parts(entries: Sequence[Entry], ledger: Decimal) -> list[Part]:
    """Return the rows that a window lacks for its rows to add up to the ledger; none where they do.

    Corrections are appended with the signed difference, never edited. Idempotent: with its answer among the entries
    it returns nothing.
    """
    said = [entry.quantity for entry in entries if entry.state != ReportState.SUPERSEDED]
    difference = EXACT.subtract(ledger, reduce(EXACT.add, said, ZERO))
    first = next_sequence(entries)
    return [Part(first + place, quantity) for place, quantity in enumerate(split_digits(difference))]


def next_sequence(entries: Sequence[Entry]) -> int:
    return max((entry.sequence for entry in entries), default=-1) + 1


def split_digits(quantity: Decimal) -> list[Decimal]:
    """Split a quantity into as few as possible that Stripe takes and that add up to it exactly; zero into none."""
    parts = []
    rest = quantity
    while rest:
        part = rest
        if len(_digits(rest)) > MAX_DIGITS:
            last_place = Decimal(1).scaleb(rest.adjusted() - MAX_DIGITS + 1)
            part = rest.quantize(last_place, rounding=ROUND_DOWN, context=EXACT)
        parts.append(part)
        rest = EXACT.subtract(rest, part)
    return parts


def _digits(quantity: Decimal) -> tuple[int, ...]:
    return EXACT.normalize(quantity).as_tuple().digits


def identify(
    *, prefix: str, organization_id: int, subscription_id: int, metric_id: int, window_start: datetime, sequence: int
) -> str:
    """Return the name under which Stripe knows a row: the same whoever plans it, another for every other row."""
    moment = f"{window_start:%Y%m%dT%H%M%S.%f}"
    return f"{prefix}-{organization_id}-{subscription_id}-{metric_id}-{moment}-{sequence}"


# --- sending --------------------------------------------------------------------------------------------------


class Answer(StrEnum):
    """What the provider's answer to one row means, whoever the provider is."""

    ACCEPTED = "accepted"
    # It has one of this identifier already: ours, sent before.
    DUPLICATE = "duplicate"
    # It will never take this row.
    REFUSED = "refused"
    # It took nothing and asks for patience.
    THROTTLED = "throttled"
    # It took nothing because it does not know us: no row will fare better.
    UNAUTHORIZED = "unauthorized"
    # No answer, or one that says nothing about what happened.
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Outcome:
    answer: Answer
    message: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a row's delivery has come."""

    state: ReportState = ReportState.PENDING
    attempts: int = 0
    # When it was last taken.
    claimed_at: datetime | None = None
    # The first attempt that may have arrived; None: none may have.
    first_sent_at: datetime | None = None
    next_attempt_at: datetime | None = None
    delivered_at: datetime | None = None
    last_error: str = ""


class Step(StrEnum):
    SEND = "send"
    # Its identifier may be forgotten: find out whether it arrived before sending it once more.
    ASK = "ask"
    # Too old to be taken, and never sent.
    GIVE_UP = "give_up"


def next_step(progress: Progress, *, event_time: datetime, now: datetime) -> Step:
    """Return what to do with a row that is due."""
    if progress.first_sent_at is not None:
        return Step.SEND if now - progress.first_sent_at < RESEND_WITHIN else Step.ASK
    return Step.SEND if now - event_time < MAX_AGE else Step.GIVE_UP


def claim(progress: Progress, *, now: datetime) -> Progress:
    """Take a row, before it is sent: from here on it may have arrived. Whoever finds the lease over takes it again."""
    return _move(
        progress,
        ReportState.SENDING,
        attempts=progress.attempts + 1,
        claimed_at=now,
        first_sent_at=progress.first_sent_at or now,
        next_attempt_at=now + LEASE,
    )


def settle(progress: Progress, outcome: Outcome, *, now: datetime, jitter: float) -> Progress:
    """Return what an answer makes of a row that was taken. `jitter` is between 0 and 1."""
    assert progress.first_sent_at is not None
    assert progress.claimed_at is not None
    # Whether an earlier attempt may have arrived, whatever became of this one.
    was_uncertain = progress.first_sent_at < progress.claimed_at
    later = now + delay(progress.attempts, jitter=jitter)
    match outcome.answer:
        case Answer.ACCEPTED | Answer.DUPLICATE:
            return _move(
                progress, ReportState.DELIVERED, delivered_at=now, next_attempt_at=None, last_error=outcome.message
            )
        case Answer.UNCLEAR:
            return _move(progress, ReportState.UNKNOWN, next_attempt_at=later, last_error=outcome.message)
        case Answer.REFUSED if was_uncertain:
            # This one was refused, an earlier one may have been taken: the summaries know.
            asked_at = progress.first_sent_at + RESEND_WITHIN
            return _move(
                progress, ReportState.UNKNOWN, next_attempt_at=max(asked_at, later), last_error=outcome.message
            )
        case Answer.REFUSED:
            return _move(progress, ReportState.REJECTED, next_attempt_at=None, last_error=outcome.message)
        case Answer.THROTTLED | Answer.UNAUTHORIZED if was_uncertain:
            return _move(progress, ReportState.UNKNOWN, next_attempt_at=later, last_error=outcome.message)
        case Answer.THROTTLED | Answer.UNAUTHORIZED:
            return _move(
                progress,
                ReportState.PENDING,
                first_sent_at=None,
                next_attempt_at=later,
                last_error=outcome.message,
            )


def give_up(progress: Progress, *, message: str) -> Progress:
    return _move(progress, ReportState.REJECTED, next_attempt_at=None, last_error=message)


def delay(attempts: int, *, jitter: float) -> timedelta:
    """Return how long to wait after so many attempts: doubling, half of it by chance, an hour at most."""
    whole = min(FIRST_DELAY * 2 ** min(attempts - 1, 20), LONGEST_DELAY)
    return whole / 2 + whole / 2 * jitter


# --- rows of which nobody knows whether they arrived ----------------------------------------------------------


class Finding(StrEnum):
    ARRIVED = "arrived"
    ABSENT = "absent"
    # The summary is not what it would be with any of the unknown rows.
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class MinuteTotals:
    """The rows of one customer and meter whose times lie in one minute, which is as fine as summaries are.

    `unknown` begins with the row in question.
    """

    delivered: Decimal
    unknown: tuple[Decimal, ...]


def minute_of(event_time: datetime) -> Span:
    start = floor_time(event_time, MINUTE)
    return Span(start, start + MINUTE)


def judge(totals: MinuteTotals, summary: Decimal) -> Finding:
    """Tell from a summary whether the row in question arrived.

    Looks for the most unknown rows that make up what was counted beyond the delivered ones. Which of several such
    choices is true does not matter: whatever is not among the chosen is said again, and the sum comes out the same.
    """
    first, *_ = totals.unknown
    largest = reduce(EXACT.add, map(abs, totals.unknown), max(abs(totals.delivered), abs(summary)))
    tolerance = EXACT.multiply(largest, SUMMARY_PRECISION)
    if len(totals.unknown) > MAX_UNKNOWN or abs(first) <= 2 * tolerance:
        return Finding.INCONCLUSIVE
    beyond = EXACT.subtract(summary, totals.delivered)
    for size in range(len(totals.unknown), -1, -1):
        for places in combinations(range(len(totals.unknown)), size):
            arrived = reduce(EXACT.add, (totals.unknown[place] for place in places), ZERO)
            if abs(EXACT.subtract(beyond, arrived)) <= tolerance:
                return Finding.ARRIVED if 0 in places else Finding.ABSENT
    return Finding.INCONCLUSIVE


def resolve(progress: Progress, finding: Finding, *, now: datetime, message: str = "") -> Progress:
    """Return what a finding makes of a row that is unknown, or whose sender was killed.

    One that is absent is superseded, for its quantity to be said under another identifier: what Stripe still remembers
    of this one does not matter then.
    """
    lost = progress if progress.state == ReportState.UNKNOWN else _move(progress, ReportState.UNKNOWN)
    match finding:
        case Finding.ARRIVED:
            return _move(lost, ReportState.DELIVERED, delivered_at=now, next_attempt_at=None, last_error=message)
        case Finding.ABSENT:
            return _move(lost, ReportState.SUPERSEDED, next_attempt_at=None, last_error=message)
        case Finding.INCONCLUSIVE:
            return replace(lost, next_attempt_at=now + SUMMARY_LAG, last_error=message)


def is_left_to_people(progress: Progress, *, now: datetime) -> bool:
    """Tell whether people have to say what became of a row: nobody knows, and it is too late to find out."""
    sent_at = progress.first_sent_at
    return progress.state == ReportState.UNKNOWN and sent_at is not None and now - sent_at >= LEFT_TO_PEOPLE_AFTER


# --- reconciling ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DayTotals:
    """What was used on a UTC day, and what the provider counts."""

    day: datetime
    ledger: Decimal
    counted: Decimal

    @property
    def is_drift(self) -> bool:
        tolerance = EXACT.multiply(max(abs(self.ledger), abs(self.counted)), SUMMARY_PRECISION)
        return abs(EXACT.subtract(self.ledger, self.counted)) > tolerance


def comparable_days(now: datetime) -> Span:
    """Return the whole UTC days of which a difference can still be said, and whose usage should have arrived."""
    return Span(ceil_time(now - MAX_AGE, DAY), floor_time(now - RECONCILE_AFTER, DAY))


def total_by_day(windows: Iterable[tuple[Window, Decimal]], days: Span) -> dict[datetime, Decimal]:
    """Add up windows by the day in which their events lie."""
    totals: dict[datetime, Decimal] = {}
    for window, quantity in windows:
        if days.start <= window.event_time < days.end:
            day = floor_time(window.event_time, DAY)
            totals[day] = EXACT.add(totals.get(day, ZERO), quantity)
    return totals


def _move(progress: Progress, state: ReportState, **changes: object) -> Progress:
    assert state in TRANSITIONS[progress.state], (progress.state, state)
    return replace(progress, state=state, **changes)  # type: ignore[arg-type]  # fields of its own
