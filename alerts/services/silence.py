"""Silence: an expected customer, or a metric as a whole, stopped sending for a time.

The period of such a crossing is the silence itself: it begins with the last event, so that the log's own uniqueness
tells each silence once, and the next event ends it without anybody having to notice.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from accounts.models import Organization
from alerts.domain import ThresholdKind
from alerts.models import Crossing, Threshold
from alerts.services.evaluation import one_instant
from alerts.services.log import append_crossings, ensure_log
from metering import queries

# How far back the last event is looked for. Whoever was silent for longer was told, or never began.
LOOK_BACK = timedelta(days=366)


def check_silence(*, organization: Organization, now: datetime) -> int:
    """Record the silences that have lasted long enough; return how many. Raises `EvaluationBusy`."""
    with one_instant(organization.pk):
        thresholds = Threshold.objects.for_organization(organization).filter(
            kind=ThresholdKind.SILENCE, archived_at__isnull=True, metric__archived_at__isnull=True
        )
        found = [
            crossing
            for threshold in thresholds.select_related("metric", "customer").order_by("pk")
            if (crossing := find_silence(organization=organization, threshold=threshold, now=now)) is not None
        ]
        ensure_log(organization)
        append_crossings(organization=organization, crossings=found)
    return len(found)


def find_silence(*, organization: Organization, threshold: Threshold, now: datetime) -> Crossing | None:
    """Return the silence that is long enough and was not told, unsaved. A threshold waits from its creation on."""
    silent_since = find_last_sign(organization=organization, threshold=threshold, now=now)
    seconds = Decimal((now - silent_since) // timedelta(seconds=1))
    if seconds < threshold.value:
        return None
    told = Crossing.objects.for_organization(organization).filter(threshold=threshold, period_start=silent_since)
    if told.exists():
        return None
    return Crossing(
        organization=organization,
        threshold=threshold,
        metric=threshold.metric,
        customer=threshold.customer,
        period_start=silent_since,
        period_end=silent_since + timedelta(seconds=int(threshold.value)),
        threshold_code=threshold.code,
        threshold_value=threshold.value,
        previous_value=Decimal(0),
        value_at_cross=seconds,
        triggered_at=now,
    )


def find_last_sign(*, organization: Organization, threshold: Threshold, now: datetime) -> datetime:
    """Return the time of the last event, but not before the threshold was made."""
    usage = queries.get_usage(
        organization=organization,
        metric=threshold.metric,
        start=max(threshold.created_at, now - LOOK_BACK),
        end=now,
        customer_id=threshold.customer_id,
        filters=threshold.filters,
    )
    return max(threshold.created_at, usage.last_event_at or threshold.created_at)
