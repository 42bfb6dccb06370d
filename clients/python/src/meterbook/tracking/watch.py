"""One request as the middleware sees it, from its first line to its last byte, and its form on the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, NoReturn

from meterbook.events import new_key
from meterbook.wire import encode_json

# What the server takes of either; a longer one would cost the whole record.
MAX_PATH = 2048
MAX_QUERY = 2048
# About what a record takes in memory beside its texts and bodies.
BASE_WEIGHT = 600
CLIENT_GONE = 499
SERVER_ERROR = 500


class BodyCopy:
    """The beginning of a body, kept for the route's expression: all of it, or nothing where it is too long."""

    __slots__ = ("_limit", "_pieces", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            self._pieces.clear()
        else:
            self._pieces.append(bytes(piece))

    @property
    def weight(self) -> int:
        return self._size if self._size <= self._limit else 0

    def read(self) -> bytes | None:
        return b"".join(self._pieces) if 0 < self._size <= self._limit else None


class Watch:
    """What is known of one request. Made when it begins; `end` is called once, whatever becomes of it."""

    __slots__ = (
        "_declared_bytes",
        "_received_bytes",
        "api_key_id",
        "error_code",
        "ip_address",
        "is_over",
        "latency_seconds",
        "method",
        "occurred_at",
        "path",
        "query",
        "request_body",
        "response_body",
        "response_bytes",
        "route_id",
        "started",
        "status",
        "user_id",
    )

    def __init__(self, method: str, path: str, query: str | None, declared_bytes: int | None) -> None:
        self.started = time.perf_counter()
        self.occurred_at = time.time()
        self.method = method
        # A question mark of the path would begin the query for whoever reads the two as one.
        self.path = path.replace("?", "%3F")[:MAX_PATH]
        self.query = query[:MAX_QUERY] if query else None
        self._declared_bytes = declared_bytes
        self._received_bytes = 0
        self.response_bytes = 0
        # 0: no answer was begun.
        self.status = 0
        self.latency_seconds = 0.0
        self.is_over = False
        self.user_id: str | None = None
        self.api_key_id: str | None = None
        self.route_id: str | None = None
        self.error_code: str | None = None
        self.ip_address: str | None = None
        self.request_body: BodyCopy | None = None
        self.response_body: BodyCopy | None = None

    @property
    def request_bytes(self) -> int:
        """What the request declares to carry; where it declares nothing, what arrived."""
        return self._received_bytes if self._declared_bytes is None else self._declared_bytes

    @property
    def weight(self) -> int:
        """About the bytes of memory that it takes until it is sent."""
        copies = (self.request_body, self.response_body)
        return BASE_WEIGHT + len(self.path) + len(self.query or "") + sum(copy.weight for copy in copies if copy)

    @property
    def has_bodies(self) -> bool:
        return any(copy is not None and copy.weight for copy in (self.request_body, self.response_body))

    def take_request(self, piece: bytes) -> None:
        self._received_bytes += len(piece)
        if self.request_body is not None:
            self.request_body.take(piece)

    def take_response(self, piece: bytes) -> None:
        self.response_bytes += len(piece)
        if self.response_body is not None:
            self.response_body.take(piece)

    def end(self, error: BaseException | None = None) -> bool:
        """Stop the clock; return False when it was stopped before.

        An exception makes it a 500, also where an answer was begun: nobody got all of it. One that is none of the
        application's own, such as a cancellation, says that the client has gone.
        """
        if self.is_over:
            return False
        self.is_over = True
        self.latency_seconds = time.perf_counter() - self.started
        if isinstance(error, Exception):
            self.status, self.error_code = SERVER_ERROR, self.error_code or type(error).__name__
        elif error is not None:
            self.status = self.status or CLIENT_GONE
        self.status = self.status or SERVER_ERROR
        if self.method == "HEAD":
            self.response_bytes = 0  # what the application returned, the server did not send
        return True


def read_length(text: str | None) -> int | None:
    """Return the length that a header declares; an unreadable one counts as absent."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def is_json_type(content_type: str | None) -> bool:
    if content_type is None:
        return False
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def encode_request(watch: Watch, *, has_ip_address: bool, bodies: tuple[bool, bool]) -> bytes:
    """Return the record as it will be sent, at every attempt. `bodies`: whether request's and response's are wanted.

    Raises `ValueError` for text that is not Unicode.
    """
    record: dict[str, Any] = {
        "request_id": new_key(),
        "user_id": _text(watch.user_id),
        "api_key_id": _text(watch.api_key_id),
        "route_id": _text(watch.route_id),
        "method": watch.method,
        "path": watch.path,
        "query_params": watch.query,
        "timestamp": datetime.fromtimestamp(watch.occurred_at, UTC).isoformat(),
        "status_code": watch.status,
        "latency_ms": round(watch.latency_seconds * 1000, 3),
        "request_bytes": watch.request_bytes,
        "response_bytes": watch.response_bytes,
        "error_code": _text(watch.error_code),
        "ip_address": _address(watch.ip_address) if has_ip_address else None,
    }
    encoded = encode_json({name: value for name, value in record.items() if value is not None})
    copies = {"request_body": watch.request_body, "response_body": watch.response_body}
    wanted = {
        name: copy.read() for (name, copy), is_wanted in zip(copies.items(), bodies, strict=True) if copy and is_wanted
    }
    return _with_bodies(encoded, wanted)


def _with_bodies(encoded: bytes, bodies: Mapping[str, bytes | None]) -> bytes:
    """Add bodies as they came: read and written again, a number might lose digits."""
    for name, body in bodies.items():
        if body is not None and _is_json(body):
            # A line break can only stand between the values here, and a record must stay one line of a spool.
            line = body.replace(b"\r", b" ").replace(b"\n", b" ")
            encoded = b'%s,"%s":%s}' % (encoded[:-1], name.encode(), line)
    return encoded


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _address(value: object) -> str | None:
    """Return an address; None for what is none, such as the empty one of a local socket: it would cost the record."""
    try:
        return str(ip_address(str(value)))
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
