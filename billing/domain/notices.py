"""What billing tells of itself. The alerts app makes webhook messages of the same types."""

from enum import StrEnum


class NoticeType(StrEnum):
    INVOICE_FINALISED = "invoice.finalised"
    INVOICE_VOIDED = "invoice.voided"
    CREDIT_NOTE_ISSUED = "credit_note.issued"
    BUDGET_CROSSED = "budget.crossed"
    PAYMENT_UPDATED = "payment.updated"
    STRIPE_DRIFT = "stripe.drift"
    USAGE_MISMATCH = "usage.mismatch"
    USAGE_UNBILLED = "usage.unbilled"
