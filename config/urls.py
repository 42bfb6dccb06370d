"""URL map: each app brings its own."""

from django.contrib import admin
from django.urls import include, path

from config import health, streams

urlpatterns = [
    path("health/live", health.live, name="health-live"),
    path("health/ready", health.ready, name="health-ready"),
    path("metrics", health.metrics, name="metrics"),
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.urls")),
    # Before the API's own routes: `stream` is not an idempotency key.
    path("v1/events/stream", streams.events.redirect_to_stream, name="event-stream"),
    path("v1/alerts/stream", streams.alerts.redirect_to_stream, name="alert-stream"),
    path("v1/", include("accounts.api.urls")),
    path("v1/", include("metering.api.urls")),
    path("v1/", include("usage_reports.api.urls")),
    path("v1/", include("alerts.api.urls")),
    path("api/v2/usage/", include("usage_reports.launchdarkly.urls")),
    path("", include("accounts.urls")),
    path("", include("metering.urls")),
    path("", include("usage_reports.urls")),
    path("", include("alerts.urls")),
]
