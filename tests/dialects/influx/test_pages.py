"""The fleet page and the page of one server."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Organization, User
from accounts.services import IssuedKey
from metering.catalogs.usage_client import REPORTED_VALUE
from metering.dialects.influx.contexts.server import between_reports, held_values, hour_ticks
from metering.dialects.influx.domain import Report, ReportedValue, ReportKind, ServerIdentity
from metering.dialects.influx.models import Server
from metering.dialects.influx.queries.history import Reported
from metering.dialects.influx.services.reports import record_server, store_reports
from metering.services.ingest import IngestLimits
from metering.services.rollup import roll_up_organization
from tests import factories

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@pytest.fixture
def browser(client_for: Callable[[User], Client], alice: User, org: Organization) -> Client:
    return client_for(alice)


@pytest.fixture
def hour() -> datetime:
    """The hour that is under way, less a whole one: never in the future, whenever the test runs."""
    return timezone.now().replace(minute=0, second=0, microsecond=0) - HOUR


def report(
    org: Organization, *, at: datetime, identity: tuple[str, str, str] = ("influxdb", "clus1", "serv1"), **values: float
) -> Server:
    """Store a report as it came in at a time, through the services that the API calls."""
    server = ServerIdentity(*identity)
    told = Report(ReportKind.USAGE, server, host=f"{server.server_id}.example.com", version="1.0")
    told.values = [ReportedValue("usage", name, Decimal(str(value))) for name, value in values.items()]
    store_reports(organization=org, actor="test", reports=[told], limits=IngestLimits(), now=at)
    return Server.objects.for_organization(org).get(
        product=server.product, cluster_id=server.cluster_id, server_id=server.server_id
    )


def fleet_url(org: Organization, query: str = "") -> str:
    return f"/o/{org.pk}/fleet/{query}"


def page_of(response: Any) -> Any:
    assert response.status_code == 200, response.status_code
    return response.context["page"]


def names(page: Any) -> list[str]:
    return [row.name for row in page.rows]


class TestFleet:
    def test_without_servers_it_shows_how_to_point_the_client_here(
        self, browser: Client, org: Organization, settings: Any
    ) -> None:
        settings.PUBLIC_URL = "https://meter.example.com"
        text = browser.get(fleet_url(org)).content.decode()

        assert "No server has reported yet" in text
        assert "client.URL = &quot;https://meter.example.com&quot;" in text
        assert "https://meter.example.com/api/v1/usage/influxdb" in text
        assert "https://meter.example.com/start?cluster_id=clus1" in text

    def test_the_call_that_it_shows_works(self, browser: Client, org: Organization, api_key: IssuedKey) -> None:
        curl = page_of(browser.get(fleet_url(org))).first_report.curl
        path, body = re.findall(r"curl \S+(/api/v1/\S+)|-d '(.*)'", curl)
        headers = {"X-Authorization": api_key.text}

        assert browser.post(path[0], body[1], content_type="application/json", headers=headers).status_code == 201

        assert names(page_of(browser.get(fleet_url(org)))) == ["serv1"]

    def test_shows_servers_products_versions_and_clusters(self, browser: Client, org: Organization) -> None:
        now = timezone.now()
        report(org, at=now - 3 * HOUR, identity=("influxdb", "clus1", "serv1"))
        report(org, at=now - 2 * HOUR, identity=("influxdb", "clus1", "serv2"))
        report(org, at=now - HOUR, identity=("kapacitor", "clus2", "serv3"))
        Server.objects.for_organization(org).filter(server_id="serv2").update(version="1.1")

        page = page_of(browser.get(fleet_url(org)))

        assert (page.size.servers, page.size.clusters, page.size.products, page.size.silent) == (3, 2, 2, 0)
        assert names(page) == ["serv3.example.com", "serv2.example.com", "serv1.example.com"]
        assert [(line.row.product, line.row.version, line.row.servers) for line in page.versions] == [
            ("influxdb", "1.0", 1),
            ("influxdb", "1.1", 1),
            ("kapacitor", "1.0", 1),
        ]

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("?product=kapacitor", ["serv3.example.com"]),
            ("?product=influxdb&version=1.1", ["serv2.example.com"]),
            ("?search=clus2", ["serv3.example.com"]),
            ("?search=serv1", ["serv1.example.com"]),
            ("?search=SERV2.ex", ["serv2.example.com"]),
            ("?product=none", []),
            ("?search=%00clus2", ["serv3.example.com"]),
        ],
    )
    def test_filters(self, browser: Client, org: Organization, query: str, found: list[str]) -> None:
        now = timezone.now()
        report(org, at=now, identity=("influxdb", "clus1", "serv1"))
        report(org, at=now, identity=("influxdb", "clus1", "serv2"))
        report(org, at=now, identity=("kapacitor", "clus2", "serv3"))
        Server.objects.for_organization(org).filter(server_id="serv2").update(version="1.1")

        assert names(page_of(browser.get(fleet_url(org, query)))) == found

    def test_silence_is_twice_the_usual_interval_or_the_chosen_time(self, browser: Client, org: Organization) -> None:
        now = timezone.now()
        for hours in (5, 4, 3):
            report(org, at=now - hours * HOUR, identity=("influxdb", "clus1", "hourly"))
        for hours in (51, 27, 3):
            report(org, at=now - hours * HOUR, identity=("influxdb", "clus1", "daily"))

        def silent(query: str) -> list[str]:
            page = page_of(browser.get(fleet_url(org, query)))
            shown = sorted(row.name for row in page.rows if row.is_silent)
            assert page.size.silent == len(shown)
            assert sorted(names(page_of(browser.get(fleet_url(org, f"{query}&state=silent"))))) == shown
            return shown

        assert silent("?") == ["hourly.example.com"]
        assert silent("?silence=1h") == ["daily.example.com", "hourly.example.com"]
        assert silent("?silence=6h") == []

    def test_what_makes_no_sense_is_told(self, browser: Client, org: Organization) -> None:
        report(org, at=timezone.now())
        page = page_of(browser.get(fleet_url(org, "?silence=never&state=x&after=nonsense")))
        assert len(page.problems) == 2
        assert len(page.rows) == 1

    def test_pages_hold_every_server_once(
        self, browser: Client, org: Organization, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("metering.dialects.influx.contexts.fleet.PAGE_SIZE", 2)
        now = timezone.now()
        for number in range(5):
            report(org, at=now - number // 3 * HOUR, identity=("influxdb", "clus1", f"serv{number}"))

        seen, url = [], "?product=influxdb"
        while url:
            page = page_of(browser.get(fleet_url(org, url)))
            seen += names(page)
            url = page.next_url

        assert sorted(seen) == [f"serv{number}.example.com" for number in range(5)]

    def test_queries_do_not_grow_with_servers(self, browser: Client, org: Organization) -> None:
        def count() -> int:
            browser.get(fleet_url(org))
            with CaptureQueriesContext(connection) as queries:
                browser.get(fleet_url(org))
            return len(queries)

        report(org, at=timezone.now(), n=1)
        few = count()
        for number in range(10):
            report(org, at=timezone.now(), identity=("influxdb", f"clus{number}", "s"), n=1)
        assert count() == few

    def test_is_the_organizations_own(
        self, client_for: Callable[[User], Client], charlie: User, org: Organization, other_org: Organization
    ) -> None:
        server = report(org, at=timezone.now(), n=1)
        outsider = client_for(charlie)

        assert page_of(outsider.get(fleet_url(other_org))).size.servers == 0
        assert outsider.get(fleet_url(org)).status_code == 404
        assert outsider.get(f"/o/{other_org.pk}/fleet/{server.pk}/").status_code == 404

    def test_what_servers_say_stays_text(self, browser: Client, org: Organization) -> None:
        mark = "<script>alert(1)</script>"
        report(org, at=timezone.now(), identity=(mark, mark, mark), **{mark: 1})
        server = Server.objects.for_organization(org).get()
        Server.objects.for_organization(org).update(facts={mark: mark}, host=mark, version=mark)

        for url in (fleet_url(org), f"/o/{org.pk}/fleet/{server.pk}/"):
            text = browser.get(url).content.decode()
            assert "alert(1)" in text
            assert mark not in text


class TestServer:
    def url(self, server: Server, query: str = "") -> str:
        return f"/o/{server.organization_id}/fleet/{server.pk}/{query}"

    @pytest.mark.parametrize("is_rolled", [False, True])
    def test_history_is_what_was_sent(
        self, browser: Client, api_client: Client, org: Organization, hour: datetime, is_rolled: bool
    ) -> None:
        """Readings in each hour: the last one stands; an hour without one has none. The API says the same."""
        sent = [(-6, 5, "87230"), (-6, 20, "87232.5"), (-5, 0, "9007199254740993"), (-2, 59, "0"), (0, 0, "-3")]
        for hours, minutes, value in sent:
            at = hour + timedelta(hours=hours, minutes=minutes)
            server = report(org, at=at, num_series=value, other=1)  # type: ignore[arg-type]
        if is_rolled:
            roll_up_organization(organization_id=org.pk, now=timezone.now())
        first, last = (hour - 6 * HOUR).date(), hour.date()
        query = f"?series=usage&field=num_series&first={first}&last={last}&by=hour"

        history = page_of(browser.get(self.url(server, query))).history

        assert [row.values for row in history.table.rows] == [
            [Decimal(-3)],
            [Decimal(0)],
            [Decimal(9007199254740993)],
            [Decimal("87232.5")],
        ]
        assert list(history.chart.lines[0].values) == [
            Decimal("87232.5"),
            *[Decimal(9007199254740993)] * 3,
            *[Decimal(0)] * 2,
            Decimal(-3),
        ]
        answer = api_client.get(
            "/v1/usage/series",
            {
                "metric": REPORTED_VALUE,
                "from": (hour - 6 * HOUR).isoformat(),
                "to": (hour + HOUR).isoformat(),
                "granularity": "hour",
                "filter[field]": "num_series",
                "filter[server]": "serv1",
            },
        ).json()
        values = [value for _, value, *_ in answer["series"][0]["points"]]
        assert [Decimal(value) for value in values if Decimal(value)] == [
            Decimal("87232.5"),
            Decimal(9007199254740993),
            Decimal(-3),
        ]

    def test_latest_values_are_the_last_readings_of_each_field(
        self, browser: Client, org: Organization, hour: datetime
    ) -> None:
        report(org, at=hour - timedelta(hours=30), num_series=1, num_tasks=4)
        report(org, at=hour - timedelta(hours=6), num_series=2)
        server = report(org, at=hour, up=1)
        report(org, at=hour, identity=("influxdb", "clus1", "serv2"), num_series=77)
        report(org, at=hour, identity=("influxdb", "clus2", "serv1"), num_series=88)

        page = page_of(browser.get(self.url(server)))

        assert [(row.value.field, row.value.value, row.value.at) for row in page.values] == [
            ("num_series", 2, hour - timedelta(hours=6)),
            ("num_tasks", 4, hour - timedelta(hours=30)),
            ("up", 1, hour),
        ]
        assert page.history.field == "num_series"

    def test_two_clusters_of_one_customer_are_kept_apart(
        self, browser: Client, org: Organization, hour: datetime
    ) -> None:
        """A key bound to a customer may send for several clusters, whose servers have the same ids."""
        factories.make_customer(organization=org, external_id="acme")
        for cluster, value in (("clus1", 1), ("clus2", 2)):
            told = Report(ReportKind.USAGE, ServerIdentity("influxdb", cluster, "1"))
            told.values = [ReportedValue("usage", "n", Decimal(value))]
            limits = IngestLimits(only_customer="acme")
            store_reports(organization=org, actor="test", reports=[told], limits=limits, now=hour)

        for cluster, value in (("clus1", 1), ("clus2", 2)):
            server = Server.objects.for_organization(org).get(cluster_id=cluster)
            [row] = page_of(browser.get(self.url(server))).values
            assert row.value.value == value

    def test_a_server_without_ids_has_its_history(self, browser: Client, org: Organization, hour: datetime) -> None:
        server = report(org, at=hour, identity=("chronograf", "", ""), n=5)
        page = page_of(browser.get(self.url(server)))
        assert [row.value.value for row in page.values] == [5]
        assert [row.values for row in page.history.table.rows] == [[Decimal(5)]]

    def test_a_registered_server_without_numbers_has_a_page(self, browser: Client, org: Organization) -> None:
        told = Report(ReportKind.SERVER, ServerIdentity("influxdb", "clus1", "serv1"), host="h", version="1")
        server = record_server(organization=org, report=told, customer="clus1", now=timezone.now())

        response = browser.get(self.url(server))

        assert page_of(response).history is None
        assert "No numbers yet" in response.content.decode()

    def test_a_field_that_was_not_reported_in_the_range_is_said_so(
        self, browser: Client, org: Organization, hour: datetime
    ) -> None:
        server = report(org, at=hour, n=5)
        text = browser.get(self.url(server, "?field=none&series=usage")).content.decode()
        assert "not reported in this range" in text
        page = page_of(browser.get(self.url(server, "?field=n&series=usage&range=x&by=y&first=1&last=\x00")))
        assert page.problems

    def test_says_how_often_it_reports(self, browser: Client, org: Organization, hour: datetime) -> None:
        for hours in (36, 24, 12, 0):
            server = report(org, at=hour - hours * HOUR, n=1)
        page = page_of(browser.get(self.url(server)))
        assert (page.usual_interval_text, page.patience_text) == ("12 hours", "24 hours")
        assert not page.is_silent


class TestTicks:
    @pytest.mark.parametrize(
        ("count", "labels"),
        [
            (1, ["15 Nov"]),
            (5, ["15 Nov", "02:00", "03:00", "04:00", "05:00"]),
            (49, ["15 Nov", "08:00", "15:00", "22:00", "16 Nov", "12:00", "19:00"]),
            (168, ["15 Nov", "16 Nov", "17 Nov", "18 Nov", "19 Nov", "20 Nov", "21 Nov"]),
        ],
    )
    def test_each_day_is_named_once(self, count: int, labels: list[str]) -> None:
        """The axis labels every so many buckets, so that there are seven at most."""
        ticks = hour_ticks([datetime(2026, 11, 15, 1) + number * HOUR for number in range(count)])
        assert ticks[:: -(-count // 7)] == labels


class TestGaps:
    def test_a_gauge_stands_until_it_is_read_again(self) -> None:
        start = datetime(2026, 11, 20)
        values = [None, 1, None, None, 0, None, 2, None]
        history = [
            Reported(start + number * HOUR, None if value is None else Decimal(value), False)
            for number, value in enumerate(values)
        ]

        known = between_reports(history)

        assert [bucket.start.hour for bucket in known] == [1, 2, 3, 4, 5, 6]
        assert held_values(known) == [1, 1, 1, 0, 0, 2]

    def test_without_reports_there_is_nothing(self) -> None:
        assert between_reports([Reported(datetime(2026, 11, 20), None, True)]) == []
