"""From a query string to a request whose every part is known to be good, or to the refusal that says what is not.

Knows the table and the calendar; reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from django.http import QueryDict

from accounts.models import known_zones
from common.errors import BadRequest, NotFound
from common.times import EPOCH
from metering.domain import Granularity, Span, calendar_period
from metering.queries.usage import CALENDAR_END
from usage_reports.launchdarkly.endpoints import (
    GRANULARITIES,
    UNKNOWN,
    AggregationType,
    Choice,
    Endpoint,
    Filter,
    Group,
)

# The years that can be meant: below it a number counts seconds, from it on milliseconds.
FIRST_MILLISECONDS: Final = 10**11
MAX_DIGITS = 20
MAX_SHOWN_CHARACTERS = 100
MICROSECOND = timedelta(microseconds=1)
# A caller's "two hours ago" is a little older by the time it arrives.
LEEWAY = timedelta(minutes=1)
MINUTELY_FOR, HOURLY_FOR = timedelta(hours=2), timedelta(days=2)
UTC_ZONE = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """One valid request. `filters` are by dimension; None among their values finds events without one."""

    endpoint: Endpoint
    now: datetime
    span: Span
    zone: ZoneInfo
    aggregation: AggregationType
    granularity: Granularity
    filters: dict[str, list[str | None]]
    # As asked for, then those that the endpoint always splits by.
    groups: tuple[Group, ...]


def read_request(endpoint: Endpoint, *, path: Mapping[str, str], parameters: QueryDict, now: datetime) -> ReportRequest:
    """Return the request. Raises `NotFound` for a part of the path that names nothing, `BadRequest` for the rest."""
    filters = _read_path(endpoint, path)
    _refuse_unknown_names(endpoint, parameters)
    filters |= _read_filters(endpoint, parameters)
    _require_one_project(endpoint, parameters)
    span = _read_span(endpoint, parameters, now)
    choice = _read_choice(endpoint, parameters)
    granularity = _read_granularity(choice, parameters) if choice else granularity_by_age(span, now)
    zone = _read_zone(parameters)
    return ReportRequest(
        endpoint=endpoint,
        now=now,
        span=span,
        zone=zone if granularity == Granularity.DAY else UTC_ZONE,
        aggregation=choice.type if choice else AggregationType.INCREMENTAL,
        granularity=granularity,
        filters=filters,
        groups=(*_read_groups(endpoint, parameters), *endpoint.always_grouped_by),
    )


def granularity_by_age(span: Span, now: datetime) -> Granularity:
    age = now - span.start - LEEWAY
    if age <= MINUTELY_FOR:
        return Granularity.MINUTE
    return Granularity.HOUR if age <= HOURLY_FOR else Granularity.DAY


# --- names and filters ----------------------------------------------------------------------------------------


def list_parameters(endpoint: Endpoint) -> list[str]:
    """Return the names of all query parameters that the endpoint takes."""
    names = [] if endpoint.range.is_fixed else ["from", "to"]
    names += ["tz"] if endpoint.range.has_zone else []
    names += [entry.parameter for entry in endpoint.filters]
    names += [endpoint.group_parameter] if endpoint.groups else []
    names += ["aggregationType"] if endpoint.has_aggregation_parameter else []
    names += ["granularity"] if endpoint.has_granularity_parameter else []
    return names


def _refuse_unknown_names(endpoint: Endpoint, parameters: QueryDict) -> None:
    known = list_parameters(endpoint)
    for name in parameters:
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none"
            raise BadRequest(f"Unknown parameter: {_shown(name)}. This endpoint {takes}.")


def _read_path(endpoint: Endpoint, path: Mapping[str, str]) -> dict[str, list[str | None]]:
    filters: dict[str, list[str | None]] = {name: [value] for name, value in endpoint.fixed.items()}
    for entry in endpoint.path_filters:
        value = path[entry.parameter]
        if "\x00" in value or (entry.choices and value not in entry.choices):
            raise NotFound(f"There is no such {entry.parameter}: {_shown(value)}.")
        filters[entry.dimension] = [value]
    return filters


def _read_filters(endpoint: Endpoint, parameters: QueryDict) -> dict[str, list[str | None]]:
    filters: dict[str, list[str | None]] = {}
    for entry in endpoint.filters:
        values = _read_values(entry, parameters)
        if values:
            # Senders may also say "Unknown" themselves.
            filters[entry.dimension] = [*values, None] if UNKNOWN in values else [*values]
    return filters


def _read_values(entry: Filter, parameters: QueryDict) -> list[str]:
    name = entry.parameter
    if entry.is_repeatable:
        values = list(dict.fromkeys(parameters.getlist(name)))
    else:
        value = _read_single(parameters, name)
        values = [] if value is None else [value]
    for value in values:
        if "\x00" in value:
            raise BadRequest(f"{name}: a value holds no NUL.")
        if entry.choices and value not in (*entry.choices, UNKNOWN):
            raise BadRequest(f"{name}: {_shown(value)} is none of {', '.join(entry.choices)}.")
    return values or ([entry.default] if entry.default else [])


def _require_one_project(endpoint: Endpoint, parameters: QueryDict) -> None:
    names = {entry.dimension: entry.parameter for entry in endpoint.filters}
    project, environment = names.get("projectKey"), names.get("environmentKey")
    if environment and project and environment in parameters and len(set(parameters.getlist(project))) != 1:
        raise BadRequest(f"{environment}: give exactly one {project} with it; the keys of environments repeat.")


def _read_groups(endpoint: Endpoint, parameters: QueryDict) -> tuple[Group, ...]:
    """Return the groups in the order of the request, each once; one parameter may list several with commas."""
    known = {group.name: group for group in endpoint.groups}
    groups: dict[str, Group] = {}
    for name in (name for value in parameters.getlist(endpoint.group_parameter) for name in value.split(",")):
        if name not in known:
            raise BadRequest(f"Invalid group by argument: {_shown(name)}")
        groups[name] = known[name]
    return tuple(groups.values())


def _read_single(parameters: QueryDict, name: str) -> str | None:
    values = parameters.getlist(name)
    if len(values) > 1:
        raise BadRequest(f"{name}: give this parameter once.")
    return values[0] if values else None


def _shown(value: str) -> str:
    return value[:MAX_SHOWN_CHARACTERS]


# --- times and amounts ----------------------------------------------------------------------------------------


def _read_span(endpoint: Endpoint, parameters: QueryDict, now: datetime) -> Span:
    start, end = _read_moment(parameters, "from"), _read_moment(parameters, "to")
    if start is None:
        default = endpoint.range.default
        start = now - default if default else calendar_period(now, cycle_day=1, zone=UTC_ZONE).start
    longest = endpoint.range.longest
    if longest is not None and (end or now - LEEWAY) - start > longest:
        raise BadRequest(f"from, to: a range has at most {longest.days} days.")
    if end is None:
        end = now + MICROSECOND  # the bucket that has just begun is in the answer
    if start >= end:
        raise BadRequest("from, to: a range begins before it ends. The default of `to` is now.")
    return Span(start, end)


def _read_moment(parameters: QueryDict, name: str) -> datetime | None:
    text = _read_single(parameters, name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise BadRequest(f"{name}: give Unix time as a whole number of seconds or milliseconds.")
    number = int(text)
    milliseconds = number * 1000 if number < FIRST_MILLISECONDS else number
    if milliseconds >= (CALENDAR_END - EPOCH) // timedelta(milliseconds=1):
        raise BadRequest(f"{name}: the time lies outside the calendar.")
    return EPOCH + timedelta(milliseconds=milliseconds)


def _read_choice(endpoint: Endpoint, parameters: QueryDict) -> Choice | None:
    """Return what is to be counted; None where the endpoint has amounts only."""
    if not endpoint.aggregations:
        return None
    name = _read_single(parameters, "aggregationType")
    if name is None:
        return endpoint.aggregations[0]
    for choice in endpoint.aggregations:
        if choice.name == name:
            return choice
    names = ", ".join(choice.name for choice in endpoint.aggregations)
    raise BadRequest(f"aggregationType: {_shown(name)} is none of {names}.")


def _read_granularity(choice: Choice, parameters: QueryDict) -> Granularity:
    name = _read_single(parameters, "granularity")
    if name is None:
        return Granularity.DAY
    if name not in choice.granularities:
        names = ", ".join(choice.granularities)
        raise BadRequest(f"granularity: with aggregationType {choice.name} one of {names}, not {_shown(name)}.")
    return GRANULARITIES[name]


def _read_zone(parameters: QueryDict) -> ZoneInfo:
    name = _read_single(parameters, "tz")
    if name is None:
        return UTC_ZONE
    if name not in known_zones():
        raise BadRequest("tz: give the name of a time zone, like America/New_York.")
    return ZoneInfo(name)
