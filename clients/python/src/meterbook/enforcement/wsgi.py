"""Enforcement in front of a WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from meterbook.enforcement.gate import REASON, STATUS, Enforcement, refusal_content

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
Application: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]


class WSGIEnforcement:
    """Answers capped customers 402 with JSON; the application sees, and the meter counts, all other requests.

    `customer_of(environ)` names the request's customer; None: nobody's, it passes and is not recorded.
    """

    def __init__(
        self, application: Application, enforcement: Enforcement, *, customer_of: Callable[[Environ], str | None]
    ) -> None:
        self._application = application
        self._enforcement = enforcement
        self._customer_of = customer_of

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        cap = self._enforcement.admit(self._customer_of(environ))
        if cap is None:
            return self._application(environ, start_response)
        content = refusal_content(cap)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        start_response(f"{STATUS} {REASON}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else content]
