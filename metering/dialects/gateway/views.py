"""Pages about the gateway: its routes, and what is kept of its requests."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page, read_or_post, render_page
from common.errors import ApplicationError, InvalidInput
from metering.dialects.gateway.contexts.routes import check_typed, get_route_form_page, get_route_list
from metering.dialects.gateway.contexts.settings import SettingsPage
from metering.dialects.gateway.forms import CheckForm, RouteForm, SettingsForm
from metering.dialects.gateway.models import Route
from metering.dialects.gateway.queries.routes import get_route, list_unit_metrics
from metering.dialects.gateway.services import routes as route_services
from metering.dialects.gateway.services.settings import change_settings, get_settings


@require_safe
@organization_page
def route_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    return render_page(request, caller, "gateway/route_list.html", get_route_list(request, caller), section="routes")


@read_or_post
@organization_page
def new_route(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    form = RouteForm(request.POST or None, metrics=list_unit_metrics(organization=caller.organization))
    if form.is_valid() and (created := _create_route(caller, form)) is not None:
        messages.success(request, f"{created.code} meters the requests that arrive from now on.")
        return redirect("gateway:route_list", caller.organization.pk)
    page = get_route_form_page(caller, form)
    return render_page(request, caller, "gateway/route_form.html", page, section="routes")


def _create_route(caller: Caller, form: RouteForm) -> Route | None:
    """Return the new route, or None where the form has the refusal now."""
    try:
        fields = route_services.name_metric(organization=caller.organization, fields=form.body())
        return route_services.create_route(
            organization=caller.organization,
            definition=route_services.RouteDefinition(code=fields.pop("id", ""), **fields),
            actor=caller.actor,
            now=timezone.now(),
        )
    except ApplicationError as error:
        form.add_refusal(error)
        return None


@read_or_post
@organization_page
def edit_route(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = get_route(organization=caller.organization, code=code)
    metrics = list_unit_metrics(organization=caller.organization)
    form = RouteForm(request.POST or None, metrics=metrics, route=found)
    if form.is_valid():
        try:
            changes = route_services.name_metric(organization=caller.organization, fields=form.body())
            route_services.update_route(route=found, changes=changes, actor=caller.actor, now=timezone.now())
        except ApplicationError as error:
            form.add_refusal(error)
        else:
            messages.success(request, "Saved; it holds for the requests that arrive from now on.")
            return redirect("gateway:route_list", caller.organization.pk)
    page = get_route_form_page(caller, form, found)
    return render_page(request, caller, "gateway/route_form.html", page, section="routes")


@require_POST
@organization_page
def delete_route(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = get_route(organization=caller.organization, code=code)
    route_services.delete_route(route=found, actor=caller.actor)
    messages.success(request, f"{found.code} is deleted; what was metered by it stays.")
    return redirect("gateway:route_list", caller.organization.pk)


@require_POST
@organization_page
def check_expression(request: HttpRequest, caller: Caller) -> HttpResponse:
    """What is typed so far comes to. Changes nothing; POST, because a sample is too long for an address."""
    caller.require(Scope.METRICS_WRITE)
    return render(request, "gateway/expression_check.html", {"check": check_typed(CheckForm(request.POST))})


@read_or_post
@organization_page
def settings(request: HttpRequest, caller: Caller) -> HttpResponse:
    """What is kept of requests, and for how long."""
    caller.require(Scope.ADMIN)
    stored = get_settings(caller.organization)
    form = SettingsForm(request.POST or None, settings=stored)
    if form.is_valid():
        try:
            change_settings(
                organization=caller.organization, actor=caller.actor, changes=form.cleaned_data, now=timezone.now()
            )
        except InvalidInput as error:
            form.add_refusal(error)
        else:
            messages.success(request, "Saved.")
            return redirect("gateway:settings", caller.organization.pk)
    return render_page(request, caller, "gateway/settings.html", SettingsPage(form), section="request_tracking")
