"""Writes of saved reports: what they tell of, when, and to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from accounts.models import Customer, Membership, Organization
from accounts.services import record_audit
from accounts.services.audit import refuse_invalid
from common.errors import InvalidInput, NotFound
from metering.domain import Mode
from metering.models import Metric
from usage_reports import queries
from usage_reports.domain import Frequency, ReportRange, RunState, next_due_time
from usage_reports.models import Report, ReportRecipient, ReportRun

MAX_REPORTS = 200
MAX_RECIPIENTS = 20
# What changes when a report is due next.
SCHEDULE_FIELDS = frozenset({"frequency", "hour", "weekday", "day_of_month", "zone"})


@dataclass(frozen=True, slots=True)
class ReportDefinition:
    """What a new report tells of, when, and to whom; see the fields of `Report`."""

    name: str
    recipients: Sequence[str]
    customer: Customer | None = None
    filters: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    group_by: Sequence[str] = ()
    granularity: str = ""
    mode: str = Mode.INCREMENTAL
    range_name: str = ReportRange.LAST_7_DAYS
    frequency: str = Frequency.WEEKLY
    hour: int = 7
    weekday: int = 0
    day_of_month: int = 1
    zone: str = ""
    is_paused: bool = False


def create_report(
    *, organization: Organization, metric: Metric, definition: ReportDefinition, actor: str, now: datetime
) -> Report:
    """Save a report; its first run is the next moment that its schedule names.

    Raises `InvalidInput` for what the metric cannot be split by, too many reports, or no or bad addresses.
    """
    report = Report(
        organization=organization,
        name=definition.name,
        metric=metric,
        customer=definition.customer,
        filters={key: list(values) for key, values in definition.filters.items()},
        group_by=list(definition.group_by),
        granularity=definition.granularity,
        mode=definition.mode,
        range_name=definition.range_name,
        frequency=definition.frequency,
        hour=definition.hour,
        weekday=definition.weekday,
        day_of_month=definition.day_of_month,
        zone=definition.zone,
    )
    refuse_invalid(report)
    queries.require_readable(report)
    addresses = _read_addresses(definition.recipients)
    if Report.objects.for_organization(organization)[MAX_REPORTS - 1 :].exists():
        raise InvalidInput.of("name", f"At most {MAX_REPORTS} reports in an organization.", "too_many")
    if not definition.is_paused:
        plan(report, now)
    with transaction.atomic():
        report.save()
        _set_recipients(report, addresses)
        record_audit(organization=organization, actor=actor, action="report.created", target=report.name)
    return report


def update_report(*, report: Report, changes: Mapping[str, Any], actor: str, now: datetime) -> Report:
    """Change fields of a report, also `recipients` and `is_paused`. A pause takes back what waits to be sent.

    A changed schedule counts from now on. Raises `InvalidInput` as `create_report` does.
    """
    fields = dict(changes)
    recipients, is_paused = fields.pop("recipients", None), fields.pop("is_paused", None)
    addresses = None if recipients is None else _read_addresses(recipients)
    with transaction.atomic():
        locked = lock_report(report)
        changed = {name for name, value in fields.items() if getattr(locked, name) != value}
        for name in changed:
            setattr(locked, name, fields[name])
        refuse_invalid(locked)
        queries.require_readable(locked)
        if is_paused is not None and is_paused != locked.is_paused:
            changed.add("is_paused")
        if is_paused is True:
            locked.next_due_at = None
            _skip_waiting(locked)
        elif (locked.is_paused and is_paused is False) or (not locked.is_paused and changed & SCHEDULE_FIELDS):
            plan(locked, now)
        locked.save()
        if addresses is not None and _set_recipients(locked, addresses):
            changed.add("recipients")
        if changed:
            details = {"changed": sorted(changed)}
            organization = locked.organization
            record_audit(
                organization=organization, actor=actor, action="report.updated", target=locked.name, details=details
            )
    return locked


def delete_report(*, report: Report, actor: str) -> None:
    """Delete a report with its history."""
    with transaction.atomic():
        Report.objects.for_organization(report.organization_id).filter(pk=report.pk).delete()
        record_audit(organization=report.organization, actor=actor, action="report.deleted", target=report.name)


def lock_report(report: Report) -> Report:
    """Return the report read anew, with its row locked. Raises `NotFound` where it was deleted meanwhile."""
    reports = Report.objects.for_organization(report.organization_id).select_for_update(of=("self",))
    locked: Report | None = reports.select_related("organization", "metric", "customer").filter(pk=report.pk).first()
    if locked is None:
        raise NotFound("There is no such report.")
    return locked


def plan(report: Report, now: datetime) -> None:
    """Set when the report is due next. Does not save."""
    report.planned_zone = report.zone_name
    report.next_due_at = next_due_time(report.schedule, after=now, zone=ZoneInfo(report.zone_name))


def _skip_waiting(report: Report) -> None:
    runs = ReportRun.objects.for_organization(report.organization_id).filter(report=report, state=RunState.PENDING)
    runs.update(state=RunState.SKIPPED, error="The report was paused before this could be sent.")


# --- recipients -----------------------------------------------------------------------------------------------


def _read_addresses(texts: Sequence[str]) -> list[str]:
    """Return the addresses in lower case, each once."""
    addresses = list(dict.fromkeys(text.strip().lower() for text in texts))
    if not 0 < len(addresses) <= MAX_RECIPIENTS:
        raise InvalidInput.of("recipients", f"Give 1 to {MAX_RECIPIENTS} e-mail addresses.", "invalid_recipients")
    for address in addresses:
        try:
            validate_email(address)
        except ValidationError:
            message = f"{address[:100]!r} is not an e-mail address."
            raise InvalidInput.of("recipients", message, "invalid_recipients") from None
    return addresses


def _set_recipients(report: Report, addresses: Sequence[str]) -> bool:
    """Make these the recipients; tell whether anything changed. Who is a member gets it as long as they are one."""
    recipients = ReportRecipient.objects.for_organization(report.organization_id).filter(report=report)
    gone = recipients.exclude(email__in=addresses).delete()[0]
    known = set(recipients.values_list("email", flat=True))
    missing = [address for address in addresses if address not in known]
    members = Membership.objects.for_organization(report.organization_id).filter(user__email__in=missing)
    membership_of = dict(members.values_list("user__email", "pk"))
    ReportRecipient.objects.bulk_create(
        ReportRecipient(
            organization_id=report.organization_id,
            report=report,
            email=address,
            membership_id=membership_of.get(address),
        )
        for address in missing
    )
    return bool(gone or missing)
