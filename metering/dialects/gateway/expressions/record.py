"""One request as expressions see it. Bodies are decoded when an expression first asks for one, and never kept."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from common.bodies import read_number
from metering.dialects.gateway.expressions.errors import MeteringError

MAX_BODY_BYTES = 1024 * 1024

_json = msgspec.json.Decoder(float_hook=read_number)


class Record:
    """The facts of one request. A body is JSON text; empty: there is none."""

    __slots__ = ("_bodies", "_decoded", "latency_ms", "request_bytes", "response_bytes", "status")

    def __init__(
        self,
        *,
        status: int,
        latency_ms: int | Decimal,
        request_bytes: int,
        response_bytes: int,
        request_body: bytes | msgspec.Raw = b"",
        response_body: bytes | msgspec.Raw = b"",
    ) -> None:
        self.status = status
        self.latency_ms = latency_ms
        self.request_bytes = request_bytes
        self.response_bytes = response_bytes
        self._bodies = {"request": request_body, "response": response_body}
        self._decoded: dict[str, Any] = {}

    def field(self, side: str, name: str) -> Any:
        """Return `request.…` or `response.…`; the check of an expression lets no other name through."""
        if name == "body":
            return self._body(side)
        if name == "status":
            return self.status
        return self.request_bytes if side == "request" else self.response_bytes

    def _body(self, side: str) -> Any:
        if side not in self._decoded:
            body = memoryview(self._bodies[side])
            if not body.nbytes:
                raise MeteringError("missing_field", f"The record has no {side}_body.")
            if body.nbytes > MAX_BODY_BYTES:
                raise MeteringError("body_too_large", f"A {side}_body is read up to {MAX_BODY_BYTES} bytes.")
            try:
                self._decoded[side] = _json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise MeteringError("invalid_body", f"The {side}_body holds what cannot be read.") from None
        return self._decoded[side]
