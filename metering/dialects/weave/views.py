"""Pages about what arrives at the forward port: the listener, its instances, the quarantine."""

from __future__ import annotations

from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import add_errors, organization_page, read_or_post, render_page, text_parameter
from common.errors import ApplicationError, InvalidInput, NotFound
from metering.dialects.weave import services
from metering.dialects.weave.access import list_visible_records, require_mapping
from metering.dialects.weave.contexts.forwarding import get_forwarding_page, get_map_page
from metering.dialects.weave.contexts.quarantine import get_quarantine_page
from metering.dialects.weave.forms import MapForm, QuarantineForm, SettingsForm, UnmapForm

SECTION = "forwarding"


@require_safe
@organization_page
def forwarding(request: HttpRequest, caller: Caller) -> HttpResponse:
    page = get_forwarding_page(request, caller)
    return render_page(request, caller, "weave/forwarding.html", page, section=SECTION)


@read_or_post
@organization_page
def map_instance(request: HttpRequest, caller: Caller) -> HttpResponse:
    require_mapping(caller)
    form = MapForm(request.POST or None, initial={"internal_instance_id": text_parameter(request, "instance")})
    if form.is_valid():
        try:
            told = _map(caller, form)
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, told)
            return redirect("weave:forwarding", caller.organization.pk)
    return render_page(request, caller, "weave/map_form.html", get_map_page(caller, form), section=SECTION)


def _map(caller: Caller, form: MapForm) -> str:
    """Map the instance and return what to tell of it."""
    instance_id, customer = form.cleaned_data["internal_instance_id"], form.cleaned_data["customer"]
    services.map_instance(
        organization=caller.organization,
        internal_instance_id=instance_id,
        customer_external_id=customer,
        actor=caller.actor,
    )
    told = f"What instance {instance_id} sends is counted for {customer} from now on."
    if not form.cleaned_data["is_released"]:
        return told
    result = services.release_quarantined(
        organization=caller.organization,
        internal_instance_id=instance_id,
        actor=caller.actor,
        now=timezone.now(),
    )
    return f"{told} {_release_text(result)}" if result.counted or result.still_waiting else told


@require_POST
@organization_page
def unmap_instance(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.ADMIN)
    form = UnmapForm(request.POST)
    instance_id = form.cleaned_data["internal_instance_id"] if form.is_valid() else ""
    was_mapped = services.unmap_instance(
        organization=caller.organization, internal_instance_id=instance_id, actor=caller.actor
    )
    if not was_mapped:
        raise NotFound("There is no such instance.")
    messages.success(request, f"Instance {instance_id} is unmapped; what it sends waits in the quarantine.")
    return redirect("weave:forwarding", caller.organization.pk)


@require_POST
@organization_page
def change_settings(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    form = SettingsForm(request.POST)
    form.is_valid()  # a check box takes anything
    services.update_weave_settings(
        organization=caller.organization,
        is_metric_auto_created=form.cleaned_data["is_metric_auto_created"],
        actor=caller.actor,
    )
    messages.success(request, "Saved.")
    return redirect("weave:forwarding", caller.organization.pk)


# --- the quarantine -------------------------------------------------------------------------------------------


@read_or_post
@organization_page
def quarantine(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    if request.method == "POST":
        return _settle(request, caller)
    page = get_quarantine_page(request, caller)
    return render_page(request, caller, "weave/quarantine.html", page, section=SECTION)


def _settle(request: HttpRequest, caller: Caller) -> HttpResponse:
    form = QuarantineForm(request.POST)
    if not form.is_valid():
        raise InvalidInput.of("ids", "Choose waiting records and what to do with them.")
    action, ids, instance = (form.cleaned_data[name] for name in ("action", "ids", "instance"))
    organization, actor = caller.organization, caller.actor
    if action != "release_all" and not ids:
        messages.warning(request, "Choose at least one record.")
    elif action == "discard":
        visible = list_visible_records(caller).filter(pk__in=ids).values_list("pk", flat=True)
        count = services.discard_quarantined(organization=organization, ids=list(visible), actor=actor)
        messages.success(request, f"{count} discarded.")
    else:
        which = {"internal_instance_id": instance or None} if action == "release_all" else {"ids": ids}
        result = services.release_quarantined(organization=organization, actor=actor, now=timezone.now(), **which)
        messages.success(request, _release_text(result))
    query = "?" + urlencode({"instance": instance}) if instance else ""
    return redirect(reverse("weave:quarantine", args=[organization.pk]) + query)


def _release_text(result: services.ReleaseResult) -> str:
    still = f"; {result.still_waiting} still wait, each says why" if result.still_waiting else ""
    return f"{result.counted} counted now{still}."
