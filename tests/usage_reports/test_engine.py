"""What the reports answer, on histories small enough to count by hand. `now` is 2026-11-20, noon."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from accounts.queries import project_ids
from common.errors import BadRequest
from metering import queries
from tests.metering.meter import utc
from tests.usage_reports.reporter import Reporter, span

pytestmark = pytest.mark.django_db
MICROSECOND = timedelta(microseconds=1)


class TestBuckets:
    def starts(self, reporter: Reporter, path: str, query: str) -> list[datetime]:
        return reporter.ask(path, query).starts

    def test_overlap_the_range_and_are_named_by_their_start(self, reporter: Reporter) -> None:
        query = span(utc(2026, 11, 3, 17), utc(2026, 11, 5, 0, 0, 1))
        assert self.starts(reporter, "vega-ai", query) == [utc(2026, 11, 3), utc(2026, 11, 4), utc(2026, 11, 5)]

    def test_end_is_not_in_the_range(self, reporter: Reporter) -> None:
        query = span(utc(2026, 11, 3), utc(2026, 11, 5))
        assert self.starts(reporter, "vega-ai", query) == [utc(2026, 11, 3), utc(2026, 11, 4)]

    def test_have_begun(self, reporter: Reporter) -> None:
        query = span(utc(2026, 11, 19), utc(2027, 1, 1))
        assert self.starts(reporter, "vega-ai", query) == [utc(2026, 11, 19), utc(2026, 11, 20)]
        hourly = f"granularity=hourly&{span(utc(2026, 11, 20, 10), utc(2027, 1, 1))}"
        assert self.starts(reporter, "service-connections", hourly) == [
            utc(2026, 11, 20, hour) for hour in (10, 11, 12)
        ]
        assert self.starts(reporter, "vega-ai", span(utc(2026, 12, 1), utc(2027, 1, 1))) == []

    def test_are_months_from_the_month_of_the_first_to_that_of_the_last_moment(self, reporter: Reporter) -> None:
        query = f"granularity=monthly&{span(utc(2026, 9, 30, 23), utc(2026, 11, 1, 1))}"
        assert self.starts(reporter, "total-mau", query) == [utc(2026, month, 1) for month in (9, 10, 11)]

    def test_of_two_hours_are_minutes(self, reporter: Reporter) -> None:
        reporter.send("ld_events", utc(2026, 11, 20, 11, 58, 30), value=2, direction="received")
        reporter.send("ld_events", utc(2026, 11, 20, 12), value=5, direction="received")
        reporter.send("ld_events", utc(2026, 11, 20, 12), value=7, direction="published")
        query = span(utc(2026, 11, 20, 11, 57, 59), utc(2026, 11, 20, 12, 30))
        assert self.starts(reporter, "events/received", query)[0] == utc(2026, 11, 20, 11, 57)
        assert reporter.values("events/received", query) == [0, 2, 0, 5]


class TestTotals:
    """An amount is counted whole in every bucket that shows."""

    @pytest.fixture
    def exports(self, reporter: Reporter) -> Reporter:
        october_ends, november_begins = utc(2026, 11, 1) - MICROSECOND, utc(2026, 11, 1)
        reporter.send("ld_data_export_events", october_ends, value=100)
        reporter.send("ld_data_export_events", november_begins, value=1)
        reporter.send("ld_data_export_events", utc(2026, 11, 2, 23, 30), value=10)
        reporter.send("ld_data_export_events", utc(2026, 10, 5), value=1000)
        return reporter

    RANGE = span(utc(2026, 10, 30), utc(2026, 11, 4))

    @pytest.mark.parametrize("is_rolled_up", [False, True], ids=["pending", "rolled up"])
    def test_month_to_date_starts_again_with_the_first_instant_of_a_month(
        self, exports: Reporter, is_rolled_up: bool
    ) -> None:
        if is_rolled_up:
            exports.meter.roll_up()
        assert exports.values("data-export-events", self.RANGE) == [1000, 1100, 1, 11, 11]

    def test_incremental_is_each_bucket_alone(self, exports: Reporter) -> None:
        values = exports.values("data-export-events", f"aggregationType=incremental&{self.RANGE}")
        assert values == [0, 100, 1, 10, 0]

    def test_monthly_is_the_month(self, exports: Reporter) -> None:
        assert exports.values("data-export-events", f"granularity=monthly&{self.RANGE}") == [1100, 11]

    def test_the_range_cuts_no_bucket(self, exports: Reporter) -> None:
        noon_to_noon = span(utc(2026, 10, 31, 12), utc(2026, 11, 2, 12))
        assert exports.values("data-export-events", noon_to_noon) == [1100, 1, 11]
        assert exports.values("data-export-events", f"aggregationType=incremental&{noon_to_noon}") == [100, 1, 10]
        assert exports.values("data-export-events", f"granularity=monthly&{noon_to_noon}") == [1100, 11]

    def test_hourly(self, exports: Reporter) -> None:
        hours = span(utc(2026, 10, 31, 22), utc(2026, 11, 1, 2))
        assert exports.values("data-export-events", f"granularity=hourly&{hours}") == [1000, 1100, 1, 1]
        incremental = f"granularity=hourly&aggregationType=incremental&{hours}"
        assert exports.values("data-export-events", incremental) == [0, 100, 1, 0]

    def test_leap_day_is_a_day_of_february(self, reporter: Reporter) -> None:
        reporter.send("ld_vega_ai", utc(2024, 2, 29), utc(2024, 3, 1) - MICROSECOND, value=1)
        reporter.send("ld_vega_ai", utc(2024, 3, 1), value=5)
        assert reporter.values("vega-ai", span(utc(2024, 2, 28), utc(2024, 3, 2))) == [0, 2, 5]
        assert reporter.values("vega-ai", f"granularity=monthly&{span(utc(2024, 2, 1), utc(2024, 3, 2))}") == [2, 5]

    def test_rolling_is_the_thirty_days_that_end_with_the_bucket(self, reporter: Reporter) -> None:
        reporter.send("ld_vega_ai", utc(2026, 10, 3), value=1)
        reporter.send("ld_vega_ai", utc(2026, 11, 2) - MICROSECOND, value=10)
        query = f"aggregationType=rolling_30d&{span(utc(2026, 11, 1), utc(2026, 11, 4))}"
        # October 3 to November 1 are thirty days.
        assert reporter.values("vega-ai", query) == [11, 10, 10]

    def test_fractions_stay_exact_where_the_contract_has_them(self, reporter: Reporter) -> None:
        reporter.send("ld_service_connection_minutes", utc(2026, 11, 2), value="0.1", sdkType="server")
        reporter.send("ld_service_connection_minutes", utc(2026, 11, 2), value="0.2", sdkType="server")
        reporter.send("ld_service_connection_minutes", utc(2026, 11, 3), value="0.7", sdkType="server")
        query = span(utc(2026, 11, 1), utc(2026, 11, 4))
        assert reporter.values("service-connections", query) == [0, Decimal("0.3"), 1]
        assert reporter.values("service-connections", f"sdkType=client&{query}") == [0, 0, 0]

    def test_elsewhere_they_round_half_to_even(self, reporter: Reporter) -> None:
        for day, value in enumerate(["0.5", "1.5", "2.5", "3.4"], start=1):
            reporter.send("ld_vega_ai", utc(2026, 11, day), value=value)
        query = f"aggregationType=incremental&{span(utc(2026, 11, 1), utc(2026, 11, 5))}"
        values = reporter.values("vega-ai", query)
        assert values == [0, 2, 2, 3]
        assert {type(value) for value in values} == {int}

    def test_numbers_beyond_64_bits_keep_every_digit(self, reporter: Reporter) -> None:
        large = 10**24 + 1
        reporter.send("ld_vega_ai", utc(2026, 11, 1), utc(2026, 11, 2), value=str(large))
        assert reporter.values("vega-ai", span(utc(2026, 11, 1), utc(2026, 11, 3))) == [large, 2 * large]

    def test_average_is_of_the_hours_that_have_begun(self, reporter: Reporter) -> None:
        metrics = "ld_observability_metrics"
        reporter.send(metrics, utc(2026, 11, 18, 7), value=48)
        reporter.send(metrics, utc(2026, 11, 19, 7), value=84)  # 3.5 an hour
        reporter.send(metrics, utc(2026, 11, 20, 11, 59), value=26)  # 13 hours of today have begun at noon
        days = span(utc(2026, 11, 18), utc(2026, 11, 21))
        assert reporter.values("observability/metrics", f"aggregationType=average&{days}") == [2, 4, 2]
        hours = span(utc(2026, 11, 20, 10), utc(2026, 11, 20, 13))
        hourly = f"aggregationType=average&granularity=hourly&{hours}"
        assert reporter.values("observability/metrics", hourly) == [0, 26, 0]
        # 158 in 19 days and 13 hours.
        monthly = f"aggregationType=average&granularity=monthly&{days}"
        reporter.send(metrics, utc(2026, 11, 1), value=469 * 2 - 158)
        assert reporter.values("observability/metrics", monthly) == [2]


class TestDistinct:
    def test_month_to_date_counts_each_key_once_a_month(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 10, 31), utc(2026, 11, 1), utc(2026, 11, 3))
        reporter.see("ben", utc(2026, 11, 2), utc(2026, 11, 3))
        reporter.see("cy", utc(2026, 10, 30))
        days = span(utc(2026, 10, 30), utc(2026, 11, 4))
        assert reporter.values("total-mau", days) == [1, 2, 1, 2, 2]
        assert reporter.values("total-mau", f"aggregationType=incremental&{days}") == [1, 1, 1, 1, 0]
        assert reporter.values("total-mau", f"granularity=monthly&{days}") == [2, 2]

    def test_incremental_of_a_range_within_a_month_knows_who_was_seen_before_it(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 1), utc(2026, 11, 10))
        reporter.see("ben", utc(2026, 11, 10))
        query = f"aggregationType=incremental&{span(utc(2026, 11, 10), utc(2026, 11, 12))}"
        assert reporter.values("total-mau", query) == [1, 0]

    def test_rolling_counts_each_key_once_in_thirty_days(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 10, 3), utc(2026, 11, 2))
        reporter.see("ben", utc(2026, 10, 4))
        query = f"aggregationType=rolling_30d&{span(utc(2026, 11, 1), utc(2026, 11, 5))}"
        assert reporter.values("total-mau", query) == [2, 2, 1, 1]

    def test_a_key_in_two_projects_is_one_key(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 19), projectKey="shop")
        reporter.see("ann", utc(2026, 11, 19), projectKey="blog")
        query = span(utc(2026, 11, 20), utc(2026, 11, 21))
        assert reporter.values("total-mau", query) == [1]
        assert list(reporter.columns("total-mau", f"groupBy=projectId&{query}").values()) == [[1], [1]]

    def test_a_key_in_two_experiments_counts_twice(self, reporter: Reporter) -> None:
        for experiment, project in (("colour", "shop"), ("size", "shop"), ("size", "blog")):
            reporter.send(
                "ld_experimentation_keys",
                utc(2026, 11, 19, 5),
                contextKey="ann",
                experimentId=experiment,
                projectKey=project,
            )
        reporter.send("ld_experimentation_keys", utc(2026, 11, 20), contextKey="ben", experimentId="size")
        query = span(utc(2026, 11, 19), utc(2026, 11, 21))
        assert reporter.values("experimentation-keys", query) == [2, 3]
        assert reporter.values("experimentation-keys", f"aggregationType=incremental&{query}") == [2, 1]
        assert reporter.values("experimentation-keys", f"experimentId=size&{query}") == [1, 2]
        by_experiment = reporter.columns("experimentation-keys", f"groupBy=experimentId&{query}")
        assert by_experiment == {("colour",): [1, 1], ("size",): [1, 2]}
        shop = project_ids(reporter.meter.organization)["shop"]
        blog = project_ids(reporter.meter.organization)["blog"]
        by_project = reporter.columns("experimentation-keys", f"groupBy=projectId&{query}")
        assert by_project == {(shop,): [2, 2], (blog,): [1, 1], ("Unknown",): [0, 1]}

    def test_keys_of_experiments_by_the_hour(self, reporter: Reporter) -> None:
        reporter.send("ld_experimentation_keys", utc(2026, 11, 1, 3), contextKey="ann", experimentId="size")
        reporter.send("ld_experimentation_keys", utc(2026, 11, 2, 3), contextKey="ann", experimentId="size")
        reporter.send("ld_experimentation_keys", utc(2026, 11, 2, 4), contextKey="ben", experimentId="size")
        hours = f"granularity=hourly&{span(utc(2026, 11, 2, 2), utc(2026, 11, 2, 6))}"
        assert reporter.values("experimentation-keys", hours) == [1, 1, 2, 2]
        assert reporter.values("experimentation-keys", f"aggregationType=incremental&{hours}") == [0, 0, 1, 0]


class TestZones:
    def test_days_break_where_the_zone_has_them(self, reporter: Reporter) -> None:
        # The clocks of New York go back on November 1 at 6:00 UTC: that day has 25 hours.
        reporter.send("ld_streams", utc(2026, 11, 1, 3, 59), value=1, source="client")
        reporter.send("ld_streams", utc(2026, 11, 1, 4), value=10, source="client")
        reporter.send("ld_streams", utc(2026, 11, 2, 4, 59), value=100, source="client")
        reporter.send("ld_streams", utc(2026, 11, 2, 5), value=1000, source="client")
        query = f"tz=America/New_York&{span(utc(2026, 10, 31, 12), utc(2026, 11, 2, 12))}"
        report = reporter.ask("streams/client", query)
        assert report.starts == [utc(2026, 10, 31, 4), utc(2026, 11, 1, 4), utc(2026, 11, 2, 5)]
        assert report.columns == [[1, 110, 1000]]

    def test_days_of_spring_have_23_hours(self, reporter: Reporter) -> None:
        query = f"tz=Europe/Berlin&{span(utc(2026, 3, 28, 23), utc(2026, 3, 30))}"
        report = reporter.ask("streams/client", query)
        assert report.starts == [utc(2026, 3, 28, 23), utc(2026, 3, 29, 22)]

    def test_hours_do_not_move(self, reporter: Reporter) -> None:
        query = f"tz=Asia/Kolkata&{span(utc(2026, 11, 20, 3, 15), utc(2026, 11, 20, 5))}"
        assert reporter.ask("streams/client", query).starts == [utc(2026, 11, 20, 3), utc(2026, 11, 20, 4)]


class TestCustomers:
    def test_all_together_or_one_alone(self, reporter: Reporter) -> None:
        for customer, key in (("acme", "ann"), ("acme", "ben"), ("globex", "ann")):
            reporter.see(key, utc(2026, 11, 20), customer=customer)
        today = span(utc(2026, 11, 20), utc(2026, 11, 21))
        assert reporter.values("total-mau", today) == [2]
        assert reporter.values("total-mau", today, customer="acme") == [2]
        assert reporter.values("total-mau", today, customer="globex") == [1]

    def test_a_customer_has_a_primary_kind_of_its_own(self, reporter: Reporter) -> None:
        for key in ("ann", "ben"):
            reporter.see(key, utc(2026, 11, 20), customer="acme")
        reporter.see("phone", utc(2026, 11, 20), customer="globex", contextKind="device")
        today = span(utc(2026, 11, 20), utc(2026, 11, 21))
        assert reporter.values("total-mau", today) == [2]
        assert reporter.values("total-mau", today, customer="globex") == [1]


class TestLists:
    def test_sdks_are_those_of_the_days_of_the_range(self, reporter: Reporter) -> None:
        reporter.see("a", utc(2026, 11, 12) - MICROSECOND, sdkName="Old")
        reporter.see("a", utc(2026, 11, 13, 1), sdkName="iOS")
        reporter.see("a", utc(2026, 11, 14), sdkName="Go", sdkType="server")
        reporter.see("a", utc(2026, 11, 20))
        assert reporter.list("mau/sdks") == [("Go",), ("Unknown",), ("iOS",)]
        assert reporter.list("mau/sdks", "sdktype=client") == [("Unknown",), ("iOS",)]
        assert reporter.list("mau/sdks", "sdktype=server") == [("Go",)]
        assert reporter.list("mau/sdks", span(utc(2026, 11, 11, 9), utc(2026, 11, 12))) == [("Old",)]

    def test_versions_are_those_of_the_past_sixty_days(self, reporter: Reporter) -> None:
        reporter.send("ld_streams", utc(2026, 9, 21), value=1, source="client", sdkName="iOS", sdkVersion="9")
        reporter.send("ld_streams", utc(2026, 9, 20), value=1, source="client", sdkName="iOS", sdkVersion="8")
        reporter.send("ld_streams", utc(2026, 11, 20), value=1, source="client", sdkName="iOS")
        reporter.send("ld_streams", utc(2026, 11, 20), value=1, source="server", sdkName="Go", sdkVersion="7")
        assert reporter.list("streams/client/sdkversions") == [("iOS", "9"), ("iOS", "Unknown")]
        assert reporter.list("streams/server/sdkversions") == [("Go", "7")]
        assert reporter.list("streams/mobile/sdkversions") == []


class TestBounds:
    def test_refuses_more_points_than_anybody_reads(self, reporter: Reporter) -> None:
        with pytest.raises(BadRequest, match="more than"):
            reporter.ask("observability/metrics", "granularity=hourly&from=0")

    def test_refuses_more_values_than_anybody_reads(self, reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queries.usage, "MAX_POINTS", 60)
        for name in ("iOS", "Go", "Rust"):
            reporter.see("ann", utc(2026, 11, 1), sdkName=name)
        assert len(reporter.columns("total-mau", "groupBy=sdkName")) == 3
        reporter.see("ann", utc(2026, 11, 1), sdkName="C")
        with pytest.raises(BadRequest, match="more than"):
            reporter.columns("total-mau", "groupBy=sdkName")

    def test_lines_that_are_only_added_up_may_be_more(
        self, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(9):
            for day in (1, 7, 19):
                key = "late" if day == 19 else "early"
                reporter.send(
                    "ld_experimentation_keys", utc(2026, 11, day), contextKey=key, experimentId=f"experiment-{number}"
                )
        query = span(utc(2026, 10, 31), utc(2026, 11, 21))
        expected = [0] + [9] * 18 + [18] * 2
        assert reporter.values("experimentation-keys", query) == expected
        monkeypatch.setattr(queries.usage, "MAX_POINTS", 60)  # in one read there would be 9 times 21
        assert reporter.values("experimentation-keys", query) == expected
        incremental = reporter.values("experimentation-keys", f"aggregationType=incremental&{query}")
        assert incremental == [0, 9] + [0] * 17 + [9, 0]
        with pytest.raises(BadRequest, match="more than"):
            reporter.columns("data-export-events", f"granularity=hourly&{query}")
