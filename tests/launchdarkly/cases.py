"""The calls that the contract allows, and those that it refuses: generated per endpoint, in the names of the wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise

from tests.launchdarkly.contract import Endpoint
from tests.launchdarkly.oracle import SOURCES, UNKNOWN
from tests.launchdarkly.seed import SentEvent

DAY = timedelta(days=1)
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One call. `path`: the values of the parts of the path, for the endpoints that have such."""

    query: Pairs = ()
    path: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{'&'.join(f'{name}={value}' for name, value in self.query)} {self.path or ''}".strip()


PATHS: dict[str, list[dict[str, str]]] = {
    "evaluations": [
        {"projectKey": "shop", "environmentKey": "production", "featureFlagKey": "new-checkout"},
        {"projectKey": "pay", "environmentKey": "production", "featureFlagKey": "dark.mode"},
    ],
    "events": [{"type": "received"}, {"type": "published"}],
    **{
        name: [{"source": "client"}, {"source": "server"}, {"source": "browser"}]
        for name in ("stream", "stream_usage_by_sdk_version", "stream_usage_sdkversion")
    },
}


def paths_of(endpoint: Endpoint) -> list[dict[str, str]]:
    return PATHS.get(endpoint.id, [{}])


def milliseconds(at: datetime) -> str:
    return str(int(at.timestamp()) * 1000)


def seconds(at: datetime) -> str:
    return str(int(at.timestamp()))


def refuses_unknown_projects(endpoint: Endpoint) -> bool:
    """Tell whether a project that nobody knows is a 404, which only these endpoints document, and not a zero."""
    return endpoint.id == "vega_ai" or endpoint.id.startswith("observability")


# --- ranges -------------------------------------------------------------------------------------------------------


def recent_weeks(now: datetime) -> Pairs:
    """Seven weeks, beginning in the middle of a day and lasting until now."""
    return (("from", milliseconds(now - 49 * DAY - timedelta(hours=5))),)


def around_month_start(now: datetime) -> Pairs:
    """From an evening to a noon, the start of the last full month between them."""
    this_month = datetime(now.year, now.month, 1, tzinfo=UTC)
    month = (this_month - DAY).replace(day=1)
    return ("from", milliseconds(month - timedelta(hours=20))), ("to", milliseconds(month + timedelta(hours=12)))


def long_past_year(now: datetime) -> Pairs:
    """The longest range that every endpoint takes, ended in the past."""
    end = now - 30 * DAY
    return ("from", milliseconds(end - 365 * DAY)), ("to", milliseconds(end))


def range_for(granularity: str, now: datetime) -> Pairs:
    of = {"hourly": around_month_start, "daily": recent_weeks, "monthly": long_past_year}
    return of[granularity](now)


def ranges_by_age(now: datetime) -> list[tuple[Pairs, timedelta]]:
    """Return ranges either side of two hours and of two days, open and ended, with the width of their buckets."""
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    widths = {110 * minute: minute, 130 * minute: hour, 47 * hour: hour, 50 * hour: DAY, 12 * DAY: DAY, 90 * DAY: DAY}
    ranges: list[tuple[Pairs, timedelta]] = []
    for age, width in widths.items():
        start = ("from", milliseconds(now - age))
        ranges += [((start,), width), ((start, ("to", milliseconds(now - age / 3))), width)]
    return ranges


# --- what is allowed ----------------------------------------------------------------------------------------------


def aggregations(endpoint: Endpoint, now: datetime) -> Iterator[Case]:
    """Every aggregation at every granularity, in a range of its own and in the default one."""
    takes_granularity = "granularity" in endpoint.parameters
    for aggregation, granularity in endpoint.combinations:
        query: Pairs = (("aggregationType", aggregation),)
        query += (("granularity", granularity),) if takes_granularity else ()
        yield Case((*range_for(granularity, now), *query))
        yield Case(query)


def groupings(endpoint: Endpoint, now: datetime, turn: int) -> Iterator[Case]:
    """Every group alone, every pair, and some threes; as a list and as repeated parameters, by turns.

    The aggregations take turns too: over as many turns as there are, every grouping has had each.
    """
    assert endpoint.group_by is not None
    several: list[tuple[str, ...]] = [(group,) for group in endpoint.all_groups]
    several += combinations(endpoint.all_groups, 2)
    several += zip(endpoint.all_groups, endpoint.all_groups[1:], endpoint.all_groups[2:], strict=False)
    names = list(endpoint.aggregations)
    for number, groups in enumerate(several, start=turn):
        query = (*recent_weeks(now), ("aggregationType", names[number % len(names)]))
        if number % 2:
            yield Case((*query, (endpoint.group_by, ",".join(groups))))
        else:
            yield Case((*query, *((endpoint.group_by, group) for group in groups)))


def filterings(endpoint: Endpoint, now: datetime, events: Sequence[SentEvent]) -> Iterator[Case]:
    """Every filter with one value, with none that occurs, with the missing one, repeated; then two filters together."""
    source = SOURCES[endpoint.id]
    of_type = [event for event in events if event.type == source.type]
    alone: list[Pairs] = []
    for name in endpoint.filters:
        property = source.filters.get(name, name)
        counted = Counter(event.properties[property] for event in of_type if property in event.properties)
        common = [value for value, _ in counted.most_common(2)]
        # Environments go with exactly one project.
        context: Pairs = ((name.replace("environment", "project"), "shop"),) if name.startswith("environment") else ()
        alone.append((*context, (name, common[0])))
        yield Case((*recent_weeks(now), *alone[-1]))
        yield Case((*recent_weeks(now), *context, (name, UNKNOWN)))
        if name not in endpoint.choices and not refuses_unknown_projects(endpoint):
            yield Case((*recent_weeks(now), *context, (name, "nobody / says? this&that")))
        if name in endpoint.repeatable or name in endpoint.new_in_25.get("parameters", {}):
            yield Case((*recent_weeks(now), *context, *((name, value) for value in common)))
            yield Case((*recent_weeks(now), *context, (name, common[-1]), (name, UNKNOWN)))
    for first, second in pairwise(alone):
        if not {name for name, _ in first} & {name for name, _ in second}:
            yield Case((*recent_weeks(now), *first, *second))


# --- what is refused ----------------------------------------------------------------------------------------------


def malformed(endpoint: Endpoint, now: datetime) -> Iterator[Case]:
    """Every kind of request that is wrong in itself: 400."""
    yield Case((("color", "red"),))
    if "from" in endpoint.parameters:
        yield from _malformed_ranges(endpoint, now)
    if "tz" in endpoint.parameters:
        yield Case((("tz", "Mars/Olympus"),))
        yield Case((("tz", ""),))
    if endpoint.group_by is not None:
        first = endpoint.groups[0]
        for groups in ("flavor", f"{first},flavor", first.upper(), "", f"{first},"):
            yield Case(((endpoint.group_by, groups),))
    for name, values in endpoint.choices.items():
        if name not in endpoint.path_parameters:
            yield Case(((name, "neither"),))
            yield Case(((name, values[0].upper()),))
            yield Case(((name, ""),))
    for project, environment in (("projectKey", "environmentKey"), ("project", "environment")):
        if environment in endpoint.filters:
            yield Case(((environment, "production"),))
            yield Case(((project, "shop"), (project, "pay"), (environment, "production")))
    yield from _malformed_aggregations(endpoint)


def _malformed_ranges(endpoint: Endpoint, now: datetime) -> Iterator[Case]:
    for text in ("yesterday", "", "1.5", "-5", "1e12", "0x10", "NaN", "٣", "9" * 40):
        yield Case((("from", text),))
        yield Case((("to", text),))
    at = milliseconds(now - DAY)
    yield Case((("from", at), ("to", at)))
    yield Case((("from", at), ("to", milliseconds(now - 2 * DAY))))
    yield Case((("from", milliseconds(now + 2 * DAY)),))
    yield Case((("from", at), ("from", at)))
    if endpoint.longest_days is not None:
        start = now - (endpoint.longest_days + 1) * DAY
        yield Case((("from", milliseconds(start)),))
        yield Case((("from", seconds(start)), ("to", seconds(now))))


def _malformed_aggregations(endpoint: Endpoint) -> Iterator[Case]:
    if "aggregationType" not in endpoint.parameters:
        return
    for name in ("weekly", "", "MONTH_TO_DATE"):
        yield Case((("aggregationType", name),))
    if "granularity" not in endpoint.parameters:
        return
    for name in ("yearly", "", "Daily", "minutely"):
        yield Case((("granularity", name),))
    valid = endpoint.combinations
    for aggregation in {aggregation for aggregation, _ in valid}:
        for granularity in ("hourly", "monthly"):
            if (aggregation, granularity) not in valid:
                yield Case((("aggregationType", aggregation), ("granularity", granularity)))


def absent(endpoint: Endpoint) -> Iterator[Case]:
    """Every resource that does not exist: 404. Each differs from one that does in a single word."""
    for path in paths_of(endpoint)[:1]:
        for name in path:
            yield Case(path={**path, name: "nothing"})
            yield Case(path={**path, name: "a/b c"})
    if refuses_unknown_projects(endpoint):
        yield Case((("projectKey", "nothing"),))
