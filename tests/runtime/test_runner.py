"""The parts of set-up and supervision that need no servers: ports, memory, sockets, the terminal, the lock files."""

import io
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from config.embedded import memory, postgres
from config.env import BASE_DIR
from config.processes import Account
from config.runner.console import QUEUE_LINES, Console
from config.runner.plan import FORWARD_PORT, CannotStart, read_plan
from config.runner.recipes import child_environment
from config.runner.supervisor import describe_forward_ports
from tests.runtime.installation import free_port


class TestPlan:
    def test_taken_port_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            monkeypatch.setenv("PORT", str(port))

            with pytest.raises(CannotStart, match=f"Port {port} is taken"):
                read_plan(os.environ)

    def test_streams_move_when_their_usual_port_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            stream_port = taken.getsockname()[1]
            port = stream_port - 1000
            monkeypatch.setenv("PORT", str(port))

            plan = read_plan(os.environ)

        assert plan.stream_port not in {stream_port, port}

    def test_forward_listener_moves_when_the_clients_default_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", str(free_port()))
        monkeypatch.delenv("METERBOOK_FORWARD_PORT", raising=False)
        with socket.socket() as taken:
            with suppress(OSError):  # somebody else has it already
                taken.bind(("127.0.0.1", FORWARD_PORT))
                taken.listen()

            plan = read_plan(os.environ)

        assert plan.forward_port not in {0, FORWARD_PORT}

    def test_forward_port_that_was_asked_for_is_had_or_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        port = free_port()
        monkeypatch.setenv("PORT", str(free_port()))
        monkeypatch.setenv("METERBOOK_FORWARD_PORT", str(port))
        assert read_plan(os.environ).forward_port == port

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            with pytest.raises(CannotStart, match=f"Port {port} is taken.*METERBOOK_FORWARD_PORT"):
                read_plan(os.environ)

        monkeypatch.setenv("METERBOOK_FORWARD_PORT", "0")
        assert read_plan(os.environ).forward_port == 0

    def test_port_with_a_shared_key_may_be_the_only_one_and_has_an_address_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = free_port()
        monkeypatch.setenv("PORT", str(free_port()))
        monkeypatch.setenv("METERBOOK_FORWARD_PORT", "0")
        monkeypatch.setenv("METERBOOK_FORWARD_SECURE_PORT", str(port))
        with pytest.raises(CannotStart, match="METERBOOK_FORWARD_SHARED_KEY"):
            read_plan(os.environ)
        monkeypatch.setenv("METERBOOK_FORWARD_SHARED_KEY", "a key")
        assert read_plan(os.environ).forward_secure_host == "127.0.0.1"
        monkeypatch.setenv("METERBOOK_FORWARD_SECURE_HOST", "127.0.0.2")

        plan = read_plan(os.environ)

        assert (plan.forward_host, plan.forward_port) == ("127.0.0.1", 0)
        assert describe_forward_ports(plan) == [
            f"forward clients that know the key are heard at 127.0.0.2:{port}",
            "billing-clients are heard nowhere: METERBOOK_FORWARD_PORT is 0",
        ]
        assert child_environment(plan, {})["METERBOOK_FORWARD_SECURE_HOST"] == "127.0.0.2"
        with socket.create_server(("127.0.0.2", port)), pytest.raises(CannotStart, match=f"Port {port} is taken"):
            read_plan(os.environ)

    def test_external_servers_are_honoured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", str(free_port()))
        monkeypatch.setenv("DATABASE_URL", "postgresql://db.example/meterbook")

        assert read_plan(os.environ).database_url == "postgresql://db.example/meterbook"


class TestEmbeddedPostgres:
    def test_settings_fit_the_memory(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        site = postgres.PostgresSite(tmp_path, tmp_path, tmp_path, Account.own())
        monkeypatch.setattr(memory, "usable_memory_bytes", lambda: 8 * 2**30)

        settings = postgres.server_settings(site)

        assert settings["shared_buffers"] == "1365MB"
        assert settings["fsync"] == settings["synchronous_commit"] == "on"
        assert settings["listen_addresses"] == ""

    def test_shared_buffers_are_capped(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        site = postgres.PostgresSite(tmp_path, tmp_path, tmp_path, Account.own())
        monkeypatch.setattr(memory, "usable_memory_bytes", lambda: 256 * 2**30)

        assert postgres.server_settings(site)["shared_buffers"] == "4096MB"

    def test_long_path_gets_a_short_socket_directory_for_the_owner_alone(self, tmp_path: Path) -> None:
        preferred = tmp_path / ("x" * 100) / "socket"

        chosen = postgres._private_socket_dir(preferred, Account.own())
        try:
            assert len(os.fsencode(chosen / postgres.SOCKET_NAME)) <= postgres.SOCKET_PATH_LIMIT
            assert chosen.stat().st_mode & 0o077 == 0
        finally:
            chosen.rmdir()

    def test_socket_directory_of_somebody_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "socket").mkdir()
        stranger = Account("stranger", os.geteuid() + 1, os.getegid())

        with pytest.raises(postgres.PostgresFailed, match="belongs to another user"):
            postgres._require_owner(tmp_path / "socket", stranger)


class StuckTerminal(io.StringIO):
    """A terminal that takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.released.wait(10)
        return super().write(text)


def test_terminal_that_stopped_reading_costs_lines_and_not_time() -> None:
    terminal = StuckTerminal()
    console = Console(terminal)

    for number in range(QUEUE_LINES + 1_000):
        console.line("web", f"line {number}")  # returns although nothing is written
    terminal.released.set()
    console.close()
    console = Console(terminal)
    console.line("web", "the last")
    console.close()

    text = terminal.getvalue()
    assert "line 0\n" in text
    assert f"line {QUEUE_LINES + 999}\n" not in text
    assert text.endswith("the last\n")


@pytest.mark.parametrize("name", ["run", "dev"])
def test_lock_pins_with_hashes_and_names_no_index(name: str) -> None:
    text = (BASE_DIR / "requirements" / f"{name}.lock").read_text()

    assert "://" not in text
    assert text.count("==") - text.count(" ; ") <= text.count("--hash=sha256:")
