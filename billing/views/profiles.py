"""Saving who pays a customer's invoices, from the billing tab of the customer's page."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import add_errors, organization_page
from accounts.queries import get_customer_by_id
from billing.forms.profiles import ProfileForm
from billing.queries.profiles import get_profile
from billing.services.profiles import ProfileDefinition, replace_profile
from billing.views.customers import render_customer_billing
from common.errors import ApplicationError


@require_POST
@organization_page
def save_profile(request: HttpRequest, caller: Caller, customer_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    customer = get_customer_by_id(caller, customer_id)
    customer.organization = caller.organization
    form = ProfileForm(request.POST, instance=get_profile(customer=customer))
    if form.is_valid():
        try:
            replace_profile(customer=customer, definition=ProfileDefinition(**form.cleaned_data), actor=caller.actor)
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, "Saved. It is printed on what becomes final from now on.")
            return redirect("billing:customer_billing", caller.organization.pk, customer.pk)
    return render_customer_billing(request, caller, customer, profile_form=form)
