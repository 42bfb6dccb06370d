"""Alerts by e-mail: how often the visitor gets them, and who else does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from accounts.access import Caller
from accounts.models import Membership
from alerts.forms import SubscriptionForm
from alerts.models import EmailSubscription
from alerts.queries.emails import find_subscription

# Of a larger organization the first by address.
MAX_LISTED = 100


@dataclass(frozen=True, slots=True)
class SubscriberRow:
    name: str
    email: str
    frequency: str
    last_sent_at: datetime | None
    is_self: bool


@dataclass(frozen=True, slots=True)
class EmailPage:
    form: SubscriptionForm
    email: str
    subscribers: list[SubscriberRow]


def initial_frequency(membership: Membership) -> str:
    """Return the visitor's choice as the form has it."""
    subscription = find_subscription(membership=membership)
    return subscription.frequency if subscription else SubscriptionForm.NEVER


def get_email_page(caller: Caller, membership: Membership, form: SubscriptionForm) -> EmailPage:
    subscriptions = EmailSubscription.objects.for_organization(caller.organization)
    listed = subscriptions.select_related("membership__user").order_by("membership__user__email")[:MAX_LISTED]
    return EmailPage(
        form=form,
        email=membership.user.email,
        subscribers=[
            SubscriberRow(
                name=subscription.membership.user.name or subscription.membership.user.email,
                email=subscription.membership.user.email,
                frequency=subscription.get_frequency_display(),
                last_sent_at=subscription.last_sent_at,
                is_self=subscription.membership_id == membership.pk,
            )
            for subscription in listed
        ],
    )
