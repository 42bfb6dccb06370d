"""Invoices: `client.invoices.*`. An invoice is named by its number or, a draft, by its id."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from meterbook.wire import Call, Plan, one_object

INVOICES_PATH = "/v1/invoices"
MAX_PAGE = 1000


def list_all(
    *, customer: str | None = None, status: str | None = None, limit: int | None = None
) -> Plan[list[dict[str, Any]]]:
    """Return invoices without their lines, the newest first, at most `limit` of them.

    `status` is draft, open, overdue, paid, void or credit_note.
    """
    page_size = MAX_PAGE if limit is None else max(1, min(limit, MAX_PAGE))
    invoices: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        call = Call.get(INVOICES_PATH, customer=customer, status=status, limit=page_size, cursor=cursor)
        page = yield from one_object(call)
        invoices += page["data"]
        cursor = page["next_cursor"]
        if cursor is None or (limit is not None and len(invoices) >= limit):
            return invoices[:limit]


def get(invoice: str) -> Plan[dict[str, Any]]:
    """Return an invoice with its lines and their steps; of a draft what it comes to now."""
    path = yield from _path_of(invoice)
    return (yield from one_object(Call.get(path)))


def pdf(invoice: str) -> Plan[bytes]:
    """Return an invoice as a PDF."""
    path = yield from _path_of(invoice)
    answer = yield Call.get(f"{path}.pdf")
    return answer.content


def _path_of(invoice: str) -> Plan[str]:
    """Look a number up; what no invoice has as its number is an id."""
    found = yield from one_object(Call.get(INVOICES_PATH, number=invoice, limit=1))
    return f"{INVOICES_PATH}/{quote(found['data'][0]['id'] if found['data'] else invoice, safe='')}"
