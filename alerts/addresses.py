"""Which addresses a webhook may reach: the public internet, unless the installation allows more. Pure.

Owns the rules for URLs and for addresses. Does not resolve names: `alerts.clients.webhooks` does, and asks here
before it connects.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from common.errors import InvalidInput

MAX_URL_LENGTH = 2000
LOCAL_NAMES = ("localhost", "localdomain", "local", "internal", "home.arpa")

# Reachable within a network or cloud only, whatever the address registries say about them.
_NEVER = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments; a cloud's metadata service at .192
    IPv4Network("168.63.129.16/32"),  # a cloud's host, seen from its machines
)
# What is routed in IPv6. Site-local, IPv4-compatible and other old kinds lie outside.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# The translators' well-known prefix: the last 32 bits are the IPv4 address that is reached.
_NAT64 = IPv6Network("64:ff9b::/96")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?\Z")
_PRINTABLE = re.compile(r"[\x21-\x7e]+\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL in the parts that a request needs. `authority` is the `Host` header."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str


def is_public(address: str) -> bool:
    """Tell whether an address (not a name) is one of the public internet's, also behind a translated one."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        inner = _inner_address(found)
        if inner is None:
            return found in _GLOBAL_UNICAST and found.is_global and not found.is_multicast
        found = inner
    return found.is_global and not found.is_multicast and not any(found in network for network in _NEVER)


def _inner_address(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a mapped, 6to4 or NAT64 address leads to."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def read_target(url: str, *, may_be_private: bool) -> Target:
    """Return the parts of a webhook's URL.

    Raises `InvalidInput` with the code `invalid_url`, or `private_address` for a literal address or name that is
    private on its face. What a name resolves to is checked at each attempt.
    """
    if len(url) > MAX_URL_LENGTH or not _PRINTABLE.match(url) or "\\" in url:
        raise _invalid(f"A URL is at most {MAX_URL_LENGTH} printable ASCII characters; write other names as xn--…")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _invalid("This is not a URL.") from None
    schemes = ("https", "http") if may_be_private else ("https",)
    if parts.scheme not in schemes:
        raise _invalid(f"The URL begins with {' or '.join(f'{scheme}://' for scheme in schemes)}.")
    if parts.username is not None or parts.password is not None:
        raise _invalid("A URL holds no credentials; messages are signed instead.")
    if parts.fragment:
        raise _invalid("A fragment (#…) is never sent.")
    host = parts.hostname or ""
    if port == 0 or not _is_host(host):
        raise _invalid("The URL needs a host name or an address.")
    if not may_be_private:
        _refuse_private(host)
    return Target(
        scheme=parts.scheme,
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        authority=(f"[{host}]" if ":" in host else host) + (f":{port}" if port else ""),
        path=_path(parts),
    )


def _is_host(host: str) -> bool:
    return len(host) <= 253 and (_NAME.match(host) is not None or _is_ipv6(host))


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


def _refuse_private(host: str) -> None:
    name = host.rstrip(".")
    literal = host if _is_ipv6(host) else _ipv4_literal(name)
    if literal is None:
        is_private = "." not in name or any(name == local or name.endswith(f".{local}") for local in LOCAL_NAMES)
    else:
        is_private = not is_public(literal)
    if is_private:
        message = "Webhooks go to the public internet; this is a private address."
        raise InvalidInput.of("url", message, "private_address")


def _ipv4_literal(host: str) -> str | None:
    """Return the address that the C library reads in it, also from spellings like 127.1 or 0x7f000001."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _invalid(message: str) -> InvalidInput:
    return InvalidInput.of("url", message, "invalid_url")
