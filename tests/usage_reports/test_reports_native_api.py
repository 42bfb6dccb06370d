"""`/v1/reports`: who may read and write saved reports, what is refused and how, and the history of a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import AuditEntry, Organization, Scope
from tests import factories
from tests.api.conftest import Api, api, api_with, meter  # noqa: F401  (fixtures)
from tests.metering.meter import Meter
from usage_reports.models import Report, ReportRecipient, ReportRun
from usage_reports.services import reports as services
from usage_reports.services.runs import send_run

pytestmark = pytest.mark.django_db

FULL = {
    "name": "Storage by region",
    "metric": "storage",
    "customer": "ann",
    "filter": {"region": ["eu", None], "tier": "hot"},
    "group_by": ["region", "customer"],
    "granularity": "day",
    "mode": "month_to_date",
    "range": "last_month",
    "schedule": {"frequency": "monthly", "day": 31, "hour": 23, "zone": "Asia/Tokyo"},
    "recipients": ["Ben@Out.test", "ann@out.test"],
    "paused": True,
}


@pytest.fixture
def storage(meter: Meter) -> Meter:  # noqa: F811  (a fixture)
    meter.define("storage", "sum", unit="GB", dimensions=["region", "tier"])
    meter.send_all({"customer": "ann", "type": "storage", "value": 5, "properties": {"region": "eu"}})
    return meter


def plain(**fields: Any) -> dict[str, Any]:
    return {"name": "Storage", "metric": "storage", "recipients": ["ann@out.test"], **fields}


class TestWriting:
    def test_everything_that_is_given_comes_back(self, api: Api, storage: Meter) -> None:  # noqa: F811
        created = api.post("/v1/reports", FULL, status=201)

        assert {name: created[name] for name in FULL} == FULL | {
            "filter": {"region": ["eu", None], "tier": ["hot"]},
            "schedule": {"frequency": "monthly", "weekday": None, "day": 31, "hour": 23, "zone": "Asia/Tokyo"},
            "recipients": ["ann@out.test", "ben@out.test"],
        }
        assert created["next_due_at"] is None
        assert api.get(f"/v1/reports/{created['id']}") == created
        assert api.get("/v1/reports")["data"] == [created]

    def test_what_is_left_out_has_its_default(self, api: Api, storage: Meter) -> None:  # noqa: F811
        created = api.post("/v1/reports", plain(), status=201)

        assert created["schedule"] == {"frequency": "weekly", "weekday": "monday", "day": None, "hour": 7, "zone": None}
        assert (created["range"], created["mode"], created["granularity"]) == ("last_7_days", "incremental", None)
        assert (created["customer"], created["filter"], created["group_by"]) == (None, {}, [])
        assert created["paused"] is False
        assert created["next_due_at"].endswith("T07:00:00Z")

    def test_a_change_names_what_changes(self, api: Api, storage: Meter, org: Organization) -> None:  # noqa: F811
        created = api.post("/v1/reports", FULL, status=201)
        path = f"/v1/reports/{created['id']}"

        changed = api.call("PATCH", path, {"granularity": None, "mode": "incremental", "paused": False}).json()
        assert changed == created | {
            "granularity": None,
            "mode": "incremental",
            "paused": False,
            "next_due_at": changed["next_due_at"],
        }
        assert changed["next_due_at"].endswith("T14:00:00Z")  # 23:00 in Tokyo
        daily = api.call("PATCH", path, {"schedule": {"frequency": "daily", "hour": 0}}).json()
        assert daily["schedule"] == {"frequency": "daily", "weekday": None, "day": None, "hour": 0, "zone": None}
        assert daily["next_due_at"].endswith("T00:00:00Z")
        entries = AuditEntry.objects.for_organization(org).filter(action__startswith="report.").order_by("pk")
        assert [entry.action for entry in entries] == ["report.created", "report.updated", "report.updated"]
        assert entries[1].details == {"changed": ["granularity", "is_paused", "mode"]}

    def test_a_deleted_one_is_gone_with_its_history(self, api: Api, storage: Meter, org: Organization) -> None:  # noqa: F811
        path = f"/v1/reports/{api.post('/v1/reports', plain(), status=201)['id']}"
        api.post(f"{path}/send", status=202)

        assert api.call("DELETE", path).status_code == 204

        assert api.refuse("GET", path)[:2] == (404, "not_found")
        assert not ReportRun.objects.for_organization(org).exists()

    def test_a_member_is_a_member_and_a_stranger_an_address(
        self,
        api: Api,  # noqa: F811
        storage: Meter,
        org: Organization,
        alice: Any,
    ) -> None:
        api.post("/v1/reports", plain(recipients=[alice.email.upper(), "ann@out.test"]), status=201)

        recipients = ReportRecipient.objects.for_organization(org).order_by("email")
        assert {row.email: row.membership is not None for row in recipients} == {
            alice.email: True,
            "ann@out.test": False,
        }


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"name": "a\x00b"}, "name"),
            ({"group_by": ["planet"]}, "group_by"),
            ({"group_by": ["region", "region"]}, "group_by"),
            ({"group_by": ["region", "tier", "customer", "region"]}, "group_by"),
            ({"filter": {"planet": "mars"}}, "filter.planet"),
            ({"filter": {"region": []}}, "filter.region"),
            ({"filter": {"region": 5}}, "filter.region"),
            ({"filter": {"region": ["x" * 1001]}}, "filter.region"),
            ({"filter": {"region": ["a\x00b"]}}, "filter.region"),
            ({"filter": {"region": [str(n) for n in range(101)]}}, "filter.region"),
            ({"filter": ["region"]}, "filter"),
            ({"granularity": "second"}, "granularity"),
            ({"mode": "month_to_date"}, "mode"),
            ({"mode": "rolling_30d", "granularity": "hour"}, "mode"),
            ({"mode": "month_to_date", "granularity": "week"}, "mode"),
            ({"range": "last_year"}, "range"),
            ({"schedule": {"frequency": "hourly"}}, "schedule.frequency"),
            ({"schedule": {"hour": 5}}, "schedule.frequency"),
            ({"schedule": {"frequency": "daily", "hour": 24}}, "schedule.hour"),
            ({"schedule": {"frequency": "daily", "weekday": "monday"}}, "schedule.weekday"),
            ({"schedule": {"frequency": "weekly", "weekday": "sometimes"}}, "schedule.weekday"),
            ({"schedule": {"frequency": "weekly", "day": 5}}, "schedule.day"),
            ({"schedule": {"frequency": "monthly", "day": 0}}, "schedule.day"),
            ({"schedule": {"frequency": "monthly", "day": 32}}, "schedule.day"),
            ({"schedule": {"frequency": "daily", "zone": "Mars/Olympus"}}, "schedule.zone"),
            ({"schedule": None}, "schedule"),
            ({"recipients": []}, "recipients"),
            ({"recipients": ["not an address"]}, "recipients"),
            ({"recipients": ["a@b.test\r\nBcc: c@d.test"]}, "recipients"),
            ({"recipients": [f"r{n}@out.test" for n in range(21)]}, "recipients"),
            ({"paused": "yes"}, "paused"),
            ({"owner": "me"}, "owner"),
        ],
        ids=str,
    )
    def test_a_refusal_names_the_field_and_saves_nothing(
        self,
        api: Api,  # noqa: F811
        storage: Meter,
        change: dict[str, Any],
        field: str,
    ) -> None:
        status, _, fields = api.refuse("POST", "/v1/reports", plain(**change))
        assert (status, fields) == (422, [field])
        path = f"/v1/reports/{api.post('/v1/reports', plain(), status=201)['id']}"
        status, _, fields = api.refuse("PATCH", path, change)
        assert (status, fields) == (422, [field])

        assert len(api.get("/v1/reports")["data"]) == 1

    @pytest.mark.parametrize("name", ["name", "metric", "recipients"])
    def test_some_fields_are_needed(self, api: Api, storage: Meter, name: str) -> None:  # noqa: F811
        body = plain()
        del body[name]

        assert api.refuse("POST", "/v1/reports", body) == (422, "invalid", [name])

    def test_whose_usage_of_what_does_not_change(self, api: Api, storage: Meter) -> None:  # noqa: F811
        path = f"/v1/reports/{api.post('/v1/reports', plain(), status=201)['id']}"

        assert api.refuse("PATCH", path, {"metric": "storage"})[2] == ["metric"]
        assert api.refuse("PATCH", path, {"customer": "ann"})[2] == ["customer"]

    def test_what_is_absent_is_not_found(self, api: Api, storage: Meter) -> None:  # noqa: F811
        assert api.refuse("POST", "/v1/reports", plain(metric="nothing"))[0] == 404
        assert api.refuse("POST", "/v1/reports", plain(customer="nobody"))[0] == 404
        for path in ("/v1/reports/9", f"/v1/reports/{2**63}", "/v1/reports/9/runs"):
            assert api.refuse("GET", path)[:2] == (404, "not_found")

    def test_there_is_a_bound(self, api: Api, storage: Meter, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
        monkeypatch.setattr(services, "MAX_REPORTS", 2)
        for _ in range(2):
            api.post("/v1/reports", plain(), status=201)

        assert api.refuse("POST", "/v1/reports", plain()) == (422, "too_many", ["name"])


class TestCallers:
    def test_reading_needs_one_scope_and_writing_another(
        self,
        api: Api,  # noqa: F811
        api_with: Callable[..., Api],  # noqa: F811
        storage: Meter,
    ) -> None:
        path = f"/v1/reports/{api.post('/v1/reports', plain(), status=201)['id']}"
        reader, writer, sender = api_with(Scope.USAGE_READ), api_with(Scope.METRICS_WRITE), api_with(Scope.EVENTS_WRITE)

        for read in ("/v1/reports", path, f"{path}/runs"):
            assert reader.call("GET", read).status_code == 200
            assert {writer.call("GET", read).status_code, sender.call("GET", read).status_code} == {403}
        writes = [("POST", "/v1/reports", plain()), ("PATCH", path, {"name": "New"}), ("POST", f"{path}/send", None)]
        for method, write, body in [*writes, ("DELETE", path, None)]:
            assert reader.refuse(method, write, body)[:2] == (403, "missing_scope")
        assert [writer.call(method, write, body).status_code for method, write, body in writes] == [201, 200, 202]
        assert writer.call("DELETE", path).status_code == 204

    @pytest.mark.parametrize("bound_to", ["customer", "metric"])
    def test_bound_keys_have_no_business_here(
        self,
        api: Api,  # noqa: F811
        api_with: Callable[..., Api],  # noqa: F811
        storage: Meter,
        org: Organization,
        bound_to: str,
    ) -> None:
        path = f"/v1/reports/{api.post('/v1/reports', plain(), status=201)['id']}"
        customer = org.customers.get(external_id="ann")
        bounds = {"customer": customer} if bound_to == "customer" else {"metric_codes": ("storage",)}
        bound = api_with(Scope.ADMIN, **bounds)

        for method, asked in (("GET", "/v1/reports"), ("POST", "/v1/reports"), ("GET", path), ("PATCH", path)):
            assert bound.refuse(method, asked, plain())[:2] == (403, "bound_key")
        for method, asked in (("DELETE", path), ("POST", f"{path}/send"), ("GET", f"{path}/runs")):
            assert bound.refuse(method, asked)[:2] == (403, "bound_key")

    def test_strangers_find_nothing(self, api: Api, storage: Meter, outsider_client: Any) -> None:  # noqa: F811
        path = f"/v1/reports/{api.post('/v1/reports', plain(), status=201)['id']}"
        stranger = Api(outsider_client)

        assert stranger.get("/v1/reports")["data"] == []
        assert stranger.refuse("POST", "/v1/reports", plain())[0] == 404
        for method, asked in (
            ("GET", path),
            ("PATCH", path),
            ("DELETE", path),
            ("POST", f"{path}/send"),
            ("GET", f"{path}/runs"),
        ):
            assert stranger.refuse(method, asked, {} if method == "PATCH" else None)[:2] == (404, "not_found")


class TestSending:
    def test_a_run_is_told_of_from_the_request_to_the_end(
        self,
        api: Api,  # noqa: F811
        storage: Meter,
        mailoutbox: list[Any],
    ) -> None:
        path = f"/v1/reports/{api.post('/v1/reports', plain(range='month_to_date'), status=201)['id']}"

        asked = api.post(f"{path}/send", status=202)
        assert asked == {
            "id": asked["id"],
            "due_at": asked["due_at"],
            "manual": True,
            "state": "pending",
            "start": None,
            "end": None,
            "rows": None,
            "attached": None,
            "attempts": 0,
            "next_attempt_at": asked["due_at"],
            "sent_at": None,
            "error": None,
        }
        run = ReportRun.objects.all_tenants().get()
        send_run(run_id=run.pk, now=run.due_at)

        [sent] = api.get(f"{path}/runs")["data"]
        assert (sent["state"], sent["rows"], sent["attached"], sent["attempts"]) == ("sent", 1, True, 1)
        assert (sent["end"], sent["next_attempt_at"]) == (asked["due_at"], None)
        assert sent["sent_at"] is not None
        assert len(mailoutbox) == 1

    def test_twice_within_a_minute_is_too_often(self, api: Api, storage: Meter) -> None:  # noqa: F811
        path = f"/v1/reports/{api.post('/v1/reports', plain(), status=201)['id']}"
        api.post(f"{path}/send", status=202)

        answer = api.call("POST", f"{path}/send")

        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(answer["Retry-After"]) <= 60

    def test_it_is_queued_after_the_commit(
        self,
        api: Api,  # noqa: F811
        storage: Meter,
        django_capture_on_commit_callbacks: Any,
    ) -> None:
        path = f"/v1/reports/{api.post('/v1/reports', plain(), status=201)['id']}"

        with django_capture_on_commit_callbacks(execute=False) as after_commit:
            api.post(f"{path}/send", status=202)

        assert len(after_commit) == 1


class TestLists:
    def test_pages_and_the_metric_narrow_the_list(self, api: Api, storage: Meter) -> None:  # noqa: F811
        storage.define("other", "count")
        names = ["a", "b", "c"]
        for name in names:
            api.post("/v1/reports", plain(name=name), status=201)
        api.post("/v1/reports", plain(name="of another", metric="other"), status=201)

        first = api.get("/v1/reports", metric="storage", limit=2)
        second = api.get("/v1/reports", metric="storage", limit=2, cursor=first["next_cursor"])

        assert [row["name"] for row in first["data"] + second["data"]] == names
        assert second["next_cursor"] is None
        assert api.refuse("GET", "/v1/reports?metric=nothing")[0] == 404

    def test_runs_come_newest_first(self, api: Api, storage: Meter, org: Organization) -> None:  # noqa: F811
        report_id = int(api.post("/v1/reports", plain(), status=201)["id"])
        report = Report.objects.for_organization(org).get(pk=report_id)
        for day in (1, 2, 3):
            due_at = storage.now.replace(year=2026, month=1, day=day, microsecond=0)
            ReportRun.objects.create(organization=org, report=report, due_at=due_at, next_attempt_at=due_at)

        page = api.get(f"/v1/reports/{report_id}/runs", limit=2)
        rest = api.get(f"/v1/reports/{report_id}/runs", cursor=page["next_cursor"])

        assert [row["due_at"][8:10] for row in page["data"] + rest["data"]] == ["03", "02", "01"]

    def test_queries_do_not_grow_with_the_reports(
        self,
        api: Api,  # noqa: F811
        storage: Meter,
        django_assert_max_num_queries: Any,
    ) -> None:
        factories.make_customer(organization=storage.organization, external_id="zoe")
        for count in range(5):
            api.post("/v1/reports", plain(name=str(count), customer="zoe"), status=201)

        with django_assert_max_num_queries(6):
            assert len(api.get("/v1/reports")["data"]) == 5
