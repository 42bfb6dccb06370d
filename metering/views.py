"""Pages about what is measured: metrics, events, the inbox, catalogs, one customer's usage."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.pages import add_errors, organization_page, read_or_post, render_page
from accounts.queries import get_customer_by_id
from common.errors import ApplicationError, InvalidInput, NotFound
from metering.api.serializers import to_definition
from metering.catalogs import CATALOGS
from metering.contexts.definitions import get_catalog_list, get_metric_form_page
from metering.contexts.events import get_event_list, get_event_page, get_event_rows, get_inbox_page
from metering.contexts.metric import get_metric_page
from metering.contexts.overview import get_customer_page, get_metric_list
from metering.forms import InboxForm, MetricForm, VoidForm
from metering.queries import get_metric
from metering.services import metrics as metric_services
from metering.services.inbox import discard_inbox, replay_inbox
from metering.services.voids import void_event as take_back

# --- metrics --------------------------------------------------------------------------------------------------


@require_safe
@organization_page
def metric_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    page = get_metric_list(request, caller)
    return render_page(request, caller, "metering/metric_list.html", page, section="metrics")


@require_safe
@organization_page
def metric(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    found = get_metric(organization=caller.organization, code=code)
    page = get_metric_page(request, caller, found)
    return render_page(request, caller, "metering/metric.html", page, section="metrics")


@read_or_post
@organization_page
def new_metric(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    form = MetricForm(request.POST or None)
    if form.is_valid():
        try:
            definition = to_definition(form.definition_fields())
            created = metric_services.create_metric(
                organization=caller.organization, definition=definition, actor=caller.actor
            )
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, "The metric counts from now on.")
            return redirect("metering:metric", caller.organization.pk, created.code)
    page = get_metric_form_page(caller, form)
    return render_page(request, caller, "metering/metric_form.html", page, section="metrics")


@read_or_post
@organization_page
def edit_metric(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = get_metric(organization=caller.organization, code=code)
    is_frozen = metric_services.has_events(found)
    form = MetricForm(request.POST or None, metric=found, has_events=is_frozen)
    if form.is_valid():
        try:
            metric_services.update_metric(
                organization=caller.organization, metric=found, changes=form.changes(), actor=caller.actor
            )
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("metering:metric", caller.organization.pk, found.code)
    page = get_metric_form_page(caller, form, metric=found, has_events=is_frozen)
    return render_page(request, caller, "metering/metric_form.html", page, section="metrics")


@require_POST
@organization_page
def archive_metric(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = get_metric(organization=caller.organization, code=code)
    metric_services.archive_metric(
        organization=caller.organization, metric=found, actor=caller.actor, now=timezone.now()
    )
    messages.success(request, f"{found.code} is archived.")
    return redirect("metering:metric_list", caller.organization.pk)


@require_safe
@organization_page
def catalog_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    page = get_catalog_list(caller)
    return render_page(request, caller, "metering/catalog_list.html", page, section="catalogs")


@require_POST
@organization_page
def install_catalog(request: HttpRequest, caller: Caller, name: str) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    if name not in CATALOGS:
        raise NotFound("There is no such catalog.")
    installed = metric_services.install_catalog(organization=caller.organization, name=name, actor=caller.actor)
    messages.success(request, f"The catalog {name} is installed: {len(installed)} metrics.")
    return redirect("metering:metric_list", caller.organization.pk)


# --- customers ------------------------------------------------------------------------------------------------


@require_safe
@organization_page
def customer(request: HttpRequest, caller: Caller, customer_id: int) -> HttpResponse:
    found = get_customer_by_id(caller, customer_id)
    page = get_customer_page(request, caller, found)
    return render_page(request, caller, "metering/customer.html", page, section="customers")


# --- events ---------------------------------------------------------------------------------------------------


@never_cache
@require_safe
@organization_page
def event_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    page = get_event_list(request, caller)
    return render_page(request, caller, "metering/event_list.html", page, section="events")


@never_cache
@require_safe
@organization_page
def event_rows(request: HttpRequest, caller: Caller) -> HttpResponse:
    """The rows of a live update: the same partial as the page's own."""
    return render(request, "metering/event_rows.html", {"rows": get_event_rows(request, caller)})


@require_safe
@organization_page
def event(request: HttpRequest, caller: Caller) -> HttpResponse:
    """One event. Its key is in the query: it may hold anything, also `/` and `..`, which paths do not survive."""
    key = request.GET.get("key", "")
    page = get_event_page(caller, key, form=VoidForm(initial={"key": key}), can_void=caller.has(Scope.EVENTS_WRITE))
    return render_page(request, caller, "metering/event.html", page, section="events")


@require_POST
@organization_page
def void_event(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.EVENTS_WRITE)
    form = VoidForm(request.POST)
    if form.is_valid():
        key = form.cleaned_data["key"]
        take_back(
            organization=caller.organization,
            idempotency_key=key,
            reason=form.cleaned_data["reason"],
            actor=caller.actor,
            now=timezone.now(),
        )
        messages.success(request, "The event is taken back; the numbers are recounted.")
        return redirect(f"{reverse('metering:event', args=[caller.organization.pk])}?{urlencode({'key': key})}")
    page = get_event_page(caller, request.POST.get("key", ""), form=form, can_void=True)
    return render_page(request, caller, "metering/event.html", page, section="events")


@read_or_post
@organization_page
def inbox(request: HttpRequest, caller: Caller) -> HttpResponse:
    if request.method == "POST":
        return _settle_inbox(request, caller)
    page = get_inbox_page(request, caller)
    return render_page(request, caller, "metering/inbox.html", page, section="inbox")


def _settle_inbox(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.EVENTS_WRITE)
    form = InboxForm(request.POST)
    if not form.is_valid():
        raise InvalidInput.of("ids", "Choose waiting events and what to do with them.")
    action, ids = form.cleaned_data["action"], form.cleaned_data["ids"]
    organization, actor, now = caller.organization, caller.actor, timezone.now()
    if action != "replay_all" and not ids:
        messages.warning(request, "Choose at least one event.")
    elif action == "discard":
        count = discard_inbox(organization=organization, ids=ids, actor=actor, now=now)
        messages.success(request, f"{count} discarded.")
    else:
        result = replay_inbox(
            organization=organization, ids=None if action == "replay_all" else ids, actor=actor, now=now
        )
        still = f"; {result.still_waiting} still wait, each says why" if result.still_waiting else ""
        messages.success(request, f"{result.counted} counted now{still}.")
    return redirect("metering:inbox", organization.pk)
