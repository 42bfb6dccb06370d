"""Routes of the analytics page."""

from django.urls import path

from usage_reports.gateway import views

app_name = "analytics"
urlpatterns = [
    path("o/<int:organization_id>/analytics/", views.analytics, name="page"),
    path("o/<int:organization_id>/analytics/rows", views.live_rows, name="rows"),
]
