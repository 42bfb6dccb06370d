"""How the amounts are sent, and the Go client's flags for it."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Self

DEFAULT_INGESTER = "localhost:24225"
PORTS = range(1, 65536)

_HOST_PORT = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+):(\d{1,5})\Z", re.ASCII)
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class AmountsConfig:
    """All times are seconds. Raises `ValueError` for what cannot be meant."""

    ingester_host_port: str = DEFAULT_INGESTER
    # Calls of `add_amounts` that may wait for an acknowledgement; more are refused.
    max_buffered_events: int = 1024
    retry_delay: float = 0.5
    # How long connecting, or one message's acknowledgement, may take before the connection is given up for another.
    ack_timeout: float = 30.0
    # How long the interpreter's exit may be held up to send what is left.
    exit_timeout: float = 5.0

    def __post_init__(self) -> None:
        if self.max_buffered_events < 1:
            raise ValueError("There must be room for one event.")
        if self.retry_delay < 0 or self.exit_timeout < 0 or self.ack_timeout <= 0:
            raise ValueError("Delays are not negative, and an acknowledgement takes time.")
        self.address()

    @classmethod
    def from_flags(cls, flags: argparse.Namespace) -> Self:
        """Read what a parser that went through `register_flags` found."""
        return cls(
            ingester_host_port=flags.billing_ingester,
            max_buffered_events=flags.billing_max_buffered_events,
            retry_delay=flags.billing_retry_delay,
        )

    def address(self) -> tuple[str, int]:
        """Return host and port."""
        parts = _HOST_PORT.match(self.ingester_host_port)
        if parts is None or int(parts[2]) not in PORTS:
            raise ValueError(f"The ingester is written host:port, not {self.ingester_host_port!r}.")
        return parts[1].strip("[]"), int(parts[2])


def register_flags(parser: argparse.ArgumentParser) -> None:
    """Add the Go client's flags, with one dash or two, to a parser; see `AmountsConfig.from_flags`."""
    flags = parser.add_argument_group("billing client")
    flags.add_argument(
        *("-billing.ingester", "--billing.ingester"),
        dest="billing_ingester",
        metavar="HOST:PORT",
        default=DEFAULT_INGESTER,
        help="where the forward listener is (default: %(default)s)",
    )
    flags.add_argument(
        *("-billing.max-buffered-events", "--billing.max-buffered-events"),
        dest="billing_max_buffered_events",
        metavar="COUNT",
        type=int,
        default=AmountsConfig().max_buffered_events,
        help="how many events may wait for an acknowledgement (default: %(default)s)",
    )
    flags.add_argument(
        *("-billing.retry-delay", "--billing.retry-delay"),
        dest="billing_retry_delay",
        metavar="DURATION",
        type=parse_duration,
        default="500ms",
        help="how long to wait before sending again (default: %(default)s)",
    )


def parse_duration(text: str) -> float:
    """Read a duration as Go writes it ("500ms", "1m30s") as seconds."""
    seconds, place = 0.0, 0
    while part := _DURATION_PART.match(text, place):
        seconds += float(part[1]) * _SECONDS[part[2]]
        place = part.end()
    if place < len(text) or not text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration like 500ms or 1m30s.")
    return seconds
