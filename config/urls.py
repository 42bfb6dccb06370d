"""URL map: each app brings its own."""

from django.contrib import admin
from django.urls import include, path, re_path

from common.middleware import not_found
from config import health, streams

urlpatterns = [
    path("health/live", health.live, name="health-live"),
    path("health/ready", health.ready, name="health-ready"),
    path("metrics", health.metrics, name="metrics"),
    # Before Django's own admin, which answers whatever else is below `/admin/`.
    path("admin/analytics/live", streams.requests.redirect_to_stream, name="request-stream"),
    path("admin/", include("metering.dialects.gateway.api.admin_urls")),
    path("admin/", include("usage_reports.gateway.api.urls")),
    re_path(r"^admin/analytics/?$", not_found, name="analytics-index-not-found"),
    re_path(r"^admin/users/?$", not_found, name="users-index-not-found"),
    path("admin/analytics/<path:rest>", not_found, name="analytics-not-found"),
    path("admin/users/<path:rest>", not_found, name="users-not-found"),
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.urls")),
    # Before the API's own routes: `stream` is not an idempotency key.
    path("v1/events/stream", streams.events.redirect_to_stream, name="event-stream"),
    path("v1/alerts/stream", streams.alerts.redirect_to_stream, name="alert-stream"),
    path("v1/", include("accounts.api.urls")),
    path("v1/", include("metering.api.urls")),
    path("v1/", include("metering.dialects.gateway.api.urls")),
    path("v1/weave/", include("metering.dialects.weave.api.urls")),
    path("v1/", include("usage_reports.api.urls")),
    path("v1/", include("billing.api.urls")),
    path("v1/", include("alerts.api.urls")),
    path("api/v2/usage/", include("usage_reports.launchdarkly.urls")),
    re_path(r"^/?api/v1/", include("metering.dialects.influx.api.urls")),
    path("", include("metering.dialects.influx.urls")),
    path("", include("accounts.urls")),
    path("", include("metering.urls")),
    path("", include("metering.dialects.weave.urls")),
    path("", include("metering.dialects.gateway.urls")),
    path("", include("usage_reports.urls")),
    path("", include("billing.urls")),
    path("", include("usage_reports.gateway.urls")),
    path("", include("alerts.urls")),
]
