"""The command line as a process, against the real server."""

import csv
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from meterbook import Client, Event

from accounts.services import IssuedKey
from tests.clients.web_server import WebServer


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    output: str
    errors: str


Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """An environment without any setting of the person who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("METERBOOK", "XDG"))}
    return {**kept, "HOME": str(home), "NO_PROXY": "127.0.0.1"}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    def run(*arguments: str, given: str = "", **variables: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "meterbook", *arguments],
            input=given,
            env={**environment, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def signed_in(run: Run, server: WebServer, api_key: IssuedKey) -> Run:
    assert run("login", "--url", server.url, given=f"{api_key.text}\n").status == 0
    return run


def assert_one_line(result: Result, status: int) -> None:
    assert result.status == status, result
    assert result.errors.startswith("meterbook: ")
    assert len(result.errors.splitlines()) == 1
    assert "Traceback" not in result.errors


class TestLogin:
    def test_key_is_stored_for_this_user_alone(self, signed_in: Run, home: Path, api_key: IssuedKey) -> None:
        config = home / ".config" / "meterbook" / "config.toml"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert api_key.text in config.read_text()
        assert signed_in("metrics", "list").status == 0

    def test_wrong_key_is_not_stored(self, run: Run, server: WebServer, home: Path) -> None:
        assert_one_line(run("login", "--url", server.url, "--api-key", "mb_no_no"), 2)
        assert not (home / ".config" / "meterbook" / "config.toml").exists()

    def test_environment_comes_before_the_file(self, signed_in: Run, other_api_key: IssuedKey, client: Client) -> None:
        client.metrics.create("mine", "count")
        assert "mine" in signed_in("metrics", "list").output
        assert "mine" not in signed_in("metrics", "list", METERBOOK_API_KEY=other_api_key.text).output


class TestMetrics:
    def test_create_show_list_archive(self, signed_in: Run) -> None:
        created = signed_in(
            *("metrics", "create", "seconds", "-a", "sum", "--event-type", "job", "--value-property", "seconds"),
            *("-d", "region", "-d", "provider=aws,gcp", "--billing-cycle-day", "15", "--threshold", "cap=100.5"),
        )
        assert (created.status, created.output) == (0, "Created seconds: sum of events of type job.\n")

        shown = json.loads(signed_in("metrics", "show", "seconds", "--json").output)
        assert shown["thresholds"] == [{"code": "cap", "value": "100.5", "recurring": False}]
        assert "provider (aws, gcp)" in signed_in("metrics", "show", "seconds").output

        listed = list(csv.DictReader(StringIO(signed_in("metrics", "list", "--csv").output)))
        assert [(row["code"], row["dimensions"]) for row in listed] == [("seconds", "region, provider")]

        assert signed_in("metrics", "archive", "seconds").status == 0
        assert "seconds" not in signed_in("metrics", "list").output
        assert "seconds" in signed_in("metrics", "list", "--archived").output

    def test_taken_code_is_bad_input(self, signed_in: Run) -> None:
        signed_in("metrics", "create", "calls", "-a", "count")
        assert_one_line(signed_in("metrics", "create", "calls", "-a", "count"), 2)


CSV = """\
day,account,bytes,region
2026-11-01T10:00:00Z,acme,10.5,01
2026-11-02T10:00:00Z,acme,20,02
2026-11-02T10:00:00Z,acme,20,02
2026-11-03T10:00:00Z,bolt,40,
"""


class TestIngest:
    @pytest.fixture(autouse=True)
    def _metric(self, client: Client) -> None:
        client.metrics.create("traffic", "sum", value_property="bytes", dimensions=["region"])

    @pytest.fixture
    def options(self) -> list[str]:
        return ["--type", "traffic", "--customer-column", "account", "--time-column", "day", "--number", "bytes"]

    def test_csv_is_sent_once_however_often_it_is_run(
        self, signed_in: Run, client: Client, tmp_path: Path, options: list[str]
    ) -> None:
        file = tmp_path / "usage.csv"
        file.write_text(CSV)

        assert signed_in("ingest", "usage.csv", *options).output == "4 stored\n"
        assert signed_in("ingest", "usage.csv", *options, "--batch-size", "3").output == "0 stored, 4 duplicates\n"
        with file.open("a") as more:
            more.write("2026-11-04T10:00:00Z,bolt,80,01\n")
        assert signed_in("ingest", "usage.csv", *options).output == "1 stored, 4 duplicates\n"

        rows = client.breakdown(metric="traffic", group_by="region", period="2026-11")
        assert {row.group["region"]: str(row.value) for row in rows} == {"01": "90.5", "02": "40", None: "40"}

    def test_ndjson_events_go_as_they_are(self, signed_in: Run, client: Client) -> None:
        lines = [
            {"idempotency_key": "a", "customer": "acme", "type": "traffic", "properties": {"bytes": 1.25}},
            {"idempotency_key": "b", "customer": "acme", "metric": "traffic", "properties": {"bytes": "3"}},
        ]
        text = "\n".join(json.dumps(line) for line in lines)

        assert signed_in("ingest", "-", given=text).output == "2 stored\n"

        assert client.query(metric="traffic").value == 4.25
        assert {event.idempotency_key for event in client.list_events()} == {"a", "b"}

    def test_input_with_a_source_has_lasting_keys_and_without_one_new_keys(self, signed_in: Run) -> None:
        row = json.dumps({"customer": "acme", "type": "traffic", "bytes": 1})
        assert signed_in("ingest", "-", "--source", "night job", given=row).output == "1 stored\n"
        assert signed_in("ingest", "-", "--source", "night job", given=row).output == "0 stored, 1 duplicates\n"
        assert signed_in("ingest", "-", given=row).output == "1 stored\n"
        assert signed_in("ingest", "-", given=row).output == "1 stored\n"

    def test_files_that_would_share_keys_are_refused(self, signed_in: Run, tmp_path: Path, options: list[str]) -> None:
        (tmp_path / "other").mkdir()
        for name in ("usage.csv", "other/usage.csv", "more.csv"):
            (tmp_path / name).write_text(CSV)
        assert_one_line(signed_in("ingest", "usage.csv", "other/usage.csv", *options), 2)
        assert_one_line(signed_in("ingest", "usage.csv", "more.csv", "--source", "both", *options), 2)
        assert signed_in("ingest", "usage.csv", "more.csv", *options).output == "8 stored\n"

    def test_times_without_zone_take_the_given_one(self, signed_in: Run, client: Client, tmp_path: Path) -> None:
        (tmp_path / "local.csv").write_text("customer,timestamp,bytes\nacme,2026-11-01 00:30,1\n")
        arguments = ["ingest", "local.csv", "--type", "traffic"]

        refused = signed_in(*arguments)
        assert_one_line(refused, 2)
        assert "invalid_timestamp" in refused.errors
        assert signed_in(*arguments, "--tz", "Europe/Berlin").status == 0
        (event,) = client.list_events()
        assert event.timestamp.isoformat() == "2026-10-31T23:30:00+00:00"

    def test_refused_rows_are_told_and_written_down(self, signed_in: Run, tmp_path: Path, options: list[str]) -> None:
        (tmp_path / "usage.csv").write_text(CSV.replace("40,\n", "40,\n2999-01-01T00:00:00Z,bolt,1,01\n"))

        result = signed_in("ingest", "usage.csv", *options, "--errors", "refused.ndjson")

        assert_one_line(result, 2)
        assert "1 rejected; the first: usage.csv, row 5: timestamp_in_future" in result.errors
        assert result.output == "4 stored\n"
        (refused,) = [json.loads(line) for line in (tmp_path / "refused.ndjson").read_text().splitlines()]
        assert (refused["row"], refused["code"], refused["event"]["customer"]) == (5, "timestamp_in_future", "bolt")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", b"customer,bytes\nacme\n", "row 1: it has more or fewer fields"),
            ("a.csv", b"customer,bytes\nacme,x\n", "row 1: 'x' in column 'bytes' is not a number"),
            ("a.csv", b"account,bytes\nacme,1\n", "row 1: there is no column 'customer'"),
            ("a.csv", b"customer,bytes\n\xff\xfe,1\n", "can't decode"),
            ("a.csv", b'customer,bytes\n"acme,1\n', "unexpected end of data"),
            ("a.ndjson", b'{"customer": "acme"}\n{"cust', "row 2: not JSON"),
            ("a.ndjson", b"[1]\n", "row 1: not a JSON object"),
            ("a.txt", b"", "--format"),
        ],
    )
    def test_unreadable_file_is_bad_input(
        self, signed_in: Run, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        result = signed_in("ingest", name, "--type", "traffic", "--number", "bytes")
        assert_one_line(result, 2)
        assert message in result.errors


class TestUsage:
    @pytest.fixture(autouse=True)
    def _usage(self, client: Client) -> None:
        client.metrics.create("traffic", "sum", dimensions=["region"])
        client.ingest(
            Event(customer=customer, metric="traffic", value=value, timestamp=at, properties={"region": region})
            for customer, value, at, region in [
                ("acme", "1000.5", "2026-11-01T10:00:00Z", "eu"),
                ("acme", "2", "2026-11-02T10:00:00Z", "us"),
                ("bolt", "4", "2026-11-02T10:00:00Z", '=cmd|"/C calc"!A0'),
            ]
        )

    def test_one_number(self, signed_in: Run) -> None:
        table = signed_in("usage", "traffic", "-c", "acme", "--from", "2026-11-01", "--to", "2026-11-02T10:00:00Z")
        assert "1,000.5" in table.output
        (answer,) = json.loads(signed_in("usage", "traffic", "--period", "2026-11", "--json").output)
        assert (answer["value"], answer["customer"], answer["count"]) == ("1006.5", None, 3)
        assert json.loads(signed_in("usage", "traffic", "--realtime", "-c", "acme", "--json").output)[0]["count"] == 2

    def test_breakdown_is_safe_in_a_spreadsheet(self, signed_in: Run) -> None:
        result = signed_in("usage", "traffic", "--period", "2026-11", "--by", "customer", "--by", "region", "--csv")
        rows = {(row["customer"], row["region"]): row["value"] for row in csv.DictReader(StringIO(result.output))}
        assert rows == {("acme", "eu"): "1000.5", ("acme", "us"): "2", ("bolt", '\'=cmd|"/C calc"!A0'): "4"}

    def test_series_with_filter(self, signed_in: Run) -> None:
        result = signed_in("usage", "traffic", "--period", "2026-11", "--series", "day", "-f", "region=us", "--json")
        points = json.loads(result.output)
        assert len(points) == 30
        assert [point for point in points if point["value"] != "0"] == [
            {"start": "2026-11-02T00:00:00+00:00", "value": "2"}
        ]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["usage", "none"],
            ["usage", "traffic", "-c", "nobody"],
            ["usage", "traffic", "-f", "colour=red"],
            ["usage", "traffic", "-f", "red"],
            ["usage", "traffic", "--from", "2026-11-01"],
            ["usage", "traffic", "--from", "2026-11-02", "--to", "2026-11-01"],
            ["usage", "traffic", "--from", "2026-11-01T10:00", "--to", "2026-11-02"],
            ["usage", "traffic", "--period", "someday"],
            ["usage", "traffic", "--mode", "rolling_30d"],
            ["usage", "traffic", "--unknown"],
            ["usage"],
            ["nothing"],
        ],
        ids=" ".join,
    )
    def test_bad_input_is_one_line_and_status_2(self, signed_in: Run, arguments: list[str]) -> None:
        assert_one_line(signed_in(*arguments), 2)


class TestEvents:
    @pytest.fixture(autouse=True)
    def _events(self, client: Client) -> None:
        client.metrics.create("calls", "count")
        client.ingest(
            Event(customer="acme", metric="calls", idempotency_key=f"k{n}", timestamp=f"2026-11-0{n}T00:00:00Z")
            for n in range(1, 6)
        )

    def test_list_shows_the_newest(self, signed_in: Run) -> None:
        rows = json.loads(signed_in("events", "list", "-n", "2", "--json").output)
        assert [row["idempotency_key"] for row in rows] == ["k5", "k4"]

    def test_void_takes_back(self, signed_in: Run, client: Client) -> None:
        assert signed_in("events", "void", "k1", "--reason", "a mistake").output == "Voided k1.\n"
        assert client.query(metric="calls").count == 4
        assert_one_line(signed_in("events", "void", "k1", "--reason", "again"), 2)
        assert_one_line(signed_in("events", "void", "none", "--reason", "why not"), 2)

    @pytest.mark.usefixtures("stream_server")
    def test_tail_prints_events_until_interrupted(
        self, signed_in: Run, environment: dict[str, str], client: Client
    ) -> None:
        command = [sys.executable, "-m", "meterbook", "events", "tail", "--json"]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            os.set_blocking(process.stdout.fileno(), False)
            line = ""
            while not line:
                client.ingest(Event(customer="bolt", metric="calls"))
                line = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert json.loads(line)["customer"] == "bolt"
            assert "Traceback" not in process.stderr.read()


def test_without_login_it_says_what_to_do(run: Run) -> None:
    result = run("metrics", "list")
    assert_one_line(result, 2)
    assert "meterbook login" in result.errors


def test_unreachable_server_is_a_failure_not_bad_input(run: Run) -> None:
    result = run("metrics", "list", METERBOOK_URL="http://127.0.0.1:1", METERBOOK_API_KEY="mb_a_b")
    assert_one_line(result, 1)


def test_closed_pipe_is_no_traceback(signed_in: Run, environment: dict[str, str], client: Client) -> None:
    client.metrics.create("calls", "count")
    client.ingest(Event(customer="acme", metric="calls") for _ in range(2000))
    command = f"{sys.executable} -m meterbook events list -n 2000 --csv | head -1"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("timestamp,")
    assert done.stderr == ""
