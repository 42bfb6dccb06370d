"""Half-open ranges of time `[start, end)` to ask for, and the helpers that name the common ones.

The helpers compute in UTC unless a zone is given, and take `now` for tests. They do not know a customer's own
zone or cycle day: ask for `period="current"` to let the server apply those.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A cycle may not begin on a day that some months lack.
_LAST_CYCLE_DAY = 28


@dataclass(frozen=True, slots=True)
class Period:
    """`[start, end)`: the start belongs to it, the end does not. Both are aware."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("A period needs times with a zone, for example datetime(2026, 1, 1, tzinfo=UTC).")
        if self.start >= self.end:
            raise ValueError("A period's start must lie before its end.")

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Period:
        return cls(parse_time(body["start"]), parse_time(body["end"]))


def current_month(*, now: datetime | None = None, tz: tzinfo = UTC) -> Period:
    """From the first of this month to the first of the next."""
    return current_billing_period(1, now=now, tz=tz)


def last_month(*, now: datetime | None = None, tz: tzinfo = UTC) -> Period:
    """The calendar month before this one."""
    return last_billing_period(1, now=now, tz=tz)


def current_period(duration: timedelta = timedelta(days=30), *, now: datetime | None = None) -> Period:
    """The fixed window of this length that contains now. Windows are anchored at the Unix epoch."""
    if duration <= timedelta(0):
        raise ValueError("A period's duration must be positive.")
    elapsed = (_now(now) - _EPOCH) // duration
    start = _EPOCH + elapsed * duration
    return Period(start, start + duration)


def current_billing_period(day: int, *, now: datetime | None = None, tz: tzinfo = UTC) -> Period:
    """The monthly cycle that begins on this day of the month (1 to 28) and contains now."""
    start = _cycle_start(day, _now(now).astimezone(tz))
    return Period(start, _shift_month(start, 1))


def last_billing_period(day: int, *, now: datetime | None = None, tz: tzinfo = UTC) -> Period:
    """The monthly cycle before the current one."""
    end = _cycle_start(day, _now(now).astimezone(tz))
    return Period(_shift_month(end, -1), end)


def _cycle_start(day: int, local: datetime) -> datetime:
    if not 1 <= day <= _LAST_CYCLE_DAY:
        raise ValueError(f"A billing cycle begins on a day from 1 to {_LAST_CYCLE_DAY}, not {day}.")
    start = local.replace(day=day, hour=0, minute=0, second=0, microsecond=0, fold=0)
    return start if local.day >= day else _shift_month(start, -1)


def _shift_month(start: datetime, months: int) -> datetime:
    # Wall-clock arithmetic on purpose: a month's edge is midnight in the zone, whatever the clocks did between.
    month_number = start.year * 12 + start.month - 1 + months
    return start.replace(year=month_number // 12, month=month_number % 12 + 1)


def _now(now: datetime | None) -> datetime:
    if now is None:
        return datetime.now(UTC)
    if now.tzinfo is None:
        raise ValueError("`now` needs a zone.")
    return now


def parse_time(text: str) -> datetime:
    """Read a time of an answer (RFC 3339, UTC)."""
    return datetime.fromisoformat(text)


def optional_time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)


def time_text(moment: datetime | int | str) -> datetime | int | str:
    """Return a time as it travels: aware datetimes as RFC 3339; text and Unix numbers as they are.

    Raises `ValueError` for a naive datetime: its zone would be a guess.
    """
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no zone; pass an aware datetime, for example with tzinfo=UTC.")
    return moment.isoformat()
