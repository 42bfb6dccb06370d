"""Which requests' bodies are sent along: those of routes whose expression on the server reads them.

A superset: where several patterns fit, one that reads bodies is enough. Which route it is, the server decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from meterbook.tracking.watch import Watch

ANY_METHODS = ("", "*")
REST = "*"


@dataclass(frozen=True, slots=True)
class _Reader:
    """A route whose expression reads a body."""

    route_id: str
    method: str
    # Empty: only requests that name the route are its own.
    segments: Sequence[str]
    reads_request: bool
    reads_response: bool

    def fits(self, watch: Watch) -> bool:
        if watch.route_id is not None:
            return watch.route_id == self.route_id
        if not self.segments or self.method not in (*ANY_METHODS, watch.method):
            return False
        segments = watch.path.removeprefix("/").split("/")
        if self.segments[-1] == REST:
            return _fit(self.segments[:-1], segments[: len(self.segments) - 1])
        return _fit(self.segments, segments)


@dataclass(frozen=True, slots=True)
class BodyNeeds:
    """What to copy while a request passes, and which copies to send once it is known which request it was."""

    reads_requests: bool
    reads_responses: bool
    # None: the routes are not known yet.
    readers: Sequence[_Reader] | None

    @property
    def is_known(self) -> bool:
        return self.readers is not None

    @classmethod
    def of(cls, routes: Iterable[Mapping[str, Any]]) -> Self:
        found = [_reader(route) for route in routes]
        readers = [reader for reader in found if reader.reads_request or reader.reads_response]
        return cls(
            any(reader.reads_request for reader in readers), any(reader.reads_response for reader in readers), readers
        )

    def find(self, watch: Watch) -> tuple[bool, bool]:
        """Return whether the request's body and the response's are wanted; neither, as long as nobody knows."""
        fitting = [reader for reader in self.readers or () if reader.fits(watch)]
        return any(reader.reads_request for reader in fitting), any(reader.reads_response for reader in fitting)


# Any body may turn out to be needed: they are copied, and wait in memory until the routes are known.
UNKNOWN = BodyNeeds(reads_requests=True, reads_responses=True, readers=None)


def _reader(route: Mapping[str, Any]) -> _Reader:
    expression = str(route.get("metering_expr") or "")
    pattern = str(route.get("path_pattern") or "")
    return _Reader(
        route_id=str(route["id"]),
        method=str(route.get("method") or "").upper(),
        segments=pattern.removeprefix("/").split("/") if pattern else (),
        reads_request="request" in expression and "body" in expression,
        reads_response="response" in expression and "body" in expression,
    )


def _fit(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    return len(pattern) == len(segments) and all(
        word == segment or word.startswith("{") for word, segment in zip(pattern, segments, strict=True)
    )
