"""`/metrics` tells what it should of requests, ingest, rollups, alerts and webhooks, and no name of anybody."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from common.telemetry import DELIVERIES

pytestmark = pytest.mark.django_db

RECORD = {"request_id": "r", "user_id": "usr_metrics", "method": "GET", "path": "/of/usr_metrics", "status_code": 200}


def test_every_family_is_told_with_labels_that_are_few(api_client: Client) -> None:
    records = [RECORD | {"latency_ms": 1}, RECORD | {"latency_ms": "soon"}]
    assert api_client.post("/v1/requests", records, content_type="application/json").json()["stored"] == 1
    api_client.get("/v1/events/usr_metrics")
    api_client.generic("USR_METRICS", "/v1/events")
    DELIVERIES.labels("delivered").inc(0)

    text = api_client.get("/metrics").content.decode()

    for line in (
        r'meterbook_http_requests_total\{method="POST",status="200"\} [0-9.]+',
        r'meterbook_http_requests_total\{method="other",status="405"\} [0-9.]+',
        r'meterbook_http_request_seconds_bucket\{le="0.05",method="POST"\} [0-9.]+',
        r'meterbook_ingest_events_total\{verdict="stored"\} [0-9.]+',
        r'meterbook_ingest_events_total\{verdict="rejected"\} [0-9.]+',
        r"meterbook_rollup_lag_seconds [0-9.]+",
        r"meterbook_pending_batches 1.0",
        r"meterbook_alerts_fired_total [0-9.]+",
        r'meterbook_webhook_attempts_total\{outcome="delivered"\} [0-9.]+',
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line
    assert "usr_metrics" not in text.lower()
