"""What every endpoint should answer, counted from the list of events that was sent, and from nothing else.

Shares no code with the application: no SQL, no rollups, no bitmaps, no calendar functions of its own making. Every
point of every column looks at the events again. Follows the vendor's contract, and where that is silent the rules in
`docs/launchdarkly.md`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cached_property
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tests.launchdarkly.contract import Endpoint
from tests.launchdarkly.seed import SentEvent

UNKNOWN = "Unknown"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
# Smaller timestamps are seconds, others milliseconds.
FIRST_MILLISECONDS = 10**11

Query = Sequence[tuple[str, str]]
Number = int | float
# The names and values of a column's `metadata`.
Column = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Which events an endpoint counts, and how its words translate to their properties.

    `projectId` and `environmentId` stand for the ids of the keys. `counts`: "amounts", "keys", or "keys of each
    experiment".
    """

    type: str
    counts: str = "amounts"
    fixed: Mapping[str, str] = field(default_factory=dict)
    # Path and query parameters by property, where the two are not called the same.
    filters: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    # Always the last of the grouping; by the name in `metadata`.
    always: Mapping[str, str] = field(default_factory=dict)
    # Only the kind of contexts that the month is measured by.
    is_of_primary_kind: bool = False
    # The columns of `always`, used or not; empty: those that something was counted in.
    columns: tuple[str, ...] = ()
    # Of an endpoint that has no parameter for it.
    aggregation: str = "incremental"


_IDS = {"projectId": "projectId", "environmentId": "environmentId", "anonymousV2": "anonymous"}
_BY_KIND = {"contextKind": "contextKind"}
_MAU_NAMES = {"project": "projectKey", "environment": "environmentKey", "sdktype": "sdkType", "sdk": "sdkName"}

SOURCES: dict[str, Source] = {
    "contexts_clientside": Source("ld_contexts", "keys", {"sdkType": "client"}, groups=_IDS, always=_BY_KIND),
    "contexts_serverside": Source("ld_contexts", "keys", {"sdkType": "server"}, groups=_IDS, always=_BY_KIND),
    "contexts_total": Source("ld_contexts", "keys", groups=_IDS, always=_BY_KIND),
    "mau_clientside": Source("ld_contexts", "keys", {"sdkType": "client"}, groups=_IDS, is_of_primary_kind=True),
    "mau_total": Source("ld_contexts", "keys", groups=_IDS, is_of_primary_kind=True),
    "mau": Source(
        "ld_contexts",
        "keys",
        filters=_MAU_NAMES,
        groups={**_MAU_NAMES, "project": "projectId", "environment": "environmentId"},
    ),
    "mau_usage_by_category": Source(
        "ld_contexts",
        "keys",
        always={"category": "category"},
        is_of_primary_kind=True,
        columns=("backend", "browser", "mobile"),
        aggregation="rolling_30d",
    ),
    "data_export_events": Source("ld_data_export_events", groups=_IDS),
    "experimentation_events": Source("ld_experimentation_events", groups=_IDS),
    "experimentation_keys": Source("ld_experimentation_keys", "keys of each experiment", groups=_IDS),
    "service_connections": Source("ld_service_connection_minutes", groups=_IDS),
    "evaluations": Source("ld_evaluations", filters={"featureFlagKey": "flagKey"}, always={"variation": "variation"}),
    "events": Source("ld_events", filters={"type": "direction"}),
    "stream": Source("ld_streams"),
    "stream_usage_by_sdk_version": Source(
        "ld_streams",
        filters={"sdk": "sdkName", "version": "sdkVersion"},
        always={"sdk": "sdkName", "version": "sdkVersion", "source": "source"},
    ),
    **{
        f"observability_{name}": Source(f"ld_observability_{name}")
        for name in ("errors", "logs", "metrics", "sessions", "traces")
    },
    "vega_ai": Source("ld_vega_ai"),
}


class Span(NamedTuple):
    """The half-open time of one bucket."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids by which reports name projects, and environments by the keys of project and environment."""

    projects: Mapping[str, str]
    environments: Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Report:
    """A series as a table: the start of every bucket in milliseconds, and the numbers of every column."""

    times: list[int]
    columns: dict[Column, list[Number]]


class Oracle:
    def __init__(self, events: Iterable[SentEvent], ids: Ids) -> None:
        self._ids = ids
        self._events: dict[str, list[SentEvent]] = defaultdict(list)
        for event in sorted(events, key=attrgetter("at")):
            self._events[event.type].append(event)

    def of_customer(self, customer: str) -> Oracle:
        every = [event for events in self._events.values() for event in events]
        return Oracle([event for event in every if event.customer == customer], self._ids)

    # --- series ---

    def report(self, endpoint: Endpoint, query: Query, path_values: Mapping[str, str], now: datetime) -> Report:
        source = SOURCES[endpoint.id]
        sent = _values_by_name([*path_values.items(), *query])
        if endpoint.id == "mau":
            sent.setdefault("contextKind", ["user"])
        span = _range_of(endpoint, sent, now)
        zone = ZoneInfo(sent.get("tz", ["UTC"])[0])
        granularity = _granularity_of(endpoint, sent, span, now)
        aggregation = sent.get("aggregationType", [endpoint.default_aggregation or source.aggregation])[0]
        buckets = [
            bucket
            for bucket in _list_buckets(span, granularity, zone)
            if bucket.start < span.end and bucket.start <= now
        ]
        names = self._names_of_groups(endpoint, source, sent)
        groups = self._split(self._select(endpoint, source, sent), names, source)
        columns = {
            group: [
                _measure(counted, bucket, aggregation, source.counts, now)
                for bucket, counted in zip(buckets, self._list_counted(events, buckets, source), strict=True)
            ]
            for group, events in groups.items()
        }
        # A column in which nothing was counted is left out, where there could be any number of columns.
        shown = {
            group: values for group, values in sorted(columns.items()) if any(values) or not names or source.columns
        }
        return Report([_milliseconds(bucket.start) for bucket in buckets], shown)

    def _select(self, endpoint: Endpoint, source: Source, sent: Mapping[str, list[str]]) -> list[SentEvent]:
        wanted = {name: [value] for name, value in source.fixed.items()}
        for name in [*endpoint.path_parameters, *endpoint.filters]:
            if name in sent:
                wanted[source.filters.get(name, name)] = sent[name]
        return [
            event
            for event in self._events[source.type]
            if all(event.properties.get(name, UNKNOWN) in values for name, values in wanted.items())
        ]

    def _names_of_groups(
        self, endpoint: Endpoint, source: Source, sent: Mapping[str, list[str]]
    ) -> list[tuple[str, str]]:
        """Return the name in `metadata` and the property of every grouping, in the order of the request."""
        asked = [name for value in sent.get(endpoint.group_by or "", []) for name in value.split(",")]
        named = [(name, source.groups.get(name, name)) for name in dict.fromkeys(asked)]
        return named + list(source.always.items())

    def _split(
        self, events: Iterable[SentEvent], names: Sequence[tuple[str, str]], source: Source
    ) -> dict[Column, list[SentEvent]]:
        columns: dict[Column, list[SentEvent]] = defaultdict(list)
        if not names:
            columns[()] = []
        for value in source.columns:
            columns[(("category", value),)] = []
        for event in events:
            column = tuple((name, self._value_of(event, property)) for name, property in names)
            if not source.columns or column in columns:
                columns[column].append(event)
        return columns

    def _value_of(self, event: SentEvent, property: str) -> str:
        project, environment = event.properties.get("projectKey"), event.properties.get("environmentKey")
        if property == "projectId":
            return UNKNOWN if project is None else self._ids.projects[project]
        if property == "environmentId":
            return UNKNOWN if project is None or environment is None else self._ids.environments[project, environment]
        return event.properties.get(property, UNKNOWN)

    # --- the primary kind ---

    def _list_counted(self, events: list[SentEvent], buckets: Sequence[Span], source: Source) -> list[list[SentEvent]]:
        """Return for every bucket the events that may count in it: where it matters, those of its month's kind."""
        if not source.is_of_primary_kind:
            return [events] * len(buckets)
        by_kind: dict[str, list[SentEvent]] = defaultdict(list)
        for event in events:
            by_kind[event.properties.get("contextKind", UNKNOWN)].append(event)
        return [by_kind[self._primary_kinds[_month_of(bucket.start)]] for bucket in buckets]

    @cached_property
    def _primary_kinds(self) -> Mapping[datetime, str]:
        """Return every month's kind with the most keys from client-side SDKs; `user`, then the alphabet, break ties."""
        keys: dict[datetime, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for event in self._events["ld_contexts"]:
            if event.properties.get("sdkType") == "client":
                kind = event.properties.get("contextKind", UNKNOWN)
                keys[_month_of(event.at)][kind].add(event.properties["contextKey"])
        kinds = {
            month: min(of_month, key=lambda kind: (-len(of_month[kind]), kind != "user", kind))
            for month, of_month in keys.items()
        }
        return defaultdict(lambda: "user", kinds)

    # --- lists ---

    def list_sdks(self, endpoint: Endpoint, query: Query, now: datetime) -> list[str]:
        sent = _values_by_name(query)
        span = _range_of(endpoint, sent, now)
        types = sent.get("sdktype")
        start = span.start - (span.start - EPOCH) % DAY  # days count whole
        events = _between(self._events["ld_contexts"], start, span.end)
        return sorted(
            {
                event.properties.get("sdkName", UNKNOWN)
                for event in events
                if _is_in(event.properties.get("sdkType"), types)
            }
        )

    def list_sdk_versions(self, source: str, now: datetime) -> list[dict[str, str]]:
        start = now - 60 * DAY - (now - EPOCH) % DAY
        pairs = {
            (event.properties.get("sdkName", UNKNOWN), event.properties.get("sdkVersion", UNKNOWN))
            for event in self._events["ld_streams"]
            if event.properties["source"] == source and event.at >= start
        }
        return [{"sdk": sdk, "version": version} for sdk, version in sorted(pairs)]


def _is_in(value: str | None, wanted: list[str] | None) -> bool:
    return wanted is None or value in wanted


def _values_by_name(pairs: Query) -> dict[str, list[str]]:
    values: dict[str, list[str]] = defaultdict(list)
    for name, value in pairs:
        values[name].append(value)
    return values


# --- counting -----------------------------------------------------------------------------------------------------


def _add_up(events: Iterable[SentEvent]) -> Number:
    total = sum((event.value for event in events if event.value is not None), Decimal(0))
    return int(total) if total == int(total) else float(total)


def _count_keys(events: Iterable[SentEvent]) -> int:
    return len({event.properties["contextKey"] for event in events})


def _count_keys_of_each_experiment(events: Iterable[SentEvent]) -> int:
    return len({(event.properties.get("experimentId"), event.properties["contextKey"]) for event in events})


_COUNTS: dict[str, Callable[[Iterable[SentEvent]], Number]] = {
    "amounts": _add_up,
    "keys": _count_keys,
    "keys of each experiment": _count_keys_of_each_experiment,
}


def _measure(events: list[SentEvent], bucket: Span, aggregation: str, counts: str, now: datetime) -> Number:
    count, month = _COUNTS[counts], _month_of(bucket.start)
    if aggregation == "month_to_date":
        return count(_between(events, month, bucket.end))
    if aggregation == "rolling_30d":
        return count(_between(events, bucket.end - 30 * DAY, bucket.end))
    if aggregation == "average":
        amount = Decimal(count(_between(events, bucket.start, bucket.end)))
        hours = -((bucket.start - min(bucket.end, now)) // HOUR)
        return int((amount / hours).quantize(Decimal(1), ROUND_HALF_EVEN))
    if counts == "amounts":
        return count(_between(events, bucket.start, bucket.end))
    # Keys that the month had not seen before.
    return count(_between(events, month, bucket.end)) - count(_between(events, month, bucket.start))


def _between(events: list[SentEvent], start: datetime, end: datetime) -> list[SentEvent]:
    """Return those of `[start, end)`; the list is in the order of time."""
    return events[bisect_left(events, start, key=attrgetter("at")) : bisect_left(events, end, key=attrgetter("at"))]


# --- time ---------------------------------------------------------------------------------------------------------


def _range_of(endpoint: Endpoint, sent: Mapping[str, list[str]], now: datetime) -> Span:
    default = {
        "month": _month_of(now),
        "30d": now - 30 * DAY,
        "24h": now - 24 * HOUR,
        "7d": now - 7 * DAY,
    }[endpoint.default_range or "30d"]
    start = _moment(sent["from"][0]) if "from" in sent else default
    return Span(start, _moment(sent["to"][0]) if "to" in sent else now)


def _moment(text: str) -> datetime:
    number = int(text)
    milliseconds = number if number >= FIRST_MILLISECONDS else number * 1000
    return EPOCH + timedelta(milliseconds=milliseconds)


def _milliseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(milliseconds=1)


def _granularity_of(endpoint: Endpoint, sent: Mapping[str, list[str]], span: Span, now: datetime) -> str:
    if endpoint.aggregations or endpoint.id == "mau_usage_by_category":
        return sent.get("granularity", ["daily"])[0]
    if span.start >= now - 2 * HOUR:
        return "minutely"
    return "hourly" if span.start >= now - 2 * DAY else "daily"


def _list_buckets(span: Span, granularity: str, zone: ZoneInfo) -> list[Span]:
    if granularity == "monthly":
        edges = [_month_of(span.start)]
        while edges[-1] < span.end:
            edges.append(_month_of(edges[-1] + 31 * DAY))
    elif granularity == "daily":
        day = span.start.astimezone(zone).date()
        edges = []
        while not edges or edges[-1] < span.end:
            edges.append(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC))
            day += DAY
    else:
        step = HOUR if granularity == "hourly" else MINUTE
        edges = [span.start - (span.start - EPOCH) % step]
        while edges[-1] < span.end:
            edges.append(edges[-1] + step)
    return [Span(start, end) for start, end in pairwise(edges)]


def _month_of(at: datetime) -> datetime:
    return datetime(at.year, at.month, 1, tzinfo=UTC)
