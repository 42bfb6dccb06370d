"""Fixtures of the usage reports' tests: a sender of events, and callers of the reports' API."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Organization
from accounts.services import IssuedKey
from tests.usage_reports.reporter import Reporter

JSON = "application/json"
Query = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ReportApi:
    """Requests with one key. Every answer must be JSON, and none may be a 500."""

    client: Client

    def call(
        self, path: str, query: Query = (), *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> Any:
        url = f"/api/v2/usage/{path}"
        if query:
            url = f"{url}?{urlencode(query)}"
        response = self.client.generic(method, url, headers=dict(headers or {}))
        assert response.status_code < 500, response.content
        assert response["Content-Type"] == JSON
        if response.status_code >= 400 and method != "HEAD":
            assert set(response.json()) == {"code", "message"}
        return response

    def get(self, path: str, *query: tuple[str, str]) -> Any:
        """Return the body of a 200."""
        response = self.call(path, query)
        assert response.status_code == 200, response.content
        return json.loads(response.content)

    def refuse(self, path: str, *query: tuple[str, str]) -> tuple[int, str, str]:
        """Return status, code and message of a refusal."""
        response = self.call(path, query)
        answer = response.json()
        return response.status_code, answer["code"], answer["message"]


@pytest.fixture
def reporter(org: Organization, now: datetime) -> Reporter:
    """A sender into `org`, whose clock stands at `now`."""
    return Reporter(org, now)


@pytest.fixture
def live_reporter(org: Organization) -> Reporter:
    """A sender into `org` on the real clock, as the API is."""
    return Reporter(org, timezone.now())


@pytest.fixture
def report_api_with() -> Callable[[IssuedKey], ReportApi]:
    """Return a maker of callers that send the bare key, as the official clients do."""

    def make(key: IssuedKey) -> ReportApi:
        return ReportApi(Client(raise_request_exception=False, headers={"Authorization": key.text}))

    return make


@pytest.fixture
def report_api(api_key: IssuedKey, report_api_with: Callable[[IssuedKey], ReportApi]) -> ReportApi:
    """A caller of `org` with every scope."""
    return report_api_with(api_key)
