"""Registering a cluster: a person lets a product report to one of their organizations, and it gets a token.

Owns the one decision; who may make it is the caller's business, and keys are those of `accounts`.
"""

from __future__ import annotations

from django.db import transaction

from accounts.domain import Scope
from accounts.models import Customer, Organization
from accounts.services import IssuedKey, create_customer, issue_api_key
from common.errors import Conflict
from metering.catalogs.usage_client import REPORTED_VALUE


@transaction.atomic
def register_cluster(*, organization: Organization, actor: str, product: str, cluster_id: str) -> IssuedKey:
    """Issue the token: an API key that may write what servers of the cluster, a customer, report, and nothing else.

    Registering again issues another token; the one before stays valid. Both acts are in the audit log.
    """
    try:
        customer = create_customer(organization=organization, actor=actor, external_id=cluster_id)
    except Conflict:
        customer = Customer.objects.for_organization(organization).get(external_id=cluster_id)
    return issue_api_key(
        organization=organization,
        actor=actor,
        name=product,
        scopes=[Scope.EVENTS_WRITE],
        customer=customer,
        # The cluster's id comes from outside, and may be the name of a customer whose other usage is billed.
        metric_codes=[REPORTED_VALUE],
    )
