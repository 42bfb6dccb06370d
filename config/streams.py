"""Server-Sent Events: who may listen, how a web server sends clients here, and what goes over the wire.

Streams live in their own ASGI process, so that a thousand idle listeners cost no thread of the web server, which
answers them with a redirect. The redirect carries a ticket, signed and short-lived, because HTTP clients rightly
drop the `Authorization` header when the port changes. Behind a proxy that unites both under one origin
(docs/deploy) the header or the session cookie arrives here itself.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from io import BytesIO
from typing import Any
from urllib.parse import urlencode, urlsplit

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import signing
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.db.utils import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from accounts.access import authenticate_request
from accounts.models import Scope
from common.errors import ApplicationError, FieldError, InvalidInput, NotAuthenticated, Unavailable
from common.middleware import store_unavailable
from metering.event_tail import Delivery, EventTail, Listener, TailFilter

TICKET_SALT = "meterbook.stream"
TICKET_SECONDS = 60
HEARTBEAT_SECONDS = 15.0
# A listener comes back after this and is asked again who it is: keys are revoked, members leave.
STREAM_SECONDS = 3600.0
# A reader that takes nothing for this long is gone or too slow.
SEND_SECONDS = 30.0
MAX_LISTENERS = 2_000
PARAMETERS = frozenset({"customer", "metric", "type", "organization"})

Connection = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


# --- who listens to what ------------------------------------------------------------------------


def authorise_listener(request: HttpRequest, *, parameters: frozenset[str]) -> tuple[int, TailFilter]:
    """Return the organization and what the caller may and wants to see of it. Raises `ApplicationError`.

    Pages name the organization in the query, since a browser's EventSource cannot send headers.
    """
    _refuse_unknown_parameters(request, parameters)
    ticket = request.GET.get("ticket")
    if ticket is not None:
        organization_id, customer_id, metric_codes = _read_ticket(ticket)
    else:
        if "organization" in request.GET:
            request.META["HTTP_METERBOOK_ORGANIZATION"] = request.GET["organization"]
        caller = authenticate_request(request)
        caller.require(Scope.USAGE_READ)
        organization_id, customer_id = caller.organization.pk, caller.customer_id
        metric_codes = caller.metric_codes
    return organization_id, TailFilter(
        customer_id=customer_id,
        metric_codes=metric_codes,
        wanted_customers=frozenset(request.GET.getlist("customer")),
        wanted_metrics=frozenset(request.GET.getlist("metric")),
        wanted_types=frozenset(request.GET.getlist("type")),
    )


def make_ticket(organization_id: int, allowed: TailFilter) -> str:
    return signing.dumps([organization_id, allowed.customer_id, sorted(allowed.metric_codes)], salt=TICKET_SALT)


def _read_ticket(ticket: str) -> tuple[int, int | None, frozenset[str]]:
    try:
        organization_id, customer_id, metric_codes = signing.loads(ticket, salt=TICKET_SALT, max_age=TICKET_SECONDS)
    except signing.BadSignature:
        raise NotAuthenticated("This ticket is not valid any more; ask the web server again.") from None
    return organization_id, customer_id, frozenset(metric_codes)


def _refuse_unknown_parameters(request: HttpRequest, parameters: frozenset[str]) -> None:
    unknown = sorted(set(request.GET) - parameters)
    if unknown:
        errors = [FieldError(name, "unknown_parameter", "There is no such parameter.") for name in unknown]
        raise InvalidInput(f"Unknown parameters: {', '.join(unknown)}.", code="unknown_parameter", errors=errors)


# --- in the web process -------------------------------------------------------------------------


@require_GET
def redirect_to_stream(request: HttpRequest) -> HttpResponse:
    """Answer 307 with the same path and query on the stream's own port (or `METERBOOK_STREAM_URL`), and a ticket."""
    organization_id, allowed = authorise_listener(request, parameters=PARAMETERS)
    base = settings.STREAM_URL or f"{request.scheme}://{_with_port(request.get_host(), settings.STREAM_PORT)}"
    parameters = [(name, value) for name, values in request.GET.lists() for value in values]
    query = urlencode([*parameters, ("ticket", make_ticket(organization_id, allowed))])
    answer = HttpResponse(status=307, headers={"Location": f"{base.rstrip('/')}{request.path}?{query}"})
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _with_port(host: str, port: int) -> str:
    name = urlsplit(f"//{host}").hostname or "localhost"
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


# --- in the stream process ----------------------------------------------------------------------


async def serve_events(tail: EventTail, scope: Connection, receive: Receive, send: Send) -> None:
    """Answer one request for the live tail; returns when either side ends it."""
    try:
        if tail.listener_count >= MAX_LISTENERS:
            raise Unavailable("Too many listeners.", headers={"Retry-After": "30"})
        organization_id, wanted = await sync_to_async(_authorise_scope)(scope)
    except ApplicationError as error:
        await refuse(send, error)
        return
    async with tail.listen(organization_id, wanted) as listener:
        hung_up = asyncio.create_task(_until_disconnect(receive))
        stream = asyncio.create_task(_stream(tail, organization_id, listener, scope, send))
        await asyncio.wait({hung_up, stream}, return_when=asyncio.FIRST_COMPLETED, timeout=STREAM_SECONDS)
        for task in (hung_up, stream):
            task.cancel()
        await asyncio.gather(hung_up, stream, return_exceptions=True)
    with suppress(Exception):  # the client may be gone, or take nothing; there is nobody left to tell
        await asyncio.wait_for(send({"type": "http.response.body", "body": b"", "more_body": False}), 1)


async def _stream(tail: EventTail, organization_id: int, listener: Listener, scope: Connection, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _headers(scope)})
    await _send(send, b": listening\nretry: 2000\n\n")
    repeated: set[int] = set()
    last_offset = _last_event_id(scope)
    if last_offset is not None:
        missed = await tail.catch_up(organization_id, last_offset, listener.filter)
        repeated = {offset for offset, _ in missed.events}
        await _send(send, encode_delivery(missed))
    while not listener.is_lagging:
        try:
            delivery = await asyncio.wait_for(listener.next_delivery(), HEARTBEAT_SECONDS)
        except TimeoutError:
            await _send(send, b": heartbeat\n\n")
            continue
        await _send(send, encode_delivery(delivery, without=repeated))
    await _send(send, b"event: lagging\ndata: {}\n\n")


def encode_delivery(delivery: Delivery, *, without: set[int] | frozenset[int] = frozenset()) -> bytes:
    """Return the messages: one per event with its offset as id, and one that tells how many were skipped."""
    messages = []
    if delivery.skipped_count:
        messages.append(b'event: skipped\ndata: {"count": %d}\n\n' % delivery.skipped_count)
    messages += [b"id: %d\ndata: %s\n\n" % (offset, body) for offset, body in delivery.events if offset not in without]
    return b"".join(messages)


def _authorise_scope(scope: Connection) -> tuple[int, TailFilter]:
    """Authorise an ASGI request as the web process would, with the same session and the same keys."""
    close_old_connections()
    request = ASGIRequest(dict(scope), BytesIO())
    SessionMiddleware(lambda _: HttpResponse()).process_request(request)
    try:
        request.user = get_user(request)
        return authorise_listener(request, parameters=PARAMETERS | {"ticket"})
    except (OperationalError, InterfaceError):
        raise store_unavailable() from None


def _headers(scope: Connection) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # nginx would collect the messages otherwise
    ]
    if b"ticket=" in scope["query_string"]:
        # The ticket is the permission, whatever page holds it; no cookie is looked at.
        headers.append((b"access-control-allow-origin", b"*"))
    return headers


def _last_event_id(scope: Connection) -> int | None:
    value = dict(scope["headers"]).get(b"last-event-id", b"")
    return int(value) if value.isdigit() and len(value) <= 18 else None


async def _send(send: Send, body: bytes) -> None:
    """Send a piece; raises `TimeoutError` for a reader that does not take it."""
    if body:
        await asyncio.wait_for(send({"type": "http.response.body", "body": body, "more_body": True}), SEND_SECONDS)


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def refuse(send: Send, error: ApplicationError) -> None:
    await answer_json(send, error.status, error.as_json(), error.headers)


async def answer_json(send: Send, status: int, body: dict[str, Any], more: Mapping[str, str] | None = None) -> None:
    headers = {"content-type": "application/json", "cache-control": "no-store", **(more or {})}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
