"""What this start is asked to do: ports, data directory, whose database; read once from the environment."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config import env

# Not the next port: people who start a second installation give it the next port.
STREAM_PORT_DISTANCE = 1000
# The billing-client's default.
FORWARD_PORT = 24225
WEB_WORKERS_LIMIT = 4


class CannotStart(Exception):
    """Something outside us has to change first; the message says what."""


@dataclass(frozen=True, slots=True)
class Plan:
    host: str
    port: int
    stream_port: int
    # Of the forward listener, its open port and the one for senders that know a key; 0: there is none.
    forward_host: str
    forward_port: int
    forward_secure_host: str
    forward_secure_port: int
    data_dir: Path
    database_url: str | None
    redis_url: str | None
    secret_key: str | None
    has_demo: bool
    web_workers: int
    web_threads: int
    worker_threads: int
    # 0: the worker does the slow tasks too.
    slow_worker_threads: int

    @property
    def address(self) -> str:
        host = {"0.0.0.0": "localhost", "127.0.0.1": "localhost", "::": "localhost"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    @property
    def local_host(self) -> str:
        """Where we reach our own web server."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)


def read_plan(environment: Mapping[str, str]) -> Plan:
    """Return the plan; raises `CannotStart` when a port is taken and `MisconfiguredVariable` for unusable values."""
    host = environment.get("METERBOOK_HOST") or "127.0.0.1"
    port = env.integer("PORT", 8000)
    _require_free(host, port, "PORT")
    forward_host = environment.get("METERBOOK_FORWARD_HOST") or "127.0.0.1"
    forward_secure_host = environment.get("METERBOOK_FORWARD_SECURE_HOST") or forward_host
    return Plan(
        host=host,
        port=port,
        stream_port=_choose_stream_port(host, port, environment.get("METERBOOK_STREAM_PORT")),
        forward_host=forward_host,
        forward_port=_choose_forward_port(forward_host, environment.get("METERBOOK_FORWARD_PORT")),
        forward_secure_host=forward_secure_host,
        forward_secure_port=_read_secure_port(forward_secure_host, environment.get("METERBOOK_FORWARD_SHARED_KEY")),
        data_dir=env.data_dir(),
        database_url=environment.get("DATABASE_URL") or None,
        redis_url=environment.get("REDIS_URL") or None,
        secret_key=environment.get("METERBOOK_SECRET_KEY") or None,
        has_demo=env.boolean("METERBOOK_DEMO", True),
        web_workers=env.integer("METERBOOK_WEB_WORKERS", max(2, min(WEB_WORKERS_LIMIT, _usable_cpus()))),
        web_threads=env.integer("METERBOOK_WEB_THREADS", 4),
        worker_threads=env.integer("METERBOOK_WORKER_THREADS", 4),
        slow_worker_threads=env.integer("METERBOOK_SLOW_WORKER_THREADS", 4),
    )


def _choose_stream_port(host: str, port: int, wanted: str | None) -> int:
    """Return the port asked for, else one at a distance, else any free one: clients learn it by redirect."""
    if wanted:
        stream_port = env.integer("METERBOOK_STREAM_PORT", 0)
        _require_free(host, stream_port, "METERBOOK_STREAM_PORT")
        return stream_port
    for candidate in (port + STREAM_PORT_DISTANCE, 0):
        if candidate <= 65_535 and (found := _bind(host, candidate)):
            return found
    raise CannotStart(f"There is no free port on {host} for the streams.")


def _choose_forward_port(host: str, wanted: str | None) -> int:
    """Return the port asked for (0: none), else the client's default, else any free one: another installation has it.

    Senders do not learn it by themselves, so the start tells it.
    """
    if wanted:
        forward_port = env.integer("METERBOOK_FORWARD_PORT", FORWARD_PORT)
        if forward_port:
            _require_free(host, forward_port, "METERBOOK_FORWARD_PORT")
        return forward_port
    for candidate in (FORWARD_PORT, 0):
        if found := _bind(host, candidate):
            return found
    raise CannotStart(f"There is no free port on {host} for the forward listener.")


def _read_secure_port(host: str, key: str | None) -> int:
    """Return the port for senders that know the shared key; 0 where there is none."""
    secure_port = env.integer("METERBOOK_FORWARD_SECURE_PORT", 0)
    if bool(secure_port) != bool(key):
        raise CannotStart("METERBOOK_FORWARD_SECURE_PORT and METERBOOK_FORWARD_SHARED_KEY go together.")
    if secure_port:
        _require_free(host, secure_port, "METERBOOK_FORWARD_SECURE_PORT")
    return secure_port


def _require_free(host: str, port: int, variable: str) -> None:
    if not 0 < port <= 65_535:
        raise CannotStart(f"{variable} must be between 1 and 65535, not {port}.")
    if _bind(host, port) is None:
        raise CannotStart(f"Port {port} is taken. Stop what uses it, or choose another: {variable}={port + 1} make run")


def _bind(host: str, port: int) -> int | None:
    """Return the port if it can be listened on now (for 0: a free one), else None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
            attempt.listen(1)
        except PermissionError as error:
            raise CannotStart(f"Port {port} needs root's rights: {error.strerror}.") from error
        except OSError:
            return None
        chosen: int = attempt.getsockname()[1]
        return chosen


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
