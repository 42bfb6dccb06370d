"""Routes of the alerts pages, all below `/o/<organization>/`."""

from django.urls import include, path

from alerts import views

app_name = "alerts"

organization_patterns = [
    path("alerts/", views.alert_list, name="alert_list"),
    path("alerts/rows", views.alert_rows, name="alert_rows"),
    path("alerts/email", views.alert_email, name="alert_email"),
    path("alerts/email/test", views.test_alert_email, name="test_alert_email"),
    path("alerts/<int:offset>/", views.alert, name="alert"),
    path("metrics/<str:code>/alerts", views.metric_alerts, name="metric_alerts"),
    path("customers/<int:customer_id>/alerts", views.customer_alerts, name="customer_alerts"),
    path("thresholds/", views.threshold_list, name="threshold_list"),
    path("thresholds/new", views.new_threshold, name="new_threshold"),
    path("thresholds/<int:threshold_id>/", views.threshold, name="threshold"),
    path("thresholds/<int:threshold_id>/edit", views.edit_threshold, name="edit_threshold"),
    path("thresholds/<int:threshold_id>/archive", views.archive_threshold, name="archive_threshold"),
    path("quotas/", views.quota_list, name="quota_list"),
    path("quotas/new", views.new_quota, name="new_quota"),
    path("quotas/<int:quota_id>/", views.quota, name="quota"),
    path("quotas/<int:quota_id>/edit", views.edit_quota, name="edit_quota"),
    path("quotas/<int:quota_id>/delete", views.delete_quota, name="delete_quota"),
    path("webhooks/", views.webhook_list, name="webhook_list"),
    path("webhooks/new", views.new_webhook, name="new_webhook"),
    path("webhooks/<int:endpoint_id>/", views.webhook, name="webhook"),
    path("webhooks/<int:endpoint_id>/edit", views.edit_webhook, name="edit_webhook"),
    path("webhooks/<int:endpoint_id>/switch", views.switch_webhook, name="switch_webhook"),
    path("webhooks/<int:endpoint_id>/rotate", views.rotate_webhook_secret, name="rotate_webhook_secret"),
    path("webhooks/<int:endpoint_id>/test", views.test_webhook, name="test_webhook"),
    path("webhooks/<int:endpoint_id>/delete", views.delete_webhook, name="delete_webhook"),
    path("webhooks/<int:endpoint_id>/deliveries/<int:delivery_id>/", views.delivery, name="delivery"),
    path(
        "webhooks/<int:endpoint_id>/deliveries/<int:delivery_id>/replay", views.replay_delivery, name="replay_delivery"
    ),
]

urlpatterns = [path("o/<int:organization_id>/", include(organization_patterns))]
