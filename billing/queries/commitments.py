"""Reads of what customers promised to spend."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from accounts.models import Organization
from billing.models import Commitment, Subscription
from common.models import TenantQuerySet


def list_commitments(*, subscription: Subscription) -> TenantQuerySet:
    rows = Commitment.objects.for_organization(subscription.organization_id)
    return rows.filter(subscription=subscription).select_related("subscription")


def get_commitment(*, subscription: Subscription, commitment_id: int) -> Commitment:
    """Return the commitment. Raises `NotFound`, for one of another subscription like for an absent one."""
    rows = list_commitments(subscription=subscription)
    return rows.get_by_id(commitment_id, "The subscription has no such commitment.")


def list_commitments_of(
    subscription_ids: Collection[int], *, organization: Organization | int
) -> dict[int, list[Commitment]]:
    """Return commitments by the subscription's id, ended ones too, by their starts; without any, no key. One query."""
    rows = Commitment.objects.for_organization(organization).filter(subscription_id__in=subscription_ids)
    found: dict[int, list[Commitment]] = defaultdict(list)
    for row in rows.order_by("starts_at", "pk"):
        found[row.subscription_id].append(row)
    return dict(found)
