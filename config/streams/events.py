"""`/v1/events/stream`: the live tail of events on the wire. It tells what it skips (`metering.event_tail`)."""

import asyncio
from collections.abc import Callable

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from common.errors import ApplicationError
from config.streams.access import ORGANIZATION, TICKET, admit, read_scope, redirect_with_ticket
from config.streams.wire import (
    HEARTBEAT,
    HEARTBEAT_SECONDS,
    Connection,
    Receive,
    Send,
    refuse,
    require_room,
    run_until_hung_up,
    send_piece,
    start_stream,
)
from metering.event_tail import Delivery, EventTail, Listener, TailFilter

PARAMETERS = frozenset({"customer", "metric", "type", ORGANIZATION})


@require_GET
def redirect_to_stream(request: HttpRequest) -> HttpResponse:
    """In the web process: send the listener on."""
    return redirect_with_ticket(request, admit(request, parameters=PARAMETERS))


async def serve_events(tail: EventTail, scope: Connection, receive: Receive, send: Send) -> None:
    """Answer one request for the live tail; returns when either side ends it."""
    await serve_tail(tail, scope, receive, send, read_request=_read_request, show=_as_it_is)


async def serve_tail(
    tail: EventTail,
    scope: Connection,
    receive: Receive,
    send: Send,
    *,
    read_request: Callable[[HttpRequest], tuple[int, TailFilter]],
    show: Callable[[bytes], bytes],
) -> None:
    """Serve events of the tail: those that `read_request` finds to be wanted, each as `show` makes of its JSON."""
    try:
        require_room(tail.listener_count)
        organization_id, wanted = await sync_to_async(read_scope)(scope, read_request)
    except ApplicationError as error:
        await refuse(send, error)
        return
    async with tail.listen(organization_id, wanted) as listener:
        await run_until_hung_up(_stream(tail, organization_id, listener, show, scope, send), receive, send)


def _read_request(request: HttpRequest) -> tuple[int, TailFilter]:
    admission = admit(request, parameters=PARAMETERS | {TICKET})
    return admission.organization_id, TailFilter(
        customer_id=admission.customer_id,
        metric_codes=admission.metric_codes,
        wanted_customers=frozenset(request.GET.getlist("customer")),
        wanted_metrics=frozenset(request.GET.getlist("metric")),
        wanted_types=frozenset(request.GET.getlist("type")),
    )


def _as_it_is(body: bytes) -> bytes:
    return body


async def _stream(
    tail: EventTail,
    organization_id: int,
    listener: Listener,
    show: Callable[[bytes], bytes],
    scope: Connection,
    send: Send,
) -> None:
    await start_stream(scope, send)
    await send_piece(send, b": listening\nretry: 2000\n\n")
    repeated: set[int] = set()
    last_offset = _last_event_id(scope)
    if last_offset is not None:
        missed = await tail.catch_up(organization_id, last_offset, listener.filter)
        repeated = {offset for offset, _ in missed.events}
        await send_piece(send, encode_delivery(missed, show))
    while not listener.is_lagging:
        try:
            delivery = await asyncio.wait_for(listener.next_delivery(), HEARTBEAT_SECONDS)
        except TimeoutError:
            await send_piece(send, HEARTBEAT)
            continue
        await send_piece(send, encode_delivery(delivery, show, without=repeated))
    await send_piece(send, b"event: lagging\ndata: {}\n\n")


def encode_delivery(
    delivery: Delivery, show: Callable[[bytes], bytes] = _as_it_is, *, without: set[int] | frozenset[int] = frozenset()
) -> bytes:
    """Return the messages: one per event with its offset as id, and one that tells how many were skipped."""
    messages = []
    if delivery.skipped_count:
        messages.append(b'event: skipped\ndata: {"count": %d}\n\n' % delivery.skipped_count)
    events = ((offset, body) for offset, body in delivery.events if offset not in without)
    messages += [b"id: %d\ndata: %s\n\n" % (offset, show(body)) for offset, body in events]
    return b"".join(messages)


def _last_event_id(scope: Connection) -> int | None:
    value = dict(scope["headers"]).get(b"last-event-id", b"")
    return int(value) if value.isdigit() and len(value) <= 18 else None
