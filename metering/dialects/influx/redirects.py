"""What `/start` is asked for, and the one address that the token may be sent to. Pure.

The address comes from outside and is shown to a person who must be able to trust what they read. So only what every
browser reads in the same way is taken: http or https, a host in ASCII, no user name, no backslash, no control
character.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote_plus, urlencode, urlsplit, urlunsplit

from metering.dialects.influx.domain import MAX_NAME_CHARACTERS, MAX_PRODUCT_CHARACTERS

MAX_URL_CHARACTERS = 2000
OWN_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
TOKEN_PARAMETER = "token"

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
# Also the backslash, which browsers take for a slash and other readers do not.
_NEVER_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?\Z|\[[0-9A-Fa-f:.]+\]\Z", re.ASCII)
_HOST_IN_POLICIES = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*(:[0-9]+)?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """A checked address."""

    parts: SplitResult

    @property
    def host(self) -> str:
        """Return host and port as a person should read them."""
        return self.parts.netloc.lower()

    @property
    def is_exposed(self) -> bool:
        """Whether the way there can be read by others: not encrypted, and not to the person's own machine."""
        return self.parts.scheme == "http" and self.parts.hostname not in OWN_MACHINE

    @property
    def source(self) -> str:
        """Return the origin in the words of a content security policy: it knows no IPv6 hosts and no underscores."""
        scheme = self.parts.scheme
        return f"{scheme}://{self.host}" if _HOST_IN_POLICIES.match(self.host) else f"{scheme}:"

    def with_token(self, token: str) -> str:
        """Return the address with the token in its query, all else as it was; a token that was there is replaced."""
        kept = [pair for pair in self.parts.query.split("&") if pair and _name_of(pair) != TOKEN_PARAMETER]
        query = "&".join([*kept, urlencode({TOKEN_PARAMETER: token})])
        return urlunsplit(self.parts._replace(query=query))


@dataclass(frozen=True, slots=True)
class Registration:
    product: str
    cluster_id: str
    # None: the token is shown to the person, who carries it there.
    target: Target | None


def parse_registration(query: Mapping[str, str]) -> tuple[Registration | None, list[str]]:
    """Read the query of `/start`; return None with what is wrong with it, a sentence each."""
    problems: list[str] = []
    product = _read_name(query.get("product", ""), "product", MAX_PRODUCT_CHARACTERS, problems)
    cluster_id = _read_name(query.get("cluster_id", ""), "cluster_id", MAX_NAME_CHARACTERS, problems)
    redirect_url = query.get("redirect_url", "")
    target = parse_target(redirect_url) if redirect_url else None
    if redirect_url and target is None:
        problems.append(
            "redirect_url is not an address to which a token may be sent: use http:// or https:// and a host."
        )
    return (None, problems) if problems else (Registration(product, cluster_id, target), [])


def _read_name(text: str, name: str, longest: int, problems: list[str]) -> str:
    if not text.strip():
        problems.append(f"{name} is missing.")
    elif len(text) > longest or _CONTROL_CHARACTERS.search(text):
        problems.append(f"{name} has at most {longest} characters, and no control characters.")
    return text


def parse_target(url: str) -> Target | None:
    """Return the address if it may be redirected to."""
    if len(url) > MAX_URL_CHARACTERS or _NEVER_IN_URLS.search(url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    if parts.scheme not in {"http", "https"} or not _HOST.match(host):
        return None
    return Target(parts)


def _name_of(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])
