"""Routes of the gateway's API under `/v1/`."""

from django.urls import path

from metering.dialects.gateway.api import requests, routes, upkeep

app_name = "gateway_api"
urlpatterns = [
    path("requests", requests.post_requests, name="requests"),
    path("routes", routes.RouteListView.as_view(), name="routes"),
    path("routes/<str:route_id>", routes.RouteView.as_view(), name="route"),
    path("settings", upkeep.SettingsView.as_view(), name="settings"),
    path("settings/<str:name>", upkeep.SettingView.as_view(), name="setting"),
    path("logs", upkeep.LogView.as_view(), name="logs"),
]
