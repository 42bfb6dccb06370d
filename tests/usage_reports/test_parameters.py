"""Reading a query string: every good one means what the contract says, and every bad one has its refusal."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from django.http import QueryDict

from common.errors import BadRequest, NotFound
from metering.domain import Granularity, Span
from tests.metering.meter import utc
from usage_reports.launchdarkly.endpoints import ENDPOINTS, AggregationType, Endpoint
from usage_reports.launchdarkly.parameters import LEEWAY, MICROSECOND, ReportRequest, read_request

NOW = utc(2026, 11, 20, 12)
ROWS = {row.path: row for row in ENDPOINTS}
PATH = {
    "projectKey": "shop",
    "environmentKey": "live",
    "featureFlagKey": "banner",
    "type": "received",
    "source": "client",
}
EVALUATIONS = "evaluations/{projectKey}/{environmentKey}/{featureFlagKey}"
MILLISECOND = timedelta(milliseconds=1)

each_row = pytest.mark.parametrize("row", ENDPOINTS, ids=lambda row: row.path)


def read(path: str, query: str = "", *, now: datetime = NOW, **parts: str) -> ReportRequest:
    row = ROWS[path]
    given = {entry.parameter: parts.get(entry.parameter, PATH[entry.parameter]) for entry in row.path_filters}
    return read_request(row, path=given, parameters=QueryDict(query), now=now)


def refuse(path: str, query: str) -> str:
    with pytest.raises(BadRequest) as refusal:
        read(path, query)
    return refusal.value.message


def milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class TestRange:
    def test_begins_with_the_month_and_ends_now(self) -> None:
        assert read("total-mau").span == Span(utc(2026, 11, 1), NOW + MICROSECOND)

    @pytest.mark.parametrize(
        ("path", "past"),
        [
            ("mau", timedelta(days=30)),
            ("mau/bycategory", timedelta(days=30)),
            ("mau/sdks", timedelta(days=7)),
            (EVALUATIONS, timedelta(days=30)),
            ("events/{type}", timedelta(hours=24)),
            ("streams/{source}", timedelta(days=30)),
            ("streams/{source}/bysdkversion", timedelta(hours=24)),
            ("streams/{source}/sdkversions", timedelta(days=60)),
        ],
    )
    def test_of_older_endpoints_begins_so_long_ago(self, path: str, past: timedelta) -> None:
        assert read(path).span == Span(NOW - past, NOW + MICROSECOND)

    def test_at_the_very_start_of_a_month_is_not_empty(self) -> None:
        start = utc(2026, 11, 1)
        assert read("total-mau", now=start).span == Span(start, start + MICROSECOND)

    @each_row
    def test_seconds_and_milliseconds_are_the_same_moment(self, row: Endpoint) -> None:
        if row.range.is_fixed:
            return
        expected = Span(utc(2026, 11, 2, 3, 4, 5), utc(2026, 11, 6))
        in_seconds = read(row.path, "from=1793588645&to=1793923200")
        in_milliseconds = read(row.path, "from=1793588645000&to=1793923200000")
        assert in_seconds.span == in_milliseconds.span == expected

    def test_a_number_counts_seconds_up_to_the_year_5138(self) -> None:
        last = read("mau", f"to={10**11 - 1}").span.end
        assert last == datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)
        assert read("mau", f"from={10**11}").span.start == utc(1973, 3, 3, 9, 46, 40)

    def test_milliseconds_keep_their_fraction_of_a_second(self) -> None:
        assert read("mau", "from=1793577845678").span.start.microsecond == 678_000

    @pytest.mark.parametrize(
        "text", ["", "now", "1.5", "-1", "1e9", " 1793577845", "٣", "9" * 21, str(10**19), "2026-11-01", "%00"]
    )
    @pytest.mark.parametrize("name", ["from", "to"])
    def test_refuses_what_is_no_time(self, name: str, text: str) -> None:
        assert refuse("mau", f"{name}={text}").startswith(f"{name}: ")

    def test_refuses_a_range_that_does_not_begin_before_it_ends(self) -> None:
        at = milliseconds(NOW)
        assert "begins before it ends" in refuse("mau", f"from={at}&to={at}")
        assert "begins before it ends" in refuse("mau", f"from={at}&to={at - 1}")
        assert "begins before it ends" in refuse("mau", f"from={at + 1}")
        assert "begins before it ends" in refuse("total-mau", f"to={milliseconds(utc(2026, 11, 1))}")
        assert read("mau", f"from={at}&to={at + 1}").span == Span(NOW, NOW + MILLISECOND)

    @each_row
    def test_of_the_metered_endpoints_has_at_most_365_days(self, row: Endpoint) -> None:
        if row.range.is_fixed:
            return
        end = milliseconds(NOW)
        year = 365 * 24 * 3600 * 1000
        assert read(row.path, f"from={end - year}&to={end}").span.start == NOW - timedelta(days=365)
        # Who asks for a year until now asks for a little more by the time the question arrives.
        late = read(row.path, f"from={end - year}", now=NOW + LEEWAY).span
        assert late.start == NOW - timedelta(days=365)
        if row.range.longest is None:
            assert read(row.path, f"from=0&to={end}").span.start == utc(1970, 1, 1)
        else:
            assert "at most 365 days" in refuse(row.path, f"from={end - year - 1}&to={end}")
            assert "at most 365 days" in refuse(row.path, f"from={end - year - 60_001}")

    def test_may_end_in_the_future(self) -> None:
        assert read("mau", "to=4102444800").span.end == utc(2100, 1, 1)


class TestGranularityByAge:
    @pytest.mark.parametrize(
        ("age", "granularity"),
        [
            (timedelta(minutes=5), Granularity.MINUTE),
            (timedelta(hours=2), Granularity.MINUTE),
            (timedelta(hours=2) + LEEWAY + MILLISECOND, Granularity.HOUR),
            (timedelta(days=2), Granularity.HOUR),
            (timedelta(days=2) + LEEWAY + MILLISECOND, Granularity.DAY),
        ],
    )
    def test_follows_from_the_oldest_moment(self, age: timedelta, granularity: Granularity) -> None:
        start = milliseconds(NOW - age)
        for path in (EVALUATIONS, "events/{type}", "streams/{source}", "streams/{source}/bysdkversion"):
            assert read(path, f"from={start}").granularity == granularity
            assert read(path, f"from={start}&to={start + 1000}").granularity == granularity

    def test_is_by_the_hour_and_by_the_day_by_default(self) -> None:
        assert read("events/{type}").granularity == Granularity.HOUR
        assert read(EVALUATIONS).granularity == Granularity.DAY


class TestZone:
    def test_moves_the_breaks_of_days_only(self) -> None:
        assert read(EVALUATIONS, "tz=America/New_York").zone.key == "America/New_York"
        hour_ago = milliseconds(NOW - timedelta(hours=1))
        assert read(EVALUATIONS, f"tz=America/New_York&from={hour_ago}").zone.key == "UTC"
        assert read(EVALUATIONS).zone.key == "UTC"

    @pytest.mark.parametrize("name", ["", "Mars/Phobos", "../etc/passwd", "%00", "x" * 5000, "America", "utc"])
    def test_refuses_what_is_no_zone(self, name: str) -> None:
        assert refuse(EVALUATIONS, f"tz={name}").startswith("tz: ")

    @pytest.mark.parametrize("path", ["total-mau", "mau", "events/{type}", "vega-ai"])
    def test_is_taken_only_where_the_contract_has_it(self, path: str) -> None:
        assert refuse(path, "tz=UTC").startswith("Unknown parameter: tz")


class TestFilters:
    def test_repeated_parameters_are_alternatives_and_different_ones_conditions(self) -> None:
        asked = read("clientside-mau", "projectKey=shop&projectKey=blog&sdkName=Go&projectKey=shop")
        assert asked.filters == {"sdkType": ["client"], "projectKey": ["shop", "blog"], "sdkName": ["Go"]}

    def test_a_comma_is_part_of_a_value(self) -> None:
        assert read("clientside-mau", "sdkName=a,b").filters["sdkName"] == ["a,b"]

    def test_unknown_finds_events_without_a_value_and_the_word_itself(self) -> None:
        assert read("total-mau", "sdkName=Unknown").filters["sdkName"] == ["Unknown", None]
        assert read("total-mau", "anonymous=Unknown&anonymous=true").filters["anonymous"] == ["Unknown", "true", None]

    def test_the_old_endpoint_has_names_of_its_own(self) -> None:
        query = "project=shop&environment=live&sdktype=client&sdk=Go&anonymous=true&contextKind=device"
        assert read("mau", query).filters == {
            "projectKey": ["shop"],
            "environmentKey": ["live"],
            "sdkType": ["client"],
            "sdkName": ["Go"],
            "anonymous": ["true"],
            "contextKind": ["device"],
        }

    def test_the_old_endpoint_counts_users_unless_told_otherwise(self) -> None:
        assert read("mau").filters == {"contextKind": ["user"]}
        assert read("mau", "contextKind=device&contextKind=user").filters == {"contextKind": ["device", "user"]}

    def test_parts_of_the_path_are_filters(self) -> None:
        assert read(EVALUATIONS).filters == {
            "projectKey": ["shop"],
            "environmentKey": ["live"],
            "flagKey": ["banner"],
        }
        assert read("events/{type}", type="published").filters == {"direction": ["published"]}
        asked = read("streams/{source}/bysdkversion", "sdk=Go&version=7.1", source="server")
        assert asked.filters == {"source": ["server"], "sdkName": ["Go"], "sdkVersion": ["7.1"]}

    @pytest.mark.parametrize("source", ["client", "server", "browser", "mobile"])
    def test_streams_have_four_sources(self, source: str) -> None:
        assert read("streams/{source}", source=source).filters == {"source": [source]}

    @pytest.mark.parametrize(
        ("path", "parts"),
        [
            ("events/{type}", {"type": "lost"}),
            ("events/{type}", {"type": "Received"}),
            ("streams/{source}", {"source": "relay"}),
            ("streams/{source}/sdkversions", {"source": "Unknown"}),
            ("streams/{source}/bysdkversion", {"source": ""}),
            (EVALUATIONS, {"projectKey": "a\x00b"}),
        ],
    )
    def test_a_path_to_nothing_is_not_found(self, path: str, parts: dict[str, Any]) -> None:
        with pytest.raises(NotFound, match="There is no such"):
            read(path, **parts)

    @pytest.mark.parametrize(
        ("path", "query"),
        [
            ("clientside-contexts", "anonymous=maybe"),
            ("clientside-contexts", "anonymous=true&anonymous=1"),
            ("mau", "anonymous=yes"),
            ("mau", "sdktype=relay"),
            ("mau/sdks", "sdktype=Client"),
            ("data-export-events", "destinationKind=paper"),
            ("total-contexts", "sdkName=%00"),
        ],
    )
    def test_refuses_other_values_where_the_contract_lists_them(self, path: str, query: str) -> None:
        assert refuse(path, query).startswith(query.partition("=")[0] + ": ")

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("mau", "anonymous"),
            ("mau/sdks", "sdktype"),
            ("streams/{source}/bysdkversion", "sdk"),
            ("streams/{source}/bysdkversion", "version"),
            ("mau", "from"),
            ("mau", "to"),
            ("mau", "aggregationType"),
            ("total-mau", "granularity"),
            (EVALUATIONS, "tz"),
        ],
    )
    def test_refuses_a_single_parameter_that_is_repeated(self, path: str, name: str) -> None:
        assert refuse(path, f"{name}=1&{name}=1") == f"{name}: give this parameter once."

    @pytest.mark.parametrize(
        "path", ["total-contexts", "clientside-mau", "experimentation-keys", "service-connections"]
    )
    def test_an_environment_needs_exactly_one_project(self, path: str) -> None:
        assert "exactly one projectKey" in refuse(path, "environmentKey=live")
        assert "exactly one projectKey" in refuse(path, "environmentKey=live&projectKey=a&projectKey=b")
        asked = read(path, "environmentKey=live&environmentKey=test&projectKey=a&projectKey=a")
        assert asked.filters["environmentKey"] == ["live", "test"]

    def test_an_environment_of_the_old_endpoint_needs_exactly_one_project(self) -> None:
        assert "exactly one project" in refuse("mau", "environment=live")
        assert read("mau", "environment=live&project=a").filters["environmentKey"] == ["live"]

    @each_row
    def test_refuses_parameters_that_are_unknown(self, row: Endpoint) -> None:
        for name in ("color", "FROM", "projectkey", "group_by", "page"):
            assert refuse(row.path, f"{name}=1").startswith(f"Unknown parameter: {name}")

    def test_shows_no_more_than_a_piece_of_a_long_name(self) -> None:
        assert len(refuse("vega-ai", f"{'x' * 9000}=1")) < 300
        assert len(refuse("mau", f"groupby={'x' * 9000}")) < 300


class TestGroups:
    def names(self, path: str, query: str) -> list[str]:
        return [group.name for group in read(path, query).groups]

    def test_stand_in_the_order_of_the_request_each_once(self) -> None:
        assert self.names("total-mau", "groupBy=sdkName&groupBy=projectId&groupBy=sdkName") == ["sdkName", "projectId"]

    def test_may_be_a_list_with_commas(self) -> None:
        assert self.names("total-mau", "groupBy=sdkName,projectId&groupBy=sdkType") == [
            "sdkName",
            "projectId",
            "sdkType",
        ]

    @pytest.mark.parametrize("path", ["clientside-contexts", "serverside-contexts", "total-contexts"])
    def test_of_contexts_always_end_with_their_kind(self, path: str) -> None:
        assert self.names(path, "") == ["contextKind"]
        assert self.names(path, "groupBy=projectId") == ["projectId", "contextKind"]

    def test_that_are_always_there(self) -> None:
        assert self.names(EVALUATIONS, "") == ["variation"]
        assert self.names("streams/{source}/bysdkversion", "") == ["sdk", "version", "source"]
        assert self.names("mau/bycategory", "") == ["category"]

    @pytest.mark.parametrize(
        ("path", "value", "named"),
        [
            ("clientside-mau", "sdkType", "sdkType"),
            ("clientside-mau", "projectKey", "projectKey"),
            ("clientside-mau", "anonymous", "anonymous"),
            ("clientside-mau", "", ""),
            ("clientside-mau", "projectId,", ""),
            ("clientside-mau", "projectId, sdkName", " sdkName"),
            ("experimentation-events", "sdkAppId", "sdkAppId"),
        ],
    )
    def test_refuses_others_as_the_vendor_does(self, path: str, value: str, named: str) -> None:
        assert refuse(path, f"groupBy={value}") == f"Invalid group by argument: {named}"

    def test_of_the_old_endpoint_are_asked_for_in_lower_case(self) -> None:
        assert self.names("mau", "groupby=project,sdkAppId&groupby=sdktype") == ["project", "sdkAppId", "sdktype"]
        assert refuse("mau", "groupBy=project").startswith("Unknown parameter: groupBy")
        assert refuse("mau", "groupby=projectId") == "Invalid group by argument: projectId"


class TestAggregation:
    @each_row
    def test_every_combination_of_the_table_is_accepted(self, row: Endpoint) -> None:
        for choice in row.aggregations if row.has_aggregation_parameter else ():
            for granularity in choice.granularities:
                query = f"aggregationType={choice.name}"
                query += f"&granularity={granularity}" if row.has_granularity_parameter else ""
                assert read(row.path, query).aggregation == choice.type

    @each_row
    def test_every_other_combination_is_refused(self, row: Endpoint) -> None:
        names = ("month_to_date", "incremental", "rolling_30d", "average", "daily_incremental", "sum", "")
        known = {choice.name: choice.granularities for choice in row.aggregations}
        for name in names if row.has_aggregation_parameter else ():
            if name not in known:
                assert refuse(row.path, f"aggregationType={name}").startswith("aggregationType: ")
            for granularity in (
                ("daily", "hourly", "monthly", "weekly", "day", "") if row.has_granularity_parameter else ()
            ):
                if granularity not in known.get(name, ()):
                    assert refuse(row.path, f"aggregationType={name}&granularity={granularity}")

    def test_defaults(self) -> None:
        for path in ("total-mau", "data-export-events", "vega-ai"):
            asked = read(path)
            assert (asked.aggregation, asked.granularity) == (AggregationType.MONTH_TO_DATE, Granularity.DAY)
        assert read("mau").aggregation == AggregationType.ROLLING_30D
        assert read("mau", "aggregationType=daily_incremental").aggregation == AggregationType.INCREMENTAL
        assert read("mau/bycategory").aggregation == AggregationType.ROLLING_30D

    @pytest.mark.parametrize("path", ["mau", "mau/bycategory", EVALUATIONS, "events/{type}"])
    def test_endpoints_without_a_choice_of_granularity_take_none(self, path: str) -> None:
        assert refuse(path, "granularity=daily").startswith("Unknown parameter: granularity")


@each_row
def test_every_odd_query_is_answered_or_refused(row: Endpoint) -> None:
    odd = ["", "\x00", "0", "9" * 18, "-1", ",", "Unknown", "true", "daily", "é" * 50, "projectId", "a&b", "%"]
    path = {entry.parameter: PATH[entry.parameter] for entry in row.path_filters}
    names = ("from", "to", "tz", "groupBy", "groupby", "granularity", "aggregationType", "projectKey", "anonymous")
    for name, value in product(names, odd):
        parameters = QueryDict(mutable=True)
        parameters.setlist(name, [value])
        with suppress(BadRequest):
            assert read_request(row, path=path, parameters=parameters, now=NOW).endpoint is row
