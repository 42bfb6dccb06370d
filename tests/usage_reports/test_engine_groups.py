"""How answers are split: by groups, by what is unknown, and by the primary kind of each month. Counted by hand."""

from __future__ import annotations

import pytest

from accounts.queries import environment_ids, project_ids
from accounts.services import create_environment, create_project
from tests.metering.meter import utc
from tests.usage_reports.reporter import Reporter, span

pytestmark = pytest.mark.django_db


class TestGroups:
    TODAY = span(utc(2026, 11, 20), utc(2026, 11, 21))

    def test_contexts_are_always_split_by_kind(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 20), sdkName="Go", sdkType="server")
        reporter.see("phone", utc(2026, 11, 20), contextKind="device", sdkName="iOS")
        assert reporter.columns("total-contexts", self.TODAY) == {("device",): [1], ("user",): [1]}
        assert reporter.columns("clientside-contexts", self.TODAY) == {("device",): [1]}
        assert reporter.columns("serverside-contexts", self.TODAY) == {("user",): [1]}
        assert reporter.columns("total-contexts", f"groupBy=sdkName,sdkType&{self.TODAY}") == {
            ("Go", "server", "user"): [1],
            ("iOS", "client", "device"): [1],
        }

    def test_without_usage_have_no_column(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 1), utc(2026, 11, 20))
        reporter.see("box", utc(2026, 11, 20), contextKind="device")
        # Today is not the first day of the month on which ann was seen.
        newly_seen = f"aggregationType=incremental&{self.TODAY}"
        assert reporter.columns("total-contexts", newly_seen) == {("device",): [1]}
        report = reporter.ask("total-contexts", f"sdkName=Go&{self.TODAY}")
        assert (report.metadata, report.columns, len(report.starts)) == ([], [], 1)

    def test_ungrouped_there_is_one_column_even_without_usage(self, reporter: Reporter) -> None:
        report = reporter.ask("total-mau", self.TODAY)
        assert (report.metadata, report.columns) == ([{}], [[0]])

    def test_are_named_as_in_the_request_and_stand_in_its_order(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 20), sdkName="iOS", anonymous="true")
        report = reporter.ask("total-mau", f"groupBy=sdkName&groupBy=anonymousV2&{self.TODAY}")
        assert report.metadata == [{"sdkName": "iOS", "anonymousV2": "true"}]
        old = reporter.ask("mau", f"groupby=sdk&groupby=anonymous,contextKind&{self.TODAY}")
        assert old.metadata == [{"sdk": "iOS", "anonymous": "true", "contextKind": "user"}]

    def test_show_projects_and_environments_by_their_ids(self, reporter: Reporter) -> None:
        organization = reporter.meter.organization
        create_project(organization=organization, actor="test", key="shop", name="Shop", hex_id="a" * 24)
        for project in ("shop", "blog"):
            reporter.see("ann", utc(2026, 11, 20), projectKey=project, environmentKey="live")
        environments, blog = environment_ids(organization), project_ids(organization)["blog"]
        assert list(reporter.columns("total-mau", f"groupBy=projectId&{self.TODAY}")) == sorted([("a" * 24,), (blog,)])
        # The same key in two projects is two environments.
        by_environment = list(reporter.columns("total-mau", f"groupBy=environmentId&{self.TODAY}"))
        assert by_environment == sorted([(environments["shop", "live"],), (environments["blog", "live"],)])
        both = list(reporter.columns("total-mau", f"groupBy=environmentId,projectId&{self.TODAY}"))
        assert both == sorted([(environments["shop", "live"], "a" * 24), (environments["blog", "live"], blog)])

    def test_an_id_stays_when_its_key_is_registered(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 20), projectKey="shop", environmentKey="night")
        query = f"groupBy=projectId,environmentId&{self.TODAY}"
        before = reporter.columns("total-mau", query)
        organization = reporter.meter.organization
        project = create_project(organization=organization, actor="test", key="shop", name="Shop")
        create_environment(organization=organization, actor="test", project=project, key="night", name="Night")
        assert reporter.columns("total-mau", query) == before

    def test_what_events_lack_is_unknown_and_a_filter_finds_it(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 20), sdkName="iOS")
        reporter.see("ben", utc(2026, 11, 20))
        reporter.see("cy", utc(2026, 11, 20), projectKey="shop")
        query = f"groupBy=sdkName&{self.TODAY}"
        assert reporter.columns("total-mau", query) == {("Unknown",): [2], ("iOS",): [1]}
        assert reporter.values("total-mau", f"sdkName=Unknown&{self.TODAY}") == [2]
        assert reporter.values("total-mau", f"sdkName=Unknown&sdkName=iOS&{self.TODAY}") == [3]
        assert reporter.values("total-mau", f"projectKey=Unknown&{self.TODAY}") == [2]

    def test_keys_that_are_unknown_in_several_ways_count_once(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 20), projectKey="shop")
        reporter.see("ann", utc(2026, 11, 20), projectKey="blog")
        reporter.see("ann", utc(2026, 11, 20), sdkAppId="Unknown")
        reporter.see("ben", utc(2026, 11, 20), projectKey="blog", sdkAppId="Unknown")
        reporter.see("cy", utc(2026, 11, 20), projectKey="blog", environmentKey="live", sdkAppId="till")
        live = environment_ids(reporter.meter.organization)["blog", "live"]
        by_app = reporter.columns("total-mau", f"groupBy=sdkAppId&{self.TODAY}")
        assert by_app == {("Unknown",): [2], ("till",): [1]}
        by_environment = reporter.columns("total-mau", f"groupBy=environmentId&{self.TODAY}")
        assert by_environment == {("Unknown",): [2], (live,): [1]}
        both = reporter.columns("total-mau", f"groupBy=environmentId,sdkAppId&{self.TODAY}")
        assert both == {("Unknown", "Unknown"): [2], (live, "till"): [1]}
        only_blog = reporter.columns("total-mau", f"groupBy=sdkAppId&projectKey=blog&{self.TODAY}")
        assert only_blog == {("Unknown",): [2], ("till",): [1]}

    def test_amounts_that_are_unknown_in_several_ways_add_up(self, reporter: Reporter) -> None:
        reporter.send("ld_data_export_events", utc(2026, 11, 20), value=2, projectKey="shop")
        reporter.send("ld_data_export_events", utc(2026, 11, 20), value=3, projectKey="blog")
        assert reporter.columns("data-export-events", f"groupBy=environmentId&{self.TODAY}") == {("Unknown",): [5]}

    def test_filters_are_conditions_and_repeated_ones_alternatives(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 20), sdkName="iOS", projectKey="shop")
        reporter.see("ben", utc(2026, 11, 20), sdkName="Go", projectKey="shop")
        reporter.see("cy", utc(2026, 11, 20), sdkName="iOS", projectKey="blog")
        assert reporter.values("total-mau", f"sdkName=iOS&projectKey=shop&{self.TODAY}") == [1]
        assert reporter.values("total-mau", f"sdkName=iOS&sdkName=Go&{self.TODAY}") == [3]
        assert reporter.values("total-mau", f"sdkName=Rust&{self.TODAY}") == [0]

    def test_variations_and_versions_have_their_columns(self, reporter: Reporter) -> None:
        place = {"projectKey": "shop", "environmentKey": "live"}
        for variation, count in (("on", 3), ("off", 1)):
            reporter.send(
                "ld_evaluations", utc(2026, 11, 20, 5), value=count, flagKey="banner", variation=variation, **place
            )
        reporter.send("ld_evaluations", utc(2026, 11, 20, 5), value=9, flagKey="footer", variation="on", **place)
        report = reporter.ask("evaluations/shop/live/banner", span(utc(2026, 11, 1), utc(2026, 11, 21)))
        assert report.metadata == [{"variation": "off"}, {"variation": "on"}]
        assert [values[-1] for values in report.columns] == [1, 3]
        reporter.send("ld_streams", utc(2026, 11, 20, 5), value=4, source="server", sdkName="Go", sdkVersion="7.1")
        reporter.send("ld_streams", utc(2026, 11, 20, 5), value=5, source="server", sdkName="Go")
        by_version = reporter.ask("streams/server/bysdkversion", span(utc(2026, 11, 20, 5), utc(2026, 11, 20, 6)))
        assert by_version.metadata == [
            {"sdk": "Go", "version": "7.1", "source": "server"},
            {"sdk": "Go", "version": "Unknown", "source": "server"},
        ]
        assert by_version.columns == [[4], [5]]

    def test_categories_are_always_three(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 20), category="mobile")
        reporter.see("ben", utc(2026, 11, 20), category="mobile")
        reporter.see("cy", utc(2026, 11, 20))
        columns = reporter.columns("mau/bycategory", self.TODAY)
        assert columns == {("backend",): [0], ("browser",): [0], ("mobile",): [2]}


class TestPrimaryKind:
    DAYS = span(utc(2026, 10, 30), utc(2026, 11, 3))

    @pytest.fixture
    def kinds(self, reporter: Reporter) -> Reporter:
        """In October two devices and a user, in November two users and a device; all of client-side SDKs."""
        for key in ("phone", "tablet"):
            reporter.see(key, utc(2026, 10, 30), contextKind="device")
        reporter.see("ann", utc(2026, 10, 31))
        reporter.see("ann", utc(2026, 11, 1))
        reporter.see("ben", utc(2026, 11, 2), sdkName="iOS")
        reporter.see("phone", utc(2026, 11, 1), contextKind="device")
        return reporter

    def test_is_that_of_each_month(self, kinds: Reporter) -> None:
        assert kinds.values("clientside-mau", self.DAYS) == [2, 2, 1, 2]
        assert kinds.values("total-mau", f"granularity=monthly&{self.DAYS}") == [2, 2]
        assert kinds.values("clientside-mau", f"aggregationType=incremental&{self.DAYS}") == [2, 0, 1, 1]

    def test_holds_for_all_thirty_days_of_a_rolling_count(self, kinds: Reporter) -> None:
        # On November 1 the users of the last thirty days are counted, of whom October has one: the same.
        assert kinds.values("clientside-mau", f"aggregationType=rolling_30d&{self.DAYS}") == [2, 2, 1, 2]

    def test_holds_for_categories(self, kinds: Reporter) -> None:
        kinds.see("tv", utc(2026, 11, 2), contextKind="device", category="mobile")
        kinds.see("zoe", utc(2026, 11, 2), category="mobile")
        day = span(utc(2026, 11, 2), utc(2026, 11, 3))
        assert kinds.columns("mau/bycategory", day) == {("backend",): [0], ("browser",): [0], ("mobile",): [1]}

    def test_belongs_to_the_account_and_not_to_the_question(self, kinds: Reporter) -> None:
        assert kinds.values("clientside-mau", f"sdkName=iOS&{self.DAYS}") == [0, 0, 0, 1]
        assert kinds.columns("clientside-mau", f"groupBy=sdkName&{self.DAYS}") == {
            ("Unknown",): [2, 2, 1, 1],
            ("iOS",): [0, 0, 0, 1],
        }

    def test_is_that_of_the_whole_month_however_short_the_range(self, kinds: Reporter) -> None:
        # On the last of October only a user is seen, but the month has more devices.
        last_day = span(utc(2026, 10, 31), utc(2026, 11, 1))
        assert kinds.values("clientside-mau", last_day) == [2]
        assert kinds.values("clientside-mau", f"aggregationType=incremental&{last_day}") == [0]
        kinds.see("box", utc(2026, 11, 20), contextKind="device")
        kinds.see("bag", utc(2026, 11, 20), contextKind="device")
        assert kinds.values("clientside-mau", span(utc(2026, 11, 2), utc(2026, 11, 3))) == [1]

    def test_is_measured_by_client_side_sdks_alone(self, kinds: Reporter) -> None:
        for number in range(5):
            kinds.see(f"server-{number}", utc(2026, 11, 1), contextKind="service", sdkType="server")
        assert kinds.values("total-mau", self.DAYS) == [2, 2, 1, 2]
        kinds.see("zoe", utc(2026, 11, 1), sdkType="server")
        assert kinds.values("total-mau", self.DAYS) == [2, 2, 2, 3]
        assert kinds.values("clientside-mau", self.DAYS) == [2, 2, 1, 2]

    def test_of_equals_is_user_then_the_first_by_name(self, reporter: Reporter) -> None:
        reporter.see("x", utc(2026, 10, 30), contextKind="team")
        reporter.see("y", utc(2026, 10, 30), utc(2026, 10, 31), contextKind="device")
        reporter.see("a", utc(2026, 11, 1), contextKind="device")
        reporter.see("b", utc(2026, 11, 2))
        assert reporter.values("clientside-mau", self.DAYS) == [1, 1, 0, 1]
        october = reporter.columns("clientside-mau", f"groupBy=sdkName&granularity=monthly&{self.DAYS}")
        assert october == {("Unknown",): [1, 1]}

    def test_of_a_month_without_contexts_is_user(self, reporter: Reporter) -> None:
        reporter.see("ann", utc(2026, 11, 2), sdkType="server")
        reporter.see("box", utc(2026, 11, 2), sdkType="server", contextKind="service")
        assert reporter.values("total-mau", self.DAYS) == [0, 0, 0, 1]

    def test_does_not_matter_to_the_old_endpoint(self, kinds: Reporter) -> None:
        month_to_date = f"aggregationType=month_to_date&{self.DAYS}"
        assert kinds.values("mau", month_to_date) == [0, 1, 1, 2]
        assert kinds.values("mau", f"contextKind=device&{month_to_date}") == [2, 2, 1, 1]
        assert kinds.values("mau", f"contextKind=device&contextKind=user&{month_to_date}") == [2, 3, 2, 3]
        assert kinds.values("mau", f"aggregationType=daily_incremental&{self.DAYS}") == [0, 1, 1, 1]
