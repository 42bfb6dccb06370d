"""`meterbook invoices`: what customers owe, as a list, line by line, and as PDF files."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from meterbook.cli.output import format_options, print_answer, print_rows
from meterbook.cli.selection import name
from meterbook.cli.settings import open_client

STATUSES = ["draft", "open", "overdue", "paid", "void", "credit_note"]
MAX_LISTED = 1000
COLUMNS = ["id", "number", "status", "customer", "period", "total", "due", "currency"]
LINE_COLUMNS = ["position", "name", "quantity", "unit", "amount", "currency"]


@click.group()
def invoices() -> None:
    """See invoices: what there are, what one says, and its PDF."""


@invoices.command("list")
@click.option("--customer", "-c", type=name, help="Only this one's.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those that stand so.")
@click.option(
    "--limit", "-n", type=click.IntRange(1, MAX_LISTED), default=100, show_default=True, help="At most so many."
)
@format_options
def list_invoices(customer: str | None, status: str | None, limit: int, style: str | None) -> None:
    """List invoices, the newest first."""
    with open_client() as client:
        found = client.invoices.list(customer=customer, status=status, limit=limit)
    if style == "json":
        print_answer(found)
        return
    print_rows([_row(invoice) for invoice in found], COLUMNS, style)


@invoices.command()
@click.argument("invoice", type=name)
@format_options
def show(invoice: str, style: str | None) -> None:
    """Show the lines of an invoice, named by its number or its id."""
    with open_client() as client:
        found = client.invoices.get(invoice)
    if style == "json":
        print_answer(found)
        return
    print_rows(_lines(found), LINE_COLUMNS, style)


@invoices.command()
@click.argument("invoice", type=name)
@click.option("--output", "-o", type=click.Path(dir_okay=False, writable=True), help="Default: its number, here.")
def pdf(invoice: str, output: str | None) -> None:
    """Save an invoice as a PDF, and print the file's name."""
    with open_client() as client:
        content = client.invoices.pdf(invoice)
    path = Path(output or "".join(mark if mark.isalnum() or mark in "-_." else "_" for mark in f"{invoice}.pdf"))
    try:
        path.write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    click.echo(path)


def _row(invoice: dict[str, Any]) -> dict[str, Any]:
    return {
        **invoice,
        "period": invoice["period"]["start"],
        "total": _major(invoice["total_minor"], invoice),
        "due": _major(invoice["due_minor"], invoice),
    }


def _lines(invoice: dict[str, Any]) -> list[dict[str, Any]]:
    """Return its lines, its taxes and what they come to."""
    rows = [{**line, "amount": line["amount_minor"]} for line in invoice["lines"]]
    rows += [{"name": tax["name"], "amount": tax["amount_minor"]} for tax in invoice["taxes"]]
    rows += [{"name": "Total", "amount": invoice["total_minor"]}, {"name": "Due", "amount": invoice["due_minor"]}]
    return [{**row, "amount": _major(row["amount"], invoice), "currency": invoice["currency"]} for row in rows]


def _major(minor: str, invoice: dict[str, Any]) -> str:
    return format(Decimal(minor).scaleb(-invoice["currency_exponent"]), "f")
