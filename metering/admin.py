"""The staff's lens on metering: what is measured and what could not be counted. Changes go through the services.

The hot tables are not here: they have composite keys, which Django's admin does not take, and millions of rows.
"""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.admin import ReadOnlyAdmin
from accounts.models import Organization
from metering.models import Erasure, Feed, Horizon, InboxEvent, Metric, TypeHorizon
from metering.services.inbox import discard_inbox, replay_inbox
from metering.services.metrics import archive_metric


@admin.register(Metric)
class MetricAdmin(ReadOnlyAdmin):
    list_display = ("code", "organization", "aggregation", "event_type", "value_property", "unit", "archived_at")
    list_filter = ("aggregation", "catalog", ("archived_at", admin.EmptyFieldListFilter))
    search_fields = ("code__startswith", "event_type__startswith", "organization__name")
    list_select_related = ("organization",)
    actions = ("archive",)

    @admin.action(description="Archive the selected metrics: history stays, new events are refused")
    def archive(self, request: HttpRequest, metrics: QuerySet[Metric]) -> None:
        for metric in metrics.select_related("organization"):
            archive_metric(organization=metric.organization, metric=metric, actor=_actor(request), now=timezone.now())
        self.message_user(request, "Archived.", messages.SUCCESS)


@admin.register(Feed)
class FeedAdmin(ReadOnlyAdmin):
    list_display = ("event_type", "organization", "metric_ids", "created_at")
    search_fields = ("event_type__startswith", "organization__name")
    list_select_related = ("organization",)


@admin.register(Horizon)
class HorizonAdmin(ReadOnlyAdmin):
    list_display = ("organization", "minutes_from", "raw_from")
    search_fields = ("organization__name",)
    list_select_related = ("organization",)


@admin.register(TypeHorizon)
class TypeHorizonAdmin(ReadOnlyAdmin):
    list_display = ("event_type", "organization", "raw_from", "rollups_from")
    search_fields = ("event_type__startswith", "organization__name")
    list_select_related = ("organization",)


@admin.register(Erasure)
class ErasureAdmin(ReadOnlyAdmin):
    # Not the name that is being erased.
    list_display = ("customer", "organization", "started_at", "finished_at", "event_count")
    fields = ("organization", "customer", "actor", "started_at", "finished_at", "event_count")
    search_fields = ("organization__name",)
    list_select_related = ("organization", "customer")


@admin.register(InboxEvent)
class InboxEventAdmin(ReadOnlyAdmin):
    list_display = ("received_at", "organization", "event_type", "code", "idempotency_key", "state", "settled_at")
    list_filter = ("state", "code")
    search_fields = ("idempotency_key__startswith", "event_type__startswith", "organization__name")
    list_select_related = ("organization",)
    actions = ("replay", "discard")

    @admin.action(description="Replay the selected events, now that the cause is fixed")
    def replay(self, request: HttpRequest, events: QuerySet[InboxEvent]) -> None:
        counted = waiting = 0
        for organization, ids in _by_organization(events).items():
            result = replay_inbox(organization=organization, ids=ids, actor=_actor(request), now=timezone.now())
            counted += result.counted
            waiting += result.still_waiting
        level = messages.WARNING if waiting else messages.SUCCESS
        self.message_user(request, f"{counted} are counted now, {waiting} still wait.", level)

    @admin.action(description="Discard the selected events without counting them")
    def discard(self, request: HttpRequest, events: QuerySet[InboxEvent]) -> None:
        discarded = sum(
            discard_inbox(organization=organization, ids=ids, actor=_actor(request), now=timezone.now())
            for organization, ids in _by_organization(events).items()
        )
        self.message_user(request, f"{discarded} are discarded.", messages.SUCCESS)


def _by_organization(events: QuerySet[InboxEvent]) -> dict[Organization, list[int]]:
    """Return the ids of the selected rows of each organization: a service acts for one organization at a time."""
    ids: dict[Organization, list[int]] = {}
    for event in events.select_related("organization").only("pk", "organization"):
        ids.setdefault(event.organization, []).append(event.pk)
    return ids


def _actor(request: HttpRequest) -> str:
    """Name the staff member as such: to the organization they are a stranger."""
    return f"staff:{request.user.get_username()}"
