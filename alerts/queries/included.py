"""How much of a metric a customer's plan includes: the hook through which billing answers."""

from datetime import datetime
from decimal import Decimal

from django.conf import settings
from django.utils.module_loading import import_string

from accounts.models import Customer
from metering.models import Metric


def find_included_quantity(*, metric: Metric, customer: Customer, at: datetime) -> Decimal | None:
    """Return the quantity that the customer's plan includes in the period that holds `at`; None without a plan.

    `settings.INCLUDED_QUANTITY` names a function of the same parameters.
    """
    if settings.INCLUDED_QUANTITY is None:
        return None
    find = import_string(settings.INCLUDED_QUANTITY)
    quantity: Decimal | None = find(metric=metric, customer=customer, at=at)
    return quantity
