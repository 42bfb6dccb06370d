"""Client of a Meterbook usage metering server.

    from meterbook import Client, Event

    with Client("https://meterbook.example", "mb_…") as client:
        client.ingest(Event(customer="cust_42", metric="api_calls"))
        print(client.query_realtime("cust_42", "api_calls").value)

`AsyncClient` has the same verbs for asyncio; `client.buffered()` sends in the background.
"""

from meterbook.buffered import AsyncBufferedIngest, BufferedIngest
from meterbook.client import AsyncClient, Client
from meterbook.errors import (
    AlreadyExistsError,
    AuthenticationError,
    BufferFullError,
    ConflictError,
    EventError,
    FieldError,
    MeterbookError,
    NotFoundError,
    PermissionRefusedError,
    RateLimitedError,
    ServerUnavailableError,
    TooLargeError,
    ValidationError,
)
from meterbook.events import (
    Durability,
    Event,
    IngestResult,
    Operation,
    StoredEvent,
    ValidationResult,
    ValidEvent,
    new_key,
)
from meterbook.metrics import Aggregation, Catalog, Dimension, Metric, MetricPeriod, Threshold
from meterbook.outbox import BufferCounters, BufferSettings, WhenFull
from meterbook.periods import (
    Period,
    current_billing_period,
    current_month,
    current_period,
    last_billing_period,
    last_month,
)
from meterbook.quantities import scale, unscale
from meterbook.usage import BreakdownRow, Point, Series, SeriesResult, Usage
from meterbook.wire import RetryPolicy

__version__ = "0.1.0"

__all__ = [
    "Aggregation",
    "AlreadyExistsError",
    "AsyncBufferedIngest",
    "AsyncClient",
    "AuthenticationError",
    "BreakdownRow",
    "BufferCounters",
    "BufferFullError",
    "BufferSettings",
    "BufferedIngest",
    "Catalog",
    "Client",
    "ConflictError",
    "Dimension",
    "Durability",
    "Event",
    "EventError",
    "FieldError",
    "IngestResult",
    "MeterbookError",
    "Metric",
    "MetricPeriod",
    "NotFoundError",
    "Operation",
    "Period",
    "PermissionRefusedError",
    "Point",
    "RateLimitedError",
    "Replacement",
    "RetryPolicy",
    "Series",
    "SeriesResult",
    "ServerUnavailableError",
    "StoredEvent",
    "Threshold",
    "TooLargeError",
    "Usage",
    "ValidEvent",
    "ValidationError",
    "ValidationResult",
    "Void",
    "WhenFull",
    "current_billing_period",
    "current_month",
    "current_period",
    "last_billing_period",
    "last_month",
    "new_key",
    "scale",
    "unscale",
]
