"""What holds between answers whatever was sent: on random histories of two and a half months, by random questions.

`METERBOOK_PROPERTY_CASES=500` asks about that many fresh histories per invariant; without it, the same few every time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.metering.meter import utc
from tests.usage_reports.reporter import Columns, Reporter
from usage_reports.launchdarkly.endpoints import ENDPOINTS, Answer, Endpoint

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(0)]

CASES = int(os.environ.get("METERBOOK_PROPERTY_CASES", "0"))
DEFAULT_CASES = 8
BEGIN, NOW = utc(2026, 9, 5), utc(2026, 11, 20, 12)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
# Where months and days change, and what is a moment away from it.
EDGES = [
    utc(2026, 10, 1),
    utc(2026, 11, 1),
    utc(2026, 10, 2),
    utc(2026, 10, 31),
    utc(2026, 11, 20),
    utc(2026, 11, 20, 11),
]

ROWS = {row.path: row for row in ENDPOINTS}
DISTINCT = ("total-mau", "clientside-mau", "total-contexts", "mau")
ADDITIVE = ("data-export-events", "experimentation-events", "service-connections")
A2 = (*ADDITIVE, "experimentation-keys")


# --- histories and questions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """One event of each type that these properties make."""

    at: datetime
    customer: str
    value: int
    properties: dict[str, str]


def instants(begin: datetime = BEGIN) -> st.SearchStrategy[datetime]:
    hours = st.integers(0, (NOW - begin) // HOUR).map(lambda count: begin + count * HOUR)
    near = st.builds(
        lambda edge, off: edge + off, st.sampled_from(EDGES), st.sampled_from([-MICROSECOND, 0 * DAY, HOUR])
    )
    return st.one_of(hours, near)


def maybe(*values: str) -> st.SearchStrategy[str | None]:
    return st.sampled_from([*values, None])


@st.composite
def sent_events(draw: st.DrawFn) -> Sent:
    properties = {
        "contextKey": draw(st.sampled_from("abcdef")),
        "contextKind": draw(st.sampled_from(["user", "user", "device", None])),
        "projectKey": draw(maybe("shop", "blog")),
        "environmentKey": draw(maybe("live", "test")),
        "sdkType": draw(st.sampled_from(["client", "server"])),
        "sdkName": draw(maybe("Go", "iOS", "Unknown")),
        "anonymous": draw(maybe("true", "false")),
        "experimentId": draw(maybe("colour", "size")),
        "eventKind": draw(maybe("click", "custom")),
    }
    return Sent(
        at=draw(instants()),
        customer=draw(st.sampled_from(["acme", "globex"])),
        value=draw(st.integers(0, 9)),
        properties={name: value for name, value in properties.items() if value is not None},
    )


@dataclass(frozen=True)
class History:
    events: list[Sent]
    # How many of them the worker has rolled up.
    rolled_up: int
    first: datetime
    second: datetime
    pick: int

    def query(self, **more: str) -> str:
        return query_of(min(self.first, self.second), max(self.first, self.second) + MICROSECOND * 1000, **more)

    def pick_from(self, choices: Any) -> Any:
        return choices[self.pick % len(choices)]


histories = st.builds(
    History,
    events=st.lists(sent_events(), min_size=1, max_size=25),
    rolled_up=st.integers(0, 25),
    first=instants(utc(2026, 9, 25)),
    second=instants(utc(2026, 9, 25)),
    pick=st.integers(0, 1000),
)


def query_of(start: datetime, end: datetime, **more: str) -> str:
    times = f"from={milliseconds(start)}&to={milliseconds(end)}"
    return "&".join([times, *(f"{name}={value}" for name, value in more.items() if value)])


def milliseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


TYPES = ("ld_contexts", "ld_experimentation_keys", "ld_data_export_events", "ld_experimentation_events", "ld_vega_ai")


def tell(reporter: Reporter, history: History) -> None:
    for part, is_rolled_up in (
        (history.events[: history.rolled_up], True),
        (history.events[history.rolled_up :], False),
    ):
        for type in (*TYPES, "ld_service_connection_minutes") if part else ():
            has_value = type not in {"ld_contexts", "ld_experimentation_keys"}
            reporter.send_all(
                type,
                [(sent.at, sent.customer, sent.value if has_value else None, sent.properties) for sent in part],
            )
        if is_rolled_up:
            reporter.meter.roll_up()


@pytest.fixture
def for_each_history(org: Any) -> Callable[[Callable[[Reporter, History], None]], None]:
    """Return a runner of a check on many histories, none of which sees another."""

    def run(check: Callable[[Reporter, History], None]) -> None:
        reporter = Reporter(org, NOW)

        @settings(
            max_examples=CASES or DEFAULT_CASES,
            deadline=None,
            derandomize=not CASES,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(histories)
        def run_one(history: History) -> None:
            note(repr(history))
            with transaction.atomic():
                tell(reporter, history)
                check(reporter, history)
                transaction.set_rollback(True)

        run_one()

    return run


Runner = Callable[[Callable[[Reporter, History], None]], None]


def aggregation_of(path: str, type: str) -> str:
    return "daily_incremental" if (path, type) == ("mau", "incremental") else type


def groups_of(history: History, row: Endpoint) -> str:
    names = [group.name for group in row.groups]
    return ",".join(dict.fromkeys([history.pick_from(names), names[(history.pick // 7) % len(names)]]))


def grouped(row: Endpoint, groups: str) -> dict[str, str]:
    return {row.group_parameter: groups}


# --- what holds -----------------------------------------------------------------------------------------------


def test_groups_add_up_to_the_total_and_distinct_ones_cover_it(for_each_history: Runner) -> None:
    def check(reporter: Reporter, history: History) -> None:
        for path in (*DISTINCT, *A2):
            row = ROWS[path]
            choice = history.pick_from([choice.name for choice in row.aggregations])
            query = history.query(aggregationType=choice)
            groups = groups_of(history, row)
            columns = reporter.columns(path, f"{query}&{row.group_parameter}={groups}")
            total = reporter.columns(path, query)
            for place, _ in enumerate(reporter.ask(path, query).starts):
                whole = sum(values[place] for values in total.values())
                parts = [values[place] for values in columns.values()]
                if path in ADDITIVE or groups == "experimentId":
                    assert sum(parts) == whole, path
                elif "incremental" not in choice:
                    assert max(parts, default=0) <= whole <= sum(parts), path

    for_each_history(check)


def test_month_to_date_grows_and_starts_again_and_incremental_adds_up_to_it(for_each_history: Runner) -> None:
    def check(reporter: Reporter, history: History) -> None:
        for path in (*DISTINCT, *A2, "vega-ai"):
            row = ROWS[path]
            groups = grouped(row, groups_of(history, row)) if row.groups and history.pick % 2 else {}
            # Whole months, of which the history's range may begin in the middle of the first.
            start, end = utc(2026, 9, 1), utc(2026, 11, 21)
            to_date = reporter.columns(path, query_of(start, end, aggregationType="month_to_date", **groups))
            name = aggregation_of(path, "incremental")
            incremental = reporter.columns(path, query_of(start, end, aggregationType=name, **groups))
            starts = reporter.ask(path, query_of(start, end)).starts
            assert set(incremental) == set(to_date)
            for group, values in to_date.items():
                running: Any = 0
                for place, at in enumerate(starts):
                    added = incremental[group][place]
                    running = added if at.day == 1 else running + added
                    assert added >= 0
                    assert values[place] == running, (path, group, at)

    for_each_history(check)


def test_rolling_counts_what_the_last_thirty_days_hold(for_each_history: Runner) -> None:
    def check(reporter: Reporter, history: History) -> None:
        query = history.query(aggregationType="rolling_30d")
        report = reporter.ask("mau", query)
        by_kind = reporter.columns("total-contexts", query)
        amounts = reporter.values("vega-ai", query)
        for place, start in enumerate(report.starts):
            window = [sent for sent in history.events if start - 29 * DAY <= sent.at < start + DAY]
            users = {sent.properties["contextKey"] for sent in window if sent.properties.get("contextKind") == "user"}
            assert report.columns[0][place] == len(users)
            assert amounts[place] == sum(sent.value for sent in window)
            for kind in ("user", "device", "Unknown"):
                keys = {
                    s.properties["contextKey"] for s in window if s.properties.get("contextKind", "Unknown") == kind
                }
                assert by_kind.get((kind,), [0] * len(report.starts))[place] == len(keys)

    for_each_history(check)


def test_hours_days_and_months_agree(for_each_history: Runner) -> None:
    def check(reporter: Reporter, history: History) -> None:
        path = history.pick_from(A2)
        start, end = utc(2026, 10, 1), utc(2026, 11, 1)
        row = ROWS[path]
        groups = grouped(row, groups_of(history, row)) if history.pick % 2 else {}

        def ask(type: str, granularity: str) -> Columns:
            query = query_of(start, end, aggregationType=type, granularity=granularity, **groups)
            return reporter.columns(path, query)

        monthly, daily, hourly = (ask("month_to_date", granularity) for granularity in ("monthly", "daily", "hourly"))
        assert set(monthly) == set(daily) == set(hourly)
        daily_parts, hourly_parts = ask("incremental", "daily"), ask("incremental", "hourly")
        for group in monthly:
            assert monthly[group] == [daily[group][-1]] == [hourly[group][-1]]
            assert hourly[group][23::24] == daily[group]
            summed = [sum(hourly_parts[group][day * 24 : day * 24 + 24]) for day in range(31)]
            assert summed == daily_parts[group]

    for_each_history(check)


def test_values_do_not_depend_on_the_range(for_each_history: Runner) -> None:
    def check(reporter: Reporter, history: History) -> None:
        for row in ENDPOINTS:
            if row.answer != Answer.SERIES or not row.aggregations:
                continue
            choice = history.pick_from(row.aggregations)
            more = {"aggregationType": choice.name} if row.has_aggregation_parameter else {}
            more |= grouped(row, groups_of(history, row)) if row.groups and history.pick % 3 else {}
            whole_query = query_of(utc(2026, 9, 1), utc(2026, 11, 21), **more)
            whole_starts = reporter.ask(row.path, whole_query).starts
            whole = reporter.columns(row.path, whole_query)
            part_query = history.query(**more)
            part_starts = reporter.ask(row.path, part_query).starts
            part = reporter.columns(row.path, part_query)
            offset = whole_starts.index(part_starts[0])
            assert whole_starts[offset : offset + len(part_starts)] == part_starts
            for group, values in whole.items():
                expected = values[offset : offset + len(part_starts)]
                assert part.get(group, [0] * len(part_starts)) == expected, (row.path, group)
            assert set(part) <= set(whole)

    for_each_history(check)


def test_seconds_and_milliseconds_have_one_answer(for_each_history: Runner) -> None:
    def check(reporter: Reporter, history: History) -> None:
        start, end = (int(at.timestamp()) for at in sorted([history.first, history.second + HOUR]))
        for path in ("serverside-contexts", "clientside-mau", "vega-ai", "experimentation-keys", "mau"):
            in_seconds = reporter.ask(path, f"from={start}&to={end + 1}")
            assert in_seconds == reporter.ask(path, f"from={start}000&to={end + 1}000")

    for_each_history(check)


def test_customers_together_are_all(for_each_history: Runner) -> None:
    def check(reporter: Reporter, history: History) -> None:
        customers = {sent.customer for sent in history.events}
        query = history.query(aggregationType="month_to_date")
        alone = [reporter.values("data-export-events", query, customer=customer) for customer in customers]
        assert [sum(values) for values in zip(*alone, strict=True)] == reporter.values("data-export-events", query)

    for_each_history(check)
