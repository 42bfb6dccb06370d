"""Writes to what is measured: create, change and archive metrics, install catalogs.

Every change runs under the exclusive ingest fence, so that no batch is under way that was examined against the
old definition, and increases the organization's `metrics_version`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import F

from accounts.models import Organization
from accounts.services import record_audit
from common.errors import Conflict
from metering.catalogs import CATALOGS, MetricDefinition
from metering.feeds import list_feed_ids
from metering.models import Feed, IngestBatch, Metric, Series
from metering.sql.store_events import FENCE_LOCK

# What may change although events were counted: nothing that a number depends on.
FREE_FIELDS = frozenset({"name", "description", "unit", "thresholds"})


class MetricExists(Conflict):
    code = "already_exists"

    def __init__(self, metric: Metric) -> None:
        super().__init__(f"There is a metric {metric.code!r} already.")
        self.metric = metric


class ImmutableMetric(Conflict):
    code = "immutable"


@contextmanager
def _metrics_change(organization: Organization) -> Iterator[None]:
    """Open a transaction that no ingest of the organization overlaps, and renew feeds and version at its end."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [FENCE_LOCK, organization.pk])
        yield
        _renew_feeds(organization)
        Organization.objects.filter(pk=organization.pk).update(metrics_version=F("metrics_version") + 1)
    organization.refresh_from_db(fields=["metrics_version"])


def _renew_feeds(organization: Organization) -> None:
    """Make sure that a feed exists for every event type with the metrics that listen to it now."""
    listeners: dict[str, list[int]] = {}
    active = Metric.objects.for_organization(organization).filter(archived_at__isnull=True).order_by("pk")
    for event_type, metric_id in active.values_list("event_type", "pk"):
        listeners.setdefault(event_type, []).append(metric_id)
    feeds = [
        Feed(organization=organization, event_type=event_type, metric_ids=metric_ids)
        for event_type, metric_ids in listeners.items()
    ]
    Feed.objects.bulk_create(feeds, ignore_conflicts=True)


def create_metric(*, organization: Organization, definition: MetricDefinition, actor: str, catalog: str = "") -> Metric:
    """Create a metric; it counts the events that arrive from now on. Raises `MetricExists` with the existing one."""
    metric = Metric(organization=organization, catalog=catalog, **definition.as_fields())
    try:
        with _metrics_change(organization):
            metric.save()
            record_audit(organization=organization, actor=actor, action="metric.created", target=metric.code)
    except IntegrityError:
        existing = Metric.objects.for_organization(organization).filter(code=metric.code).first()
        if existing is None:
            raise
        raise MetricExists(existing) from None
    return metric


def update_metric(*, organization: Organization, metric: Metric, changes: Mapping[str, Any], actor: str) -> Metric:
    """Change a metric. Raises `ImmutableMetric` when events were counted and a number would change its meaning.

    Raises `MetricExists` when another metric has the new code.
    """
    try:
        with _metrics_change(organization):
            return _update_locked(organization, metric, changes, actor)
    except IntegrityError:
        other = Metric.objects.for_organization(organization).filter(code=changes.get("code")).first()
        if other is None:
            raise
        raise MetricExists(other) from None


def _update_locked(organization: Organization, metric: Metric, changes: Mapping[str, Any], actor: str) -> Metric:
    locked: Metric = Metric.objects.for_organization(organization).select_for_update().get(pk=metric.pk)
    changed = {name: value for name, value in changes.items() if getattr(locked, name) != value}
    frozen = sorted(changed.keys() - FREE_FIELDS)
    if frozen and has_events(locked):
        raise ImmutableMetric(
            f"Events were counted in {metric.code!r}, so {', '.join(frozen)} can no longer change. "
            "Create a new metric instead."
        )
    for name, value in changed.items():
        setattr(locked, name, value)
    locked.save(update_fields=list(changed))
    if changed:
        record_audit(
            organization=organization,
            actor=actor,
            action="metric.updated",
            target=metric.code,
            details={"fields": sorted(changed)},
        )
    return locked


def archive_metric(*, organization: Organization, metric: Metric, actor: str, now: datetime) -> Metric:
    """Stop counting: history stays readable, later events no longer reach the metric. Idempotent."""
    if metric.archived_at is None:
        with _metrics_change(organization):
            metric.archived_at = now
            metric.save(update_fields=["archived_at"])
            record_audit(organization=organization, actor=actor, action="metric.archived", target=metric.code)
    return metric


def install_catalog(*, organization: Organization, name: str, actor: str) -> list[Metric]:
    """Create the catalog's metrics that are missing and return all of them. Safe to repeat."""
    catalog = CATALOGS[name]
    codes = [definition.code for definition in catalog.metrics]
    existing = _by_code(organization, codes)
    for definition in catalog.metrics:
        if definition.code not in existing:
            try:
                create_metric(organization=organization, definition=definition, actor=actor, catalog=name)
            except MetricExists:
                continue  # another installation was a moment faster
    installed = _by_code(organization, codes)
    return [installed[code] for code in codes]


def _by_code(organization: Organization, codes: Iterable[str]) -> dict[str, Metric]:
    return {metric.code: metric for metric in Metric.objects.for_organization(organization).filter(code__in=codes)}


def has_events(metric: Metric) -> bool:
    """Tell whether events were counted in the metric, or examined for it.

    An event that did not feed the metric counts as well: under a new definition it might, although nobody looked
    whether its value is one. Costs a probe, and for a metric without events a pass over the organization's batches.
    """
    if Series.objects.for_organization(metric.organization_id).filter(metric_id=metric.pk).exists():
        return True
    feed_ids = list_feed_ids(metric)
    return IngestBatch.objects.for_organization(metric.organization_id).filter(feed_ids__overlap=feed_ids).exists()
