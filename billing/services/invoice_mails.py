"""Invoices by e-mail: each once, to the address of its customer's billing profile, as far as SMTP can promise that.

An invoice is marked after the mail server took it, with its row locked in between. A worker that is killed between the
two mails it again, with the same Message-ID; none is lost. What cannot be sent holds up nothing else, and is tried
again for `MAILED_WITHIN`: in every run at first, then once an hour.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from smtplib import SMTPDataError, SMTPRecipientsRefused

import structlog
from django.db import transaction

from accounts.models import Organization
from billing.documents.mails import write_invoice_mail
from billing.models import BillingProfile, BillingSettings, Invoice, InvoiceState
from billing.queries.invoices import get_content, list_invoices
from common.errors import ApplicationError
from common.mail import MailRun

# Older ones come as a surprise, or belong to a time before mails were switched on.
MAILED_WITHIN = timedelta(days=3)
TRIED_IN_EVERY_RUN_FOR = timedelta(minutes=20)
TRIED_AGAIN_EVERY = timedelta(hours=1)
# Between two runs (`config.settings.celery`).
RUN_INTERVAL = timedelta(minutes=2)
# A run stops beginning mails after this; the next comes soon.
RUN_SECONDS = 90.0
MAX_MAILS_PER_RUN = 500

logger = structlog.get_logger("meterbook.mail")


@dataclass
class MailCounts:
    sent: int = 0
    failed: int = 0


def mail_invoices(*, now: datetime) -> MailCounts:
    """Mail what was finalised and not mailed, of every organization that wants it. Safe to run twice and at once."""
    counts, deadline = MailCounts(), time.monotonic() + RUN_SECONDS
    wanting = BillingSettings.objects.all_tenants().filter(is_mailed=True).select_related("organization")
    with MailRun() as run:
        for each in wanting.order_by("organization_id"):
            for invoice_id in _list_due_ids(each.organization, now):
                if time.monotonic() > deadline or counts.sent >= MAX_MAILS_PER_RUN:
                    return counts
                try:
                    counts.sent += _mail_one(each.organization, invoice_id, run, now)
                except (SMTPRecipientsRefused, SMTPDataError, ApplicationError) as error:
                    counts.failed += 1
                    logger.warning("invoice not mailed", invoice=invoice_id, reason=str(error)[:200])
                except OSError as error:
                    # The mail server is away: the others would wait for it in vain as well.
                    counts.failed += 1
                    logger.warning("mail server not reached", invoice=invoice_id, reason=type(error).__name__)
                    return counts
                except Exception:  # whatever is wrong with one invoice, the others are mailed
                    counts.failed += 1
                    logger.exception("invoice not mailed", invoice=invoice_id)
    return counts


def send_invoice(*, invoice: Invoice, now: datetime) -> bool:
    """Mail one invoice; tell whether that was done now, and not before or by somebody else at this moment.

    Raises `OSError` where the mail server refuses or is away, and what `render_pdf` does.
    """
    with MailRun() as run:
        return _mail_one(invoice.organization, invoice.pk, run, now)


@transaction.atomic
def _mail_one(organization: Organization, invoice_id: int, run: MailRun, now: datetime) -> bool:
    """Hold the row until the mail is on its way: who comes meanwhile passes by."""
    rows = list_invoices(organization=organization, state=InvoiceState.FINALISED)
    free = rows.select_for_update(of=("self",), skip_locked=True, no_key=True)
    invoice: Invoice | None = free.filter(pk=invoice_id, mailed_at__isnull=True).first()
    if invoice is None or not (address := _find_address(invoice)):
        return False
    run.send(to=[address], **write_invoice_mail(invoice=invoice, content=get_content(invoice=invoice, now=now)))
    invoice.mailed_at = now
    invoice.save(update_fields=["mailed_at"])
    logger.info("invoice mailed", invoice=invoice.pk)
    return True


def _find_address(invoice: Invoice) -> str:
    """Return where it goes now, which may have been corrected since it was finalised; empty: nowhere."""
    profiles = BillingProfile.objects.for_organization(invoice.organization_id).filter(customer=invoice.customer_id)
    return profiles.values_list("email", flat=True).first() or ""


def _list_due_ids(organization: Organization, now: datetime) -> list[int]:
    rows = Invoice.objects.for_organization(organization).filter(
        state=InvoiceState.FINALISED, mailed_at__isnull=True, issued_at__gte=now - MAILED_WITHIN
    )
    addressed = rows.filter(customer__billing_profile__email__gt="")
    found = addressed.order_by("pk").values_list("pk", "issued_at")
    return [invoice_id for invoice_id, issued_at in found if issued_at and _is_tried(now - issued_at)]


def _is_tried(age: timedelta) -> bool:
    """Tell whether this run tries an invoice of that age. Follows from the time alone: nothing counts attempts."""
    return age < TRIED_IN_EVERY_RUN_FOR or age % TRIED_AGAIN_EVERY < RUN_INTERVAL
