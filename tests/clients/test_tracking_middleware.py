"""The tracking middleware around WSGI, ASGI and Django applications: what the real server holds of each request."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from meterbook import Client
from meterbook.tracking import ASGITracking, RequestRecorder, WSGITracking
from pytest_django.fixtures import Settings

from accounts.models import User
from accounts.services import IssuedKey
from tests.clients.web_server import WebServer

BODY = json.dumps({"tokens_used": 42, "text": "zwölf\nx"}, indent=1).encode()


@pytest.fixture
def recorder(client: Client) -> Iterator[RequestRecorder]:
    with client.track_requests(flush_interval_ms=3_600_000) as recorder:
        yield recorder


Recorded = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def recorded(client: Client, recorder: RequestRecorder) -> Recorded:
    """Return what the server holds, the oldest first: the properties, and the user as `user_id`."""

    def read() -> list[dict[str, Any]]:
        assert recorder.flush(30), recorder.last_failure
        assert recorder.counters.rejected == 0
        events = sorted(client.list_events(), key=lambda event: event.timestamp)
        return [{**event.properties, "user_id": event.customer} for event in events]

    return read


@pytest.fixture
def routes_that_read_bodies(client: Client) -> None:
    client.routes.create(
        id="chat", method="POST", path_pattern="/chat", metering_mode="response_field",
        metering_expr="response.body.tokens_used",
    )  # fmt: skip
    client.routes.create(
        id="items", path_pattern="/items/{id}", metering_mode="custom", metering_expr="request.body.items.length * 0.5"
    )


# --- WSGI ---


def call_wsgi(application: Any, method: str = "GET", path: str = "/", body: bytes = b"", **environ: Any) -> bytes:
    given = {"REQUEST_METHOD": method, "PATH_INFO": path, "REMOTE_ADDR": "203.0.113.77", **environ}
    if body:
        given |= {"CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/json", "wsgi.input": io.BytesIO(body)}
    setup_testing_defaults(given)
    written: list[bytes] = []
    answer = application(given, lambda status, headers, exc_info=None: written.append)
    try:
        return b"".join([*written, *answer])
    finally:
        if hasattr(answer, "close"):
            answer.close()


class TestWSGI:
    def test_what_is_known_of_a_request_is_recorded(self, recorder: RequestRecorder, recorded: Recorded) -> None:
        def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            environ["wsgi.input"].read()
            environ["demo.user"] = "usr_1"  # found out by the application itself
            time.sleep(0.02)
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"no such ", b"thing"]

        application = WSGITracking(
            serve,
            recorder,
            user_of=lambda environ: environ.get("demo.user"),
            api_key_of=lambda environ: "key_1",
            route_of=lambda environ: "orders",
            error_code_of=lambda environ: "no_such_order",
            has_query=True,
        )

        answer = call_wsgi(application, "PUT", "/orders/zw\xc3\xb6lf", b"x" * 1000, QUERY_STRING="page=2&q=a%20b")

        assert answer == b"no such thing"
        [request] = recorded()
        assert Decimal(20) <= Decimal(str(request.pop("latency_ms"))) < 5_000
        assert request.pop("latency_bucket")
        assert request == {
            "user_id": "usr_1",
            "api_key_id": "key_1",
            "route_id": "orders",
            "error_code": "no_such_order",
            "method": "PUT",
            "path": "/orders/zwölf",
            "query_params": "page=2&q=a%20b",
            "status": "404",
            "request_bytes": 1000,
            "response_bytes": 13,
            "total_bytes": 1013,
            "metered_units": 1,
            "metering_mode": "request",
            "ip_address": "203.0.113.0",
        }

    def test_query_and_address_are_left_out_unless_wanted(self, recorder: RequestRecorder, recorded: Recorded) -> None:
        application = WSGITracking(serve_wsgi, recorder, ip_of=None)
        call_wsgi(application, QUERY_STRING="token=secret")
        call_wsgi(WSGITracking(serve_wsgi, recorder), REMOTE_ADDR="")  # of a local socket

        for request in recorded():
            assert "query_params" not in request
            assert "ip_address" not in request
            assert request["user_id"] == "anonymous"

    def test_list_is_passed_on_as_it_is(self, recorder: RequestRecorder) -> None:
        pieces = [b"a", b"b"]

        def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return pieces

        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        assert WSGITracking(serve, recorder)(environ, lambda *start: None) is pieces

    def test_stream_is_passed_on_piece_by_piece_and_recorded_at_its_end(
        self, recorder: RequestRecorder, recorded: Recorded
    ) -> None:
        made: list[int] = []

        def serve(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])(b"written ")
            for number in range(3):
                made.append(number)
                time.sleep(0.01)
                yield b"%d" % number * 1000

        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        answer: Any = WSGITracking(serve, recorder)(environ, lambda *start: [].append)

        assert next(answer) == b"0" * 1000
        assert made == [0]
        assert recorder.counters.recorded == 0
        assert b"".join(answer) == b"1" * 1000 + b"2" * 1000
        answer.close()
        answer.close()
        [request] = recorded()
        assert (request["response_bytes"], request["status"]) == (3008, "200")
        assert Decimal(str(request["latency_ms"])) >= 30

    def test_client_that_leaves_early_is_recorded_with_what_it_got(
        self, recorder: RequestRecorder, recorded: Recorded
    ) -> None:
        closed: list[str] = []

        def serve(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            try:
                yield b"12345"
                yield b"67890"
            finally:
                closed.append("yes")

        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        answer: Any = WSGITracking(serve, recorder)(environ, lambda *start: None)
        next(answer)
        answer.close()

        assert closed == ["yes"]
        [request] = recorded()
        assert (request["response_bytes"], request["status"]) == (5, "200")

    def test_exceptions_pass_and_count_as_500(self, recorder: RequestRecorder, recorded: Recorded) -> None:
        def fail(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            raise ZeroDivisionError("before anything")

        def fail_later(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b"half"
            raise LookupError("in the middle")

        with pytest.raises(ZeroDivisionError, match="before anything"):
            call_wsgi(WSGITracking(fail, recorder))
        with pytest.raises(LookupError, match="in the middle"):
            call_wsgi(WSGITracking(fail_later, recorder))

        assert [(request["status"], request["error_code"], request["response_bytes"]) for request in recorded()] == [
            ("500", "ZeroDivisionError", 0),
            ("500", "LookupError", 4),
        ]

    def test_mistake_in_a_name_function_costs_the_field_alone(
        self, recorder: RequestRecorder, recorded: Recorded, caplog: pytest.LogCaptureFixture
    ) -> None:
        application = WSGITracking(
            serve_wsgi, recorder, user_of=lambda environ: environ["absent"], route_of=lambda environ: "r"
        )

        assert call_wsgi(application) == call_wsgi(application) == b"served"

        assert [(request["user_id"], request["route_id"]) for request in recorded()] == [("anonymous", "r")] * 2
        assert recorder.counters.failed == 2
        assert caplog.text.count("could not be recorded as it should") == 1

    def test_head_sends_no_body(self, recorder: RequestRecorder, recorded: Recorded) -> None:
        call_wsgi(WSGITracking(serve_wsgi, recorder), "HEAD")

        assert recorded()[0]["response_bytes"] == 0

    def test_body_of_unknown_length_is_counted_as_it_is_read(
        self, recorder: RequestRecorder, recorded: Recorded
    ) -> None:
        def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            stream = environ["wsgi.input"]
            assert stream.readline() == b"first\n"
            assert stream.read(3) == b"sec"
            assert list(stream) == [b"ond\n", b"third\n"]
            start_response("204 No Content", [])
            return []

        chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": io.BytesIO(b"first\nsecond\nthird\n")}
        call_wsgi(WSGITracking(serve, recorder), "POST", **chunked)

        assert recorded()[0]["request_bytes"] == 19

    @pytest.mark.usefixtures("routes_that_read_bodies")
    def test_bodies_go_along_where_the_routes_expression_reads_them(
        self, recorder: RequestRecorder, recorded: Recorded
    ) -> None:
        def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            environ["wsgi.input"].read()
            start_response("200 OK", [("Content-Type", "application/json; charset=utf-8")])
            return [BODY[:10], BODY[10:]]

        application = WSGITracking(serve, recorder)
        call_wsgi(application, "POST", "/chat", b'{"items": [1, 2, 3]}')
        call_wsgi(application, "POST", "/items/7", b'{"items": [1, 2, 3]}')
        call_wsgi(application, "POST", "/other", b'{"items": [1, 2, 3]}')

        assert [(request["path"], str(request["metered_units"])) for request in recorded()] == [
            ("/chat", "42"),
            ("/items/7", "1.5"),
            ("/other", "1"),
        ]


def serve_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"served"]


# --- ASGI ---


def call_asgi(
    application: Any, method: str = "GET", path: str = "/", body: tuple[bytes, ...] = (b"",), **scope: Any
) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    messages = iter(body)

    async def receive() -> dict[str, Any]:
        piece = next(messages, None)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {
        **{"type": "http", "method": method, "path": path, "query_string": b"q=1"},
        **{"headers": [(b"content-type", b"application/json")], "client": ("2001:db8:1:2::3", 5000)},
    }
    asyncio.run(application({**given, **scope}, receive, send))
    return sent


def answers(*pieces: bytes, status: int = 200, content_type: bytes = b"application/json") -> Any:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass
        await send({"type": "http.response.start", "status": status, "headers": [(b"Content-Type", content_type)]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    return serve


class TestASGI:
    def test_what_is_known_of_a_request_is_recorded(self, recorder: RequestRecorder, recorded: Recorded) -> None:
        async def user_of(scope: Any) -> str:
            await asyncio.sleep(0)
            return "usr_1"

        application = ASGITracking(
            answers(b"abc", b"defg", status=503), recorder, user_of=user_of, route_of=lambda scope: "orders",
            has_query=True,
        )  # fmt: skip

        sent = call_asgi(application, "POST", "/orders", (b"x" * 10, b"y" * 5))

        assert [message.get("body") for message in sent[1:]] == [b"abc", b"defg", None]
        [request] = recorded()
        del request["latency_ms"], request["latency_bucket"]
        assert request == {
            "user_id": "usr_1",
            "route_id": "orders",
            "method": "POST",
            "path": "/orders",
            "query_params": "q=1",
            "status": "503",
            "request_bytes": 15,
            "response_bytes": 7,
            "total_bytes": 22,
            "metered_units": 1,
            "metering_mode": "request",
            "ip_address": "2001:db8:1::",
        }

    def test_work_after_the_answer_does_not_count(self, recorder: RequestRecorder, recorded: Recorded) -> None:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.sleep(0.02)
            await send({"type": "http.response.body", "body": b"done"})
            await asyncio.sleep(0.3)
            raise RuntimeError("nobody hears of this")

        started = time.perf_counter()
        with pytest.raises(RuntimeError):
            call_asgi(ASGITracking(serve, recorder))
        milliseconds = (time.perf_counter() - started) * 1000

        [request] = recorded()
        assert (request["status"], "error_code" in request) == ("200", False)
        assert 20 <= float(request["latency_ms"]) <= milliseconds - 300

    def test_exceptions_and_cancellations_pass_and_are_recorded(
        self, recorder: RequestRecorder, recorded: Recorded
    ) -> None:
        async def fail(scope: Any, receive: Any, send: Any) -> None:
            raise ZeroDivisionError

        async def fail_later(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise LookupError

        async def be_cancelled(scope: Any, receive: Any, send: Any) -> None:
            raise asyncio.CancelledError

        for serve, error in (
            (fail, ZeroDivisionError),
            (fail_later, LookupError),
            (be_cancelled, asyncio.CancelledError),
        ):
            with pytest.raises(error):
                call_asgi(ASGITracking(serve, recorder))

        assert [
            (request["status"], request.get("error_code"), request["response_bytes"]) for request in recorded()
        ] == [
            ("500", "ZeroDivisionError", 0),
            ("500", "LookupError", 4),
            ("499", None, 0),
        ]

    def test_file_that_the_server_sends_is_counted_by_its_size(
        self, recorder: RequestRecorder, recorded: Recorded, tmp_path: Path
    ) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"x" * 12_345)

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.pathsend", "path": str(file)})

        call_asgi(ASGITracking(serve, recorder))

        assert recorded()[0]["response_bytes"] == 12_345

    def test_what_is_no_request_passes_unseen(self, recorder: RequestRecorder) -> None:
        seen: list[Any] = []

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope["type"], receive, send))

        asyncio.run(ASGITracking(serve, recorder)({"type": "lifespan"}, 1, 2))  # type: ignore[arg-type]

        assert seen == [("lifespan", 1, 2)]
        assert recorder.counters.recorded == 0

    @pytest.mark.usefixtures("routes_that_read_bodies")
    def test_bodies_go_along_where_the_routes_expression_reads_them(
        self, recorder: RequestRecorder, recorded: Recorded
    ) -> None:
        application = ASGITracking(answers(BODY[:7], BODY[7:]), recorder)
        call_asgi(application, "POST", "/chat")
        call_asgi(application, "POST", "/items/7", (b'{"items": [1,', b" 2, 3]}"))
        # A route that the request names is no other one.
        call_asgi(ASGITracking(answers(BODY), recorder, route_of=lambda scope: "unknown"), "POST", "/chat")

        assert [(request["route_id"], str(request["metered_units"])) for request in recorded()] == [
            ("chat", "42"),
            ("items", "1.5"),
            ("unknown", "1"),
        ]


# --- Django ---


def user_of(request: HttpRequest) -> str | None:
    """Named in the settings of the tests below."""
    return request.headers.get("X-User")


async def user_of_async(request: HttpRequest) -> str | None:
    return user_of(request)


def user_of_database(request: HttpRequest) -> str | None:
    """Asks the database, which an event loop may not."""
    name = f"{user_of(request)} of {User.objects.count()}"
    connection.close()  # that of this thread, or the database could not be dropped
    return name


def serve_django(request: HttpRequest) -> Any:
    """Answer by the path."""
    match request.path:
        case "/stream":
            return StreamingHttpResponse(iter([b"abc", "zwölf", b""]))
        case "/file":
            return FileResponse(io.BytesIO(b"x" * 5_000), filename="file.bin")
        case "/chat":
            return JsonResponse({"tokens_used": 42})
        case "/fail":
            raise ZeroDivisionError
        case _:
            return HttpResponse("served", status=201)


async def serve_django_async(request: HttpRequest) -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"
        await asyncio.sleep(0.01)
        yield b"zw\xc3\xb6lf"

    return StreamingHttpResponse(pieces()) if request.path == "/stream" else serve_django(request)


class TestDjango:
    @pytest.fixture
    def tracking(self, settings: Settings, server: WebServer, api_key: IssuedKey) -> Iterator[dict[str, Any]]:
        """The settings, for a test to change before it makes its middleware."""
        from meterbook.tracking.django import recorder_of

        tracking: dict[str, Any] = {"USER": f"{__name__}.user_of", "OPTIONS": {"flush_interval_ms": 3_600_000}}
        settings.METERBOOK = {"URL": server.url, "API_KEY": api_key.text, "TRACKING": tracking}
        recorder_of.cache_clear()
        yield tracking
        recorder_of().close(30)
        recorder_of.cache_clear()

    @pytest.fixture
    def recorder(self, tracking: dict[str, Any]) -> RequestRecorder:
        from meterbook.tracking.django import recorder_of

        return recorder_of()

    def middleware(self, serve: Any) -> Any:
        from meterbook.tracking.django import TrackingMiddleware

        return TrackingMiddleware(serve)

    def test_what_is_known_of_a_request_is_recorded(self, tracking: dict[str, Any], recorded: Recorded) -> None:
        tracking |= {"HAS_QUERY": True, "ROUTE": lambda request: "orders", "API_KEY_ID": lambda request: "key_1"}
        request = RequestFactory().post("/orders?a=1", b"x" * 100, "text/plain", headers={"X-User": "usr_1"})
        answer = self.middleware(serve_django)(request)

        assert answer.content == b"served"
        [found] = recorded()
        del found["latency_ms"], found["latency_bucket"]
        assert found == {
            "user_id": "usr_1",
            "api_key_id": "key_1",
            "route_id": "orders",
            "method": "POST",
            "path": "/orders",
            "query_params": "a=1",
            "status": "201",
            "request_bytes": 100,
            "response_bytes": 6,
            "total_bytes": 106,
            "metered_units": 1,
            "metering_mode": "request",
            "ip_address": "127.0.0.0",
        }

    def test_streams_and_files_are_recorded_when_they_are_over(
        self, tracking: dict[str, Any], recorder: RequestRecorder, recorded: Recorded
    ) -> None:
        middleware = self.middleware(serve_django)
        stream, file, left = (middleware(RequestFactory().get(path)) for path in ("/stream", "/file", "/stream"))

        assert recorder.counters.recorded == 0
        assert b"".join(stream) == "abczwölf".encode()
        stream.close()
        assert file.file_to_stream is not None  # the server may still send it by itself
        assert len(b"".join(file)) == 5_000
        file.close()
        left.close()

        assert sorted((found["path"], found["response_bytes"]) for found in recorded()) == [
            ("/file", 5_000),
            ("/stream", 0),
            ("/stream", 9),
        ]

    def test_exceptions_of_views_are_named(self, tracking: dict[str, Any], recorded: Recorded) -> None:
        def serve(request: HttpRequest) -> HttpResponse:
            middleware.process_exception(request, LookupError())  # as Django calls it
            return HttpResponse(status=500 if request.path == "/" else 200)

        middleware = self.middleware(serve)
        middleware(RequestFactory().get("/"))
        middleware(RequestFactory().get("/handled"))
        with pytest.raises(ZeroDivisionError):
            self.middleware(serve_django)(RequestFactory().get("/fail"))
        tracking["ERROR_CODE"] = lambda request: "told"
        with pytest.raises(ZeroDivisionError):
            self.middleware(serve_django)(RequestFactory().get("/fail"))

        assert [(found["status"], found.get("error_code")) for found in recorded()] == [
            ("500", "LookupError"),
            ("200", None),
            ("500", "ZeroDivisionError"),
            ("500", "told"),
        ]

    @pytest.mark.parametrize("name", ["user_of", "user_of_async", "user_of_database"])
    def test_asgi(self, name: str, tracking: dict[str, Any], recorded: Recorded) -> None:
        tracking["USER"] = f"{__name__}.{name}"
        middleware = self.middleware(serve_django_async)

        async def story() -> list[bytes]:
            requests = AsyncRequestFactory()
            answer = await middleware(requests.get("/", headers={"X-User": "acme"}))
            stream = await middleware(requests.get("/stream", headers={"X-User": "acme"}))
            with pytest.raises(ZeroDivisionError):
                await middleware(requests.get("/fail", headers={"X-User": "acme"}))
            return [answer.content, *[piece async for piece in stream]]

        assert b"".join(asyncio.run(story())) == "servedabczwölf".encode()
        user = "acme of 1" if name == "user_of_database" else "acme"
        assert sorted((found["path"], found["status"], found["response_bytes"]) for found in recorded()) == [
            ("/", "201", 6),
            ("/fail", "500", 0),
            ("/stream", "200", 9),
        ]
        assert {found["user_id"] for found in recorded()} == {user}

    @pytest.mark.usefixtures("routes_that_read_bodies")
    def test_bodies_go_along_where_the_routes_expression_reads_them(
        self, tracking: dict[str, Any], recorded: Recorded
    ) -> None:
        def serve(request: HttpRequest) -> Any:
            assert json.loads(request.body) == {"items": [1, 2, 3]}  # the view reads it as ever
            return serve_django(request)

        for path in ("/chat", "/items/7", "/other"):
            self.middleware(serve)(RequestFactory().post(path, {"items": [1, 2, 3]}, "application/json"))

        assert [str(found["metered_units"]) for found in recorded()] == ["42", "1.5", "1"]

    def test_user_of_djangos_sessions(self, alice: User) -> None:
        from meterbook.tracking.django import signed_in_user

        request = RequestFactory().get("/")
        assert signed_in_user(request) is None
        request.user = AnonymousUser()
        assert signed_in_user(request) is None
        request.user = alice
        assert signed_in_user(request) == str(alice.pk)

    def test_mistakes_in_the_settings_are_named(self, tracking: dict[str, Any], settings: Settings) -> None:
        tracking["USER_OF"] = "x.y"
        with pytest.raises(ImproperlyConfigured, match="USER_OF"):
            self.middleware(serve_django)
        del tracking["USER_OF"]
        tracking["USER"] = f"{__name__}.user_of_async"
        with pytest.raises(ImproperlyConfigured, match="only works under ASGI"):
            self.middleware(serve_django)
        del tracking["USER"]
        from meterbook.tracking.django import recorder_of

        recorder_of.cache_clear()
        for options, text in (({"batch_size": 0}, "A batch holds"), ({"batch": 1}, "batch")):
            tracking["OPTIONS"] = options
            with pytest.raises(ImproperlyConfigured, match=text):
                self.middleware(serve_django)
        tracking["OPTIONS"] = {}
        settings.METERBOOK = {**settings.METERBOOK, "URL": ""}
        with pytest.raises(ImproperlyConfigured, match="URL"):
            self.middleware(serve_django)
        settings.METERBOOK = {**settings.METERBOOK, "URL": "http://127.0.0.1:9"}
