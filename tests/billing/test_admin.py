"""The staff's admin of billing: everything opens, nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from billing.models import Plan, PlanVersion, Price, Subscription, SubscriptionPhase
from tests import factories
from tests.billing.seller import Seller, written

OURS = (Plan, PlanVersion, Price, Subscription, SubscriptionPhase)


@pytest.mark.django_db
def test_lists_and_rows_open_and_nothing_can_be_added(client_for: Callable[[User], Client], seller: Seller) -> None:
    seller.plan("pro", written("flat", 100))
    seller.subscribe("acme", "pro")
    staff = factories.make_user(name="Staff", is_staff=True)
    User.objects.filter(pk=staff.pk).update(is_superuser=True)
    client = client_for(staff)

    for model in OURS:
        name, row = f"admin:billing_{model._meta.model_name}", model._default_manager.get()
        assert client.get(reverse(f"{name}_changelist"), {"q": "x"}).status_code == 200, model
        assert client.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200, model
        assert client.get(reverse(f"{name}_add")).status_code == 403, model
