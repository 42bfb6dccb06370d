"""Routes of the reports API under `/v1/`."""

from django.urls import path

from usage_reports.api import reports

app_name = "usage_reports_api"
urlpatterns = [
    path("reports", reports.ReportListView.as_view(), name="reports"),
    path("reports/<int:report_id>", reports.ReportView.as_view(), name="report"),
    path("reports/<int:report_id>/send", reports.SendReportView.as_view(), name="send-report"),
    path("reports/<int:report_id>/runs", reports.ReportRunListView.as_view(), name="report-runs"),
]
