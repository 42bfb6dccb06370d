"""Pages of Stripe: the connection, who is who there, usage reports, pushed invoices, and what Stripe told."""

from __future__ import annotations

from datetime import UTC, datetime

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import add_errors, organization_page, read_or_post, render_page
from accounts.queries import get_customer, get_customer_by_id
from billing.contexts.stripe import (
    get_event_list,
    get_preview_page,
    get_push_list,
    get_report_list,
    get_stripe_page,
    get_sync_page,
    list_reportable_metrics,
)
from billing.forms.stripe import StripeCustomerForm, StripeMeterForm
from billing.queries.reporting import get_report
from billing.queries.stripe_inbox import get_event
from billing.queries.stripe_invoices import get_push
from billing.services.reporting import (
    PLAN_AT_ONCE,
    confirm_report,
    plan_reports,
    report_usage,
    retry_report,
)
from billing.services.stripe_account import open_sink
from billing.services.stripe_inbox import retry_event
from billing.services.stripe_invoices import retry_push
from billing.services.stripe_meters import MeterOutcome, sync_meters
from billing.services.stripe_names import forget_customer, forget_meter, name_customer, name_meter
from common.errors import ApplicationError, InvalidInput, NotFound
from metering.queries import get_metric

SECTION = "stripe"


@require_safe
@organization_page
def stripe(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    return render_page(request, caller, "billing/stripe.html", get_stripe_page(request, caller), section=SECTION)


# --- who is who -----------------------------------------------------------------------------------------------


@require_POST
@organization_page
def name_stripe_customer(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    form = StripeCustomerForm(request.POST)
    if form.is_valid() and _name_customer(caller, form):
        messages.success(request, f"{form.cleaned_data['customer']} is reported from the next run on.")
        return redirect("billing:stripe", caller.organization.pk)
    page = get_stripe_page(request, caller, customer_form=form)
    return render_page(request, caller, "billing/stripe.html", page, section=SECTION)


def _name_customer(caller: Caller, form: StripeCustomerForm) -> bool:
    """Name the customer; False where the form has the refusal now."""
    values = form.cleaned_data
    try:
        name_customer(
            organization=caller.organization,
            customer=get_customer(caller, values["customer"]),
            stripe_customer_id=values["stripe_customer_id"],
            actor=caller.actor,
            now=timezone.now(),
        )
    except NotFound as error:
        add_errors(form, InvalidInput.of("customer", error.message, error.code))
        return False
    except ApplicationError as error:
        add_errors(form, error)
        return False
    return True


@require_POST
@organization_page
def forget_stripe_customer(request: HttpRequest, caller: Caller, customer_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    customer = get_customer_by_id(caller, customer_id)
    forget_customer(organization=caller.organization, customer=customer, actor=caller.actor)
    messages.success(request, f"{customer.external_id} is not reported any more. What was planned is still sent.")
    return redirect("billing:stripe", caller.organization.pk)


@require_POST
@organization_page
def name_stripe_meter(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    form = StripeMeterForm(request.POST, metrics=list_reportable_metrics(caller))
    if form.is_valid() and _name_meter(caller, form):
        messages.success(request, f"{form.cleaned_data['metric']} is reported from the next run on.")
        return redirect("billing:stripe", caller.organization.pk)
    page = get_stripe_page(request, caller, meter_form=form)
    return render_page(request, caller, "billing/stripe.html", page, section=SECTION)


def _name_meter(caller: Caller, form: StripeMeterForm) -> bool:
    values = form.cleaned_data
    try:
        name_meter(
            organization=caller.organization,
            metric=get_metric(organization=caller.organization, code=values["metric"]),
            event_name=values["event_name"],
            actor=caller.actor,
            now=timezone.now(),
        )
    except ApplicationError as error:
        add_errors(form, error)
        return False
    return True


@require_POST
@organization_page
def forget_stripe_meter(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    metric = get_metric(organization=caller.organization, code=code)
    forget_meter(organization=caller.organization, metric=metric, actor=caller.actor)
    messages.success(request, f"{metric.code} is not reported any more. What was planned is still sent.")
    return redirect("billing:stripe", caller.organization.pk)


@read_or_post
@organization_page
def sync_stripe_meters(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Which meters Stripe lacks; a POST makes them."""
    caller.require(Scope.BILLING_WRITE)
    is_dry_run = request.method != "POST"
    synced = sync_meters(
        organization=caller.organization,
        account=open_sink(organization=caller.organization),
        actor=caller.actor,
        now=timezone.now(),
        is_dry_run=is_dry_run,
    )
    if not is_dry_run:
        made = sum(meter.outcome == MeterOutcome.CREATED for meter in synced)
        failed = [meter for meter in synced if meter.outcome == MeterOutcome.FAILED]
        messages.success(request, f"Made at Stripe: {made} of {len(synced)}; the others are there.")
        for meter in failed:
            messages.error(request, f"{meter.event_name}: {meter.problems[0]}")
        return redirect("billing:stripe", caller.organization.pk)
    return render_page(request, caller, "billing/stripe_meters.html", get_sync_page(synced), section=SECTION)


# --- reports --------------------------------------------------------------------------------------------------


@require_safe
@organization_page
def stripe_reports(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    page = get_report_list(request, caller)
    return render_page(request, caller, "billing/stripe_reports.html", page, section=SECTION)


@require_POST
@organization_page
def retry_stripe_report(request: HttpRequest, caller: Caller, report_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    report = get_report(organization=caller.organization, report_id=report_id)
    retry_report(report=report, actor=caller.actor, now=timezone.now())
    messages.success(request, "It is said again by a new report, which is sent within two minutes.")
    return redirect("billing:stripe_reports", caller.organization.pk)


@require_POST
@organization_page
def confirm_stripe_report(request: HttpRequest, caller: Caller, report_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    report = get_report(organization=caller.organization, report_id=report_id)
    confirm_report(report=report, actor=caller.actor, now=timezone.now())
    messages.success(request, "It is noted as delivered.")
    return redirect("billing:stripe_reports", caller.organization.pk)


@read_or_post
@organization_page
def report_now(request: HttpRequest, caller: Caller) -> HttpResponse:
    """What Stripe lacks; a POST tells it, as far as that takes seconds."""
    caller.require(Scope.BILLING_WRITE)
    organization, now = caller.organization, datetime.now(UTC)
    if request.method == "POST":
        run = report_usage(organization=organization, months=None, sink=open_sink(organization=organization))
        told = ", ".join(f"{count} {answer}" for answer, count in sorted(run.sent.answers.items())) or "nothing"
        if run.sent.stopped_by:
            messages.warning(request, f"Sent: {told}. Then it ended: {run.sent.stopped_by} The rest is sent later.")
        else:
            rest = "" if run.is_complete else " The rest goes on in the background."
            messages.success(request, f"Sent: {told}.{rest}")
        return redirect("billing:stripe_reports", organization.pk)
    plan = plan_reports(organization=organization, months=None, now=now, is_dry_run=True, until=now + PLAN_AT_ONCE)
    page = get_preview_page(caller, plan)
    return render_page(request, caller, "billing/stripe_preview.html", page, section=SECTION)


# --- invoices and events --------------------------------------------------------------------------------------


@require_safe
@organization_page
def stripe_invoices(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    page = get_push_list(request, caller)
    return render_page(request, caller, "billing/stripe_invoices.html", page, section=SECTION)


@require_POST
@organization_page
def retry_stripe_invoice(request: HttpRequest, caller: Caller, push_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    push = get_push(organization=caller.organization, push_id=push_id)
    retry_push(push=push, actor=caller.actor, now=timezone.now())
    messages.success(request, f"{push.invoice.number} is tried again within two minutes.")
    return redirect("billing:stripe_invoices", caller.organization.pk)


@require_safe
@organization_page
def stripe_events(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    page = get_event_list(request, caller)
    return render_page(request, caller, "billing/stripe_events.html", page, section=SECTION)


@require_POST
@organization_page
def retry_stripe_event(request: HttpRequest, caller: Caller, event_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    event = get_event(organization=caller.organization, event_id=event_id)
    retry_event(event=event, organization=caller.organization, actor=caller.actor)
    messages.success(request, f"{event.stripe_event_id} is handled again within two minutes.")
    return redirect("billing:stripe_events", caller.organization.pk)
