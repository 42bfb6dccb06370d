"""Pages about alerts: the history, thresholds, webhooks, quotas, and who is told by e-mail."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Customer
from accounts.pages import add_errors, organization_page, read_or_post, render_page, text_parameter, visitor
from accounts.queries import get_customer, get_customer_by_id
from alerts.access import get_endpoint_for, require_for_types
from alerts.contexts.emails import get_email_page, initial_frequency
from alerts.contexts.log import get_alert_list, get_alert_page, get_alert_rows
from alerts.contexts.quotas import get_quota_form_page, get_quota_list, get_quota_page
from alerts.contexts.subjects import get_customer_alerts, get_metric_alerts
from alerts.contexts.thresholds import (
    get_threshold_form_page,
    get_threshold_list,
    get_threshold_page,
)
from alerts.contexts.webhooks import (
    ShownSecret,
    get_delivery_page,
    get_endpoint_form_page,
    get_endpoint_list,
    get_endpoint_page,
)
from alerts.domain import DigestFrequency, QuotaMode
from alerts.forms import EndpointForm, NewQuotaForm, NewThresholdForm, QuotaForm, SubscriptionForm, ThresholdForm
from alerts.models import Delivery, Quota, Threshold, WebhookEndpoint
from alerts.queries import get_threshold
from alerts.queries.emails import get_membership
from alerts.queries.quotas import get_quota
from alerts.queries.webhooks import get_delivery
from alerts.services import emails as email_services
from alerts.services import quotas as quota_services
from alerts.services import thresholds as threshold_services
from alerts.services import webhooks as webhook_services
from common.errors import ApplicationError, FieldError, InvalidInput, NotFound
from metering.queries import get_metric, list_active_metrics

# --- the history ----------------------------------------------------------------------------------------------


@never_cache
@require_safe
@organization_page
def alert_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    return render_page(request, caller, "alerts/alert_list.html", get_alert_list(request, caller), section="alerts")


@never_cache
@require_safe
@organization_page
def alert_rows(request: HttpRequest, caller: Caller) -> HttpResponse:
    """The rows of a live update: the same partial as the page's own."""
    return render(request, "alerts/alert_rows.html", {"rows": get_alert_rows(request, caller)})


@require_safe
@organization_page
def alert(request: HttpRequest, caller: Caller, offset: int) -> HttpResponse:
    return render_page(request, caller, "alerts/alert.html", get_alert_page(caller, offset), section="alerts")


@read_or_post
@organization_page
def alert_email(request: HttpRequest, caller: Caller) -> HttpResponse:
    """How often the signed-in member is mailed. Everybody decides for themselves."""
    membership = get_membership(organization=caller.organization, user_id=visitor(request).pk)
    form = SubscriptionForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        frequency = form.cleaned_data["frequency"]
        if frequency != SubscriptionForm.NEVER:
            email_services.subscribe(membership=membership, frequency=DigestFrequency(frequency))
            messages.success(request, "You get what is crossed from now on.")
        else:
            email_services.unsubscribe(membership=membership)
            messages.success(request, "You get no alerts by e-mail.")
        return redirect("alerts:alert_email", caller.organization.pk)
    if not form.is_bound:
        form = SubscriptionForm(initial={"frequency": initial_frequency(membership)})
    page = get_email_page(caller, membership, form)
    return render_page(request, caller, "alerts/email_page.html", page, section="alerts")


@require_POST
@organization_page
def test_alert_email(request: HttpRequest, caller: Caller) -> HttpResponse:
    membership = get_membership(organization=caller.organization, user_id=visitor(request).pk)
    email_services.send_test_email(membership=membership)
    messages.success(request, f"A test is on its way to {membership.user.email}.")
    return redirect("alerts:alert_email", caller.organization.pk)


# --- thresholds -----------------------------------------------------------------------------------------------


@require_safe
@organization_page
def threshold_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    threshold_services.declare_metric_thresholds(organization=caller.organization, now=timezone.now())
    page = get_threshold_list(request, caller)
    return render_page(request, caller, "alerts/threshold_list.html", page, section="thresholds")


@require_safe
@organization_page
def metric_alerts(request: HttpRequest, caller: Caller, code: str) -> HttpResponse:
    found = get_metric(organization=caller.organization, code=code)
    threshold_services.declare_metric_thresholds(organization=caller.organization, now=timezone.now())
    page = get_metric_alerts(request, caller, found)
    return render_page(request, caller, "alerts/metric_alerts.html", page, section="metrics")


@require_safe
@organization_page
def customer_alerts(request: HttpRequest, caller: Caller, customer_id: int) -> HttpResponse:
    found = get_customer_by_id(caller, customer_id)
    threshold_services.declare_metric_thresholds(organization=caller.organization, now=timezone.now())
    page = get_customer_alerts(request, caller, found)
    return render_page(request, caller, "alerts/customer_alerts.html", page, section="customers")


@require_safe
@organization_page
def threshold(request: HttpRequest, caller: Caller, threshold_id: int) -> HttpResponse:
    """One threshold, and why it fired for a customer or did not: `?customer=` names whom it is about."""
    page = get_threshold_page(request, caller, _threshold(caller, threshold_id))
    return render_page(request, caller, "alerts/threshold.html", page, section="thresholds")


@read_or_post
@organization_page
def new_threshold(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    given = {name: text_parameter(request, name) for name in ("metric", "customer")}
    metrics = list(list_active_metrics(organization=caller.organization))
    form = NewThresholdForm(request.POST or None, metrics=metrics, initial=given)
    if form.is_valid() and (created := _create_threshold(caller, form)) is not None:
        messages.success(request, f"{created.code} is watched from now on.")
        return redirect("alerts:threshold", caller.organization.pk, created.pk)
    page = get_threshold_form_page(request, caller, form)
    return render_page(request, caller, "alerts/threshold_form.html", page, section="thresholds")


def _create_threshold(caller: Caller, form: NewThresholdForm) -> Threshold | None:
    """Return the new threshold, or None where the form has the refusal now."""
    try:
        customer = _customer_of(caller, form)
        return threshold_services.create_threshold(
            organization=caller.organization,
            metric=get_metric(organization=caller.organization, code=form.cleaned_data["metric"]),
            definition=threshold_services.ThresholdDefinition(customer=customer, **form.changes()),
            actor=caller.actor,
        )
    except ApplicationError as error:
        form.add_refusal(error)
        return None


@read_or_post
@organization_page
def edit_threshold(request: HttpRequest, caller: Caller, threshold_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _threshold(caller, threshold_id)
    threshold_services.refuse_declared(found)
    form = ThresholdForm(request.POST or None, threshold=found)
    if form.is_valid():
        try:
            threshold_services.update_threshold(threshold=found, changes=form.changes(), actor=caller.actor)
        except ApplicationError as error:
            form.add_refusal(error)
        else:
            messages.success(request, "Saved.")
            return redirect("alerts:threshold", caller.organization.pk, found.pk)
    page = get_threshold_form_page(request, caller, form, found)
    return render_page(request, caller, "alerts/threshold_form.html", page, section="thresholds")


@require_POST
@organization_page
def archive_threshold(request: HttpRequest, caller: Caller, threshold_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _threshold(caller, threshold_id)
    threshold_services.archive_threshold(threshold=found, actor=caller.actor, now=timezone.now())
    messages.success(request, f"{found.code} is archived; what it told stays in the history.")
    return redirect("alerts:threshold_list", caller.organization.pk)


def _threshold(caller: Caller, threshold_id: int) -> Threshold:
    return get_threshold(organization=caller.organization, threshold_id=threshold_id)


def _customer_of(caller: Caller, form: NewThresholdForm | NewQuotaForm) -> Customer | None:
    """Return the customer that the form names, None without one. Raises `InvalidInput` at the field."""
    external_id = form.cleaned_data["customer"]
    try:
        return get_customer(caller, external_id) if external_id else None
    except NotFound as error:
        raise InvalidInput(error.message, errors=[FieldError("customer", "not_found", error.message)]) from None


# --- quotas ---------------------------------------------------------------------------------------------------


@require_safe
@organization_page
def quota_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    return render_page(request, caller, "alerts/quota_list.html", get_quota_list(request, caller), section="quotas")


@require_safe
@organization_page
def quota(request: HttpRequest, caller: Caller, quota_id: int) -> HttpResponse:
    page = get_quota_page(caller, _quota(caller, quota_id))
    return render_page(request, caller, "alerts/quota.html", page, section="quotas")


@read_or_post
@organization_page
def new_quota(request: HttpRequest, caller: Caller) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    given = {name: text_parameter(request, name) for name in ("metric", "customer")}
    metrics = list(list_active_metrics(organization=caller.organization))
    form = NewQuotaForm(request.POST or None, metrics=metrics, initial=given)
    if form.is_valid() and (created := _create_quota(caller, form)) is not None:
        messages.success(request, "The quota holds from now on.")
        return redirect("alerts:quota", caller.organization.pk, created.pk)
    return render_page(request, caller, "alerts/quota_form.html", get_quota_form_page(caller, form), section="quotas")


def _create_quota(caller: Caller, form: NewQuotaForm) -> Quota | None:
    """Return the new quota, or None where the form has the refusal now."""
    values = form.cleaned_data
    try:
        return quota_services.create_quota(
            organization=caller.organization,
            metric=get_metric(organization=caller.organization, code=values["metric"]),
            definition=quota_services.QuotaDefinition(
                limit=values["limit"],
                mode=QuotaMode(values["mode"]),
                grace=values["grace"],
                warning_percents=values["warning_percents"],
                customer=_customer_of(caller, form),
            ),
            actor=caller.actor,
            now=timezone.now(),
        )
    except ApplicationError as error:
        add_errors(form, error)
        return None


@read_or_post
@organization_page
def edit_quota(request: HttpRequest, caller: Caller, quota_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _quota(caller, quota_id)
    form = QuotaForm(request.POST or None, initial=QuotaForm.initial_of(found))
    if form.is_valid():
        try:
            quota_services.update_quota(quota=found, changes=form.cleaned_data, actor=caller.actor, now=timezone.now())
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("alerts:quota", caller.organization.pk, found.pk)
    page = get_quota_form_page(caller, form, found)
    return render_page(request, caller, "alerts/quota_form.html", page, section="quotas")


@require_POST
@organization_page
def delete_quota(request: HttpRequest, caller: Caller, quota_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _quota(caller, quota_id)
    quota_services.delete_quota(quota=found, actor=caller.actor, now=timezone.now())
    messages.success(request, "The quota is deleted.")
    return redirect("alerts:quota_list", caller.organization.pk)


def _quota(caller: Caller, quota_id: int) -> Quota:
    return get_quota(organization=caller.organization, quota_id=quota_id)


# --- webhooks -------------------------------------------------------------------------------------------------


@require_safe
@organization_page
def webhook_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    page = get_endpoint_list(caller)
    return render_page(request, caller, "alerts/webhook_list.html", page, section="webhooks")


@never_cache
@read_or_post
@organization_page
def new_webhook(request: HttpRequest, caller: Caller) -> HttpResponse:
    """The form; a POST makes the endpoint and shows its secret, in the answer and never again."""
    caller.require(Scope.METRICS_WRITE)
    metrics = list(list_active_metrics(organization=caller.organization))
    form = EndpointForm(request.POST or None, metrics=metrics)
    if form.is_valid():
        require_for_types(caller, form.cleaned_data["message_types"])
        try:
            issued = webhook_services.create_endpoint(
                organization=caller.organization,
                definition=webhook_services.EndpointDefinition(**form.changes()),
                actor=caller.actor,
            )
        except ApplicationError as error:
            add_errors(form, error)
        else:
            secret = ShownSecret("The endpoint's secret", issued.secret)
            page = get_endpoint_page(request, caller, issued.endpoint, issued=secret)
            return render_page(request, caller, "alerts/webhook.html", page, section="webhooks")
    form_page = get_endpoint_form_page(caller, form)
    return render_page(request, caller, "alerts/webhook_form.html", form_page, section="webhooks")


@never_cache
@require_safe
@organization_page
def webhook(request: HttpRequest, caller: Caller, endpoint_id: int) -> HttpResponse:
    page = get_endpoint_page(request, caller, _endpoint(caller, endpoint_id))
    return render_page(request, caller, "alerts/webhook.html", page, section="webhooks")


@read_or_post
@organization_page
def edit_webhook(request: HttpRequest, caller: Caller, endpoint_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _endpoint(caller, endpoint_id)
    metrics = list(list_active_metrics(organization=caller.organization))
    form = EndpointForm(request.POST or None, metrics=metrics, endpoint=found)
    if form.is_valid():
        require_for_types(caller, form.cleaned_data["message_types"])
        try:
            webhook_services.update_endpoint(
                endpoint=found, changes=form.changes(), actor=caller.actor, now=timezone.now()
            )
        except ApplicationError as error:
            add_errors(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("alerts:webhook", caller.organization.pk, found.pk)
    page = get_endpoint_form_page(caller, form, found)
    return render_page(request, caller, "alerts/webhook_form.html", page, section="webhooks")


@require_POST
@organization_page
def switch_webhook(request: HttpRequest, caller: Caller, endpoint_id: int) -> HttpResponse:
    """Enable the endpoint, or disable it: `enabled` says which."""
    caller.require(Scope.METRICS_WRITE)
    found = _endpoint(caller, endpoint_id)
    wanted = request.POST.get("enabled", "")
    if wanted not in {"yes", "no"}:
        raise InvalidInput.of("enabled", "Choose yes or no.")
    webhook_services.update_endpoint(
        endpoint=found, changes={"is_enabled": wanted == "yes"}, actor=caller.actor, now=timezone.now()
    )
    told = "enabled; what had failed can be replayed" if wanted == "yes" else "disabled; nothing more is sent to it"
    messages.success(request, f"The endpoint is {told}.")
    return redirect("alerts:webhook", caller.organization.pk, found.pk)


@never_cache
@require_POST
@organization_page
def rotate_webhook_secret(request: HttpRequest, caller: Caller, endpoint_id: int) -> HttpResponse:
    """Make a new secret and show it, in the answer and never again."""
    caller.require(Scope.METRICS_WRITE)
    found = _endpoint(caller, endpoint_id)
    rotated = webhook_services.rotate_secret(endpoint=found, actor=caller.actor, now=timezone.now())
    secret = ShownSecret("The endpoint's new secret", rotated.secret, rotated.previous_secret_until)
    page = get_endpoint_page(request, caller, _endpoint(caller, endpoint_id), issued=secret)
    return render_page(request, caller, "alerts/webhook.html", page, section="webhooks")


@require_POST
@organization_page
def test_webhook(request: HttpRequest, caller: Caller, endpoint_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _endpoint(caller, endpoint_id)
    delivery = webhook_services.send_test(endpoint=found, now=timezone.now())
    messages.success(request, "A test is on its way; reload in a moment to see what came of it.")
    return redirect("alerts:delivery", caller.organization.pk, found.pk, delivery.pk)


@require_POST
@organization_page
def delete_webhook(request: HttpRequest, caller: Caller, endpoint_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _endpoint(caller, endpoint_id)
    webhook_services.delete_endpoint(endpoint=found, actor=caller.actor, now=timezone.now())
    messages.success(request, "The endpoint is deleted, with what was sent to it.")
    return redirect("alerts:webhook_list", caller.organization.pk)


@never_cache
@require_safe
@organization_page
def delivery(request: HttpRequest, caller: Caller, endpoint_id: int, delivery_id: int) -> HttpResponse:
    page = get_delivery_page(caller, _delivery(caller, endpoint_id, delivery_id))
    return render_page(request, caller, "alerts/delivery.html", page, section="webhooks")


@require_POST
@organization_page
def replay_delivery(request: HttpRequest, caller: Caller, endpoint_id: int, delivery_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _delivery(caller, endpoint_id, delivery_id)
    webhook_services.replay_delivery(delivery=found, actor=caller.actor, now=timezone.now())
    messages.success(request, "It is sent again; reload in a moment to see what came of it.")
    return redirect("alerts:delivery", caller.organization.pk, endpoint_id, delivery_id)


def _endpoint(caller: Caller, endpoint_id: int) -> WebhookEndpoint:
    return get_endpoint_for(caller, endpoint_id)


def _delivery(caller: Caller, endpoint_id: int, delivery_id: int) -> Delivery:
    return get_delivery(endpoint=_endpoint(caller, endpoint_id), delivery_id=delivery_id)
