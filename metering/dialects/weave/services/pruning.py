"""The bound of what waits for nobody: records whose instance no organization has mapped, oldest first.

Whoever reaches the open port can send such records, so that only their count and age limit them. Records of an
organization stay until it releases or discards them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import QuerySet

from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.telemetry import QUARANTINE_DROPPED

BATCH_ROWS = 5_000
# What one call drops at most is this times a batch: more is left for the next.
MAX_BATCHES = 200


def prune_unowned_records(*, now: datetime) -> int:
    """Drop records of nobody that are too many or too old; return how many. Each batch commits by itself."""
    last_surplus = _find_last_surplus()
    horizon = now - timedelta(days=settings.FORWARD_QUARANTINE_DAYS)
    dropped = 0
    for _ in range(MAX_BATCHES):
        # They arrived in the order of their ids: the first batch that has one to keep is the last.
        oldest = _list_unowned().order_by("pk").values_list("pk", "received_at")[:BATCH_ROWS]
        gone = [pk for pk, received_at in oldest if pk <= last_surplus or received_at < horizon]
        # One that was mapped and released in this moment is not ours any more.
        count, _ = _list_unowned().filter(pk__in=gone).delete()
        dropped += count
        if len(gone) < BATCH_ROWS:
            break
    if dropped:
        QUARANTINE_DROPPED.inc(dropped)
    return dropped


def _find_last_surplus() -> int:
    """Return the id up to which there are more records than are kept; 0 where there are fewer."""
    place = settings.FORWARD_QUARANTINE_ROWS
    return next(iter(_list_unowned().order_by("-pk").values_list("pk", flat=True)[place : place + 1]), 0)


def _list_unowned() -> QuerySet[QuarantinedRecord]:
    rows: QuerySet[QuarantinedRecord] = QuarantinedRecord.objects.all_tenants().filter(organization=None)
    return rows
