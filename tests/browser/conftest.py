"""A real browser, driven against the real web and stream servers on the test database.

Without Chromium (or another browser named by METERBOOK_CHROMIUM) these tests are skipped.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from accounts.models import Organization, User
from accounts.services import IssuedKey
from metering.services.rollup import roll_up_organization
from tests import factories
from tests.clients.web_server import Servers, WebServer, servers_on_test_database

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A container's root has no sandbox, and a test machine no use for what browsers do in the background.
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
ARGON2 = "django.contrib.auth.hashers.Argon2PasswordHasher"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives a real browser; skipped where none is installed")


def find_browser() -> str | None:
    named = os.environ.get("METERBOOK_CHROMIUM")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")  # no longer: its event loop would keep other modules from running their own
def chromium() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium is installed; `make browser` installs it, METERBOOK_CHROMIUM names another")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright keeps an event loop in this thread, in which Django would refuse its database.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def servers(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers_on_test_database(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def server(servers: Servers, transactional_db: None) -> WebServer:
    """The running web server; the stream, to which it redirects, runs too."""
    servers.web.start()
    servers.stream.start()
    return servers.web


@pytest.fixture(autouse=True)
def passwords_as_the_server_has_them(settings: Any) -> None:
    """The test run's quick hasher is not among the server's."""
    settings.PASSWORD_HASHERS = [ARGON2]


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console said; a test that uses pages ends with none of it."""
    return []


@pytest.fixture
def new_page(chromium: Browser, server: WebServer, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    """Return a maker of pages: signed out, or with the session of `user`."""
    contexts: list[BrowserContext] = []

    def make(user: User | None = None, **options: Any) -> Page:
        context = chromium.new_context(base_url=server.url, **({"viewport": WIDE} | options))
        contexts.append(context)
        if user is not None:
            context.add_cookies([{"name": cookie_name(server), "value": session_of(user), "url": server.url}])
        page = context.new_page()
        page.on("console", lambda message: complain(message.type, f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        return page

    def complain(kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            complaints.append(text)

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_page: Callable[..., Page], alice: User, org: Organization, complaints: list[str]) -> Iterator[Page]:
    """Alice's page, already signed in. The test fails if the browser complained."""
    yield new_page(alice)
    assert complaints == []


def cookie_name(server: WebServer) -> str:
    """Sessions are told apart by the server's port: see `config.settings.web`."""
    return f"meterbook_session_{urlsplit(server.url).port}"


def session_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


@pytest.fixture
def api(server: WebServer, api_key: IssuedKey) -> Iterator[httpx.Client]:
    """A client of the running server's API, for `org`."""
    headers = {"Authorization": f"Bearer {api_key.text}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def send(api: httpx.Client) -> Callable[..., None]:
    """Send events through the running server, all of which must be stored."""

    def send_events(*events: dict[str, Any]) -> None:
        answer = api.post("/v1/events", json=list(events)).json()
        assert answer["stored"] == len(events), answer

    return send_events


@pytest.fixture
def flights(org: Organization, api: httpx.Client, send: Callable[..., None]) -> None:
    """Two metrics of one event type, and some days of events of two carriers, rolled up as the worker would."""
    dimensions = [{"key": "origin"}, {"key": "dest"}]
    for metric in (
        {"code": "flights", "name": "Flights", "aggregation": "count", "dimensions": dimensions},
        {"code": "hop", "name": "Longest hop", "aggregation": "max", "value_property": "distance", "unit": "mile"},
    ):
        assert api.post("/v1/metrics", json=metric | {"event_type": "flight"}).status_code == 201
    now = timezone.now()
    send(
        *(
            factories.make_event(
                customer=carrier,
                type="flight",
                timestamp=(now - timedelta(days=day)).isoformat(),
                properties={"origin": origin, "dest": "BOS", "distance": 100 + day},
            )
            for day in range(10)
            for carrier, origin in (("UA", "EWR"), ("UA", "JFK"), ("B6", "JFK"))
        )
    )
    roll_up_organization(organization_id=org.pk, now=now)
