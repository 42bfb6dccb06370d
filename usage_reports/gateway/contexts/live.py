"""The newest requests as rows of a table, at first paint and as they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse

from accounts.models import Organization
from metering.queries.events import EventRow, list_events
from usage_reports.gateway.contexts.address import AnalyticsAddress
from usage_reports.gateway.domain import FIRST_ERROR
from usage_reports.gateway.engine import REQUESTS, Selection, find_metrics
from usage_reports.gateway.records import COLUMNS, record

TAIL_SIZE = 20
# What one live update fetches; of a larger burst the newest.
MAX_KEYS_PER_UPDATE = 20
_PLACES = {column.name: place for place, column in enumerate(COLUMNS)}


@dataclass(frozen=True, slots=True)
class LiveRow:
    key: str
    at: datetime
    user: str
    method: str
    path: str
    route: str
    status: int | None
    is_error: bool
    latency_ms: Decimal | None
    units: Decimal | None
    url: str


def stream_url(organization: Organization, address: AnalyticsAddress) -> str:
    parameters = [("organization", str(organization.pk)), *address.filter_parameters()]
    return f"{reverse('request-stream')}?{urlencode(parameters)}"


def rows_url(organization: Organization, address: AnalyticsAddress) -> str:
    return f"{reverse('analytics:rows', args=[organization.pk])}?{urlencode(address.filter_parameters())}"


def list_live_rows(selection: Selection, *, keys: list[str] | None = None) -> list[LiveRow]:
    """Return the newest requests of any time that fit the filters, or those of the keys that do."""
    metric = find_metrics(selection.organization).get(REQUESTS)
    if metric is None:
        return []
    events = list_events(
        organization=selection.organization,
        limit=TAIL_SIZE,
        metric=metric,
        customer_id=selection.customer_id,
        properties={key: [value or "" for value in values] for key, values in selection.filters.items()},
        idempotency_keys=keys,
    )
    return [_row_of(selection.organization, event) for event in events if not event.is_voided]


def keys_of(request: HttpRequest) -> list[str] | None:
    """Return the requests that a live update asks for; None: the newest."""
    keys = [key.replace("\x00", "") for key in request.GET.getlist("key")][:MAX_KEYS_PER_UPDATE]
    return keys or None


def _row_of(organization: Organization, event: EventRow) -> LiveRow:
    cells = record(event.idempotency_key, event.customer, event.timestamp, event.properties)
    status, latency, units = (cells[_PLACES[name]] for name in ("status_code", "latency_ms", "metered_units"))
    return LiveRow(
        key=event.idempotency_key,
        at=event.timestamp,
        user=event.customer,
        method=str(cells[_PLACES["method"]] or ""),
        path=str(cells[_PLACES["path"]] or ""),
        route=str(cells[_PLACES["route_id"]] or ""),
        status=status if isinstance(status, int) else None,
        is_error=isinstance(status, int) and status >= FIRST_ERROR,
        latency_ms=latency if isinstance(latency, Decimal) else None,
        units=units if isinstance(units, Decimal) else None,
        url=f"{reverse('metering:event', args=[organization.pk])}?{urlencode({'key': event.idempotency_key})}",
    )
