"""The staff's admin of billing: everything opens, nothing is added."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from accounts.models import User
from billing.models import StripeCustomer, StripeDrift, StripeEvent, StripeInvoice, StripeMeter, UsageReport
from tests import factories
from tests.billing.invoices import FEE, store_invoice
from tests.billing.seller import Seller, written

OURS = [model for model in admin.site._registry if model._meta.app_label == "billing"]


@pytest.fixture
def one_of_each(seller: Seller) -> None:
    """A row of every registered model; a new one needs one here."""
    org, now = seller.organization, seller.now
    metric = seller.define("calls", "sum")
    seller.plan("pro", written("flat", 100))
    subscription = seller.subscribe("acme", "pro")
    invoice = store_invoice(subscription, "A-1", FEE)
    StripeCustomer.objects.create(organization=org, customer=subscription.customer, stripe_customer_id="cus_1")
    StripeMeter.objects.create(organization=org, metric=metric, event_name="calls")
    StripeInvoice.objects.create(organization=org, invoice=invoice, stripe_customer_id="cus_1", state="rejected")
    StripeEvent.objects.create(organization=org, stripe_event_id="evt_1", type="invoice.paid", payload={})
    StripeDrift.objects.create(
        organization=org,
        customer=subscription.customer,
        metric=metric,
        day=now,
        ledger_quantity=2,
        stripe_quantity=1,
        found_at=now,
        checked_at=now,
    )
    UsageReport.objects.create(
        organization=org,
        subscription=subscription,
        metric=metric,
        window_start=now,
        window_end=now + timedelta(days=1),
        sequence=0,
        month=f"{now:%Y-%m}",
        period_start=now,
        quantity=1,
        event_time=now,
        identifier="report-1",
        state="rejected",
    )


@pytest.mark.django_db
@pytest.mark.usefixtures("one_of_each")
def test_lists_and_rows_open_and_nothing_can_be_added(client_for: Callable[[User], Client]) -> None:
    staff = factories.make_user(name="Staff", is_staff=True)
    User.objects.filter(pk=staff.pk).update(is_superuser=True)
    client = client_for(staff)

    for model in OURS:
        assert_opens(client, model)


def assert_opens(client: Client, model: type[Model]) -> None:
    name, row = f"admin:billing_{model._meta.model_name}", model._base_manager.first()
    assert row is not None, f"one_of_each makes no {model.__name__}"
    assert client.get(reverse(f"{name}_changelist"), {"q": "x"}).status_code == 200, model
    assert client.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200, model
    assert client.get(reverse(f"{name}_add")).status_code == 403, model
