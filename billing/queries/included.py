"""How much of a metric a customer's plans include: what alerts ask for (`settings.INCLUDED_QUANTITY`)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import reduce

from accounts.models import Customer
from billing.queries.terms import list_terms_at
from metering.domain import EXACT
from metering.models import Metric


def find_included_quantity(*, metric: Metric, customer: Customer, at: datetime) -> Decimal | None:
    """Return what the customer's subscriptions include of the metric in the periods that hold `at`, all added up;
    without any, what the default plan includes. None where none of them prices the metric."""
    terms = list_terms_at(customer=customer, metric=metric, at=at)
    priced = [each.included_quantity for each in terms if each.charges]
    return reduce(EXACT.add, priced) if priced else None
