"""What is logged of a request that failed or was slow: what was asked for, and not of whom."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client

from common import telemetry
from metering.dialects.gateway.api import upkeep
from tests import factories

pytestmark = pytest.mark.django_db
PERSON = "frieda"


@pytest.fixture
def all_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "SLOW_REQUEST_SECONDS", 0.0)


@pytest.mark.usefixtures("all_are_slow")
class TestSlowRequests:
    def test_the_route_stands_for_the_path(
        self, api_client: Client, org: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        factories.make_customer(organization=org, external_id=PERSON)

        assert api_client.delete(f"/admin/users/{PERSON}/delete-usage").status_code == 200

        assert "request was slow" in caplog.text
        assert "/delete-usage" in caplog.text
        assert PERSON not in caplog.text

    @pytest.mark.parametrize(
        ("path", "logged"), [("/unheard/of/frieda", "/unheard/…"), ("/frieda@example.com", "/…"), ("/77", "/…")]
    )
    def test_of_a_path_that_nothing_matched_only_a_word_is_left(
        self, client: Client, caplog: pytest.LogCaptureFixture, path: str, logged: str
    ) -> None:
        assert client.get(path).status_code == 404

        assert PERSON not in caplog.text
        [line] = [record for record in caplog.records if "request was slow" in str(record.msg)]
        assert line.msg["route"] == logged  # type: ignore[index]  # structlog's event


def test_a_request_that_fails_is_logged_by_its_route(
    api_client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> Any:
        raise ImproperlyConfigured("on purpose")

    monkeypatch.setattr(upkeep, "erase_customer", fail)
    api_client.raise_request_exception = False

    assert api_client.delete(f"/admin/users/{PERSON}/delete-usage").status_code == 500

    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) >= 2  # ours, and Django's own
    assert all("/delete-usage" in line and PERSON not in line for line in lines)
