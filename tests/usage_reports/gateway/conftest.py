"""Fixtures of the analytics' tests: callers of the endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from accounts.services import IssuedKey


@dataclass(frozen=True)
class AnalyticsApi:
    """Requests with one key. No answer may be a 500; numbers are exact."""

    client: Client

    def call(self, path: str, **query: Any) -> Any:
        named = {name.rstrip("_"): value for name, value in query.items()}
        response = self.client.get(f"/admin/{path}", named)
        assert response.status_code < 500, response.content
        return response

    def get(self, path: str, **query: Any) -> Any:
        """Return the body of a 200. `from_` stands for `from`."""
        response = self.call(path, **query)
        assert response.status_code == 200, response.content
        assert response["Content-Type"] == "application/json"
        return json.loads(body_of(response), parse_float=Decimal)

    def refuse(self, path: str, **query: Any) -> tuple[int, str, str]:
        """Return status, code and field of a refusal."""
        response = self.call(path, **query)
        assert response["Content-Type"] == "application/json", response.content
        answer = response.json()
        errors = answer["errors"]
        return (
            response.status_code,
            errors[0]["code"] if errors else answer["code"],
            errors[0]["field"] if errors else "",
        )


def body_of(response: Any) -> bytes:
    return b"".join(response.streaming_content) if response.streaming else response.content


@pytest.fixture
def analytics_with(api_client_for: Callable[[IssuedKey], Client]) -> Callable[[IssuedKey], AnalyticsApi]:
    return lambda key: AnalyticsApi(api_client_for(key))


@pytest.fixture
def analytics(api_key: IssuedKey, analytics_with: Callable[[IssuedKey], AnalyticsApi]) -> AnalyticsApi:
    """A caller of `org` with every scope."""
    return analytics_with(api_key)
