"""What tests of the usage-client dialect share: bodies as the client makes them, and hands to send them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.services import IssuedKey
from common.redis import redis_client

JSON = "application/json"
SERVER = {"cluster_id": "clus1", "server_id": "serv1", "host": "example.com", "product": "influxdb", "version": "1.0"}
Post = Callable[..., Any]


@pytest.fixture(autouse=True)
def _nobody_sent_anonymously_yet() -> None:
    """All tests come from one address, which may send so much a minute and no more."""
    for key in redis_client().scan_iter("meterbook:rate:{influx*"):
        redis_client().delete(key)


@pytest.fixture
def post(client: Client, api_key: IssuedKey) -> Post:
    """Post a body below `/api/v1` with a token, by default one of `org`; `token=None` is anonymous."""
    client.raise_request_exception = False

    def send(path: str, body: Any, *, token: str | None = api_key.text, **headers: str) -> Any:
        if token is not None:
            headers["X-Authorization"] = token
        return client.post(f"/api/v1{path}", body, content_type=JSON, headers=headers)

    return send


def usage_entry(**values: Any) -> list[dict[str, Any]]:
    """Return a usage body of one entry of the server of `SERVER`."""
    return [{"tags": None, "values": {"cluster_id": "clus1", "server_id": "serv1", **values}}]


def stats_body(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"cluster_id": "clus1", "server_id": "serv1", "stats": list(entries)}
