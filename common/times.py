"""Reading times from outside: RFC 3339 with an offset, or Unix time in one of four units told apart by magnitude."""

from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Seconds, milli-, micro- and nanoseconds: each unit is read up to the year 5138.
UNIX_UNITS = ((10**11, 1), (10**14, 10**3), (10**17, 10**6), (10**20, 10**9))


def parse_time(value: Any) -> datetime:
    """Return the UTC time; digits beyond the microsecond are cut off.

    Raises `ValueError` with a sentence for naive times, times before 1970, and anything else.
    """
    if type(value) is str:
        return _from_text(value)
    if type(value) is int:
        return _from_unix(value)
    raise ValueError("A time is RFC 3339 text with an offset or an integer Unix time.")


def _from_text(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("A time is RFC 3339 with an offset, like 2026-11-20T10:00:00Z.") from None
    if moment.tzinfo is None:
        raise ValueError("The time has no offset; add Z or +hh:mm.")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("The time lies outside the calendar.") from None
    if moment < EPOCH:
        raise ValueError("The time lies before 1970.")
    return moment


def _from_unix(number: int) -> datetime:
    for limit, per_second in UNIX_UNITS:
        if 0 <= number < limit:
            return EPOCH + timedelta(microseconds=number * 10**6 // per_second)
    raise ValueError("The Unix time is negative or too large.")
