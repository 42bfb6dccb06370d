"""The customer portal: pages that a customer reaches by a signed link, and the button that makes such a link.

No page of it knows the sessions of members: who visits is said by a cookie of its own (`billing.portal`), which
browsers send to these pages alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page, render_page
from accounts.queries import get_customer_by_id
from accounts.rate_limits import take_share
from billing.contexts.portal import (
    get_invoice_list,
    get_invoice_page,
    get_issued_invoice,
    get_overview,
    get_portal_link_page,
    get_portal_shell,
    portal_budget_form,
)
from billing.documents.files import answer_csv, answer_pdf
from billing.models import Subscription
from billing.portal import NotVisiting, PortalVisitor, read_link, read_session, sign_session
from billing.queries.budgets import current_currency, find_budget
from billing.queries.subscriptions import get_subscription
from billing.services.budgets import remove_budget, set_budget
from billing.services.portal_links import create_portal_link
from common.errors import ApplicationError, TooManyRequests
from metering.queries import usage_zone

ACTOR = "portal"
# Of one customer, whoever visits for it. A page reads usage, and a PDF is set anew each time.
REQUESTS_PER_MINUTE = 120


def portal_page(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Give the view its visitor, and the customer's time zone; what is refused becomes a page that says so."""

    @never_cache
    @wraps(view)
    def page(request: HttpRequest, **arguments: Any) -> HttpResponse:
        now = timezone.now()
        try:
            visitor = read_session(request.COOKIES.get(settings.PORTAL_COOKIE_NAME, ""), now=now)
            _limit_rate(visitor)
            customer = visitor.customer
            with timezone.override(usage_zone(organization=customer.organization, customer=customer)):
                return view(request, visitor, **arguments)
        except ApplicationError as error:
            return _answer_problem(request, error)

    return page


@never_cache
@require_safe
def enter(request: HttpRequest, token: str) -> HttpResponse:
    """Exchange the link for a cookie, so that the token stays neither in the address bar nor in what is sent on."""
    now = timezone.now()
    try:
        visitor = read_link(token, now=now)
    except ApplicationError as error:
        response = _answer_problem(request, error)
    else:
        response = redirect("billing:portal")
        response.set_cookie(
            settings.PORTAL_COOKIE_NAME,
            sign_session(visitor),
            max_age=visitor.expires_at - now,
            path=reverse("billing:portal"),
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            # Not Strict: who comes from a mail would be sent on without it.
            samesite="Lax",
        )
    # Here alone: under it browsers would hide from our forms, too, where they were sent from.
    response["Referrer-Policy"] = "no-referrer"
    return response


@require_safe
@portal_page
def overview(request: HttpRequest, visitor: PortalVisitor) -> HttpResponse:
    page = get_overview(visitor.customer, timezone.now())
    return _render(request, visitor, "billing/portal.html", page, section="overview")


@require_safe
@portal_page
def invoice_list(request: HttpRequest, visitor: PortalVisitor) -> HttpResponse:
    page = get_invoice_list(request, visitor.customer, timezone.now())
    return _render(request, visitor, "billing/portal_invoices.html", page, section="invoices")


@require_safe
@portal_page
def invoice(request: HttpRequest, visitor: PortalVisitor, invoice_id: int) -> HttpResponse:
    page = get_invoice_page(get_issued_invoice(visitor.customer, invoice_id), timezone.now())
    return _render(request, visitor, "billing/portal_invoice.html", page, section="invoices")


@require_safe
@portal_page
def invoice_pdf(request: HttpRequest, visitor: PortalVisitor, invoice_id: int) -> HttpResponse:
    return answer_pdf(get_issued_invoice(visitor.customer, invoice_id), timezone.now())


@require_safe
@portal_page
def invoice_csv(request: HttpRequest, visitor: PortalVisitor, invoice_id: int) -> HttpResponse:
    return answer_csv(get_issued_invoice(visitor.customer, invoice_id), timezone.now())


@require_POST
@portal_page
def budget(request: HttpRequest, visitor: PortalVisitor, subscription_id: int) -> HttpResponse:
    """Set the budget of one of the customer's subscriptions, or with `action=remove` take it away."""
    customer = visitor.customer
    found = get_subscription(
        organization=customer.organization, subscription_id=subscription_id, customer_id=customer.pk
    )
    try:
        if request.POST.get("action") == "remove":
            remove_budget(subscription=found, actor=ACTOR)
            messages.success(request, "The budget is removed.")
        else:
            _set_budget(request, found)
    except ApplicationError as error:
        messages.error(request, f"The budget stays as it was. {error.message}")
    return redirect("billing:portal")


def _set_budget(request: HttpRequest, subscription: Subscription) -> None:
    now = timezone.now()
    form = portal_budget_form(current_currency(subscription, now), data=request.POST)
    if not form.is_valid():
        name, problems = next(iter(form.errors.items()))
        messages.error(request, f"The budget stays as it was. {form.fields[name].label}: {problems[0]}")
        return
    known = find_budget(subscription=subscription)
    set_budget(
        subscription=subscription,
        amount_minor=form.cleaned_data["amount"],
        levels=form.cleaned_data["levels"],
        email=known.email if known else "",
        actor=ACTOR,
        now=now,
    )
    messages.success(request, "The budget is set.")


@never_cache
@require_POST
def leave(request: HttpRequest) -> HttpResponse:
    """Forget who visits in this browser. The link works on until it expires."""
    response = render(request, "billing/portal_problem.html", {"title": "You have left", "code": "left"})
    response.delete_cookie(settings.PORTAL_COOKIE_NAME, path=reverse("billing:portal"), samesite="Lax")
    return response


def _render(request: HttpRequest, visitor: PortalVisitor, template: str, page: object, *, section: str) -> HttpResponse:
    zone = usage_zone(organization=visitor.customer.organization, customer=visitor.customer)
    shell = get_portal_shell(visitor, section=section, zone=zone)
    return render(request, template, {"shell": shell, "page": page})


def _answer_problem(request: HttpRequest, error: ApplicationError) -> HttpResponse:
    context = {"title": error.message, "code": error.code}
    response = render(request, "billing/portal_problem.html", context, status=error.status)
    for name, value in error.headers.items():
        response[name] = value
    if isinstance(error, NotVisiting) and settings.PORTAL_COOKIE_NAME in request.COOKIES:
        response.delete_cookie(settings.PORTAL_COOKIE_NAME, path=reverse("billing:portal"), samesite="Lax")
    return response


def _limit_rate(visitor: PortalVisitor) -> None:
    """Raise `TooManyRequests` beyond a customer's share."""
    now = timezone.now()
    verdict = take_share(name=f"portal-{visitor.customer.pk}", limit=REQUESTS_PER_MINUTE, now=now)
    if verdict is not None and not verdict.is_allowed:
        raise TooManyRequests("Too many pages at once. Wait a moment.", headers=verdict.headers())


# --- for members ----------------------------------------------------------------------------------------------


@never_cache
@require_POST
@organization_page
def create_link(request: HttpRequest, caller: Caller, customer_id: int) -> HttpResponseBase:
    """Make a link and show it, once."""
    caller.require(Scope.BILLING_WRITE)
    customer = get_customer_by_id(caller, customer_id)
    customer.organization = caller.organization
    link = create_portal_link(customer=customer, actor=caller.actor, now=timezone.now())
    page = get_portal_link_page(customer, link)
    return render_page(request, caller, "billing/portal_link.html", page, section="customers")
