"""Who posts a report, as the usage-client says it: a bare token in `X-Authorization`, or nobody."""

from __future__ import annotations

from datetime import datetime

from allauth.account.adapter import get_adapter
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest
from django.utils import timezone

from accounts.access import Caller, authenticate_key, limit_rate
from accounts.domain import RateVerdict, Scope
from common.errors import PermissionRefused
from metering.catalogs.usage_client import REPORTED_VALUE

TOKEN_HEADER = "X-Authorization"


def read_sender(request: HttpRequest) -> Caller | None:
    """Return who the token is of, None without one. The token is an API key that may write events.

    Raises `NotAuthenticated` for any other token, `PermissionRefused` for a key that may not send this, and
    `TooManyRequests`.
    """
    token = request.headers.get(TOKEN_HEADER, "").strip()
    if not token:
        return None
    caller = authenticate_key(token, now=timezone.now())
    caller.require(Scope.EVENTS_WRITE)
    if caller.metric_codes and REPORTED_VALUE not in caller.metric_codes:
        raise PermissionRefused("This API key is bound to other metrics.", code="bound_key")
    limit_rate(request, caller, tell=_tell_nothing)
    return caller


def _tell_nothing(verdict: RateVerdict, now: datetime) -> dict[str, str]:
    """Return no headers: this client knows of no limits."""
    return {}


def address_of(request: HttpRequest) -> str:
    """Return the client's network address, behind as many proxies as the installation trusts; empty if unknown."""
    try:
        return str(get_adapter().get_client_ip(request))
    except (PermissionDenied, ImproperlyConfigured):
        return ""  # no address at all, or a header that the installation's proxies did not write
