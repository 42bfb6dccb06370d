"""Routes of the alerts API under `/v1/`."""

from django.urls import path

from alerts.api import log, thresholds

app_name = "alerts_api"
urlpatterns = [
    path("alerts", log.AlertListView.as_view(), name="alerts"),
    path("thresholds", thresholds.ThresholdListView.as_view(), name="thresholds"),
    path("thresholds/<int:threshold_id>", thresholds.ThresholdView.as_view(), name="threshold"),
    path("thresholds/<int:threshold_id>/trace", thresholds.ThresholdTraceView.as_view(), name="threshold-trace"),
]
