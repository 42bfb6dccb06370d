"""The staff's lens on scheduled reports: what is saved, and what was sent. Nothing is changed here."""

from django.contrib import admin

from accounts.admin import ReadOnlyAdmin
from usage_reports.models import Report, ReportOptOut, ReportRecipient, ReportRun


@admin.register(Report)
class ReportAdmin(ReadOnlyAdmin):
    list_display = ("name", "organization", "metric", "customer", "range_name", "frequency", "next_due_at")
    list_filter = ("frequency", ("next_due_at", admin.EmptyFieldListFilter))
    search_fields = ("name__startswith", "organization__name")
    list_select_related = ("organization", "metric", "customer")


@admin.register(ReportRecipient)
class ReportRecipientAdmin(ReadOnlyAdmin):
    list_display = ("email", "organization", "report", "membership")
    search_fields = ("email__startswith", "organization__name")
    list_select_related = ("organization", "report", "membership__user", "membership__organization")


@admin.register(ReportOptOut)
class ReportOptOutAdmin(ReadOnlyAdmin):
    list_display = ("email", "organization", "report", "created_at")
    search_fields = ("email__startswith", "organization__name")
    list_select_related = ("organization", "report")


@admin.register(ReportRun)
class ReportRunAdmin(ReadOnlyAdmin):
    list_display = ("report", "organization", "due_at", "is_manual", "state", "attempt_count", "sent_at", "error")
    list_filter = ("state", "is_manual")
    search_fields = ("report__name__startswith", "organization__name")
    list_select_related = ("organization", "report")
