"""The options that name requests: which, in what order, how many. Mistakes are told before anything is asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, TypeVar

import click

from meterbook.cli.options import time

F = TypeVar("F", bound=Callable[..., Any])

ORDERS = ("requests", "errors", "latency", "units", "bytes")
MAX_LIMIT = 1000
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", re.ASCII)
_STATUS = re.compile(r"[1-5](?:[0-9]{2}|xx)\Z", re.ASCII)
_MONTH = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])\Z", re.ASCII)
_DAYS = re.compile(r"([1-9][0-9]{0,4})d\Z", re.ASCII)


def edge(text: str) -> date:
    """Read a date, which is the whole day, or a time with its zone."""
    if not _DATE.match(text):
        return time(text)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"there is no day {text}.") from None


def status(text: str) -> str:
    """Read `404` or `5xx`."""
    if not _STATUS.match(text):
        raise click.BadParameter(f"{text!r} is neither a status like 404 nor a class of them like 5xx.")
    return text


def order(text: str) -> str:
    """Read what to sort by. People want to see the most; the API's `-` before it says the same, and `+` the least."""
    if text.lstrip("+-") not in ORDERS or len(text) > len(text.lstrip("+-")) + 1:
        raise click.BadParameter(f"{text!r} is no order; there are {', '.join(ORDERS)}.")
    return text.removeprefix("+") if text.startswith("+") else f"-{text.removeprefix('-')}"


def month(text: str) -> str:
    """Read `2026-11`, `current` or `last`."""
    if text not in ("current", "last") and not _MONTH.match(text):
        raise click.BadParameter(f"{text!r} is no month; write 2026-11, current or last.")
    return text


def age(text: str) -> int:
    """Read `30d` as a number of days."""
    found = _DAYS.match(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no age; write a number of days, 1d or more, like 30d.")
    return int(found[1])


def name(text: str) -> str:
    """Read a name."""
    if not text:
        raise click.BadParameter("a name is not empty.")
    return text


def selection_options(command: F) -> F:
    """Add `--from`, `--to`, `--user`, `--route` and `--status`."""
    for option in (
        click.option("--status", type=status, help="Of one status, like 404, or a class of them, like 5xx."),
        click.option("--route", type=name, help="Of one route."),
        click.option("--user", type=name, help="Of one user."),
        click.option("--to", "end", type=edge, help="Its end: a date, which belongs to it, or a time, which does not."),
        click.option("--from", "start", type=edge, help="Start of the range: a date or a time."),
    ):
        command = option(command)
    return command


def list_options(command: F) -> F:
    """Add `--sort` and `--limit` to `selection_options`."""
    limit = click.option("--limit", "-n", type=click.IntRange(1, MAX_LIMIT), help="At most so many rows.")
    sort = click.option("--sort", type=order, help=f"{', '.join(ORDERS)}: the most first; +{ORDERS[0]} …: the least.")
    return selection_options(sort(limit(command)))


def check_range(start: date | None, end: date | None) -> None:
    """Refuse a range that ends before it begins, where that can be told without the organization's zone."""
    if start is None or end is None or isinstance(start, datetime) != isinstance(end, datetime):
        return
    if start > end or (isinstance(start, datetime) and start == end):
        raise click.UsageError("--from lies after --to.")
