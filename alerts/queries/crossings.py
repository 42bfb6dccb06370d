"""Reads of the crossing log."""

from collections.abc import Collection

from accounts.models import Organization
from alerts.models import Crossing
from common.models import TenantQuerySet


def list_crossings(
    *,
    organization: Organization | int,
    since: int = 0,
    customers: Collection[str] = (),
    metrics: Collection[str] = (),
    customer_id: int | None = None,
    metric_codes: Collection[str] = (),
) -> TenantQuerySet:
    """Return the crossings after an offset, in order. Empty collections: all.

    `customer_id` and `metric_codes` are what a bound key may see, `customers` and `metrics` what was asked for.
    """
    crossings = Crossing.objects.for_organization(organization).filter(offset__gt=since)
    if customer_id is not None:
        crossings = crossings.filter(customer_id=customer_id)
    if metric_codes:
        crossings = crossings.filter(metric__code__in=metric_codes)
    if customers:
        crossings = crossings.filter(customer__external_id__in=customers)
    if metrics:
        crossings = crossings.filter(metric__code__in=metrics)
    return crossings.select_related("customer", "metric").order_by("offset")
