"""Routes of the reports' pages, below `/o/<organization>/` but for the link that stops a report's mails."""

from django.urls import include, path

from usage_reports import explorer_views, views

app_name = "usage_reports"

organization_patterns = [
    path("explorer/", explorer_views.explorer, name="explorer"),
    path("explorer/panel", explorer_views.explorer_panel, name="explorer_panel"),
    path("explorer/export", explorer_views.explorer_export, name="explorer_export"),
    path("explorer/suggestions", explorer_views.explorer_suggestions, name="explorer_suggestions"),
    path("reports/", views.report_list, name="report_list"),
    path("reports/new", views.new_report, name="new_report"),
    path("reports/<int:report_id>/", views.report, name="report"),
    path("reports/<int:report_id>/edit", views.edit_report, name="edit_report"),
    path("reports/<int:report_id>/send", views.send_report, name="send_report"),
    path("reports/<int:report_id>/switch", views.switch_report, name="switch_report"),
    path("reports/<int:report_id>/delete", views.delete_report, name="delete_report"),
    path("reports/<int:report_id>/download", views.download_report, name="download_report"),
    path("reports/<int:report_id>/runs/<int:run_id>/download", views.download_run, name="download_run"),
]

urlpatterns = [
    path("reports/unsubscribe/<str:token>", views.unsubscribe, name="unsubscribe"),
    path("o/<int:organization_id>/", include(organization_patterns)),
]
