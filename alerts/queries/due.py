"""Which organizations have something to evaluate that nobody was woken for."""

from django.db.models import F

from accounts.models import Organization
from alerts.models import AlertLog, Threshold
from metering.models import Metric, UsageChange


def list_organizations_to_evaluate() -> set[int]:
    """Return the organizations with changed usage, new thresholds, or metrics that changed since the last look."""
    changed = UsageChange.objects.all_tenants().values_list("organization_id", flat=True).distinct()
    due = Threshold.objects.all_tenants().filter(is_due=True, archived_at__isnull=True)
    behind = AlertLog.objects.all_tenants().exclude(metrics_version=F("organization__metrics_version"))
    without_log = Organization.objects.exclude(pk__in=AlertLog.objects.all_tenants().values("organization"))
    declaring = Metric.objects.all_tenants().filter(organization__in=without_log).exclude(thresholds=[])
    return {
        *changed,
        *due.values_list("organization_id", flat=True),
        *behind.values_list("organization_id", flat=True),
        *declaring.values_list("organization_id", flat=True),
    }
