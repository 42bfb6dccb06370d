"""The staff's admin of alerts: everything opens, nothing changes, no secret is shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from accounts.models import Customer, Membership, User
from alerts.models import Delivery, EmailSubscription, Quota, Reservation, WebhookEndpoint
from tests import factories
from tests.alerts.watch import Watch

OURS = [model for model in admin.site._registry if model._meta.app_label == "alerts"]


@pytest.fixture
def staff_client(client_for: Callable[[User], Client]) -> Client:
    staff = factories.make_user(name="Staff", is_staff=True)
    User.objects.filter(pk=staff.pk).update(is_superuser=True)
    return client_for(staff)


@pytest.fixture
def one_of_each(watch: Watch) -> None:
    org = watch.organization
    metric = watch.define("m", "sum")
    watch.threshold("m", "cap", 10)
    endpoint = WebhookEndpoint.objects.create(organization=org, url="https://example.com", secret=b"very-secret")
    watch.use("ann", 10)
    EmailSubscription.objects.create(organization=org, membership=Membership.objects.for_organization(org).get())
    Quota.objects.create(organization=org, metric=metric, limit=Decimal(5))
    Reservation.objects.create(
        organization=org,
        metric=metric,
        customer=Customer.objects.for_organization(org).get(),
        amount=Decimal(1),
        created_at=watch.now,
        expires_at=watch.now + timedelta(minutes=1),
    )
    assert Delivery.objects.for_organization(org).get().endpoint == endpoint


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
@pytest.mark.usefixtures("one_of_each")
def test_lists_and_rows_open(staff_client: Client, model: type[Model]) -> None:
    name = f"admin:alerts_{model._meta.model_name}"
    row = model._base_manager.get()

    assert staff_client.get(reverse(f"{name}_changelist"), {"q": "x"}).status_code == 200
    shown = staff_client.get(reverse(f"{name}_change", args=[row.pk]))
    assert shown.status_code == 200
    assert b"very-secret" not in shown.content
    assert staff_client.get(reverse(f"{name}_add")).status_code == 403
