"""Nothing acknowledged is lost and nothing is counted twice: kills, resets, a database that is away, and the end."""

from __future__ import annotations

import gc
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIG_IGN, SIGKILL, SIGTERM, signal
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from psycopg import sql

from accounts.models import Organization
from metering.dialects.weave.listener import Limits
from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.services import map_instance
from metering.models import Event
from tests.clients.web_server import url_of_test_database
from tests.dialects.weave.listening import (
    DEADLINE_SECONDS,
    AtWork,
    Sender,
    listener_at_work,
    listener_process,
    message,
    stored_keys,
    wait_until,
)
from tests.runtime.installation import free_port


@pytest.fixture
def db(committed: None) -> None:
    """What a test writes is committed: the listener has connections of its own."""


@pytest.fixture
def mapped(org: Organization) -> Organization:
    map_instance(organization=org, internal_instance_id="1234", customer_external_id="acme", actor="test")
    return org


class Stubborn(threading.Thread):
    """Sends chunks of ten records until each is acknowledged; dies in the middle now and then, or when it must."""

    def __init__(self, port: int, name: str, chunk_count: int, *, reset_share: float) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._label = name
        self._chunks = chunk_count
        self._reset_share = reset_share
        self._random = random.Random(name)
        self.acknowledged: set[str] = set()
        self.reset_count = 0
        self.failure: BaseException | None = None

    def keys(self, chunk: int) -> list[str]:
        return [f"{self._label}-{chunk}-{number}" for number in range(10)]

    def run(self) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        try:
            sender: Sender | None = None
            for chunk in range(self._chunks):
                while not self._deliver(chunk, sender := sender or self._connect(deadline)):
                    sender = None
            if sender is not None:
                sender.close()
        except BaseException as failure:
            self.failure = failure

    def _connect(self, deadline: float) -> Sender:
        while True:
            try:
                return Sender(self._port)
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def _deliver(self, chunk: int, sender: Sender) -> bool:
        """Return whether the chunk was acknowledged; else the connection is gone."""
        *first, last = self.keys(chunk)
        data = b"".join(message(key) for key in first) + message(last, chunk=str(chunk))
        try:
            if self._random.random() < self._reset_share:
                sender.send(data[: self._random.randrange(len(data) + 1)])
                time.sleep(self._random.choice((0, 0.002, 0.01)))
                sender.reset()
                self.reset_count += 1
                return False
            sender.send(data)
            sender.await_acks(str(chunk))
        except OSError:
            sender.close()
            return False
        self.acknowledged.update(f"1234/{key}" for key in self.keys(chunk))
        return True


def run_all(senders: list[Stubborn]) -> None:
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(DEADLINE_SECONDS)
        assert not sender.is_alive()
        if sender.failure is not None:
            raise sender.failure


def test_ten_thousand_records_over_eight_connections_that_are_reset_count_once_each(mapped: Organization) -> None:
    with listener_at_work() as at_work:
        senders = [Stubborn(at_work.port, f"s{number}", 125, reset_share=0.1) for number in range(8)]
        run_all(senders)

        stored = stored_keys(mapped)

    assert sum(sender.reset_count for sender in senders) > 50
    assert stored == dict.fromkeys((key for sender in senders for key in sender.acknowledged), 1)
    assert len(stored) == 10_000


def test_killed_listener_has_stored_what_it_acknowledged(mapped: Organization, tmp_path: Path) -> None:
    with listener_process(tmp_path) as process:
        senders = [Stubborn(process.port, f"s{number}", 50, reset_share=0) for number in range(4)]
        for sender in senders:
            sender.start()
        wait_until(lambda: sum(len(sender.acknowledged) for sender in senders) > 150)
        process.end(SIGKILL)
        acknowledged = set().union(*(sender.acknowledged for sender in senders))
        assert acknowledged <= stored_keys(mapped).keys()
        assert len(acknowledged) < 2_000

        process.start()
        for sender in senders:
            sender.join(DEADLINE_SECONDS)
            assert sender.failure is None

        assert stored_keys(mapped) == dict.fromkeys(set().union(*(sender.acknowledged for sender in senders)), 1)
        assert Event.objects.for_organization(mapped).count() == 2_000

        # Records of a sender that waits for nothing, and the signal right behind them.
        client = Sender(process.port)
        client.send(b"".join(message(f"last-{number}") for number in range(1_000)))
        assert process.end(SIGTERM) == 0
        assert Event.objects.for_organization(mapped).count() == 3_000


class TestDrain:
    def test_what_was_sent_is_stored_and_acknowledged_before_the_end(self, mapped: Organization) -> None:
        with listener_at_work() as at_work:
            senders = [Sender(at_work.port) for _ in range(5)]
            for number, sender in enumerate(senders):
                sender.send(b"".join(message(f"{number}-{key}") for key in range(1_000)))
                sender.send(message(f"{number}-end", chunk="end"))

            assert at_work.drain()
            for sender in senders:
                assert sender.await_end() == b'{"ack":"end"}'
            with pytest.raises(OSError, match="refused"):
                Sender(at_work.port)

        assert len(stored_keys(mapped)) == 5_005

    def test_sender_without_end_does_not_hold_it_up(self, mapped: Organization) -> None:
        is_over = threading.Event()

        def send_on() -> None:
            try:
                for number in range(10_000_000):
                    sender.send(message(f"key-{number}"))
            except ConnectionError:
                is_over.set()

        with listener_at_work(limits=Limits(drain_seconds=0.5)) as at_work:
            sender = Sender(at_work.port)
            thread = threading.Thread(target=send_on)
            thread.start()
            wait_until(lambda: bool(stored_keys(mapped)))

            assert at_work.drain()
            assert is_over.wait(DEADLINE_SECONDS)
            thread.join()


@contextmanager
def nobody_stores() -> Iterator[None]:
    """Let every statement on events wait, as behind a database that stands still."""
    blocker = connection.copy()
    try:
        with blocker.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("LOCK TABLE metering_event IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        blocker.close()


@contextmanager
def nobody_connects() -> Iterator[None]:
    """End all connections to the database but ours, and allow no new ones."""
    name = connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [ours] = cursor.fetchone()
    with psycopg.connect(url_of_test_database(), dbname="postgres", autocommit=True) as other:
        allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
        other.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        try:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s", [name, ours]
            )
            yield
        finally:
            other.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


class TestDatabaseAway:
    def test_senders_are_held_up_and_memory_is_bounded(self, mapped: Organization) -> None:
        count, text = 12_000, "x" * 2_000
        limits = Limits(waiting_records=1_000)
        with listener_at_work(limits=limits) as at_work:
            sender = Sender(at_work.port)
            sent = []

            def send_all() -> None:
                for number in range(count):
                    sender.send(message(f"key-{number}", metadata={"text": text}))
                    sent.append(number)

            thread = threading.Thread(target=send_all)
            sender.socket.settimeout(DEADLINE_SECONDS)
            with nobody_stores():
                thread.start()
                wait_until(lambda: not at_work.listener.has_room)
                last = -1
                while last < len(sent):  # until the sender stands still
                    last = len(sent)
                    time.sleep(0.3)
                # What is on its way in the kernel is not ours; a parcel may overshoot, and what one read brings.
                assert last < count
                assert at_work.listener.waiting_records <= limits.waiting_records + 500
            thread.join(DEADLINE_SECONDS)
            wait_until(lambda: Event.objects.for_organization(mapped).count() == count)

        assert len(stored_keys(mapped)) == count

    def test_lost_database_loses_no_record_and_gets_no_acknowledgement(self, mapped: Organization) -> None:
        with listener_at_work() as at_work:
            sender = Sender(at_work.port)
            sender.send(message("before", chunk="before"))
            sender.await_acks("before")
            with nobody_connects():
                sender.send(message("silent") + message("during", chunk="during"))
                assert sender.hears_nothing(seconds=0.5)

            sender.await_acks("during")

        assert stored_keys(mapped) == {"1234/before": 1, "1234/silent": 1, "1234/during": 1}

    def test_end_during_an_outage_acknowledges_nothing(self, mapped: Organization) -> None:
        with listener_at_work(limits=Limits(drain_seconds=0.1, store_seconds=0.3)) as at_work:
            sender = Sender(at_work.port)
            with nobody_connects():
                sender.send(message("key", chunk="c"))

                assert not at_work.drain()
                assert sender.await_end() == b""

        assert not stored_keys(mapped)


@contextmanager
def refusing(table: str, condition: str) -> Iterator[None]:
    """Have the database refuse rows of the table unless the condition holds."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT refused CHECK ({condition}) NOT VALID")
        try:
            yield
        finally:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT refused")


@contextmanager
def raising(sqlstate: str) -> Iterator[None]:
    """Have the database answer with an error of this class to events with the value 666."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            CREATE FUNCTION refuse_event() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.value = 666 THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER refuse_event BEFORE INSERT ON metering_event FOR EACH ROW EXECUTE FUNCTION refuse_event();
            """
        )
        try:
            yield
        finally:
            cursor.execute("DROP FUNCTION refuse_event CASCADE")


class TestPoison:
    """A record that the database refuses, for whatever reason, costs none of its neighbours."""

    def send_between_neighbours(self, organization: Organization, at_work: AtWork) -> None:
        sender = Sender(at_work.port)
        before = b"".join(message(f"before-{number}") for number in range(40))
        after = b"".join(message(f"after-{number}") for number in range(40))
        sender.send(before + message("poison", amount=666) + after + message("end", chunk="end"))
        sender.await_acks("end")
        wait_until(lambda: len(stored_keys(organization)) >= 81)

    def test_waits_and_its_batch_is_stored(self, mapped: Organization) -> None:
        with refusing("metering_event", "value <> 666"), listener_at_work() as at_work:
            self.send_between_neighbours(mapped, at_work)

        assert len(stored_keys(mapped)) == 81
        [waiting] = QuarantinedRecord.objects.all_tenants()
        assert (waiting.unique_key, waiting.organization_id, waiting.is_whole) == ("poison", mapped.pk, True)

    # An undefined table, an internal error, a row that is too large for an index: what else is the schema's fault, or
    # says that the database is away.
    @pytest.mark.parametrize("sqlstate", ["42P01", "XX000", "54000"])
    def test_waits_when_its_error_looks_like_the_databases(
        self, mapped: Organization, monkeypatch: pytest.MonkeyPatch, sqlstate: str
    ) -> None:
        monkeypatch.setattr("metering.dialects.weave.writers.RETRY_SECONDS", (0.01,))
        with raising(sqlstate), listener_at_work() as at_work:
            self.send_between_neighbours(mapped, at_work)

        assert len(stored_keys(mapped)) == 81
        assert [row.unique_key for row in QuarantinedRecord.objects.all_tenants()] == ["poison"]

    def test_leaves_a_trace_when_it_cannot_wait_either(self, mapped: Organization) -> None:
        with (
            refusing("metering_event", "value <> 666"),
            refusing("weave_quarantinedrecord", "unique_key <> 'poison'"),
            listener_at_work() as at_work,
        ):
            self.send_between_neighbours(mapped, at_work)

        [waiting] = QuarantinedRecord.objects.all_tenants()
        assert (waiting.unique_key, waiting.is_whole) == ("", False)
        assert '"unique_key":"poison"' in waiting.record

    def test_ends_the_process_when_not_even_that_is_possible(self, mapped: Organization) -> None:
        """The supervisor starts it again; a listener without writers would stand still and look alive."""
        port, heard = free_port(), []

        def send() -> None:
            sender = connect_patiently(port)
            sender.send(message("poison", amount=666, chunk="c"))
            heard.append(sender.await_end())

        with (
            refusing("metering_event", "value <> 666"),
            refusing("weave_quarantinedrecord", "false"),
            command_at_work(send),
            pytest.raises(CommandError, match="A writer failed"),
        ):
            call_command("forward_listener", port=port)
        assert heard == [b""]
        assert not stored_keys(mapped)


class TestCommand:
    def test_serves_the_port_with_the_shared_key_alone_at_an_address_of_its_own(
        self, mapped: Organization, settings: Any
    ) -> None:
        settings.FORWARD_SHARED_KEY = "a key"
        port, heard = free_port(), []

        def look() -> None:
            sender = connect_patiently(port, host="127.0.0.2")
            heard.append(b"HELO" in sender.socket.recv(1_000))
            with socket.socket() as elsewhere:
                heard.append(elsewhere.connect_ex(("127.0.0.1", port)) == 0)
            os.kill(os.getpid(), SIGTERM)

        with command_at_work(look):
            call_command("forward_listener", port=0, secure_host="127.0.0.2", secure_port=port)
        assert heard == [True, False]

    @pytest.mark.parametrize(("secure_port", "key"), [(5, ""), (0, "a key"), (0, "")])
    def test_refuses_half_a_port_and_none_at_all(self, settings: Any, secure_port: int, key: str) -> None:
        settings.FORWARD_SHARED_KEY = key
        with pytest.raises(CommandError, match="go together" if secure_port or key else "nothing to listen on"):
            call_command("forward_listener", port=0, secure_port=secure_port)


def connect_patiently(port: int, *, host: str = "127.0.0.1") -> Sender:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return Sender(port, host=host)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def command_at_work(other_side: Callable[[], None]) -> Iterator[None]:
    """Run the other side on a thread while the command runs on this one, which gets the signals.

    A failure of the other side ends the command too, and is raised.
    """
    failures: list[Exception] = []

    def run() -> None:
        try:
            other_side()
        except Exception as failure:
            failures.append(failure)
            os.kill(os.getpid(), SIGTERM)

    interval, handler = sys.getswitchinterval(), signal(SIGTERM, SIG_IGN)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        signal(SIGTERM, SIG_IGN)  # the command has put back what was there
        thread.join(2 * DEADLINE_SECONDS)
        signal(SIGTERM, handler)
        sys.setswitchinterval(interval)
        gc.unfreeze()
        if failures:
            raise failures[0]
