"""What an invoice says: its lines, taxes and totals. Drafts are computed into it, finalised ones are read into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing.domain.periods import BillingPeriod
from billing.domain.taxes import TaxLine

# What a line's name may have.
MAX_NAME_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class InvoiceLineContent:
    """One line. `kind` is a `LineKind`; `steps` are steps of the rating with decimals as text, or of an adjustment
    what was billed and what it comes to now. Guarantee: the amounts of the steps add up to `amount_minor`."""

    kind: str
    name: str
    # The billing period that it charges, and its id; the time in which usage was counted lies in it.
    period: BillingPeriod
    period_id: int
    starts_at: datetime
    ends_at: datetime
    quantity: Decimal
    included_quantity: Decimal
    amount_minor: int
    steps: Sequence[Mapping[str, Any]]
    metric_code: str = ""
    unit: str = ""
    price_id: int | None = None


@dataclass(frozen=True, slots=True)
class InvoiceContent:
    """All that is printed. Guarantee: lines add up to the subtotal, taxes to the tax, both to the total."""

    currency: str
    lines: Sequence[InvoiceLineContent]
    taxes: Sequence[TaxLine]
    subtotal_minor: int
    tax_minor: int
    total_minor: int
    # What credits pay of it, and what is left; of a draft: what they would pay now.
    credits_minor: int
    due_minor: int
    # {"seller": {"name", "address", "tax_id"}, "customer": {"external_id", "name", "email", "address", "country",
    #  "region", "tax_id", "is_tax_exempt"}, "subscription": {"id", "zone"}, "plans": [{"code", "name", "version"}],
    #  "period": {"start", "end", "is_trial"}, "footer": ""}, times in RFC 3339.
    snapshot: Mapping[str, Any]
    # Every event known then is in it.
    known_at: datetime
