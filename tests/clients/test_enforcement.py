"""Enforcement: who is capped and until when, the middleware in front of applications, and the whole circle."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from meterbook import BufferedIngest, Client, Event, Threshold
from meterbook.enforcement import ASGIEnforcement, Enforcement, UsageCaps, WSGIEnforcement
from pytest_django.fixtures import Settings

from tests.clients.alert_servers import KEY, AlertServers
from tests.clients.conftest import IMPATIENT, Tenant
from tests.runtime.installation import Installation

SECONDS = 60.0
MakeCaps = Callable[..., UsageCaps]


def text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def running(hours: float = 1, **fields: Any) -> dict[str, Any]:
    """Return the fields of an alert whose period ends in so many hours (negative: has ended)."""
    now = datetime.now(UTC)
    period = {"start": text(now - timedelta(days=20)), "end": text(now + timedelta(hours=hours))}
    return {"period": period, "triggered_at": text(now - timedelta(minutes=1)), **fields}


@pytest.fixture
def servers() -> Iterator[AlertServers]:
    with AlertServers().running() as servers:
        yield servers


@pytest.fixture
def alert_client(servers: AlertServers) -> Iterator[Client]:
    with Client(servers.url, KEY, retry=IMPATIENT, trust_env=False) as client:
        yield client


@pytest.fixture
def make_caps(alert_client: Client) -> Iterator[MakeCaps]:
    made: list[UsageCaps] = []

    def make(**options: Any) -> UsageCaps:
        caps = UsageCaps(alert_client, **{"thresholds": {"cap"}, **options})
        made.append(caps)
        assert caps.wait_until_ready(SECONDS), caps.last_failure
        return caps

    yield make
    for caps in made:
        caps.close()


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestCaps:
    def test_who_crossed_before_the_start_is_capped_as_soon_as_it_is_ready(
        self, make_caps: MakeCaps, servers: AlertServers
    ) -> None:
        servers.append(1, **running(customer="acme", metric="requests"))

        caps = make_caps()

        cap = caps.find_cap("acme")
        assert cap is not None
        assert (cap.customer, cap.metric, cap.threshold_code, cap.offset) == ("acme", "requests", "cap", 1)
        assert not caps.is_capped("bolt")

    def test_who_crosses_later_is_capped_by_the_stream(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        caps = make_caps()
        assert not caps.is_capped("acme")

        servers.append(1, **running(customer="acme"))

        wait_until(lambda: caps.is_capped("acme"))

    def test_other_thresholds_do_not_cap(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(threshold_code="quota_80"))
        servers.append(2, **running(customer="bolt"))

        caps = make_caps()

        assert not caps.is_capped("acme")
        assert caps.is_capped("bolt")

    def test_silence_of_a_metric_caps_nobody(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(customer=None))

        assert make_caps()._caps == {}

    def test_cap_ends_with_the_period_and_not_before(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(hours=1))
        caps = make_caps()
        cap = caps.find_cap("acme")
        assert cap is not None

        assert caps.is_capped("acme", now=cap.until - timedelta(microseconds=1))
        assert not caps.is_capped("acme", now=cap.until)

    def test_alert_of_a_period_that_is_over_caps_nobody(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(hours=-1))

        assert not make_caps().is_capped("acme")

    def test_cap_that_lasts_longest_is_told_and_metrics_can_be_asked_for(
        self, make_caps: MakeCaps, servers: AlertServers
    ) -> None:
        servers.append(1, **running(hours=5, metric="long"))
        servers.append(2, **running(hours=1, metric="short"))
        caps = make_caps()

        assert [getattr(caps.find_cap("acme", metric), "metric", None) for metric in (None, "short", "other")] == [
            "long",
            "short",
            None,
        ]

    def test_lifted_customer_passes_until_the_next_crossing(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running())
        caps = make_caps()

        caps.lift("acme")

        assert not caps.is_capped("acme")
        servers.append(2, **running())
        wait_until(lambda: caps.is_capped("acme"))

    def test_what_is_over_is_forgotten(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running())
        caps = make_caps()

        caps._sweep(datetime.now(UTC) + timedelta(hours=2))

        assert caps._caps == {}

    def test_long_log_is_not_read_from_its_beginning(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        old = datetime.now(UTC) - timedelta(days=60)
        servers.append(*range(1, 5001), **running(hours=-24, triggered_at=text(old)))
        servers.append(5001, 5002, **running(customer="acme"))

        caps = make_caps()

        assert caps.is_capped("acme")
        assert servers.log_requests[-1] == 5000  # one page, after the last alert that is too old
        assert len(servers.log_requests) < 30

    def test_outage_at_the_start_caps_nobody_and_is_waited_out(
        self, alert_client: Client, servers: AlertServers
    ) -> None:
        servers.append(1, **running())
        servers.refusals += [500] * 2

        with UsageCaps(alert_client, thresholds="cap") as caps:
            assert not caps.is_capped("acme")
            assert caps.wait_until_ready(SECONDS)
            assert caps.is_capped("acme")

    def test_refused_key_is_told_and_tried_again(self, alert_client: Client, servers: AlertServers) -> None:
        servers.append(1, **running())
        servers.refusals += [401]

        with UsageCaps(alert_client, thresholds="cap") as caps:
            wait_until(lambda: caps.last_failure is not None or caps.is_ready)
            assert caps.wait_until_ready(SECONDS)
            assert caps.last_failure is None

    def test_caps_need_the_codes_that_cap(self, alert_client: Client) -> None:
        with pytest.raises(ValueError, match="codes"):
            UsageCaps(alert_client, thresholds=[])

    def test_close_is_prompt_and_keeps_what_is_known(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running())
        caps = make_caps()
        wait_until(lambda: len(servers.stream_requests) == 1)

        began = time.monotonic()
        caps.close()

        assert time.monotonic() - began < 2
        assert not caps._thread.is_alive()
        assert caps.is_capped("acme")

    def test_child_of_a_fork_follows_the_stream_itself(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(customer="before"))
        caps = make_caps()
        wait_until(lambda: len(servers.stream_requests) == 1)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                assert caps.is_capped("before")
                os.write(writing, b"1")
                wait_until(lambda: caps.is_capped("after"), 30)
                os._exit(7)
            finally:
                os._exit(1)
        assert os.read(reading, 1) == b"1"

        servers.append(2, **running(customer="after"))

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        wait_until(lambda: caps.is_capped("after"))  # the parent's own connection is whole


# --- the middleware ---


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

        async def serve(request: ASGIRequest | WSGIRequest) -> HttpResponse:
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


def test_package_imports_neither_django_nor_a_web_framework() -> None:
    code = "import meterbook, meterbook.enforcement, sys; print(sorted({'django', 'asgiref'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "[]\n"


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


@pytest.mark.xdist_group("client_installation")
def test_void_below_the_threshold_does_not_lift_the_cap_and_lift_does(tenant_client: Client) -> None:
    tenant_client.metrics.create("calls", "sum", thresholds=[Threshold("hard_cap", 10)])
    with UsageCaps(tenant_client, thresholds="hard_cap") as caps:
        assert caps.wait_until_ready(SECONDS)
        tenant_client.ingest(Event(customer="acme", metric="calls", value=10, idempotency_key="big"))
        wait_until(lambda: caps.is_capped("acme"))

        tenant_client.void("big", reason="a mistake")

        assert caps.is_capped("acme")
        caps.lift("acme")
        assert not caps.is_capped("acme")
        tenant_client.ingest(Event(customer="acme", metric="calls", value=11))
        wait_until(lambda: caps.is_capped("acme"))
