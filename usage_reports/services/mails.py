"""What a report's mail says: the range, the total, and the usage as a CSV file where it is small enough."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from django.conf import settings
from django.urls import reverse

from common.mail import Attachment, render_texts
from common.numbers import exact_text
from metering.domain import Span
from metering.export_formats import FORMATS, export_file_name
from metering.queries.exports import Cell, UsageTable, export_snapshot
from usage_reports.domain import MICROSECOND, ReportRange
from usage_reports.models import Report, ReportRecipient
from usage_reports.queries import get_report_usage
from usage_reports.services.opt_outs import unsubscribe_url

# Mail servers commonly refuse more than 10 MB, and a file grows by a third on its way.
MAX_ATTACHMENT_BYTES = 5 * 1024 * 1024
CSV = FORMATS["csv"]


@dataclass(frozen=True, slots=True)
class ReportMail:
    """A report as it is mailed to everybody; only the link that stops it differs. Times are in the report's zone."""

    report: Report
    span: Span
    range_text: str
    total: str
    count: int
    file_name: str
    # None: it would be larger than a mail takes.
    content: bytes | None
    # None: nobody counted, because the file was too large.
    row_count: int | None

    def facts(self) -> dict[str, Any]:
        """Return what the run's row tells of the file."""
        return {
            "range_start": self.span.start,
            "range_end": self.span.end,
            "row_count": self.row_count,
            "is_attached": self.content is not None,
        }

    def to_recipient(self, recipient: ReportRecipient, *, run_id: int) -> dict[str, Any]:
        """Return subject, texts, headers and attachment, as `MailRun.send` takes them."""
        stop_url = unsubscribe_url(recipient)
        context = {
            "mail": self,
            "report": self.report,
            "page_url": settings.PUBLIC_URL + self._path("usage_reports:report", self.report.pk),
            "export_url": settings.PUBLIC_URL + self._path("usage_reports:download_run", self.report.pk, run_id),
            "stop_url": stop_url,
            "limit_megabytes": MAX_ATTACHMENT_BYTES // 1024**2,
        }
        return {
            "subject": f"{self.report.name}: {self.range_text} ({self.report.organization.name})",
            **render_texts("usage_reports/email/report", context),
            "headers": {
                "Message-ID": _message_id(run_id, recipient.email),
                "List-Unsubscribe": f"<{stop_url}>",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            },
            "attachments": [] if self.content is None else [Attachment(self.file_name, self.content, "text/csv")],
        }

    def _path(self, name: str, *arguments: int) -> str:
        return reverse(name, args=[self.report.organization_id, *arguments])


def write_report_mail(report: Report, *, due_at: datetime) -> ReportMail:
    """Read the usage in one snapshot and write it down. Raises `ApplicationError` where it cannot be read."""
    usage = get_report_usage(report=report, at=due_at)
    with export_snapshot():
        total = usage.total()
        content, row_count = _write_csv(usage.table)
    value = f"{exact_text(total.value)} {report.metric.unit}".strip()
    return ReportMail(
        report=report,
        span=usage.span,
        range_text=" to ".join(range_ends(ReportRange(report.range_name), usage.span, ZoneInfo(report.zone_name))),
        total=value,
        count=total.count,
        file_name=export_file_name(usage.selection, CSV),
        content=content,
        row_count=row_count,
    )


def range_ends(report_range: ReportRange, span: Span, zone: ZoneInfo) -> list[str]:
    """Name a range by its first and last day, or its only one; the end of one that ends within a day by the minute."""
    first, end = span.start.astimezone(zone), span.end.astimezone(zone)
    if report_range in {ReportRange.WEEK_TO_DATE, ReportRange.MONTH_TO_DATE}:
        return [f"{first:%Y-%m-%d}", f"{end:%Y-%m-%d %H:%M}"]
    last = (span.end - MICROSECOND).astimezone(zone)
    return list(dict.fromkeys([f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}"]))


class _TooLarge(Exception):
    pass


class _BoundedFile(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > MAX_ATTACHMENT_BYTES:
            raise _TooLarge
        return super().write(data)


def _write_csv(table: UsageTable) -> tuple[bytes | None, int | None]:
    """Return the file and how many rows it has; nothing of one that is too large, of which no more is read."""
    file, row_count = _BoundedFile(), 0

    def rows() -> Iterator[tuple[Cell, ...]]:
        nonlocal row_count
        for row in table.rows():
            row_count += 1
            yield row

    try:
        CSV.write(UsageTable(table.columns, rows), file)
    except _TooLarge:
        return None, None
    return file.getvalue(), row_count


def _message_id(run_id: int, email: str) -> str:
    """Return the same id for every attempt, so that mail systems can tell a repetition."""
    digest = hashlib.sha256(email.encode()).hexdigest()[:16]
    return f"<report-{run_id}.{digest}@{urlsplit(settings.PUBLIC_URL).hostname or 'localhost'}>"
