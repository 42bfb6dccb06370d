"""`Client` and `AsyncClient`: the same verbs, bound to a blocking and to an awaiting transport.

A verb is written once, in `meterbook.verbs`, with its parameters and its docstring; here it only becomes a method.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, Unpack

from meterbook import tail
from meterbook.binding import (
    AsyncVerbs,
    SyncVerbs,
    async_bytes,
    async_pages,
    async_tail,
    awaited,
    sync,
    sync_bytes,
    sync_pages,
    sync_tail,
)
from meterbook.buffered import AsyncBufferedIngest, BufferedIngest
from meterbook.gateway import (
    AnalyticsVerbs,
    AsyncAnalyticsVerbs,
    AsyncBillingVerbs,
    AsyncLogVerbs,
    AsyncRequestVerbs,
    AsyncRouteVerbs,
    AsyncSettingVerbs,
    AsyncUserVerbs,
    BillingVerbs,
    LogVerbs,
    RequestVerbs,
    RouteVerbs,
    SettingVerbs,
    UserVerbs,
)
from meterbook.groups import (
    AlertVerbs,
    AsyncAlertVerbs,
    AsyncCatalogVerbs,
    AsyncInvoiceVerbs,
    AsyncMetricVerbs,
    AsyncQuotaVerbs,
    AsyncRoomVerbs,
    AsyncThresholdVerbs,
    AsyncWebhookVerbs,
    CatalogVerbs,
    InvoiceVerbs,
    MetricVerbs,
    QuotaVerbs,
    RoomVerbs,
    ThresholdVerbs,
    WebhookVerbs,
)
from meterbook.outbox import BufferOptions, BufferSettings, OnError
from meterbook.tracking.options import TrackingOptions
from meterbook.tracking.recorder import RequestRecorder
from meterbook.transport import AsyncTransport, Connection, SyncTransport
from meterbook.verbs import alerts, events, usage
from meterbook.wire import RetryPolicy

DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_POOL_SIZE = 20


class Client(SyncVerbs):
    """A connection to one organization on a Meterbook server. Safe to share among threads; make one per process.

    Requests that fail on the way, or are answered 429, 502, 503 or 504, are repeated by `retry`; events carry
    their keys from before the first attempt, so nothing counts twice. Use it as a context manager, or `close` it.
    `http_options` are passed to `httpx.Client` (proxies, certificates, a transport of your own).
    """

    ingest = sync(events.ingest)
    validate = sync(events.validate)
    get_event = sync(events.get_event)
    list_events = sync_pages(events.list_events)
    events_tail = sync_tail(tail.events_tail)
    list_alerts = sync_pages(alerts.list_alerts)
    void = sync(events.void)
    replace = sync(events.replace)
    query_realtime = sync(usage.query_realtime)
    query = sync(usage.query)
    breakdown = sync(usage.breakdown)
    series = sync(usage.series)
    export = sync_bytes(usage.export)

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
        pool_size: int = DEFAULT_POOL_SIZE,
        compress: bool = False,
        **http_options: Any,
    ) -> None:
        connection = Connection(url, api_key, timeout, pool_size, compress, http_options)
        super().__init__(SyncTransport(connection, retry or RetryPolicy()))
        self.metrics = MetricVerbs(self._transport)
        self.catalogs = CatalogVerbs(self._transport)
        self.alerts = AlertVerbs(self._transport)
        self.thresholds = ThresholdVerbs(self._transport)
        self.webhooks = WebhookVerbs(self._transport)
        self.quotas = QuotaVerbs(self._transport)
        self.quota = RoomVerbs(self._transport)
        self.requests = RequestVerbs(self._transport)
        self.routes = RouteVerbs(self._transport)
        self.analytics = AnalyticsVerbs(self._transport)
        self.users = UserVerbs(self._transport)
        self.settings = SettingVerbs(self._transport)
        self.billing = BillingVerbs(self._transport)
        self.invoices = InvoiceVerbs(self._transport)
        self.logs = LogVerbs(self._transport)
        self._buffers: list[BufferedIngest] = []
        self._recorders: list[RequestRecorder] = []

    def buffered(self, *, on_error: OnError | None = None, **options: Unpack[BufferOptions]) -> BufferedIngest:
        """Return a buffer whose `add` does not wait for the server. `on_error(error, event)` hears of refused events,
        in the buffer's thread. The options are those of `BufferSettings`."""
        buffer = BufferedIngest(self._transport, BufferSettings.of(options), on_error)
        self._buffers.append(buffer)
        return buffer

    def track_requests(self, **options: Unpack[TrackingOptions]) -> RequestRecorder:
        """Return a recorder of requests for the middleware of `meterbook.tracking`; one per process is enough.

        The options are those of `meterbook.tracking.options.Tracking`. What is not given here comes from the
        environment (`METERBOOK_USAGE_BATCH_SIZE` …), else from the server's settings.
        """
        recorder = RequestRecorder(self._transport, **options)
        self._recorders.append(recorder)
        return recorder

    def close(self) -> None:
        """Close the subscriptions, buffers and recorders that are still open, then the pool of connections."""
        self.alerts.close_subscriptions()
        for buffer in self._buffers:
            if not buffer.is_closed:
                buffer.close()
        for recorder in self._recorders:
            if not recorder.is_closed:
                recorder.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(AsyncVerbs):
    """`Client` for asyncio: the same verbs, awaited; lists and streams are asynchronous iterators."""

    ingest = awaited(events.ingest)
    validate = awaited(events.validate)
    get_event = awaited(events.get_event)
    list_events = async_pages(events.list_events)
    events_tail = async_tail(tail.events_tail)
    list_alerts = async_pages(alerts.list_alerts)
    void = awaited(events.void)
    replace = awaited(events.replace)
    query_realtime = awaited(usage.query_realtime)
    query = awaited(usage.query)
    breakdown = awaited(usage.breakdown)
    series = awaited(usage.series)
    export = async_bytes(usage.export)

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
        pool_size: int = DEFAULT_POOL_SIZE,
        compress: bool = False,
        **http_options: Any,
    ) -> None:
        connection = Connection(url, api_key, timeout, pool_size, compress, http_options)
        super().__init__(AsyncTransport(connection, retry or RetryPolicy()))
        self.metrics = AsyncMetricVerbs(self._transport)
        self.catalogs = AsyncCatalogVerbs(self._transport)
        self.alerts = AsyncAlertVerbs(self._transport)
        self.thresholds = AsyncThresholdVerbs(self._transport)
        self.webhooks = AsyncWebhookVerbs(self._transport)
        self.quotas = AsyncQuotaVerbs(self._transport)
        self.quota = AsyncRoomVerbs(self._transport)
        self.requests = AsyncRequestVerbs(self._transport)
        self.routes = AsyncRouteVerbs(self._transport)
        self.analytics = AsyncAnalyticsVerbs(self._transport)
        self.users = AsyncUserVerbs(self._transport)
        self.settings = AsyncSettingVerbs(self._transport)
        self.billing = AsyncBillingVerbs(self._transport)
        self.invoices = AsyncInvoiceVerbs(self._transport)
        self.logs = AsyncLogVerbs(self._transport)
        self._buffers: list[AsyncBufferedIngest] = []

    def buffered(self, *, on_error: OnError | None = None, **options: Unpack[BufferOptions]) -> AsyncBufferedIngest:
        """Return a buffer whose `add` does not wait for the server. `on_error(error, event)` hears of refused events,
        in the event loop. The options are those of `BufferSettings`."""
        buffer = AsyncBufferedIngest(self._transport, BufferSettings.of(options), on_error)
        self._buffers.append(buffer)
        return buffer

    async def close(self) -> None:
        """Close the subscriptions and the buffers that are still open, then the pool of connections."""
        await self.alerts.close_subscriptions()
        for buffer in self._buffers:
            if not buffer.is_closed:
                await buffer.close()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
