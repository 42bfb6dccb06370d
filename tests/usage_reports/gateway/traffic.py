"""Requests of an API gateway for tests: made up from a seed, and sent as the events that they become.

The shape of the event is the contract between who records requests and who reads them; it is written out here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from random import Random
from typing import Any

from accounts.models import Organization
from metering.incoming import IncomingEvent
from metering.services.ingest import ingest_events
from metering.services.metrics import install_catalog

GAMMA = Decimal("1.02") / Decimal("0.98")
BATCH = 5_000
METHODS = ("GET", "GET", "GET", "POST", "DELETE")
STATUSES = (200, 200, 200, 200, 201, 304, 400, 404, 404, 429, 500, 503)
ROUTES = ("users-api", "orders-api", "search", None)
# More than the shortest lists show.
USERS = (*(f"usr_{number}" for number in range(1, 12)), "anonymous")
PATHS = ("/users/1", "/users/2", "/orders", "/search", None)


@dataclass(frozen=True)
class SentRequest:
    """One request, and what metering made of it."""

    id: str
    user: str
    at: datetime
    method: str = "GET"
    status: int = 200
    latency_ms: Decimal = Decimal(10)
    request_bytes: int = 0
    response_bytes: int = 0
    units: Decimal = Decimal(1)
    route: str | None = None
    path: str | None = None
    metering_error: str | None = None

    @property
    def bytes(self) -> int:
        return self.request_bytes + self.response_bytes

    def event(self) -> dict[str, Any]:
        properties: dict[str, Any] = {
            "status": str(self.status),
            "method": self.method,
            "latency_ms": self.latency_ms,
            "latency_bucket": str(bucket_of(self.latency_ms)),
            "total_bytes": self.bytes,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "metered_units": self.units,
            "metering_mode": "custom",
        }
        optional = {"route_id": self.route, "path": self.path, "metering_error": self.metering_error}
        properties |= {name: value for name, value in optional.items() if value is not None}
        return {
            "idempotency_key": self.id,
            "customer": self.user,
            "type": "api_request",
            "timestamp": self.at.isoformat(),
            "properties": properties,
        }


def bucket_of(latency_ms: Decimal) -> int:
    """Return the least power of `GAMMA` that the latency does not exceed; by trying, since a logarithm rounds."""
    guess = math.floor(math.log(float(latency_ms)) / math.log(float(GAMMA))) - 1
    while latency_ms > GAMMA**guess:
        guess += 1
    return guess


def make_requests(seed: int, count: int, *, first: datetime, last: datetime) -> list[SentRequest]:
    """Return requests between two times, some of them at the same instant, on a few users, routes and paths."""
    random = Random(seed)
    seconds = int((last - first).total_seconds())
    return [
        SentRequest(
            id=f"req-{seed}-{number}",
            user=random.choice(USERS),
            at=first + (last - first) * random.randrange(seconds) / seconds,
            method=random.choice(METHODS),
            status=random.choice(STATUSES),
            latency_ms=Decimal(str(round(random.lognormvariate(3.5, 1.2) + 0.001, 3))),
            request_bytes=random.choice((0, 0, random.randrange(5_000))),
            response_bytes=random.randrange(1_000_000),
            units=random.choice((Decimal(1), Decimal(0), Decimal(random.randrange(10_000)) / 1000)),
            route=random.choice(ROUTES),
            path=random.choice(PATHS),
            metering_error=random.choice((None, None, None, "missing_field", "negative")),
        )
        for number in range(count)
    ]


def send(organization: Organization, requests: Sequence[SentRequest], *, now: datetime) -> None:
    """Store the requests; the catalog is installed where it is missing. Every one of them must be new."""
    install_catalog(organization=organization, name="api-gateway", actor="test")
    organization.refresh_from_db()
    for first in range(0, len(requests), BATCH):
        events = [IncomingEvent(**request.event()) for request in requests[first : first + BATCH]]
        result = ingest_events(organization=organization, events=events, now=now)
        assert result.stored == len(events), result.errors[:3]


# --- the truth --------------------------------------------------------------------------------------------------


def nearest_rank(latencies: Iterable[Decimal], percent: int) -> Decimal:
    ordered = sorted(latencies)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]
