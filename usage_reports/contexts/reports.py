"""Scheduled reports: their list, one with its runs, the form, and the page that stops one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse

from accounts.access import Caller
from accounts.models import Organization
from accounts.pages import page_before
from accounts.queries import suggest_customers
from metering.contexts.words import NO_VALUE, metric_name
from metering.domain import Mode, Span
from metering.export_formats import FORMATS
from metering.queries import list_active_metrics
from usage_reports import queries
from usage_reports.domain import WEEKDAYS, Frequency, ReportRange, RunState
from usage_reports.forms import MetricChoiceForm, ReportForm
from usage_reports.models import Report, ReportRun
from usage_reports.services.mails import range_ends
from usage_reports.services.opt_outs import MailingPlace

PAGE_SIZE = 30
FORMAT_LABELS = {"csv": "CSV", "ndjson": "NDJSON", "parquet": "Parquet"}
STATE_CLASSES = {RunState.PENDING: "is-accent", RunState.SENT: "is-success", RunState.FAILED: "is-danger"}
MODE_TEXTS = {Mode.MONTH_TO_DATE: ", each with its month so far", Mode.ROLLING_30D: ", each with its 30 days"}


# --- words ----------------------------------------------------------------------------------------------------


def schedule_text(report: Report) -> str:
    """Say when: "every Monday at 07:00"."""
    at = f"at {report.hour:02}:00"
    match Frequency(report.frequency):
        case Frequency.DAILY:
            return f"every day {at}"
        case Frequency.WEEKLY:
            return f"every {WEEKDAYS[report.weekday].capitalize()} {at}"
        case Frequency.MONTHLY:
            return f"every month on day {report.day_of_month} {at}"


def shape_text(report: Report) -> str:
    """Say what the rows are: "by region, customer and day"."""
    keys = [*report.group_by, *([report.granularity] if report.granularity else [])]
    if not keys:
        return "in one row"
    listed = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
    return f"by {listed}{MODE_TEXTS.get(Mode(report.mode), '')}"


def filter_texts(report: Report) -> list[str]:
    return [
        f"{key}: {', '.join(NO_VALUE if value is None else value for value in values)}"
        for key, values in sorted(report.filters.items())
    ]


# --- the list -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReportRow:
    name: str
    url: str
    metric: str
    customer: str
    shape: str
    range_label: str
    schedule: str
    # Empty: the organization's.
    zone: str
    zone_name: str
    is_paused: bool
    next_due_at: datetime | None
    recipient_count: int
    last_run: RunRow | None


@dataclass(frozen=True, slots=True)
class ReportListPage:
    rows: list[ReportRow]
    new_url: str
    has_metrics: bool
    next_url: str
    first_url: str


def get_report_list(request: HttpRequest, caller: Caller) -> ReportListPage:
    """A page of the reports, newest first. Four queries, however many there are."""
    organization = caller.organization
    page = page_before(request, queries.list_reports(organization=organization), size=PAGE_SIZE)
    last_runs = queries.find_last_runs(organization=organization, reports=page.rows)
    return ReportListPage(
        rows=[_report_row(report, last_runs.get(report.pk)) for report in page.rows],
        new_url=reverse("usage_reports:new_report", args=[organization.pk]),
        has_metrics=list_active_metrics(organization=organization).exists(),
        next_url=page.next_url,
        first_url=page.first_url,
    )


def _report_row(report: Report, last_run: ReportRun | None) -> ReportRow:
    return ReportRow(
        name=report.name,
        url=reverse("usage_reports:report", args=[report.organization_id, report.pk]),
        metric=metric_name(report.metric),
        customer=report.customer.external_id if report.customer else "",
        shape=shape_text(report),
        range_label=report.get_range_name_display(),
        schedule=schedule_text(report),
        zone=report.zone,
        zone_name=report.zone_name,
        is_paused=report.is_paused,
        next_due_at=report.next_due_at,
        recipient_count=len(report.recipients.all()),
        last_run=_run_row(report, last_run) if last_run else None,
    )


# --- one report -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Download:
    label: str
    url: str


@dataclass(frozen=True, slots=True)
class RunRow:
    due_at: datetime
    is_manual: bool
    state: str
    state_class: str
    # The first and last day, or the only one; empty: nothing was read yet.
    days: list[str]
    row_count: int | None
    is_too_large: bool
    attempt_count: int
    # Null: nothing more will be tried.
    next_attempt_at: datetime | None
    sent_at: datetime | None
    error: str
    downloads: list[Download]


@dataclass(frozen=True, slots=True)
class RecipientRow:
    email: str
    # "member", "member, signed out for good", "outside", "has stopped it"
    note: str
    is_told: bool


@dataclass(frozen=True, slots=True)
class ReportPage:
    report: Report
    metric: str
    metric_url: str
    shape: str
    filters: list[str]
    range_label: str
    schedule: str
    recipients: list[RecipientRow]
    runs: list[RunRow]
    downloads: list[Download]
    next_url: str
    first_url: str


def get_report_page(request: HttpRequest, report: Report) -> ReportPage:
    page = page_before(request, queries.list_runs(report=report), size=PAGE_SIZE)
    arguments = [report.organization_id, report.pk]
    return ReportPage(
        report=report,
        metric=metric_name(report.metric),
        metric_url=reverse("metering:metric", args=[report.organization_id, report.metric.code]),
        shape=shape_text(report),
        filters=filter_texts(report),
        range_label=report.get_range_name_display(),
        schedule=schedule_text(report),
        recipients=_recipient_rows(report),
        runs=[_run_row(report, run) for run in page.rows],
        downloads=_downloads(reverse("usage_reports:download_report", args=arguments)),
        next_url=page.next_url,
        first_url=page.first_url,
    )


def _recipient_rows(report: Report) -> list[RecipientRow]:
    return [RecipientRow(recipient.address, *_note(recipient)) for recipient in queries.list_recipients(report=report)]


def _note(recipient: Any) -> tuple[str, bool]:
    """Return what to say of a recipient, and whether they get the report."""
    if recipient.has_opted_out:
        return "has stopped it", False
    if recipient.membership is None:
        return "outside", True
    return ("member", True) if recipient.membership.user.is_active else ("cannot sign in any more", False)


def _run_row(report: Report, run: ReportRun) -> RunRow:
    zone = ZoneInfo(report.zone_name)
    days: list[str] = []
    if run.range_start and run.range_end:
        days = range_ends(ReportRange(report.range_name), Span(run.range_start, run.range_end), zone)
    return RunRow(
        due_at=run.due_at,
        is_manual=run.is_manual,
        state=run.get_state_display().lower(),
        state_class=STATE_CLASSES.get(RunState(run.state), ""),
        days=days,
        row_count=run.row_count,
        is_too_large=run.is_attached is False,
        attempt_count=run.attempt_count,
        next_attempt_at=run.next_attempt_at if run.state == RunState.PENDING else None,
        sent_at=run.sent_at,
        error=run.error,
        downloads=_downloads(reverse("usage_reports:download_run", args=[report.organization_id, report.pk, run.pk])),
    )


def _downloads(url: str) -> list[Download]:
    return [Download(FORMAT_LABELS[name], f"{url}?{urlencode({'format': name})}") for name in FORMATS]


# --- the form -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReportFormPage:
    title: str
    submit_label: str
    cancel_url: str
    form: ReportForm
    metric: str
    customers: list[str]
    # None: a new one.
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class MetricChoicePage:
    form: MetricChoiceForm
    has_metrics: bool
    cancel_url: str


def get_metric_choice_page(organization: Organization, form: MetricChoiceForm) -> MetricChoicePage:
    return MetricChoicePage(
        form=form,
        has_metrics=bool(form.fields["metric"].choices),  # type: ignore[attr-defined]  # a ChoiceField
        cancel_url=reverse("usage_reports:report_list", args=[organization.pk]),
    )


def get_report_form_page(organization: Organization, form: ReportForm, report: Report | None = None) -> ReportFormPage:
    if report is None:
        return ReportFormPage(
            title="New report",
            submit_label="Save report",
            cancel_url=reverse("usage_reports:report_list", args=[organization.pk]),
            form=form,
            metric=metric_name(form.metric),
            customers=suggest_customers(organization),
        )
    return ReportFormPage(
        title=f"Edit {report.name}",
        submit_label="Save",
        cancel_url=reverse("usage_reports:report", args=[organization.pk, report.pk]),
        form=form,
        metric=metric_name(report.metric),
        customers=[],
        report=report,
    )


# --- stopping it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnsubscribePage:
    """Whoever holds the link may see which report of whom goes to which address."""

    report_name: str
    organization_name: str
    email: str
    has_opted_out: bool


def get_unsubscribe_page(place: MailingPlace) -> UnsubscribePage:
    return UnsubscribePage(place.report.name, place.report.organization.name, place.email, place.has_opted_out)
