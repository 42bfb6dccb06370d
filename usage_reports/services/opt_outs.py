"""Stopping a report by the link in its mails, without signing in. The link names one report and one address, signed."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.core import signing
from django.urls import reverse

from common.errors import NotFound
from usage_reports.models import Report, ReportOptOut, ReportRecipient

SALT = "usage_reports.unsubscribe"


@dataclass(frozen=True, slots=True)
class MailingPlace:
    """Somebody's place among a report's recipients, as a signed link names it."""

    report: Report
    email: str
    has_opted_out: bool


def unsubscribe_url(recipient: ReportRecipient) -> str:
    """Return the address that stops the report for this recipient. It never expires."""
    token = signing.dumps([recipient.report_id, recipient.email], salt=SALT)
    return settings.PUBLIC_URL + reverse("usage_reports:unsubscribe", args=[token])


def find_mailing_place(token: str) -> MailingPlace:
    """Return whom the link is about. Raises `NotFound` for a link that is not ours, or of a report that is gone."""
    try:
        report_id, email = signing.loads(token, salt=SALT)
    except signing.BadSignature:
        raise NotFound("There is no such link.") from None
    # The signature stands for the tenant: nobody else could have made the link.
    report = Report.objects.all_tenants().select_related("organization").filter(pk=report_id).first()
    if report is None:
        raise NotFound("There is no such report.")
    opt_outs = ReportOptOut.objects.for_organization(report.organization_id).filter(report=report, email=email)
    return MailingPlace(report, email, has_opted_out=opt_outs.exists())


def opt_out(place: MailingPlace) -> None:
    """Send the address no more of this report, whoever adds it again. Idempotent."""
    ReportOptOut.objects.bulk_create(
        [ReportOptOut(organization_id=place.report.organization_id, report=place.report, email=place.email)],
        ignore_conflicts=True,
    )


def opt_in(place: MailingPlace) -> None:
    """Take an opt-out back. Idempotent."""
    opt_outs = ReportOptOut.objects.for_organization(place.report.organization_id)
    opt_outs.filter(report=place.report, email=place.email).delete()
