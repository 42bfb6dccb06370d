"""The staff's lens on alerts: what is watched, what was told, what waits to be delivered. Nothing is changed here.

Secrets of endpoints are not shown.
"""

from django.contrib import admin

from accounts.admin import ReadOnlyAdmin
from alerts.models import (
    Crossing,
    Delivery,
    EmailSubscription,
    Quota,
    Reservation,
    Threshold,
    ThresholdState,
    WebhookEndpoint,
)


@admin.register(Threshold)
class ThresholdAdmin(ReadOnlyAdmin):
    list_display = ("code", "organization", "metric", "customer", "kind", "value", "origin", "is_due", "archived_at")
    list_filter = ("kind", "origin", ("archived_at", admin.EmptyFieldListFilter))
    search_fields = ("code__startswith", "organization__name")
    list_select_related = ("organization", "metric", "customer")


@admin.register(ThresholdState)
class ThresholdStateAdmin(ReadOnlyAdmin):
    list_display = ("threshold", "organization", "customer", "period_start", "value", "level", "fired", "evaluated_at")
    search_fields = ("threshold__code__startswith", "organization__name")
    list_select_related = ("organization", "threshold", "customer")


@admin.register(Crossing)
class CrossingAdmin(ReadOnlyAdmin):
    list_display = ("offset", "organization", "metric", "customer", "threshold_code", "value_at_cross", "triggered_at")
    search_fields = ("threshold_code__startswith", "organization__name")
    list_select_related = ("organization", "metric", "customer")


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin):
    list_display = ("url", "organization", "failing_since", "disabled_at", "disabled_reason", "created_at")
    list_filter = (("disabled_at", admin.EmptyFieldListFilter),)
    search_fields = ("url__contains", "organization__name")
    list_select_related = ("organization",)
    exclude = ("secret", "previous_secret")


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("message_id", "organization", "endpoint", "message_type", "state", "attempt_count", "created_at")
    list_filter = ("state", "message_type")
    search_fields = ("message_id__startswith", "organization__name")
    list_select_related = ("organization", "endpoint")


@admin.register(EmailSubscription)
class EmailSubscriptionAdmin(ReadOnlyAdmin):
    list_display = ("membership", "organization", "frequency", "sent_through_offset", "last_sent_at")
    list_filter = ("frequency",)
    search_fields = ("organization__name",)
    list_select_related = ("organization", "membership__user", "membership__organization")


@admin.register(Quota)
class QuotaAdmin(ReadOnlyAdmin):
    list_display = ("metric", "organization", "customer", "mode", "limit", "grace", "warning_percents")
    list_filter = ("mode",)
    search_fields = ("organization__name",)
    list_select_related = ("organization", "metric", "customer")


@admin.register(Reservation)
class ReservationAdmin(ReadOnlyAdmin):
    list_display = ("public_id", "organization", "metric", "customer", "amount", "state", "expires_at", "settled_at")
    list_filter = ("state",)
    search_fields = ("public_id__startswith", "organization__name")
    list_select_related = ("organization", "metric", "customer")
