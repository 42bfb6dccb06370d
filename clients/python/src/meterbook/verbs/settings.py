"""The organization's settings of request tracking: `client.settings.*`."""

from __future__ import annotations

from typing import Any

from meterbook.wire import Call, Plan, one_object

SETTINGS_PATH = "/v1/settings"


def get_all() -> Plan[dict[str, Any]]:
    """Return all settings by their names."""
    return (yield from one_object(Call.get(SETTINGS_PATH)))


def update(**values: Any) -> Plan[dict[str, Any]]:
    """Change the named settings and return all of them. Raises `ValidationError` for what a setting cannot be."""
    return (yield from one_object(Call.send("PATCH", SETTINGS_PATH, values, is_repeatable=True)))
