"""Client of a Meterbook usage metering server.

    from meterbook import Client, Event

    with Client("https://meterbook.example", "mb_…") as client:
        client.ingest(Event(customer="cust_42", metric="api_calls"))
        print(client.query_realtime("cust_42", "api_calls").value)

`AsyncClient` has the same verbs for asyncio; `client.buffered()` sends in the background.
"""

from meterbook.alerts import Alert, StoredThreshold, ThresholdTrace
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
    QuotaExceededError,
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
    Replacement,
    StoredEvent,
    ValidationResult,
    ValidEvent,
    Void,
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
from meterbook.quotas import Quota, QuotaMode, QuotaVerdict, Reservation
from meterbook.reservations import AsyncHeldReservation, HeldReservation
from meterbook.subscription import AsyncSubscription, Subscription
from meterbook.usage import BreakdownRow, Point, Series, SeriesResult, Usage
from meterbook.verbs.quotas import UNCHANGED
from meterbook.webhooks import (
    DeliveryAttempt,
    RotatedSecret,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookMessage,
    WebhookVerificationError,
    verify_webhook,
)
from meterbook.wire import RetryPolicy

__version__ = "0.1.0"

__all__ = [
    "UNCHANGED",
    "Aggregation",
    "Alert",
    "AlreadyExistsError",
    "AsyncBufferedIngest",
    "AsyncClient",
    "AsyncHeldReservation",
    "AsyncSubscription",
    "AuthenticationError",
    "BreakdownRow",
    "BufferCounters",
    "BufferFullError",
    "BufferSettings",
    "BufferedIngest",
    "Catalog",
    "Client",
    "ConflictError",
    "DeliveryAttempt",
    "Dimension",
    "Durability",
    "Event",
    "EventError",
    "FieldError",
    "HeldReservation",
    "IngestResult",
    "MeterbookError",
    "Metric",
    "MetricPeriod",
    "NotFoundError",
    "Operation",
    "Period",
    "PermissionRefusedError",
    "Point",
    "Quota",
    "QuotaExceededError",
    "QuotaMode",
    "QuotaVerdict",
    "RateLimitedError",
    "Replacement",
    "Reservation",
    "RetryPolicy",
    "RotatedSecret",
    "Series",
    "SeriesResult",
    "ServerUnavailableError",
    "StoredEvent",
    "StoredThreshold",
    "Subscription",
    "Threshold",
    "ThresholdTrace",
    "TooLargeError",
    "Usage",
    "ValidEvent",
    "ValidationError",
    "ValidationResult",
    "Void",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookMessage",
    "WebhookVerificationError",
    "WhenFull",
    "current_billing_period",
    "current_month",
    "current_period",
    "last_billing_period",
    "last_month",
    "new_key",
    "scale",
    "unscale",
    "verify_webhook",
]
