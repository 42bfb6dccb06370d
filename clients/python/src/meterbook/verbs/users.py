"""One user of the organization's API: `client.users.*`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from meterbook.wire import Call, Plan, one_object


def usage(user: str, *, period: str | None = None) -> Plan[dict[str, Any]]:
    """Return what the user requested in a month (`2026-11`, `current` or `last`), beside its quota.

    Raises `NotFoundError` for a user that nothing is known of.
    """
    return (yield from one_object(Call.get(_path(user, "usage"), period=period)))


def export_data(user: str) -> Call:
    """Iterate over the bytes of a JSON document with everything that is held of the user."""
    return Call.get(_path(user, "export-data"))


def delete_usage(user: str) -> Plan[dict[str, Any]]:
    """Delete the user's requests for good, and return what was deleted; what was counted stays, without the name.

    A long deletion is not `finished` when this returns, and goes on by itself.
    """
    return (yield from one_object(Call("DELETE", _path(user, "delete-usage"))))


def _path(user: str, name: str) -> str:
    return f"/admin/users/{quote(user, safe='')}/{name}"
