"""Reads for alert mail: whose it is, what is due, and what a digest tells."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, Max, OuterRef, Q, Subquery

from accounts.domain import Role
from accounts.models import Membership, Organization
from alerts.models import AlertLog, Crossing, EmailSubscription, WebhookEndpoint
from common.errors import NotFound


def get_membership(*, organization: Organization, user_id: int | None = None, email: str | None = None) -> Membership:
    """Return the membership of a person, named by id or by address. Raises `NotFound`."""
    memberships = Membership.objects.for_organization(organization).select_related("user", "organization")
    named = {"user__email": email} if user_id is None else {"user_id": user_id}
    found: Membership | None = memberships.filter(**named).first()
    if found is None:
        raise NotFound("There is no such member.")
    return found


def find_subscription(*, membership: Membership) -> EmailSubscription | None:
    subscriptions = EmailSubscription.objects.for_organization(membership.organization_id)
    found: EmailSubscription | None = subscriptions.filter(membership=membership).first()
    return found


def get_subscription(*, membership: Membership) -> EmailSubscription:
    """Return the member's subscription. Raises `NotFound`."""
    found = find_subscription(membership=membership)
    if found is None:
        raise NotFound("You do not get alerts by e-mail.")
    found.membership = membership
    return found


def last_offset(*, organization_id: int) -> int:
    """Return the end of the organization's log; 0: nothing has crossed yet."""
    crossings = Crossing.objects.for_organization(organization_id)
    return int(crossings.aggregate(last=Max("offset"))["last"] or 0)


def list_subscriptions_behind(*, now: datetime, limit: int) -> list[EmailSubscription]:
    """Return subscriptions of active people that have something to tell and that nobody is at.

    The longest without mail come first, so that those whose mail fails do not stand before the others.
    """
    end = AlertLog.objects.all_tenants().filter(organization=OuterRef("organization")).values("last_offset")
    subscriptions = (
        EmailSubscription.objects.all_tenants()
        .annotate(log_end=Subquery(end))
        .filter(Q(leased_until__isnull=True) | Q(leased_until__lte=now), log_end__gt=F("sent_through_offset"))
        .filter(membership__user__is_active=True)
    )
    return list(
        subscriptions.select_related("membership__user", "organization").order_by(
            F("leased_until").asc(nulls_first=True), F("last_sent_at").asc(nulls_first=True), "pk"
        )[:limit]
    )


def list_crossings_between(*, organization_id: int, after: int, limit: int) -> list[Crossing]:
    crossings = Crossing.objects.for_organization(organization_id).filter(offset__gt=after)
    return list(crossings.select_related("customer", "metric", "threshold").order_by("offset")[:limit])


def list_managers(*, organization_id: int) -> list[str]:
    """Return the addresses of the organization's active owners and admins."""
    memberships = Membership.objects.for_organization(organization_id).filter(
        role__in=(Role.OWNER, Role.ADMIN), user__is_active=True
    )
    return list(memberships.order_by("pk").values_list("user__email", flat=True))


def list_endpoints_to_tell_of(*, since: datetime, limit: int) -> list[WebhookEndpoint]:
    """Return the endpoints that switched themselves off lately and whose people were not told yet."""
    endpoints = WebhookEndpoint.objects.all_tenants().filter(is_notice_due=True, disabled_at__gte=since)
    return list(endpoints.select_related("organization").order_by("disabled_at")[:limit])
