"""Pages of trust: a line explained, an invoice derived again, and the daily check."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page, render_page
from billing.contexts.explain import get_check_page, get_line_page, get_verify_page
from billing.queries.invoices import get_invoice


@require_safe
@organization_page
def invoice_line(request: HttpRequest, caller: Caller, invoice_id: int, position: int) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    invoice = get_invoice(organization=caller.organization, invoice_id=invoice_id)
    page = get_line_page(request, caller, invoice, position)
    return render_page(request, caller, "billing/explain.html", page, section="invoices")


@require_POST
@organization_page
def verify_invoice(request: HttpRequest, caller: Caller, invoice_id: int) -> HttpResponse:
    """Reads alone; a POST, so that no crawler and no preloading browser has it computed."""
    caller.require(Scope.BILLING_READ)
    page = get_verify_page(get_invoice(organization=caller.organization, invoice_id=invoice_id))
    return render_page(request, caller, "billing/explain_verify.html", page, section="invoices")


@require_safe
@organization_page
def usage_checks(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    return render_page(
        request, caller, "billing/explain_checks.html", get_check_page(request, caller), section="usage_checks"
    )
