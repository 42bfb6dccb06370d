"""One invoice as a file that is downloaded: the answers of the API and of the pages."""

from __future__ import annotations

from datetime import datetime

from django.http import HttpResponse

from billing.documents import tables
from billing.documents.pdf import render_pdf
from billing.documents.printed import document_name
from billing.models import Invoice
from billing.queries.invoices import get_content

PDF = "application/pdf"


def answer_pdf(invoice: Invoice, now: datetime) -> HttpResponse:
    content = render_pdf(invoice=invoice, content=get_content(invoice=invoice, now=now))
    return _file(content, PDF, document_name(invoice, "pdf"))


def answer_csv(invoice: Invoice, now: datetime) -> HttpResponse:
    content = tables.invoice_csv(invoice=invoice, content=get_content(invoice=invoice, now=now))
    return _file(content, tables.CONTENT_TYPE, document_name(invoice, "csv"))


def _file(content: bytes, content_type: str, name: str) -> HttpResponse:
    file = HttpResponse(content, content_type=content_type)
    file["Content-Disposition"] = f'attachment; filename="{name}"'
    return file
