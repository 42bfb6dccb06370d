"""`/v1/alerts/stream`: every alert once and in order on the wire, or a word where to go on (`alerts.alert_stream`)."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET
from rest_framework import serializers

from alerts.alert_stream import Alert, AlertStream, Listener, LogUnavailable
from alerts.api.serializers import MAX_NAMES
from alerts.sql.crossing_log import CrossingFilter
from common.api import StrictSerializer, Text, WholeNumber, read_query
from common.errors import ApplicationError, InvalidInput
from common.middleware import store_unavailable
from config.streams.access import ORGANIZATION, TICKET, Admission, admit, read_scope, redirect_with_ticket
from config.streams.wire import (
    HEARTBEAT,
    HEARTBEAT_SECONDS,
    SEND_SECONDS,
    Connection,
    Receive,
    Send,
    piece,
    refuse,
    require_room,
    run_until_hung_up,
    send_piece,
    start_stream,
)

PARAMETERS = frozenset({"customer", "metric", "since", ORGANIZATION})
LARGEST_OFFSET = 2**63 - 1
# A reader that has not taken a piece after this long is asked about: how much waits for it?
PATIENCE_SECONDS = 1.0
# While the database is away, a listener that reads the log asks again after so long.
RETRY_SECONDS = 1.0


class AlertStreamQuery(StrictSerializer):
    since = WholeNumber(min_value=0, max_value=LARGEST_OFFSET, required=False)
    customer = serializers.ListField(child=Text(max_length=256), required=False, max_length=MAX_NAMES)
    metric = serializers.ListField(child=Text(max_length=64), required=False, max_length=MAX_NAMES)
    organization = Text(required=False, allow_blank=True)
    ticket = Text(required=False)


class Wish(NamedTuple):
    """What a listener wants to hear. `since` None: from now on."""

    admission: Admission
    filter: CrossingFilter
    since: int | None


@require_GET
def redirect_to_stream(request: HttpRequest) -> HttpResponse:
    """In the web process: refuse what the stream would refuse, and send the listener on."""
    return redirect_with_ticket(request, _read_wish(request, parameters=PARAMETERS).admission)


async def serve_alerts(stream: AlertStream, scope: Connection, receive: Receive, send: Send) -> None:
    """Answer one request for the live stream; returns when either side ends it."""
    try:
        require_room(stream.listener_count)
        wish = await sync_to_async(read_scope)(scope, _read_wish_with_ticket)
    except ApplicationError as error:
        await refuse(send, error)
        return
    try:
        async with stream.listen(wish.admission.organization_id, wish.filter, wish.since) as listener:
            await run_until_hung_up(_stream(stream, listener, scope, send), receive, send)
    except LogUnavailable:
        await refuse(send, store_unavailable())


# --- what is asked for --------------------------------------------------------------------------


def _read_wish_with_ticket(request: HttpRequest) -> Wish:
    return _read_wish(request, parameters=PARAMETERS | {TICKET})


def _read_wish(request: HttpRequest, *, parameters: frozenset[str]) -> Wish:
    admission = admit(request, parameters=parameters)
    query = read_query(request.GET, AlertStreamQuery)
    wanted = CrossingFilter(
        customer_id=admission.customer_id,
        metric_codes=admission.metric_codes,
        wanted_customers=frozenset(query.get("customer", ())),
        wanted_metrics=frozenset(query.get("metric", ())),
    )
    last_event_id = _read_last_event_id(request)
    return Wish(admission, wanted, query.get("since") if last_event_id is None else last_event_id)


def _read_last_event_id(request: HttpRequest) -> int | None:
    """Return the offset that the client saw last. One that we never sent is refused: ignoring it would skip alerts."""
    text = request.headers.get("Last-Event-ID", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= LARGEST_OFFSET):
        raise InvalidInput.of("Last-Event-ID", "This is the offset of an alert, or is left out.")
    return int(text)


# --- what is sent -------------------------------------------------------------------------------


async def _stream(stream: AlertStream, listener: Listener, scope: Connection, send: Send) -> None:
    """Send alerts until the reader falls behind. Whoever ends this in between ends it between two alerts."""
    await start_stream(scope, send)
    last_sent = listener.position
    # With its id a client can come back without loss even before the first alert.
    await send_piece(send, b": listening\nretry: 2000\nid: %d\n\n" % last_sent)
    pending = asyncio.ensure_future(_next_alerts(stream, listener))
    try:
        keeps_up = True
        while keeps_up:
            await asyncio.wait({pending}, timeout=HEARTBEAT_SECONDS)
            if not pending.done():
                keeps_up = await _deliver(send, HEARTBEAT, listener)
                continue
            alerts = pending.result()
            keeps_up = await _deliver(send, encode_alerts(alerts), listener)
            last_sent = alerts[-1].offset
            pending = asyncio.ensure_future(_next_alerts(stream, listener))
    finally:
        pending.cancel()
    await send_piece(send, b'event: resume\ndata: {"since":"%d"}\n\n' % last_sent)


async def _next_alerts(stream: AlertStream, listener: Listener) -> list[Alert]:
    while True:
        try:
            return await stream.next_alerts(listener)
        except LogUnavailable:
            await asyncio.sleep(RETRY_SECONDS)


async def _deliver(send: Send, body: bytes, listener: Listener) -> bool:
    """Send a piece and return whether the reader keeps up. Raises `TimeoutError` for one that does not take it at all.

    It does not keep up if it leaves the piece lying while too many alerts wait behind it. A flood alone is no reason:
    a reader that takes it gets all of it.
    """
    keeps_up = True
    waited = 0.0
    sending = asyncio.ensure_future(send(piece(body)))
    try:
        while True:
            await asyncio.wait({sending}, timeout=PATIENCE_SECONDS)
            if sending.done():
                sending.result()
                return keeps_up
            waited += PATIENCE_SECONDS
            if waited >= SEND_SECONDS:
                raise TimeoutError
            if listener.is_behind:
                keeps_up = False
                listener.forget_waiting()
    finally:
        sending.cancel()


def encode_alerts(alerts: Sequence[Alert]) -> bytes:
    """Return one message per alert, with its offset as id."""
    return b"".join(b"id: %d\ndata: %s\n\n" % (alert.offset, alert.body) for alert in alerts)
