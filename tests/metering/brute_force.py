"""A naive count of usage from the list of what was sent, written from the contract and not from the code.

Shares nothing with the application: no SQL, no rollups, no sets, no calendar functions of its own making. Every read
looks at every event again, quantities are `Fraction`s, and a local bucket is whatever a clock on the wall of its
zone shows as one day, week, month or hour. Slow on purpose; what it answers is what is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

FUTURE_ALLOWED = timedelta(minutes=5)
ROLLING_DAYS = 30
# The clocks of every zone that the tests use change on a quarter of an hour, so a look every quarter misses nothing.
LOOK_EVERY = timedelta(minutes=15)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Filters = Mapping[str, Sequence[str | None]]
Group = tuple[str | None, ...]


# --- what is measured, and what was sent ----------------------------------------------------------------------


@dataclass(frozen=True)
class Dimension:
    key: str
    # None: any value; else every other value is "(other)".
    values: tuple[str, ...] | None = None


@dataclass(frozen=True)
class MeasuredMetric:
    """A metric as somebody reading the contract would note it down."""

    code: str
    aggregation: str
    event_type: str
    value_property: str | None = None
    dimensions: tuple[Dimension, ...] = ()


@dataclass(frozen=True)
class SentEvent:
    """One event as a client sends it. Numbers are ints, `Decimal`s or decimal strings; absent fields are None."""

    key: str
    customer: str
    type: str
    value: int | Decimal | str | None = None
    timestamp: datetime | None = None
    properties: Mapping[str, str | int | bool | Decimal] = field(default_factory=dict)
    operation: str = "add"


@dataclass
class KnownEvent:
    """A stored event: when it happened, its place in the order of arrival, and from when until when it was known."""

    sent: SentEvent
    at: datetime
    arrival: int
    known_from: datetime
    voided_at: datetime | None = None


class Numbers(NamedTuple):
    """What a read answers. `value` is the metric's own aggregation; None stands for "there is none"."""

    value: Fraction
    count: int
    sum: Fraction | None
    min: Fraction | None
    max: Fraction | None
    unique: int | None
    last_value: Fraction | None
    last_event_at: datetime | None


class Bucket(NamedTuple):
    start: datetime
    end: datetime


class Point(NamedTuple):
    start: datetime
    value: Fraction
    is_partial: bool


# --- the ledger -----------------------------------------------------------------------------------------------


class BruteForce:
    """Everything that one organization was told, and every answer that follows from it."""

    def __init__(self, metrics: Iterable[MeasuredMetric]) -> None:
        self.metrics = tuple(metrics)
        self.known: dict[str, KnownEvent] = {}
        # Types whose own value is a member, which a plain count beside it does not take for a number.
        self.member_types = {
            metric.event_type
            for metric in self.metrics
            if metric.aggregation == "count_unique" and metric.value_property is None
        }

    def send(self, events: Iterable[SentEvent], *, now: datetime) -> list[str]:
        """Take in a batch and return each event's verdict: stored, duplicate, or the code of its refusal."""
        return [self._send(event, now) for event in events]

    def void(self, key: str, *, now: datetime) -> None:
        assert self.known[key].voided_at is None
        self.known[key].voided_at = now

    def _send(self, event: SentEvent, now: datetime) -> str:
        if event.timestamp is not None and event.timestamp > now + FUTURE_ALLOWED:
            return "timestamp_in_future"
        if not any(is_fed(metric, event) for metric in self.metrics):
            return "value_required"
        earlier = self.known.get(event.key)
        if earlier is not None:
            return "duplicate" if earlier.sent == event else "conflict"
        at = now if event.timestamp is None else event.timestamp
        self.known[event.key] = KnownEvent(event, at, len(self.known), now)
        return "stored"

    # --- reads ---

    def usage(
        self,
        metric: MeasuredMetric,
        start: datetime,
        end: datetime,
        *,
        customer: str | None = None,
        filters: Filters | None = None,
        as_of: datetime | None = None,
    ) -> Numbers:
        return self._count(metric, self._matching(metric, start, end, customer, filters or {}, as_of))

    def breakdown(
        self,
        metric: MeasuredMetric,
        start: datetime,
        end: datetime,
        *,
        group_by: Sequence[str],
        customer: str | None = None,
        filters: Filters | None = None,
        as_of: datetime | None = None,
    ) -> dict[Group, Numbers]:
        """Return the numbers of every group that has events."""
        events = self._matching(metric, start, end, customer, filters or {}, as_of)
        return {group: self._count(metric, members) for group, members in split(metric, events, group_by).items()}

    def series(
        self,
        metric: MeasuredMetric,
        start: datetime,
        end: datetime,
        *,
        granularity: str,
        zone: str,
        now: datetime,
        mode: str = "incremental",
        group_by: Sequence[str] = (),
        customer: str | None = None,
        filters: Filters | None = None,
        as_of: datetime | None = None,
    ) -> dict[Group, list[Point]]:
        """Return dense points per group; without grouping there is one line, be it all zeros."""
        buckets = list_buckets(start, end, granularity, ZoneInfo(zone))
        windows = [window_of(bucket, start, end, mode, ZoneInfo(zone)) for bucket in buckets]
        reach = min(window.start for window in windows)
        events = self._matching(metric, reach, end, customer, filters or {}, as_of)
        groups = split(metric, events, group_by) or ({} if group_by else {(): []})
        return {
            group: [
                Point(
                    bucket.start,
                    self._count(metric, [event for event in members if window.start <= event.at < window.end]).value,
                    bucket.end > min(end, now) or (mode == "incremental" and bucket.start < start),
                )
                for bucket, window in zip(buckets, windows, strict=True)
            ]
            for group, members in groups.items()
        }

    def list_keys(
        self, metric: MeasuredMetric, start: datetime, end: datetime, *, customer: str | None, as_of: datetime | None
    ) -> list[str]:
        """Return the keys of the events that count, in the order of arrival."""
        events = self._matching(metric, start, end, customer, {}, as_of)
        return [event.sent.key for event in sorted(events, key=lambda event: event.arrival)]

    def _matching(
        self,
        metric: MeasuredMetric,
        start: datetime,
        end: datetime,
        customer: str | None,
        filters: Filters,
        as_of: datetime | None,
    ) -> list[KnownEvent]:
        return [
            event
            for event in self.known.values()
            if is_fed(metric, event.sent)
            and start <= event.at < end
            and customer in (None, event.sent.customer)
            and all(dimension_of(metric, event.sent, key) in values for key, values in filters.items())
            and is_known(event, as_of)
        ]

    # --- counting ---

    def _count(self, metric: MeasuredMetric, events: Sequence[KnownEvent]) -> Numbers:
        ordered = sorted(events, key=lambda event: (event.at, event.arrival))
        quantities = [found for event in ordered if (found := self._quantity(metric, event.sent)) is not None]
        present = members_present(metric, ordered) if metric.aggregation == "count_unique" else None
        return Numbers(
            value=self._own_aggregation(metric, ordered),
            count=len(ordered),
            sum=sum(quantities, Fraction(0)) if quantities else None,
            min=min(quantities, default=None),
            max=max(quantities, default=None),
            unique=None if present is None else len(present),
            last_value=quantities[-1] if quantities else None,
            last_event_at=ordered[-1].at if ordered else None,
        )

    def _own_aggregation(self, metric: MeasuredMetric, ordered: Sequence[KnownEvent]) -> Fraction:
        """Aggregate as the metric says; what does not add up is taken per customer first, then summed."""
        if metric.aggregation == "count":
            return Fraction(len(ordered))
        if metric.aggregation == "count_unique":
            return Fraction(len(members_present(metric, ordered)))
        per_customer: dict[str, list[Fraction]] = {}
        for event in ordered:
            found = self._quantity(metric, event.sent)
            assert found is not None  # only count_unique has none
            per_customer.setdefault(event.sent.customer, []).append(found)
        of_one = {"sum": sum, "max": max, "min": min, "latest": lambda found: found[-1]}[metric.aggregation]
        return sum((Fraction(of_one(found)) for found in per_customer.values()), Fraction(0))

    def _quantity(self, metric: MeasuredMetric, event: SentEvent) -> Fraction | None:
        """Return the number that the metric aggregates; a plain count takes an event without a number for one."""
        if metric.aggregation == "count_unique":
            return None
        if metric.aggregation == "count" and (metric.value_property or event.value is None):
            return Fraction(1)
        if metric.aggregation == "count" and event.type in self.member_types:
            return Fraction(1)
        found = event.value if metric.value_property is None else event.properties[metric.value_property]
        assert found is not None  # the metric is fed
        return Fraction(found)


# --- one event and one metric ---------------------------------------------------------------------------------


def is_known(event: KnownEvent, as_of: datetime | None) -> bool:
    if as_of is None:
        return event.voided_at is None
    return event.known_from <= as_of and (event.voided_at is None or as_of < event.voided_at)


def is_fed(metric: MeasuredMetric, event: SentEvent) -> bool:
    """Tell whether the event counts in the metric: it listens to the type, and finds the value that it aggregates."""
    if event.type != metric.event_type:
        return False
    if metric.value_property is not None:
        return metric.value_property in event.properties
    return metric.aggregation == "count" or event.value is not None


def member_of(metric: MeasuredMetric, event: SentEvent) -> str:
    return str(event.value if metric.value_property is None else event.properties[metric.value_property])


def dimension_of(metric: MeasuredMetric, event: SentEvent, key: str) -> str | None:
    """Return the text under which the event groups: as JSON writes it, `(other)` if not listed, None if absent."""
    if key not in event.properties:
        return None
    found = event.properties[key]
    text = str(found).lower() if isinstance(found, bool) else str(found)
    listed = next(dimension.values for dimension in metric.dimensions if dimension.key == key)
    return text if listed is None or text in listed else "(other)"


# --- groups and members ---------------------------------------------------------------------------------------


def split(
    metric: MeasuredMetric, events: Iterable[KnownEvent], group_by: Sequence[str]
) -> dict[Group, list[KnownEvent]]:
    groups: dict[Group, list[KnownEvent]] = {}
    for event in events:
        group = tuple(
            event.sent.customer if key == "customer" else dimension_of(metric, event.sent, key) for key in group_by
        )
        groups.setdefault(group, []).append(event)
    return groups


def members_present(metric: MeasuredMetric, ordered: Sequence[KnownEvent]) -> set[str]:
    """Return the members that any customer has: those whose last operation with that customer is an add."""
    last: dict[tuple[str, str], str] = {}
    for event in ordered:
        last[event.sent.customer, member_of(metric, event.sent)] = event.sent.operation
    return {member for (_, member), operation in last.items() if operation == "add"}


# --- the clock on the wall ------------------------------------------------------------------------------------


def list_buckets(start: datetime, end: datetime, granularity: str, zone: ZoneInfo) -> list[Bucket]:
    """Return the aligned buckets that overlap `[start, end)`: the stretches in which the clock shows one label."""
    if granularity == "minute":
        first = start.replace(second=0, microsecond=0)
        minutes = range(-((first - end) // timedelta(minutes=1)))
        return [Bucket(first + timedelta(minutes=place), first + timedelta(minutes=place + 1)) for place in minutes]
    margin = {"hour": timedelta(hours=3), "day": timedelta(days=3), "week": timedelta(days=9)}.get(
        granularity, timedelta(days=33)
    )
    stretches = look(start - margin, end + margin, granularity, zone)
    return [stretch for stretch in stretches if stretch.start < end and stretch.end > start]


def window_of(bucket: Bucket, start: datetime, end: datetime, mode: str, zone: ZoneInfo) -> Bucket:
    """Return which time a point covers: its bucket, its month so far, or the thirty days that end with it."""
    until = min(bucket.end, end)
    if mode == "incremental":
        return Bucket(max(bucket.start, start), until)
    if mode == "month_to_date":
        months = look(bucket.start - timedelta(days=33), bucket.end, "month", zone)
        return Bucket(next(month.start for month in months if month.start <= bucket.start < month.end), until)
    days = look(bucket.start - timedelta(days=ROLLING_DAYS + 3), bucket.end, "day", zone)
    place = next(place for place, day in enumerate(days) if day.start == bucket.start)
    return Bucket(days[place - ROLLING_DAYS + 1].start, until)


def look(start: datetime, end: datetime, granularity: str, zone: ZoneInfo) -> list[Bucket]:
    """Look at the clock every quarter of an hour, and return the stretches of one label. The outer two may be cut."""
    at = EPOCH + (start - EPOCH) // LOOK_EVERY * LOOK_EVERY
    edges: list[datetime] = []
    shown: Any = None
    while at < end:
        label = label_of(at, granularity, zone)
        if label != shown:
            edges.append(at)
            shown = label
        at += LOOK_EVERY
    return [Bucket(first, second) for first, second in zip(edges, [*edges[1:], at], strict=True)]


def label_of(at: datetime, granularity: str, zone: ZoneInfo) -> Any:
    local = at.astimezone(zone)
    return {
        "hour": (local.date(), local.hour, local.utcoffset()),
        "day": local.date(),
        "week": local.isocalendar()[:2],
        "month": (local.year, local.month),
    }[granularity]
