"""The crossing log: rows with gap-free offsets in commit order, and the news of them."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection

from accounts.models import Organization
from alerts.models import AlertLog, Crossing
from alerts.services.deliveries import enqueue_crossings
from common.telemetry import CROSSINGS

# What listens on it gets an organization's id and looks into the log, which is the truth.
CHANNEL = "meterbook_alerts"

_TAKE_OFFSETS = """
UPDATE alerts_alertlog SET last_offset = last_offset + %(count)s
WHERE organization_id = %(organization)s
RETURNING last_offset
"""


def append_crossings(*, organization: Organization, crossings: Sequence[Crossing]) -> None:
    """Give the crossings their offsets and write them with their deliveries. Runs in the evaluation's transaction.

    The lock on the log's row is kept until the commit, so offsets become visible in order and a rollback leaves no gap.
    """
    if not crossings:
        return
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_OFFSETS, {"organization": organization.pk, "count": len(crossings)})
        [last_offset] = cursor.fetchone()
    for offset, crossing in enumerate(crossings, start=last_offset - len(crossings) + 1):
        crossing.offset = offset
    Crossing.objects.bulk_create(crossings)
    enqueue_crossings(organization=organization, crossings=crossings)
    announce(organization_id=organization.pk)
    CROSSINGS.inc(len(crossings))


def announce(*, organization_id: int) -> None:
    """Wake the streams and the courier when the current transaction commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(organization_id)])


def ensure_log(organization: Organization) -> AlertLog:
    log, _ = AlertLog.objects.get_or_create(organization=organization)
    return log
