"""A hand on the reports for tests: installs the catalog, sends events into it, asks for answers. Adds no rules."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import QueryDict

from accounts.models import Organization
from metering.services.metrics import install_catalog
from tests.metering.meter import Meter
from usage_reports.launchdarkly.endpoints import ENDPOINTS
from usage_reports.launchdarkly.engine import Report, Subject, get_report, list_values
from usage_reports.launchdarkly.parameters import ReportRequest, read_request

ROWS = {row.path: row for row in ENDPOINTS}
Columns = dict[tuple[str, ...], list[Any]]


class Reporter:
    """One organization with the catalog, and a clock that stands still."""

    def __init__(self, organization: Organization, now: datetime) -> None:
        self.now = now
        self.meter = Meter(organization, now)
        for metric in install_catalog(organization=organization, name="launchdarkly", actor="test"):
            self.meter.metrics[metric.code] = metric
        self._sent_count = 0

    def send(self, type: str, *times: datetime, customer: str = "acme", value: Any = None, **properties: str) -> None:
        """Send one event at each of the times."""
        self.send_all(type, [(at, customer, value, properties) for at in times])

    def send_all(self, type: str, events: list[tuple[datetime, str, Any, dict[str, str]]]) -> None:
        """Send events, each with its time, customer, value and properties."""
        bodies = []
        for at, customer, value, properties in events:
            self._sent_count += 1
            body = {
                "idempotency_key": f"event-{self._sent_count}",
                "customer": customer,
                "type": type,
                "timestamp": at.isoformat(),
                "properties": properties,
            }
            bodies.append(body if value is None else body | {"value": value})
        self.meter.send_all(*bodies)

    def see(self, key: str, *times: datetime, **more: str) -> None:
        """Have a context seen: a user, by a client-side SDK, unless told otherwise."""
        self.send("ld_contexts", *times, **{"contextKey": key, "contextKind": "user", "sdkType": "client", **more})

    def ask(self, path: str, query: str = "", *, customer: str | None = None, now: datetime | None = None) -> Report:
        """Return the answer to a path like `streams/client`."""
        return get_report(*self._prepare(path, query, customer, now))

    def columns(self, path: str, query: str = "", **more: Any) -> Columns:
        """Return the values of each group, in the order of the answer."""
        report = self.ask(path, query, **more)
        groups = [tuple(group.values()) for group in report.metadata]
        return {group: list(values) for group, values in zip(groups, report.columns, strict=True)}

    def values(self, path: str, query: str = "", **more: Any) -> list[Any]:
        """Return the values of an answer that is not split."""
        [(group, values)] = self.columns(path, query, **more).items()
        assert group == ()
        return values

    def list(self, path: str, query: str = "", **more: Any) -> list[tuple[str, ...]]:
        return list_values(*self._prepare(path, query, more.get("customer"), more.get("now")))

    def _prepare(
        self, path: str, query: str, customer: str | None, now: datetime | None
    ) -> tuple[Subject, ReportRequest]:
        for row in ENDPOINTS:
            parts = _match(row.path, path)
            if parts is not None:
                break
        else:
            raise AssertionError(f"no row for {path}")
        request = read_request(row, path=parts, parameters=QueryDict(query), now=now or self.now)
        customer_id = None if customer is None else self.meter.customer_id(customer)
        return Subject(self.meter.organization, self.meter.metrics[row.metric], customer_id), request


def span(start: datetime, end: datetime) -> str:
    """Return the query of a range."""
    return f"from={round(start.timestamp() * 1000)}&to={round(end.timestamp() * 1000)}"


def _match(pattern: str, path: str) -> dict[str, str] | None:
    """Return the parts of a path that a row's pattern names; None if it is of another row."""
    names, words = pattern.split("/"), path.split("/")
    if len(names) != len(words):
        return None
    pairs = list(zip(names, words, strict=True))
    if any(not name.startswith("{") and name != word for name, word in pairs):
        return None
    return {name.strip("{}"): word for name, word in pairs if name.startswith("{")}
