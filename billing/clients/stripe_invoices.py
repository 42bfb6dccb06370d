"""Stripe's invoices, spoken to through Stripe's own package: the one sink of finalised invoices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import stripe

from billing.clients.failures import CallFailed
from billing.clients.invoices import InvoiceDraft, RemoteInvoice, RemoteItem
from billing.clients.stripe import calls, connect

# What our things bear in their metadata.
REFERENCE, NUMBER, PLACE = "meterbook_invoice", "meterbook_number", "meterbook_line"
# Between our clock and Stripe's.
CLOCK_DIFFERENCE = timedelta(hours=1)
NOT_FOUND = 404
# Why there is an invoice: a period of a subscription at Stripe ended.
RENEWAL = "subscription_cycle"


class StripeInvoices:
    """The account that a key belongs to. Safe to share between threads."""

    def __init__(self, *, api_key: str, api_base: str = "") -> None:
        self._client = connect(api_key=api_key, api_base=api_base)

    def create(self, draft: InvoiceDraft, *, key: str) -> RemoteInvoice:
        with calls():
            row = self._client.v1.invoices.create(
                {
                    "customer": draft.customer_id,
                    "currency": draft.currency.lower(),
                    "collection_method": "send_invoice",
                    "days_until_due": draft.days_until_due,
                    # Nothing happens to it, and nobody is written to, that is not asked for.
                    "auto_advance": False,
                    # What else waits for this customer is none of this invoice's.
                    "pending_invoice_items_behavior": "exclude",
                    # Nor are the customer's discounts: prices are made here.
                    "discounts": "",
                    "description": f"Invoice {draft.number}",
                    "metadata": {REFERENCE: draft.reference, NUMBER: draft.number},
                },
                {"idempotency_key": key},
            )
            return _read(row)

    def find(self, *, customer_id: str, reference: str, since: datetime) -> RemoteInvoice | None:
        """Goes through the list, which knows at once what was made; Stripe's search lags by a minute, or an hour."""
        with calls():
            made_since = int((since - CLOCK_DIFFERENCE).timestamp())
            pages = self._client.v1.invoices.list(
                {"customer": customer_id, "created": {"gte": made_since}, "limit": 100}
            )
            found = (_read(row) for row in pages.auto_paging_iter())
            return next((invoice for invoice in found if invoice.reference == reference), None)

    def get(self, invoice_id: str) -> RemoteInvoice | None:
        try:
            with calls():
                row = self._client.v1.invoices.retrieve(invoice_id)
                return None if getattr(row, "deleted", False) else _read(row)
        except CallFailed as failure:
            if _status(failure) == NOT_FOUND:
                return None
            raise

    def list_graces(self) -> list[tuple[str, timedelta]]:
        """Return, of the newest drafts that subscriptions at Stripe made at the end of a period, for how long each
        stays open: until then their meters' usage is taken."""
        with calls():
            drafts = self._client.v1.invoices.list({"status": "draft", "limit": 100}).data
        return [
            (draft.id, timedelta(seconds=draft.automatically_finalizes_at - draft.created))
            for draft in drafts
            if draft.billing_reason == RENEWAL and draft.automatically_finalizes_at is not None
        ]

    def list_places(self, invoice_id: str) -> set[int]:
        with calls():
            pages = self._client.v1.invoice_items.list({"invoice": invoice_id, "limit": 100})
            places = (_metadata(row).get(PLACE, "") for row in pages.auto_paging_iter())
            return {int(place) for place in places if place.isascii() and place.isdigit()}

    def add_item(self, invoice_id: str, draft: InvoiceDraft, item: RemoteItem, *, key: str) -> None:
        with calls():
            self._client.v1.invoice_items.create(
                {
                    "customer": draft.customer_id,
                    # Named, so that it lands on no other invoice.
                    "invoice": invoice_id,
                    "currency": draft.currency.lower(),
                    "amount": item.amount,
                    "description": item.description,
                    "metadata": {REFERENCE: draft.reference, PLACE: str(item.place)},
                },
                {"idempotency_key": key},
            )

    def finalise(self, invoice_id: str, *, key: str) -> RemoteInvoice:
        with calls():
            row = self._client.v1.invoices.finalize_invoice(
                invoice_id, {"auto_advance": False}, {"idempotency_key": key}
            )
            return _read(row)

    def void(self, invoice_id: str, *, key: str) -> RemoteInvoice:
        with calls():
            return _read(self._client.v1.invoices.void_invoice(invoice_id, {}, {"idempotency_key": key}))

    def mark_paid(self, invoice_id: str, *, key: str) -> RemoteInvoice:
        with calls():
            row = self._client.v1.invoices.pay(invoice_id, {"paid_out_of_band": True}, {"idempotency_key": key})
            return _read(row)

    def delete_draft(self, invoice_id: str) -> None:
        """Deleting is safe to repeat by itself, and takes no key: https://docs.stripe.com/api/idempotent_requests."""
        with calls():
            self._client.v1.invoices.delete(invoice_id)


def _status(failure: CallFailed) -> int | None:
    cause = failure.__cause__
    return cause.http_status if isinstance(cause, stripe.StripeError) else None


def _metadata(row: stripe.Invoice | stripe.InvoiceItem) -> dict[str, str]:
    metadata = row.metadata
    return metadata.to_dict() if isinstance(metadata, stripe.StripeObject) else dict(metadata or {})


def _read(row: stripe.Invoice) -> RemoteInvoice:
    paid_at = row.status_transitions.paid_at
    return RemoteInvoice(
        id=row.id,
        customer_id=row.customer if isinstance(row.customer, str) else "",
        reference=_metadata(row).get(REFERENCE, ""),
        status=row.status or "",
        currency=row.currency.upper(),
        total=row.total,
        amount_due=row.amount_due,
        hosted_url=row.hosted_invoice_url or "",
        paid_at=None if paid_at is None else datetime.fromtimestamp(paid_at, UTC),
    )
