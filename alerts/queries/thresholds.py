"""Reads of thresholds."""

from accounts.models import Organization
from alerts.models import Threshold
from common.models import TenantQuerySet


def list_thresholds(*, organization: Organization) -> TenantQuerySet:
    """Return the live thresholds, also those that metrics and quotas declare."""
    thresholds = Threshold.objects.for_organization(organization).filter(archived_at__isnull=True)
    return thresholds.filter(metric__archived_at__isnull=True).select_related("metric", "customer")


def get_threshold(*, organization: Organization, threshold_id: int) -> Threshold:
    """Return the live threshold. Raises `NotFound`, for a foreign id like for an absent one."""
    return list_thresholds(organization=organization).get_by_id(threshold_id, "There is no such threshold.")
