"""What waits in the quarantine, as far as an organization sees it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from django.db.models import Count, Max, Min, Q, QuerySet

from accounts.models import Organization
from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.queries.instances import is_port_open_to


class WaitingInstance(NamedTuple):
    """How many records of one instance wait for one reason."""

    internal_instance_id: str
    reason: str
    record_count: int
    first_received_at: datetime
    last_received_at: datetime


def list_quarantined(organization: Organization) -> QuerySet[QuarantinedRecord]:
    """Return the organization's waiting records and, where the port is open to it, those of nobody; newest first."""
    whose = Q(organization=organization)
    if is_port_open_to(organization):
        whose |= Q(organization=None)
    rows: QuerySet[QuarantinedRecord] = QuarantinedRecord.objects.all_tenants().filter(whose).order_by("-pk")
    return rows


def list_waiting_instances(records: QuerySet[QuarantinedRecord], *, limit: int = 100) -> list[WaitingInstance]:
    """Return how many of the waiting records are of which instance, for which reason; most recent first."""
    groups = (
        records.order_by()
        .values("internal_instance_id", "reason")
        .annotate(count=Count("pk"), first=Min("received_at"), last=Max("received_at"))
        .order_by("-last", "internal_instance_id", "reason")[:limit]
    )
    return [
        WaitingInstance(group["internal_instance_id"], group["reason"], group["count"], group["first"], group["last"])
        for group in groups
    ]
