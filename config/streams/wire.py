"""What goes over the wire of every stream: its beginning, its pieces, its end; and refusals.

Does not own what is sent, nor who may listen.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from common.errors import ApplicationError, Unavailable

HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_SECONDS = 15.0
# A listener comes back after this and is asked again who it is: keys are revoked, members leave.
STREAM_SECONDS = 3600.0
# A reader that takes nothing for this long is gone or too slow.
SEND_SECONDS = 30.0
MAX_LISTENERS = 2_000

Connection = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def require_room(listener_count: int) -> None:
    if listener_count >= MAX_LISTENERS:
        raise Unavailable("Too many listeners.", headers={"Retry-After": "30"})


async def run_until_hung_up(stream: Coroutine[Any, Any, None], receive: Receive, send: Send) -> None:
    """Run the stream until it ends, the client hangs up, or it has lasted long enough; then end the answer."""
    hung_up = asyncio.create_task(_until_disconnect(receive))
    running = asyncio.create_task(stream)
    try:
        await asyncio.wait({hung_up, running}, return_when=asyncio.FIRST_COMPLETED, timeout=STREAM_SECONDS)
    finally:
        for task in (hung_up, running):
            task.cancel()
        await asyncio.gather(hung_up, running, return_exceptions=True)
    with suppress(Exception):  # the client may be gone, or take nothing; there is nobody left to tell
        await asyncio.wait_for(send({"type": "http.response.body", "body": b"", "more_body": False}), 1)


async def start_stream(scope: Connection, send: Send) -> None:
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # nginx would collect the messages otherwise
    ]
    if b"ticket=" in scope["query_string"]:
        # The ticket is the permission, whatever page holds it; no cookie is looked at.
        headers.append((b"access-control-allow-origin", b"*"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def piece(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def send_piece(send: Send, body: bytes) -> None:
    """Send a piece; raises `TimeoutError` for a reader that does not take it."""
    if body:
        await asyncio.wait_for(send(piece(body)), SEND_SECONDS)


async def refuse(send: Send, error: ApplicationError) -> None:
    await answer_json(send, error.status, error.as_json(), error.headers)


async def answer_json(send: Send, status: int, body: dict[str, Any], more: Mapping[str, str] | None = None) -> None:
    headers = {"content-type": "application/json", "cache-control": "no-store", **(more or {})}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
