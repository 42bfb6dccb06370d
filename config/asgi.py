"""ASGI entry point: the streams alone. Everything that has an end is answered by `config.wsgi`."""

import os

from config.processes import die_with_server

die_with_server()  # first, so that not even a process that is still starting is left over

import django  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
django.setup()

from common.errors import NotFound  # noqa: E402
from config import env, streams  # noqa: E402
from metering.event_tail import EventTail  # noqa: E402

_tail = EventTail(env.text("DATABASE_URL"))


async def application(scope: streams.Connection, receive: streams.Receive, send: streams.Send) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["path"] == "/v1/events/stream":
        await streams.serve_events(_tail, scope, receive, send)
    elif scope["path"] == "/health/live":
        await streams.answer_json(send, 200, {"status": "ok"})
    else:
        await streams.refuse(send, NotFound("There are only streams here; ask the web server's port."))


async def _live(receive: streams.Receive, send: streams.Send) -> None:
    """Follow the server's life: nothing to open at the start, pollers to end at the end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await _tail.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "lifespan.startup.complete"})
