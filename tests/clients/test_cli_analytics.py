"""`meterbook analytics`, `users`, `settings`, `billing` and `logs` as processes, against the real server."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import httpx
import pytest
from meterbook import Client
from meterbook.cli import run as run_here
from meterbook.cli.output import print_answer, print_answer_line

from accounts.models import Organization
from accounts.services import IssuedKey
from metering.dialects.gateway.recording import decode_records
from metering.dialects.gateway.services.recording import record_requests
from metering.services.ingest import IngestLimits
from metering.services.metrics import install_catalog
from tests.billing.seller import Seller, written
from tests.clients.web_server import WebServer

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY = timedelta(days=1)
Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


@pytest.fixture
def environment(server: WebServer, api_key: IssuedKey) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METERBOOK_")}
    return {**kept, "METERBOOK_URL": server.url, "METERBOOK_API_KEY": api_key.text, "NO_PROXY": "127.0.0.1"}


@pytest.fixture
def run(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command line in this process, which saves it a start; its input is no terminal."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        status = run_here(arguments)
        sys.stdout.flush()
        output, errors = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, status, output, errors)

    return run


def assert_one_line(result: Result, status: int, text: str = "") -> None:
    assert (result.returncode, result.stdout) == (status, ""), result
    assert result.stderr.startswith("meterbook: ")
    assert len(result.stderr.splitlines()) == 1
    assert text in result.stderr


def request(number: int, **fields: Any) -> dict[str, Any]:
    """Return a record of yesterday noon."""
    return {
        **{"request_id": f"r{number}", "user_id": "acme", "method": "GET", "path": "/orders", "status_code": 200},
        **{"timestamp": (TODAY - DAY / 2).isoformat(), "latency_ms": 10, "response_bytes": 1024, **fields},
    }


@pytest.fixture
def traffic(client: Client) -> None:
    """Yesterday acme made 3 requests and 1 error, bolt 2 requests; acme one more the day before that."""
    client.routes.create(id="orders", name="Orders", method="GET", path_pattern="/orders", metering_mode="bytes")
    client.requests.record(
        [
            *(request(number) for number in range(3)),
            request(3, status_code=503, latency_ms=90, response_bytes=0),
            *(request(number, user_id="bolt", path="/users", method="POST", latency_ms=50.5) for number in (4, 5)),
            request(6, timestamp=(TODAY - 1.5 * DAY).isoformat()),
        ]
    )


def read_csv(result: Result) -> list[dict[str, str]]:
    assert (result.returncode, result.stderr) == (0, ""), result
    return list(csv.DictReader(StringIO(result.stdout)))


@pytest.mark.usefixtures("traffic")
class TestAnalytics:
    def test_summary(self, run: Run) -> None:
        answer = json.loads(run("analytics", "summary", "--json").stdout)["data"]["attributes"]
        assert (answer["total_requests"], answer["total_errors"], answer["total_bytes"]) == (7, 1, 6144)
        assert answer["error_rate"] == 0.142857
        assert answer["total_metered_units"] == 6  # 4 KB of acme's, and bolt's 2 requests

        facts = {row[""]: row["value"] for row in read_csv(run("analytics", "summary", "--csv", "--user", "acme"))}
        assert (facts["total_requests"], facts["by_status 2xx"], facts["by_status 5xx"]) == ("5", "4", "1")
        assert abs(float(facts["p99_ms"]) - 90) <= 90 * 0.02
        assert "total_requests" in run("analytics", "summary").stdout

    def test_users_and_routes_show_the_most_first_unless_told_otherwise(self, run: Run) -> None:
        def users(*options: str) -> list[str]:
            return [row["user_id"] for row in read_csv(run("analytics", "users", "--format", "csv", *options))]

        assert users() == users("--sort", "requests") == users("--sort", "-requests") == ["acme", "bolt"]
        assert users("--sort", "+requests") == users("--sort", "latency") == ["bolt", "acme"]
        assert users("--sort", "errors", "--limit", "1") == users("--status", "5xx") == ["acme"]

        routes = read_csv(run("analytics", "routes", "--csv"))
        assert [(row["route_id"], row["route_name"], row["requests"], row["metered_units"]) for row in routes] == [
            ("orders", "Orders", "5", "4"),
            ("", "", "2", "2"),
        ]
        table = run("analytics", "users").stdout.splitlines()
        assert table[0].split() == [
            *("user_id", "requests", "errors", "error_rate", "metered_units", "bytes"),
            *("mean_ms", "p50_ms", "p95_ms", "p99_ms"),
        ]
        assert table[1].split()[:6] == ["acme", "5", "1", "0.2", "4", "4,096"]

    def test_requests_over_time(self, run: Run) -> None:
        start, end = (TODAY - 2 * DAY).date().isoformat(), (TODAY - DAY).date().isoformat()
        rows = read_csv(run("analytics", "requests", "--from", start, "--to", end, "--csv"))
        assert [(row["date"], row["requests"]) for row in rows] == [(start, "1"), (end, "6")]
        hours = read_csv(run("analytics", "requests", "--group-by", "hour", "--from", end, "--to", end, "--csv"))
        assert len(hours) == 24
        assert [row["requests"] for row in hours if row["requests"] != "0"] == ["6"]

    def test_daily_monthly_and_aggregate(self, run: Run) -> None:
        yesterday = (TODAY - DAY).date().isoformat()
        daily = read_csv(run("analytics", "daily", "--user", "acme", "--csv"))
        assert [(row["date"], row["requests"]) for row in daily][-1] == (yesterday, "4")
        by_user = read_csv(run("analytics", "daily", "--group-by", "user", "--from", yesterday, "--csv"))
        assert {(row["date"], row["user_id"], row["requests"]) for row in by_user} == {
            (yesterday, "acme", "4"),
            (yesterday, "bolt", "2"),
        }
        monthly = read_csv(run("analytics", "monthly", "--user", "bolt", "--csv"))
        assert [(row["month"], row["requests"]) for row in monthly] == [(yesterday[:7], "2")]
        paths = read_csv(run("analytics", "aggregate", "--group-by", "path", "--csv"))
        assert [(row["path"], row["requests"]) for row in paths] == [("/orders", "5"), ("/users", "2")]

    def test_export(self, run: Run) -> None:
        rows = read_csv(run("analytics", "export", "--user", "bolt"))
        assert {row["request_id"] for row in rows} == {"r4", "r5"}
        assert {(row["latency_ms"], row["metered_units"], row["path"]) for row in rows} == {("50.5", "1", "/users")}
        as_json = json.loads(run("analytics", "export", "--format", "json", "--status", "503").stdout)
        assert [(row["request_id"], row["latency_ms"]) for row in as_json] == [("r3", 90)]

    def test_cleanup(self, run: Run, org: Organization) -> None:
        long_ago = TODAY - 8 * DAY  # when it was received too
        record_requests(
            organization=org,
            records=decode_records(json.dumps([request(9, timestamp=long_ago.isoformat())]).encode()),
            now=long_ago,
            limits=IngestLimits(),
            actor="test",
        )

        dry = run("analytics", "cleanup", "--older-than", "7d", "--dry-run")
        assert dry.stdout.startswith("Would delete 1 requests from before ")
        assert len(json.loads(run("analytics", "export", "--format", "json").stdout)) == 8
        assert run("analytics", "cleanup", "--older-than", "7d").stdout.startswith("Deleted 1 requests from before ")
        assert len(json.loads(run("analytics", "export", "--format", "json").stdout)) == 7
        summary = json.loads(run("analytics", "summary", "--json").stdout)["data"]["attributes"]
        assert summary["total_requests"] == 8


@pytest.mark.usefixtures("traffic")
class TestUsers:
    def test_usage(self, run: Run) -> None:
        month = (TODAY - DAY / 2).strftime("%Y-%m")
        answer = json.loads(run("users", "usage", "bolt", "--period", month, "--json").stdout)["data"]["attributes"]
        assert (answer["period"], answer["total_requests"], answer["by_status"]) == (month, 2, {"2xx": 2})
        assert answer["quota_limit"] is None
        facts = {row[""]: row["value"] for row in read_csv(run("users", "usage", "bolt", "-p", month, "--csv"))}
        assert (facts["total_requests"], facts["status 2xx"], facts["route -"]) == ("2", "2", "2")

    def test_export_then_delete(self, run: Run) -> None:
        held = json.loads(run("users", "export-data", "bolt").stdout)
        assert held["user_id"] == "bolt"
        assert {event["idempotency_key"] for event in held["events"]} == {"r4", "r5"}

        assert run("users", "delete-usage", "bolt").stdout == (
            "Deleted 2 requests of bolt; what was counted stays, without the name.\n"
        )
        assert_one_line(run("users", "export-data", "bolt"), 2)
        assert "bolt" not in run("analytics", "users").stdout
        assert json.loads(run("analytics", "summary", "--json").stdout)["data"]["attributes"]["total_requests"] == 7

    def test_unknown_user_is_bad_input(self, run: Run) -> None:
        for command in ("usage", "export-data", "delete-usage"):
            assert_one_line(run("users", command, "nobody"), 2)


class TestSettings:
    def test_set_and_get(self, run: Run) -> None:
        assert run("settings", "get", "usage_tracking_enabled").stdout == "true\n"
        assert run("settings", "set", "usage_retention_days", "45").stdout == "usage_retention_days = 45\n"
        assert run("settings", "set", "usage_store_ip", "false").stdout == "usage_store_ip = off\n"
        assert run("settings", "get", "usage_retention_days").stdout == "45\n"
        assert json.loads(run("settings", "get", "--json").stdout)["usage_store_ip"] == "off"
        assert "usage_batch_size" in run("settings", "get").stdout

    def test_mistakes_are_one_line(self, run: Run) -> None:
        assert_one_line(run("settings", "get", "usage_colour"), 2, "usage_colour")
        assert_one_line(run("settings", "set", "usage_colour", "red"), 2, "usage_colour")
        assert_one_line(run("settings", "set", "usage_batch_size", "-5"), 2, "usage_batch_size")
        assert_one_line(run("settings", "set", "usage_batch_size", "many"), 2, "usage_batch_size")

    def test_recorder_goes_by_the_servers_settings(self, client: Client) -> None:
        client.settings.set(usage_batch_size=7, usage_flush_interval_ms=20, usage_compression=False)
        with client.track_requests() as recorder:
            recorder.add(_watch())
            assert recorder.flush(30)
            tracking = recorder.tracking
        assert (tracking.batch_size, tracking.flush_interval_ms, tracking.compression) == (7, 20, False)
        client.settings.set(usage_tracking_enabled=False)
        with client.track_requests() as recorder:
            recorder.add(_watch())
            assert recorder.flush(30)
            assert not recorder.is_enabled
        assert client.analytics.summary()["data"]["attributes"]["total_requests"] == 1


def _watch() -> Any:
    from meterbook.tracking.watch import Watch

    watch = Watch("GET", "/", None, 0)
    watch.status = 200
    watch.end()
    return watch


class TestBilling:
    def test_usage_is_of_the_running_period_unless_another_month_is_named(self, run: Run, org: Organization) -> None:
        install_catalog(organization=org, name="api-gateway", actor="test")
        seller = Seller(org, TODAY)
        seller.plan("pro", written("per_unit", 2, metric="api_units"))
        started = (TODAY.replace(day=1) - DAY).replace(day=1)
        seller.subscribe("acme", "pro", start=started, zone="UTC")

        def period_of(*options: str) -> str:
            result = run("billing", "usage", "--user", "acme", "--json", *options)
            assert (result.returncode, result.stderr) == (0, "")
            return str(json.loads(result.stdout)["period"])

        this_month, month_before = f"{TODAY:%Y-%m}", f"{started:%Y-%m}"
        assert [period_of(*options) for options in ((), ("-p", "current"), ("-p", this_month))] == [this_month] * 3
        assert [period_of("-p", month) for month in ("last", month_before)] == [month_before] * 2

    @pytest.mark.parametrize(
        ("part", "status", "told"),
        [
            ({}, 0, ""),
            ({"is_complete": False, "states": {"rejected": 31}, "answers": {"rejected": 31}}, 0, ""),
            ({"stopped_by": "The key was\nnot accepted."}, 1, "Not everything was sent: The key was not accepted."),
            (
                {"failures": [{"customer": name, "period": "2026-10", "message": "Not kept."} for name in "ab"]},
                1,
                "Of 2 periods the usage cannot be reported; the first is 2026-10 of a: Not kept.",
            ),
        ],
        ids=["all well", "rejected", "stopped", "failures"],
    )
    def test_report_usage_ends_with_1_where_it_could_not_do_all(
        self,
        part: dict[str, Any],
        status: int,
        told: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        answer = {"is_complete": True, "planned": 1, "answers": {}, "stopped_by": "", "states": {}, "failures": []}
        played = httpx.MockTransport(lambda request: httpx.Response(200, json=answer | part))
        module = sys.modules["meterbook.cli.billing"]  # by that name the package has the command
        monkeypatch.setattr(module, "open_client", lambda: Client("http://played", "k", transport=played))

        ended = run_here(("billing", "report-usage"))

        output, errors = capsys.readouterr()
        assert (ended, json.loads(output), errors) == (status, answer | part, told and f"meterbook: {told}\n")


class TestOthers:
    def test_logs(self, run: Run) -> None:
        run("settings", "set", "usage_retention_days", "45")
        rows = read_csv(run("logs", "--filter", "usage", "--csv"))
        assert all(row["at"] and row["level"] and row["message"] for row in rows)
        assert run("logs", "--filter", "usage").stdout.split()[:4] == ["at", "level", "code", "message"]


BAD_INPUT: list[tuple[str, ...]] = [
    ("analytics", "summary", "--from", "2025-02-30"),
    ("analytics", "summary", "--from", "2025-01-02", "--to", "2025-01-01"),
    ("analytics", "summary", "--from", "2025-01-01T10:00:00Z", "--to", "2025-01-01T10:00:00Z"),
    ("analytics", "summary", "--from", "2025-01-01T10:00:00"),
    ("analytics", "summary", "--from", "yesterday"),
    ("analytics", "summary", "--user", ""),
    ("analytics", "users", "--sort", "fame"),
    ("analytics", "users", "--sort", "--requests"),
    ("analytics", "users", "--limit", "0"),
    ("analytics", "users", "--limit", "-1"),
    ("analytics", "users", "--limit", "abc"),
    ("analytics", "users", "--limit", "1001"),
    ("analytics", "users", "--format", "xml"),
    ("analytics", "users", "--status", "6xx"),
    ("analytics", "requests", "--group-by", "user"),
    ("analytics", "aggregate"),
    ("analytics", "aggregate", "--group-by", "colour"),
    ("analytics", "export", "--format", "xml"),
    ("analytics", "live", "--status", "abc"),
    ("analytics", "cleanup"),
    *(("analytics", "cleanup", "--older-than", age) for age in ("0d", "-5d", "30", "d", "1.5d", "30days", "999999d")),
    ("users", "usage", "acme", "--period", "2025-13"),
    ("users", "usage"),
    ("users", "usage", ""),
    ("billing", "usage", "--period", "2025-01"),
    ("billing", "usage", "--user", "acme", "--period", "January"),
    ("billing", "report-usage", "--period", "2025"),
    ("settings", "set", "usage_batch_size"),
    ("logs", "--filter", "weather"),
]


@pytest.mark.parametrize("arguments", BAD_INPUT, ids=" ".join)
def test_bad_input_is_one_line_and_status_2_before_anything_is_asked(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METERBOOK_URL", "http://127.0.0.1:9")  # nobody listens; an attempt would end with status 1
    monkeypatch.setenv("METERBOOK_API_KEY", "mb_x")

    status = run_here(arguments)

    output, errors = capsys.readouterr()
    assert (status, output, len(errors.splitlines())) == (2, "", 1)
    assert errors.startswith("meterbook: ")


def test_numbers_are_printed_with_all_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"units": Decimal("12345678901234567890.10"), "names": ["zwölf", None, True], "none": [], "empty": {}}

    print_answer_line(answer)
    print_answer(answer)

    line, pretty = capsys.readouterr().out.split("\n", 1)
    assert line == '{"units": 12345678901234567890.10, "names": ["zwölf", null, true], "none": [], "empty": {}}'
    assert json.loads(pretty, parse_float=Decimal) == answer
    assert pretty.splitlines()[:4] == ["{", '  "units": 12345678901234567890.10,', '  "names": [', '    "zwölf",']
