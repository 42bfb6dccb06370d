"""The compiled view of an organization's metrics that ingest and reads consult, cached per process.

The cache is keyed by the organization's `metrics_version`, which increases with every change of its metrics and every
move of a horizon before which raw events of a type are let go. A request learns the current version with its API key,
and the ingest transaction checks it again under the fence.
"""

from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from accounts.models import Organization
from metering.admission import FeedPlan
from metering.models import Feed, Metric, TypeHorizon

MAX_CACHED_ORGANIZATIONS = 1000


@dataclass(frozen=True, slots=True)
class FeedBook:
    """The metrics of one organization at one version. All requests share them: read, never changed."""

    version: int
    # What the active metrics ask of an event, by its type.
    plans: dict[str, FeedPlan]
    # All metrics, the archived among them, by code.
    metrics: dict[str, Metric]
    # Since when raw events are kept, by feed; of those that are not here no event was let go for its type.
    kept_from: dict[int, datetime]


_books: dict[int, FeedBook] = {}
_lock = Lock()


def get_feed_book(organization: Organization) -> FeedBook:
    """Return the book for the organization's `metrics_version`. Three queries when the version is new, else none."""
    book = _books.get(organization.pk)
    if book is None or book.version != organization.metrics_version:
        book = _load(organization)
        with _lock:
            if len(_books) >= MAX_CACHED_ORGANIZATIONS:
                _books.pop(next(iter(_books)))
            _books[organization.pk] = book
    return book


def _load(organization: Organization) -> FeedBook:
    version = organization.metrics_version
    by_type: dict[str, list[Metric]] = {}
    metrics = {metric.code: metric for metric in Metric.objects.for_organization(organization).order_by("pk")}
    for metric in metrics.values():
        if metric.archived_at is None:
            by_type.setdefault(metric.event_type, []).append(metric)
    feeds = {
        (feed.event_type, tuple(feed.metric_ids)): feed.pk
        for feed in Feed.objects.for_organization(organization).filter(event_type__in=by_type)
    }
    plans = {
        event_type: FeedPlan.of(feeds[event_type, tuple(metric.pk for metric in metrics)], metrics)
        for event_type, metrics in by_type.items()
    }
    horizons = TypeHorizon.objects.for_organization(organization).filter(event_type__in=plans)
    kept_from = {
        plans[event_type].feed_id: raw_from
        for event_type, raw_from in horizons.values_list("event_type", "raw_from")
        if raw_from is not None
    }
    return FeedBook(version, plans, metrics, kept_from)


def list_feed_ids(metric: Metric) -> list[int]:
    """Return all feeds that ever fed the metric: an event counts in it exactly if its feed is among them."""
    feeds = Feed.objects.for_organization(metric.organization_id).filter(metric_ids__contains=[metric.pk])
    return list(feeds.values_list("pk", flat=True))
