"""The staff's lens on the forward port: who is mapped to whom, and what waits. Nothing is changed here."""

from django.contrib import admin

from accounts.admin import ReadOnlyAdmin
from metering.dialects.weave.models import Instance, QuarantinedRecord, WeaveSettings


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    list_display = ("internal_instance_id", "organization", "customer_external_id", "created_at")
    search_fields = ("internal_instance_id__startswith", "organization__name")
    list_select_related = ("organization",)


@admin.register(QuarantinedRecord)
class QuarantinedRecordAdmin(ReadOnlyAdmin):
    list_display = ("unique_key", "internal_instance_id", "organization", "amount_type", "reason", "received_at")
    list_filter = ("reason",)
    search_fields = ("internal_instance_id__startswith", "organization__name")
    list_select_related = ("organization",)
    # Bytes that say nothing to a person.
    exclude = ("digest",)


@admin.register(WeaveSettings)
class WeaveSettingsAdmin(ReadOnlyAdmin):
    list_display = ("organization", "is_metric_auto_created")
    search_fields = ("organization__name",)
    list_select_related = ("organization",)
