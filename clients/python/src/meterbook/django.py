"""Enforcement in a Django project, under WSGI and ASGI. Imports Django, and so is imported by nobody but Django.

    MIDDLEWARE = [..., "meterbook.django.EnforcementMiddleware"]
    METERBOOK = {
        "URL": "https://meterbook.example",
        "API_KEY": "mb_…",
        "METRIC": "api_calls",  # what each request is recorded as
        "THRESHOLDS": ["hard_cap"],  # whose crossing turns a customer away
        "CUSTOMER": "shop.tenants.customer_of",  # a function from the request to a customer, or None
    }

Place it after the middleware that knows who asks. One client per process follows the alerts and sends the events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from meterbook.client import Client
from meterbook.enforcement.caps import Cap, UsageCaps
from meterbook.enforcement.gate import STATUS, Enforcement, refusal_content

NAMES = ("URL", "API_KEY", "METRIC", "THRESHOLDS", "CUSTOMER")


class EnforcementMiddleware:
    """Answers capped customers 402 with JSON; the views see, and the meter counts, all other requests.

    `CUSTOMER` may be a function or a coroutine function; what it answers None for passes and is not recorded.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        options = _read_settings()
        self.enforcement = enforcement_of(
            options["URL"], options["API_KEY"], options["METRIC"], frozenset(options["THRESHOLDS"])
        )
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        self._customer_of = _adapt(import_string(options["CUSTOMER"]), is_async=self._is_async)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._answer_async(request)
        cap = self.enforcement.admit(self._customer_of(request))
        answer: HttpResponseBase = self._get_response(request) if cap is None else _refusal(cap)
        return answer

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        cap = self.enforcement.admit(await self._customer_of(request))
        answer: HttpResponseBase = await self._get_response(request) if cap is None else _refusal(cap)
        return answer


@cache
def enforcement_of(url: str, api_key: str, metric: str, thresholds: frozenset[str]) -> Enforcement:
    """Return the process's own: one connection to the stream, however many handlers Django makes."""
    client = Client(url, api_key)
    caps = UsageCaps(client, thresholds=thresholds)
    return Enforcement(caps, client.buffered(when_full="drop_newest"), metric=metric)


def _read_settings() -> dict[str, Any]:
    options: dict[str, Any] = getattr(settings, "METERBOOK", {})
    missing = [name for name in NAMES if not options.get(name)]
    if missing:
        raise ImproperlyConfigured(f"METERBOOK needs {', '.join(missing)}.")
    if isinstance(options["THRESHOLDS"], str):
        raise ImproperlyConfigured("METERBOOK's THRESHOLDS is a list of codes.")
    return options


def _adapt(customer_of: Callable[[HttpRequest], Any], *, is_async: bool) -> Callable[[HttpRequest], Any]:
    """Return the function in the kind that is called here. A plain one may ask the database, so it gets a thread."""
    if is_async and not iscoroutinefunction(customer_of):
        return sync_to_async(customer_of, thread_sensitive=True)
    if not is_async and iscoroutinefunction(customer_of):
        return async_to_sync(customer_of)
    return customer_of


def _refusal(cap: Cap) -> HttpResponse:
    return HttpResponse(refusal_content(cap), status=STATUS, content_type="application/json")
