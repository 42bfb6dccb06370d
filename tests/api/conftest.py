"""A caller of the metering API: JSON in, JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from accounts.models import Organization
from accounts.services import IssuedKey
from tests import factories
from tests.metering.meter import Meter

JSON = "application/json"


@dataclass(frozen=True)
class Api:
    """Requests with one key. Every answer must be JSON, and none may be a 500."""

    client: Client

    def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = JSON, query: Any = None, **headers: str
    ) -> HttpResponse:
        if query:
            path = f"{path}?{urlencode(query, doseq=True)}"
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        response = self.client.generic(method, path, content, content_type=content_type, headers=headers)
        assert response.status_code < 500, response.content
        assert response.status_code == 204 or response["Content-Type"] == JSON, response["Content-Type"]
        if response.status_code >= 400:
            assert set(response.json()) >= {"code", "message", "errors"}
        return response

    def get(self, path: str, **query: Any) -> Any:
        """Return the body of a 200."""
        return self._body(self.call("GET", path, query=query), 200)

    def post(self, path: str, body: Any = None, *, status: int = 200, **options: Any) -> Any:
        """Return the body of an answer with this status."""
        return self._body(self.call("POST", path, body, **options), status)

    def refuse(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str, list[str]]:
        """Return status, code and the fields that the refusal names."""
        response = self.call(method, path, body, **options)
        answer = response.json()
        return response.status_code, answer["code"], [error["field"] for error in answer["errors"]]

    @staticmethod
    def _body(response: HttpResponse, status: int) -> Any:
        assert response.status_code == status, response.content
        return json.loads(response.content) if response.content else None


@pytest.fixture
def meter(org: Organization) -> Meter:
    """A hand on the services of `org`, on the real clock, as the API is."""
    return Meter(org, timezone.now())


@pytest.fixture
def api(api_client: Client) -> Api:
    """A caller with every scope."""
    return Api(api_client)


@pytest.fixture
def api_with(org: Organization, api_client_for: Callable[[IssuedKey | str], Client]) -> Callable[..., Api]:
    """Return a maker of callers whose key has these scopes and bounds."""

    def make(*scopes: str, **bounds: Any) -> Api:
        return Api(api_client_for(factories.make_api_key(organization=org, scopes=scopes, **bounds)))

    return make
