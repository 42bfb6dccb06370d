"""Reads of scheduled reports: whose they are, what is due, and the usage that one tells of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from django.db.models import Exists, F, OuterRef, Q

from accounts.models import Organization
from common.errors import InvalidInput
from common.models import TenantQuerySet
from metering.domain import Granularity, Mode, Span
from metering.queries import Usage, get_usage
from metering.queries.exports import ExportSelection, UsageTable, breakdown_table, series_table
from metering.queries.windows import GRANULARITIES
from metering.sql.usage import CUSTOMER
from usage_reports.domain import ReportRange, RunState, range_span
from usage_reports.models import MAX_GROUPS, Report, ReportOptOut, ReportRecipient, ReportRun


def list_reports(*, organization: Organization) -> TenantQuerySet:
    reports = Report.objects.for_organization(organization).select_related("organization", "metric", "customer")
    return reports.prefetch_related("recipients")


def get_report(*, organization: Organization, report_id: int) -> Report:
    """Return the report. Raises `NotFound`, for a foreign id like for an absent one."""
    return list_reports(organization=organization).get_by_id(report_id, "There is no such report.")


def list_runs(*, report: Report) -> TenantQuerySet:
    return ReportRun.objects.for_organization(report.organization_id).filter(report=report)


def get_run(*, report: Report, run_id: int) -> ReportRun:
    """Return a run of the report. Raises `NotFound`."""
    return list_runs(report=report).get_by_id(run_id, "There is no such run.")


def find_last_runs(*, organization: Organization, reports: Sequence[Report]) -> dict[int, ReportRun]:
    """Return the newest run of each report that has one, by the report's id. One query."""
    runs = ReportRun.objects.for_organization(organization).filter(report__in=[report.pk for report in reports])
    return {run.report_id: run for run in runs.order_by("report", "-pk").distinct("report")}


# --- whom to tell ---------------------------------------------------------------------------------------------


def list_recipients(*, report: Report) -> TenantQuerySet:
    """Return the recipients by address, each with `has_opted_out`."""
    opt_outs = ReportOptOut.objects.for_organization(report.organization_id).filter(
        report=OuterRef("report"), email=OuterRef("email")
    )
    recipients = ReportRecipient.objects.for_organization(report.organization_id).filter(report=report)
    return (
        recipients.select_related("membership__user").annotate(has_opted_out=Exists(opt_outs)).order_by("email", "pk")
    )


def list_recipients_to_mail(*, report: Report) -> list[ReportRecipient]:
    """Return who gets the report: not who stopped it, nor members who cannot sign in any more."""
    recipients = list_recipients(report=report).filter(has_opted_out=False)
    return list(recipients.filter(Q(membership__isnull=True) | Q(membership__user__is_active=True)))


# --- what is due ----------------------------------------------------------------------------------------------


def list_due_report_ids(*, now: datetime, limit: int) -> list[int]:
    """Return the reports whose time has come, the longest overdue first."""
    reports = Report.objects.all_tenants().filter(next_due_at__lte=now)
    return list(reports.order_by("next_due_at", "pk").values_list("pk", flat=True)[:limit])


def list_moved_report_ids(*, limit: int) -> list[int]:
    """Return the reports that follow their organization's zone and were planned in another one."""
    reports = Report.objects.all_tenants().filter(zone="", next_due_at__isnull=False)
    moved = reports.exclude(planned_zone=F("organization__zone"))
    return list(moved.order_by("pk").values_list("pk", flat=True)[:limit])


def list_run_ids_to_send(*, now: datetime, limit: int) -> list[int]:
    """Return the runs that wait for an attempt and that no worker is at."""
    runs = ReportRun.objects.all_tenants().filter(state=RunState.PENDING, next_attempt_at__lte=now)
    free = runs.filter(Q(leased_until__isnull=True) | Q(leased_until__lte=now))
    return list(free.order_by("next_attempt_at", "pk").values_list("pk", flat=True)[:limit])


# --- the usage of a report ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReportUsage:
    """What a report tells of when it is due at some moment. `table` reads its rows whenever it is iterated."""

    selection: ExportSelection
    table: UsageTable

    @property
    def span(self) -> Span:
        return self.selection.span

    def total(self) -> Usage:
        """Return the metric's own aggregation over the whole range."""
        selection = self.selection
        return get_usage(
            organization=selection.organization,
            metric=selection.metric,
            start=selection.span.start,
            end=selection.span.end,
            customer_id=selection.customer_id,
            filters=selection.filters,
        )


def require_readable(report: Report) -> None:
    """Raise `InvalidInput` for what the metric cannot be split by, or what no series has.

    Asked again at every reading: until its first event a metric's dimensions may change.
    """
    declared = {dimension["key"] for dimension in report.metric.dimensions}
    for key in report.filters:
        if key not in declared:
            raise InvalidInput.of(f"filter.{key}", "The metric does not declare this dimension.", "unknown_dimension")
    if len(report.group_by) > MAX_GROUPS:
        raise InvalidInput.of("group_by", f"At most {MAX_GROUPS} keys.", "too_many")
    for key in report.group_by:
        if key not in declared | {CUSTOMER}:
            raise InvalidInput.of("group_by", f"The metric does not declare {key[:100]!r}.", "unknown_dimension")
    if len(set(report.group_by)) < len(report.group_by):
        raise InvalidInput.of("group_by", "Each key stands once.", "repeated")
    mode = Mode(report.mode)
    if not report.granularity and mode != Mode.INCREMENTAL:
        raise InvalidInput.of("mode", "Only a series has this; give a granularity too.", "invalid_combination")
    if report.granularity and Granularity(report.granularity) not in GRANULARITIES[mode]:
        needed = " or ".join(sorted(GRANULARITIES[mode]))
        raise InvalidInput.of("mode", f"{mode} needs granularity={needed}.", "invalid_combination")


def get_report_usage(*, report: Report, at: datetime) -> ReportUsage:
    """Return the usage of a report that is due at `at`; its rows are not read yet. Raises `InvalidInput`."""
    require_readable(report)
    zone = ZoneInfo(report.zone_name)
    customer = report.customer
    selection = ExportSelection(
        organization=report.organization,
        metric=report.metric,
        span=range_span(ReportRange(report.range_name), at=at, zone=zone),
        customer_id=report.customer_id,
        customer_name=customer.external_id if customer and CUSTOMER not in report.group_by else None,
        filters={key: tuple(values) for key, values in report.filters.items()},
        group_by=report.group_by,
    )
    if not report.granularity:
        return ReportUsage(selection, breakdown_table(selection))
    table = series_table(
        selection, granularity=Granularity(report.granularity), zone=zone.key, mode=Mode(report.mode), now=at
    )
    return ReportUsage(selection, table)
