"""ASGI entry point: the streams alone. Everything that has an end is answered by `config.wsgi`."""

import os

from config.processes import die_with_server

die_with_server()  # first, so that not even a process that is still starting is left over

import django  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
django.setup()

from alerts.alert_stream import AlertStream  # noqa: E402
from common.errors import MethodNotAllowed, NotFound  # noqa: E402
from config import env  # noqa: E402
from config.streams.alerts import serve_alerts  # noqa: E402
from config.streams.events import serve_events  # noqa: E402
from config.streams.requests import serve_requests  # noqa: E402
from config.streams.wire import Connection, Receive, Send, answer_json, refuse  # noqa: E402
from metering.event_tail import EventTail  # noqa: E402

_tail = EventTail(env.text("DATABASE_URL"))
_alerts = AlertStream(env.text("DATABASE_URL"))


async def application(scope: Connection, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    match scope["path"]:
        case "/v1/events/stream" | "/v1/alerts/stream" | "/admin/analytics/live" if scope["method"] != "GET":
            await refuse(send, MethodNotAllowed("A stream is read with GET.", headers={"Allow": "GET"}))
        case "/v1/events/stream":
            await serve_events(_tail, scope, receive, send)
        case "/v1/alerts/stream":
            await serve_alerts(_alerts, scope, receive, send)
        case "/admin/analytics/live":
            await serve_requests(_tail, scope, receive, send)
        case "/health/live":
            await answer_json(send, 200, {"status": "ok"})
        case _:
            await refuse(send, NotFound("There are only streams here; ask the web server's port."))


async def _live(receive: Receive, send: Send) -> None:
    """Follow the server's life: nothing to open at the start, readers of the database to end at the end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await _tail.close()
            await _alerts.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "lifespan.startup.complete"})
