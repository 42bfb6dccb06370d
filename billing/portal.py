"""Who visits the customer portal: the signed link that a customer is sent, and the signed cookie it is exchanged for.

Nothing of either is stored: the signature says who, and until when. A link and a cookie are signed apart, so neither is
taken for the other. Both die with the erasure of the customer. Owns no page and no limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from django.core import signing

from accounts.models import Customer
from common.errors import ApplicationError, NotFound, PermissionRefused
from metering.models import Erasure

LINK_SALT = "billing.portal.link"
SESSION_SALT = "billing.portal.session"


class LinkExpired(ApplicationError):
    status = 410
    code = "link_expired"


class NotVisiting(PermissionRefused):
    """No link was followed in this browser, or its time is over."""

    code = "no_portal_session"


@dataclass(frozen=True, slots=True)
class PortalVisitor:
    """A customer, with its organization, for as long as the link said."""

    customer: Customer
    expires_at: datetime


def sign_link(customer: Customer, *, expires_at: datetime) -> str:
    return _sign(customer, expires_at, LINK_SALT)


def sign_session(visitor: PortalVisitor) -> str:
    """Return the cookie of who followed a link. It lasts as long as the link."""
    return _sign(visitor.customer, visitor.expires_at, SESSION_SALT)


def read_link(token: str, *, now: datetime) -> PortalVisitor:
    """Return whose link it is. Raises `NotFound` for one that is not ours or of nobody any more, and `LinkExpired`."""
    visitor = _read(token, LINK_SALT)
    if visitor is None:
        raise NotFound("There is no such link.")
    if visitor.expires_at <= now:
        raise LinkExpired("This link has expired.")
    return visitor


def read_session(cookie: str, *, now: datetime) -> PortalVisitor:
    """Return who visits. Raises `NotVisiting` for a cookie that is none of ours, has expired, or is of nobody now."""
    visitor = _read(cookie, SESSION_SALT)
    if visitor is None or visitor.expires_at <= now:
        raise NotVisiting("This visit is over.")
    return visitor


def is_erased(customer: Customer) -> bool:
    return Erasure.objects.for_organization(customer.organization_id).filter(customer=customer).exists()


def _sign(customer: Customer, expires_at: datetime, salt: str) -> str:
    return signing.dumps([customer.organization_id, customer.pk, int(expires_at.timestamp())], salt=salt)


def _read(text: str, salt: str) -> PortalVisitor | None:
    try:
        organization_id, customer_id, expires_at = signing.loads(text, salt=salt)
    except signing.BadSignature:
        return None
    rows = Customer.objects.for_organization(organization_id).select_related("organization")
    customer: Customer | None = rows.filter(pk=customer_id).first()
    if customer is None or is_erased(customer):
        return None
    return PortalVisitor(customer, datetime.fromtimestamp(expires_at, UTC))
