"""The whole API against its own description: schemathesis sends what the OpenAPI document allows, and what it forbids.

No answer may be a 5xx, and none anything but JSON. Runs over the WSGI application in this process, with a bounded
number of requests per operation; `METERBOOK_FUZZ_EXAMPLES=500` sends more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode

from accounts.services import IssuedKey
from metering.services import queue
from metering.services.metrics import install_catalog
from tests.metering.meter import Meter

EXAMPLES = int(os.environ.get("METERBOOK_FUZZ_EXAMPLES", "0"))
DEFAULT_EXAMPLES = 2
# What the stores being up can answer; 503 would mean that an input made one look down.
SERVER_ERRORS = range(500, 600)


@pytest.fixture
def _one_connection() -> Iterator[None]:
    """Keep the test's connection and its transaction through the requests, as Django's own test client does."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.django_db
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("_one_connection")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as described", "otherwise"])
def test_no_request_makes_any_operation_fail(
    mode: GenerationMode, meter: Meter, api_key: IssuedKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "STREAM", "tests:fuzzed-events")
    meter.define("m", "sum", dimensions=["region"])
    meter.send_all({"idempotency_key": "k", "customer": "ann", "type": "m", "value": 1})
    # Else the reports that are made of it would only say that it is missing.
    install_catalog(organization=meter.organization, name="launchdarkly", actor="test")
    schema = schemathesis.openapi.from_wsgi("/v1/openapi.json", get_wsgi_application())
    answered: dict[str, set[int]] = {}

    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES or DEFAULT_EXAMPLES,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def check(case: Case) -> None:
            with transaction.atomic():
                response = case.call(headers={"Authorization": f"Bearer {api_key.text}"})
                transaction.set_rollback(True)
            assert response.status_code not in SERVER_ERRORS, case.as_curl_command()
            assert response.status_code == 204 or _is_json(response), case.as_curl_command()
            answered.setdefault(case.operation.label, set()).add(response.status_code)

        check()

    assert len(answered) > 40
    assert {status for statuses in answered.values() for status in statuses} >= {200, 404, 422}


def _is_json(response: Any) -> bool:
    kind: str = response.headers["content-type"][0]
    return kind.partition(";")[0] in {"application/json", "application/x-ndjson", "text/csv"} or "parquet" in kind
