"""What the mail with an invoice says, and the PDF that comes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from django.conf import settings

from billing.documents.pdf import render_pdf
from billing.documents.printed import document_name, document_title, printed_period
from billing.documents.words import day_text
from billing.domain.currencies import money_text
from billing.domain.invoices import InvoiceContent
from billing.models import Invoice, InvoiceKind
from common.mail import Attachment, render_texts


def write_invoice_mail(*, invoice: Invoice, content: InvoiceContent) -> dict[str, Any]:
    """Return subject, texts, headers and attachment, as `MailRun.send` takes them. Raises what `render_pdf` does."""
    seller: Mapping[str, Any] = content.snapshot["seller"]
    zone = ZoneInfo(content.snapshot["subscription"]["zone"])
    title, sender = document_title(invoice), seller["name"] or invoice.organization.name
    is_credit_note = invoice.kind == InvoiceKind.CREDIT_NOTE
    context = {
        "title": title,
        "number": invoice.number,
        "credited_number": invoice.credited_invoice.number if invoice.credited_invoice else "",
        "sender": sender,
        "customer": content.snapshot["customer"]["name"],
        "period": printed_period(content.snapshot),
        "amount": money_text(content.total_minor if is_credit_note else content.due_minor, content.currency),
        "is_credit_note": is_credit_note,
        "due_on": day_text(invoice.due_at, zone) if invoice.due_at and content.due_minor else "",
        "file_name": document_name(invoice, "pdf"),
        "footer": content.snapshot.get("footer", ""),
    }
    return {
        "subject": f"{title} {invoice.number} of {sender}",
        **render_texts("billing/email/invoice", context),
        # The same for every attempt, so that mail systems can tell a repetition.
        "headers": {"Message-ID": f"<invoice-{invoice.pk}@{urlsplit(settings.PUBLIC_URL).hostname or 'localhost'}>"},
        "attachments": [
            Attachment(context["file_name"], render_pdf(invoice=invoice, content=content), "application/pdf")
        ],
    }
