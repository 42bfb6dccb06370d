"""The port to whoever collects invoices: what it is given, and what it must answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class InvoiceDraft:
    """What an invoice there says besides its items. `reference` is what it is found by."""

    customer_id: str
    currency: str
    reference: str
    number: str
    days_until_due: int


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """One item, in the collector's own units; a negative amount takes away. `place` tells a repetition."""

    place: int
    description: str
    amount: int


@dataclass(frozen=True, slots=True)
class RemoteInvoice:
    """An invoice as the collector has it, amounts in its own units."""

    id: str
    customer_id: str
    # Empty: it is not one of ours.
    reference: str
    # draft, open, paid, uncollectible or void.
    status: str
    currency: str
    total: int
    amount_due: int
    hosted_url: str
    paid_at: datetime | None


class InvoiceSink(Protocol):
    """Every method raises `CallFailed`. Writes bear a key under which a repetition does nothing for 24 hours."""

    def create(self, draft: InvoiceDraft, *, key: str) -> RemoteInvoice:
        """Make a draft without items."""

    def find(self, *, customer_id: str, reference: str, since: datetime) -> RemoteInvoice | None:
        """Return the customer's invoice of that reference that was made since a moment."""

    def get(self, invoice_id: str) -> RemoteInvoice | None:
        """Return an invoice; None: there is none, or no longer."""

    def list_places(self, invoice_id: str) -> set[int]:
        """Return the places of the items that an invoice has."""

    def add_item(self, invoice_id: str, draft: InvoiceDraft, item: RemoteItem, *, key: str) -> None: ...

    def finalise(self, invoice_id: str, *, key: str) -> RemoteInvoice: ...

    def void(self, invoice_id: str, *, key: str) -> RemoteInvoice: ...

    def mark_paid(self, invoice_id: str, *, key: str) -> RemoteInvoice:
        """Note that an open invoice was paid elsewhere."""

    def delete_draft(self, invoice_id: str) -> None: ...
