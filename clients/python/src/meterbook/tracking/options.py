"""How requests are recorded: what the program says, then the environment, then the server's settings, then defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypedDict

from meterbook.verbs.events import MAX_EVENTS_PER_REQUEST
from meterbook.wire import RetryPolicy

# The second is what the variables are called on the pages that this vocabulary comes from.
PREFIXES = ("METERBOOK_", "APIGATE_")
_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class TrackingOptions(TypedDict, total=False):
    """The keyword arguments of `track_requests`; see `Tracking` for their meaning and defaults."""

    is_enabled: bool
    batch_size: int
    flush_interval_ms: int
    compression: bool
    max_requests: int
    max_bytes: int
    max_body_bytes: int
    exit_seconds: float
    database_path: Path | str | None
    retry: RetryPolicy


@dataclass(frozen=True, slots=True)
class Tracking:
    """What a recorder goes by. The first four can be set on the server, for all programs at once."""

    is_enabled: bool = True
    # A batch goes when it is full, or when its oldest request has waited so long.
    batch_size: int = 100
    flush_interval_ms: int = 1000
    # Whether batches go compressed.
    compression: bool = True
    # Whether addresses are sent at all; how they are stored is the server's decision.
    has_ip_address: bool = True
    # The bounds on memory: requests, and their bytes, that have no verdict yet. Beyond them they are dropped.
    max_requests: int = 50_000
    max_bytes: int = 32 * 1024 * 1024
    # The longest body that is sent along for a route whose expression reads it.
    max_body_bytes: int = 65_536
    # How long the interpreter's exit may be held up to send what is left.
    exit_seconds: float = 5.0
    # A directory in which unsent requests survive the process.
    database_path: Path | None = None
    # Delays between attempts. Their number has no bound: only `close` gives up.
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(longest_delay=15.0))

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_EVENTS_PER_REQUEST:
            raise ValueError(f"A batch holds 1 to {MAX_EVENTS_PER_REQUEST} requests.")
        if self.flush_interval_ms < 1:
            raise ValueError("The flush interval is at least a millisecond.")
        if self.max_requests < 1 or self.max_bytes < 1:
            raise ValueError("A recorder must have room for one request.")


@dataclass(frozen=True, slots=True)
class Sources:
    """What was said here, by the program or the environment, and so is not the server's to say."""

    given: Mapping[str, Any]

    @classmethod
    def read(cls, options: TrackingOptions, environment: Mapping[str, str] = os.environ) -> Self:
        """Take the options over the environment. Raises `ValueError` for a value that means nothing."""
        given: dict[str, Any] = {}
        for name, (variable, read) in VARIABLES.items():
            text = next(
                (environment[prefix + variable] for prefix in PREFIXES if environment.get(prefix + variable)), ""
            )
            if text:
                given[name] = _read(variable, text, read)
        given |= options
        if given.get("database_path") is not None:
            given["database_path"] = Path(given["database_path"])
        return cls(given)

    def without_server(self) -> Tracking:
        return Tracking(**self.given)

    def with_server(self, settings: Mapping[str, Any]) -> Tracking:
        """Fill in what was not said here. A setting of the server that cannot be used is passed over."""
        tracking = self.without_server()
        for name, (option, read) in SERVER_SETTINGS.items():
            if option in self.given or name not in settings:
                continue
            try:
                tracking = replace(tracking, **{option: read(settings[name])})
            except (KeyError, TypeError, ValueError):
                continue
        return tracking


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else _WORDS[str(value).strip().lower()]


def _stores_ip(value: Any) -> bool:
    return str(value).strip().lower() not in ("off", "false")


def _read(variable: str, text: str, read: Callable[[Any], Any]) -> Any:
    try:
        return read(text)
    except (KeyError, ValueError):
        raise ValueError(f"{variable} cannot be {text!r}.") from None


# By option: the environment's variable without its prefix, and how it is read.
VARIABLES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "is_enabled": ("USAGE_TRACKING_ENABLED", _flag),
    "batch_size": ("USAGE_BATCH_SIZE", int),
    "flush_interval_ms": ("USAGE_FLUSH_INTERVAL_MS", int),
    "compression": ("USAGE_COMPRESSION", _flag),
    "database_path": ("USAGE_DATABASE_PATH", Path),
}
# By the server's setting: the option.
SERVER_SETTINGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "usage_tracking_enabled": ("is_enabled", _flag),
    "usage_batch_size": ("batch_size", int),
    "usage_flush_interval_ms": ("flush_interval_ms", int),
    "usage_compression": ("compression", _flag),
    "usage_store_ip": ("has_ip_address", _stores_ip),
}
