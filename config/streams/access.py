"""Who may listen to what: in the web process, which sends listeners on with a ticket, and in the stream's own.

The redirect carries a ticket, signed and short-lived, because HTTP clients rightly drop the `Authorization` header
when the port changes. Behind a proxy that unites both under one origin (docs/deploy) the header or the session cookie
arrives at the stream itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import signing
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.db.utils import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse

from accounts.access import authenticate_request
from accounts.models import Scope
from common.errors import FieldError, InvalidInput, NotAuthenticated
from common.middleware import store_unavailable
from config.streams.wire import Connection

TICKET_SALT = "meterbook.stream"
TICKET_SECONDS = 60
# What every stream takes besides its own parameters; a ticket only where it is used.
ORGANIZATION, TICKET = "organization", "ticket"

Wanted = TypeVar("Wanted")


class Bounds(Protocol):
    """What a key may see; None and empty: everything of its organization."""

    @property
    def customer_id(self) -> int | None: ...

    @property
    def metric_codes(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Admission:
    """Who was let in: the organization, and what a bound key may see of it."""

    organization_id: int
    customer_id: int | None
    metric_codes: frozenset[str]


def admit(request: HttpRequest, *, parameters: frozenset[str]) -> Admission:
    """Return what the caller may listen to. Raises `ApplicationError`, also for parameters that do not exist.

    Pages name the organization in the query, since a browser's EventSource cannot send headers.
    """
    _refuse_unknown_parameters(request, parameters)
    ticket = request.GET.get(TICKET)
    if ticket is not None:
        return _read_ticket(ticket)
    if ORGANIZATION in request.GET:
        request.META["HTTP_METERBOOK_ORGANIZATION"] = request.GET[ORGANIZATION]
    caller = authenticate_request(request)
    caller.require(Scope.USAGE_READ)
    return Admission(caller.organization.pk, caller.customer_id, caller.metric_codes)


def make_ticket(organization_id: int, allowed: Bounds) -> str:
    return signing.dumps([organization_id, allowed.customer_id, sorted(allowed.metric_codes)], salt=TICKET_SALT)


def _read_ticket(ticket: str) -> Admission:
    try:
        organization_id, customer_id, metric_codes = signing.loads(ticket, salt=TICKET_SALT, max_age=TICKET_SECONDS)
    except signing.BadSignature:
        raise NotAuthenticated("This ticket is not valid any more; ask the web server again.") from None
    return Admission(organization_id, customer_id, frozenset(metric_codes))


def _refuse_unknown_parameters(request: HttpRequest, parameters: frozenset[str]) -> None:
    unknown = sorted(set(request.GET) - parameters)
    if unknown:
        errors = [FieldError(name, "unknown_parameter", "There is no such parameter.") for name in unknown]
        raise InvalidInput(f"Unknown parameters: {', '.join(unknown)}.", code="unknown_parameter", errors=errors)


def redirect_with_ticket(request: HttpRequest, admission: Admission) -> HttpResponse:
    """Answer 307 with the same path and query on the stream's own port (or `METERBOOK_STREAM_URL`), and a ticket."""
    base = settings.STREAM_URL or f"{request.scheme}://{_with_port(request.get_host(), settings.STREAM_PORT)}"
    parameters = [(name, value) for name, values in request.GET.lists() for value in values]
    query = urlencode([*parameters, (TICKET, make_ticket(admission.organization_id, admission))])
    answer = HttpResponse(status=307, headers={"Location": f"{base.rstrip('/')}{request.path}?{query}"})
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _with_port(host: str, port: int) -> str:
    name = urlsplit(f"//{host}").hostname or "localhost"
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def read_scope(scope: Connection, read: Callable[[HttpRequest], Wanted]) -> Wanted:
    """Read an ASGI request as the web process would, with the same session and the same keys. Blocks."""
    close_old_connections()
    request = ASGIRequest(dict(scope), BytesIO())
    SessionMiddleware(lambda _: HttpResponse()).process_request(request)
    try:
        request.user = get_user(request)
        return read(request)
    except (OperationalError, InterfaceError):
        raise store_unavailable() from None
