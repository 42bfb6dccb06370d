"""How an organization invoices, and its tax rates."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import add_errors, organization_page, read_or_post, render_page
from billing.contexts.settings import get_billing_settings_page, list_shown_rates
from billing.forms.settings import BillingSettingsForm, TaxRateForm
from billing.queries.settings import get_settings
from billing.queries.tax_rates import get_tax_rate
from billing.services.settings import update_settings
from billing.services.tax_rates import TaxRateDefinition, archive_tax_rate, create_tax_rate
from common.errors import ApplicationError


@read_or_post
@organization_page
def billing_settings(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    form = None
    if request.method == "POST":
        caller.require(Scope.BILLING_WRITE)
        form = BillingSettingsForm(request.POST, settings=get_settings(caller.organization))
        if form.is_valid() and _save(caller, form):
            messages.success(request, "Saved. It holds for what becomes final from now on.")
            return redirect("billing:settings", caller.organization.pk)
    page = get_billing_settings_page(caller, list_shown_rates(caller), form=form)
    return render_page(request, caller, "billing/settings.html", page, section="billing_settings")


@require_POST
@organization_page
def new_tax_rate(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    rates = list_shown_rates(caller)
    form = TaxRateForm(request.POST, rates=rates)
    if form.is_valid() and _add_rate(caller, form):
        messages.success(request, f"{form.cleaned_data['name']} is in the table.")
        return redirect("billing:settings", caller.organization.pk)
    page = get_billing_settings_page(caller, rates, rate_form=form)
    return render_page(request, caller, "billing/settings.html", page, section="billing_settings")


@require_POST
@organization_page
def archive_rate(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    rate = get_tax_rate(organization=caller.organization, code=code)
    rate.organization = caller.organization
    archive_tax_rate(tax_rate=rate, actor=caller.actor, now=timezone.now())
    messages.success(request, f"{rate.name} is archived; no invoice has it from now on.")
    return redirect("billing:settings", caller.organization.pk)


def _save(caller: Caller, form: BillingSettingsForm) -> bool:
    """Save what was changed; False where the form has the refusal now."""
    changes = {name: form.cleaned_data[name] for name in form.changed_data}
    try:
        update_settings(organization=caller.organization, changes=changes, actor=caller.actor)
    except ApplicationError as error:
        add_errors(form, error)
        return False
    return True


def _add_rate(caller: Caller, form: TaxRateForm) -> bool:
    """Add the rate; False where the form has the refusal now."""
    values = dict(form.cleaned_data)
    replaced = values.pop("replaces")
    try:
        create_tax_rate(
            organization=caller.organization,
            definition=TaxRateDefinition(**values),
            replaces=get_tax_rate(organization=caller.organization, code=replaced) if replaced else None,
            actor=caller.actor,
            now=timezone.now(),
        )
    except ApplicationError as error:
        add_errors(form, error)
        return False
    return True
