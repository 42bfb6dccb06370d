"""The forward listener as a page tells of it: where it is, whether it answers, how to point a client at it."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest

# A listener on this machine answers within microseconds; a page must not wait for one that is far and away.
PROBE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class ListenerState:
    # False: this installation runs none.
    is_enabled: bool
    # The open port; empty where there is only one with a shared key.
    address: str
    is_answering: bool
    # Whether programs on other machines reach it.
    is_local: bool
    # The port where clients prove that they know the shared key; empty where there is none.
    secure_address: str
    go_flags: str
    python: str


def get_listener_state(request: HttpRequest) -> ListenerState:
    """Connects to the port once, which the listener takes for a heartbeat."""
    open_host, open_port = settings.FORWARD_HOST, settings.FORWARD_PORT
    secure_host, secure_port = settings.FORWARD_SECURE_HOST, settings.FORWARD_SECURE_PORT
    is_enabled = bool(open_port or secure_port)
    host, port = (open_host, open_port) if open_port else (secure_host, secure_port)
    address = _address_for_clients(request, open_host, open_port) if open_port else ""
    return ListenerState(
        is_enabled=is_enabled,
        address=address,
        is_answering=is_enabled and _is_answering(_reachable_host(host), port),
        is_local=_is_loopback(host),
        secure_address=_address_for_clients(request, secure_host, secure_port) if secure_port else "",
        go_flags=f"-billing.ingester={address}",
        python=_python_example(address),
    )


def _address_for_clients(request: HttpRequest, host: str, port: int) -> str:
    """Return the address as a client writes it: where the listener takes any address, the one of this page."""
    if _is_unspecified(host):
        host = request.get_host().rsplit(":", 1)[0].strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable_host(host: str) -> str:
    return "localhost" if _is_unspecified(host) else host


def _is_answering(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _python_example(address: str) -> str:
    """Return a program in lines as short as its place on the page."""
    return (
        "from datetime import UTC, datetime\n\n"
        "from meterbook import amounts\n\n"
        f'config = amounts.AmountsConfig("{address}")\n'
        "with amounts.AmountsClient(config) as client:\n"
        "    client.add_amounts(\n"
        '        "report-1",\n'
        '        "1234",\n'
        "        datetime.now(UTC),\n"
        '        {"samples": 7},\n'
        "    )"
    )
