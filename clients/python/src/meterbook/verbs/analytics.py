"""Reading what was requested: `client.analytics.*`. Every answer is the server's own JSON, numbers as `Decimal`.

`start` and `end` are dates, which are whole days (the last one too), or aware times, which are instants. `status` is
`404` or a class like `5xx`; `sort` is `requests`, `errors`, `latency`, `units` or `bytes`, `-` first for descending.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any, TypeAlias, TypedDict, Unpack

from meterbook.periods import time_text
from meterbook.tail import TailSession
from meterbook.wire import Call, Plan, RetryPolicy, one_object, present

ANALYTICS_PATH = "/admin/analytics"
Edge: TypeAlias = date | datetime | str


class Selection(TypedDict, total=False):
    """Which requests."""

    start: Edge | None
    end: Edge | None
    user: str | None
    route: str | None
    status: str | None


class ListSelection(Selection, total=False):
    """Which requests, and which rows of their numbers."""

    sort: str | None
    limit: int | None


class GroupedSelection(ListSelection, total=False):
    group_by: str | None


def summary(**selection: Unpack[Selection]) -> Plan[dict[str, Any]]:
    """Return the totals, the rate of errors and the percentiles of latency; by default of the last 30 days."""
    return (yield from _read("summary", selection))


def users(**selection: Unpack[ListSelection]) -> Plan[dict[str, Any]]:
    """Return the numbers of each user."""
    return (yield from _read("users", selection))


def routes(**selection: Unpack[ListSelection]) -> Plan[dict[str, Any]]:
    """Return the numbers of each route."""
    return (yield from _read("routes", selection))


def requests(**selection: Unpack[GroupedSelection]) -> Plan[dict[str, Any]]:
    """Return the numbers over time, zero-filled; by day, or by the `group_by` hour or month."""
    return (yield from _read("requests", selection))


def daily(**selection: Unpack[GroupedSelection]) -> Plan[dict[str, Any]]:
    """Return the numbers of each day, and (`group_by`) of each user, route, status or method in it."""
    return (yield from _read("daily", selection))


def monthly(**selection: Unpack[GroupedSelection]) -> Plan[dict[str, Any]]:
    """Return the numbers of each month, and (`group_by`) of each user, route, status or method in it."""
    return (yield from _read("monthly", selection))


def aggregate(group_by: str, **selection: Unpack[ListSelection]) -> Plan[dict[str, Any]]:
    """Return the numbers by hour, day, month, path, route, user, status or method."""
    return (yield from _read("aggregate", {**selection, "group_by": group_by}))


def export(*, format: str = "csv", **selection: Unpack[Selection]) -> Call:
    """Iterate over the bytes of a file with every single request, as CSV or JSON."""
    return _call("export", {**selection, "format": format})


def live(
    *,
    user: str | None = None,
    route: str | None = None,
    status: str | None = None,
    on_skipped: Callable[[int], None] | None = None,
) -> TailSession[dict[str, Any]]:
    """Iterate over requests as they are recorded, until the caller stops or the client is closed.

    Reconnects by itself. When more arrives than it carries, it skips some, logs how many and tells `on_skipped`.
    """
    call = Call("GET", f"{ANALYTICS_PATH}/live", present(user=user, route=route, status=status))
    return TailSession(call, RetryPolicy(longest_delay=15.0), on_skipped, dict)


def cleanup(*, older_than_days: int, dry_run: bool = False) -> Plan[dict[str, Any]]:
    """Delete single requests that are older, and return what was done; with `dry_run`, what would be.

    What was counted of them stays. A long cleanup is not `finished` when this returns, and goes on by itself.
    """
    body = {"older_than": f"{older_than_days}d", "dry_run": dry_run}
    return (yield from one_object(Call.post(f"{ANALYTICS_PATH}/cleanup", body, is_repeatable=True)))


def _read(name: str, selection: Any) -> Plan[dict[str, Any]]:
    return (yield from one_object(_call(name, selection)))


def _call(name: str, selection: Any) -> Call:
    parameters = {**selection}
    parameters |= {"from": _edge(parameters.pop("start", None)), "to": _edge(parameters.pop("end", None))}
    return Call("GET", f"{ANALYTICS_PATH}/{name}", present(**parameters))


def _edge(edge: Edge | None) -> Any:
    if isinstance(edge, date) and not isinstance(edge, datetime):
        return edge.isoformat()
    return None if edge is None else time_text(edge)
