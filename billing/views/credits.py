"""Granting credit to a customer and taking it back, from the billing tab of the customer's page."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Customer
from accounts.pages import add_errors, organization_page
from accounts.queries import get_customer_by_id
from billing.contexts.credits import make_grant_form
from billing.forms.credits import GrantForm
from billing.models import GrantKind
from billing.queries.credits import get_grant
from billing.services.credits import grant_credits
from billing.services.credits import void_grant as take_back
from billing.services.subscriptions import KeyReused
from billing.views.customers import render_customer_billing
from common.errors import ApplicationError
from metering.queries import usage_zone

# What the service calls otherwise than the form.
FIELDS = {"effective_at": "first_day", "expires_at": "last_day", "amount_minor": "amount"}


@require_POST
@organization_page
def grant_credit(request: HttpRequest, caller: Caller, customer_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    customer = get_customer_by_id(caller, customer_id)
    form = make_grant_form(caller, customer, request.POST.dict())
    if form.is_valid() and _grant(caller, customer, form):
        messages.success(request, "The credit is granted.")
        return redirect("billing:customer_billing", caller.organization.pk, customer.pk)
    return render_customer_billing(request, caller, customer, grant_form=form)


@require_POST
@organization_page
def void_credit(request: HttpRequest, caller: Caller, customer_id: int, credit_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    grant = get_grant(organization=caller.organization, grant_id=credit_id, customer_id=customer_id)
    grant.organization = caller.organization
    take_back(grant=grant, actor=caller.actor, now=timezone.now())
    messages.success(request, "What was left of the credit is taken back.")
    return redirect("billing:customer_billing", caller.organization.pk, customer_id)


def _grant(caller: Caller, customer: Customer, form: GrantForm) -> bool:
    """Grant it; False where the form has the refusal now."""
    values, zone = form.cleaned_data, usage_zone(organization=caller.organization, customer=customer)
    try:
        grant_credits(
            organization=caller.organization,
            customer=customer,
            currency=values["currency"],
            amount_minor=values["amount_minor"],
            kind=GrantKind(values["kind"]),
            name=values["name"],
            priority=values["priority"],
            effective_at=form.effective_at(zone),
            expires_at=form.expires_at(zone),
            idempotency_key=values["idempotency_key"],
            actor=caller.actor,
            now=timezone.now(),
        )
    except KeyReused:
        form.add_error(None, "This form was sent before. Open the page anew to grant something else.")
    except ApplicationError as error:
        for problem in error.errors:
            form.add_error(FIELDS.get(problem.field, problem.field), problem.message)
        if not error.errors:
            add_errors(form, error)
    return form.is_valid()
