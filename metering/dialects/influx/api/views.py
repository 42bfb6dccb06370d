"""`POST /api/v1/servers`, `/stats/{product}` and `/usage/{product}`: read, store, answer 201 and hang up."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from accounts.access import Caller
from common.bodies import read_body
from common.errors import NotFound, TooLarge
from metering.api.ingest import limits_of
from metering.dialects.influx.api.sender import address_of, read_sender
from metering.dialects.influx.domain import Report
from metering.dialects.influx.errors import CLOSING
from metering.dialects.influx.services.anonymous import keep_anonymous_report
from metering.dialects.influx.services.reports import store_reports
from metering.dialects.influx.wire import read_server, read_stats, read_usage

# The statistics of a server with thousands of shards are a few hundred kilobytes.
MAX_BODY_BYTES = 4 * 1024 * 1024
# Whoever sends more than this is hung up on.
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
DISCARD_PIECE_BYTES = 64 * 1024


def report_endpoint(read: Callable[..., list[Report]]) -> Callable[..., HttpResponse]:
    """Make a view of a reader of bodies. Whatever is not a POST is not found: the client knows no 405."""

    @csrf_exempt  # tokens are no cookies, and there is no session here
    @wraps(read)
    def endpoint(request: HttpRequest, **path: str) -> HttpResponse:
        if request.method != "POST":
            _discard_body(request)
            raise NotFound("There is nothing at this address but a place to POST reports to.")
        body = _read_body(request)
        sender = read_sender(request)
        _store(request, sender, body, read(body, **path))
        return JsonResponse({}, status=201, headers=CLOSING)

    return endpoint


def _read_body(request: HttpRequest) -> bytes:
    """Return the body; also of a request that will be refused.

    To hang up on a client that is still sending resets the connection, and the answer may be lost on its way.
    """
    try:
        return read_body(request, max_bytes=MAX_BODY_BYTES)
    except TooLarge:
        _discard_body(request)
        raise


def _discard_body(request: HttpRequest) -> None:
    discarded = 0
    try:
        while discarded < MAX_DISCARDED_BYTES and (piece := request.read(DISCARD_PIECE_BYTES)):
            discarded += len(piece)
    except UnreadablePostError:
        return  # whoever sent it is gone


def _store(request: HttpRequest, sender: Caller | None, body: bytes, reports: list[Report]) -> None:
    now = timezone.now()
    if sender is None:
        keep_anonymous_report(reports=reports, body=body, address=address_of(request), now=now)
    else:
        store_reports(
            organization=sender.organization,
            actor=sender.actor,
            reports=reports,
            limits=limits_of(sender),
            now=now,
        )


post_server = report_endpoint(read_server)
post_stats = report_endpoint(read_stats)
post_usage = report_endpoint(read_usage)


@csrf_exempt
def find_nothing(request: HttpRequest, rest: str) -> HttpResponse:
    """Answer every other address: a route of its own, so that no slash is ever appended by a redirect."""
    _discard_body(request)
    raise NotFound("There is nothing at this address.")
