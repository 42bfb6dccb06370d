"""`meterbook alerts` and `meterbook thresholds` as processes, on a whole installation."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO

import pytest
from meterbook import Client, Event, Threshold

from tests.clients.conftest import Tenant
from tests.runtime.installation import wait_for

pytestmark = pytest.mark.xdist_group("client_installation")
SECONDS = 60.0

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tenant: Tenant) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METERBOOK")}
    return {**kept, "METERBOOK_URL": tenant.url, "METERBOOK_API_KEY": tenant.api_key, "NO_PROXY": "127.0.0.1"}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "meterbook", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture(autouse=True)
def _metric(tenant_client: Client) -> None:
    tenant_client.metrics.create("calls", "sum", dimensions=["region"], thresholds=[Threshold("cap", "100.5")])


def cross(client: Client, *customers: str) -> None:
    known = len(client.alerts.list())
    client.ingest([Event(customer=customer, metric="calls", value=200) for customer in customers])
    wait_for(lambda: len(client.alerts.list()) == known + len(customers), SECONDS)


def test_list_prints_what_was_crossed(run: Run, tenant_client: Client) -> None:
    cross(tenant_client, "acme", "bolt", "core")

    rows = list(csv.DictReader(StringIO(run("alerts", "list", "--csv").stdout)))
    narrow = json.loads(run("alerts", "list", "--since", "0", "-c", "acme", "-c", "bolt", "-n", "1", "--json").stdout)

    assert [row["offset"] for row in rows] == ["1", "2", "3"]
    assert {row["customer"] for row in rows} == {"acme", "bolt", "core"}
    assert {(row["threshold_code"], row["threshold_value"], row["value_at_cross"]) for row in rows} == {
        ("cap", "100.5", "200")
    }
    assert [alert["customer"] in {"acme", "bolt"} for alert in narrow] == [True]
    assert "threshold_code" in run("alerts", "list").stdout


def test_follow_prints_each_alert_once_and_ends_when_interrupted(
    tenant_client: Client, environment: dict[str, str]
) -> None:
    cross(tenant_client, "acme")
    command = [sys.executable, "-m", "meterbook", "alerts", "list", "--follow", "--since", "0", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        cross(tenant_client, "bolt")
        second = json.loads(following.stdout.readline())
        following.send_signal(signal.SIGINT)
        status = following.wait(30)

    assert [(alert["offset"], alert["customer"]) for alert in (first, second)] == [(1, "acme"), (2, "bolt")]
    assert status == 130


def test_follow_as_csv_is_bad_input(run: Run) -> None:
    done = run("alerts", "list", "--follow", "--csv")

    assert (done.returncode, done.stdout) == (2, "")


def test_threshold_is_created_listed_traced_and_deleted(run: Run, tenant_client: Client) -> None:
    cross(tenant_client, "acme")
    created = run(
        *("thresholds", "create", "warn", "calls", "--value", "500.5", "-c", "acme"),
        *("-f", "region=eu", "-f", "region=us", "--recurring"),
    )
    [threshold] = tenant_client.thresholds.list(customer="acme")
    assert (created.returncode, created.stdout) == (0, f"Created threshold {threshold.id}: warn on calls.\n")

    rows = {row["code"]: row for row in csv.DictReader(StringIO(run("thresholds", "list", "--csv").stdout))}
    assert (rows["warn"]["kind"], rows["warn"]["value"], rows["warn"]["filters"]) == ("value", "500.5", "region=eu,us")
    assert (rows["cap"]["origin"], rows["cap"]["customer"]) == ("metric", "")

    assert "500.5 to go" in run("thresholds", "trace", threshold.id).stdout
    traced = json.loads(run("thresholds", "trace", rows["cap"]["id"], "-c", "acme", "--json").stdout)
    assert (traced["outcome"], [crossing["offset"] for crossing in traced["crossings"]]) == ("fired", [1])

    assert run("thresholds", "delete", threshold.id).returncode == 0
    assert tenant_client.thresholds.list(customer="acme") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("thresholds", "create", "warn", "calls"),
        ("thresholds", "create", "warn", "calls", "--value", "many"),
        ("thresholds", "trace", "987654321"),
        ("alerts", "list", "--since", "-1"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: tuple[str, ...], run: Run) -> None:
    done = run(*arguments)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("meterbook: ")
