"""Rows by their ids: one way for every table, whoever owns them and whatever the id."""

from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import Customer, Organization
from accounts.queries import get_api_key, get_invitation, get_member
from alerts.models import WebhookEndpoint
from alerts.queries import get_threshold
from alerts.queries.quotas import get_quota
from alerts.queries.webhooks import get_delivery, get_endpoint
from billing.models import Subscription
from billing.queries.commitments import get_commitment
from billing.queries.credits import get_grant
from billing.queries.invoice_runs import get_run as get_invoice_run
from billing.queries.invoices import get_invoice
from billing.queries.reporting import get_report as get_usage_report
from billing.queries.stripe_invoices import get_push
from billing.queries.subscriptions import get_subscription
from common.errors import NotFound
from metering.dialects.influx.queries.fleet import get_server
from tests import factories
from usage_reports.models import Report
from usage_reports.queries import get_report, get_run

pytestmark = pytest.mark.django_db

# Of each the parameter of the id, and that of what the row belongs to.
GETTERS: list[tuple[Callable[..., Any], str, str, type[Any]]] = [
    (get_subscription, "subscription_id", "organization", Organization),
    (get_commitment, "commitment_id", "subscription", Subscription),
    (get_invoice, "invoice_id", "organization", Organization),
    (get_invoice_run, "run_id", "organization", Organization),
    (get_grant, "grant_id", "organization", Organization),
    (get_usage_report, "report_id", "organization", Organization),
    (get_push, "push_id", "organization", Organization),
    (get_threshold, "threshold_id", "organization", Organization),
    (get_quota, "quota_id", "organization", Organization),
    (get_endpoint, "endpoint_id", "organization", Organization),
    (get_delivery, "delivery_id", "endpoint", WebhookEndpoint),
    (get_report, "report_id", "organization", Organization),
    (get_run, "run_id", "report", Report),
    (get_server, "server_id", "organization", Organization),
    (get_api_key, "key_id", "organization", Organization),
    (get_member, "member_id", "organization", Organization),
    (get_invitation, "invitation_id", "organization", Organization),
]


def test_a_row_is_found_by_its_organization_alone(org: Organization, other_org: Organization) -> None:
    customer = factories.make_customer(organization=org)

    assert Customer.objects.for_organization(org).get_by_id(customer.pk, "-") == customer
    with pytest.raises(NotFound, match=r"^There is no such thing\.$"):
        Customer.objects.for_organization(other_org).get_by_id(customer.pk, "There is no such thing.")


@pytest.mark.parametrize("row_id", [0, -1, 2**63 - 1])
def test_an_absent_id_is_not_found(org: Organization, row_id: int) -> None:
    with pytest.raises(NotFound):
        Customer.objects.for_organization(org).get_by_id(row_id, "-")


@pytest.mark.parametrize(
    ("get", "name", "whose", "model"), GETTERS, ids=[f"{row[0].__module__}.{row[0].__name__}" for row in GETTERS]
)
def test_an_id_that_no_column_holds_is_not_found_without_a_question(
    org: Organization,
    get: Callable[..., Any],
    name: str,
    whose: str,
    model: type[Any],
    django_assert_num_queries: Callable[[int], Any],
) -> None:
    owner = org if model is Organization else model(pk=1, organization=org)
    for row_id in (2**63, 10**30, -(2**63) - 1):
        with django_assert_num_queries(0), pytest.raises(NotFound):
            get(**{whose: owner, name: row_id})
