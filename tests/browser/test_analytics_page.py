"""The analytics page in a browser: requests appear by themselves, and it fits every screen."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts.models import Organization, User
from tests.browser.conftest import NARROW, WIDE
from tests.usage_reports.gateway.traffic import SentRequest, make_requests, send

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

RECORD = {"user_id": "usr_1", "method": "GET", "path": "/users/17", "status_code": 200, "latency_ms": 12.5}


@pytest.fixture
def record(api: httpx.Client) -> Callable[..., None]:
    def post(key: str, **fields: Any) -> None:
        answer = api.post("/v1/requests", json=RECORD | {"request_id": key} | fields)
        assert answer.json()["stored"] == 1, answer.text

    return post


def keys_of(page: Page) -> list[str]:
    rows = page.locator("#request-rows tr").all()
    return [row.get_attribute("data-key") or "" for row in rows]


def test_requests_that_fit_the_filters_appear_by_themselves(
    page: Page, org: Organization, record: Callable[..., None]
) -> None:
    record("first", status_code=503)
    page.goto(f"/o/{org.pk}/analytics/?status=5xx")
    expect(page.locator("[data-live]")).to_have_text("Live", timeout=30_000)
    assert keys_of(page) == ["first"]

    record("fine")
    record("second", status_code=500, path="/orders")

    expect(page.locator("#request-rows tr")).to_have_count(2, timeout=30_000)
    assert keys_of(page) == ["second", "first"]
    expect(page.locator("#request-rows tr").first).to_contain_text("/orders")


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_page_does_not_scroll_sideways(
    new_page: Callable[..., Page], complaints: list[str], alice: User, org: Organization, size: dict[str, int]
) -> None:
    now = timezone.now()
    long_one = SentRequest("long", "user-" + "x" * 200, now, route="route-" + "y" * 50, path="/z" * 500)
    page = new_page(alice, viewport=size)
    for requests in ([], [*make_requests(3, 60, first=now - timedelta(days=20), last=now), long_one]):
        if requests:
            send(org, requests, now=now)
        page.goto(f"/o/{org.pk}/analytics/")
        expect(page.get_by_role("heading", name="Analytics")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert complaints == []
