"""Pages about scheduled reports, and the page behind the link that stops one."""

from __future__ import annotations

from datetime import datetime

from django.contrib import messages
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from accounts.access import Caller
from accounts.domain import Scope
from accounts.models import Customer
from accounts.pages import organization_page, read_or_post, render_page, text_parameter, visitor
from accounts.queries import get_customer
from common.errors import ApplicationError, FieldError, InvalidInput, NotFound
from metering.export_files import answer_with_file
from metering.export_formats import FORMATS
from metering.models import Metric
from metering.queries import get_metric, list_active_metrics
from usage_reports import queries
from usage_reports.contexts.reports import (
    get_metric_choice_page,
    get_report_form_page,
    get_report_list,
    get_report_page,
    get_unsubscribe_page,
)
from usage_reports.forms import MetricChoiceForm, NewReportForm, ReportForm, initial_of_address
from usage_reports.models import Report
from usage_reports.services import opt_outs, runs
from usage_reports.services import reports as report_services


@require_safe
@organization_page
def report_list(request: HttpRequest, caller: Caller) -> HttpResponse:
    page = get_report_list(request, caller)
    return render_page(request, caller, "usage_reports/report_list.html", page, section="reports")


@never_cache
@require_safe
@organization_page
def report(request: HttpRequest, caller: Caller, report_id: int) -> HttpResponse:
    page = get_report_page(request, _report(caller, report_id))
    return render_page(request, caller, "usage_reports/report.html", page, section="reports")


@read_or_post
@organization_page
def new_report(request: HttpRequest, caller: Caller) -> HttpResponse:
    """The form for `?metric=`, filled in from the rest of the address; without one, the choice of a metric."""
    caller.require(Scope.METRICS_WRITE)
    organization = caller.organization
    code = text_parameter(request, "metric")
    if not code:
        choice = MetricChoiceForm(metrics=list(list_active_metrics(organization=organization)))
        choice_page = get_metric_choice_page(organization, choice)
        return render_page(request, caller, "usage_reports/report_metric.html", choice_page, section="reports")
    metric = get_metric(organization=organization, code=code)
    initial = {**initial_of_address(request.GET, metric), "recipients": visitor(request).email}
    form = NewReportForm(request.POST or None, metric=metric, zone=organization.zone, initial=initial)
    if form.is_valid() and (created := _create_report(caller, metric, form)) is not None:
        messages.success(request, f"{created.name} is saved.")
        return redirect("usage_reports:report", organization.pk, created.pk)
    page = get_report_form_page(organization, form)
    return render_page(request, caller, "usage_reports/report_form.html", page, section="reports")


def _create_report(caller: Caller, metric: Metric, form: NewReportForm) -> Report | None:
    """Return the new report, or None where the form has the refusal now."""
    external_id = form.cleaned_data["customer"]
    try:
        customer = _customer(caller, external_id) if external_id else None
        return report_services.create_report(
            organization=caller.organization,
            metric=metric,
            definition=report_services.ReportDefinition(customer=customer, **form.changes()),
            actor=caller.actor,
            now=timezone.now(),
        )
    except ApplicationError as error:
        form.add_refusal(error)
        return None


def _customer(caller: Caller, external_id: str) -> Customer:
    """Return the customer that the form names. Raises `InvalidInput` at the field."""
    try:
        return get_customer(caller, external_id)
    except NotFound as error:
        raise InvalidInput(error.message, errors=[FieldError("customer", "not_found", error.message)]) from None


@read_or_post
@organization_page
def edit_report(request: HttpRequest, caller: Caller, report_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _report(caller, report_id)
    form = ReportForm(request.POST or None, metric=found.metric, zone=caller.organization.zone, report=found)
    if form.is_valid():
        try:
            report_services.update_report(report=found, changes=form.changes(), actor=caller.actor, now=timezone.now())
        except ApplicationError as error:
            form.add_refusal(error)
        else:
            messages.success(request, "Saved.")
            return redirect("usage_reports:report", caller.organization.pk, found.pk)
    page = get_report_form_page(caller.organization, form, found)
    return render_page(request, caller, "usage_reports/report_form.html", page, section="reports")


@require_POST
@organization_page
def send_report(request: HttpRequest, caller: Caller, report_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _report(caller, report_id)
    runs.request_run(report=found, actor=caller.actor, now=timezone.now())
    messages.success(request, "It is on its way; the history below tells when it has been sent.")
    return redirect("usage_reports:report", caller.organization.pk, found.pk)


@require_POST
@organization_page
def switch_report(request: HttpRequest, caller: Caller, report_id: int) -> HttpResponse:
    """Pause the report or let it go on."""
    caller.require(Scope.METRICS_WRITE)
    found = _report(caller, report_id)
    is_paused = request.POST.get("paused") == "yes"
    report_services.update_report(
        report=found, changes={"is_paused": is_paused}, actor=caller.actor, now=timezone.now()
    )
    messages.success(request, "Paused: nothing is sent by itself." if is_paused else "It is sent again when it is due.")
    return redirect("usage_reports:report", caller.organization.pk, found.pk)


@require_POST
@organization_page
def delete_report(request: HttpRequest, caller: Caller, report_id: int) -> HttpResponse:
    caller.require(Scope.METRICS_WRITE)
    found = _report(caller, report_id)
    report_services.delete_report(report=found, actor=caller.actor)
    messages.success(request, f"{found.name} is deleted.")
    return redirect("usage_reports:report_list", caller.organization.pk)


# --- files ----------------------------------------------------------------------------------------------------


@never_cache
@require_safe
@organization_page
def download_report(request: HttpRequest, caller: Caller, report_id: int) -> FileResponse:
    """What the report would tell if it were due now, as a file of `?format=`."""
    return _download(request, _report(caller, report_id), timezone.now())


@never_cache
@require_safe
@organization_page
def download_run(request: HttpRequest, caller: Caller, report_id: int, run_id: int) -> FileResponse:
    """What a run told of, as it is known today and as the report is today."""
    found = _report(caller, report_id)
    return _download(request, found, queries.get_run(report=found, run_id=run_id).due_at)


def _download(request: HttpRequest, found: Report, at: datetime) -> FileResponse:
    export_format = FORMATS.get(text_parameter(request, "format") or "csv")
    if export_format is None:
        raise InvalidInput.of("format", f"Use one of {', '.join(FORMATS)}.")
    usage = queries.get_report_usage(report=found, at=at)
    return answer_with_file(usage.table, usage.selection, export_format)


# --- stopping it ----------------------------------------------------------------------------------------------


@csrf_exempt  # mail programs POST here by themselves (RFC 8058); the signed link is what proves who asks
@never_cache
@read_or_post
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """Ask, and on a POST stop the report for the address in the link; `again=yes` takes that back.

    A GET changes nothing: programs that look into mails follow links.
    """
    try:
        place = opt_outs.find_mailing_place(token)
    except NotFound as error:
        raise Http404(error.message) from error
    if request.method == "POST":
        if request.POST.get("again") == "yes":
            opt_outs.opt_in(place)
        else:
            opt_outs.opt_out(place)
        return redirect(request.path)
    return render(request, "usage_reports/report_unsubscribe.html", {"page": get_unsubscribe_page(place)})


def _report(caller: Caller, report_id: int) -> Report:
    return queries.get_report(organization=caller.organization, report_id=report_id)
