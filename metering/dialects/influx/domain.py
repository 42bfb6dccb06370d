"""What a report says, and the rules about it: how a series is named, which values are quantities, who is silent.

No ORM, no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from statistics import median_low
from typing import Any

from metering.admission import MAX_FRACTION_DIGITS, MAX_INTEGER_DIGITS
from metering.domain import EXACT

# Of a product: the name of the key that registering it makes is as long at most.
MAX_PRODUCT_CHARACTERS = 100
# Of an id or a field: a customer's id and a dimension's value may be as long.
MAX_NAME_CHARACTERS = 256
# All dimensions of a value together stay below what an event's properties may take.
MAX_SERIES_CHARACTERS = 1000

# Whose usage a report is that names no cluster.
UNKNOWN_CLUSTER = "unknown-cluster"
# The series of a product's own usage; statistics bear names of their own.
USAGE_SERIES = "usage"
# In usage, what a server is rather than which of its gauges: a new version must not begin a new series.
SERVER_TAGS = frozenset({"os", "arch", "version"})
IDENTITY_FIELDS = frozenset({"cluster_id", "server_id"})

# Kept of the texts that a server reported: as many as a person reads.
MAX_FACTS = 64
MAX_FACT_CHARACTERS = 200

# Reports closer together are one sign of life: at its start a server sends everything it has at once.
BEAT = timedelta(minutes=1)
# The usual interval is the median of so many gaps between signs of life: one long outage does not change it.
KEPT_GAPS = 9
# Once a day is the rarest that known products report. Holds until a server has been heard of twice.
DEFAULT_INTERVAL = timedelta(hours=24)
# Silence is twice the usual interval, but not so short that a slow network is news.
SHORTEST_SILENCE = timedelta(minutes=5)

_SMALLEST = Decimal(1).scaleb(-MAX_FRACTION_DIGITS)
# As line protocol has it, so that a series reads as its sender knows it.
_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\,= "})


class ReportKind(StrEnum):
    SERVER = "server"
    STATS = "stats"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Which server of which cluster runs which product. Ids are empty where a report has none."""

    product: str
    cluster_id: str = ""
    server_id: str = ""


@dataclass(frozen=True, slots=True)
class ReportedValue:
    series: str
    field: str
    quantity: Decimal


@dataclass(slots=True)
class Report:
    """What one request says about one server. `host` and `version` are None where it says nothing of them."""

    kind: ReportKind
    server: ServerIdentity
    host: str | None = None
    version: str | None = None
    values: list[ReportedValue] = field(default_factory=list)
    # What is no quantity, as text, by field.
    facts: dict[str, str] = field(default_factory=dict)


def name_series(name: str, tags: Mapping[str, str]) -> str:
    """Return a series as line protocol names it: `shard,engine=tsm1,id=7`, tags in the order of their keys."""
    parts = (f"{_escaped(key)}={_escaped(value)}" for key, value in sorted(tags.items()))
    return ",".join((_escaped(name), *parts))


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def as_quantity(value: Any) -> Decimal | None:
    """Return a number as a quantity, a boolean as 1 or 0, and None for what is neither or too great to be counted.

    What lies beyond the smallest place of a quantity is rounded half to even: a float's shortest text may be longer.
    """
    if type(value) is bool or type(value) is int:
        number = Decimal(value)
    elif type(value) is Decimal:
        number = value
    else:
        return None
    if number and number.adjusted() >= MAX_INTEGER_DIGITS:
        return None
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MAX_FRACTION_DIGITS:
        return number.quantize(_SMALLEST, rounding=ROUND_HALF_EVEN, context=EXACT)
    return number


def as_fact(value: Any) -> str | None:
    """Return a text, or a number too great to be counted, as text. Null says nothing; nesting is not read."""
    if not isinstance(value, str | Decimal | int):
        return None
    return str(value).replace("\x00", "")[:MAX_FACT_CHARACTERS]


def merge_facts(known: Mapping[str, str], told: Mapping[str, str]) -> dict[str, str]:
    """Return no more facts than are kept; where there are more, what was just told stays."""
    return dict(list({**told, **{name: text for name, text in known.items() if name not in told}}.items())[:MAX_FACTS])


def append_gap(gaps: Sequence[int], gap: timedelta) -> list[int]:
    """Return the gaps between signs of life, in seconds, with one more; the oldest fall out."""
    return [*gaps, int(gap.total_seconds())][-KEPT_GAPS:]


def usual_interval(gaps: Sequence[int]) -> timedelta | None:
    """Return the median gap; None for a server that was heard of once."""
    return timedelta(seconds=median_low(gaps)) if gaps else None


def patience_with(gaps: Sequence[int]) -> timedelta:
    """Return how long after its last report a server counts as silent."""
    return max(2 * (usual_interval(gaps) or DEFAULT_INTERVAL), SHORTEST_SILENCE)
