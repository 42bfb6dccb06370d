"""`/admin/analytics/live`: the requests of an API gateway as they arrive, on the live tail of events."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from common.api import Text, read_query
from config.streams.access import ORGANIZATION, TICKET, Admission, admit, redirect_with_ticket
from config.streams.events import serve_tail
from config.streams.wire import Connection, Receive, Send
from metering.event_tail import EventTail
from usage_reports.gateway.api.serializers import RequestQuery
from usage_reports.gateway.api.views import require_metrics
from usage_reports.gateway.domain import list_statuses
from usage_reports.gateway.records import RequestFilter, live_body

PARAMETERS = frozenset({"user", "route", "status", ORGANIZATION})


class LiveQuery(RequestQuery):
    organization = Text(required=False, allow_blank=True)
    ticket = Text(required=False)


@require_GET
def redirect_to_stream(request: HttpRequest) -> HttpResponse:
    """In the web process: refuse what the stream would refuse, and send the listener on."""
    admission, _ = _read_wish(request, parameters=PARAMETERS)
    return redirect_with_ticket(request, admission)


async def serve_requests(tail: EventTail, scope: Connection, receive: Receive, send: Send) -> None:
    """Answer one request for the live requests; returns when either side ends it."""
    await serve_tail(tail, scope, receive, send, read_request=_read_request, show=live_body)


def _read_request(request: HttpRequest) -> tuple[int, RequestFilter]:
    admission, wanted = _read_wish(request, parameters=PARAMETERS | {TICKET})
    return admission.organization_id, wanted


def _read_wish(request: HttpRequest, *, parameters: frozenset[str]) -> tuple[Admission, RequestFilter]:
    admission = admit(request, parameters=parameters)
    require_metrics(admission.metric_codes)
    query = read_query(request.GET, LiveQuery)
    return admission, RequestFilter(
        customer_id=admission.customer_id,
        wanted_customers=frozenset([query["user"]] if "user" in query else []),
        route=query.get("route"),
        statuses=frozenset(list_statuses(query["status"])) if "status" in query else None,
    )
