"""The staff's lens on billing: what is sold, to whom, and what Stripe is told of it.

Nothing is changed here, but that what Stripe refused, and a failed event of Stripe's, may be tried once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.admin import ReadOnlyAdmin
from billing.domain.reporting import ReportState
from billing.models import (
    InboxState,
    Plan,
    PlanVersion,
    Price,
    StripeCustomer,
    StripeDrift,
    StripeEvent,
    StripeInvoice,
    StripeMeter,
    Subscription,
    SubscriptionPhase,
    UsageReport,
)
from billing.services.reporting import retry_report
from billing.services.stripe_inbox import handle_event
from billing.services.stripe_invoices import retry_push
from common.errors import ApplicationError


class RetryAdmin(ReadOnlyAdmin):
    """Shows rows, and lets those who may do anything have something done again; looking is not enough for that."""

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)


@admin.register(Plan)
class PlanAdmin(ReadOnlyAdmin):
    list_display = ("code", "organization", "name", "is_default", "created_at", "archived_at")
    list_filter = ("is_default", ("archived_at", admin.EmptyFieldListFilter))
    search_fields = ("code__startswith", "organization__name")
    list_select_related = ("organization",)


@admin.register(PlanVersion)
class PlanVersionAdmin(ReadOnlyAdmin):
    list_display = ("plan", "number", "organization", "currency", "trial_days", "state", "activated_at")
    list_filter = ("state",)
    search_fields = ("plan__code__startswith", "organization__name")
    list_select_related = ("organization", "plan")


@admin.register(Price)
class PriceAdmin(ReadOnlyAdmin):
    list_display = ("version", "position", "organization", "metric", "model", "amount", "included_quantity", "filters")
    list_filter = ("model",)
    search_fields = ("version__plan__code__startswith", "organization__name")
    list_select_related = ("organization", "version", "metric")


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnlyAdmin):
    list_display = ("id", "organization", "customer", "starts_at", "anchor_day", "zone", "trial_ends_at", "ends_at")
    list_filter = (("ends_at", admin.EmptyFieldListFilter),)
    search_fields = ("customer__external_id__startswith", "organization__name")
    list_select_related = ("organization", "customer")


@admin.register(SubscriptionPhase)
class SubscriptionPhaseAdmin(ReadOnlyAdmin):
    list_display = ("subscription", "organization", "version", "starts_at", "created_at")
    search_fields = ("organization__name",)
    list_select_related = ("organization", "subscription", "version")


@admin.register(StripeCustomer)
class StripeCustomerAdmin(ReadOnlyAdmin):
    list_display = ("stripe_customer_id", "organization", "customer", "created_at")
    search_fields = ("stripe_customer_id__startswith", "customer__external_id__startswith")
    list_select_related = ("organization", "customer")


@admin.register(StripeMeter)
class StripeMeterAdmin(ReadOnlyAdmin):
    list_display = ("event_name", "organization", "metric", "created_at")
    search_fields = ("event_name__startswith", "organization__name")
    list_select_related = ("organization", "metric")


@admin.register(UsageReport)
class UsageReportAdmin(RetryAdmin):
    list_display = (
        "identifier",
        "organization",
        "metric",
        "stripe_customer_id",
        "month",
        "quantity",
        "state",
        "attempts",
        "last_error",
    )
    list_filter = ("state",)
    search_fields = ("identifier", "stripe_customer_id", "organization__name")
    list_select_related = ("organization", "metric")
    actions = ("retry",)

    @admin.action(permissions=["retry"], description="Say again what was rejected")
    def retry(self, request: HttpRequest, rows: QuerySet[UsageReport]) -> None:
        rejected = rows.filter(state=ReportState.REJECTED).select_related("organization", "subscription__customer")
        actor, now = _actor(request), timezone.now()
        _tell_retried(
            self, request, [partial(retry_report, report=row, actor=actor, now=now) for row in rejected], "reports"
        )


@admin.register(StripeDrift)
class StripeDriftAdmin(ReadOnlyAdmin):
    list_display = ("day", "organization", "customer", "metric", "ledger_quantity", "stripe_quantity", "resolved_at")
    list_filter = (("resolved_at", admin.EmptyFieldListFilter),)
    search_fields = ("customer__external_id__startswith", "organization__name")
    list_select_related = ("organization", "customer", "metric")


@admin.register(StripeInvoice)
class StripeInvoiceAdmin(RetryAdmin):
    list_display = (
        "invoice",
        "organization",
        "stripe_customer_id",
        "stripe_invoice_id",
        "stripe_status",
        "state",
        "attempts",
        "next_attempt_at",
        "last_error",
    )
    list_filter = ("state", "stripe_status")
    search_fields = ("invoice__number__startswith", "stripe_invoice_id", "stripe_customer_id")
    list_select_related = ("organization", "invoice")
    actions = ("retry",)

    @admin.action(permissions=["retry"], description="Try again what was rejected")
    def retry(self, request: HttpRequest, rows: QuerySet[StripeInvoice]) -> None:
        actor, now = _actor(request), timezone.now()
        _tell_retried(
            self,
            request,
            [partial(retry_push, push=row, actor=actor, now=now) for row in rows.filter(state=ReportState.REJECTED)],
            "invoices",
        )


@admin.register(StripeEvent)
class StripeEventAdmin(RetryAdmin):
    list_display = ("stripe_event_id", "type", "organization", "state", "attempts", "received_at", "error")
    list_filter = ("state",)
    search_fields = ("stripe_event_id", "type__startswith")
    list_select_related = ("organization",)
    actions = ("handle_again",)

    @admin.action(permissions=["retry"], description="Handle again what failed")
    def handle_again(self, request: HttpRequest, rows: QuerySet[StripeEvent]) -> None:
        states = [handle_event(event_id=row.pk, now=timezone.now()) for row in rows.filter(state=InboxState.FAILED)]
        done = sum(state == InboxState.DONE for state in states)
        self.message_user(request, f"{done} of {len(states)} failed events are handled.")


def _tell_retried(
    model_admin: admin.ModelAdmin[Any], request: HttpRequest, retries: Sequence[Callable[[], object]], what: str
) -> None:
    """Do each, and tell how many were tried and why others were not."""
    refusals = Counter[str]()
    for retry in retries:
        try:
            retry()
        except ApplicationError as error:
            refusals[error.message] += 1
    done = len(retries) - refusals.total()
    model_admin.message_user(request, f"{done} of {len(retries)} rejected {what} are tried again.")
    for message, count in refusals.items():
        model_admin.message_user(request, f"{count}: {message}", messages.WARNING)


def _actor(request: HttpRequest) -> str:
    """Name the staff member as such: to the organization they are a stranger."""
    return f"staff:{request.user.get_username()}"
