"""Reading the log of alerts: `client.alerts.list`, `client.list_alerts`, and where in the log a moment lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

from meterbook.alerts import Alert
from meterbook.wire import Call, Listing, Plan, one_object, present

ALERTS_PATH = "/v1/alerts"
MAX_PAGE = 1000

Names: TypeAlias = str | Iterable[str]


def alerts_call(*, since: int, limit: int, customers: Names = (), metrics: Names = (), path: str = ALERTS_PATH) -> Call:
    return Call("GET", path, present(since=since, limit=limit, customer=listed(customers), metric=listed(metrics)))


def read_page(body: Mapping[str, Any]) -> list[Alert]:
    return [Alert.from_json(item) for item in body["data"]]


def listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


@dataclass(frozen=True, slots=True)
class AlertListing(Listing[Alert]):
    """The log in pages. A page that is not full is the last for now."""

    page_size: int = MAX_PAGE

    def page(self, call: Call) -> Plan[tuple[list[Alert], Call | None]]:
        body = yield from one_object(call)
        alerts = read_page(body)
        if len(alerts) < self.page_size:
            return alerts, None
        others = [(name, value) for name, value in self.first.parameters if name != "since"]
        return alerts, replace(self.first, parameters=[("since", str(body["next_offset"])), *others])


def list_all(
    *, since: int = 0, customers: Names = (), metrics: Names = (), limit: int | None = None
) -> Plan[list[Alert]]:
    """Return the alerts after the offset `since`, oldest first, at most `limit` of them. Of a list, any may match."""
    page_size = MAX_PAGE if limit is None else max(1, min(limit, MAX_PAGE))
    first = alerts_call(since=since, limit=page_size, customers=customers, metrics=metrics)
    listing = AlertListing(first, Alert.from_json, page_size)
    alerts: list[Alert] = []
    call: Call | None = first
    while call is not None and (limit is None or len(alerts) < limit):
        page, call = yield from listing.page(call)
        alerts += page
    return alerts[:limit]


def list_alerts(
    customer: str | None = None, since_offset: int = 0, *, metric: str | None = None, page_size: int = MAX_PAGE
) -> AlertListing:
    """Iterate over the alerts after an offset, oldest first, up to the newest; pages are fetched as they are needed.

    To go on later, pass the `offset` of the last alert that was handled.
    """
    first = alerts_call(
        since=since_offset,
        limit=page_size,
        customers=[customer] if customer else (),
        metrics=[metric] if metric else (),
    )
    return AlertListing(first, Alert.from_json, page_size)


def find_position(*, customers: Names = (), metrics: Names = (), before: datetime | None = None) -> Plan[int]:
    """Return where the log ends (0: it is empty); with `before`, the offset of the last alert triggered earlier.

    The end is one question. The other asks for single alerts, about twice the logarithm of the log's length times.
    """
    if before is None:
        first = yield from one_object(alerts_call(since=0, limit=1))
        return int(first["last_offset"])
    customers, metrics = listed(customers), listed(metrics)
    reached, beyond, probe = 0, None, 0
    while beyond is None or reached < beyond:
        call = alerts_call(since=probe, limit=1, customers=customers, metrics=metrics)
        found = read_page((yield from one_object(call)))
        if found and found[0].triggered_at < before:
            reached = found[0].offset
        else:
            beyond = probe
        probe = 4 * reached if beyond is None else (reached + beyond) // 2
    return reached
