"""Invoice lines as CSV. How a cell is written, and defused where a spreadsheet would calculate it, is metering's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from billing.domain.currencies import major_text
from billing.domain.invoices import InvoiceContent, InvoiceLineContent
from billing.models import Invoice, InvoiceLine
from billing.queries.invoices import read_line
from metering.export_formats import csv_pieces
from metering.queries.exports import Cell, Column, ColumnKind, UsageTable

CONTENT_TYPE = "text/csv; charset=utf-8"
COLUMNS = [
    Column("invoice", ColumnKind.TEXT),
    Column("kind", ColumnKind.TEXT),
    Column("state", ColumnKind.TEXT),
    Column("credited_invoice", ColumnKind.TEXT),
    Column("issued_at", ColumnKind.TIME),
    Column("due_at", ColumnKind.TIME),
    Column("customer", ColumnKind.TEXT),
    Column("subscription", ColumnKind.TEXT),
    Column("position", ColumnKind.COUNT),
    Column("line_kind", ColumnKind.TEXT),
    Column("name", ColumnKind.TEXT),
    Column("metric", ColumnKind.TEXT),
    Column("unit", ColumnKind.TEXT),
    Column("period_start", ColumnKind.TIME),
    Column("period_end", ColumnKind.TIME),
    Column("start", ColumnKind.TIME),
    Column("end", ColumnKind.TIME),
    Column("quantity", ColumnKind.QUANTITY),
    Column("included_quantity", ColumnKind.QUANTITY),
    Column("amount_minor", ColumnKind.COUNT),
    # In the major unit, with the decimals of the currency. Digits alone, never a formula.
    Column("amount", ColumnKind.COUNT),
    Column("currency", ColumnKind.TEXT),
]


def invoice_csv(*, invoice: Invoice, content: InvoiceContent) -> bytes:
    """Return the lines of one invoice, also of a draft. Taxes are no lines."""
    rows = (_row(invoice, position, line) for position, line in enumerate(content.lines, start=1))
    return b"".join(_pieces(rows))


def lines_csv(lines: Iterable[InvoiceLine]) -> Iterator[bytes]:
    """Yield the file piece by piece. Each line comes with its invoice and its period."""
    return _pieces(_row(line.invoice, line.position, read_line(line)) for line in lines)


def _pieces(rows: Iterator[tuple[Cell, ...]]) -> Iterator[bytes]:
    return csv_pieces(UsageTable(COLUMNS, lambda: rows))


def _row(invoice: Invoice, position: int, line: InvoiceLineContent) -> tuple[Cell, ...]:
    credited = invoice.credited_invoice
    amount: str = major_text(line.amount_minor, invoice.currency)
    return (
        invoice.number,
        invoice.kind,
        invoice.state,
        credited.number if credited else None,
        invoice.issued_at,
        invoice.due_at,
        invoice.customer.external_id,
        str(invoice.subscription_id),
        position,
        line.kind,
        line.name,
        line.metric_code or None,
        line.unit or None,
        line.period.start,
        line.period.end,
        line.starts_at,
        line.ends_at,
        line.quantity,
        line.included_quantity,
        line.amount_minor,
        amount,
        invoice.currency,
    )
