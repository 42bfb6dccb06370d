"""The staff's lens on servers and on the reports that belong to nobody. Nothing is changed here."""

from django.contrib import admin

from accounts.admin import ReadOnlyAdmin
from metering.dialects.influx.models import AnonymousReport, Server


@admin.register(Server)
class ServerAdmin(ReadOnlyAdmin):
    list_display = ("product", "version", "cluster_id", "server_id", "host", "organization", "last_seen_at")
    list_filter = ("product",)
    search_fields = ("cluster_id__startswith", "server_id__startswith", "host__startswith", "organization__name")
    list_select_related = ("organization",)


@admin.register(AnonymousReport)
class AnonymousReportAdmin(ReadOnlyAdmin):
    list_display = ("received_at", "kind", "product", "cluster_id", "server_id", "value_count")
    list_filter = ("kind", "product")
    search_fields = ("product__startswith", "cluster_id__startswith", "server_id__startswith")
    ordering = ("-pk",)
