"""The enforcement middleware in front of WSGI, ASGI and Django applications, and the whole circle once."""

import asyncio
import json
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from meterbook import BufferedIngest, Client, Threshold
from meterbook.enforcement import ASGIEnforcement, Enforcement, UsageCaps, WSGIEnforcement
from pytest_django.fixtures import Settings

from tests.clients.alert_servers import KEY, AlertServers, running
from tests.clients.conftest import MakeCaps, Tenant
from tests.runtime.installation import Installation

SECONDS = 60.0


@pytest.fixture
def servers(alert_servers: AlertServers) -> AlertServers:
    return alert_servers


class Book:
    """A buffer that is never sent, to see what the middleware records."""

    def __init__(self, client: Client) -> None:
        self.buffer: BufferedIngest = client.buffered(flush_interval=3600, exit_timeout=0)

    @property
    def recorded(self) -> list[tuple[str, str]]:
        return [(event["customer"], event["metric"]) for event in self.buffer.unsent()]


@pytest.fixture
def book(alert_client: Client) -> Iterator[Book]:
    book = Book(alert_client)
    yield book
    book.buffer.close(0)


@pytest.fixture
def enforcement(make_caps: MakeCaps, servers: AlertServers, book: Book) -> Enforcement:
    """Of the customers, acme is capped."""
    servers.append(1, **running())
    return Enforcement(make_caps(), book.buffer, metric="calls")


def call_wsgi(application: Any, customer: str | None, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method}
    setup_testing_defaults(environ)
    if customer is not None:
        environ["HTTP_X_CUSTOMER"] = customer
    started: list[tuple[str, dict[str, str]]] = []
    body = b"".join(application(environ, lambda status, headers: started.append((status, dict(headers)))))
    return (*started[0], body)


class TestWSGI:
    @pytest.fixture
    def application(self, enforcement: Enforcement) -> WSGIEnforcement:
        def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return [b"served"]

        return WSGIEnforcement(serve, enforcement, customer_of=lambda environ: environ.get("HTTP_X_CUSTOMER"))

    def test_capped_customer_gets_402_and_is_not_recorded(self, application: WSGIEnforcement, book: Book) -> None:
        status, headers, body = call_wsgi(application, "acme")

        assert status == "402 Payment Required"
        assert headers == {"Content-Type": "application/json", "Content-Length": str(len(body))}
        answer = json.loads(body)
        assert (answer["code"], answer["metric"], answer["threshold_code"]) == ("usage_cap_exceeded", "requests", "cap")
        assert answer["threshold_value"] == "100.5"
        assert datetime.fromisoformat(answer["reset_at"]) > datetime.now(UTC)
        assert book.recorded == []

    def test_head_gets_no_body(self, application: WSGIEnforcement) -> None:
        assert call_wsgi(application, "acme", "HEAD")[2] == b""

    def test_others_are_served_and_recorded_once_each(self, application: WSGIEnforcement, book: Book) -> None:
        assert call_wsgi(application, "bolt")[::2] == ("200 OK", b"served")
        assert call_wsgi(application, "bolt")[::2] == ("200 OK", b"served")

        assert book.recorded == [("bolt", "calls"), ("bolt", "calls")]

    def test_nobodys_request_is_served_and_not_recorded(self, application: WSGIEnforcement, book: Book) -> None:
        assert call_wsgi(application, None)[::2] == ("200 OK", b"served")

        assert book.recorded == []

    def test_full_buffer_does_not_hold_up_the_request(
        self, enforcement: Enforcement, alert_client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        buffer = alert_client.buffered(
            flush_interval=3600, batch_size=1, max_events=1, block_seconds=3600, exit_timeout=0
        )
        full = Enforcement(enforcement.caps, buffer, metric="calls")

        assert full.admit("bolt") is None
        assert full.admit("bolt") is None

        assert "served and not recorded" in caplog.text
        buffer.close(0)

    def test_closed_buffer_does_not_fail_the_request(self, enforcement: Enforcement) -> None:
        enforcement.buffer.close(0)

        assert enforcement.admit("bolt") is None


class TestASGI:
    @pytest.fixture(params=["function", "coroutine function"])
    def application(self, enforcement: Enforcement, request: pytest.FixtureRequest) -> ASGIEnforcement:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"served"})

        def customer_of(scope: Any) -> str | None:
            return dict(scope["headers"]).get(b"x-customer", b"").decode() or None

        async def customer_of_async(scope: Any) -> str | None:
            return customer_of(scope)

        chosen: Any = customer_of if request.param == "function" else customer_of_async
        return ASGIEnforcement(serve, enforcement, customer_of=chosen)

    def call(self, application: ASGIEnforcement, customer: str, **scope: Any) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("nobody reads the request")

        headers = [(b"x-customer", customer.encode())]
        asyncio.run(application({"type": "http", "method": "GET", "headers": headers, **scope}, receive, send))
        return sent

    def test_capped_customer_gets_402(self, application: ASGIEnforcement, book: Book) -> None:
        start, body = self.call(application, "acme")

        assert (start["status"], dict(start["headers"])[b"content-type"]) == (402, b"application/json")
        assert json.loads(body["body"])["code"] == "usage_cap_exceeded"
        assert book.recorded == []

    def test_others_are_served_and_recorded(self, application: ASGIEnforcement, book: Book) -> None:
        start, body = self.call(application, "bolt")

        assert (start["status"], body["body"]) == (200, b"served")
        assert book.recorded == [("bolt", "calls")]

    def test_what_is_no_request_passes(self, application: ASGIEnforcement, book: Book) -> None:
        assert self.call(application, "acme", type="lifespan")[0]["status"] == 200
        assert book.recorded == []


def customer_of(request: HttpRequest) -> str | None:
    """Named in the settings of the tests below."""
    return request.headers.get("X-Customer")


async def customer_of_async(request: HttpRequest) -> str | None:
    return customer_of(request)


class TestDjango:
    @pytest.fixture(autouse=True, params=["customer_of", "customer_of_async"])
    def _settings(self, servers: AlertServers, settings: Settings, request: pytest.FixtureRequest) -> Iterator[None]:
        from meterbook.django import enforcement_of

        servers.append(1, **running())
        settings.METERBOOK = {
            "URL": servers.url,
            "API_KEY": KEY,
            "METRIC": "calls",
            "THRESHOLDS": ["cap"],
            "CUSTOMER": f"{__name__}.{request.param}",
        }
        enforcement = enforcement_of(servers.url, KEY, "calls", frozenset({"cap"}))
        assert enforcement.caps.wait_until_ready(SECONDS)
        yield
        enforcement.caps.close()
        enforcement.buffer.close(0)
        enforcement_of.cache_clear()

    def recorded(self, middleware: Any) -> list[str]:
        counters = middleware.enforcement.buffer.counters
        return [event["customer"] for event in middleware.enforcement.buffer.unsent()] if counters.added else []

    def test_wsgi(self) -> None:
        from meterbook.django import EnforcementMiddleware

        middleware: Any = EnforcementMiddleware(lambda request: HttpResponse("served"))

        refused = middleware(RequestFactory().get("/", headers={"X-Customer": "acme"}))
        served = middleware(RequestFactory().get("/", headers={"X-Customer": "bolt"}))
        nobody = middleware(RequestFactory().get("/"))

        assert (refused.status_code, refused["Content-Type"]) == (402, "application/json")
        assert json.loads(refused.content)["threshold_code"] == "cap"
        assert (served.content, nobody.content) == (b"served", b"served")
        assert self.recorded(middleware) == ["bolt"]

    def test_asgi(self) -> None:
        from meterbook.django import EnforcementMiddleware

        async def serve(request: HttpRequest) -> HttpResponse:
            return HttpResponse("served")

        middleware: Any = EnforcementMiddleware(serve)

        async def story() -> tuple[Any, Any]:
            requests = AsyncRequestFactory()
            return (
                await middleware(requests.get("/", headers={"X-Customer": "acme"})),
                await middleware(requests.get("/", headers={"X-Customer": "bolt"})),
            )

        refused, served = asyncio.run(story())

        assert (refused.status_code, served.content) == (402, b"served")
        assert self.recorded(middleware) == ["bolt"]

    def test_several_handlers_share_one_connection(self) -> None:
        from meterbook.django import EnforcementMiddleware

        first, second = (EnforcementMiddleware(lambda request: HttpResponse()) for _ in range(2))

        assert first.enforcement is second.enforcement

    @pytest.mark.parametrize("name", ["URL", "API_KEY", "METRIC", "THRESHOLDS", "CUSTOMER"])
    def test_missing_setting_is_named(self, name: str, settings: Settings) -> None:
        from meterbook.django import EnforcementMiddleware

        settings.METERBOOK = {**settings.METERBOOK, name: None}

        with pytest.raises(ImproperlyConfigured, match=name):
            EnforcementMiddleware(lambda request: HttpResponse())


# --- the whole circle ---


@pytest.mark.xdist_group("client_installation")
def test_customer_is_refused_at_the_cap_through_a_restart_of_the_stream(
    tenant: Tenant, tenant_client: Client, installation: Installation
) -> None:
    tenant_client.metrics.create("calls", "count", thresholds=[Threshold("hard_cap", 10)])
    statuses: dict[str, str] = {}
    stop = threading.Event()

    with UsageCaps(tenant_client, thresholds="hard_cap", metrics="calls") as caps:
        assert caps.wait_until_ready(SECONDS)
        buffer = tenant_client.buffered(flush_interval=0.1)
        enforcement = Enforcement(caps, buffer, metric="calls")

        def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return [b"served"]

        application = WSGIEnforcement(serve, enforcement, customer_of=lambda environ: environ.get("HTTP_X_CUSTOMER"))

        def call_until_refused(customer: str) -> None:
            while statuses.get(customer) != "402 Payment Required" and not stop.wait(0.05):
                statuses[customer] = call_wsgi(application, customer)[0]

        call_wsgi(application, "modest")
        installation.find("config.asgi").kill()
        callers = [threading.Thread(target=call_until_refused, args=(name,), daemon=True) for name in ("acme", "bolt")]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(SECONDS)
        stop.set()

        assert statuses == {"acme": "402 Payment Required", "bolt": "402 Payment Required"}
        assert call_wsgi(application, "modest")[0] == "200 OK"
        buffer.close()
    installation.wait_until_ready()

    assert tenant_client.query_realtime("modest", "calls").value == 2
    for customer in ("acme", "bolt"):
        assert tenant_client.query_realtime(customer, "calls").value >= 10
    with UsageCaps(tenant_client, thresholds="hard_cap") as after_restart:
        assert after_restart.wait_until_ready(SECONDS)
        assert after_restart.is_capped("acme")
        assert not after_restart.is_capped("modest")
