"""How much of a metric a customer's plans include: what alerts ask for (`settings.INCLUDED_QUANTITY`)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from accounts.models import Customer
from billing.queries.terms import included_quantity, list_terms_at
from metering.models import Metric


def find_included_quantity(*, metric: Metric, customer: Customer, at: datetime) -> Decimal | None:
    """Return what the customer's subscriptions include of the metric in the periods that hold `at`, all added up;
    without any, what the default plan includes. None where none of them prices the metric."""
    terms = list_terms_at(customer=customer, metric=metric, at=at)
    charges = [charge for each in terms for charge in each.charges]
    return included_quantity(charges) if charges else None
