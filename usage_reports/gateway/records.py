"""Single requests as records: for the export, and as they arrive. One request is one event of the type `api_request`.

Reads raw events through `metering.queries.events`. Counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from metering.catalogs.api_gateway import EVENT_TYPE
from metering.event_tail import TailEvent, TailFilter
from metering.queries.events import EventPosition, EventRow, list_events
from metering.queries.exports import Cell, Column, ColumnKind
from usage_reports.gateway.domain import number
from usage_reports.gateway.engine import REQUESTS, Selection, find_metrics

PAGE_ROWS = 5_000
# What a record holds, in the order of the columns; named as it was sent.
COLUMNS = (
    Column("request_id", ColumnKind.TEXT),
    Column("user_id", ColumnKind.TEXT),
    Column("api_key_id", ColumnKind.TEXT),
    Column("route_id", ColumnKind.TEXT),
    Column("method", ColumnKind.TEXT),
    Column("path", ColumnKind.TEXT),
    Column("query_params", ColumnKind.TEXT),
    Column("timestamp", ColumnKind.TIME),
    Column("status_code", ColumnKind.COUNT),
    Column("latency_ms", ColumnKind.QUANTITY),
    Column("request_bytes", ColumnKind.QUANTITY),
    Column("response_bytes", ColumnKind.QUANTITY),
    Column("metered_units", ColumnKind.QUANTITY),
    Column("metering_mode", ColumnKind.TEXT),
    Column("metering_error", ColumnKind.TEXT),
    Column("error_code", ColumnKind.TEXT),
    Column("ip_address", ColumnKind.TEXT),
)
# The columns that an event does not hold as properties of the same name.
_OTHERS = {"request_id", "user_id", "timestamp", "status_code"}
_encoder = msgspec.json.Encoder(decimal_format="number")
_event_decoder = msgspec.json.Decoder(float_hook=Decimal)


def list_pages(selection: Selection) -> Iterator[list[tuple[Cell, ...]]]:
    """Yield the records of the requests that count, the newest first, a page at a time: one query each.

    The caller has seen to it that they are kept.
    """
    metric = find_metrics(selection.organization).get(REQUESTS)
    position: EventPosition | None = None
    while metric is not None:
        events = list_events(
            organization=selection.organization,
            limit=PAGE_ROWS,
            customer_id=selection.customer_id,
            metric=metric,
            start=selection.span.start,
            end=selection.span.end,
            properties={key: [value or "" for value in values] for key, values in selection.filters.items()},
            before=position,
        )
        yield [_record_of(event) for event in events if not event.is_voided]
        if len(events) < PAGE_ROWS:
            return
        position = EventPosition(events[-1].timestamp, events[-1].offset)


def _record_of(event: EventRow) -> tuple[Cell, ...]:
    return record(event.idempotency_key, event.customer, event.timestamp, event.properties)


def record(key: str, customer: str, at: datetime, properties: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Return the cells of one request; what it was sent without, or is not kept, is None."""
    known: dict[str, Cell] = {
        "request_id": key,
        "user_id": customer,
        "timestamp": at,
        "status_code": _status(properties.get("status")),
    }
    return tuple(
        known[column.name] if column.name in _OTHERS else _cell(column.kind, properties.get(column.name))
        for column in COLUMNS
    )


def _status(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else None


def _cell(kind: ColumnKind, value: Any) -> Cell:
    """Return the property as its column holds it. Events of this type may also come from elsewhere than a gateway."""
    if value is None:
        return None
    if kind == ColumnKind.QUANTITY:
        try:
            quantity = Decimal(str(value))
        except InvalidOperation:
            return None
        return quantity if quantity.is_finite() else None
    if isinstance(value, Mapping | list):
        return _encoder.encode(value).decode()
    return str(value)


def record_json(cells: Sequence[Cell]) -> bytes:
    return _encoder.encode({column.name: _json_value(cell) for column, cell in zip(COLUMNS, cells, strict=True)})


def _json_value(cell: Cell) -> Any:
    return number(cell) if isinstance(cell, Decimal) else cell


# --- as they arrive -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestFilter(TailFilter):
    """Which requests a listener of the live tail gets; None: all."""

    route: str | None = None
    statuses: frozenset[str] | None = None

    def matches(self, event: TailEvent) -> bool:
        properties = event.properties or {}
        return (
            event.event_type == EVENT_TYPE
            and TailFilter.matches(self, event)
            and (self.route is None or properties.get("route_id") == self.route)
            and (self.statuses is None or properties.get("status") in self.statuses)
        )


def live_body(event: bytes) -> bytes:
    """Return an event of the live tail, as JSON, as the record of its request."""
    told = _event_decoder.decode(event)
    at = datetime.fromisoformat(told["timestamp"])
    return record_json(record(told["idempotency_key"], told["customer"], at, told["properties"]))
