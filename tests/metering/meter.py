"""A hand on the services for tests: define metrics, send events, roll up, take back, read. Adds no rules of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from accounts.models import Customer, Organization
from metering import queries
from metering.catalogs import MetricDefinition
from metering.dialects.native import decode_json
from metering.models import Aggregation, EventVoid, Metric
from metering.queries import Usage
from metering.services.ingest import IngestResult, ingest_events
from metering.services.metrics import create_metric
from metering.services.rollup import RolledUp, roll_up_organization
from metering.services.voids import Replacement, replace_event, void_event

_encoder = msgspec.json.Encoder(decimal_format="number")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day and what follows


def encode_body(events: Any) -> bytes:
    """Return events as the JSON that a client would send; a Decimal is a JSON number with all its digits."""
    return _encoder.encode(events)


class Meter:
    """One organization and a clock that stands still unless told to go on."""

    def __init__(self, organization: Organization, now: datetime) -> None:
        self.organization = organization
        self.now = now
        self.metrics: dict[str, Metric] = {}

    def define(
        self, code: str, aggregation: str, *, dimensions: Sequence[str | Mapping[str, Any]] = (), **fields: Any
    ) -> Metric:
        """Create a metric; a dimension is its key alone or the whole of it."""
        whole = tuple(
            {"key": entry, "values": None, "strict": False}
            if isinstance(entry, str)
            else {"values": None, "strict": False, **entry}
            for entry in dimensions
        )
        definition = MetricDefinition(code, Aggregation(aggregation), dimensions=whole, **fields)
        metric = create_metric(organization=self.organization, definition=definition, actor="test")
        self.metrics[code] = metric
        return metric

    def send(self, *events: Mapping[str, Any], at: datetime | None = None, is_atomic: bool = False) -> IngestResult:
        return ingest_events(
            organization=self.organization,
            events=decode_json(encode_body(events)),
            now=at or self.now,
            is_atomic=is_atomic,
        )

    def send_all(self, *events: Mapping[str, Any], at: datetime | None = None) -> IngestResult:
        """Send events that must all be stored."""
        result = self.send(*events, at=at)
        assert (result.stored, result.errors) == (len(events), [])
        return result

    def roll_up(self, *, at: datetime | None = None) -> RolledUp:
        return roll_up_organization(organization_id=self.organization.pk, now=at or self.now)

    def void(self, key: str, *, at: datetime | None = None) -> EventVoid:
        return void_event(
            organization=self.organization,
            idempotency_key=key,
            reason="sent by mistake",
            actor="test",
            now=at or self.now,
        )

    def replace(self, key: str, event: Mapping[str, Any], *, at: datetime | None = None) -> Replacement:
        [decoded] = decode_json(encode_body(event))
        return replace_event(
            organization=self.organization,
            idempotency_key=key,
            event=decoded,
            reason="sent with a wrong value",
            actor="test",
            now=at or self.now,
        )

    def customer_id(self, external_id: str) -> int:
        customer = Customer.objects.for_organization(self.organization).get(external_id=external_id)
        return int(customer.pk)

    def usage(
        self, code: str, start: datetime, end: datetime, *, customer: str | None = None, **selection: Any
    ) -> Usage:
        return queries.get_usage(
            organization=self.organization,
            metric=self.metrics[code],
            start=start,
            end=end,
            customer_id=None if customer is None else self.customer_id(customer),
            **selection,
        )

    def value(self, code: str, start: datetime, end: datetime, **selection: Any) -> Decimal:
        return self.usage(code, start, end, **selection).value

    def breakdown(
        self, code: str, start: datetime, end: datetime, *group_by: str, customer: str | None = None, **selection: Any
    ) -> dict[tuple[str | None, ...], Decimal]:
        """Return the value of every group."""
        rows = queries.list_breakdown(
            organization=self.organization,
            metric=self.metrics[code],
            start=start,
            end=end,
            group_by=group_by,
            customer_id=None if customer is None else self.customer_id(customer),
            **selection,
        )
        return {tuple(row.group.values()): row.usage.value for row in rows}
