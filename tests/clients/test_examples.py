"""The shipped examples, run as programs against a whole installation: worker, stream and all. Each runs twice."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.env import BASE_DIR
from tests.clients.conftest import Tenant

pytestmark = pytest.mark.xdist_group("client_installation")
EXAMPLES = BASE_DIR / "clients" / "python" / "examples"

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tenant: Tenant, tmp_path: Path) -> Run:
    """Return a function that runs an example and returns what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METERBOOK")}
    environment = {**kept, "METERBOOK_URL": tenant.url, "METERBOOK_API_KEY": tenant.api_key, "NO_PROXY": "127.0.0.1"}

    def run(name: str, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run


def test_billing_enforcement_refuses_at_the_cap_and_still_after_a_restart(run: Run) -> None:
    first = run("billing_enforcement.py", "--seconds", "120")
    second = run("billing_enforcement.py", "--seconds", "120")
    other = run("billing_enforcement.py", "--customer", "cust_43", "--seconds", "0")

    assert first["status"] == 402
    assert first["served"] >= 20
    assert first["usage"] == str(first["served"])  # every request that was served counts, and no other
    assert (first["refusal"]["code"], first["refusal"]["threshold_code"]) == ("usage_cap_exceeded", "hard_cap")
    assert (second["served"], second["status"], second["usage"]) == (0, 402, first["usage"])
    assert other["status"] == 200


def test_free_tier_alerts_go_on_where_they_were(run: Run) -> None:
    expected = {"upgrade_emails": ["growing", "huge"], "blocked": ["huge"]}

    first = run("free_tier_alerts.py", "--seconds", "120")
    second = run("free_tier_alerts.py", "--seconds", "120")

    for result in (first, second):
        assert {"upgrade_emails": sorted(result["upgrade_emails"]), "blocked": result["blocked"]} == expected
    assert (first["handled"], second["handled"]) == (3, 0)


def test_saas_api_counts_each_request_once(run: Run) -> None:
    expected = {
        "served": {"initech /search": "5", "initech /reports": "2", "hooli /search": "3"},
        "all_requests": "11",
        "rejected": 0,
    }

    assert run("saas_api.py") == expected
    assert run("saas_api.py") == expected


def test_infra_metering_filters_by_several_dimensions(run: Run) -> None:
    expected = {
        "initech_aws_us_east": "3600.75",
        "initech_aws_or_gcp": "6301",
        "by_provider": {"aws": "5401", "gcp": "900", "azure": "7200"},
    }

    assert run("infra_metering.py") == expected
    assert run("infra_metering.py") == expected


def test_seat_based_counts_distinct_members(run: Run) -> None:
    first = run("seat_based.py")
    second = run("seat_based.py")

    # peter, samir, michael, milton; peter again, joanna; milton leaves, samir leaves, nobody was not there; samir
    assert first == {"seats": 4, "after_each_change": [1, 2, 3, 4, 4, 5, 4, 3, 3, 4]}
    assert second["seats"] == 4


def test_high_throughput_stores_each_message_once_and_acknowledges_all(run: Run) -> None:
    first = run("high_throughput.py", "--messages", "5000")
    second = run("high_throughput.py", "--messages", "5000")

    # 714 rounds of 0 to 6, which sum to 21, and then 0 and 1
    assert (first["stored"], first["duplicates"], first["rejected"]) == (5000, 100, 0)
    assert (second["stored"], second["duplicates"], second["rejected"]) == (0, 5100, 0)
    assert (first["acknowledged"], first["total"]) == (5100, "14995")
    assert (second["acknowledged"], second["total"]) == (5100, "14995")
