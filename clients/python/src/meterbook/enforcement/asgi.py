"""Enforcement in front of an ASGI application (FastAPI, Starlette, Django, …)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from meterbook.enforcement.gate import STATUS, Enforcement, refusal_content

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
CustomerOf: TypeAlias = Callable[[Scope], str | Awaitable[str | None] | None]


class ASGIEnforcement:
    """Answers capped customers 402 with JSON; the application sees, and the meter counts, all other requests.

    `customer_of(scope)`, a function or a coroutine function, names the request's customer; None: nobody's, it passes
    and is not recorded. Only HTTP requests are looked at, not websockets.
    """

    def __init__(self, application: Application, enforcement: Enforcement, *, customer_of: CustomerOf) -> None:
        self._application = application
        self._enforcement = enforcement
        self._customer_of = customer_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cap = None
        if scope["type"] == "http":
            customer = self._customer_of(scope)
            cap = self._enforcement.admit(await customer if inspect.isawaitable(customer) else customer)
        if cap is None:
            await self._application(scope, receive, send)
            return
        content = refusal_content(cap)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": STATUS, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})
