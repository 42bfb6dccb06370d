"""The groups of verbs about requests to an API (`client.analytics`, `client.users` …), for both kinds of client."""

from __future__ import annotations

from meterbook.binding import (
    AsyncVerbs,
    SyncVerbs,
    async_bytes,
    async_tail,
    awaited,
    sync,
    sync_bytes,
    sync_tail,
)
from meterbook.verbs import analytics, billing, logs, requests, settings, users


class RequestVerbs(SyncVerbs):
    """`client.requests`: records of requests that were served. `client.track_requests` is for all of an application."""

    record = sync(requests.record)


class AsyncRequestVerbs(AsyncVerbs):
    """`client.requests`: records of requests that were served."""

    record = awaited(requests.record)


class RouteVerbs(SyncVerbs):
    """`client.routes`: how the requests of each are metered."""

    create = sync(requests.create_route)
    list = sync(requests.list_routes)
    get = sync(requests.get_route)
    update = sync(requests.update_route)
    delete = sync(requests.delete_route)


class AsyncRouteVerbs(AsyncVerbs):
    """`client.routes`: how the requests of each are metered."""

    create = awaited(requests.create_route)
    list = awaited(requests.list_routes)
    get = awaited(requests.get_route)
    update = awaited(requests.update_route)
    delete = awaited(requests.delete_route)


class AnalyticsVerbs(SyncVerbs):
    """`client.analytics`: what was requested, by user, by route, over time, as it comes."""

    summary = sync(analytics.summary)
    users = sync(analytics.users)
    routes = sync(analytics.routes)
    requests = sync(analytics.requests)
    daily = sync(analytics.daily)
    monthly = sync(analytics.monthly)
    aggregate = sync(analytics.aggregate)
    export = sync_bytes(analytics.export)
    live = sync_tail(analytics.live)
    cleanup = sync(analytics.cleanup)


class AsyncAnalyticsVerbs(AsyncVerbs):
    """`client.analytics`: what was requested, by user, by route, over time, as it comes."""

    summary = awaited(analytics.summary)
    users = awaited(analytics.users)
    routes = awaited(analytics.routes)
    requests = awaited(analytics.requests)
    daily = awaited(analytics.daily)
    monthly = awaited(analytics.monthly)
    aggregate = awaited(analytics.aggregate)
    export = async_bytes(analytics.export)
    live = async_tail(analytics.live)
    cleanup = awaited(analytics.cleanup)


class UserVerbs(SyncVerbs):
    """`client.users`: one user's usage, the data that is held, and its deletion."""

    usage = sync(users.usage)
    export_data = sync_bytes(users.export_data)
    delete_usage = sync(users.delete_usage)


class AsyncUserVerbs(AsyncVerbs):
    """`client.users`: one user's usage, the data that is held, and its deletion."""

    usage = awaited(users.usage)
    export_data = async_bytes(users.export_data)
    delete_usage = awaited(users.delete_usage)


class SettingVerbs(SyncVerbs):
    """`client.settings`: the organization's settings of request tracking."""

    get = sync(settings.get_all)
    set = sync(settings.update)


class AsyncSettingVerbs(AsyncVerbs):
    """`client.settings`: the organization's settings of request tracking."""

    get = awaited(settings.get_all)
    set = awaited(settings.update)


class BillingVerbs(SyncVerbs):
    """`client.billing`: what of the usage is billed."""

    usage = sync(billing.usage)
    report_usage = sync(billing.report_usage)


class AsyncBillingVerbs(AsyncVerbs):
    """`client.billing`: what of the usage is billed."""

    usage = awaited(billing.usage)
    report_usage = awaited(billing.report_usage)


class LogVerbs(SyncVerbs):
    """`client.logs`: what the server noted for operators."""

    list = sync(logs.list_all)


class AsyncLogVerbs(AsyncVerbs):
    """`client.logs`: what the server noted for operators."""

    list = awaited(logs.list_all)
