"""Pages of plans, with their editor."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import organization_page, read_or_post, render_page
from billing.contexts.plans import get_plan_form_page, get_plan_list, get_plan_page, read_percent
from billing.contexts.preview import PricePreview, get_price_preview
from billing.forms.plans import NewPlanForm, PlanEditor, VersionForm
from billing.models import Plan, PlanVersion
from billing.queries.charges import list_charges
from billing.queries.plans import find_current_version, get_plan, get_version
from billing.services import plans as plan_services
from common.errors import ApplicationError, InvalidInput
from metering.models import Metric
from metering.queries import list_active_metrics


@require_safe
@organization_page
def plan_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_READ)
    return render_page(request, caller, "billing/plan_list.html", get_plan_list(request, caller), section="plans")


@require_safe
@organization_page
def plan(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    """One plan: `?version=` shows another version than the current one, `?at=` moves the preview."""
    caller.require(Scope.BILLING_READ)
    page = get_plan_page(request, caller, _plan(caller, code))
    return render_page(request, caller, "billing/plan.html", page, section="plans")


@read_or_post
@organization_page
def new_plan(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    editor = PlanEditor(NewPlanForm, metrics=_metrics(caller), data=_editor_data(request))
    if _is_saving(request) and editor.is_valid() and (made := _create_plan(request, caller, editor)) is not None:
        messages.success(request, f"{made.name} is made.")
        return redirect("billing:plan", caller.organization.pk, made.code)
    return _render_editor(request, caller, editor)


@read_or_post
@organization_page
def new_version(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    """The next version of a plan, which begins as the current one."""
    caller.require(Scope.BILLING_WRITE)
    found = _plan(caller, code)
    current = find_current_version(plan=found)
    editor = _version_editor(request, caller, current)
    if _is_saving(request) and editor.is_valid():
        try:
            version = plan_services.create_version(
                plan=found,
                definition=editor.definition(),
                is_active=_action(request) == "activate",
                actor=caller.actor,
                now=timezone.now(),
            )
        except ApplicationError as error:
            editor.add_refusal(error)
        else:
            messages.success(request, f"v{version.number} is made.")
            return _to_version(caller, version)
    return _render_editor(request, caller, editor, plan=found)


@read_or_post
@organization_page
def edit_version(request: HttpRequest, caller: Caller, code: str, number: int) -> HttpResponse:
    """The editor of a draft. Raises `VersionIsActive` where it is none."""
    caller.require(Scope.BILLING_WRITE)
    found = _plan(caller, code)
    version = get_version(plan=found, number=number)
    plan_services.refuse_active(version)
    editor = _version_editor(request, caller, version)
    if _is_saving(request) and editor.is_valid():
        try:
            plan_services.replace_draft(version=version, definition=editor.definition(), actor=caller.actor)
            if _action(request) == "activate":
                plan_services.activate_version(version=version, actor=caller.actor, now=timezone.now())
        except ApplicationError as error:
            editor.add_refusal(error)
        else:
            messages.success(request, "Saved.")
            return _to_version(caller, version)
    return _render_editor(request, caller, editor, plan=found, version=version)


@require_POST
@organization_page
def activate_version(request: HttpRequest, caller: Caller, code: str, number: int) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    version = get_version(plan=_plan(caller, code), number=number)
    plan_services.activate_version(version=version, actor=caller.actor, now=timezone.now())
    messages.success(request, f"v{version.number} is active; it never changes from now on.")
    return _to_version(caller, version)


@require_POST
@organization_page
def archive_plan(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found = plan_services.archive_plan(plan=_plan(caller, code), actor=caller.actor, now=timezone.now())
    messages.success(request, f"{found.name} is archived; who has it keeps it.")
    return redirect("billing:plan_list", caller.organization.pk)


@require_POST
@organization_page
def make_default_plan(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    caller.require(Scope.BILLING_WRITE)
    found = plan_services.update_plan(plan=_plan(caller, code), changes={"is_default": True}, actor=caller.actor)
    messages.success(request, f"{found.name} prices customers without a subscription.")
    return redirect("billing:plan", caller.organization.pk, found.code)


def _create_plan(request: HttpRequest, caller: Caller, editor: PlanEditor) -> Plan | None:
    """Return the new plan, or None where the editor has the refusal now."""
    try:
        return plan_services.create_plan(
            organization=caller.organization,
            code=editor.body["code"],
            name=editor.body["name"],
            description=editor.body.get("description", ""),
            definition=editor.definition(),
            is_active=_action(request) == "activate",
            actor=caller.actor,
            now=timezone.now(),
        )
    except plan_services.PlanExists as error:
        editor.add_problem("code", error.message)
    except ApplicationError as error:
        editor.add_refusal(error)
    return None


def _version_editor(request: HttpRequest, caller: Caller, version: PlanVersion | None) -> PlanEditor:
    data, metrics = _editor_data(request), _metrics(caller)
    if version is None:
        return PlanEditor(VersionForm, metrics=metrics, data=data)
    return PlanEditor(
        VersionForm,
        metrics=metrics,
        data=data,
        initial={"currency": version.currency, "trial_days": version.trial_days},
        charges=list_charges(version),
    )


def _render_editor(
    request: HttpRequest,
    caller: Caller,
    editor: PlanEditor,
    *,
    plan: Plan | None = None,
    version: PlanVersion | None = None,
) -> HttpResponse:
    percent = read_percent(request.POST.get("at", ""))
    preview = _preview(caller, editor, percent) if _action(request) == "preview" else None
    if not editor.form.is_bound and editor.charges:
        currency = editor.charges[0].price.currency
        preview = get_price_preview(editor.charges, currency=currency, percent=percent)
    page = get_plan_form_page(caller, editor, plan=plan, version=version, preview=preview, percent=percent)
    return render_page(request, caller, "billing/plan_form.html", page, section="plans")


def _preview(caller: Caller, editor: PlanEditor, percent: int) -> PricePreview | None:
    """Return what the prices in the editor come to, or None where the editor says what is wrong with them."""
    if not editor.is_valid():
        return None
    definition = editor.definition()
    try:
        charges = plan_services.resolve_charges(organization=caller.organization, definition=definition)
    except InvalidInput as error:
        editor.add_refusal(error)
        return None
    return get_price_preview(charges, currency=definition.currency, percent=percent)


def _editor_data(request: HttpRequest) -> dict[str, str] | None:
    """Return what was posted; with one price more where that was asked for."""
    if request.method != "POST":
        return None
    data = request.POST.dict()
    count = data.get("prices-TOTAL_FORMS", "")
    if _action(request) == "add" and count.isascii() and count.isdigit() and len(count) <= 3:
        data["prices-TOTAL_FORMS"] = str(int(count) + 1)
    return data


def _action(request: HttpRequest) -> str:
    return request.POST.get("action", "") if request.method == "POST" else ""


def _is_saving(request: HttpRequest) -> bool:
    return request.method == "POST" and _action(request) not in {"add", "preview"}


def _to_version(caller: Caller, version: PlanVersion) -> HttpResponse:
    address = redirect("billing:plan", caller.organization.pk, version.plan.code)
    address["Location"] += f"?version={version.number}"
    return address


def _plan(caller: Caller, code: str) -> Plan:
    return get_plan(organization=caller.organization, code=code)


def _metrics(caller: Caller) -> list[Metric]:
    return list(list_active_metrics(organization=caller.organization))
