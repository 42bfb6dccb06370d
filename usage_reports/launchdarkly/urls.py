"""Routes under `/api/v2/usage/`, one per row of the table. No trailing slash: these clients send none."""

from django.urls import path

from usage_reports.launchdarkly.endpoints import ENDPOINTS
from usage_reports.launchdarkly.views import ReportView

app_name = "launchdarkly"
urlpatterns = [
    path(
        row.path.replace("{", "<str:").replace("}", ">"),
        ReportView.as_view(endpoint=row),
        name=row.operation,
    )
    for row in ENDPOINTS
]
