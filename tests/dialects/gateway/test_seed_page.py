"""Walks the page that the gateway's vocabulary comes from: every command, address, field, mode and setting on it.

The commands stand here as the page has them, `apigate` included; they are run by this project's own command line
against the real servers, in the page's order, and what they print must mean what the page says.
"""

from __future__ import annotations

import csv
import json
import runpy
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from meterbook import Client
from meterbook.cli import run as run_meterbook
from meterbook.tracking.watch import Watch

from accounts.models import Organization
from accounts.services import IssuedKey
from config.env import BASE_DIR
from tests.billing.stripe_fake import FakeStripe
from tests.clients.web_server import Servers, servers_on_test_database

USER = "usr_seed"
JANUARY = datetime(2025, 1, 1, tzinfo=UTC)
NOW = datetime.now(UTC)
SECONDS = 60.0
SERVER_SETTINGS = str(BASE_DIR / "config" / "settings" / "gateway.py")


@dataclass(frozen=True, slots=True)
class Installation:
    """The servers, a key that may do everything, and what the command line reads of both."""

    servers: Servers
    client: Client
    headers: dict[str, str]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.servers.web.url + path, headers=self.headers, trust_env=False, timeout=SECONDS)

    def write(self, method: str, path: str, content: dict[str, Any]) -> None:
        url = self.servers.web.url + path
        answer = httpx.request(method, url, json=content, headers=self.headers, trust_env=False, timeout=SECONDS)
        assert answer.is_success, answer.text


@pytest.fixture(scope="module")
def stripe() -> Iterator[FakeStripe]:
    """Stripe's meter endpoints, and the environment in which our servers find them."""
    with FakeStripe(now=lambda: datetime.now(UTC)) as server, pytest.MonkeyPatch.context() as environment:
        server.add_customer("cus_seed")
        server.add_meter("api_units")
        environment.setenv("STRIPE_API_KEY", server.key)
        environment.setenv("STRIPE_API_BASE", server.url)
        yield server


@pytest.fixture(scope="module")
def servers(django_db_setup: None, stripe: FakeStripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers_on_test_database(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def page(
    servers: Servers,
    transactional_db: None,
    org: Organization,
    api_key: IssuedKey,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Installation]:
    Organization.objects.filter(pk=org.pk).update(late_limit_days=None)  # the page's January is long ago
    servers.web.start()
    monkeypatch.setenv("METERBOOK_URL", servers.web.url)
    monkeypatch.setenv("METERBOOK_API_KEY", api_key.text)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Client(servers.web.url, api_key.text, trust_env=False) as client:
        yield Installation(servers, client, {"Authorization": f"Bearer {api_key.text}"})


def write_january() -> Iterator[dict[str, Any]]:
    """Yield the requests of the page's example: 5,000 on one route, 3,234 on another, 45,234,567 bytes in all."""
    for number in range(8_234):
        yield {
            "request_id": f"january-{number}",
            "user_id": USER,
            "route_id": "r1" if number < 5_000 else "r2",
            "method": "GET",
            "path": "/users/7" if number < 5_000 else "/orders",
            # 325 seconds apart they fill the month.
            "timestamp": (JANUARY + timedelta(seconds=325 * number)).isoformat(),
            "status_code": 200 if number < 8_100 else 404 if number < 8_220 else 500,
            "latency_ms": 20 + number % 50,
            "request_bytes": 493,
            # 5,493 bytes each make 45,229,362.
            "response_bytes": 5_000 + (5_205 if number == 0 else 0),
        }


def write_today() -> Iterator[dict[str, Any]]:
    """Yield five requests of now, one of them of another user: what is shown without any dates."""
    for number in range(5):
        yield {
            "request_id": f"today-{number}",
            "user_id": USER if number else "usr_other",
            "method": "POST",
            "path": "/search",
            "timestamp": NOW.isoformat(),
            "status_code": 503 if number == 4 else 200,
            "latency_ms": 12.5,
        }


@pytest.fixture
def traffic(page: Installation) -> None:
    for route_id, name, pattern in (("r1", "users-api", "/users/{id}"), ("r2", "orders-api", "/orders")):
        page.client.routes.create(id=route_id, name=name, path_pattern=pattern)
    result = page.client.requests.record([*write_january(), *write_today()])
    assert (result.stored, result.rejected) == (8_239, 0)
    page.client.quotas.create("api_requests", 10_000, customer=USER)


# --- the commands ---------------------------------------------------------------------------------------------

Check = Callable[[str], bool]


def rows_of(output: str) -> list[list[str]]:
    """Return the cells of a table, its head included."""
    return [line.split() for line in output.splitlines()]


def column(output: str, name: str) -> list[str]:
    head, *rows = rows_of(output)
    return [row[head.index(name)] for row in rows]


def says(fact: str, value: str) -> Check:
    return lambda output: [fact, value] in rows_of(output)


def requests_in_january(output: str) -> bool:
    counts = column(output, "requests")
    return len(counts) == 31 and sum(map(int, counts)) == 8_234


def hours_from_the_19th(output: str) -> bool:
    # 18 days of 86,400 seconds hold the first 4,786 requests.
    hours = column(output, "hour")
    return hours[0] == "2025-01-19T00:00:00+00:00" and sum(map(int, column(output, "requests"))) == 8_234 - 4_786 + 5


def csv_of_january(output: str) -> bool:
    rows = list(csv.DictReader(StringIO(output)))
    return len(rows) == 8_234 and {row["user_id"] for row in rows} == {USER}


def json_of_last_month(output: str) -> bool:
    return {row["request_id"] for row in json.loads(output)} == {f"today-{number}" for number in range(5)}


MONTH = NOW.strftime("%Y-%m")
COMMANDS: list[tuple[str, Check]] = [
    # Viewing usage
    ("apigate analytics summary", says("total_requests", "5")),
    (
        "apigate analytics users --sort requests --limit 10",
        lambda output: column(output, "user_id") == [USER, "usr_other"],
    ),
    ("apigate analytics routes --sort requests --limit 10", lambda output: column(output, "requests") == ["5"]),
    ("apigate analytics requests --from 2025-01-01 --to 2025-01-31", requests_in_january),
    # User usage
    ("apigate users usage <user-id>", says("total_requests", "4")),
    ("apigate analytics export --user <user-id> --from 2025-01-01 --to 2025-01-31 --format csv", csv_of_january),
    ("apigate analytics export --format json", json_of_last_month),
    # Aggregations
    ("apigate analytics daily --user <id>", lambda output: column(output, "requests") == ["4"]),
    ("apigate analytics monthly --user <id>", lambda output: column(output, "month") == [MONTH]),
    ("apigate analytics aggregate --group-by hour --from 2025-01-19", hours_from_the_19th),
    ("apigate analytics aggregate --group-by path --user <id>", lambda output: column(output, "path") == ["/search"]),
    # Retention, performance
    ("apigate settings set usage_retention_days 30", lambda output: output == "usage_retention_days = 30\n"),
    (
        "apigate settings set usage_aggregate_retention_days 365",
        lambda output: output == "usage_aggregate_retention_days = 365\n",
    ),
    ("apigate settings set usage_batch_size 100", lambda output: output == "usage_batch_size = 100\n"),
    ("apigate settings set usage_flush_interval_ms 1000", lambda output: output == "usage_flush_interval_ms = 1000\n"),
    ("apigate settings set usage_compression true", lambda output: output == "usage_compression = true\n"),
    # Troubleshooting
    ("apigate settings get usage_tracking_enabled", lambda output: output == "true\n"),
    ("apigate logs --filter usage", lambda output: rows_of(output)[0] == ["at", "level", "code", "message"]),
    # Retention by hand: what was received today stays
    ("apigate analytics cleanup --older-than 30d", lambda output: output.startswith("Deleted 0 requests from before")),
    # Privacy
    ("apigate settings set usage_store_ip false", lambda output: output == "usage_store_ip = off\n"),
    ("apigate settings set usage_store_path false", lambda output: output == "usage_store_path = false\n"),
    ("apigate users export-data <user-id>", lambda output: len(json.loads(output)["events"]) == 8_238),
    ("apigate users delete-usage <user-id>", lambda output: output.startswith(f"Deleted 8238 requests of {USER}")),
]
LIVE_COMMANDS = [
    "apigate analytics live",
    "apigate analytics live --user <id>",
    "apigate analytics live --status 5xx",
]
BILLING_USAGE = "apigate billing usage --user <id> --period 2025-01"
REPORT_USAGE = "apigate billing report-usage --period 2025-01"


def arguments_of(command: str) -> list[str]:
    program, *arguments = shlex.split(command)
    assert program == "apigate"
    return [USER if argument in ("<id>", "<user-id>") else argument for argument in arguments]


def run(command: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capfd.readouterr()
    status = run_meterbook(arguments_of(command))
    sys.stdout.flush()
    return status, *capfd.readouterr()


@pytest.mark.usefixtures("page", "traffic")
def test_every_command_of_the_page_does_what_it_says(page: Installation, capfd: pytest.CaptureFixture[str]) -> None:
    for command, is_right in COMMANDS:
        status, output, errors = run(command, capfd)
        assert (status, errors) == (0, ""), command
        assert is_right(output), f"{command}\n{output[:2000]}"

    # After the deletion nothing is left of the user but the numbers.
    assert says("total_requests", "5")(run("apigate analytics summary", capfd)[1])
    assert USER not in run("apigate analytics users", capfd)[1]
    assert run("apigate users usage <user-id>", capfd)[0] == 2


@pytest.mark.usefixtures("page")
def test_live_commands_show_requests_as_they_come(page: Installation) -> None:
    page.servers.stream.start()
    watching = [
        subprocess.Popen([sys.executable, "-m", "meterbook", *arguments_of(command)], stdout=subprocess.PIPE, text=True)
        for command in LIVE_COMMANDS
    ]
    is_over = threading.Event()

    def serve() -> None:
        number = 0
        while not is_over.wait(0.1):
            number += 1
            for user, status in ((USER, 200), ("usr_other", 200), ("usr_other", 502)):
                key = f"live-{user}-{status}-{number}"
                now = datetime.now(UTC).isoformat()
                record = {"request_id": key, "user_id": user, "method": "GET", "path": "/live", "timestamp": now}
                page.client.requests.record({**record, "status_code": status, "latency_ms": 1})

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        lines = [[process.stdout.readline() for _ in range(4)] for process in watching if process.stdout]
    finally:
        is_over.set()
        serving.join()
        for process in watching:
            process.send_signal(signal.SIGINT)
    assert [process.wait(SECONDS) for process in watching] == [130] * 3
    everything, of_user, failed = lines
    assert all("/live" in line for line in everything)
    assert all(USER in line for line in of_user)
    assert all("502" in line for line in failed)


@pytest.fixture
def pro(page: Installation, traffic: None) -> None:
    """The page's plan with fewer units included, so that January has some beyond; and the names at Stripe."""
    units = {"metric": "api_units", "model": "per_unit", "amount": "0.1", "included_quantity": 5_000}
    subscription = {"customer": USER, "plan": "pro", "start": JANUARY.isoformat(), "anchor_day": 1, "zone": "UTC"}
    page.write("POST", "/v1/plans", {"code": "pro", "name": "Pro", "currency": "USD", "prices": [units]})
    page.write("POST", "/v1/subscriptions", subscription)
    page.write("PUT", f"/v1/billing/stripe/customers/{USER}", {"stripe_customer_id": "cus_seed"})
    page.write("PUT", "/v1/billing/stripe/meters/api_units", {"event_name": "api_units"})


@pytest.mark.usefixtures("pro")
def test_billing_commands_price_the_month_and_report_it(stripe: FakeStripe, capfd: pytest.CaptureFixture[str]) -> None:
    status, output, errors = run(BILLING_USAGE, capfd)

    assert (status, errors) == (0, "")
    facts = {"plan": "Pro", "included_units": "5,000", "used_units": "8,234", "overage_units": "3,234"}
    for fact, value in {"user_id": USER, "period": "2025-01", **facts}.items():
        assert says(fact, value)(output)
    assert says("overage_rate_cents", "0.1")(output)
    assert says("overage_amount_cents", "323")(output)  # 323.4, rounded once

    status, output, errors = run(REPORT_USAGE, capfd)

    # Stripe takes usage of five weeks, which the page's January has left: every day of it is refused, and says so.
    assert (status, errors) == (0, "")
    assert {state: count for state, count in json.loads(output)["states"].items() if count} == {"rejected": 31}
    status, output, errors = run(REPORT_USAGE.replace("2025-01", "current"), capfd)
    assert (status, errors) == (0, "")
    assert sum(event.value for event in stripe.events if event.customer == "cus_seed") == 4


# --- the addresses --------------------------------------------------------------------------------------------

ADDRESSES = [
    "/admin/analytics/summary",
    "/admin/analytics/users",
    "/admin/analytics/requests?from=2025-01-01&to=2025-01-31",
    "/admin/users/<id>/usage",
    "/metrics",
]


@pytest.mark.usefixtures("page", "traffic")
def test_every_address_of_the_page_answers(page: Installation) -> None:
    answers = {address: page.get(address.replace("<id>", USER)) for address in ADDRESSES}

    assert {address: answer.status_code for address, answer in answers.items()} == dict.fromkeys(ADDRESSES, 200)
    summary, users, series, usage, metrics = answers.values()
    assert summary.json()["data"]["attributes"]["total_requests"] == 5
    assert {row["id"] for row in users.json()["data"]} == {USER, "usr_other"}
    assert sum(row["attributes"]["requests"] for row in series.json()["data"]) == 8_234
    assert usage.json()["data"]["attributes"]["total_requests"] == 4
    for line in ('meterbook_http_requests_total{method="GET",status="200"}', "meterbook_http_request_seconds_bucket{"):
        assert line in metrics.text

    example = page.get(f"/admin/users/{USER}/usage?period=2025-01").json()
    assert example == {
        "data": {
            "type": "usage",
            "attributes": {
                "period": "2025-01",
                "total_requests": 8234,
                "total_bytes": 45234567,
                "total_metered_units": 8234,
                "quota_limit": 10000,
                "quota_used_percent": 82.34,
                "by_route": [
                    {"route_id": "r1", "route_name": "users-api", "requests": 5000},
                    {"route_id": "r2", "route_name": "orders-api", "requests": 3234},
                ],
                "by_status": {"2xx": 8100, "4xx": 120, "5xx": 14},
            },
        }
    }


# --- fields and modes -----------------------------------------------------------------------------------------

FIELDS = {
    "user_id": USER,
    "api_key_id": "key_1",
    "route_id": "r1",
    "method": "GET",
    "path": "/users/7",
    "query_params": "page=2",
    "timestamp": NOW.isoformat(timespec="milliseconds"),
    "status_code": 404,
    "latency_ms": 12.5,
    "request_bytes": 512,
    "response_bytes": 1536,
    "error_code": "no_such_user",
    "ip_address": "203.0.113.77",
}
# Each mode with the page's expression, and the units of one request under it.
MODES: list[tuple[dict[str, str], dict[str, Any], float]] = [
    ({"metering_mode": "request"}, {}, 1),
    ({"metering_mode": "bytes"}, {}, 2),
    (
        {"metering_mode": "response_field", "metering_expr": "response.body.tokens_used"},
        {"response_body": {"tokens_used": 1_234}},
        1_234,
    ),
    (
        {"metering_mode": "custom", "metering_expr": "request.body.items.length * 0.5"},
        {"request_body": {"items": [1, 2, 3]}},
        1.5,
    ),
]


@pytest.mark.usefixtures("page")
def test_every_field_and_metering_mode_of_the_page_is_recorded(page: Installation) -> None:
    for number, (mode, bodies, _) in enumerate(MODES):
        page.client.routes.create(id=f"mode-{number}", **mode)
        page.client.requests.record({**FIELDS, **bodies, "route_id": f"mode-{number}", "request_id": f"r{number}"})

    exported = {row["request_id"]: row for row in json.loads(b"".join(page.client.analytics.export(format="json")))}
    for number, (mode, _, units) in enumerate(MODES):
        row = exported[f"r{number}"]
        assert (row["metering_mode"], row["metered_units"]) == (mode["metering_mode"], units)
        told = FIELDS | {"route_id": f"mode-{number}", "ip_address": "203.0.113.0"}
        assert datetime.fromisoformat(row.pop("timestamp")) == datetime.fromisoformat(str(told.pop("timestamp")))
        assert {name: row[name] for name in told} == told


# --- the environment ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("page")
def test_variables_of_the_page_are_read(page: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APIGATE_USAGE_DATABASE_PATH", str(tmp_path / "usage.db"))
    with page.client.track_requests() as recorder:
        watch = Watch("GET", "/", None, 0)
        watch.end()
        assert recorder.add(watch)
    assert recorder.counters.stored == 1
    assert (tmp_path / "usage.db").is_dir()

    for word, is_enabled in (("false", False), ("true", True)):
        monkeypatch.setenv("APIGATE_USAGE_CLEANUP_ENABLED", word)
        assert runpy.run_path(SERVER_SETTINGS)["USAGE_CLEANUP_ENABLED"] is is_enabled
