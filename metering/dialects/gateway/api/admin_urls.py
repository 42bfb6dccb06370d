"""Routes of the gateway's upkeep under `/admin/`. They stand before Django's own, which answers whatever is left."""

from django.urls import path

from metering.dialects.gateway.api import upkeep

app_name = "gateway_admin"
urlpatterns = [
    path("analytics/cleanup", upkeep.CleanupView.as_view(), name="cleanup"),
    path("users/<path:user_id>/export-data", upkeep.ExportDataView.as_view(), name="export-data"),
    path("users/<path:user_id>/delete-usage", upkeep.DeleteUsageView.as_view(), name="delete-usage"),
]
