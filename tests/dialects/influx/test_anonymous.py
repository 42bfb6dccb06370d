"""Reports without a token: taken, kept apart from every organization, few, and not for long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.test import Client

from accounts import rate_limits
from accounts.models import Customer, Organization
from metering.dialects.influx.domain import Report, ReportKind, ServerIdentity
from metering.dialects.influx.models import AnonymousReport, Server
from metering.dialects.influx.services import anonymous
from metering.dialects.influx.services.anonymous import keep_anonymous_report, prune_anonymous_reports
from metering.dialects.influx.tasks import prune_anonymous_reports_task
from metering.models import Event, Metric
from tests import factories
from tests.dialects.influx.conftest import SERVER, Post, stats_body, usage_entry

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
REPORT = Report(ReportKind.USAGE, ServerIdentity("influxdb", "clus1", "serv1"))


def keep(*, address: str = "192.0.2.1", now: datetime = NOW, body: bytes = b"[]") -> bool:
    return keep_anonymous_report(reports=[REPORT], body=body, address=address, now=now)


def test_each_kind_is_taken_and_belongs_to_nobody(post: Post, org: Organization) -> None:
    stats = stats_body({"name": "runtime", "tags": None, "values": {"alloc": 1, "frees": 2}})
    for path, body in (("/servers", SERVER), ("/stats/kapacitor", stats), ("/usage/chronograf-ng", usage_entry(n=1))):
        assert post(path, body, token=None).status_code == 201

    rows = AnonymousReport.objects.order_by("pk").values_list(
        "kind", "product", "cluster_id", "server_id", "value_count"
    )
    assert list(rows) == [
        ("server", "influxdb", "clus1", "serv1", 0),
        ("stats", "kapacitor", "clus1", "serv1", 2),
        ("usage", "chronograf-ng", "clus1", "serv1", 1),
    ]
    assert not Server.objects.all_tenants().exists()
    assert not Event.objects.all_tenants().exists()
    assert not Metric.objects.all_tenants().exists()
    assert not Customer.objects.all_tenants().exists()


def test_an_empty_token_is_none(post: Post) -> None:
    assert post("/servers", SERVER, token=" ").status_code == 201
    assert AnonymousReport.objects.count() == 1


def test_a_signed_in_person_is_nobody_to_this_api(post: Post, client: Client, alice: Any, org: Organization) -> None:
    client.force_login(alice)
    assert post("/servers", SERVER, token=None).status_code == 201
    assert AnonymousReport.objects.count() == 1


def test_the_address_is_not_kept(post: Post) -> None:
    post("/servers", SERVER, token=None)
    assert "127.0.0.1" not in str(AnonymousReport.objects.values_list().get())


def test_the_body_is_kept_as_it_came_unless_it_is_long() -> None:
    keep(body=b'[{"tags":null,  "values":{"n":9007199254740993}}]')
    keep(body=b"[" + b" " * anonymous.MAX_PAYLOAD_BYTES + b"]")

    assert list(AnonymousReport.objects.order_by("pk").values_list("payload", flat=True)) == [
        '[{"tags":null,  "values":{"n":9007199254740993}}]',
        "",
    ]


class TestFlood:
    def test_behind_proxies_the_address_is_that_of_the_client(
        self, post: Post, monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        settings.ALLAUTH_TRUSTED_PROXY_COUNT = 1
        monkeypatch.setattr(anonymous, "MAX_PER_MINUTE_AND_ADDRESS", 1)
        for client in ("192.0.2.1", "192.0.2.2", "192.0.2.2"):
            assert post("/servers", SERVER, token=None, **{"X-Forwarded-For": f"10.0.0.1, {client}"}).status_code == 201
        assert AnonymousReport.objects.count() == 2

    def test_an_address_that_makes_no_sense_is_no_failure(self, post: Post, settings: Any) -> None:
        settings.ALLAUTH_TRUSTED_PROXY_COUNT = 2
        assert post("/servers", SERVER, token=None, **{"X-Forwarded-For": "192.0.2.1"}).status_code == 201
        assert AnonymousReport.objects.count() == 1

    def test_one_address_is_cut_and_others_are_not(self) -> None:
        kept = [keep() for _ in range(anonymous.MAX_PER_MINUTE_AND_ADDRESS + 5)]

        assert kept == [True] * anonymous.MAX_PER_MINUTE_AND_ADDRESS + [False] * 5
        assert keep(address="192.0.2.2")
        assert keep(now=NOW + timedelta(minutes=2))

    def test_all_addresses_together_are_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(anonymous, "MAX_PER_MINUTE", 7)
        kept = [keep(address=f"192.0.2.{number}") for number in range(10)]
        assert kept == [True] * 7 + [False] * 3

    def test_the_client_does_not_notice(self, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(anonymous, "MAX_PER_MINUTE_AND_ADDRESS", 1)

        answers = [post("/servers", SERVER, token=None) for _ in range(3)]

        assert {(answer.status_code, answer.content) for answer in answers} == {(201, b"{}")}
        assert {tuple(sorted(answer.headers)) for answer in answers} == {tuple(sorted(answers[0].headers))}
        assert AnonymousReport.objects.count() == 1

    def test_nothing_is_kept_while_nobody_can_count(self, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
        settings.REDIS_URL = "redis://127.0.0.1:1/0"
        rate_limits._script.cache_clear()
        try:
            assert not keep()
        finally:
            rate_limits._script.cache_clear()

    def test_an_organizations_reports_are_not_cut(self, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(anonymous, "MAX_PER_MINUTE", 0)
        assert post("/usage/p", usage_entry(n=1)).status_code == 201
        assert Event.objects.all_tenants().count() == 1


class TestPruning:
    def make(self, *received: datetime) -> None:
        AnonymousReport.objects.bulk_create(
            AnonymousReport(kind="usage", product="p", value_count=0, received_at=at) for at in received
        )

    def test_the_old_go(self) -> None:
        edge = NOW - timedelta(days=30)
        self.make(edge - timedelta(microseconds=1), edge, NOW)

        assert prune_anonymous_reports(now=NOW) == 1
        assert prune_anonymous_reports(now=NOW) == 0

        assert set(AnonymousReport.objects.values_list("received_at", flat=True)) == {edge, NOW}

    def test_the_newest_of_too_many_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(anonymous, "MAX_KEPT", 3)
        times = [NOW + timedelta(seconds=number) for number in range(5)]
        self.make(*times)

        assert prune_anonymous_reports(now=NOW) == 2

        assert set(AnonymousReport.objects.values_list("received_at", flat=True)) == set(times[2:])

    def test_beat_runs_it(self) -> None:
        self.make(datetime(2020, 1, 1, tzinfo=UTC))
        [entry] = [
            entry
            for entry in django_settings.CELERY_BEAT_SCHEDULE.values()
            if entry["task"] == prune_anonymous_reports_task.name
        ]
        assert entry["schedule"]

        prune_anonymous_reports_task()

        assert not AnonymousReport.objects.exists()


class TestAdmin:
    @pytest.fixture
    def staff(self, client_for: Callable[..., Client]) -> Client:
        return client_for(get_user_model().objects.create_superuser("staff@example.test"))

    def test_staff_see_them(self, post: Post, staff: Client) -> None:
        post("/usage/chronograf-ng", usage_entry(note="<b>hello</b>"), token=None)
        report = AnonymousReport.objects.get()

        listed = staff.get("/admin/influx/anonymousreport/")
        shown = staff.get(f"/admin/influx/anonymousreport/{report.pk}/change/")

        assert "chronograf-ng" in listed.content.decode()
        assert "&lt;b&gt;hello" in shown.content.decode()

    def test_staff_see_servers_of_all_organizations(self, post: Post, staff: Client, org: Organization) -> None:
        post("/servers", SERVER)
        server = Server.objects.for_organization(org).get()

        assert "example.com" in staff.get("/admin/influx/server/").content.decode()
        assert staff.get(f"/admin/influx/server/{server.pk}/change/").status_code == 200

    def test_nobody_else_does(self, client_for: Callable[..., Client], alice: Any) -> None:
        assert client_for(alice).get("/admin/influx/anonymousreport/").status_code in {302, 403}
        assert client_for(factories.make_user()).get("/admin/influx/server/").status_code in {302, 403}
