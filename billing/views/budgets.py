"""Setting and removing a subscription's budget, from the billing tab of its customer."""

from __future__ import annotations

from django.contrib import messages
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page
from billing.forms.budgets import BudgetForm
from billing.queries.budgets import current_currency
from billing.queries.subscriptions import get_subscription
from billing.services import budgets as services
from common.errors import ApplicationError


@require_POST
@organization_page
def set_budget(request: HttpRequest, caller: Caller, subscription_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found = get_subscription(organization=caller.organization, subscription_id=subscription_id)
    now = timezone.now()
    form = BudgetForm(request.POST, currency=current_currency(found, now))
    if not form.is_valid():
        messages.error(request, f"The budget is not set. {_first_problem(form)}")
        return redirect("billing:customer_billing", caller.organization.pk, found.customer_id)
    try:
        services.set_budget(
            subscription=found,
            amount_minor=form.cleaned_data["amount"],
            levels=form.cleaned_data["levels"],
            email=form.cleaned_data["email"],
            actor=caller.actor,
            now=now,
        )
    except ApplicationError as error:
        messages.error(request, f"The budget is not set. {error.message}")
    else:
        messages.success(request, "The budget is set.")
    return redirect("billing:customer_billing", caller.organization.pk, found.customer_id)


@require_POST
@organization_page
def remove_budget(request: HttpRequest, caller: Caller, subscription_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found = get_subscription(organization=caller.organization, subscription_id=subscription_id)
    services.remove_budget(subscription=found, actor=caller.actor)
    messages.success(request, "The budget is removed.")
    return redirect("billing:customer_billing", caller.organization.pk, found.customer_id)


def _first_problem(form: BaseForm) -> str:
    name, problems = next(iter(form.errors.items()))
    return f"{form.fields[name].label}: {problems[0]}"
