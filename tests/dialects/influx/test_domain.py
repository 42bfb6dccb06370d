"""How series are named, and when a server counts as silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from accounts.models import Organization
from metering.dialects.influx.domain import (
    Report,
    ReportKind,
    ServerIdentity,
    append_gap,
    merge_facts,
    name_series,
    patience_with,
)
from metering.dialects.influx.models import Server
from metering.dialects.influx.services.reports import record_server

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
REPORT = Report(ReportKind.USAGE, ServerIdentity("influxdb", "clus1", "serv1"))


@pytest.mark.parametrize(
    ("name", "tags", "series"),
    [
        ("engine", {}, "engine"),
        ("shard", {"id": "7", "engine": "tsm1"}, "shard,engine=tsm1,id=7"),
        ("a b", {"k,1": "v=2", "back": "\\"}, "a\\ b,back=\\\\,k\\,1=v\\=2"),
    ],
)
def test_series_are_named_as_in_line_protocol(name: str, tags: dict[str, str], series: str) -> None:
    assert name_series(name, tags) == series


def test_different_tags_never_make_the_same_series() -> None:
    assert name_series("s", {"a": "1,b=2"}) != name_series("s", {"a": "1", "b": "2"})


def test_new_facts_push_out_old_ones() -> None:
    old = {f"old_{number}": "x" for number in range(64)}
    merged = merge_facts(old, {"new": "1", "old_0": "y"})
    assert len(merged) == 64
    assert (merged["new"], merged["old_0"]) == ("1", "y")


class TestPatience:
    def test_of_a_server_heard_of_once_is_two_days(self) -> None:
        assert patience_with([]) == timedelta(days=2)

    def test_is_twice_the_median(self) -> None:
        assert patience_with([3600, 3600, 86_400 * 9]) == timedelta(hours=2)

    def test_is_five_minutes_at_least(self) -> None:
        assert patience_with([60]) == timedelta(minutes=5)

    def test_is_learnt_from_the_last_nine_gaps(self) -> None:
        gaps: list[int] = []
        for hours in [24] * 9 + [1] * 5:
            gaps = append_gap(gaps, timedelta(hours=hours))
        assert patience_with(gaps) == timedelta(hours=2)


@pytest.mark.django_db
class TestSilence:
    def report(self, org: Organization, *minutes: float) -> Server:
        for minute in minutes:
            server = record_server(
                organization=org, report=REPORT, customer="clus1", now=NOW + timedelta(minutes=minute)
            )
        return server

    def test_what_comes_at_once_is_one_sign_of_life(self, org: Organization) -> None:
        """A start: the server, its usage and its statistics; then usage once a day."""
        day = 24 * 60
        server = self.report(org, 0, 0.01, 0.02, day, day + 0.01, 2 * day)

        assert server.gap_seconds == [86_400, 86_400]
        assert server.silent_at == NOW + timedelta(days=4)

    def test_reports_every_ten_seconds_are_a_beat_a_minute(self, org: Organization) -> None:
        server = self.report(org, *(number / 6 for number in range(31)))

        assert server.gap_seconds == [60] * 5
        assert server.last_seen_at == NOW + timedelta(minutes=5)
        assert server.silent_at == NOW + timedelta(minutes=10)

    def test_a_report_that_was_overtaken_does_not_turn_time_back(self, org: Organization) -> None:
        server = self.report(org, 60, 0)

        assert server.last_seen_at == NOW + timedelta(minutes=60)
        assert server.gap_seconds == []
