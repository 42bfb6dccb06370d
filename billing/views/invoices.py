"""Pages of invoices: the list, one with its files, and the buttons that finalise, void, credit or settle it."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page, render_page
from billing.contexts.invoices import get_invoice_list, get_invoice_page
from billing.documents.files import answer_csv, answer_pdf
from billing.forms.invoices import CreditForm, PaidForm, VoidForm, WaiveForm
from billing.models import Invoice
from billing.queries import invoices as queries
from billing.services import corrections, periods
from billing.services.invoice_runs import request_run
from billing.services.invoicing import finalise_invoice as finalise
from billing.services.subscriptions import KeyReused
from common.errors import ApplicationError, Conflict


@require_safe
@organization_page
def invoice_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    page = get_invoice_list(request, caller)
    return render_page(request, caller, "billing/invoice_list.html", page, section="invoices")


@require_POST
@organization_page
def run_invoices(request: HttpRequest, caller: Caller) -> HttpResponse:
    """Have everything invoiced that is due, by the workers."""
    caller.require(Scope.BILLING_WRITE)
    request_run(organization=caller.organization, actor=caller.actor, now=timezone.now())
    messages.success(request, "The run has begun; this page says how far it is.")
    return redirect("billing:invoice_list", caller.organization.pk)


@require_POST
@organization_page
def waive_period(request: HttpRequest, caller: Caller, period_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    form = WaiveForm(request.POST)
    if form.is_valid():
        try:
            periods.waive_period(
                organization=caller.organization,
                period_id=period_id,
                reason=form.cleaned_data["reason"],
                actor=caller.actor,
                now=timezone.now(),
            )
        except Conflict as error:
            messages.error(request, error.message)
        else:
            messages.success(request, "The billing period is waived; the next run goes on with those after it.")
    else:
        messages.error(request, "Say why it is waived.")
    return redirect("billing:invoice_list", caller.organization.pk)


@require_safe
@organization_page
def invoice(request: HttpRequest, caller: Caller, invoice_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    page = get_invoice_page(caller, _invoice(caller, invoice_id))
    return render_page(request, caller, "billing/invoice.html", page, section="invoices")


@require_safe
@organization_page
def invoice_pdf(request: HttpRequest, caller: Caller, invoice_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    return answer_pdf(_invoice(caller, invoice_id), timezone.now())


@require_safe
@organization_page
def invoice_csv(request: HttpRequest, caller: Caller, invoice_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    return answer_csv(_invoice(caller, invoice_id), timezone.now())


# --- what may become of one -----------------------------------------------------------------------------------


@require_POST
@organization_page
def finalise_invoice(request: HttpRequest, caller: Caller, invoice_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found = _invoice(caller, invoice_id)
    try:
        final = finalise(invoice=found, actor=caller.actor, now=timezone.now())
    except ApplicationError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"It is final, as {final.number}.")
    return _to_invoice(found)


@require_POST
@organization_page
def void_invoice(request: HttpRequest, caller: Caller, invoice_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found, form = _invoice(caller, invoice_id), VoidForm(request.POST)
    if not form.is_valid():
        return _refused(request, found, form)
    try:
        corrections.void_invoice(
            invoice=found,
            reason=form.cleaned_data["reason"],
            is_reissued=form.cleaned_data["reissue"] == "yes",
            actor=caller.actor,
            now=timezone.now(),
        )
    except ApplicationError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{found.number} is void.")
    return _to_invoice(found)


@require_POST
@organization_page
def credit_invoice(request: HttpRequest, caller: Caller, invoice_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found, now = _invoice(caller, invoice_id), timezone.now()
    content = queries.get_content(invoice=found, now=now)
    form = CreditForm(request.POST, lines=content.lines, currency=content.currency)
    if not form.is_valid():
        return _refused(request, found, form)
    try:
        note = corrections.issue_credit_note(
            invoice=found,
            amounts=form.amounts(),
            reason=form.cleaned_data["reason"],
            idempotency_key=form.cleaned_data["idempotency_key"],
            actor=caller.actor,
            now=now,
        ).note
    except KeyReused:
        messages.error(request, "This form was sent before, with something else. Fill it in anew.")
        return _to_invoice(found)
    except ApplicationError as error:
        messages.error(request, error.message)
        return _to_invoice(found)
    messages.success(request, f"{note.number} is issued.")
    return _to_invoice(note)


@require_POST
@organization_page
def mark_invoice_paid(request: HttpRequest, caller: Caller, invoice_id: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found, form = _invoice(caller, invoice_id), PaidForm(request.POST)
    if not form.is_valid():
        return _refused(request, found, form)
    try:
        corrections.mark_paid(
            invoice=found, reference=form.cleaned_data["reference"], actor=caller.actor, now=timezone.now()
        )
    except ApplicationError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{found.number} is paid.")
    return _to_invoice(found)


def _refused(request: HttpRequest, invoice: Invoice, form: forms.Form) -> HttpResponse:
    """Say what is wrong with the form, which lies on the invoice's page."""
    for name, problems in form.errors.items():
        label = form.fields[name].label if name in form.fields else ""
        messages.error(request, f"{label}: {' '.join(map(str, problems))}".lstrip(": "))
    return _to_invoice(invoice)


def _to_invoice(invoice: Invoice) -> HttpResponse:
    return redirect("billing:invoice", invoice.organization_id, invoice.pk)


def _invoice(caller: Caller, invoice_id: int) -> Invoice:
    return queries.get_invoice(organization=caller.organization, invoice_id=invoice_id)
