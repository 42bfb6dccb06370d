"""Making the links by which customers see their own spend and invoices. What is in a link, `billing.portal` says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.urls import reverse

from accounts.models import Customer
from accounts.services import record_audit
from billing.portal import is_erased, sign_link
from common.errors import InvalidInput, NotFound

MIN_SECONDS, DEFAULT_SECONDS, MAX_SECONDS = 60, 3_600, 86_400


@dataclass(frozen=True, slots=True)
class PortalLink:
    """Whoever has the address sees the customer's portal until then. It is stored nowhere."""

    url: str
    expires_at: datetime


def create_portal_link(
    *, customer: Customer, actor: str, now: datetime, expires_in_seconds: int = DEFAULT_SECONDS
) -> PortalLink:
    """Make a link to the customer's portal, and record who did. Raises `InvalidInput`; `NotFound` for an erased one."""
    if not MIN_SECONDS <= expires_in_seconds <= MAX_SECONDS:
        message = f"From {MIN_SECONDS} to {MAX_SECONDS} seconds."
        raise InvalidInput.of("expires_in_seconds", message, "out_of_range")
    if is_erased(customer):
        raise NotFound("The customer was erased; nobody is behind it.")
    expires_at = (now + timedelta(seconds=expires_in_seconds)).replace(microsecond=0)
    token = sign_link(customer, expires_at=expires_at)
    record_audit(
        organization=customer.organization,
        actor=actor,
        action="portal_link.created",
        target=customer.external_id,
        details={"expires_at": expires_at.isoformat()},
    )
    return PortalLink(settings.PUBLIC_URL + reverse("billing:portal_enter", args=[token]), expires_at)
