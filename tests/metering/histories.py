"""Random histories of one organization, and random questions about them: hypothesis strategies, no assertions.

Every history plays around a day on which clocks or calendars do something odd. Its instants come from a small pool
of edges (of days, hours, minutes, months, clock changes) and their neighbours, so that events coincide with each
other and with the ends of ranges far more often than chance would have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.metering.brute_force import Dimension, MeasuredMetric, SentEvent, look

# --- the world ------------------------------------------------------------------------------------------------

REGION = Dimension("region", ("us", "eu"))  # "ap" is not listed
TIER = Dimension("tier")
METRICS = (
    MeasuredMetric("jobs", "count", "job", None, (REGION, TIER)),
    MeasuredMetric("work", "sum", "job", None, (REGION, TIER)),
    MeasuredMetric("peak", "max", "job", None, (TIER,)),
    MeasuredMetric("low", "min", "job", "size", (REGION, TIER)),
    MeasuredMetric("level", "latest", "job", None, (TIER, REGION)),
    MeasuredMetric("sized", "count", "job", "size"),
    MeasuredMetric("volume", "sum", "job", "size"),
    MeasuredMetric("users", "count_unique", "job", "user", (TIER, REGION)),
    MeasuredMetric("seats", "count_unique", "seat", None, (REGION, TIER)),
    MeasuredMetric("moves", "count", "seat"),
)
CUSTOMERS = ("ann", "bob", "cy")
# Dimension values that some events have, one that is listed nowhere, and one that no event has.
REGIONS: tuple[str, ...] = ("us", "eu", "ap")
TIERS: tuple[str | int | bool | Decimal, ...] = ("free", "pro", 1, True, Decimal("1.50"))
FILTER_VALUES = {
    "region": ("us", "eu", "(other)", "ap"),
    "tier": ("free", "pro", "1", "true", "1.50", "none of these"),
}

# A zone, and a day on which something happens in it.
MOMENTS = (
    ("Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC)),  # an hour is skipped
    ("Europe/Berlin", datetime(2025, 10, 26, tzinfo=UTC)),  # an hour comes twice
    ("America/New_York", datetime(2026, 3, 8, tzinfo=UTC)),
    ("America/New_York", datetime(2025, 11, 2, tzinfo=UTC)),
    ("Asia/Kolkata", datetime(2026, 2, 28, tzinfo=UTC)),  # half past is midnight; a month ends
    ("Australia/Lord_Howe", datetime(2026, 4, 4, tzinfo=UTC)),  # half an hour comes twice
    ("Australia/Lord_Howe", datetime(2025, 10, 4, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, tzinfo=UTC)),  # a day does not exist
    ("Pacific/Chatham", datetime(2026, 4, 4, tzinfo=UTC)),  # clocks change at a quarter to
    ("UTC", datetime(2024, 2, 29, tzinfo=UTC)),
    ("America/New_York", datetime(2025, 12, 31, tzinfo=UTC)),
)
MICROSECOND = timedelta(microseconds=1)
NEIGHBOURS = (
    timedelta(0),
    MICROSECOND,
    -MICROSECOND,
    timedelta(seconds=30),
    timedelta(minutes=-1),
    timedelta(minutes=59, seconds=59, microseconds=999_999),
    timedelta(hours=7, minutes=13),
)


# --- what happens, and what is asked --------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    events: tuple[SentEvent, ...]


@dataclass(frozen=True)
class Void:
    """Take back one of what is stored by then; `pick` chooses, modulo how many there are."""

    pick: int


@dataclass(frozen=True)
class Replace:
    pick: int
    event: SentEvent


@dataclass(frozen=True)
class RollUp:
    pass


@dataclass(frozen=True)
class Prune:
    pass


@dataclass(frozen=True)
class Step:
    """Something that happens, some time after the step before it."""

    pause: timedelta
    act: Send | Void | Replace | RollUp | Prune


@dataclass(frozen=True)
class Question:
    """A read. `as_of` names a step, and how long after it; None: now."""

    kind: str  # usage, breakdown or series
    metric: MeasuredMetric
    start: datetime
    end: datetime
    customer: str | None
    # A value None: events without the dimension.
    filters: dict[str, list[str | None]]
    group_by: tuple[str, ...]
    as_of: tuple[int, timedelta] | None
    granularity: str
    zone: str
    mode: str

    def selection(self) -> dict[str, Any]:
        """Return what every kind of read takes, apart from `customer` and `as_of`."""
        return {"start": self.start, "end": self.end, "filters": self.filters}


@dataclass(frozen=True)
class History:
    begins_at: datetime
    steps: tuple[Step, ...]
    questions: tuple[Question, ...]


# --- strategies -----------------------------------------------------------------------------------------------


def edges_around(zone_name: str, day: datetime) -> list[datetime]:
    """Return the instants around the day at which a bucket of some kind begins."""
    zone = ZoneInfo(zone_name)
    edges = [day + timedelta(days=days) for days in (-31, -30, -29, -8, -2, -1, 0, 1)]
    edges += [day + timedelta(hours=hours) for hours in (-13, -2, 1, 10, 13)]
    edges += [day + timedelta(minutes=minutes) for minutes in (-1, 1, 59, 601)]
    edges += [stretch.start for stretch in look(day - timedelta(days=2), day + timedelta(days=2), "day", zone)[1:]]
    edges += [stretch.start for stretch in look(day - timedelta(days=1), day + timedelta(days=1), "hour", zone)[1:]]
    edges += [stretch.start for stretch in look(day - timedelta(days=64), day, "month", zone)[1:]]
    return edges


EDGES = {moment: edges_around(*moment) for moment in MOMENTS}


def quantities() -> st.SearchStrategy[int | Decimal | str]:
    """Numbers of 1 to 48 digits, as clients may write them."""
    digits = st.text("0123456789", min_size=1, max_size=30)
    fraction = st.one_of(st.just(""), st.text("0123456789", min_size=1, max_size=18).map(".{}".format))
    texts = st.builds("{}{}{}".format, st.sampled_from(["", "-"]), digits, fraction)
    return st.one_of(st.integers(-3, 9), st.integers(-3, 9), texts, texts.map(Decimal))


@st.composite
def events(draw: st.DrawFn, key: str, instants: Sequence[datetime]) -> SentEvent:
    is_seat = draw(st.integers(0, 2)) == 0
    properties: dict[str, Any] = {}
    if region := draw(st.sampled_from([*REGIONS, None])):
        properties["region"] = region
    if tier := draw(st.sampled_from([*TIERS, None])):
        properties["tier"] = tier
    if not is_seat and draw(st.booleans()):
        properties["size"] = draw(quantities())
    has_user = not is_seat and draw(st.booleans())
    if has_user:
        properties["user"] = draw(st.sampled_from(["u1", "u2", 3]))
    own = st.sampled_from(["m1", "m2", "m3", 4]) if is_seat else quantities()
    return SentEvent(
        key=key,
        customer=draw(st.sampled_from(CUSTOMERS)),
        type="seat" if is_seat else "job",
        # Sometimes absent, so that the event feeds only some of the metrics.
        value=draw(own) if draw(st.integers(0, 9)) else None,
        timestamp=draw(st.sampled_from([*instants, None])),
        properties=properties,
        operation=draw(st.sampled_from(["add", "add", "remove"])),
    )


@st.composite
def batches(draw: st.DrawFn, instants: Sequence[datetime], earlier: list[SentEvent]) -> Send:
    """New events, deliveries of earlier ones again, and other events under a key that is taken."""
    batch: list[SentEvent] = []
    for _ in range(draw(st.integers(1, 8))):
        chance = draw(st.integers(0, 9)) if earlier else 0
        if chance == 9:
            again = draw(st.sampled_from(earlier))
            batch.append(replace(again, customer="ann" if again.customer != "ann" else "bob"))
        elif chance >= 7:
            batch.append(draw(st.sampled_from(earlier)))
        else:
            batch.append(draw(events(f"k{len(earlier)}", instants)))
            earlier.append(batch[-1])
    return Send(tuple(batch))


GRANULARITIES = {"month_to_date": ["hour", "day"], "rolling_30d": ["day"]}


@st.composite
def questions(draw: st.DrawFn, zone: str, instants: Sequence[datetime], step_count: int) -> Question:
    metric = draw(st.sampled_from(METRICS))
    keys = [dimension.key for dimension in metric.dimensions]
    first, second = draw(st.sampled_from(instants)), draw(st.sampled_from(instants))
    start, end = min(first, second), max(first, second) + draw(st.sampled_from([MICROSECOND, timedelta(days=1)]))
    granularity = draw(st.sampled_from(["minute", "hour", "day", "week", "month"]))
    if granularity in {"minute", "hour"}:
        end = min(end, start + {"minute": timedelta(hours=2), "hour": timedelta(days=3)}[granularity])
    mode = draw(st.sampled_from(["incremental", "month_to_date", "rolling_30d"]))
    step = st.tuples(st.integers(0, step_count - 1), st.sampled_from([-MICROSECOND, timedelta(0), timedelta(days=9)]))
    return Question(
        kind=draw(st.sampled_from(["usage", "breakdown", "series"])),
        metric=metric,
        start=start,
        end=end,
        customer=draw(st.sampled_from([*CUSTOMERS, None, None])),
        filters={
            key: draw(st.lists(st.sampled_from([*FILTER_VALUES[key], None]), min_size=1, max_size=2, unique=True))
            for key in keys
            if draw(st.integers(0, 2)) == 0
        },
        group_by=tuple(draw(st.permutations([key for key in [*keys, "customer"] if draw(st.booleans())]))),
        as_of=draw(st.one_of(st.none(), st.none(), st.none(), step)),
        granularity=granularity if granularity in GRANULARITIES.get(mode, [granularity]) else "day",
        zone=draw(st.sampled_from([zone, zone, "UTC", "Asia/Kolkata"])),
        mode=mode,
    )


@st.composite
def histories(draw: st.DrawFn, *, question_count: int) -> History:
    moment = draw(st.sampled_from(MOMENTS))
    zone, day = moment
    instants = sorted(
        draw(st.sampled_from(EDGES[moment])) + draw(st.sampled_from(NEIGHBOURS)) for _ in range(draw(st.integers(3, 9)))
    )
    earlier: list[SentEvent] = []
    steps: list[Step] = []
    for _ in range(draw(st.integers(2, 9))):
        pause = draw(st.sampled_from([timedelta(0), timedelta(seconds=1), timedelta(minutes=61), timedelta(days=1)]))
        act: Send | Void | Replace | RollUp | Prune
        match draw(st.sampled_from(["send", "send", "send", "roll up", "roll up", "void", "replace", "prune"])):
            case "send":
                act = draw(batches(instants, earlier))
            case "roll up":
                act = RollUp()
            case "void":
                act = Void(draw(st.integers(0, 50)))
            case "prune":
                act = Prune()
            case _:
                act = Replace(draw(st.integers(0, 50)), draw(events(f"r{len(steps)}", instants)))
        steps.append(Step(pause, act))
    asked = [draw(questions(zone, instants, len(steps))) for _ in range(question_count)]
    return History(day + timedelta(hours=38), tuple(steps), tuple(asked))
