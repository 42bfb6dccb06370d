"""The staff's admin of metering: everything opens, and what acts goes through the services and the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Organization, User
from metering.catalogs import MetricDefinition
from metering.incoming import IncomingEvent
from metering.models import Aggregation, Erasure, Event, InboxEvent, InboxState, Metric, TypeHorizon
from metering.services.ingest import ingest_events
from metering.services.metrics import create_metric
from metering.services.rollup import ensure_horizon
from tests import factories

pytestmark = pytest.mark.django_db
OURS = [model for model in admin.site._registry if model._meta.app_label == "metering"]
REQUESTS = MetricDefinition("requests", Aggregation.COUNT)


@pytest.fixture
def staff_client(client_for: Callable[[User], Client]) -> Client:
    staff = factories.make_user(name="Staff", is_staff=True)
    User.objects.filter(pk=staff.pk).update(is_superuser=True)
    return client_for(staff)


@pytest.fixture
def waiting(org: Organization, now: datetime) -> InboxEvent:
    """An event that arrived before the metric that it names."""
    org.is_unmatched_kept = True
    org.save()
    event = IncomingEvent(idempotency_key="early", customer="cust_42", type="requests")
    ingest_events(organization=org, events=[event], now=now)
    return InboxEvent.objects.for_organization(org).get()


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_lists_and_rows_open(
    staff_client: Client, org: Organization, waiting: InboxEvent, now: datetime, model: type[Model]
) -> None:
    create_metric(organization=org, definition=REQUESTS, actor="test")
    ensure_horizon(organization_id=org.pk, now=now)
    TypeHorizon.objects.create(organization=org, event_type="requests")
    customer = factories.make_customer(organization=org)
    Erasure.objects.create(organization=org, customer=customer, actor="test", started_at=now)
    name = f"admin:metering_{model._meta.model_name}"

    assert staff_client.get(reverse(f"{name}_changelist"), {"q": "x"}).status_code == 200
    row = model._base_manager.get()
    assert staff_client.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200
    assert staff_client.get(reverse(f"{name}_add")).status_code == 403


def test_archiving_is_audited(staff_client: Client, org: Organization) -> None:
    metric = create_metric(organization=org, definition=REQUESTS, actor="test")

    _act(staff_client, "metric", "archive", metric.pk)

    assert Metric.objects.get(pk=metric.pk).archived_at is not None
    entry = AuditEntry.objects.for_organization(org).latest("id")
    assert (entry.action, entry.actor) == ("metric.archived", "staff:staff@example.test")


def test_replayed_event_is_counted(staff_client: Client, org: Organization, waiting: InboxEvent) -> None:
    create_metric(organization=org, definition=REQUESTS, actor="test")

    _act(staff_client, "inboxevent", "replay", waiting.pk)

    assert Event.objects.for_organization(org).filter(idempotency_key="early").exists()
    waiting.refresh_from_db()
    assert waiting.state == InboxState.REPLAYED


def test_discarded_event_is_settled_uncounted(staff_client: Client, org: Organization, waiting: InboxEvent) -> None:
    _act(staff_client, "inboxevent", "discard", waiting.pk)

    waiting.refresh_from_db()
    assert waiting.state == InboxState.DISCARDED
    assert not Event.objects.for_organization(org).exists()


def _act(client: Client, model: str, action: str, row_id: int) -> None:
    url = reverse(f"admin:metering_{model}_changelist")
    assert client.post(url, {"action": action, "_selected_action": [row_id]}).status_code == 302
