"""Routes of the analytics. They stand before Django's own `/admin/`, whose catch-all would take them."""

from django.urls import path

from usage_reports.gateway.api import views

app_name = "gateway_analytics"
urlpatterns = [
    path("analytics/summary", views.SummaryView.as_view(), name="summary"),
    path("analytics/users", views.UsersView.as_view(), name="users"),
    path("analytics/routes", views.RoutesView.as_view(), name="routes"),
    path("analytics/requests", views.SeriesView.as_view(), name="requests"),
    path("analytics/daily", views.DailyView.as_view(), name="daily"),
    path("analytics/monthly", views.MonthlyView.as_view(), name="monthly"),
    path("analytics/aggregate", views.AggregateView.as_view(), name="aggregate"),
    path("analytics/export", views.ExportView.as_view(), name="export"),
    path("users/<path:user_id>/usage", views.UserUsageView.as_view(), name="user-usage"),
]
