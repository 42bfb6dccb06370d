"""Tracking around an ASGI application (FastAPI, Starlette, Django, …)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from meterbook.tracking.names import AnyNameOf, Names
from meterbook.tracking.recorder import RequestRecorder
from meterbook.tracking.watch import BodyCopy, Watch, is_json_type, read_length

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def client_address(scope: Scope) -> str | None:
    """Return the address that the connection came from: behind a proxy, the proxy's."""
    client = scope.get("client")
    return client[0] if client else None


class ASGITracking:
    """Records every request that the application serves; websockets pass unseen.

    The functions are those of `WSGITracking`, of the scope, and may be coroutine functions.
    """

    def __init__(
        self,
        application: Application,
        recorder: RequestRecorder,
        *,
        user_of: AnyNameOf[Scope] | None = None,
        api_key_of: AnyNameOf[Scope] | None = None,
        route_of: AnyNameOf[Scope] | None = None,
        error_code_of: AnyNameOf[Scope] | None = None,
        ip_of: AnyNameOf[Scope] | None = client_address,
        has_query: bool = False,
    ) -> None:
        self._application = application
        self._recorder = recorder
        self._has_query = has_query
        self._names = Names[Scope](
            recorder,
            user_id=user_of,
            api_key_id=api_key_of,
            route_id=route_of,
            error_code=error_code_of,
            ip_address=ip_of,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = self._begin(scope) if scope["type"] == "http" and self._recorder.is_enabled else None
        if watch is None:
            await self._application(scope, receive, send)
            return

        async def observed_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                watch.take_request(message.get("body", b""))
            return message

        async def observed_send(message: Message) -> None:
            is_last = self._observe(watch, message)
            await send(message)
            if is_last:  # not later: applications do other work after their answer
                await self._end(watch, scope)

        try:
            await self._application(scope, observed_receive, observed_send)
        except BaseException as error:
            await self._end(watch, scope, error)
            raise
        await self._end(watch, scope)

    def _begin(self, scope: Scope) -> Watch | None:
        try:
            query = scope.get("query_string", b"").decode("latin-1") if self._has_query else None
            headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
            length = content_type = None
            for name, value in headers:
                if name == b"content-length":
                    length = value.decode("latin-1")
                elif name == b"content-type":
                    content_type = value.decode("latin-1")
            watch = Watch(scope["method"], scope["path"], query, read_length(length))
            if self._recorder.bodies.reads_requests and is_json_type(content_type):
                watch.request_body = BodyCopy(self._recorder.tracking.max_body_bytes)
        except Exception as failure:  # a server that keeps to no rule: its request is served nevertheless
            self._recorder.note_failure(failure)
            return None
        return watch

    def _observe(self, watch: Watch, message: Message) -> bool:
        """Take note of a message of the answer; return whether it is the last."""
        kind = message["type"]
        if kind == "http.response.body":
            watch.take_response(message.get("body", b""))
            return not message.get("more_body", False)
        if kind == "http.response.start":
            watch.status = message["status"]
            if self._recorder.bodies.reads_responses and is_json_type(_content_type(message)):
                watch.response_body = BodyCopy(self._recorder.tracking.max_body_bytes)
        elif kind == "http.response.pathsend":
            watch.response_bytes += _file_size(message["path"])
            return True
        return False

    async def _end(self, watch: Watch, scope: Scope, error: BaseException | None = None) -> None:
        if watch.end(error):
            await self._names.fill_async(watch, scope)
            self._recorder.add(watch)


def _content_type(message: Message) -> str | None:
    values = (value for name, value in message.get("headers", ()) if name.lower() == b"content-type")
    found = next(values, None)
    return None if found is None else found.decode("latin-1")


def _file_size(path: str) -> int:
    """Return the size of a file that the server sends by itself."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
