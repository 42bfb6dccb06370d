"""The demo, whole: 336,776 flights through the public API, and totals equal to the data frame's."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone
from meterbook import Client

from accounts.models import Customer, Organization
from config.env import BASE_DIR
from metering import demo
from metering.models import Event
from metering.services.rollup import roll_up_organization
from tests.clients.web_server import WebServer, servers_on_test_database

FLIGHTS = 336_776


@pytest.fixture
def server(transactional_db: None, tmp_path: Path) -> Iterator[WebServer]:
    with servers_on_test_database(tmp_path) as servers:
        servers.web.start()
        yield servers.web


def load(server: WebServer, credentials: Path) -> str:
    said = StringIO()
    call_command("load_demo", url=server.url, output=credentials, stdout=said)
    return said.getvalue()


def begin_and_kill(server: WebServer) -> None:
    """Start a load in a process of its own and kill it when a part has been sent."""
    command = [sys.executable, "manage.py", "load_demo", "--url", server.url]
    with subprocess.Popen(
        command, cwd=BASE_DIR, env=server.environment, stdout=subprocess.PIPE, text=True
    ) as interrupted:
        assert interrupted.stdout is not None
        assert " flights sent" in interrupted.stdout.readline()
        interrupted.kill()


@pytest.mark.timeout(900)  # the whole year, twice counted; under a minute on an idle machine
def test_demo_totals_equal_those_of_the_data_frame_after_an_interrupted_load(server: WebServer, tmp_path: Path) -> None:
    credentials = tmp_path / "demo.json"
    begin_and_kill(server)

    said = load(server, credentials)

    assert f"{FLIGHTS:,} flights sent" in said
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    (organization,) = Organization.objects.filter(name=demo.ORGANIZATION_NAME)
    assert Event.objects.for_organization(organization).count() == FLIGHTS
    expected = demo.totals_of_data_frame()
    with Client(server.url, json.loads(credentials.read_text())["api_key"]) as client:
        assert demo.totals_of_server(client, at=timezone.now()) == expected, "before the worker has seen them"
        roll_up_organization(organization_id=organization.pk, now=timezone.now())
        assert demo.totals_of_server(client, at=timezone.now()) == expected, "from rollups"

    names = dict(Customer.objects.for_organization(organization).values_list("external_id", "name"))
    assert names == demo.read_airlines()
    assert "flights sent" not in load(server, credentials), "what is loaded is not sent again"
