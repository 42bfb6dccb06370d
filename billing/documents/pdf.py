"""The PDF of an invoice. Typst sets it (ADR 17), in this process, from one template and fonts that it brings along.

What is printed goes to the template as data and is never read as markup. The same texts make the same bytes.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path
from threading import Lock

import msgspec
import structlog
import typst
from django.conf import settings

from billing.documents.printed import PrintedInvoice, print_invoice
from billing.domain.invoices import InvoiceContent
from billing.models import Invoice
from common.errors import ApplicationError, Conflict

TEMPLATE = Path(__file__).parent / "invoice.typ"
# A plan has a hundred prices and a period some segments: far more than an invoice has. Setting as many takes seconds.
MAX_LINES = 2_000

logger = structlog.get_logger("meterbook.documents")
# A compiler does one thing at a time, and refuses a second one rather than wait.
_one_at_a_time = Lock()


class DocumentTooLarge(Conflict):
    code = "document_too_large"


class DocumentFailed(ApplicationError):
    """The template has an error. Nothing that the caller sent is the reason."""

    status = 500
    code = "document_failed"


def render_pdf(*, invoice: Invoice, content: InvoiceContent) -> bytes:
    """Return the PDF; its date is the invoice's, a draft's that of what it knows.

    Raises `DocumentTooLarge`, and `DocumentFailed`, which it logs.
    """
    return compile_pdf(print_invoice(invoice, content), made_at=invoice.issued_at or content.known_at)


def compile_pdf(printed: PrintedInvoice, *, made_at: datetime) -> bytes:
    if len(printed.lines) > MAX_LINES:
        message = f"It has {len(printed.lines)} lines, and a PDF at most {MAX_LINES}. Take the CSV file."
        raise DocumentTooLarge(message)
    data = msgspec.json.encode(asdict(printed)).decode()
    began = time.monotonic()
    try:
        with _one_at_a_time:
            file = _compiler().compile(format="pdf", sys_inputs={"data": data}, timestamp=int(made_at.timestamp()))
    except typst.TypstError as error:
        logger.error("invoice not set", number=printed.number, reason=error.message, at=error.diagnostic)
        raise DocumentFailed("The PDF could not be made; the server's log says why.") from error
    assert isinstance(file, bytes)  # a PDF is one file
    logger.info("invoice set", number=printed.number, bytes=len(file), ms=round((time.monotonic() - began) * 1000))
    return file


@cache
def _compiler() -> typst.Compiler:
    """Make the one compiler of this process. System fonts are left out, so that every server sets the same."""
    fonts = typst.Fonts(include_system_fonts=False, font_paths=list(settings.INVOICE_FONT_PATHS))
    return typst.Compiler(str(TEMPLATE), root=str(TEMPLATE.parent), font_paths=fonts, ignore_system_fonts=True)
