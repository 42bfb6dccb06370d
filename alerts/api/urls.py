"""Routes of the alerts API under `/v1/`."""

from django.urls import path

from alerts.api import log, quotas, thresholds, webhooks

app_name = "alerts_api"
urlpatterns = [
    path("alerts", log.AlertListView.as_view(), name="alerts"),
    path("thresholds", thresholds.ThresholdListView.as_view(), name="thresholds"),
    path("thresholds/<int:threshold_id>", thresholds.ThresholdView.as_view(), name="threshold"),
    path("thresholds/<int:threshold_id>/trace", thresholds.ThresholdTraceView.as_view(), name="threshold-trace"),
    path("quotas", quotas.QuotaListView.as_view(), name="quotas"),
    path("quotas/<int:quota_id>", quotas.QuotaView.as_view(), name="quota"),
    path("quota/check", quotas.QuotaCheckView.as_view(), name="quota-check"),
    path("quota/reserve", quotas.QuotaReserveView.as_view(), name="quota-reserve"),
    path(
        "quota/reservations/<str:reservation_id>/commit",
        quotas.ReservationCommitView.as_view(),
        name="reservation-commit",
    ),
    path(
        "quota/reservations/<str:reservation_id>/release",
        quotas.ReservationReleaseView.as_view(),
        name="reservation-release",
    ),
    path("webhook-endpoints", webhooks.WebhookEndpointListView.as_view(), name="webhook-endpoints"),
    path("webhook-endpoints/<int:endpoint_id>", webhooks.WebhookEndpointView.as_view(), name="webhook-endpoint"),
    path(
        "webhook-endpoints/<int:endpoint_id>/rotate-secret",
        webhooks.RotateWebhookSecretView.as_view(),
        name="rotate-webhook-secret",
    ),
    path("webhook-endpoints/<int:endpoint_id>/test", webhooks.TestWebhookView.as_view(), name="test-webhook"),
    path(
        "webhook-endpoints/<int:endpoint_id>/deliveries",
        webhooks.DeliveryListView.as_view(),
        name="webhook-deliveries",
    ),
    path(
        "webhook-endpoints/<int:endpoint_id>/deliveries/<int:delivery_id>",
        webhooks.DeliveryView.as_view(),
        name="webhook-delivery",
    ),
    path(
        "webhook-endpoints/<int:endpoint_id>/deliveries/<int:delivery_id>/replay",
        webhooks.ReplayDeliveryView.as_view(),
        name="replay-webhook-delivery",
    ),
    path("alert-emails/me", webhooks.MyAlertEmailView.as_view(), name="my-alert-emails"),
    path("alert-emails/me/test", webhooks.TestAlertEmailView.as_view(), name="test-my-alert-emails"),
]
