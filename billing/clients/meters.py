"""The port to whoever bills by meters: what a sink of usage is given, and what it must answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from billing.domain.reporting import Outcome


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """One report as it is sent. `identifier` is the same at every attempt, `attempt_key` another each time."""

    event_name: str
    customer_id: str
    quantity: Decimal
    event_time: datetime
    identifier: str
    attempt_key: str


class MeterSink(Protocol):
    def send(self, event: MeterEvent) -> Outcome:
        """Send one event, once. Never raises for what the sink or the network does."""

    def total(self, *, event_name: str, customer_id: str, start: datetime, end: datetime) -> Decimal:
        """Return what the sink counted over `[start, end)`, whole minutes. Raises `CallFailed`."""

    def daily_totals(
        self, *, event_name: str, customer_id: str, start: datetime, end: datetime
    ) -> dict[datetime, Decimal]:
        """Return what the sink counted of each UTC day by its start; days without usage may be absent.

        Raises `CallFailed`.
        """
