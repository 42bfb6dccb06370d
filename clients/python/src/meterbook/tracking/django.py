"""Tracking in a Django project, under WSGI and ASGI. Imports Django, and so is imported by nobody but Django.

    MIDDLEWARE = ["meterbook.tracking.django.TrackingMiddleware", ...]
    METERBOOK = {
        "URL": "https://meterbook.example",
        "API_KEY": "mb_…",
        "TRACKING": {  # all of it optional
            "USER": "meterbook.tracking.django.signed_in_user",
            "API_KEY_ID": "shop.tenants.key_id_of",
            "ROUTE": "shop.tenants.route_of",
            "ERROR_CODE": "shop.errors.code_of",
            "IP": "shop.proxies.address_of",  # None sends no address
            "HAS_QUERY": False,
            "OPTIONS": {"database_path": "/data/usage"},  # those of `track_requests`
        },
    }

Place it first: it sees what the middleware below it answers, and how long that takes. The functions take the request
once it was answered. One recorder per process sends the records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from meterbook.client import Client
from meterbook.tracking.names import Names
from meterbook.tracking.recorder import RequestRecorder
from meterbook.tracking.watch import BodyCopy, Watch, is_json_type, read_length
from meterbook.tracking.wsgi import ObservedPieces

# By field of a record: what names the function that fills it.
FUNCTIONS = {
    "user_id": "USER",
    "api_key_id": "API_KEY_ID",
    "route_id": "ROUTE",
    "error_code": "ERROR_CODE",
    "ip_address": "IP",
}
KNOWN = {*FUNCTIONS.values(), "HAS_QUERY", "OPTIONS"}


def signed_in_user(request: HttpRequest) -> str | None:
    """Return the primary key of the user of Django's own sessions."""
    user = getattr(request, "user", None)
    return str(user.pk) if user is not None and user.is_authenticated else None


def remote_address(request: HttpRequest) -> str | None:
    """Return the address that the connection came from: behind a proxy, the proxy's."""
    address: str | None = request.META.get("REMOTE_ADDR")
    return address


class TrackingMiddleware:
    """Records every request; streaming answers when their last piece has gone.

    Functions may be coroutine functions where the project runs under ASGI. A plain one is called in the event loop
    there, and in a thread if it asks the database, which costs more.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        options = _read_settings()
        self.recorder = recorder_of()
        self._has_query = bool(options.get("HAS_QUERY"))
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        adapt = _adapt if self._is_async else _as_it_is
        named = {field: options.get(name) for field, name in FUNCTIONS.items()}
        if "IP" not in options:
            named["ip_address"] = remote_address
        self._names = Names[HttpRequest](
            self.recorder, **{field: adapt(_function(name)) for field, name in named.items() if name is not None}
        )
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._answer_async(request)
        watch = self._begin(request)
        if watch is None:
            answer: HttpResponseBase = self._get_response(request)
            return answer
        try:
            answer = self._get_response(request)
        except BaseException as error:
            watch.end(error)
            self._names.fill(watch, request)
            self.recorder.add(watch)
            raise
        is_over = self._observe(watch, answer)
        self._names.fill(watch, request)
        if is_over:
            self.recorder.add(watch)
        return answer

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        watch = self._begin(request)
        if watch is None:
            answer: HttpResponseBase = await self._get_response(request)
            return answer
        try:
            answer = await self._get_response(request)
        except BaseException as error:
            watch.end(error)
            await self._names.fill_async(watch, request)
            self.recorder.add(watch)
            raise
        is_over = self._observe(watch, answer)
        await self._names.fill_async(watch, request)
        if is_over:
            self.recorder.add(watch)
        return answer

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Learn what a view raised; by the time of the answer it has become a page."""
        watch: Watch | None = getattr(request, "meterbook_watch", None)
        if watch is not None:
            watch.error_code = type(exception).__name__

    def _begin(self, request: HttpRequest) -> Watch | None:
        if not self.recorder.is_enabled:
            return None
        try:
            query = request.META.get("QUERY_STRING") if self._has_query else None
            length = read_length(request.META.get("CONTENT_LENGTH"))
            watch = Watch(request.method or "", request.path, query, length)
            longest = self.recorder.tracking.max_body_bytes
            if (
                self.recorder.bodies.reads_requests
                and is_json_type(request.content_type)
                and 0 < (length or 0) <= longest
            ):
                watch.request_body = BodyCopy(longest)
                watch.request_body.take(request.body)
            request.meterbook_watch = watch  # type: ignore[attr-defined]  # for `process_exception`
        except Exception as failure:  # a request whose body cannot be read, for one: its view will hear of it too
            self.recorder.note_failure(failure)
            return None
        return watch

    def _observe(self, watch: Watch, answer: HttpResponseBase) -> bool:
        """Count what is answered; return whether the request is over, which one that streams is not."""
        try:
            watch.status = answer.status_code
            if answer.status_code < 400:
                watch.error_code = None  # another middleware made an answer of the exception
            if self.recorder.bodies.reads_responses and is_json_type(answer.headers.get("Content-Type")):
                watch.response_body = BodyCopy(self.recorder.tracking.max_body_bytes)
            if isinstance(answer, StreamingHttpResponse):
                self._observe_stream(watch, answer)
                return False
            watch.take_response(answer.content)  # type: ignore[attr-defined]  # of the one other kind
        except Exception as failure:
            self.recorder.note_failure(failure)
        watch.end()
        return True

    def _observe_stream(self, watch: Watch, answer: StreamingHttpResponse) -> None:
        def end(error: BaseException | None = None) -> None:
            if watch.end(error):
                self.recorder.add(watch)

        if getattr(answer, "file_to_stream", None) is None:
            pieces: Any = answer.streaming_content
            answer.streaming_content = (_ObservedStream if answer.is_async else ObservedPieces)(pieces, watch, end)
            return
        # The server may send the file by itself, as long as nobody looks at the pieces.
        watch.response_bytes = read_length(answer.headers.get("Content-Length")) or 0
        close = answer.close

        def observed_close() -> None:
            close()
            end()

        answer.close = observed_close  # type: ignore[method-assign]


class _ObservedStream:
    """The pieces of an asynchronous answer on their way out."""

    def __init__(self, pieces: AsyncIterator[bytes], watch: Watch, end: Callable[[BaseException | None], None]) -> None:
        self._pieces = pieces
        self._watch = watch
        self._end = end

    def __aiter__(self) -> _ObservedStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._watch.take_response(piece)
        return piece

    def close(self) -> None:
        self._end(None)


@cache
def recorder_of() -> RequestRecorder:
    """Return the process's own: one thread, however many handlers Django makes."""
    options: dict[str, Any] = getattr(settings, "METERBOOK", {})
    missing = [name for name in ("URL", "API_KEY") if not options.get(name)]
    if missing:
        raise ImproperlyConfigured(f"METERBOOK needs {', '.join(missing)}.")
    try:
        return Client(options["URL"], options["API_KEY"]).track_requests(**_read_settings().get("OPTIONS", {}))
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"METERBOOK's TRACKING: {error}") from None


def _read_settings() -> dict[str, Any]:
    options: dict[str, Any] = getattr(settings, "METERBOOK", {}).get("TRACKING") or {}
    unknown = sorted(set(options) - KNOWN)
    if unknown:
        raise ImproperlyConfigured(f"METERBOOK's TRACKING does not know {', '.join(unknown)}.")
    return options


def _function(name: Any) -> Callable[[HttpRequest], Any]:
    found: Callable[[HttpRequest], Any] = import_string(name) if isinstance(name, str) else name
    return found


def _as_it_is(function: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    if iscoroutinefunction(function):
        raise ImproperlyConfigured(f"{function!r} is a coroutine function, which only works under ASGI.")
    return function


def _adapt(function: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Return a plain function so that it may ask the database also where there is an event loop."""
    if iscoroutinefunction(function):
        return function
    in_thread = sync_to_async(function, thread_sensitive=True)

    def call(request: HttpRequest) -> Any:
        try:
            return function(request)
        except SynchronousOnlyOperation:
            return in_thread(request)

    return call
