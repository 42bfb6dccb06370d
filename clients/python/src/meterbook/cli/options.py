"""How options that several commands take are read. The functions' names show in the help, as what to write."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from meterbook.periods import Period


def time(text: str) -> datetime:
    """Read a time with its zone, or a date, which means its first moment in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time; write 2026-11-20 or 2026-11-20T10:00:00Z.") from None
    if moment.tzinfo is None and len(text) > len("2026-11-20"):
        raise click.BadParameter(f"{text!r} has no zone; append Z or an offset like +01:00.")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def pair(text: str) -> tuple[str, str]:
    """Read `key=value`."""
    key, mark, value = text.partition("=")
    if not mark or not key:
        raise click.BadParameter(f"{text!r} is not of the form key=value.")
    return key, value


def grouped(pairs: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    """Return the values of each key: a key that is given twice has alternatives."""
    values: dict[str, list[str]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return values


def chosen_period(period: str | None, start: datetime | None, end: datetime | None) -> Period | str:
    """Return the range that the options name; by default the current period."""
    if (start is None) != (end is None):
        raise click.UsageError("Give both --from and --to, or neither.")
    if start is None or end is None:
        return period or "current"
    if period is not None:
        raise click.UsageError("Give --period or --from and --to, not both.")
    try:
        return Period(start, end)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
