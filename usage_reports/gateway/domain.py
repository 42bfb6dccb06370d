"""What can be asked of recorded requests, and the numbers of a row: groups, orders, statuses, ratios.

Pure: no ORM, no clock, no I/O. Which numbers there are is read by `engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import NamedTuple

from common.numbers import WIDE, exact_text
from metering.domain import EPOCH, Granularity

ZERO = Decimal(0)
# A response of this status or a greater one is an error.
FIRST_ERROR = 400
STATUSES = range(100, 600)
RATE_STEP = Decimal("0.000001")
MEAN_STEP = Decimal("0.001")
PERCENT_STEP = Decimal("0.01")
# A percentile keeps so many digits: rounding must not add to the error that is stated.
PERCENTILE_DIGITS = 12
PERCENTS = (Decimal(50), Decimal(95), Decimal(99))


class Grouping(StrEnum):
    """What rows are of. The first three are of time."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    PATH = "path"
    ROUTE = "route"
    USER = "user"
    STATUS = "status"
    METHOD = "method"


TIMES = {Grouping.HOUR: Granularity.HOUR, Grouping.DAY: Granularity.DAY, Grouping.MONTH: Granularity.MONTH}
# By what the usage query knows each of the others.
KEYS = {
    Grouping.PATH: "path",
    Grouping.ROUTE: "route_id",
    Grouping.USER: "customer",
    Grouping.STATUS: "status",
    Grouping.METHOD: "method",
}


class Order(StrEnum):
    REQUESTS = "requests"
    ERRORS = "errors"
    LATENCY = "latency"
    UNITS = "units"
    BYTES = "bytes"


class Sort(NamedTuple):
    order: Order
    is_descending: bool

    @classmethod
    def parse(cls, text: str) -> Sort:
        return cls(Order(text.removeprefix("-")), text.startswith("-"))

    def __str__(self) -> str:
        return f"{'-' if self.is_descending else ''}{self.order}"


SORTS = tuple(f"{sign}{order}" for order in Order for sign in ("", "-"))
MOST_REQUESTS_FIRST = Sort(Order.REQUESTS, is_descending=True)


class Key(NamedTuple):
    """Of what a row is: the start of its time (None: of the whole range), and the values of its groups."""

    start: datetime | None
    group: tuple[str | None, ...]


@dataclass(slots=True)
class Totals:
    """The numbers of a row that add up. `latency_ms` is all its latencies together."""

    requests: int = 0
    errors: int = 0
    units: Decimal = ZERO
    bytes: Decimal = ZERO
    latency_ms: Decimal = ZERO

    @property
    def error_rate(self) -> Decimal:
        return divide(Decimal(self.errors), Decimal(self.requests), RATE_STEP) or ZERO

    @property
    def mean_latency_ms(self) -> Decimal | None:
        """Exact to the digits shown; None without requests."""
        return divide(self.latency_ms, Decimal(self.requests), MEAN_STEP)

    def rank(self, order: Order) -> Decimal:
        match order:
            case Order.REQUESTS:
                return Decimal(self.requests)
            case Order.ERRORS:
                return Decimal(self.errors)
            case Order.LATENCY:
                return WIDE.divide(self.latency_ms, Decimal(self.requests)) if self.requests else ZERO
            case Order.UNITS:
                return self.units
            case Order.BYTES:
                return self.bytes


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latencies in milliseconds, None without requests."""

    p50: Decimal | None = None
    p95: Decimal | None = None
    p99: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Row:
    key: Key
    totals: Totals
    percentiles: Percentiles
    # Whether the range or the present cuts its time short.
    is_partial: bool = False


def divide(part: Decimal, whole: Decimal, step: Decimal) -> Decimal | None:
    """Return the ratio, rounded half to even to a multiple of the step; None of nothing."""
    if not whole:
        return None
    return WIDE.divide(part, whole).quantize(step, rounding=ROUND_HALF_EVEN, context=WIDE)


def percent_of(part: Decimal, whole: Decimal | None) -> Decimal | None:
    """Return how many percent of the whole the part is, to two decimals; None of nothing."""
    return None if whole is None else divide(part * 100, whole, PERCENT_STEP)


def number(value: Decimal | int | None) -> Decimal | int | None:
    """Return what JSON shows as a plain number: no exponent, no trailing zeros."""
    if value is None or isinstance(value, int):
        return value
    return Decimal(exact_text(value))


# --- statuses -------------------------------------------------------------------------------------------------


def list_statuses(wanted: str) -> list[str]:
    """Return the statuses that `404` or `5xx` stands for."""
    if wanted.endswith("xx"):
        first = int(wanted[0]) * 100
        return [str(status) for status in range(first, first + 100)]
    return [wanted]


_KNOWN_STATUSES = frozenset(map(str, STATUSES))
ERROR_STATUSES = tuple(str(status) for status in STATUSES if status >= FIRST_ERROR)


def status_class(status: str | None) -> str:
    """Return `4xx` for a status of 404; `unknown` for what no HTTP response has."""
    return f"{status[0]}xx" if status in _KNOWN_STATUSES else "unknown"


# --- order ----------------------------------------------------------------------------------------------------


def sort_keys(keys: dict[Key, Totals], sort: Sort) -> list[Key]:
    """Return the keys in order; those that are equal in it by what they are, ascending, whatever the direction."""
    ordered = sorted(keys, key=place_of)
    return sorted(ordered, key=lambda key: keys[key].rank(sort.order), reverse=sort.is_descending)


def place_of(key: Key) -> tuple[datetime, list[tuple[bool, str]]]:
    """Return where a key stands among its like: by time, then by group, those without a name last."""
    return key.start or EPOCH, [(value is None, value or "") for value in key.group]


def take_rows(totals: dict[Key, Totals], *, sort: Sort | None, limit: int) -> list[Key]:
    """Return the keys to show. Without `sort` rows of time are in its order, and the newest stay within the limit."""
    if sort is None:
        return sorted(totals, key=place_of)[-limit:]
    return sort_keys(totals, sort)[:limit]


def label_of(values: Sequence[str | None]) -> str:
    return "/".join("" if value is None else value for value in values)
