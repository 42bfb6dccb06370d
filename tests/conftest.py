"""The standing cast: alice owns `org`, bob may only look, charlie is an outsider who owns `other_org`.

The databases come from `tests.embedded_services`.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization, Role, User
from accounts.services import IssuedKey
from common.redis import redis_client
from config.celery import app as celery_app
from metering.services.queue import STREAM
from tests import factories, quick_flush

quick_flush.install()

# Whoever starts the tests in the background may have them ignore the interrupt, and every process that a test starts
# and interrupts would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Files run side by side, each as a whole: the longest first, so that nobody waits for one that began last.
LONGEST_FIRST = (
    "tests/scenarios/test_demo_totals.py",
    "tests/runtime/test_chaos.py",
    "tests/api/test_openapi_fuzz.py",
    "tests/metering/test_property_usage.py",
    "tests/launchdarkly/",
    "tests/usage_reports/test_report_invariants.py",
    "tests/runtime/",
    "tests/clients/",
    "tests/browser/",
    "tests/scenarios/",
    "tests/alerts/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    found = (place for place, begin in enumerate(LONGEST_FIRST) if item.nodeid.startswith(begin))
    return next(found, len(LONGEST_FIRST))


@pytest.fixture
def now() -> datetime:
    """A fixed moment to pass to services that take the time; nothing stops the real clock."""
    return datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def alice(db: None) -> User:
    return factories.make_user(name="Alice")


@pytest.fixture
def org(alice: User) -> Organization:
    return factories.make_organization(name="Initech", owner=alice)


@pytest.fixture
def bob(org: Organization) -> User:
    bob = factories.make_user(name="Bob")
    factories.make_membership(organization=org, user=bob, role=Role.VIEWER)
    return bob


@pytest.fixture
def charlie(db: None) -> User:
    return factories.make_user(name="Charlie")


@pytest.fixture
def other_org(charlie: User) -> Organization:
    return factories.make_organization(name="Hooli", owner=charlie)


@pytest.fixture
def api_key(org: Organization) -> IssuedKey:
    """A key of `org` with every scope; `api_key.text` is what a client sends."""
    return factories.make_api_key(organization=org)


@pytest.fixture
def other_api_key(other_org: Organization) -> IssuedKey:
    return factories.make_api_key(organization=other_org)


class ApiClient(Client):
    """Posts JSON unless it is told otherwise: of the form that a `Client` posts even an empty one has a body."""

    def post(
        self, path: Any, data: Any = None, content_type: str = "application/json", *flags: Any, **options: Any
    ) -> Any:
        return super().post(path, data, content_type, *flags, **options)


@pytest.fixture
def api_client_for() -> Callable[[IssuedKey | str], Client]:
    """Return a maker of clients that send the given key, and that get a 500 answer instead of the exception."""

    def make(key: IssuedKey | str) -> Client:
        text = key if isinstance(key, str) else key.text
        return ApiClient(raise_request_exception=False, headers={"Authorization": f"Bearer {text}"})

    return make


@pytest.fixture
def api_client(api_key: IssuedKey, api_client_for: Callable[[Any], Client]) -> Client:
    """A client of `org` with every scope."""
    return api_client_for(api_key)


@pytest.fixture
def outsider_client(other_api_key: IssuedKey, api_client_for: Callable[[Any], Client]) -> Client:
    return api_client_for(other_api_key)


@pytest.fixture
def client_for() -> Callable[[User], Client]:
    """Return a maker of browsers in which the given person has signed in."""

    def make(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return make


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Where the browser is; tests that need one are skipped without it. `make browser` installs it on Debian."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    candidates = [os.environ.get("METERBOOK_CHROMIUM"), *(shutil.which(name) for name in names)]
    path = next((candidate for candidate in candidates if candidate), None)
    if path is None:
        pytest.skip("no browser: install chromium, or set METERBOOK_CHROMIUM to its path")
    return path


@pytest.fixture
def empty_queue() -> Iterator[None]:
    """No asynchronous events wait, of other tests before, of this one after it."""
    redis_client().delete(STREAM)
    yield
    redis_client().delete(STREAM)


@pytest.fixture
def eager_tasks() -> Iterator[None]:
    """Run tasks where they are queued."""
    celery_app.conf.task_always_eager = True
    yield
    celery_app.conf.task_always_eager = False
