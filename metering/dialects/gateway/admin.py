"""The staff's lens on what organizations say about their gateways. Nothing is changed here."""

from django.contrib import admin

from accounts.admin import ReadOnlyAdmin
from metering.dialects.gateway.models import GatewaySettings, Route


@admin.register(Route)
class RouteAdmin(ReadOnlyAdmin):
    list_display = ("code", "organization", "method", "path_pattern", "metering_mode", "metering_expr", "updated_at")
    list_filter = ("metering_mode", "on_metering_error")
    search_fields = ("code__startswith", "path_pattern__startswith", "organization__name")
    list_select_related = ("organization",)


@admin.register(GatewaySettings)
class GatewaySettingsAdmin(ReadOnlyAdmin):
    list_display = (
        "organization",
        "usage_tracking_enabled",
        "usage_store_ip",
        "usage_store_path",
        "usage_retention_days",
        "usage_aggregate_retention_days",
    )
    search_fields = ("organization__name",)
    list_select_related = ("organization",)
