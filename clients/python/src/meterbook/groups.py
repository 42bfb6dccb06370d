"""The groups of verbs on a client (`client.metrics`, `client.alerts` …), each for both kinds of client."""

from __future__ import annotations

from meterbook.binding import AsyncVerbs, SyncVerbs, async_pages, awaited, sync, sync_pages
from meterbook.feed import DEFAULT_BUFFER, AlertFeed
from meterbook.quantities import Quantity
from meterbook.reservations import AsyncReserving, HeldReservation
from meterbook.subscription import AsyncSubscription, Subscription
from meterbook.transport import AsyncTransport, SyncTransport
from meterbook.verbs import alerts, invoices, metrics, quotas, thresholds, webhooks
from meterbook.verbs.alerts import Names


class MetricVerbs(SyncVerbs):
    """`client.metrics`: what is measured."""

    create = sync(metrics.create)
    list = sync(metrics.list_all)
    get = sync(metrics.get)
    update = sync(metrics.update)
    delete = sync(metrics.delete)


class AsyncMetricVerbs(AsyncVerbs):
    """`client.metrics`: what is measured."""

    create = awaited(metrics.create)
    list = awaited(metrics.list_all)
    get = awaited(metrics.get)
    update = awaited(metrics.update)
    delete = awaited(metrics.delete)


class CatalogVerbs(SyncVerbs):
    """`client.catalogs`: sets of metrics that come with the server."""

    list = sync(metrics.list_catalogs)
    install = sync(metrics.install_catalog)


class AsyncCatalogVerbs(AsyncVerbs):
    """`client.catalogs`: sets of metrics that come with the server."""

    list = awaited(metrics.list_catalogs)
    install = awaited(metrics.install_catalog)


class AlertVerbs(SyncVerbs):
    """`client.alerts`: the log of crossings, and subscriptions to it."""

    list = sync(alerts.list_all)
    find_position = sync(alerts.find_position)

    def __init__(self, transport: SyncTransport) -> None:
        super().__init__(transport)
        self._subscriptions: list[Subscription] = []

    def subscribe(
        self,
        *,
        customers: Names = (),
        metrics: Names = (),
        since_offset: int | None = None,
        buffer: int = DEFAULT_BUFFER,
    ) -> Subscription:
        """Iterate over alerts as they come, until the subscription or the client is closed; see `Subscription`.

        `since_offset` is what `offsets()` answered earlier; without it, alerts count from now on. Of a list, any may
        match; empty lists mean all. Raises at once when the key is refused and there is no `since_offset`.
        """
        if since_offset is None:
            since_offset = self._transport.run(alerts.find_position(customers=customers, metrics=metrics))
        feed = AlertFeed(customers=customers, metrics=metrics, position=since_offset, capacity=buffer)
        subscription = Subscription(self._transport, feed)
        self._subscriptions = [*(known for known in self._subscriptions if not known.is_closed), subscription]
        return subscription

    def close_subscriptions(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()


class AsyncAlertVerbs(AsyncVerbs):
    """`client.alerts`: the log of crossings, and subscriptions to it."""

    list = awaited(alerts.list_all)
    find_position = awaited(alerts.find_position)

    def __init__(self, transport: AsyncTransport) -> None:
        super().__init__(transport)
        self._subscriptions: list[AsyncSubscription] = []

    def subscribe(
        self,
        *,
        customers: Names = (),
        metrics: Names = (),
        since_offset: int | None = None,
        buffer: int = DEFAULT_BUFFER,
    ) -> AsyncSubscription:
        """Iterate over alerts as they come; see `AsyncSubscription`. It starts at `async with`, or the first alert."""
        subscription = AsyncSubscription(
            self._transport, customers=customers, metrics=metrics, since_offset=since_offset, buffer=buffer
        )
        self._subscriptions = [*(known for known in self._subscriptions if not known.is_closed), subscription]
        return subscription

    async def close_subscriptions(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()


class ThresholdVerbs(SyncVerbs):
    """`client.thresholds`: values whose crossing is worth telling."""

    create = sync(thresholds.create)
    list = sync(thresholds.list_all)
    get = sync(thresholds.get)
    update = sync(thresholds.update)
    delete = sync(thresholds.delete)
    trace = sync(thresholds.trace)


class AsyncThresholdVerbs(AsyncVerbs):
    """`client.thresholds`: values whose crossing is worth telling."""

    create = awaited(thresholds.create)
    list = awaited(thresholds.list_all)
    get = awaited(thresholds.get)
    update = awaited(thresholds.update)
    delete = awaited(thresholds.delete)
    trace = awaited(thresholds.trace)


class WebhookVerbs(SyncVerbs):
    """`client.webhooks`: addresses that are told of crossings."""

    create = sync(webhooks.create)
    list = sync(webhooks.list_all)
    get = sync(webhooks.get)
    update = sync(webhooks.update)
    delete = sync(webhooks.delete)
    rotate_secret = sync(webhooks.rotate_secret)
    test = sync(webhooks.test)
    deliveries = sync_pages(webhooks.deliveries)
    delivery = sync(webhooks.delivery)
    replay = sync(webhooks.replay)


class AsyncWebhookVerbs(AsyncVerbs):
    """`client.webhooks`: addresses that are told of crossings."""

    create = awaited(webhooks.create)
    list = awaited(webhooks.list_all)
    get = awaited(webhooks.get)
    update = awaited(webhooks.update)
    delete = awaited(webhooks.delete)
    rotate_secret = awaited(webhooks.rotate_secret)
    test = awaited(webhooks.test)
    deliveries = async_pages(webhooks.deliveries)
    delivery = awaited(webhooks.delivery)
    replay = awaited(webhooks.replay)


class QuotaVerbs(SyncVerbs):
    """`client.quotas`: how much of a metric customers may use per period."""

    create = sync(quotas.create)
    list = sync(quotas.list_all)
    get = sync(quotas.get)
    update = sync(quotas.update)
    delete = sync(quotas.delete)


class AsyncQuotaVerbs(AsyncVerbs):
    """`client.quotas`: how much of a metric customers may use per period."""

    create = awaited(quotas.create)
    list = awaited(quotas.list_all)
    get = awaited(quotas.get)
    update = awaited(quotas.update)
    delete = awaited(quotas.delete)


class RoomVerbs(SyncVerbs):
    """`client.quota`: whether something still fits, and holding room for it."""

    check = sync(quotas.check)
    commit = sync(quotas.commit)
    release = sync(quotas.release)

    def reserve(
        self,
        customer: str,
        metric: str,
        amount: Quantity = 1,
        *,
        ttl_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> HeldReservation:
        """Hold an amount, so that nobody else gets it; in a `with` block it is committed at the end, or released
        when the block raises. Raises `QuotaExceededError` when it does not fit.

        The request carries a key, made here unless given, so a repetition holds nothing twice. What is neither
        committed nor released in `ttl_seconds` (a minute, unless given) is free again.
        """
        plan = quotas.reserve(customer, metric, amount, ttl_seconds=ttl_seconds, idempotency_key=idempotency_key)
        return HeldReservation(self._transport, self._transport.run(plan))


class AsyncRoomVerbs(AsyncVerbs):
    """`client.quota`: whether something still fits, and holding room for it."""

    check = awaited(quotas.check)
    commit = awaited(quotas.commit)
    release = awaited(quotas.release)

    def reserve(
        self,
        customer: str,
        metric: str,
        amount: Quantity = 1,
        *,
        ttl_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncReserving:
        """`RoomVerbs.reserve`, to be awaited, or entered with `async with`."""
        plan = quotas.reserve(customer, metric, amount, ttl_seconds=ttl_seconds, idempotency_key=idempotency_key)
        return AsyncReserving(self._transport, plan)


class InvoiceVerbs(SyncVerbs):
    """`client.invoices`: what customers owe."""

    list = sync(invoices.list_all)
    get = sync(invoices.get)
    pdf = sync(invoices.pdf)


class AsyncInvoiceVerbs(AsyncVerbs):
    """`client.invoices`: what customers owe."""

    list = awaited(invoices.list_all)
    get = awaited(invoices.get)
    pdf = awaited(invoices.pdf)
