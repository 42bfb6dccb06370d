"""Reads of metric definitions."""

from accounts.models import Organization
from common.errors import NotFound
from common.models import TenantQuerySet
from metering.feeds import get_feed_book
from metering.models import Metric


def get_metric(*, organization: Organization, code: str) -> Metric:
    """Return the metric, archived or not. Raises `NotFound`, for a foreign code like for an absent one."""
    metric = None if "\x00" in code else Metric.objects.for_organization(organization).filter(code=code).first()
    if metric is None:
        raise NotFound("There is no such metric.")
    return metric


def get_known_metric(*, organization: Organization, code: str) -> Metric:
    """Return the metric for reading its usage, without a query while the organization's metrics stay as they are.

    All requests share it, so nobody may change it. `organization` is fresh, as `accounts.access` returns it.
    """
    metric = get_feed_book(organization).metrics.get(code)
    if metric is None:
        raise NotFound("There is no such metric.")
    return metric


def list_active_metrics(*, organization: Organization) -> TenantQuerySet:
    return Metric.objects.for_organization(organization).filter(archived_at__isnull=True).order_by("code")
