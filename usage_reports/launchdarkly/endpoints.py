"""The table of endpoints: one row each, from which routes, checks, answers, documentation and tests follow.

Two vendors' client versions speak to the same rows, so a row accepts what either of them may send. Nothing here
reads or counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from metering.domain import Granularity

# What a report shows in place of a value that an event does not have; as a filter it finds those events.
UNKNOWN = "Unknown"
GRANULARITIES = {"hourly": Granularity.HOUR, "daily": Granularity.DAY, "monthly": Granularity.MONTH}


# --- what a row is made of ------------------------------------------------------------------------------------


class AggregationType(StrEnum):
    """What a point covers: its month so far, its own bucket, the 30 days that end with it, or its mean hour."""

    MONTH_TO_DATE = "month_to_date"
    INCREMENTAL = "incremental"
    ROLLING_30D = "rolling_30d"
    AVERAGE = "average"


@dataclass(frozen=True, slots=True)
class Choice:
    """One value of the parameter `aggregationType`, and the granularities that go with it."""

    name: str
    type: AggregationType
    granularities: tuple[str, ...] = ("daily",)


@dataclass(frozen=True, slots=True)
class Filter:
    """A parameter that keeps the events with one of the given values in a dimension."""

    parameter: str
    dimension: str
    # Other values are refused; empty: any value may be asked for.
    choices: tuple[str, ...] = ()
    is_repeatable: bool = True
    # The value where the parameter is absent; empty: no filter.
    default: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A way to split an answer: `name` is its name in the request and in the answer's metadata."""

    name: str
    dimensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Which times may be asked for. All may be given in seconds or milliseconds."""

    # How far back the default range begins; None: at the start of the current month.
    default: timedelta | None = None
    longest: timedelta | None = None
    # Whether `tz` moves the breaks of days.
    has_zone: bool = False
    # The default range is the only one.
    is_fixed: bool = False


class Answer(StrEnum):
    SERIES = "series"
    SDKS = "sdks"
    SDK_VERSIONS = "sdkVersions"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. `operation` is what the official client calls it."""

    path: str
    operation: str
    metric: str
    range: Range
    # Events that the endpoint is about, whatever is asked.
    fixed: Mapping[str, str] = field(default_factory=dict)
    # Parts of the path; a value outside the choices is a resource that does not exist.
    path_filters: tuple[Filter, ...] = ()
    filters: tuple[Filter, ...] = ()
    groups: tuple[Group, ...] = ()
    group_parameter: str = "groupBy"
    always_grouped_by: tuple[Group, ...] = ()
    # The columns of the one group, present or not; empty: those that occur.
    columns: tuple[str, ...] = ()
    # The first is the default. Empty: amounts, in buckets that are the wider the older the range is.
    aggregations: tuple[Choice, ...] = ()
    # Distinct members are counted for each value of these dimensions, and the counts added up.
    added_up_over: tuple[str, ...] = ()
    # Only contexts of the month's primary kind count.
    counts_primary_kind: bool = False
    # A project that nobody registered or named is refused, not answered with zeros.
    refuses_unknown_projects: bool = False
    has_fractions: bool = False
    answer: Answer = Answer.SERIES

    @property
    def has_aggregation_parameter(self) -> bool:
        return len(self.aggregations) > 1

    @property
    def has_granularity_parameter(self) -> bool:
        return any(len(choice.granularities) > 1 for choice in self.aggregations)

    @property
    def dimensions(self) -> frozenset[str]:
        """All dimensions that the metric must have."""
        filters = (*self.path_filters, *self.filters)
        groups = (*self.groups, *self.always_grouped_by)
        names = {*self.fixed, *self.added_up_over, *(entry.dimension for entry in filters)}
        names.update(*(group.dimensions for group in groups))
        return frozenset(names | {"contextKind", "sdkType"} if self.counts_primary_kind else names)


# --- pieces that rows share -----------------------------------------------------------------------------------


PROJECT = ("projectKey",)
# An environment's key is unique within its project only.
ENVIRONMENT = ("projectKey", "environmentKey")

SINCE_MONTH_START = Range()
METERED = Range(longest=timedelta(days=365))
PAST_MONTH = Range(default=timedelta(days=30))

A3 = (
    Choice("month_to_date", AggregationType.MONTH_TO_DATE, ("daily", "monthly")),
    Choice("incremental", AggregationType.INCREMENTAL),
    Choice("rolling_30d", AggregationType.ROLLING_30D),
)
A3_AND_AVERAGE = (
    Choice("month_to_date", AggregationType.MONTH_TO_DATE, ("daily", "hourly", "monthly")),
    *A3[1:],
    Choice("average", AggregationType.AVERAGE, ("daily", "hourly", "monthly")),
)
A2 = (
    Choice("month_to_date", AggregationType.MONTH_TO_DATE, ("daily", "hourly", "monthly")),
    Choice("incremental", AggregationType.INCREMENTAL, ("daily", "hourly")),
)
ROLLING = (Choice("rolling_30d", AggregationType.ROLLING_30D),)
MAU_AGGREGATIONS = (
    *ROLLING,
    Choice("month_to_date", AggregationType.MONTH_TO_DATE),
    Choice("daily_incremental", AggregationType.INCREMENTAL),
)


def _filters(*names: str) -> tuple[Filter, ...]:
    """Return filters by parameters that are called what the dimensions are."""
    return tuple(Filter(name, name) for name in names)


def _groups(*names: str) -> tuple[Group, ...]:
    """Return groups that are called what the dimensions are, and those by project and environment."""
    known = {group.name: group for group in (BY_PROJECT, BY_ENVIRONMENT, BY_ANONYMOUS)}
    return tuple(known.get(name) or Group(name, (name,)) for name in names)


BY_PROJECT = Group("projectId", PROJECT)
BY_ENVIRONMENT = Group("environmentId", ENVIRONMENT)
BY_ANONYMOUS = Group("anonymousV2", ("anonymous",))
PROJECT_KEY = _filters("projectKey")
PROJECT_AND_ENVIRONMENT = _filters("projectKey", "environmentKey")
IS_ANONYMOUS = Filter("anonymous", "anonymous", choices=("true", "false"))
CONTEXT_FILTERS = (*PROJECT_AND_ENVIRONMENT, *_filters("contextKind", "sdkName"), IS_ANONYMOUS)
MAU_FILTERS = (*PROJECT_AND_ENVIRONMENT, *_filters("sdkName"), IS_ANONYMOUS)
SDK_TYPE = _filters("sdkType")
CONTEXT_GROUPS = _groups("projectId", "environmentId", "sdkName", "sdkAppId", "anonymousV2")
TOTAL_GROUPS = (*CONTEXT_GROUPS, *_groups("sdkType"))
BY_CONTEXT_KIND = _groups("contextKind")
BY_SDK_VERSION = (Group("sdk", ("sdkName",)), Group("version", ("sdkVersion",)), Group("source", ("source",)))
CLIENT, SERVER = {"sdkType": "client"}, {"sdkType": "server"}
DESTINATION_KIND = Filter(
    "destinationKind",
    "destinationKind",
    choices=("kinesis", "google-pubsub", "mparticle", "segment", "azure-event-hubs", "snowflake", "unknown"),
)
STREAM_SOURCE = Filter("source", "source", choices=("client", "server", "browser", "mobile"))
EVENT_DIRECTION = Filter("type", "direction", choices=("received", "published"))


def _observability(path: str, operation: str, metric: str, aggregations: tuple[Choice, ...] = A3) -> Endpoint:
    return Endpoint(
        path,
        operation,
        metric,
        SINCE_MONTH_START,
        filters=PROJECT_KEY,
        aggregations=aggregations,
        refuses_unknown_projects=True,
    )


# --- the table ------------------------------------------------------------------------------------------------


ENDPOINTS = (
    Endpoint(
        "clientside-contexts",
        "get_contexts_clientside_usage",
        "ld_contexts",
        METERED,
        fixed=CLIENT,
        filters=CONTEXT_FILTERS,
        groups=CONTEXT_GROUPS,
        always_grouped_by=BY_CONTEXT_KIND,
        aggregations=A3,
    ),
    Endpoint(
        "serverside-contexts",
        "get_contexts_serverside_usage",
        "ld_contexts",
        METERED,
        fixed=SERVER,
        filters=CONTEXT_FILTERS,
        groups=CONTEXT_GROUPS,
        always_grouped_by=BY_CONTEXT_KIND,
        aggregations=A3,
    ),
    Endpoint(
        "total-contexts",
        "get_contexts_total_usage",
        "ld_contexts",
        METERED,
        filters=(*CONTEXT_FILTERS, *SDK_TYPE),
        groups=TOTAL_GROUPS,
        always_grouped_by=BY_CONTEXT_KIND,
        aggregations=A3,
    ),
    Endpoint(
        "clientside-mau",
        "get_mau_clientside_usage",
        "ld_contexts",
        METERED,
        fixed=CLIENT,
        filters=MAU_FILTERS,
        groups=CONTEXT_GROUPS,
        aggregations=A3,
        counts_primary_kind=True,
    ),
    Endpoint(
        "total-mau",
        "get_mau_total_usage",
        "ld_contexts",
        METERED,
        filters=(*MAU_FILTERS, *SDK_TYPE),
        groups=TOTAL_GROUPS,
        aggregations=A3,
        counts_primary_kind=True,
    ),
    Endpoint(
        "data-export-events",
        "get_data_export_events_usage",
        "ld_data_export_events",
        METERED,
        filters=(*PROJECT_AND_ENVIRONMENT, *_filters("eventKind"), DESTINATION_KIND),
        groups=_groups("projectId", "environmentId", "eventKind", "destinationKind", "destinationId"),
        aggregations=A2,
    ),
    Endpoint(
        "experimentation-events",
        "get_experimentation_events_usage",
        "ld_experimentation_events",
        METERED,
        filters=(*PROJECT_AND_ENVIRONMENT, *_filters("eventKey", "eventKind")),
        groups=_groups("environmentId", "eventKey", "eventKind"),
        aggregations=A2,
    ),
    Endpoint(
        "experimentation-keys",
        "get_experimentation_keys_usage",
        "ld_experimentation_keys",
        METERED,
        filters=(*PROJECT_AND_ENVIRONMENT, *_filters("experimentId")),
        groups=_groups("projectId", "environmentId", "experimentId"),
        aggregations=A2,
        added_up_over=("experimentId",),
    ),
    Endpoint(
        "service-connections",
        "get_service_connections_usage",
        "ld_service_connection_minutes",
        METERED,
        filters=(
            *PROJECT_AND_ENVIRONMENT,
            *_filters("connectionType", "relayVersion", "sdkName", "sdkVersion", "sdkType", "sdkAppId"),
        ),
        groups=_groups(
            "projectId",
            "environmentId",
            "connectionType",
            "relayVersion",
            "sdkName",
            "sdkVersion",
            "sdkType",
            "sdkAppId",
        ),
        aggregations=A2,
        has_fractions=True,
    ),
    _observability("observability/errors", "get_observability_errors_usage", "ld_observability_errors"),
    _observability("observability/logs", "get_observability_logs_usage", "ld_observability_logs"),
    _observability(
        "observability/metrics", "get_observability_metrics_usage", "ld_observability_metrics", A3_AND_AVERAGE
    ),
    _observability("observability/sessions", "get_observability_sessions_usage", "ld_observability_sessions"),
    _observability("observability/traces", "get_observability_traces_usage", "ld_observability_traces"),
    _observability("vega-ai", "get_vega_ai_usage", "ld_vega_ai"),
    Endpoint(
        "mau",
        "get_mau_usage",
        "ld_contexts",
        PAST_MONTH,
        filters=(
            Filter("project", "projectKey"),
            Filter("environment", "environmentKey"),
            Filter("sdktype", "sdkType", choices=("client", "server")),
            Filter("sdk", "sdkName"),
            Filter("anonymous", "anonymous", choices=("true", "false"), is_repeatable=False),
            Filter("contextKind", "contextKind", default="user"),
        ),
        groups=(
            Group("project", PROJECT),
            Group("environment", ENVIRONMENT),
            Group("sdktype", ("sdkType",)),
            Group("sdk", ("sdkName",)),
            *_groups("anonymous", "contextKind", "sdkAppId"),
        ),
        group_parameter="groupby",
        aggregations=MAU_AGGREGATIONS,
    ),
    Endpoint(
        "mau/bycategory",
        "get_mau_usage_by_category",
        "ld_contexts",
        PAST_MONTH,
        always_grouped_by=_groups("category"),
        columns=("backend", "browser", "mobile"),
        aggregations=ROLLING,
        counts_primary_kind=True,
    ),
    Endpoint(
        "mau/sdks",
        "get_mau_sdks_by_type",
        "ld_contexts",
        Range(default=timedelta(days=7)),
        filters=(Filter("sdktype", "sdkType", choices=("client", "server"), is_repeatable=False),),
        always_grouped_by=_groups("sdkName"),
        answer=Answer.SDKS,
    ),
    Endpoint(
        "evaluations/{projectKey}/{environmentKey}/{featureFlagKey}",
        "get_evaluations_usage",
        "ld_evaluations",
        Range(default=timedelta(days=30), has_zone=True),
        path_filters=(*PROJECT_AND_ENVIRONMENT, Filter("featureFlagKey", "flagKey")),
        always_grouped_by=_groups("variation"),
    ),
    Endpoint(
        "events/{type}",
        "get_events_usage",
        "ld_events",
        Range(default=timedelta(hours=24)),
        path_filters=(EVENT_DIRECTION,),
    ),
    Endpoint(
        "streams/{source}",
        "get_stream_usage",
        "ld_streams",
        Range(default=timedelta(days=30), has_zone=True),
        path_filters=(STREAM_SOURCE,),
    ),
    Endpoint(
        "streams/{source}/bysdkversion",
        "get_stream_usage_by_sdk_version",
        "ld_streams",
        Range(default=timedelta(hours=24), has_zone=True),
        path_filters=(STREAM_SOURCE,),
        filters=(
            Filter("sdk", "sdkName", is_repeatable=False),
            Filter("version", "sdkVersion", is_repeatable=False),
        ),
        always_grouped_by=BY_SDK_VERSION,
    ),
    Endpoint(
        "streams/{source}/sdkversions",
        "get_stream_usage_sdkversion",
        "ld_streams",
        Range(default=timedelta(days=60), is_fixed=True),
        path_filters=(STREAM_SOURCE,),
        always_grouped_by=BY_SDK_VERSION[:2],
        answer=Answer.SDK_VERSIONS,
    ),
)
