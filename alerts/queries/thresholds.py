"""Reads of thresholds."""

from accounts.models import Organization
from alerts.models import Threshold
from common.errors import NotFound
from common.models import TenantQuerySet

MAX_ID = 2**63 - 1


def list_thresholds(*, organization: Organization) -> TenantQuerySet:
    """Return the live thresholds, also those that metrics and quotas declare."""
    thresholds = Threshold.objects.for_organization(organization).filter(archived_at__isnull=True)
    return thresholds.filter(metric__archived_at__isnull=True).select_related("metric", "customer")


def get_threshold(*, organization: Organization, threshold_id: int) -> Threshold:
    """Return the live threshold. Raises `NotFound`, for a foreign id like for an absent one."""
    found: Threshold | None = None
    if threshold_id <= MAX_ID:
        found = list_thresholds(organization=organization).filter(pk=threshold_id).first()
    if found is None:
        raise NotFound("There is no such threshold.")
    return found
