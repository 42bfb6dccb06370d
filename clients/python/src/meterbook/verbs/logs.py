"""What the server noted for operators: `client.logs.list`."""

from __future__ import annotations

from typing import Any

from meterbook.wire import Call, Plan

LOGS_PATH = "/v1/logs"


def list_all(*, filter: str | None = None, limit: int | None = None) -> Plan[list[dict[str, Any]]]:
    """Return the newest entries, of one kind (`usage`) or of all."""
    answer = yield Call.get(LOGS_PATH, filter=filter, limit=limit)
    entries: list[dict[str, Any]] = answer.json()["data"]
    return entries
