"""What a customer has subscribed to and spends: the billing tab of the customer's page."""

from __future__ import annotations

from datetime import date, datetime

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Customer
from accounts.pages import add_errors, organization_page, read_or_post, render_page
from accounts.queries import get_customer_by_id
from billing.contexts.customers import get_customer_billing, list_offered_plans
from billing.forms.credits import GrantForm
from billing.forms.profiles import ProfileForm
from billing.forms.subscriptions import CancelForm, ChangePlanForm, SubscribeForm
from billing.models import Plan, Subscription
from billing.queries.plans import get_plan
from billing.queries.subscriptions import get_subscription
from billing.services import subscriptions as subscription_services
from billing.services.subscriptions import SubscriptionDefinition, When
from common.errors import ApplicationError, Conflict, InvalidInput
from metering.domain import local_midnight
from metering.queries import usage_zone


@read_or_post
@organization_page
def customer_billing(request: HttpRequest, caller: Caller, customer_id: int) -> HttpResponse:
    """The customer's subscriptions; a POST makes another one."""
    caller.require(Scope.BILLING_READ)
    customer, form = get_customer_by_id(caller, customer_id), None
    if request.method == "POST":
        caller.require(Scope.BILLING_WRITE)
        form = SubscribeForm(request.POST, plans=list_offered_plans(caller))
        if form.is_valid() and _subscribe(caller, customer, form):
            messages.success(request, "The subscription is made.")
            return redirect("billing:customer_billing", caller.organization.pk, customer.pk)
    return render_customer_billing(request, caller, customer, subscribe_form=form)


def render_customer_billing(
    request: HttpRequest,
    caller: Caller,
    customer: Customer,
    *,
    subscribe_form: SubscribeForm | None = None,
    profile_form: ProfileForm | None = None,
    grant_form: GrantForm | None = None,
) -> HttpResponse:
    """Render the tab; a form that was sent and refused stands there as it was sent."""
    plans = list_offered_plans(caller)
    if subscribe_form is None and caller.has(Scope.BILLING_WRITE):
        subscribe_form = SubscribeForm(plans=plans)
    page = get_customer_billing(caller, customer, plans, subscribe_form, profile_form, grant_form)
    return render_page(request, caller, "billing/customer_billing.html", page, section="customers")


@require_POST
@organization_page
def cancel_subscription(request: HttpRequest, caller: Caller, subscription_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found, form = _subscription(caller, subscription_id), CancelForm(request.POST)
    if form.is_valid():
        subscription_services.cancel_subscription(
            subscription=found, when=When(form.cleaned_data["when"]), actor=caller.actor, now=timezone.now()
        )
        messages.success(request, "The subscription is canceled.")
    return redirect("billing:customer_billing", caller.organization.pk, found.customer_id)


@require_POST
@organization_page
def change_plan(request: HttpRequest, caller: Caller, subscription_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found = _subscription(caller, subscription_id)
    form = ChangePlanForm(request.POST, plans=list_offered_plans(caller))
    if form.is_valid():
        try:
            subscription_services.change_plan(
                subscription=found,
                plan=_plan(caller, form.cleaned_data["plan"]),
                version=None,
                when=When(form.cleaned_data["when"]),
                actor=caller.actor,
                now=timezone.now(),
            )
            messages.success(request, "The plan is changed.")
        except Conflict as error:
            messages.error(request, error.message)
    else:
        messages.error(request, "Choose a plan and when it begins.")
    return redirect("billing:customer_billing", caller.organization.pk, found.customer_id)


@require_POST
@organization_page
def pause_subscription(request: HttpRequest, caller: Caller, subscription_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found = _subscription(caller, subscription_id)
    try:
        subscription_services.pause_subscription(
            subscription=found, when=When.NOW, resumes_at=None, actor=caller.actor, now=timezone.now()
        )
        messages.success(request, "The subscription is paused; nothing is charged until it is resumed.")
    except Conflict as error:
        messages.error(request, error.message)
    return redirect("billing:customer_billing", caller.organization.pk, found.customer_id)


@require_POST
@organization_page
def resume_subscription(request: HttpRequest, caller: Caller, subscription_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found = _subscription(caller, subscription_id)
    try:
        subscription_services.resume_subscription(subscription=found, actor=caller.actor, now=timezone.now())
        messages.success(request, "The subscription goes on.")
    except Conflict as error:
        messages.error(request, error.message)
    return redirect("billing:customer_billing", caller.organization.pk, found.customer_id)


def _subscribe(caller: Caller, customer: Customer, form: SubscribeForm) -> bool:
    """Make the subscription; False where the form has the refusal now."""
    values = form.cleaned_data
    try:
        definition = SubscriptionDefinition(
            customer=customer,
            plan=_plan(caller, values["plan"]),
            starts_at=_start_of(caller, customer, values["start"]),
            anchor_day=values["anchor_day"],
        )
        subscription_services.create_subscription(
            organization=caller.organization, definition=definition, actor=caller.actor, now=timezone.now()
        )
    except ApplicationError as error:
        add_errors(form, error)
        return False
    return True


def _start_of(caller: Caller, customer: Customer, day: date | None) -> datetime | None:
    if day is None:
        return None
    if not 1970 < day.year < 9000:
        raise InvalidInput.of("start", "A day of this or the last century.", "out_of_range")
    return local_midnight(day, usage_zone(organization=caller.organization, customer=customer))


def _subscription(caller: Caller, subscription_id: int) -> Subscription:
    return get_subscription(organization=caller.organization, subscription_id=subscription_id)


def _plan(caller: Caller, code: str) -> Plan:
    return get_plan(organization=caller.organization, code=code)
