"""What the tracking middleware of the client adds to a request: the same application with and without it, in turns.

WSGI, ASGI and Django, in this process; the recorder sends to the running web server meanwhile, and everything that was
recorded must have been stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from wsgiref.util import setup_testing_defaults

from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings
from meterbook import Client
from meterbook.tracking import ASGITracking, RequestRecorder, WSGITracking
from meterbook.tracking.django import TrackingMiddleware, recorder_of

from benchmarks.installation import Installation
from benchmarks.load import LoadFailed
from benchmarks.report import Figure, Measurement, percentile
from benchmarks.tenant import Tenant

PART = "middleware"
OVERHEAD = "overhead p50 µs"
# With and without take turns of so many requests; between them the recorder's thread gets its own.
TURN_REQUESTS = 100
PAUSE_SECONDS = 0.005
FLUSH_SECONDS = 60.0
BODY = b"x" * 2_000


@dataclass(slots=True)
class Times:
    """Seconds per request."""

    bare: list[float]
    tracked: list[float]

    def figures(self) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            bare, tracked = (percentile(times, share) * 1e6 for times in (self.bare, self.tracked))
            figures |= {f"bare {name} µs": round(bare, 1), f"tracked {name} µs": round(tracked, 1)}
            figures[f"overhead {name} µs"] = round(tracked - bare, 1)
        return figures


def measure_middleware(installation: Installation, tenant: Tenant, *, request_count: int) -> Iterator[Measurement]:
    """Yield one line per kind of application. The web server runs."""
    with Client(f"http://127.0.0.1:{installation.port}", tenant.api_key, trust_env=False) as client:
        recorder = client.track_requests()
        for name, measure in (("WSGI", _measure_wsgi), ("ASGI", _measure_asgi)):
            with _everything_stored(recorder):
                times = measure(recorder, request_count)
            yield Measurement(PART, name, times.figures())
        settings = {"URL": f"http://127.0.0.1:{installation.port}", "API_KEY": tenant.api_key}
        for name, measure_django in (("Django, WSGI", _measure_django), ("Django, ASGI", _measure_django_async)):
            with override_settings(METERBOOK=settings), _everything_stored(recorder_of()):
                times = measure_django(request_count)
            yield Measurement(PART, name, times.figures())
        recorder_of().close()


@contextmanager
def _everything_stored(recorder: RequestRecorder) -> Iterator[None]:
    """Raise `LoadFailed` unless what is recorded in the block is stored after it."""
    yield
    recorder.flush(FLUSH_SECONDS)
    counters = recorder.counters
    if counters.stored != counters.recorded or counters.dropped or counters.failed:
        raise LoadFailed(f"Not every request was recorded: {counters}")


def _take_turns(bare: Callable[[], object], tracked: Callable[[], object], request_count: int) -> Times:
    times = Times([], [])
    for _ in range(request_count // TURN_REQUESTS):
        for serve, seconds in ((bare, times.bare), (tracked, times.tracked)):
            for _ in range(TURN_REQUESTS):
                started = time.perf_counter()
                serve()
                seconds.append(time.perf_counter() - started)
            time.sleep(PAUSE_SECONDS)
    return times


async def _take_turns_async(bare: Callable[[], Any], tracked: Callable[[], Any], request_count: int) -> Times:
    times = Times([], [])
    for _ in range(request_count // TURN_REQUESTS):
        for serve, seconds in ((bare, times.bare), (tracked, times.tracked)):
            for _ in range(TURN_REQUESTS):
                started = time.perf_counter()
                await serve()
                seconds.append(time.perf_counter() - started)
            await asyncio.sleep(PAUSE_SECONDS)
    return times


# --- WSGI and ASGI --------------------------------------------------------------------------------------------


def _serve_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [BODY]


def _measure_wsgi(recorder: RequestRecorder, request_count: int) -> Times:
    given: dict[str, Any] = {"REMOTE_ADDR": "203.0.113.7", "REMOTE_USER": "usr_1"}
    setup_testing_defaults(given)
    application = WSGITracking(_serve_wsgi, recorder, user_of=lambda environ: environ.get("REMOTE_USER"))

    def call(serve: Any) -> Callable[[], None]:
        def request() -> None:
            for _ in serve(dict(given), lambda status, headers, exc_info=None: None):
                pass

        return request

    return _take_turns(call(_serve_wsgi), call(application), request_count)


async def _serve_asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": BODY})


def _measure_asgi(recorder: RequestRecorder, request_count: int) -> Times:
    application = ASGITracking(_serve_asgi, recorder, user_of=lambda scope: "usr_1")
    given = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"x")], "client": ("203.0.113.7", 1)}

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    def call(serve: Any) -> Callable[[], Any]:
        return lambda: serve(dict(given), receive, send)

    return asyncio.run(_take_turns_async(call(_serve_asgi), call(application), request_count))


# --- Django ---------------------------------------------------------------------------------------------------


def _measure_django(request_count: int) -> Times:
    def serve(request: HttpRequest) -> HttpResponse:
        return HttpResponse(BODY)

    middleware: Any = TrackingMiddleware(serve)
    request = RequestFactory().get("/")
    return _take_turns(lambda: serve(request), lambda: middleware(request), request_count)


def _measure_django_async(request_count: int) -> Times:
    async def serve(request: HttpRequest) -> HttpResponse:
        return HttpResponse(BODY)

    middleware: Any = TrackingMiddleware(serve)
    request = AsyncRequestFactory().get("/")
    return asyncio.run(_take_turns_async(lambda: serve(request), lambda: middleware(request), request_count))
